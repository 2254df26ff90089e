"""Small tables for language models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from distilect.data import Rows, Table, TokenReader, pad_id
from distilect.data.columns import Columns
from distilect.tasks import Task
from tests.tiny import SENTENCES, llama_tokenizer

TASK = Task("toy-texts", "causal-lm", (), ("accuracy", "perplexity"), 1)
LIMIT = 32


def reader(limit: int = LIMIT, tokenizer: Any = None) -> TokenReader:
    tokenizer = tokenizer or llama_tokenizer()
    return TokenReader(tokenizer, limit, pad_id(tokenizer))


def pairs(rows: int, seed: int = 0) -> list[dict[str, str]]:
    """Prompts and completions of different lengths."""
    rng = np.random.default_rng(seed)
    words = " ".join(SENTENCES).split()
    drawn = [rng.choice(words, size=int(rng.integers(3, 9))).tolist() for _ in range(rows)]
    return [{"prompt": " ".join(row[:2]), "completion": " " + " ".join(row[2:])} for row in drawn]


def read(rows: list[dict[str, Any]], columns: tuple[str, ...], limit: int = LIMIT) -> Any:
    """Rows as a table for language models, and what was lost."""
    table = pa.Table.from_pylist(rows)
    return reader(limit).read(Rows(table, "toy.jsonl", np.arange(1, len(rows) + 1)), Columns(columns, None), "train")


def toy_tokens(rows: int, seed: int = 0) -> Table:
    """A table of prompts and completions."""
    table: Table = read(pairs(rows, seed), ("prompt", "completion")).table
    return table
