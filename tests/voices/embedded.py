"""vLLM in one process with a student that trains, run by the environment of vLLM: prints what it found as JSON.

python embedded.py FOLDER     the folder holds a model
"""

from __future__ import annotations

import json
import sys

import torch

from tutelage.core.errors import ModelError
from tutelage.models.draw import Sampling
from tutelage.models.embedded import Embedded
from tutelage.models.engine import own_log_probs
from tutelage.models.load import load
from tutelage.models.sample import sample


def move(causal, size=0.02, seed=3):
    """A step in a random direction, every weight moves."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in causal.model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def gaps(causal, prompts, said):
    """The largest difference between what was said of the drawn tokens and what the model says."""
    out = 0.0
    for prompt, one in zip(prompts, said, strict=True):
        own = own_log_probs(causal, [*prompt, *one.ids])[len(prompt) - 1 :]
        out = max([out, *(abs(a - b) for a, b in zip(own, one.log_probs, strict=True))])
    return out


def found(folder):
    causal = load(folder)
    prompts = [causal.tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("one two", "in the end", "one two")]
    causal.engine = Embedded(causal, max_length=128, cache_bytes=1 << 27, tolerance_nats=1e-3)
    out = {"gaps": [], "probes": []}
    warm, seeds = Sampling(max_tokens=8), [1, 2, 3]
    for number in range(3):
        said = sample(causal, prompts, warm, seeds)
        out["gaps"].append(gaps(causal, prompts, said))
        out["probes"].append(causal.engine.probe.apart)
        move(causal, seed=number)
    out["same"] = sample(causal, prompts, warm, seeds) == sample(causal, prompts, warm, seeds)
    out["drawn"] = [len(set(s.ids)) for s in sample(causal, [prompts[0]] * 4, Sampling(max_tokens=12), [1, 2, 3, 4])]
    greedy, engine = Sampling(max_tokens=8, temperature=0.0), causal.engine
    theirs = sample(causal, prompts, greedy, seeds)
    causal.engine = None
    mine = sample(causal, prompts, greedy, seeds)
    out["greedy"] = [(a.ids == b.ids, a.stop == b.stop, set(b.drawn)) for a, b in zip(mine, theirs, strict=True)]
    out["greedy"] = [(a, b, sorted(c)) for a, b, c in out["greedy"]]
    causal.engine = engine
    move(causal)
    engine._give = lambda causal, now: None
    try:
        sample(causal, prompts, warm, seeds)
    except ModelError as error:
        out["deaf"] = str(error)
    return out


if __name__ == "__main__":
    print(json.dumps(found(sys.argv[1])))
