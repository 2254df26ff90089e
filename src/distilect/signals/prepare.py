"""Prepares the signals of a run: scores what the store lacks, and falls back to live teachers over the disk budget."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from distilect import ranks
from distilect.data import NOTABLE, Table
from distilect.errors import MethodError, SignalError
from distilect.files import locked
from distilect.models import CheckpointTeacher, EndpointTeacher, TableTeacher, Teacher, per_token, stored_name
from distilect.models.row_index import unique_rows
from distilect.signals.asked import AskedReader
from distilect.signals.base import Fields, Pool, Reader, SignalSource
from distilect.signals.readers import LiveReader, StoredReader
from distilect.signals.scoring import Missing, score_rows, token_format
from distilect.signals.store import SignalStore


@dataclass
class Prepared:
    """Signals that are ready to be read, and what it took.

    Attributes:
        source: None for methods without teachers.
        calibrations: by name of teacher, as `metrics.json` holds them.
        report: lines for the user, one per teacher and warning.
        notes: those of them that say what was cut or not known to a tokenizer.
        seconds: wall time of scoring.
        forwards: rows that teachers were run on, summed over teachers.
        reused: rows that were in the store already, summed over teachers.
        vectors: a frozen encoder's vectors, where a selector wants them.
    """

    source: Pool | None
    report: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    forwards: int = 0
    reused: int = 0
    vectors: SignalSource | None = None
    calibrations: dict[str, Any] = field(default_factory=dict)


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
        budget_gb: disk space of the whole store; a teacher whose hidden states no longer fit is run live.
        max_tokens: padded tokens per batch.
        live: store nothing, run the teachers whenever they are asked.

    Raises:
        MethodError: a teacher cannot give a field.
        SignalError: the store cannot be written.
        TeacherError: an output is no finite number, or a table of outputs lacks rows.
    """
    started, found, readers = time.perf_counter(), Prepared(None), list[Reader]()
    for teacher, wanted in zip(teachers, fields, strict=True):
        _check(teacher, wanted)
    for teacher, wanted in zip(teachers, fields, strict=True):
        if isinstance(teacher, TableTeacher):
            teacher.outputs_for(table, unique_rows(table.ids))  # raises before the run where the table lacks rows
            found.report.append(f"teacher {teacher.name}: read from {teacher.file}")
            readers.append(LiveReader(teacher, max_tokens))
        elif isinstance(teacher, EndpointTeacher):
            readers.append(_asked(teacher, table, store, live, found))
        elif live:
            found.report.append(f"teacher {teacher.name}: run live in every step")
            readers.append(LiveReader(teacher, max_tokens))
        else:
            names = list(dict.fromkeys(["logits", *wanted]))
            readers.append(_scored(teacher, table, store, names, budget_gb * 1e9, max_tokens, found))
    found.report = [*store.warnings, *found.report]
    store.warnings.clear()
    found.source = Pool(readers)
    found.seconds = time.perf_counter() - started
    return found


def _scored(
    teacher: Teacher,
    table: Table,
    store: SignalStore,
    names: list[str],
    budget: float,
    max_tokens: int,
    found: Prepared,
) -> Reader:
    """Reads the store, once what was missing there has been scored; over the disk budget the teacher is run live."""
    fingerprint = teacher.fingerprint

    def missing_now() -> Missing:
        return Missing(teacher, table, {name: store.field(fingerprint, stored_name(name, table)) for name in names})

    missing, scored, cut = missing_now(), 0, ""
    if ranks.any_of(missing.total > 0):
        lock = store.root / fingerprint[:16] / ".lock"
        busy = f"another process scores by {teacher.name} into {store.root}"
        lock_for_all = locked(lock, SignalError, busy, wait=True, what="teacher signals ")
        with lock_for_all if ranks.is_main() else nullcontext():
            ranks.barrier()  # the first rank holds the lock for all
            missing = missing_now()  # another process may have scored meanwhile
            size = _bytes(teacher, missing, names)
            used = store.size() if size else 0
            if size and used + size > budget:
                found.report.append(
                    f"teacher {teacher.name}: run live in every step; its signals would take {size / 1e9:.3g} GB beside the "
                    f"{used / 1e9:.3g} GB in {store.root}, the budget is {budget / 1e9:.3g} GB (signals.disk_budget_gb; old folders "
                    "there may be deleted)"
                )
                return LiveReader(teacher, max_tokens)
            ranks.barrier()  # no rank writes before all have looked
            if ranks.is_main():
                store.register(teacher.name, fingerprint, teacher.parts)
            scored = missing.total
            truncated, unknown = score_rows(teacher, missing, max_tokens)
            if truncated:
                cut = f", {truncated:,} of them cut at {getattr(teacher, 'max_length', 0)} tokens"
            if unknown >= NOTABLE:
                cut += f", {100 * unknown:.1f} % of the tokens unknown to its tokenizer"
            for name in names:
                store.field(fingerprint, stored_name(name, table))
            ranks.barrier()
    reused = missing.different - scored
    found.forwards += scored
    found.reused += reused
    line = f"teacher {teacher.name}: {scored:,} rows scored{cut}; {reused:,} reused from {store.root}"
    found.report.append(line)
    if cut:
        found.notes.append(line)
    return StoredReader(teacher, missing.stores)


def _asked(teacher: EndpointTeacher, table: Table, store: SignalStore, live: bool, found: Prepared) -> Reader:
    """Reads the answers, once those that are missing have been asked for; in a live run they are when training wants them."""
    answers = store.answers(teacher.fingerprint)
    reader = AskedReader(teacher, answers, table)
    if ranks.is_main():
        store.register(teacher.name, teacher.fingerprint, teacher.parts)
    if live:
        found.report.append(
            f"teacher {teacher.name}: asked in training for the rows that want it; answers are kept in {answers.path}"
        )
        return reader
    asked = reader.ask_all(table)
    reused = max(0, len(unique_rows(table.ids)) - asked)  # the probe may be of another table
    found.forwards += asked
    found.reused += reused
    found.report.append(
        f"teacher {teacher.name}: {asked:,} rows asked; {reused:,} reused from {store.root}{reader.report(table)}"
    )
    return reader


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
            f"teacher {teacher.name!r} cannot give {name!r}: expected cls.L, mean.L or hidden.L with L from 0 to "
            f"{teacher.num_layers}, or query.L, key.L, value.L of a model that keeps them in linear maps of their own"
        )


def _bytes(teacher: Teacher, missing: Missing, names: Sequence[str]) -> int:
    """Size of pooled and hidden fields on disk, 2 bytes per number, and of a language model's outputs at each token. Other logits always
    fit: a few bytes per row."""
    if not isinstance(teacher, CheckpointTeacher):
        return 0
    kept = token_format(teacher)
    outputs = kept.width * missing.units() if kept is not None and "logits" in names else 0
    whole = sum(per_token(stored_name(name, missing.table)) for name in names if name != "logits")
    vectors = missing.total * (len(names) - 1 - whole) + (missing.tokens() * whole if whole else 0)
    return 2 * teacher.hidden_size * vectors + outputs
