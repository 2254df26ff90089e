"""Word tables as one model's tokens: where each word stands, in rows that may be longer than the model reads at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilect.data.table import Table
from distilect.data.units import Indexes, Rows, Units
from distilect.errors import DataError
from distilect.progress import track

CHUNK = 1000  # rows per tokenizer call
LARGE = 20_000  # rows from which on tokenising takes long enough for a progress bar
OVERLAP = 4  # neighbouring windows share a quarter of their tokens
# int32: of each word its first token in its row and its tokens there, of each row its windows, of each window its tokens
WORD_COLUMNS = ("places", "sizes", "windows", "window-lengths")


@dataclass(frozen=True, eq=False)
class Words:
    """The words of a table among one model's tokens.

    A row that is too long is read in overlapping windows: each is a sequence of its own for the model, with special tokens. A word
    is read where it has most context.

    Args:
        units: the words of each row.
        places: int32 [U], each word's first token among all tokens of its row, its windows one after the other.
        windows: the windows of each row, mostly one.
        lengths: int32 [S], tokens of each window.
        without_tokens: words that the tokenizer makes nothing of; they are read at their neighbour.
        sizes: int32 [U], the tokens that each word is the mean of, from its first one on; None: a word is its first token. Of a word
            that the end of a window cuts, those of the window where it is read.
        begins: int64 [S], where each window begins among the tokens of all rows; None: by `lengths`.
    """

    units: Units
    places: NDArray[np.int32]
    windows: Units
    lengths: NDArray[np.int32]
    without_tokens: int = 0
    sizes: NDArray[np.int32] | None = None
    begins: Indexes | None = None

    @cached_property
    def starts(self) -> Indexes:
        """int64 [S]: where each window begins among the tokens of all rows."""
        if self.begins is not None:
            return self.begins
        return np.asarray(np.cumsum(self.lengths, dtype=np.int64) - self.lengths)

    def take(self, rows: Rows) -> Words:
        """Those of some rows, in their order."""
        units = self.units.of(rows)
        return Words(
            self.units.take(rows),
            self.places[units],
            self.windows.take(rows),
            self.lengths[self.windows.of(rows)],
            self.without_tokens,
            None if self.sizes is None else self.sizes[units],
        )

    def index(self, rows: Rows, width: int, left: bool) -> torch.Tensor:
        """int64 [B, W]: where the words of some rows stand in their padded sequences [S, T], flattened; -1 after a row's last word.

        With `sizes` int64 [B, W, M]: where each of a word's tokens stands; -1 after the last one.

        Args:
            width: T.
            left: whether sequences are padded on the left.
        """
        units, windows = self.units.take(rows), self.windows.take(rows)
        lengths = self.lengths[self.windows.of(rows)].astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])  # of each sequence among the tokens of these rows
        of_row = starts[windows.offsets[:-1]]
        token = np.repeat(of_row, units.sizes) + self.places[self.units.of(rows)]
        sequence = np.searchsorted(starts, token, side="right") - 1
        flat = sequence * width + token - starts[sequence] + ((width - lengths[sequence]) if left else 0)
        index = np.full((len(units.sizes), int(units.sizes.max(initial=0))), -1, dtype=np.int64)
        inside = np.arange(index.shape[1]) < units.sizes[:, None]
        index[inside] = flat
        if self.sizes is None:
            return torch.from_numpy(index)
        sizes = np.zeros(index.shape, dtype=np.int64)
        sizes[inside] = self.sizes[self.units.of(rows)]
        number = np.arange(int(sizes.max(initial=1)))
        # a window's tokens stand side by side, whatever side is padded
        return torch.from_numpy(np.where(number < sizes[..., None], index[..., None] + number, -1))


def word_blocks(
    table: Table, tokenizer: Any, max_length: int, names: Sequence[str], description: str
) -> Iterator[tuple[dict[str, NDArray[np.int32]], dict[str, int]]]:
    """Tokenise a word table, a thousand rows at a time: its words with a space between them, as the finished model will read plain text.

    Returns:
        flat tokens by name, `lengths` [n], tokens per row, and WORD_COLUMNS; what was counted: `tokens` of the text, `unknown` ones among
        them, `truncated`, the rows that are read in windows, and `without_tokens`, words that have none.

    Raises:
        DataError: the tokenizer does not say which characters a token stands for.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"the tokenizer of {getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__} does not say which characters its "
            "tokens stand for, so words cannot be found among them: take a checkpoint with a fast tokenizer (tokenizer.json)"
        )
    unknown = tokenizer.unk_token_id
    if unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id):
        unknown = None
    return (_columns(rows, names, unknown) for rows in _blocks(table, tokenizer, max_length, description))


