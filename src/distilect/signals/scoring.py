"""Running a teacher over rows, and over all rows of a table that the store lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilect import ranks
from distilect.data import Encoded, Table, scoring_batches
from distilect.errors import TeacherError
from distilect.models import CheckpointTeacher, LanguageTeacher, Teacher, autocast, per_token, stored_name
from distilect.models.row_index import unique_rows
from distilect.progress import bar
from distilect.signals.base import Rows
from distilect.signals.store import FieldStore
from distilect.signals.token_signals import TokenFormat, broken

CHUNK = 4096  # rows per shard at most: what a kill can cost
BLOCK = 1 << 18  # rows that are looked up, tokenised and sorted by length at a time
CHUNK_BYTES = 1 << 28  # of hidden states that are held in memory before they are written
_HALF = float(np.finfo(np.float16).max)


def run_teacher(
    teacher: Any,
    table: Table,
    encoded: Encoded | None,
    rows: Rows,
    fields: Sequence[str],
    max_tokens: int,
    *,
    half: bool = False,
    advance: Callable[[int], object] = lambda rows: None,
) -> dict[str, Any]:
    """The outputs of one teacher on `rows`, in their order.

    Args:
        encoded: `table` as the teacher's own tokens; None for a teacher that is no checkpoint.
        half: fields in float16, as they are stored; of words logits too.
        advance: is called with the number of rows of each batch.

    Returns:
        logits float32 [b, C] in the teacher's own order; `cls.L`, `mean.L` [b, H]; fields `per_token` a list of b tensors
        [tokens, H] without padding. Of a word table each is a list of b tensors [words, …].

    Raises:
        TeacherError: an output is no finite number; names the row's text.
    """
    if encoded is None:
        outputs: dict[str, Any] = {"logits": torch.from_numpy(teacher.outputs_for(table, rows))}
        if table.units is not None:
            outputs["logits"] = list(outputs["logits"].split(table.units.sizes_of(rows).tolist()))
        advance(len(rows))
    else:
        outputs = _run_batches(teacher, encoded, rows, fields, max_tokens, half, advance)
    packed = token_format(teacher) is not None
    bad = _broken_tokens(outputs["logits"]) if packed else _broken(outputs["logits"])
    if bad:
        text = " | ".join(table.text([int(rows[bad[0]])])[0])[:80]
        raise TeacherError(
            f"teacher {teacher.name!r} gives NaN or infinity for {len(bad)} of {len(rows)} rows, the first is {text!r}: "
            "try signals.precision=fp32, or take it out of the pool"
        )
    if half and table.units is not None and not packed:  # those of a text are a few bytes, those of words are not
        outputs["logits"] = [values.clamp(-_HALF, _HALF).half() for values in outputs["logits"]]
    return outputs


def _broken(logits: Tensor | list[Tensor]) -> list[int]:
    """Rows with a number that is not finite."""
    if isinstance(logits, list):
        return [row for row, values in enumerate(logits) if not torch.isfinite(values).all()]
    found: list[int] = (~torch.isfinite(logits).all(1)).nonzero().flatten().tolist()
    return found


def _broken_tokens(rows: list[Tensor]) -> list[int]:
    """The same of packed outputs of tokens."""
    return [row for row, values in enumerate(rows) if broken(values.numpy()).any()]


def token_format(teacher: Teacher) -> TokenFormat | None:
    """How the outputs of a language model are kept; None of other teachers."""
    if not isinstance(teacher, LanguageTeacher):
        return None
    vocabulary = min(len(teacher.tokenizer), len(teacher.head.weight))
    return TokenFormat(teacher.tokens, vocabulary, int(teacher.fingerprint[:15], 16))


def _run_batches(
    teacher: CheckpointTeacher,
    encoded: Encoded,
    rows: Rows,
    fields: Sequence[str],
    max_tokens: int,
    half: bool,
    advance: Callable[[int], object],
) -> dict[str, Any]:
    """Length-sorted batches under the token budget, results put back in the order of `rows`."""
    words = encoded.words
    kept = token_format(teacher)
    ragged = {name: words is not None or per_token(name) for name in ["logits", *fields]}
    nothing = torch.zeros(0, teacher.hidden_size, dtype=torch.float16 if half else torch.float32)
    parts: dict[str, list[Any]] = {name: [] if ragged[name] else [nothing] for name in fields}
    parts["logits"] = [] if words is not None else [torch.zeros(0, len(teacher.order))]
    batches = scoring_batches(encoded.lengths[rows], max_tokens)
    for batch in batches:
        inputs = encoded.collate(rows[batch])
        mask = inputs["attention_mask"].bool()
        outputs = teacher.forward(inputs, fields)
        if kept is not None:
            outputs = _packed(kept, teacher, encoded, rows[batch], outputs)
        for name, values in outputs.items():
            if half and name != "logits":
                values = values.clamp(-_HALF, _HALF).half()
            if words is not None:
                parts[name] += list(values.cpu().split(words.units.sizes_of(rows[batch]).tolist()))
            else:
                parts[name] += _without_padding(values, mask) if per_token(name) else [values.cpu()]
        advance(len(batch))
    back = np.argsort(np.concatenate([np.empty(0, np.int64), *batches]), kind="stable")
    return {
        name: [part[i] for i in back] if ragged[name] else torch.cat(part)[torch.from_numpy(back)]
        for name, part in parts.items()
    }


def _packed(
    kept: TokenFormat, teacher: Any, encoded: Encoded, rows: Rows, outputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """A language model's outputs as they are kept: `logits` uint8 [U, bytes]."""
    assert encoded.words is not None and encoded.keys is not None
    keys = torch.from_numpy(encoded.keys[encoded.words.units.of(rows)])
    states, gold = outputs.pop("states"), outputs.pop("gold")
    with autocast(teacher.precision, teacher.device):
        packed = kept.pack(states, teacher.head, gold, keys)
    return {"logits": torch.from_numpy(packed), **outputs}


