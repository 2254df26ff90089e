"""What onnxruntime needs beside the file to answer texts: the tokenizer as `tokenizers` alone reads it, and the labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from distilect.data import Encoded, Table
from distilect.data.word_tokens import OVERLAP
from distilect.files import atomic_write
from distilect.models import CheckpointTeacher
from distilect.models.words import split_words
from distilect.tasks import Task

BATCH = 32
CHECKED = 512  # rows whose tokens are compared
SCRIPT = Path(__file__).with_name("entities.py")


def write_plain(student: CheckpointTeacher, task: Task, table: Table, encoded: Encoded, folder: Path) -> str | None:
    """Write `tokenizer.json`, which cuts and pads as the student does, and `config.json` with the labels in the order of the outputs.

    Of a model that tags words also `entities.py`, the script that reads texts with them.

    Args:
        encoded: the table's tokens; those of `tokenizer.json` must equal them.

    Returns:
        why there is no `tokenizer.json`; None if there is one.
    """
    config = json.loads((Path(student.path) / "config.json").read_text(encoding="utf-8"))
    if task.labels:
        names = {place: label for label, place in zip(task.labels, student.order, strict=True)}
        config |= {"id2label": dict(sorted(names.items())), "label2id": {label: i for i, label in names.items()}}
    atomic_write(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    tokenizer = _plain_tokenizer(student, encoded)
    if tokenizer is None or not _same_tokens(tokenizer, table, encoded):
        for name in ("tokenizer.json", SCRIPT.name):
            (folder / name).unlink(missing_ok=True)
        return "onnx/tokenizer.json is not written, as `tokenizers` alone makes other tokens than the student's tokenizer: use transformers"
    atomic_write(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    if task.scheme is not None:
        atomic_write(folder / SCRIPT.name, SCRIPT.read_text(encoding="utf-8"))
    return None


def _plain_tokenizer(student: CheckpointTeacher, encoded: Encoded) -> Tokenizer | None:
    """The tokenizer under transformers' own; None where that is written in Python."""
    own = student.tokenizer
    backend = getattr(own, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        return None
    plain = Tokenizer.from_str(backend.to_str())
    pad = encoded.padding["input_ids"]
    room = student.max_length - own.num_special_tokens_to_add(pair=False)
    stride = 0 if encoded.words is None else room // OVERLAP  # words are read in windows
    plain.enable_truncation(student.max_length, stride=stride, direction=getattr(own, "truncation_side", "right"))
    plain.enable_padding(
        direction="left" if encoded.left else "right",
        pad_id=pad,
        pad_type_id=encoded.padding["token_type_ids"],
        pad_token=plain.id_to_token(pad) or "[PAD]",
    )
    return plain


def _same_tokens(tokenizer: Tokenizer, table: Table, encoded: Encoded) -> bool:
    """Whether it makes the batches that the student was trained on."""
    for start in range(0, min(CHECKED, len(table)), BATCH):
        rows = np.arange(start, min(start + BATCH, len(table)))
        wanted, words = split_words(encoded.collate(rows))
        found = model_inputs(tokenizer, table.text(rows), windows=words is not None)
        if any(not np.array_equal(found[name], values.numpy()) for name, values in wanted.items()):
            return False
    return True


def model_inputs(tokenizer: Tokenizer, texts: list[tuple[str, ...]], windows: bool = False) -> dict[str, Any]:
    """int64 [B, T] of each input, as docs/tutorial/ship.md makes them.

    Args:
        texts: rows of one text or two.
        windows: take all windows of a long text, one after the other.
    """
    rows = tokenizer.encode_batch([row if len(row) == 2 else row[0] for row in texts])
    if windows:
        rows = [window for row in rows for window in (row, *row.overflowing)]
    return {
        "input_ids": np.array([row.ids for row in rows], dtype=np.int64),
        "attention_mask": np.array([row.attention_mask for row in rows], dtype=np.int64),
        "token_type_ids": np.array([row.type_ids for row in rows], dtype=np.int64),
    }
