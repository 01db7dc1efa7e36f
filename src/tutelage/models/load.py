"""Load a language model from a folder, the hub, a GGUF file or an installed package: causal, or an encoder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_MAPPING,
)

from ..core.errors import ModelError, StoreError, TutelageError, missing_extra, unknown
from .build import bare_body
from .causal import Causal
from .encoder import Encoder, check_body
from .quiet import quiet
from .sources import Folder, Gguf, Hub, only_safe, parse
from .tokens import tokenizer_hash

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
HUB_FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "README.md")
FACTS = "tutelage.json"


def load(
    spec: str,
    *,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
    cache: Path | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Load weights and tokenizer, check the head, and record the facts of the model: ``Causal`` or ``Encoder``.

    Args:
        spec: See ``sources.parse``.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``float64``.
        device: Where the weights go.
        cache: Where dequantised GGUF files are kept; by default ``$TUTELAGE_CACHE`` or ``~/.cache/tutelage``, in
            ``models/``. The first load of a GGUF file takes its time, later ones a second.
        trust_remote_code: Run code that comes with a model; never unless asked.

    Raises:
        SettingError: The source or the dtype is not a known one.
        StoreError: Files are missing or corrupt.
        ModelError: Pickled weights, neither a causal model nor an encoder, or logits the head does not reproduce.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    source = parse(spec)
    folder, extra = _fetched(source, spec, cache)
    files = only_safe(folder, spec)
    with ThreadPoolExecutor(1) as pool, _readable(spec), quiet():
        # hashing leaves Python's lock, so it costs no time beside the loading
        digest = pool.submit(lambda: extra.get("weights_sha256") or sha256(files))
        model = _model(folder, spec, DTYPES[dtype], trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
        facts = {**_facts(spec, folder, model, tokenizer), **extra, "dtype": dtype, "weights_sha256": digest.result()}
    if is_encoder(model.config):
        encoder = Encoder(_name(source), model.to(device).eval(), tokenizer, facts)
        check_body(encoder)
        return encoder
    causal = Causal(_name(source), model.to(device).eval(), tokenizer, facts)
    causal.check_head()
    return causal


def load_tokenizer(spec: str, *, cache: Path | None = None) -> Any:
    """The tokenizer of a model; its weights are not read (a GGUF file is converted once).

    Raises:
        SettingError: The source is not a known one.
        StoreError: Files are missing or corrupt.
        ModelError: The tokenizer cannot be understood.
    """
    folder, _ = _fetched(parse(spec), spec, cache)
    with _readable(spec), quiet():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def sha256(files: Sequence[Path]) -> str:
    """SHA-256 over the contents of files, one after the other."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                total.update(block)
    return total.hexdigest()


def cache_root(cache: Path | None = None) -> Path:
    """The folder for things that can be made again."""
    root = cache or os.environ.get("TUTELAGE_CACHE") or Path.home() / ".cache" / "tutelage"
    return Path(root).expanduser()


def configuration(spec: str, *, cache: Path | None = None, trust_remote_code: bool = False) -> Any:
    """The text configuration of a model; its weights are not read (a GGUF file is converted once).

    Raises:
        SettingError: The source is not a known one.
        StoreError: Files are missing or corrupt.
        ModelError: The configuration cannot be understood.
    """
    folder, _ = _fetched(parse(spec), spec, cache)
    with _readable(spec), quiet():
        found = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    return found.get_text_config(decoder=True)


def reads_both_ways(spec: str) -> bool:
    """Whether a local folder holds an encoder; its weights are not read. What must be fetched first counts as none."""
    source = parse(spec)
    return isinstance(source, Folder) and (source.path / "config.json").is_file() and is_encoder(configuration(spec))


def _fetched(source: Folder | Hub | Gguf, spec: str, cache: Path | None) -> tuple[Path, dict[str, Any]]:
    """The folder to read, and what is known beyond it."""
    if isinstance(source, Gguf):
        folder = _converted(source, spec, cache)
        return folder, json.loads((folder / FACTS).read_text())
    if isinstance(source, Hub):
        folder = _downloaded(source, spec)
        return folder, {"revision": source.revision, "commit": folder.name}
    return source.path, {}


def _name(source: Folder | Hub | Gguf) -> str:
    return source.repository.rpartition("/")[2] if isinstance(source, Hub) else source.path.stem


def is_encoder(config: Any) -> bool:
    """Whether a configuration is of a bidirectional model (the BERT family) and not of a causal one."""
    named = getattr(config, "architectures", None) or []
    causal = getattr(config, "is_decoder", False) or getattr(config, "is_encoder_decoder", False)
    writes = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in named)
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not causal and not writes


def _model(folder: Path, spec: str, dtype: torch.dtype, trust: bool) -> Any:
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)
    factory: Any = AutoModelForCausalLM
    more: dict[str, bool] = {}
    if is_encoder(config):
        factory, more = AutoModel, bare_body(MODEL_MAPPING[type(config)])
    else:
        _check_architecture(config, spec, trust)
    model, report = factory.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=trust,
        output_loading_info=True,
        **more,
    )
    lost = sorted(report.get("missing_keys", ())) + sorted(str(k) for k in report.get("mismatched_keys", ()))
    if lost:
        raise ModelError(
            f"model {spec!r}",
            got=f"{len(lost)} weights missing or of another shape, first {lost[0]!r}",
            expected=f"all weights of {type(model).__name__}",
            remedy="They would be random numbers. Use the folder the weights were saved with, unchanged.",
        )
    return model


