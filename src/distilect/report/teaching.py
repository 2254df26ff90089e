"""Who taught which token: completions of train with the teachers' weights (`examples.parquet`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from distilect.report import words

_PROMPT = 600  # characters, from the end
_LEAST, _MOST = 12, 60  # percent of a teacher's colour: of equal weights, and of all weight
_EQUAL = 1e-6  # weights closer than this are alike


@dataclass(frozen=True)
class Taught:
    """One token of a completion.

    Attributes:
        before: text that was given between it and the token before it.
        teacher: place of the teacher with the largest weight in `Teaching.teachers`; None where no one has it, or none was asked.
        begins: whether the teacher is another one than that of the token before.
        strength: percent of its colour.
        hint: all weights.
    """

    before: str
    text: str
    teacher: int | None
    begins: bool
    strength: int
    hint: str


@dataclass(frozen=True)
class Teaching:
    """Some completions, token by token.

    Attributes:
        teachers: letter and name.
        examples: (prompt, tokens) of each row.
    """

    teachers: list[tuple[str, str]]
    examples: list[tuple[str, list[Taught]]]


def read_teaching(folder: Path) -> Teaching | None:
    """None where there is no such file, it is damaged, or no token prefers a teacher."""
    try:
        lines: list[dict[str, Any]] = pq.read_table(folder / "examples.parquet").to_pylist()
        names = [name.removeprefix("teacher/") for name in (lines[0] if lines else ()) if name.startswith("teacher/")]
        rows = [list(group) for _, group in groupby(lines, key=lambda line: line["row"])]
        examples = [(_prompt(row), _tokens(row, names)) for row in rows]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if all(token.teacher is None for _, tokens in examples for token in tokens):
        return None
    return Teaching([(_letter(place), name) for place, name in enumerate(names)], examples)


def _prompt(row: Sequence[dict[str, Any]]) -> str:
    text = str(row[0]["before"])
    return text if len(text) <= _PROMPT else f"… {text[-_PROMPT:]}"


def _tokens(row: Sequence[dict[str, Any]], names: Sequence[str]) -> list[Taught]:
    found: list[Taught] = []
    for number, line in enumerate(row):
        weights = [float(line[f"teacher/{name}"] or 0.0) for name in names]
        teacher, strength = _heaviest(weights) if line["asked"] else (None, 0)
        shown = ", ".join(f"{name} {words.weight(weight)}" for name, weight in zip(names, weights, strict=True))
        hint = shown if line["asked"] else "asked no teacher"
        begins = teacher is not None and (not found or found[-1].teacher != teacher)
        before = str(line["before"]) if number else ""
        found.append(Taught(before, str(line["text"]) or "⏎", teacher, begins, strength, hint))
    return found


def _heaviest(weights: Sequence[float]) -> tuple[int | None, int]:
    """The teacher with the largest weight, and how strongly it is shown; None where another one has as much."""
    best, second = sorted(weights, reverse=True)[:2]
    if best - second < _EQUAL:
        return None, 0
    least = 1 / len(weights)
    share = min(1.0, max(0.0, (best - least) / (1 - least)))
    return weights.index(best), round(_LEAST + share * (_MOST - _LEAST))


def _letter(place: int) -> str:
    """A, B, …, Z, A1, B1, …"""
    return chr(ord("A") + place % 26) + (str(place // 26) if place >= 26 else "")
