"""The plan of a 70B teacher and an 8B student on 8 to 64 GPUs, worked out by `running.scale` when the site is built."""

from __future__ import annotations

import mkdocs_gen_files
from mkdocs_gen_files.editor import FilesEditor
from transformers import LlamaConfig

from tutelage.running.scale import Estimate, Machines, Role, estimate
from tutelage.training.settings import TrainSettings

# the published shapes of Llama 3.1
LARGE = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
SMALL = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
SHARED = {"num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False}
NUMBERS = (8, 16, 32, 64)
GPU = {"memory_bytes": 80e9, "flops": 989e12, "utilisation": 0.4}
INSIDE, BETWEEN = 450e9, 50e9
SETTINGS = {"batch_size": 128, "max_length": 4096, "precision": "bfloat16", "gradient_checkpointing": True}
TOKENS = 1e9


BEFORE = (
    "# 70B to 8B on 8 to 64 GPUs",
    """Worked out on paper by the code behind `tutelage plan FILE --gpus N`; nothing here was measured. Shapes are
those of Llama 3.1: a teacher of 70B in bfloat16 and a student of 8B that trains (float32 weights, gradients and
moments, bodies in bfloat16), both split over all GPUs, forward KL over the whole vocabulary.""",
    """A step is {rows} rows of {length} tokens; activations are computed again. A GPU has {memory} GB, of which a
tenth is spared, and {peak} TFLOP/s, of which {reached} are reached, heads included; {inside} GB/s inside a
machine of eight, {between} GB/s a GPU between machines. Computing and exchanging overlap, so a step takes the
longer of the two. The micro-batch is the smallest of the quickest that fit.""",
)
AFTER = (
    "With the student whole in each process it would take {whole} GB of each of 8 GPUs, which {fits}.",
    "## What is not in it",
    """Writing rollouts (use an engine or servers for that), reading data, checkpoints, and the time that the machines
wait for each other. Attention is counted exactly, its scores are not stored. Time a few steps on your machines
before you believe the rest.""",
)


def planned(num_gpus: int, micro: int, *, student_split: bool = True) -> Estimate:
    """A step on so many GPUs; eight share a machine and its faster links."""
    roles = {
        "teacher": Role.of(LlamaConfig(**LARGE, **SHARED), "bfloat16"),
        "student": Role.of(LlamaConfig(**SMALL, **SHARED), moves=True, split=student_split),
    }
    machines = Machines(num_gpus, bandwidth=INSIDE if num_gpus <= 8 else BETWEEN, **GPU)
    return estimate(roles, TrainSettings(**SETTINGS, micro_batch_size=micro), machines)


def best(num_gpus: int) -> tuple[int, Estimate]:
    """The quickest micro-batch that fits, the smallest of them."""
    some = {m: planned(num_gpus, m) for m in (1, 2, 4, 8, 16) if m <= SETTINGS["batch_size"] // num_gpus}
    fit = {micro: made for micro, made in some.items() if made.fits}
    micro = min(fit, key=lambda m: (round(fit[m].step_seconds, 3), m))
    return micro, fit[micro]


def row(num_gpus: int, micro: int, made: Estimate) -> list[str]:
    """What a step takes, as cells."""
    rate = made.positions / made.step_seconds
    seconds = (made.computing_seconds, made.exchanging_seconds, made.step_seconds)
    times = [f"{value:.1f} s" for value in seconds]
    memory = f"{made.memory_bytes / 1e9:.1f} GB"
    return [str(num_gpus), str(micro), memory, *times, f"{rate:,.0f}", f"{TOKENS / rate / 3600:.1f} h"]


def table(head: str, rows: list[list[str]]) -> str:
    """A Markdown table, numbers to the right."""
    names = head.split(", ")
    lines = [names, ["---", *["---:"] * (len(names) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Write the page and append it to the navigation."""
    found = {num: best(num) for num in NUMBERS}
    names = list(found[NUMBERS[0]][1].memory)
    parts = [[name, *(f"{found[num][1].memory[name] / 1e9:.1f}" for num in NUMBERS)] for name in names]
    whole = planned(8, 1, student_split=False)
    said = {
        "rows": SETTINGS["batch_size"],
        "length": SETTINGS["max_length"],
        "memory": f"{GPU['memory_bytes'] / 1e9:.0f}",
        "peak": f"{GPU['flops'] / 1e12:.0f}",
        "reached": f"{GPU['utilisation']:.0%}",
        "inside": f"{INSIDE / 1e9:.0f}",
        "between": f"{BETWEEN / 1e9:.0f}",
        "whole": f"{whole.memory_bytes / 1e9:.0f}",
        "fits": "fits" if whole.fits else "does not fit",
    }
    steps = [row(num, *made) for num, made in found.items()]
    blocks = [
        *(text.format(**said) for text in BEFORE),
        table("GPUs, rows a micro-batch, memory of each, computing, exchanging, a step, tokens/s, 10^9 tokens", steps),
        "## Memory of each GPU, in GB",
        table(", ".join(["component", *(f"{num} GPUs" for num in NUMBERS)]), parts),
        *(text.format(**said) for text in AFTER),
    ]
    with mkdocs_gen_files.open("reference/scale.md", "w") as page:
        page.write("\n\n".join(blocks) + "\n")
    nav = FilesEditor.current().config["nav"]
    reference = next(item["Reference"] for item in nav if "Reference" in item)
    reference.insert(2, {"A plan for 70B to 8B": "reference/scale.md"})


main()