def _check_architecture(config: Any, spec: str, trust: bool) -> None:
    named = getattr(config, "architectures", None) or []
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    built: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)] if known else None
    own = {built.__name__} if known else set()
    remote = trust and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    fits = remote or (known and (not named or own & set(named)))
    if not fits or getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"model {spec!r}",
            got=f"architecture {', '.join(named) or config.model_type}",
            expected="a causal language model (decoder only), or an encoder of the BERT family",
            remedy="Choose a model whose config names a ...ForCausalLM or ...LMHeadModel architecture.",
        )


def _facts(spec: str, folder: Path, model: Any, tokenizer: Any) -> dict[str, Any]:
    return {
        "spec": spec,
        "architecture": type(model).__name__,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "licence": _licence(folder),
    }


def _licence(folder: Path) -> str | None:
    """The licence that a model card's front matter names."""
    card = folder / "README.md"
    lines = card.read_text(errors="replace").splitlines() if card.is_file() else []
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        key, _, value = line.partition(":")
        if key.strip() == "license":
            return value.strip().strip("\"'") or None
        if line.strip() == "---":
            break
    return None


@contextmanager
def _readable(spec: str) -> Iterator[None]:
    """Turn what the libraries raise over broken files into errors that say what to do."""
    try:
        yield
    except TutelageError:
        raise
    except (SafetensorError, OSError, json.JSONDecodeError, UnicodeDecodeError, EOFError) as error:
        raise StoreError(
            f"model {spec!r}",
            got=_first_line(error),
            expected="complete, readable files",
            remedy="Fetch the model again: a file is missing or corrupt.",
        ) from error
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
        text = str(error)
        remedy = "Check that the weights, the configuration and the installed library versions belong together."
        if "trust_remote_code" in text:
            remedy = "The model brings its own code. Read it; then load with trust_remote_code=True if you trust it."
        raise ModelError(
            f"model {spec!r}",
            got=_first_line(error),
            expected="a language model that the installed transformers can build",
            remedy=remedy,
        ) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300] if text else 'no message'}"


def _downloaded(source: Hub, spec: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with quiet():
            folder = snapshot_download(
                source.repository, revision=source.revision, allow_patterns=list(HUB_FILES), tqdm_class=None
            )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise StoreError(
            f"model {spec!r}",
            got=_first_line(error),
            expected="a repository that can be reached",
            remedy="Check name, revision, network and access; or download it elsewhere and give the local folder.",
        ) from error
    return Path(folder)


def _converted(source: Gguf, spec: str, cache: Path | None) -> Path:
    """A folder with the float32 weights of a GGUF file, made once."""
    path, digest = source.path, sha256(source.files)
    with source.files[0].open("rb") as file:
        begins = file.read(4)
    sums = path.parent / "SHA256SUMS"
    lines = [x.split() for x in sums.read_text().splitlines()] if sums.is_file() else []
    listed = {x[-1]: x[0] for x in lines if x}
    if begins != b"GGUF" or listed.get(path.name, digest) != digest:
        raise StoreError(
            f"model {spec!r}",
            got=f"{path.name}, which " + ("is damaged" if begins == b"GGUF" else "does not begin as a GGUF file does"),
            expected="a GGUF file" if begins != b"GGUF" else f"the SHA-256 that {sums.name} names",
            remedy="Fetch the file again.",
        )
    key = hashlib.sha256(f"{digest} {transformers.__version__}".encode()).hexdigest()
    home = cache_root(cache) / "models"
    target = home / key
    if (target / FACTS).is_file():
        return target
    home.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=home, prefix=f"{key[:16]}-"))
    try:
        _convert(_joined(source, work), spec, work, digest)
        try:
            work.rename(target)
        except OSError:
            if not (target / FACTS).is_file():  # otherwise another process was faster: its copy is as good
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _joined(source: Gguf, folder: Path) -> Path:
    """The file whole: itself, or its parts one behind another."""
    if not source.parts:
        return source.path
    whole = folder / source.path.name
    with whole.open("wb") as out:
        for part in source.parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, out, 1 << 22)
    return whole


def _convert(path: Path, spec: str, folder: Path, digest: str) -> None:
    try:
        import gguf
    except ImportError:
        raise missing_extra("GGUF models", "gguf", "gguf") from None
    with _readable(spec), quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        config = type(model.config).from_dict(
            {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
        )
        # the loaded model refuses to be saved as long as it calls itself quantised; a fresh one does not
        fresh = type(model)(config).to(torch.float32)
        fresh.load_state_dict(model.state_dict())
        fresh.generation_config = model.generation_config
        fresh.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        field = gguf.GGUFReader(path).get_field("general.license")
    facts = {
        "gguf_sha256": digest,
        "weights_sha256": sha256(sorted(folder.glob("*.safetensors"))),
        "licence": str(field.contents()) if field is not None else None,
    }
    if path.parent == folder:  # it was joined there
        path.unlink()
    (folder / FACTS).write_text(json.dumps(facts))
