"""A table as one model's tokens, in flat arrays: 4 bytes per token, no Python object per row."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilect.data.on_disk import ColumnFiles, open_columns, write_once
from distilect.data.table import Table
from distilect.data.tokens import Tokens, vocabulary_hash
from distilect.data.units import Units
from distilect.data.word_tokens import CHUNK, LARGE, WORD_COLUMNS, Words, word_blocks
from distilect.errors import DataError
from distilect.progress import track

FEW = 50  # tokens or texts, below which nothing is said of a tokenizer
MOST, NOTABLE = 0.5, 0.01  # shares of unknown tokens: refused above the first, reported from the second on
_COUNTS = ("truncated", "tokens", "unknown", "texts", "empty", "without_tokens")


@dataclass(frozen=True, eq=False)
class Encoded:
    """One table tokenised by one tokenizer; row i is row i of the table. Made by `encode`.

    Args:
        columns: input_ids and, where the tokenizer makes them, token_type_ids: int32, all rows one after the other.
        lengths: int32 [N], tokens per row with special tokens, after cutting; of all windows of a word table's row.
        offsets: int64 [N + 1], where each row begins in `columns`.
        padding: value that pads each column.
        left: whether rows are padded on the left.
        truncated: number of rows that were longer than the maximum length.
        max_length: in tokens.
        unknown: share of the text's tokens that are the unknown token.
        words: of a word table; its rows are never cut, `truncated` ones are read in windows. Of one of tokens they are the units, each
            where the token before it stands.
        causal: the units are tokens that follow from those before them.
        keys: int64 [U], of such units, their identities (`Table.unit_keys`).
    """

    columns: dict[str, NDArray[np.int32]]
    lengths: NDArray[np.int32]
    offsets: NDArray[np.int64]
    padding: dict[str, int]
    left: bool = False
    truncated: int = 0
    max_length: int = 0
    unknown: float = 0.0
    words: Words | None = None
    causal: bool = False
    keys: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def report(self, who: str, rows: str) -> list[str]:
        """Lines for the user: rows that were cut, and text that `who` does not know."""
        lines = []
        if self.truncated and self.words is None:
            lines.append(f"{who}: {self.truncated:,} of {len(self):,} {rows} rows are cut at {self.max_length} tokens")
        elif self.truncated:
            lines.append(
                f"{who}: {self.truncated:,} of {len(self):,} {rows} rows are longer than {self.max_length} tokens: read in windows"
            )
        if self.words is not None and self.words.without_tokens:
            lines.append(f"{who}: {self.words.without_tokens:,} words of {rows} have no token of their own")
        if self.unknown >= NOTABLE:
            lines.append(f"{who}: {100 * self.unknown:.1f} % of the tokens of {rows} are unknown to its tokenizer")
        return lines

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> Encoded:
        """The tokens of `rows`, in their order."""
        index = np.asarray(rows, dtype=np.int64)
        lengths, flat = self.lengths[index], Units(self.offsets).of(index)
        columns = {name: column[flat] for name, column in self.columns.items()}
        words = None if self.words is None else self.words.take(index)
        keys = None if self.keys is None or self.words is None else self.keys[self.words.units.of(index)]
        return replace(self, columns=columns, lengths=lengths, offsets=_offsets(lengths), words=words, keys=keys)

    def collate(self, rows: Sequence[int] | NDArray[np.integer]) -> dict[str, torch.Tensor]:
        """The model inputs of `rows`, padded to the longest of them on the tokenizer's padding side.

        Returns:
            input_ids, attention_mask and, where the tokenizer makes them, token_type_ids: int64 [B, T]. Of a word table [S, T], a
            sequence for each window of a row, and `words` int64 [B, W] or [B, W, M] (`Words.index`), which is no input of the model.
        """
        index = np.asarray(rows, dtype=np.int64)
        sizes, starts = self.lengths[index], self.offsets[index]
        if self.words is not None:
            windows = self.words.windows.of(index)
            sizes, starts = self.words.lengths[windows], self.words.starts[windows]
        width = int(sizes.max(initial=0))
        places = np.arange(width) - (width - sizes[:, None] if self.left else 0)  # position in the row [B, T]
        inside = (places >= 0) & (places < sizes[:, None])
        flat = (starts[:, None] + places)[inside]
        inputs = {"attention_mask": torch.from_numpy(inside.astype(np.int64))}
        for name, column in self.columns.items():
            padded = np.full(inside.shape, self.padding[name], dtype=np.int64)
            padded[inside] = column[flat]
            inputs[name] = torch.from_numpy(padded)
        if self.words is not None:
            inputs["words"] = self.words.index(index, width, self.left)
        return inputs


def encode(
    table: Table, tokenizer: Any, max_length: int, description: str = "tokenising", *, mean: bool = False
) -> Encoded:
    """Tokenise a table for one model.

    The tokens of a mapped table are mapped too, in files beside it that are written once per tokenizer and length.

    Args:
        tokenizer: a transformers tokenizer; one without a pad token is padded with its end token, or with 0.
        max_length: rows are cut to so many tokens, special tokens included (pairs: the longer text first).
        description: of the progress bar, shown for large tables only.
        mean: a word of a word table is read as the mean of its tokens, else at its first one.

    Raises:
        DataError: the tokenizer turns most of the text into its unknown token, or into nothing.
    """
    typed = "token_type_ids" in (getattr(tokenizer, "model_input_names", None) or ())
    names = ["input_ids", "token_type_ids"] if typed else ["input_ids"]
    if table.tokens is not None:
        return _of_tokens(table, table.tokens, tokenizer)
    blocks, more = _blocks, tuple[str, ...]()
    if table.units is not None:
        blocks, more = word_blocks, WORD_COLUMNS
    found = blocks(table, tokenizer, max_length, names, description)
    kinds = [*names, "lengths", *more]
    if table.folder is None:
        columns, counts = _in_memory(found, kinds)
    else:
        columns, counts = _mapped(found, kinds, table.folder, f"{_rules(tokenizer)} {max_length} {[*names, *more]}")
    words = None
    if table.units is not None:
        words = Words(
            table.units,
            columns["places"],
            Units(columns["windows-offsets"]),
            columns["window-lengths"],
            counts["without_tokens"],
            columns["sizes"] if mean else None,
            columns["begins-offsets"][:-1],
        )
    _check_text(counts, tokenizer)
    types = getattr(tokenizer, "pad_token_type_id", 0) or 0
    return Encoded(
        {name: columns[name] for name in names},
        columns["lengths"],
        columns["offsets"],
        padding={"input_ids": pad_id(tokenizer), "token_type_ids": types},
        left=getattr(tokenizer, "padding_side", "right") == "left",
        truncated=counts["truncated"],
        max_length=max_length,
        unknown=counts["unknown"] / max(1, counts["tokens"]),
        words=words,
    )


def _of_tokens(table: Table, tokens: Tokens, tokenizer: Any) -> Encoded:
    """A table that was tokenised when it was loaded.

    Raises:
        DataError: by a tokenizer with another vocabulary.
    """
    if vocabulary_hash(tokenizer) != tokens.vocabulary:
        raise DataError(
            f"{getattr(tokenizer, 'name_or_path', '') or 'a tokenizer'} has another vocabulary than that which the rows were read with: "
            "language models learn from teachers with their own tokenizer only"
        )
    assert table.units is not None
    lengths = tokens.rows.sizes.astype(np.int32)
    one_each = Units.of_sizes(np.ones(len(table), np.int64))
    words = Words(table.units, tokens.places - 1, one_each, lengths)
    columns, padding = {"input_ids": tokens.ids}, {"input_ids": tokens.pad}
    return Encoded(
        columns,
        lengths,
        tokens.rows.offsets,
        padding,
        max_length=tokens.limit,
        words=words,
        causal=True,
        keys=table.unit_keys(),
    )


def _check_text(counts: Counter[str], tokenizer: Any) -> None:
    """Refuse a tokenizer that does not read this text: not from a few rows, which may be of another language."""
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    remedy = "use the tokenizer that the model was trained with, or a model for this language"
    if counts["tokens"] >= FEW and counts["unknown"] > MOST * counts["tokens"]:
        share = counts["unknown"] / counts["tokens"]
        raise DataError(
            f"the tokenizer of {name} turns {100 * share:.0f} % of the text into {tokenizer.unk_token!r}: {remedy}"
        )
    if counts["texts"] >= FEW and counts["empty"] > MOST * counts["texts"]:
        raise DataError(
            f"the tokenizer of {name} makes no tokens of {counts['empty']:,} of {counts['texts']:,} texts: {remedy}"
        )


def pad_id(tokenizer: Any) -> int:
    """The id that pads a row. Padding is always masked, so a tokenizer without a pad token may use its end token or 0."""
    candidates = (getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
    return next((int(token) for token in candidates if token is not None), 0)


# numbers of values → where each row or window begins among them, int64
_OFFSETS = {"lengths": "offsets", "windows": "windows-offsets", "window-lengths": "begins-offsets"}
Block = tuple[dict[str, NDArray[np.int32]], dict[str, int]]


def _offsets(lengths: NDArray[np.int32]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _in_memory(blocks: Iterator[Block], names: list[str]) -> tuple[dict[str, NDArray[Any]], Counter[str]]:
    """The columns of all blocks, with their offsets, and what was counted in them."""
    parts: dict[str, list[NDArray[np.int32]]] = {name: [np.empty(0, np.int32)] for name in names}
    counts = Counter[str]()
    for block, found in blocks:
        for name, values in block.items():
            parts[name].append(values)
        counts.update(found)
    columns: dict[str, NDArray[Any]] = {name: np.concatenate(values) for name, values in parts.items()}
    return columns | {_OFFSETS[name]: _offsets(columns[name]) for name in names if name in _OFFSETS}, counts


def _mapped(
    blocks: Iterator[Block], names: list[str], parent: Path, what: str
) -> tuple[dict[str, NDArray[Any]], Counter[str]]:
    """The same in mapped files below `parent`; written where they are not there yet. `what` is all that they depend on."""
    folder = parent / f"tokens-{hashlib.sha256(what.encode()).hexdigest()[:16]}"

    def write() -> None:
        offsets = {_OFFSETS[name]: np.int64 for name in names if name in _OFFSETS}
        files = ColumnFiles(folder, {**dict.fromkeys(names, np.int32), **offsets})
        counts = Counter[str]()
        for block, found in blocks:
            for name, values in block.items():
                files.add(name, values)
                if name in _OFFSETS:
                    files.add_offsets(_OFFSETS[name], values)
            counts.update(found)
        files.finish(**counts)

    write_once(folder, write, "tokenising")
    columns, about = open_columns(folder)
    return columns, Counter({name: int(about.get(name, 0)) for name in _COUNTS})


def _rules(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return f"{type(tokenizer).__name__} {backend.to_str() if backend else repr(tokenizer)}"


def _blocks(table: Table, tokenizer: Any, max_length: int, names: Sequence[str], description: str) -> Iterator[Block]:
    """Flat tokens by name and `lengths` of a thousand rows at a time, and what was counted in them (`_COUNTS`).

    Rows are first tokenised in full, to count those that are too long. Only these are tokenised again with truncation, because
    the tokenizer knows how to cut pairs and where special tokens go.
    """
    blocks = table.chunks(CHUNK)
    if len(table) >= LARGE:
        blocks = track(blocks, description, total=-(-len(table) // CHUNK))
    typed = "token_type_ids" in names
    options = {"padding": False, "return_attention_mask": False, "return_token_type_ids": typed, "verbose": False}
    for block in blocks:
        rows = tokenizer(*block, truncation=False, **options)
        long = [i for i, ids in enumerate(rows["input_ids"]) if len(ids) > max_length]
        if long:
            some = [[column[i] for i in long] for column in block]
            cut = tokenizer(*some, truncation=True, max_length=max_length, **options)
            for name in names:
                for i, values in zip(long, cut[name], strict=True):
                    rows[name][i] = values
        flat = {name: np.fromiter(chain.from_iterable(rows[name]), np.int32) for name in names}
        flat["lengths"] = np.fromiter(map(len, rows["input_ids"]), np.int32)
        yield flat, {"truncated": len(long), **_known(block, flat, tokenizer)}


def _known(block: Any, flat: dict[str, NDArray[np.int32]], tokenizer: Any) -> dict[str, int]:
    """Tokens of the text itself and how many of them are unknown; rows with text and how many of them have no tokens."""
    added = tokenizer.num_special_tokens_to_add(pair=len(block) == 2)
    written = np.array([any(map(str.strip, texts)) for texts in zip(*block, strict=True)], dtype=bool)
    unknown, others = tokenizer.unk_token_id, (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
    return {
        "tokens": max(0, len(flat["input_ids"]) - added * len(written)),
        "unknown": 0 if unknown is None or unknown in others else int((flat["input_ids"] == unknown).sum()),
        "texts": int(written.sum()),
        "empty": int((written & (flat["lengths"] <= added)).sum()),
    }
