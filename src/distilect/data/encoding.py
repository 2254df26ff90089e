"""A table as one model's tokens, kept flat: 4 bytes per token, no Python object per row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilect import ranks
from distilect.data.on_disk import Columns, mapped, whole_folder
from distilect.data.table import Table
from distilect.progress import track

CHUNK = 1000  # rows per tokenizer call
LARGE = 20_000  # rows from which on tokenising takes long enough for a progress bar


class Encoded:
    """One table tokenised by one tokenizer; row i is row i of the table. Made by `encode`.

    Attributes:
        lengths: int32 [N], tokens per row with special tokens, after cutting.
        truncated: number of rows that were longer than the maximum length.
        max_length: in tokens.
    """

    def __init__(
        self,
        columns: dict[str, NDArray[np.int32]],
        lengths: NDArray[np.int32],
        padding: dict[str, int],
        *,
        left: bool = False,
        truncated: int = 0,
        max_length: int = 0,
        offsets: NDArray[np.int64] | None = None,
    ) -> None:
        self.lengths = lengths
        self.truncated = truncated
        self.max_length = max_length
        self._columns = columns  # flat, all rows one after the other
        self._offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]) if offsets is None else offsets
        self._padding = padding
        self._left = left

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> Encoded:
        """The tokens of `rows`, in their order."""
        index = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[index]
        inside = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        flat = np.repeat(self._offsets[index], lengths) + inside
        columns = {name: column[flat] for name, column in self._columns.items()}
        return Encoded(
            columns, lengths, self._padding, left=self._left, truncated=self.truncated, max_length=self.max_length
        )

    def collate(self, rows: Sequence[int] | NDArray[np.integer]) -> dict[str, torch.Tensor]:
        """The model inputs of `rows`, padded to the longest of them on the tokenizer's padding side.

        Returns:
            input_ids, attention_mask and, where the tokenizer makes them, token_type_ids: int64 [B, T].
        """
        index = np.asarray(rows, dtype=np.int64)
        sizes = self.lengths[index]
        width = int(sizes.max(initial=0))
        starts = self._offsets[index]
        places = np.arange(width) - (width - sizes[:, None] if self._left else 0)  # position in the row [B, T]
        inside = (places >= 0) & (places < sizes[:, None])
        flat = (starts[:, None] + places)[inside]
        inputs = {"attention_mask": torch.from_numpy(inside.astype(np.int64))}
        for name, column in self._columns.items():
            padded = np.full(inside.shape, self._padding[name], dtype=np.int64)
            padded[inside] = column[flat]
            inputs[name] = torch.from_numpy(padded)
        return inputs


def encode(table: Table, tokenizer: Any, max_length: int, description: str = "tokenising") -> Encoded:
    """Tokenise a table for one model.

    Args:
        tokenizer: a transformers tokenizer; one without a pad token is padded with its end token, or with 0.
        max_length: rows are cut to so many tokens, special tokens included (pairs: the longer text first).
        description: of the progress bar, shown for large tables only.
    """
    typed = "token_type_ids" in (getattr(tokenizer, "model_input_names", None) or ())
    names = ["input_ids", "token_type_ids"] if typed else ["input_ids"]
    if table.folder is not None:
        return _encode_on_disk(table, table.folder, tokenizer, max_length, description, names)
    flat: dict[str, list[NDArray[np.int32]]] = {name: [np.empty(0, np.int32)] for name in names}
    lengths: list[NDArray[np.int32]] = [np.empty(0, np.int32)]
    truncated = 0
    for block in _watched(table, description):
        rows, cut = _tokenise(block, tokenizer, max_length, typed)
        truncated += cut
        lengths.append(np.fromiter(map(len, rows["input_ids"]), np.int32))
        for name in names:
            flat[name].append(np.fromiter(chain.from_iterable(rows[name]), np.int32))
    columns = {name: np.concatenate(parts) for name, parts in flat.items()}
    sizes = np.concatenate(lengths)
    return Encoded(columns, sizes, **_form(tokenizer), truncated=truncated, max_length=max_length)


def _form(tokenizer: Any) -> dict[str, Any]:
    """How a tokenizer pads."""
    types = getattr(tokenizer, "pad_token_type_id", 0) or 0
    left = getattr(tokenizer, "padding_side", "right") == "left"
    return {"padding": {"input_ids": pad_id(tokenizer), "token_type_ids": types}, "left": left}


def _encode_on_disk(
    table: Table, parent: Path, tokenizer: Any, max_length: int, description: str, names: list[str]
) -> Encoded:
    """The same for a table larger than memory: tokens are files beside it, made once for each tokenizer and length."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    what = f"{type(tokenizer).__name__} {backend.to_str() if backend else repr(tokenizer)} {max_length} {names}"
    folder = parent / f"tokens-{hashlib.sha256(what.encode()).hexdigest()[:16]}"
    if ranks.is_main() and not (folder / "tokens.json").is_file():
        with whole_folder(folder) as work:
            _write_tokens(table, work, tokenizer, max_length, description, names)
    ranks.barrier()
    content = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    tokens, rows = (int(content["tokens"]),), len(table)
    return Encoded(
        {name: mapped(folder / f"{name}.bin", np.dtype(np.int32), tokens) for name in names},
        mapped(folder / "lengths.bin", np.dtype(np.int32), (rows,)),
        **_form(tokenizer),
        truncated=int(content["truncated"]),
        max_length=max_length,
        offsets=mapped(folder / "offsets.bin", np.dtype(np.int64), (rows + 1,)),
    )


