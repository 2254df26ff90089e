"""What runs over 10^6, 10^8 and 10^9 rows cost with 4 teachers: the table of docs/scale.md, from the cost model alone.

    python -m benchmarks.scale_table

Shapes of BERT-base (teachers) and of its first three layers (student), as meta tensors: nothing is downloaded or run.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, BertConfig

from benchmarks.common import table, write_result
from distilect.config import parse_config
from distilect.evaluation import flops_per_token
from distilect.pipeline.estimate import FORWARD, GPUS, TRAINING, by_operations, total, validation

ROWS = (10**6, 10**8, 10**9)
TOKENS, CLASSES, TEACHERS, TEXT = 64, 3, 4, 300  # per row: tokens of the student, logits; text in bytes
CONFIG: dict[str, Any] = {
    "data": {"train": "rows.parquet", "validation_size": 5000},
    "student": "teacher-1[layers=3]",
    "train": {"epochs": 1, "batch_size": 256},
}


def shape(layers: int) -> torch.nn.Module:
    """BERT-base with so many layers, without memory."""
    with torch.device("meta"):
        model: torch.nn.Module = AutoModelForSequenceClassification.from_config(BertConfig(num_hidden_layers=layers))
    return model


def main() -> None:
    config = parse_config(CONFIG)
    teacher, student = flops_per_token(shape(12), TOKENS), flops_per_token(shape(3), TOKENS)
    signal_bytes = TEACHERS * (16 + 4 * CLASSES)  # identity and logits
    # text, identity and label, where it begins, two kinds of token ids, lengths
    table_bytes = TEXT + 24 + 8 + 8 * TOKENS + 12
    lines = []
    for gpu in ("a100", "h100"):
        teachers = {f"teacher-{k}": teacher for k in range(TEACHERS)}
        rates = by_operations(teachers, student, TOKENS, config.train.batch_size, GPUS[gpu], signal_bytes, table_bytes)
        lines += [{"gpu": gpu, **total(config, rows, rates, validation(config, rows, 0)).to_dict()} for rows in ROWS]
    assumed = {"tokens": TOKENS, "text_bytes": TEXT, "classes": CLASSES, "forward": FORWARD, "training": TRAINING}
    write_result("scale", {"assumed": assumed, "rows": lines})
    cells = [
        [
            f"{line['rows']:,}",
            line["gpu"],
            *(f"{line[key] / 3600:,.2f}" for key in ("scoring_seconds", "training_seconds")),
            *(f"{line[key] / 1e9:,.2f} GB" for key in ("signal_bytes", "table_bytes")),
        ]
        for line in lines
    ]
    print(table(["rows", "GPU", "teachers, GPU hours", "student, GPU hours", "signals", "table, if mapped"], cells))


if __name__ == "__main__":
    main()
