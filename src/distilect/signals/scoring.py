"""Running teachers over rows: once for the store, or now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilect import ranks
from distilect.data import Encoded, Table, encode, scoring_batches
from distilect.errors import SignalError, TeacherError
from distilect.models import CheckpointTeacher, TableTeacher, Teacher, per_token
from distilect.models.row_index import unique_rows
from distilect.progress import bar
from distilect.signals.store import FieldStore

CHUNK = 4096  # rows per shard at most: what a kill can cost
BLOCK = 1 << 18  # rows that are looked up, tokenised and sorted by length at a time
CHUNK_BYTES = 1 << 28  # of hidden states that are held in memory before they are written
_HALF = float(np.finfo(np.float16).max)

Rows = NDArray[np.int64]
Advance = Callable[[int], object]  # told how many more rows are done


def run_teacher(
    teacher: Any,
    table: Table,
    encoded: Encoded | None,
    rows: Rows,
    fields: Sequence[str],
    max_tokens: int,
    *,
    half: bool = False,
    advance: Advance = lambda rows: None,
) -> dict[str, Any]:
    """What one teacher says on `rows`, in their order.

    Args:
        encoded: `table` as the teacher's own tokens; None for a teacher that is no checkpoint.
        half: fields in float16, as they are stored.

    Returns:
        logits float32 [b, C] in the teacher's own order; `cls.L`, `mean.L` [b, H]; fields `per_token` a list of b tensors
        [tokens, H] without padding.

    Raises:
        TeacherError: an output is no finite number; names the row's text.
    """
    if not len(rows):
        return _nothing(teacher, fields)
    if encoded is None:
        found: dict[str, Any] = {"logits": torch.from_numpy(teacher.outputs_for(table, rows))}
        advance(len(rows))
    else:
        found = _run_batches(teacher, encoded, rows, fields, max_tokens, half, advance)
    finite = torch.isfinite(found["logits"]).all(1)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        text = " | ".join(table.text([int(rows[bad[0]])])[0])[:80]
        raise TeacherError(
            f"teacher {teacher.name!r} gives NaN or infinity for {len(bad)} of {len(rows)} rows, the first is {text!r}: "
            "try signals.precision=fp32, or take it out of the pool"
        )
    return found


def _run_batches(
    teacher: CheckpointTeacher,
    encoded: Encoded,
    rows: Rows,
    fields: Sequence[str],
    max_tokens: int,
    half: bool,
    advance: Advance,
) -> dict[str, Any]:
    """Length-sorted batches under the token budget, results put back in the order of `rows`."""
    batches = scoring_batches(encoded.lengths[rows], max_tokens)
    parts: dict[str, list[Any]] = {name: [] for name in ("logits", *fields)}
    for batch in batches:
        inputs = encoded.collate(rows[batch])
        mask = inputs["attention_mask"].bool()
        for name, values in teacher.forward(inputs, fields).items():
            if half and name != "logits":
                values = values.clamp(-_HALF, _HALF).half()
            parts[name] += _without_padding(values, mask) if per_token(name) else [values.cpu()]
        advance(len(batch))
    back = np.argsort(np.concatenate(batches), kind="stable")
    return {
        name: [part[i] for i in back] if per_token(name) else torch.cat(part)[torch.from_numpy(back)]
        for name, part in parts.items()
    }


def _without_padding(values: Tensor, mask: Tensor) -> list[Tensor]:
    """[B, T, H] → B tensors [tokens, H]."""
    return list(values[mask.to(values.device)].cpu().split(mask.sum(1).tolist()))


def _nothing(teacher: Teacher, fields: Sequence[str]) -> dict[str, Any]:
    """What there is to say about no rows."""
    width = teacher.hidden_size if isinstance(teacher, CheckpointTeacher) else 0
    fielded: dict[str, Any] = {name: [] if per_token(name) else torch.zeros(0, width) for name in fields}
    return {"logits": torch.zeros(0, len(teacher.order)), **fielded}


class Missing:
    """The rows of a table that some store lacks, block by block, so that a table of any size needs the memory of one block.

    Args:
        table: any rows; of equal texts within a block one is scored.
        stores: the fields that are wanted of each.
        tokens: a table → its tokens for the teacher; None for a teacher that is no checkpoint.
    """

    def __init__(self, table: Table, stores: dict[str, FieldStore], tokens: Callable[[Table], Encoded] | None) -> None:
        self.table, self.stores, self.tokens = table, stores, tokens
        self.starts = range(0, max(1, len(table)), BLOCK)
        self.counts = [len(self.rows(block)) for block in range(len(self.starts))]
        self.total = sum(self.counts)
        self.different = len(unique_rows(table.ids)) if len(self.starts) == 1 else len(table)
        self._block: tuple[int, Table, Encoded | None] | None = None

    def rows(self, block: int) -> Rows:
        """Row numbers, ascending: one per identity that some store lacks."""
        start = self.starts[block]
        ids = np.asarray(self.table.ids[start : start + BLOCK])
        rows = np.sort(unique_rows(ids))
        ids = ids[rows]
        lacks = np.logical_or.reduce([store.locate(ids) < 0 for store in self.stores.values()])
        return rows[lacks] + start

    def block(self, number: int) -> tuple[Table, Encoded | None]:
        """These rows and their tokens; the last block is kept."""
        if self._block is None or self._block[0] != number:
            part = self.table.take(self.rows(number))
            self._block = number, part, self.tokens(part) if self.tokens is not None else None
        return self._block[1:]

    def writes(self, number: int, size: int) -> dict[str, list[bool]]:
        """By field, which of a block's chunks of `size` rows hold rows that it lacks.

        All, as a rule; a kill between two fields of a chunk, or fields of another method, make the difference.
        """
        rows = self.rows(number)
        ids = np.asarray(self.table.ids[rows])
        lacks = {name: store.locate(ids) < 0 for name, store in self.stores.items()}
        if all(found.all() or not found.any() for found in lacks.values()):
            chunks = -(-len(rows) // size)
            return {name: [bool(found.any())] * chunks for name, found in lacks.items()}
        order = _by_length(*self.block(number))
        return {name: [bool(found[c].any()) for c in _chunks(order, size)] for name, found in lacks.items()}

    def lengths(self) -> int:
        """Tokens of all missing rows; tokenises them."""
        parts = [self.block(n)[1] for n, count in enumerate(self.counts) if count]
        return sum(int(part.lengths.sum(dtype="int64")) for part in parts if part is not None)


def score_rows(teacher: Teacher, missing: Missing, max_tokens: int, description: str) -> int:
    """Run the teacher on all missing rows and add to each store what it lacks of them; returns how many were cut.

    The rows of a block are sorted by length and cut into chunks, a shard per field each. With several processes each writes the
    chunks that are its own, under the names that a single process would give them. A run that was killed, or one of whose ranks was,
    goes on with the rows that are still missing: it cuts the same chunks into the same batches, and the store ends up the same.
    """
    stores, world = missing.stores, ranks.world()
    fields = [name for name in stores if name != "logits"]
    size = chunk_rows(teacher, fields)
    chunks = [-(-count // size) for count in missing.counts]
    numbers = _shard_numbers(missing, size)
    whole_blocks = len(chunks) >= 4 * world  # else a block's chunks are shared out, and every rank tokenises it
    first, cut = 0, 0
    with bar() as progress:
        task = progress.add_task(description, total=missing.total)
        for block, count in enumerate(chunks):
            owners = [(block if whole_blocks else first + n) % world for n in range(count)]
            if ranks.rank() in owners:
                todo, encoded = missing.block(block)
                if encoded is not None and owners[0] == ranks.rank():
                    cut += encoded.truncated
                for number, chunk in enumerate(_chunks(_by_length(todo, encoded), size)):
                    if owners[number] != ranks.rank():
                        progress.advance(task, len(chunk))
                        continue
                    said = run_teacher(
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
                        if (block, number) in numbers[name]:
                            _add(store, todo.ids[chunk], said[name], numbers[name][block, number])
            first += count
    return int(ranks.total(cut))  # waits for all ranks


def _shard_numbers(missing: Missing, size: int) -> dict[str, dict[tuple[int, int], int]]:
    """By field: (block, chunk) → number of its shard. The same on every rank, and for a run that goes on where one was killed."""
    places: dict[str, list[tuple[int, int]]] = {name: [] for name in missing.stores}
    for block, count in enumerate(missing.counts):
        for name, written in (missing.writes(block, size) if count else {}).items():
            places[name] += [(block, chunk) for chunk, writes in enumerate(written) if writes]
    return {
        name: dict(zip(found, missing.stores[name].free_numbers(len(found)), strict=True))
        for name, found in places.items()
    }


def _by_length(todo: Table, encoded: Encoded | None) -> Rows:
    if encoded is None:
        return np.arange(len(todo))
    return np.argsort(-encoded.lengths.astype(np.int64), kind="stable")


def chunk_rows(teacher: Teacher, fields: Sequence[str]) -> int:
    """Rows per shard; depends on the teacher and the fields alone, so that a resumed run cuts the same shards."""
    if not fields or not isinstance(teacher, CheckpointTeacher):
        return CHUNK
    vectors = sum(teacher.max_length if per_token(name) else 1 for name in fields)
    return int(np.clip(CHUNK_BYTES // (2 * teacher.hidden_size * vectors), min(32, CHUNK), CHUNK))


def _chunks(order: Rows, size: int) -> Iterator[Rows]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _add(store: FieldStore, ids: NDArray[np.uint64], values: Any, number: int) -> None:
    """Write what the store lacks of one chunk, as the shard of that number."""
    new = np.flatnonzero(store.locate(ids) < 0)
    if isinstance(values, list):
        kept = [values[i] for i in new]
        offsets = np.cumsum([0, *map(len, kept)]).astype(np.int64)
        store.add(ids[new], torch.cat(kept).numpy(), offsets, number=number)
    else:
        store.add(ids[new], values.numpy()[new], number=number)


class StoredVoice:
    """One teacher, read from the store."""

    def __init__(self, teacher: Teacher, stores: dict[str, FieldStore]) -> None:
        self.name, self.order, self.stores = teacher.name, np.asarray(teacher.order), stores
        self.forwards = 0

    def say(self, table: Table, rows: Rows, fields: Sequence[str]) -> dict[str, Any]:
        """Logits and fields of `rows`, looked up by identity."""
        ids = table.ids[rows]
        logits = np.asarray(self.stores["logits"].get(ids))
        said: dict[str, Any] = {"logits": torch.from_numpy(logits[:, self.order])}
        for name in fields:
            if name not in self.stores:
                raise SignalError(
                    f"{name} of teacher {self.name!r} was not prepared; there are {', '.join(self.stores)}"
                )
            values = self.stores[name].get(ids)
            if isinstance(values, list):
                said[name] = pad_tokens([torch.from_numpy(value) for value in values])
            else:
                said[name] = torch.from_numpy(values).float()
        return said


class LiveVoice:
    """One teacher, run whenever it is asked; a table is tokenised once."""

    def __init__(self, teacher: Teacher, max_tokens: int = 16384) -> None:
        self.teacher, self.max_tokens = teacher, max_tokens
        self.name = teacher.name
        self.forwards = 0
        self._encoded: WeakKeyDictionary[Table, Encoded] = WeakKeyDictionary()

    def say(self, table: Table, rows: Rows, fields: Sequence[str]) -> dict[str, Any]:
        """Logits and fields of `rows`, computed now."""
        if not isinstance(self.teacher, TableTeacher):  # whose outputs were made elsewhere
            self.forwards += len(rows)
        rows = np.asarray(rows, dtype=np.int64)
        said = run_teacher(self.teacher, table, self._tokens(table), rows, fields, self.max_tokens)
        said["logits"] = said["logits"][:, self.teacher.order]
        return {name: pad_tokens(value) if isinstance(value, list) else value for name, value in said.items()}

    def _tokens(self, table: Table) -> Encoded | None:
        if not isinstance(self.teacher, CheckpointTeacher):
            return None
        if table not in self._encoded:
            self._encoded[table] = encode(
                table, self.teacher.tokenizer, self.teacher.max_length, f"tokenising for {self.name}"
            )
        return self._encoded[table]


def pad_tokens(rows: list[Tensor]) -> Tensor:
    """b tensors [tokens, H] → float32 [b, T, H], zeros behind the real tokens."""
    if not rows:
        return torch.zeros(0, 0, 0)
    return torch.nn.utils.rnn.pad_sequence([row.float() for row in rows], batch_first=True)
