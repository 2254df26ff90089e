"""How near the loss on sparse teacher outputs is to the loss on whole distributions, at a real vocabulary.

    python -m benchmarks.sparse_signals FOLDER_OF_SMOLLM2 build/lm/math-dev.jsonl

The teacher is SmolLM2-135M-Instruct as it is, the student the same without its 15th layer, untrained. Compared are the mean KL per token and its
gradient by what the student's output layer reads: of whole distributions, of what is stored (packed and unpacked), and of the likeliest tokens
alone with their probabilities scaled to 1, as they are usually kept. Draws are repeated with many seeds, to see what they give on the average; their
KL contains the draws' own entropy, a constant.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.common import write_result
from distilect.config import TokenSignalConfig
from distilect.knowledge.response import response_kl
from distilect.models import cut_layers
from distilect.models.token_outputs import token_outputs
from distilect.signals.sparse import top
from distilect.signals.token_signals import TokenFormat, on_one_axis

LENGTH, SEEDS = 96, 16
KEPT = [layer for layer in range(30) if layer != 14]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("table", type=Path)
    parser.add_argument("--rows", type=int, default=8)
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.table.read_text(encoding="utf-8").splitlines()[: args.rows]]
    states, gold, heads = read(args.model, rows)
    dense = whole(states, heads)
    print(f"{len(gold)} tokens, KL {dense[0]:.4f}")
    found = [report("top, scaled to 1", scaled(states, heads), dense, 0)]
    for keep, count in (("top", 10), ("top", 30), ("samples", 16)):
        config = TokenSignalConfig(keep=keep, count=count)
        seeds = range(SEEDS if keep == "samples" else 1)
        runs = [stored(states, gold, heads, TokenFormat(config, len(heads[0].weight), seed)) for seed in seeds]
        width = TokenFormat(config, len(heads[0].weight)).width
        found.append(report(f"{keep} {count}", runs[0], dense, width))
        if len(runs) > 1:
            mean = torch.stack([gradient for _, gradient in runs]).mean(0)
            kl = sum(value for value, _ in runs) / len(runs)
            found.append(report(f"{keep} {count}, mean of {SEEDS} seeds", (kl, mean), dense, width))
    write_result("sparse_signals", {"tokens": len(gold), "kl_dense": round(dense[0], 4), "kept": found})


def read(model: str, rows: list[dict[str, str]]) -> tuple[tuple[Tensor, Tensor], Tensor, tuple[Any, Any]]:
    """What the output layers of teacher and student read at each token of the completions, [U, H] each; the tokens; the layers."""
    tokenizer, teacher = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model).eval()
    student = AutoModelForCausalLM.from_pretrained(model)
    student = cut_layers(student, KEPT).eval()
    states: tuple[list[Tensor], list[Tensor]] = ([], [])
    gold = []
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = torch.tensor([(prompt + tokenizer(row["completion"])["input_ids"])[: len(prompt) + LENGTH]])
        gold.append(ids[0, len(prompt) :])
        for kept, one in zip(states, (teacher, student), strict=True):
            with torch.no_grad():
                kept.append(one.model(ids).last_hidden_state[0, len(prompt) - 1 : -1].float())
    return (torch.cat(states[0]), torch.cat(states[1])), torch.cat(gold), (teacher.lm_head, student.lm_head)


def whole(states: tuple[Tensor, Tensor], heads: tuple[Any, Any]) -> tuple[float, Tensor]:
    """The mean KL per token, and its gradient [U, H] by what the student's layer reads."""
    with torch.no_grad():
        teacher = heads[0](states[0])
    hidden = states[1].clone().requires_grad_()
    kl = response_kl(heads[1](hidden), teacher.unsqueeze(1), 1.0).mean()
    return kl.item(), torch.autograd.grad(kl, hidden)[0]


def scaled(states: tuple[Tensor, Tensor], heads: tuple[Any, Any], k: int = 10) -> tuple[float, Tensor]:
    """The same, where the k likeliest tokens have all of the teacher's mass."""
    with torch.no_grad():
        kept = top(heads[0](states[0]), k)
        log_p = kept.log_probs.log_softmax(1)
    hidden = states[1].clone().requires_grad_()
    log_q = heads[1](hidden).log_softmax(1).gather(1, kept.ids)
    kl = (log_p.exp() * (log_p - log_q)).sum(1).mean()
    return kl.item(), torch.autograd.grad(kl, hidden)[0]


def stored(
    states: tuple[Tensor, Tensor], gold: Tensor, heads: tuple[Any, Any], kept: TokenFormat
) -> tuple[float, Tensor]:
    """The same of what is stored."""
    with torch.no_grad():
        packed = kept.pack(states[0], heads[0], gold, torch.arange(len(gold)))
    ids, teachers = on_one_axis([kept.unpack(packed, gold)])
    hidden = states[1].clone().requires_grad_()
    log_probs, _, _ = token_outputs(hidden, heads[1], ids)
    kl = response_kl(log_probs, teachers, 1.0).mean()
    return kl.item(), torch.autograd.grad(kl, hidden)[0]


def report(name: str, found: tuple[float, Tensor], dense: tuple[float, Tensor], width: int) -> dict[str, Any]:
    """Against whole distributions: the gradient's direction over all tokens, and its error in units of its size."""
    difference = (found[1] - dense[1]).norm() / dense[1].norm()
    cosine = torch.nn.functional.cosine_similarity(found[1].flatten(), dense[1].flatten(), dim=0)
    line = {
        "kept": name,
        "bytes": width or None,
        "kl": round(found[0], 4),
        "gradient_cosine": round(cosine.item(), 4),
        "gradient_error": round(difference.item(), 4),
    }
    print(line)
    return line


if __name__ == "__main__":
    main()
