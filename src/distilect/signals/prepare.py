"""Make sure that the signals of a run are there: score what is missing, fall back to live teachers over the disk budget."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from distilect.data import Table, encode
from distilect.errors import MethodError
from distilect.models import CheckpointTeacher, Teacher
from distilect.signals.base import Fields, Pool, SignalSource, Voice
from distilect.signals.scoring import LiveVoice, StoredVoice, score_missing, unique_rows
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
    """

    source: SignalSource | None
    report: list[str] = field(default_factory=list)
    seconds: float = 0.0
    forwards: int = 0
    reused: int = 0

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
        budget_gb: what one teacher's signals on this table may take on disk; a teacher above it is run live.
        max_tokens: padded tokens per batch.
        live: store nothing, run the teachers whenever they are asked.

    Raises:
        MethodError: a teacher cannot give a field.
        SignalError: the store cannot be written.
        TeacherError: an output is no finite number.
    """
    started, found = time.perf_counter(), Prepared(None)
    voices: list[Voice] = []
    for teacher, wanted in zip(teachers, fields, strict=True):
        _check(teacher, wanted)
        size = _bytes(teacher, table, wanted)
        if live or size > budget_gb * 1e9:
            why = "asked for" if live else f"its signals would take {size / 1e9:.1f} GB, the budget is {budget_gb:g} GB"
            found.report.append(f"teacher {teacher.name}: run live ({why})")
            voices.append(LiveVoice(teacher, max_tokens))
        else:
            voices.append(_stored(teacher, table, store, wanted, max_tokens, found))
    found.report = [*store.warnings, *found.report]
    store.warnings.clear()
    found.source = Pool(voices)
    found.seconds = time.perf_counter() - started
    return found


def _stored(teacher: Teacher, table: Table, store: SignalStore, wanted: Sequence[str], max_tokens: int, found: Prepared) -> Voice:
    """Score what is missing and open the result."""
    fingerprint = teacher.fingerprint
    store.register(teacher.name, fingerprint, teacher.parts)
    names = ["logits", *wanted]
    stores = {name: store.field(fingerprint, name) for name in names}
    total = len(unique_rows(table))
    scored = score_missing(teacher, table, stores, max_tokens, f"scoring by {teacher.name}")
    if scored:
        stores = {name: store.field(fingerprint, name) for name in names}
    found.forwards += scored
    found.reused += total - scored
    found.report.append(f"teacher {teacher.name}: {scored:,} rows scored, {total - scored:,} reused from {store.root}")
    return StoredVoice(teacher, stores)


def _check(teacher: Teacher, wanted: Sequence[str]) -> None:
    for name in wanted:
        if not teacher.can(name):
            raise MethodError(
                f"teacher {teacher.name!r} cannot give {name!r}: it has outputs only, or fewer layers; "
                "leave out feature and relation knowledge, or take this teacher out of the pool"
            )


def _bytes(teacher: Teacher, table: Table, wanted: Sequence[str]) -> float:
    """Estimated size of the fields on disk: 2 bytes per number, tokens guessed from a sample of 1,000 rows."""
    if not wanted or not isinstance(teacher, CheckpointTeacher):
        return 0.0
    whole = sum(name.startswith("hidden.") for name in wanted)
    per_row = 2.0 * teacher.hidden_size * (len(wanted) - whole)
    if whole:
        sample = table.take(unique_rows(table)[:1000])
        tokens = float(encode(sample, teacher.tokenizer, teacher.max_length).lengths.mean()) if len(sample) else 0.0
        per_row += 2.0 * teacher.hidden_size * whole * tokens
    return per_row * len(table)


class LiveSignals(Pool):
    """Teachers that are run whenever they are asked, on the rows that were asked for only."""

    def __init__(self, teachers: Sequence[Teacher], max_tokens: int = 16384) -> None:
        super().__init__([LiveVoice(teacher, max_tokens) for teacher in teachers])
