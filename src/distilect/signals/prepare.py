"""Make sure that the signals of a run are there: score what is missing, fall back to live teachers over the disk budget."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from distilect.data import Encoded, Table, encode
from distilect.errors import MethodError
from distilect.models import CheckpointTeacher, TableTeacher, Teacher, per_token
from distilect.models.row_index import unique_rows
from distilect.signals.base import Fields, Pool, SignalSource, Voice
from distilect.signals.scoring import LiveVoice, StoredVoice, missing_rows, score_rows
from distilect.signals.store import SignalStore


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
    """

    source: SignalSource | None
    report: list[str] = field(default_factory=list)
    seconds: float = 0.0
    forwards: int = 0
    reused: int = 0
    vectors: SignalSource | None = None

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
    stores = {name: store.field(fingerprint, name) for name in names}
    missing = missing_rows(table, stores)
    todo = table.take(missing)
    encoded = None
    if len(todo):
        encoded = _tokens(teacher, todo)
        size, used = _bytes(teacher, encoded, names), store.size()
        if size and used + size > budget:
            found.report.append(
                f"teacher {teacher.name}: run live in every step; its hidden states would take {_gb(size)} beside the {_gb(used)} in "
                f"{store.root}, the budget is {_gb(budget)} (signals.disk_budget_gb; old folders there may be deleted)"
            )
            return LiveVoice(teacher, max_tokens)
        store.register(teacher.name, fingerprint, teacher.parts)
        score_rows(teacher, todo, encoded, stores, max_tokens, f"scoring by {teacher.name}")
        stores = {name: store.field(fingerprint, name) for name in names}
    reused = len(unique_rows(table.ids)) - len(missing)
    found.forwards += len(missing)
    found.reused += reused
    cut = (
        f", {encoded.truncated:,} of them cut at {encoded.max_length} tokens"
        if encoded and encoded.truncated
        else ""
    )
    found.report.append(
        f"teacher {teacher.name}: {len(missing):,} rows scored{cut}; {reused:,} reused from {store.root}"
    )
    return StoredVoice(teacher, stores)


def _tokens(teacher: Teacher, table: Table) -> Encoded | None:
    if not isinstance(teacher, CheckpointTeacher):
        return None
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


def _bytes(teacher: Teacher, encoded: Encoded | None, names: Sequence[str]) -> int:
    """Size of pooled and hidden fields on disk, 2 bytes per number. Logits always fit: a few bytes per row."""
    if encoded is None or not isinstance(teacher, CheckpointTeacher):
        return 0
    whole = sum(per_token(name) for name in names)
    vectors = len(encoded) * (len(names) - 1 - whole) + int(encoded.lengths.sum(dtype="int64")) * whole
    return 2 * teacher.hidden_size * vectors


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


class LiveSignals(Pool):
    """Teachers that are run whenever they are asked, on the rows that were asked for only."""

    def __init__(self, teachers: Sequence[Teacher], max_tokens: int = 16384) -> None:
        super().__init__([LiveVoice(teacher, max_tokens) for teacher in teachers])
