"""Writes textbrewer.json: TextBrewer's loss between outputs of words, with its mask, and its gradient. Needs textbrewer==0.2.1.post1.

python -m tests.knowledge.make_textbrewer
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

FILE = Path(__file__).with_name("textbrewer.json")
ROWS, LENGTH, TAGS, TEMPERATURE = 3, 5, 4, 2.0
WORDS = [5, 2, 3]  # real words of each row; the others are padding


def main() -> None:
    from textbrewer.distiller_utils import select_logits_with_mask
    from textbrewer.losses import kd_ce_loss

    torch.manual_seed(0)
    student, teacher = torch.randn(2, ROWS, LENGTH, TAGS)
    student.requires_grad_(True)
    mask = torch.arange(LENGTH) < torch.tensor(WORDS).unsqueeze(1)
    (chosen,) = select_logits_with_mask([student], [mask])
    (wanted,) = select_logits_with_mask([teacher], [mask])
    loss = kd_ce_loss(chosen, wanted, TEMPERATURE)
    loss.backward()
    assert student.grad is not None
    content = {
        "temperature": TEMPERATURE,
        "words": WORDS,
        "student": student.tolist(),
        "teacher": teacher.tolist(),
        "loss": float(loss),
        "gradient": student.grad.tolist(),
    }
    FILE.write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
