"""A table's texts as the tokens of one tokenizer, which a language model and its teachers share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect.data.units import Indexes, Units


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of every row, and which of them are to be learned: the row's units, each from the tokens before it.

    Args:
        ids: int32, all rows one after the other.
        rows: the tokens of each row.
        places: int32 [U], where each unit stands among the tokens of its row; never 0, as nothing comes before that one.
        spans: int32 [U, 2], the characters of the row's text that a unit stands for; none for the token that ends a text.
        pad: token that pads a row; it is masked.
        limit: rows were cut at so many tokens.
        vocabulary: hash of the tokenizer's vocabulary.
        size: tokens that there are.
    """

    ids: NDArray[np.int32]
    rows: Units
    places: NDArray[np.int32]
    spans: NDArray[np.int32]
    pad: int
    limit: int
    vocabulary: str
    size: int

    def take(self, rows: Indexes, units: Indexes) -> Tokens:
        """Those of some rows, in their order; `units` are theirs."""
        return Tokens(
            self.ids[self.rows.of(rows)],
            self.rows.take(rows),
            self.places[units],
            self.spans[units],
            self.pad,
            self.limit,
            self.vocabulary,
            self.size,
        )

    @staticmethod
    def concat(parts: Sequence[Tokens]) -> Tokens:
        """The tokens of tables that were read by the same tokenizer, one after the other."""
        first = parts[0]
        return Tokens(
            np.concatenate([part.ids for part in parts]),
            Units.of_sizes(np.concatenate([part.rows.sizes for part in parts])),
            np.concatenate([part.places for part in parts]),
            np.concatenate([part.spans for part in parts]),
            first.pad,
            first.limit,
            first.vocabulary,
            first.size,
        )

    def pieces(self, texts: Sequence[str], units: Units, rows: Indexes) -> list[list[str]]:
        """What each unit of some rows stands for in the row's text.

        Args:
            texts: of these rows; units: of all rows.
        """
        found = []
        for text, row in zip(texts, rows.tolist(), strict=True):
            spans = self.spans[units.offsets[row] : units.offsets[row + 1]].tolist()
            found.append([text[start:end] for start, end in spans])
        return found

    def between(self, texts: Sequence[str], units: Units, rows: Indexes) -> list[list[str]]:
        """What stands before each unit of some rows, after the unit before it: the prompt, or what a user says between two answers.

        Args:
            texts: of these rows; units: of all rows.
        """
        found = []
        for text, row in zip(texts, rows.tolist(), strict=True):
            spans = self.spans[units.offsets[row] : units.offsets[row + 1]]
            ends = [0, *spans[:-1, 1].tolist()]
            found.append([text[end:start] for end, start in zip(ends, spans[:, 0].tolist(), strict=True)])
        return found

    def gold_of(self, units: Units, rows: Indexes) -> NDArray[np.int32]:
        """int32 [u]: the tokens that stand at the units of some rows; `units` of all rows."""
        starts = np.repeat(self.rows.offsets[:-1][rows], units.take(rows).sizes)
        return self.ids[starts + self.places[units.of(rows)]]


def vocabulary_hash(tokenizer: Any) -> str:
    """16 hex digits: tokenizers with the same one give each token the same number."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()[:16]