def _without_padding(values: Tensor, mask: Tensor) -> list[Tensor]:
    """[B, T, H] → B tensors [tokens, H]."""
    return list(values[mask.to(values.device)].cpu().split(mask.sum(1).tolist()))


class Missing:
    """The rows of a table that some store lacks, block by block, so that a table of any size needs the memory of one block.

    Args:
        table: any rows; of equal texts within a block one is scored.
        stores: the fields that are wanted of each row.

    Attributes:
        counts: missing rows of each block.
        different: rows with different texts, of one block; of a larger table all rows.
    """

    def __init__(self, teacher: Teacher, table: Table, stores: dict[str, FieldStore]) -> None:
        self.teacher, self.table, self.stores = teacher, table, stores
        blocks = range(-(-len(table) // BLOCK))
        self.counts = [len(self.rows(block)) for block in blocks]
        self.total = sum(self.counts)
        self.different = len(unique_rows(table.ids)) if len(blocks) <= 1 else len(table)
        self._last: tuple[int, Table, Encoded | None] | None = None

    def rows(self, block: int) -> Rows:
        """Row numbers, ascending: one per identity that some store lacks."""
        start = block * BLOCK
        ids = np.asarray(self.table.ids[start : start + BLOCK])
        rows = unique_rows(ids)  # sorted by id, so that the pages of an index on disk are read once
        lacks = np.logical_or.reduce([store.lacks(ids[rows]) for store in self.stores.values()])
        return np.sort(rows[lacks]) + start

    def block(self, number: int) -> tuple[Table, Encoded | None]:
        """These rows and their tokens; those of the last call are kept."""
        if self._last is None or self._last[0] != number:
            part = self.table.take(self.rows(number))
            encoded = self.teacher.encode(part) if isinstance(self.teacher, CheckpointTeacher) else None
            self._last = number, part, encoded
        return self._last[1:]

    def units(self) -> int:
        """Units of all missing rows of a table that has some."""
        units = self.table.units
        assert units is not None
        return sum(int(units.sizes_of(self.rows(block)).sum()) for block, count in enumerate(self.counts) if count)

    def tokens(self) -> int:
        """Tokens of all missing rows; tokenises them."""
        encoded = [self.block(number)[1] for number, count in enumerate(self.counts) if count]
        return sum(int(part.lengths.sum(dtype="int64")) for part in encoded if part is not None)


def score_rows(teacher: Teacher, missing: Missing, max_tokens: int) -> tuple[int, float]:
    """Run the teacher on all missing rows and add to each store what it lacks of them.

    Returns:
        how many rows were cut; the share of unknown tokens, of the block that has most of them.

    The rows of a block are sorted by length and cut into chunks, a shard per field each. With several processes each writes the
    chunks that are its own, and the store ends up as that of a single process. So does that of a run that goes on where one was
    killed: as whole chunks are there or missing, the rest is cut into the same chunks, and these into the same batches.
    """
    stores, world, rank = missing.stores, ranks.world(), ranks.rank()
    fields = [name for name in stores if name != "logits"]
    size = chunk_rows(teacher, [stored_name(name, missing.table) for name in fields])
    chunks = [-(-count // size) for count in missing.counts]
    whole_blocks = len(chunks) >= 4 * world  # else a block's chunks are shared out, and every rank tokenises it
    first, cut, unknown = 0, 0, 0.0
    with bar() as progress:
        task = progress.add_task(f"scoring by {teacher.name}", total=missing.total)
        for block, count in enumerate(chunks):
            owners = [(block if whole_blocks else first + number) % world for number in range(count)]
            first += count
            if rank not in owners:
                continue
            todo, encoded = missing.block(block)
            if encoded is not None and owners[0] == rank:
                cut += encoded.truncated if encoded.words is None else 0  # long rows of words are read in windows
                unknown = max(unknown, encoded.unknown)
            order = np.arange(len(todo))
            if encoded is not None:
                order = np.argsort(-encoded.lengths.astype(np.int64), kind="stable")
            for number, owner in enumerate(owners):
                chunk = order[number * size : (number + 1) * size]
                if owner != rank:
                    progress.advance(task, len(chunk))
                    continue
                outputs = run_teacher(
                    teacher,
                    todo,
                    encoded,
                    chunk,
                    fields,
                    max_tokens,
                    half=True,
                    advance=lambda rows: progress.advance(task, rows),
                )
                for name, store in stores.items():
                    _add(store, todo.ids[chunk], outputs[name])
    return int(ranks.total(cut)), unknown  # waits for all ranks


def chunk_rows(teacher: Teacher, fields: Sequence[str]) -> int:
    """Rows per shard; depends on the teacher and the fields alone, so that a resumed run cuts the same shards."""
    if not fields or not isinstance(teacher, CheckpointTeacher):
        return CHUNK
    vectors = sum(teacher.max_length if per_token(name) else 1 for name in fields)
    return int(np.clip(CHUNK_BYTES // (2 * teacher.hidden_size * vectors), min(32, CHUNK), CHUNK))


def _add(store: FieldStore, ids: NDArray[np.uint64], values: Any) -> None:
    """Write what the store lacks of one chunk.

    As a rule that is all. Fields of another method, or a kill between two fields of a chunk, make the difference.
    """
    new = np.flatnonzero(store.lacks(ids))
    if not len(new):
        return
    if isinstance(values, list):
        kept = [values[i] for i in new]
        store.add(ids[new], torch.cat(kept).numpy(), np.cumsum([0, *map(len, kept)]).astype(np.int64))
    else:
        store.add(ids[new], values.numpy()[new])
