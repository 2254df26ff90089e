"""Make sure that the signals of a run are there: score what is missing, fall back to live teachers over the disk budget."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

from distilect import ranks
from distilect.data import Encoded, Table, encode
from distilect.errors import MethodError, SignalError
from distilect.files import locked
from distilect.models import CheckpointTeacher, TableTeacher, Teacher, per_token
from distilect.models.row_index import unique_rows
from distilect.signals.base import Fields, Pool, SignalSource, Voice
from distilect.signals.scoring import LiveVoice, Missing, StoredVoice, score_rows
from distilect.signals.store import FieldStore, SignalStore


@dataclass
class Prepared:
    """Signals that are ready to be read.

    Attributes:
        source: None for methods that ask no teacher.
        report: what was done, a line each.
        seconds: wall time of scoring.
        forwards: rows that teachers were run on, summed over teachers.
        reused: rows that were in the store already, summed over teachers.
        vectors: a frozen encoder's vectors, where a selector wants them.
        live: rows that teachers were run on in the steps, over all processes; known after training.
    """

    source: SignalSource | None
    report: list[str] = field(default_factory=list)
    seconds: float = 0.0
    forwards: int = 0
    reused: int = 0
    vectors: SignalSource | None = None
    live: int = 0

    @classmethod
    def none(cls) -> Prepared:
        """For a method without teachers."""
        return cls(None)


def prepare_signals(
    teachers: Sequence[Teacher],
    table: Table,
    store: SignalStore,
    fields: Fields,
    *,
    budget_gb: float = 20.0,
    max_tokens: int = 16384,
    live: bool = False,
) -> Prepared:
    """Score the rows of `table` that the store lacks, per teacher logits and `fields`.

    Args:
        fields: per teacher, what is wanted besides logits.
        budget_gb: what the whole store may take on disk; a teacher whose hidden states don't fit any more is run live.
        max_tokens: padded tokens per batch.
        live: store nothing, run the teachers whenever they are asked.

    Raises:
        MethodError: a teacher cannot give a field.
        SignalError: the store cannot be written.
        TeacherError: an output is no finite number, or a table of outputs lacks rows.
    """
    started, found = time.perf_counter(), Prepared(None)
    for teacher, wanted in zip(teachers, fields, strict=True):
        _check(teacher, wanted)
    voices = [
        _voice(teacher, table, store, list(dict.fromkeys(wanted)), budget_gb * 1e9, max_tokens, live, found)
        for teacher, wanted in zip(teachers, fields, strict=True)
    ]
    found.report = [*store.warnings, *found.report]
    store.warnings.clear()
    found.source = Pool(voices)
    found.seconds = time.perf_counter() - started
    return found


def _voice(
    teacher: Teacher,
    table: Table,
    store: SignalStore,
    wanted: list[str],
    budget: float,
    max_tokens: int,
    live: bool,
    found: Prepared,
) -> Voice:
    """The teacher live, or its outputs read from the store after what was missing there has been scored."""
    if live or isinstance(teacher, TableTeacher):
        if isinstance(teacher, TableTeacher):
            teacher.outputs_for(table, unique_rows(table.ids))  # tells at once what the table lacks
        what = f"read from {teacher.file}" if isinstance(teacher, TableTeacher) else "run live in every step"
        found.report.append(f"teacher {teacher.name}: {what}")
        return LiveVoice(teacher, max_tokens)
    fingerprint = teacher.fingerprint
    names = ["logits", *(name for name in wanted if name != "logits")]
    tokens = partial(_tokens, teacher) if isinstance(teacher, CheckpointTeacher) else None
    missing = Missing(table, _fields_of(store, fingerprint, names), tokens)
    if not ranks.any_of(missing.total > 0):
        found.reused += missing.different
        found.report.append(f"teacher {teacher.name}: 0 rows scored; {missing.different:,} reused from {store.root}")
        return StoredVoice(teacher, missing.stores)
    lock = store.root / fingerprint[:16] / ".lock"
    busy = f"another process scores by {teacher.name} into {store.root}"
    lock_for_all = locked(lock, SignalError, busy, wait=True, what="teacher signals ")
    with lock_for_all if ranks.is_main() else nullcontext():
        ranks.barrier()  # the first one holds the lock for all
        missing = Missing(table, _fields_of(store, fingerprint, names), tokens)  # another may have scored meanwhile
        size = _bytes(teacher, missing, names)
        used = store.size() if size else 0
        if size and used + size > budget:
            found.report.append(
                f"teacher {teacher.name}: run live in every step; its hidden states would take {_gb(size)} beside the {_gb(used)} in "
                f"{store.root}, the budget is {_gb(budget)} (signals.disk_budget_gb; old folders there may be deleted)"
            )
            return LiveVoice(teacher, max_tokens)
        ranks.barrier()  # none has written before all have looked
        if ranks.is_main():
            store.register(teacher.name, fingerprint, teacher.parts)
        truncated = score_rows(teacher, missing, max_tokens, f"scoring by {teacher.name}")
        stores = _fields_of(store, fingerprint, names)
        ranks.barrier()
    reused = missing.different - missing.total
    found.forwards += missing.total
    found.reused += reused
    cut = f", {truncated:,} of them cut at {getattr(teacher, 'max_length', 0)} tokens" if truncated else ""
    found.report.append(
        f"teacher {teacher.name}: {missing.total:,} rows scored{cut}; {reused:,} reused from {store.root}"
    )
    return StoredVoice(teacher, stores)


def _fields_of(store: SignalStore, fingerprint: str, names: Sequence[str]) -> dict[str, FieldStore]:
    return {name: store.field(fingerprint, name) for name in names}


def _tokens(teacher: CheckpointTeacher, table: Table) -> Encoded:
    return encode(table, teacher.tokenizer, teacher.max_length, f"tokenising for {teacher.name}")


def _check(teacher: Teacher, wanted: Sequence[str]) -> None:
    for name in wanted:
        if teacher.can(name):
            continue
        if not isinstance(teacher, CheckpointTeacher):
            raise MethodError(
                f"teacher {teacher.name!r} gives outputs only, no hidden states ({name}): "
                "leave out feature and relation knowledge, or take this teacher out of the pool"
            )
        raise MethodError(
            f"teacher {teacher.name!r} cannot give {name!r}: expected cls.L, mean.L or hidden.L with L from 0 to {teacher.num_layers}, or "
            "query.L, key.L, value.L of a model that keeps them in linear maps of their own"
        )


def _bytes(teacher: Teacher, missing: Missing, names: Sequence[str]) -> int:
    """Size of pooled and hidden fields on disk, 2 bytes per number. Logits always fit: a few bytes per row."""
    if not isinstance(teacher, CheckpointTeacher):
        return 0
    whole = sum(per_token(name) for name in names)
    vectors = missing.total * (len(names) - 1 - whole) + (missing.lengths() * whole if whole else 0)
    return 2 * teacher.hidden_size * vectors


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


class LiveSignals(Pool):
    """Teachers that are run whenever they are asked, on the rows that were asked for only."""

    def __init__(self, teachers: Sequence[Teacher], max_tokens: int = 16384) -> None:
        super().__init__([LiveVoice(teacher, max_tokens) for teacher in teachers])