def _columns(
    rows: list[_Row], names: Sequence[str], unknown: int | None
) -> tuple[dict[str, NDArray[np.int32]], dict[str, int]]:
    columns = {name: _joined(row.columns[name] for row in rows) for name in names}
    columns |= {
        "lengths": np.array([sum(row.lengths) for row in rows], dtype=np.int32),
        "places": _joined(row.places for row in rows),
        "sizes": _joined(row.sizes for row in rows),
        "windows": np.array([len(row.lengths) for row in rows], dtype=np.int32),
        "window-lengths": _joined(row.lengths for row in rows),
    }
    return columns, {
        "truncated": sum(len(row.lengths) > 1 for row in rows),
        "tokens": sum(row.text_tokens for row in rows),
        "unknown": 0 if unknown is None else int((columns["input_ids"] == unknown).sum()),
        "without_tokens": sum(row.without_tokens for row in rows),
    }


def _joined(parts: Iterable[Iterable[int]]) -> NDArray[np.int32]:
    return np.fromiter(chain.from_iterable(parts), np.int32)


@dataclass
class _Row:
    """One row as tokens: its windows one after the other."""

    columns: dict[str, list[int]]
    lengths: list[int]
    places: Indexes
    sizes: Indexes
    text_tokens: int
    without_tokens: int


def _blocks(table: Table, tokenizer: Any, max_length: int, description: str) -> Iterator[list[_Row]]:
    starts = range(0, len(table), CHUNK)
    for start in track(starts, description) if len(table) >= LARGE else starts:
        words = table.words(range(start, min(start + CHUNK, len(table))))
        yield _rows(words, tokenizer, max_length)


def _rows(rows: list[list[str]], tokenizer: Any, max_length: int) -> list[_Row]:
    """Rows are tokenised whole first; those that are too long again, in windows."""
    typed = "token_type_ids" in (getattr(tokenizer, "model_input_names", None) or ())
    options = {
        "padding": False,
        "return_attention_mask": False,
        "return_token_type_ids": typed,
        "return_offsets_mapping": True,
        "verbose": False,
    }
    texts = [" ".join(words) for words in rows]
    whole = tokenizer(texts, truncation=False, **options)
    long = [i for i, ids in enumerate(whole["input_ids"]) if len(ids) > max_length]
    windows: dict[int, list[int]] = {i: [] for i in long}
    cut: Any = {}
    if long:
        room = max_length - tokenizer.num_special_tokens_to_add(pair=False)
        if room < 1:
            raise DataError(f"a maximum length of {max_length} tokens leaves no room for words: raise it")
        cut = tokenizer(
            [texts[i] for i in long],
            truncation=True,
            max_length=max_length,
            stride=room // OVERLAP,
            return_overflowing_tokens=True,
            **options,
        )
        for number, sample in enumerate(cut["overflow_to_sample_mapping"]):
            windows[long[sample]].append(number)
    names = ["input_ids", "token_type_ids"] if typed else ["input_ids"]
    found = []
    for i, words in enumerate(rows):
        source, parts = (cut, windows[i]) if i in windows else (whole, [i])
        columns = {name: [value for part in parts for value in source[name][part]] for name in names}
        spans = [source["offset_mapping"][part] for part in parts]
        places, sizes, without = _places(words, spans)
        tokens = sum(end > start for span in spans for start, end in span)
        found.append(_Row(columns, [len(span) for span in spans], places, sizes, tokens, without))
    return found


def _places(words: list[str], windows: list[list[tuple[int, int]]]) -> tuple[Indexes, Indexes, int]:
    """Each word's first token among the tokens of all windows, int64 [W]; how many it has there, int64 [W]; how many words have none.

    Args:
        windows: per window, the characters that each token stands for, in the words with a space between them; special tokens stand for none.
    """
    lengths = np.array([len(word) for word in words])
    begins = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
    spans = np.array([span for window in windows for span in window], dtype=np.int64).reshape(-1, 2)
    sizes = np.array([len(window) for window in windows])
    within = np.arange(len(spans)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    context = np.minimum(within, np.repeat(sizes, sizes) - 1 - within)  # tokens on the side where there are fewer
    real = np.flatnonzero(spans[:, 1] > spans[:, 0])
    # by a token's last character, as some tokens begin with the space before their word
    word = np.searchsorted(begins, spans[real, 1] - 1, side="right") - 1
    order = np.lexsort((-context[real], spans[real, 0], word))
    found, first = np.unique(word[order], return_index=True)
    places = np.full(len(words), -1, dtype=np.int64)
    places[found] = real[order][first]
    missing = places < 0
    window = np.repeat(np.arange(len(sizes)), sizes)
    own = window[real] == window[places[word]]
    own &= (
        spans[real, 1] <= begins[word] + lengths[word]
    )  # not the space after it, which is a token of its own for some
    ends = places.copy()
    np.maximum.at(ends, word[own], real[own])
    if missing.any():
        last = np.maximum.accumulate(
            np.where(missing, -1, np.arange(len(words)))
        )  # the nearest earlier word with a token
        at = np.where(last >= 0, last, found[0] if len(found) else 0)
        places, ends = (values[at].clip(0) for values in (places, ends))
    return places, ends - places + 1, int(missing.sum())