def _write_tokens(
    table: Table, folder: Path, tokenizer: Any, max_length: int, description: str, names: list[str]
) -> None:
    kinds = {**dict.fromkeys(names, np.int32), "lengths": np.int32, "offsets": np.int64}
    files, truncated, end = Columns(folder, kinds), 0, 0
    files.add("offsets", np.zeros(1, np.int64))
    for block in _watched(table, description):
        rows, cut = _tokenise(block, tokenizer, max_length, "token_type_ids" in names)
        truncated += cut
        sizes = np.fromiter(map(len, rows["input_ids"]), np.int64)
        files.add("lengths", sizes)
        files.add("offsets", end + np.cumsum(sizes))
        end += int(sizes.sum())
        for name in names:
            files.add(name, np.fromiter(chain.from_iterable(rows[name]), np.int32))
    files.close()
    content = {"tokens": end, "truncated": truncated, "rows": len(table)}
    (folder / "tokens.json").write_text(json.dumps(content), encoding="utf-8")


def pad_id(tokenizer: Any) -> int:
    """The id that pads a row; masked out everywhere, so a tokenizer without a pad token may use its end token or 0."""
    candidates = (getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
    return next((int(token) for token in candidates if token is not None), 0)


def _watched(table: Table, description: str) -> Iterator[list[list[str]]]:
    blocks = table.chunks(CHUNK)
    if len(table) < LARGE:
        return blocks
    return track(blocks, description, total=-(-len(table) // CHUNK))


def _tokenise(block: list[list[str]], tokenizer: Any, max_length: int, typed: bool) -> tuple[dict[str, Any], int]:
    """Token lists of a block, and how many rows were cut.

    Rows are tokenised whole first: only so their real length is known. The few that are too long go through the
    tokenizer once more, which knows how to cut pairs and where special tokens go.
    """
    options = {"padding": False, "return_attention_mask": False, "return_token_type_ids": typed, "verbose": False}
    rows = dict(tokenizer(*block, truncation=False, **options))
    long = [i for i, ids in enumerate(rows["input_ids"]) if len(ids) > max_length]
    if long:
        some = [[column[i] for i in long] for column in block]
        cut = tokenizer(*some, truncation=True, max_length=max_length, **options)
        for name in rows:
            for i, values in zip(long, cut[name], strict=True):
                rows[name][i] = values
    return rows, len(long)
