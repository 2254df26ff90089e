"""What a language model's answer says of the labels: from log-probabilities of tokens, or from texts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect.tasks.label_names import same_label_key

Vector = NDArray[np.float32]
FLOOR = 1e-7  # least probability of a label, as of a table of outputs
LEAST = 0.5  # of all labels together: a model that wants to say something else has not chosen among them

_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
_MARKS = " \t\r\n\"'`*.,;:!"  # what models put around a label


def plain(text: str) -> str:
    """A label or an answer without case, quotes, emphasis and a final stop: by this form they are compared."""
    return same_label_key(text).strip(_MARKS).casefold()


def of_whole_labels(tokens: Sequence[Sequence[str]], logprobs: Sequence[Sequence[float | None]]) -> Vector:
    """Log-probabilities float32 [C] of labels, each scored whole: all of its tokens after the prompt, and the line's end.

    Args:
        tokens, logprobs: per label those of prompt, label and line's end. What the labels have in common in front, the prompt, says
            nothing of them and is left out.

    Raises:
        ValueError: they have no prompt in common, or one ends where another goes on.
    """
    shared = 0
    while all(len(one) > shared and one[shared] == tokens[0][shared] for one in tokens):
        shared += 1
    if not shared or any(len(one) == shared for one in tokens):
        raise ValueError("its tokens are not those of prompt and label")
    scores = np.array([sum(value or 0.0 for value in one[shared:]) for one in logprobs])
    return _normalised(np.exp(scores - scores.max()))


@dataclass(frozen=True)
class Position:
    """A place in an answer.

    Attributes:
        token: what was generated there.
        alternatives: token → log-probability, the likeliest tokens there; with `token`.
    """

    token: bytes
    alternatives: dict[bytes, float]


def of_alternatives(labels: Sequence[str], positions: Sequence[Position]) -> Vector | None:
    """Log-probabilities float32 [C] of labels, from the likeliest tokens at each place of one answer; None where the labels together have less than half.

    A walk along the answer. At each place, every token's probability (times that of the answer so far) goes in equal parts to the labels that it
    continues or ends; the generated token's is handed on while several labels continue with it. A label that is told apart from the
    others has the probability of its first tokens: what remains of it has no choice.
    """
    masses, live = np.zeros(len(labels)), list(range(len(labels)))
    names, before, reach = [plain(label) for label in labels], b"", 1.0
    for position in positions:
        handed = position.alternatives.get(position.token, 0.0)
        for token, logprob in position.alternatives.items():
            fits = _continued(names, live, before, token)
            if token != position.token and len(fits) < len(live):  # one that all labels begin with tells nothing
                masses[fits] += reach * math.exp(logprob) / max(1, len(fits))
        live = _continued(names, live, before, position.token)
        before, reach = before + position.token, reach * math.exp(handed)
        if len(live) <= 1:
            break
    exact = [c for c in live if names[c] == plain(before.decode(errors="ignore"))]
    masses[exact or live] += reach / max(1, len(exact or live))
    return _normalised(masses) if masses.sum() > LEAST else None


def _continued(names: Sequence[str], live: Sequence[int], before: bytes, token: bytes) -> list[int]:
    """Those of the labels `live` that a token continues after `before`; where it continues none, the one that `before` spells."""
    text = plain((before + token).decode(errors="ignore"))
    fits = [c for c in live if names[c].startswith(text)]
    if fits and (text != plain(before.decode(errors="ignore")) or not text):
        return fits
    ended = plain(before.decode(errors="ignore"))
    done = [c for c in live if names[c] == ended]
    return done if ended else fits


def of_samples(labels: Sequence[str], answers: Sequence[str]) -> tuple[Vector | None, int]:
    """(log-probabilities float32 [C], how many answers are no label), from independent answers; None where none is a label.

    Counts are smoothed by one further answer that is spread evenly over the labels: (n_c + 1/C) / (n + 1).
    """
    places = {plain(label): c for c, label in enumerate(labels)}
    found = [places.get(plain(_first_line(answer))) for answer in answers]
    counts = np.bincount([c for c in found if c is not None], minlength=len(labels))
    off = found.count(None)
    return (_normalised(counts + 1 / len(labels)) if off < len(found) else None), off


def of_sets(labels: Sequence[str], answers: Sequence[str]) -> tuple[Vector | None, int]:
    """The same of a multi-label task: log-odds float32 [C] of each label, where an answer has one label per line, or `none`.

    An answer with a line that is no label is none. Smoothed by one further answer that has half of each label: (n_c + 1/2) / (n + 1).
    """
    places = {plain(label): c for c, label in enumerate(labels)}
    counts, off = np.zeros(len(labels)), 0
    for answer in answers:
        named = _named(_said(answer), places)
        if named is None:
            off += 1
        else:
            counts[sorted(named)] += 1
    valid = len(answers) - off
    share = (counts + 0.5) / (valid + 1)
    return (np.log(share / (1 - share)).astype(np.float32) if valid else None), off


def _named(answer: str, places: Mapping[str, int]) -> set[int] | None:
    """The labels of an answer with one per line, or with commas between them; None where a part of it is no label."""
    parts = [plain(line) for line in answer.splitlines() if line.strip()]
    if parts == ["none"] and "none" not in places:
        return set()
    if any(part not in places for part in parts):
        parts = [plain(part.strip().lstrip("-•")) for line in answer.splitlines() for part in line.split(",")]
        parts = [part for part in parts if part]
    known = {places[part] for part in parts if part in places}
    return known if parts and all(part in places for part in parts) else None


def of_numbers(answers: Sequence[str]) -> tuple[Vector | None, int]:
    """([1], how many answers hold no number): the mean of the first number in each answer."""
    found = [match for answer in answers if (match := _NUMBER.search(_said(answer)))]
    values = [float(match[0]) for match in found]
    mean = np.array([np.mean(values)], np.float32) if values else None
    return (mean if mean is not None and np.isfinite(mean).all() else None), len(answers) - len(found)


def _said(answer: str) -> str:
    """An answer without what a reasoning model thought before it."""
    return _THOUGHTS.sub("", answer).strip()


def _first_line(answer: str) -> str:
    return _said(answer).partition("\n")[0]


def _normalised(masses: NDArray[np.floating[Any]]) -> Vector:
    shares = np.maximum(masses / masses.sum(), FLOOR)
    return np.asarray(np.log(shares / shares.sum()), dtype=np.float32)
