"""Completions token by token: what student and teachers would have said at each place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distilect.report import words
from distilect.report.shell import one_line

ROWS = 12  # that are shown
_TOKENS = 160  # of a row
_PROMPT = 600  # characters, from the end


@dataclass(frozen=True)
class Token:
    """One token of a completion.

    Attributes:
        text: as it stands there.
        mark: `good` where it is the student's likeliest, `bad` where not.
        hint: probabilities, and what each model would have said.
    """

    text: str
    mark: str
    hint: str


@dataclass(frozen=True)
class Example:
    """A row: what was given, and its completion. `before` of a token is text that was given between two of them."""

    prompt: str
    tokens: list[tuple[str, Token]]


@dataclass(frozen=True)
class Completions:
    """What the page shows of a language model's reported rows.

    Attributes:
        summary: a sentence.
        examples: the first rows.
    """

    summary: str
    examples: list[Example]


def read_completions(folder: Path) -> Completions | None:
    """From `predictions.parquet`; None where the run has no language model, or the file is damaged."""
    try:
        table = pq.read_table(folder / "predictions.parquet")
        if (table.schema.metadata or {}).get(b"kind") != b"causal-lm" or not table.num_rows:
            return None
        return Completions(_summary(table), _examples(table))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _models(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if name == "student" or name.startswith("teacher/")]


def _outputs(table: pa.Table, name: str) -> np.ndarray:
    """float64 [U, 4]."""
    flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float64).reshape(table.num_rows, -1)


def _summary(table: pa.Table) -> str:
    """How often models have the same likeliest token."""
    student = _outputs(table, "student")[:, 3]
    same = {name: float(np.mean(_outputs(table, name)[:, 3] == student)) for name in _models(table)[1:]}
    shown = "; ".join(f"teacher {name.removeprefix('teacher/')}: {words.share(share)}" for name, share in same.items())
    rows = len(np.unique(table["row"].to_numpy()))
    count = f"{words.whole(table.num_rows)} tokens of {words.whole(rows)} rows"
    return f"{count}. The student's likeliest token is also that of {shown}." if shown else f"{count}."


def _examples(table: pa.Table) -> list[Example]:
    row = table["row"].to_numpy()
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    found = []
    for start, end in zip(starts[:ROWS], [*starts[1:], len(row)], strict=False):
        lines = table.slice(start, min(end - start, _TOKENS)).to_pylist()
        prompt = str(lines[0].get("before") or "")
        shown = prompt if len(prompt) <= _PROMPT else f"… {prompt[-_PROMPT:]}"
        before = ["", *(str(line.get("before") or "") for line in lines[1:])]
        found.append(Example(shown, list(zip(before, map(_token, lines), strict=True))))
    return found


def _token(line: dict[str, Any]) -> Token:
    models = [name for name in line if name == "student" or name.startswith("teacher/")]
    hints = []
    for name in models:
        gold, other, _, _ = line[name]
        says = one_line(str(line.get(f"says/{name}") or ""), 30)
        hints.append(f"{name.replace('/', ' ')}: {np.exp(gold):.2f}, likeliest {says!r} {np.exp(max(gold, other)):.2f}")
    gold, other, _, _ = line["student"]
    return Token(str(line["text"]) or "⏎", "good" if gold >= other else "bad", "\n".join(hints))
