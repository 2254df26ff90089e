"""What teachers behind an API are asked for in a run: announced before it starts, or forecast without asking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distilect.config import RunConfig
from distilect.data import Data, Table
from distilect.models import EndpointTeacher, Teacher, resolve_path
from distilect.pipeline.teachers import data_of, named_teachers
from distilect.selection import asks_teachers
from distilect.signals import Answers, SignalStore, announce, bill_of


def announce_calls(teachers: Sequence[Teacher], data: Data, config: RunConfig, store: SignalStore, whole: bool) -> None:
    """Print what each teacher behind an API will cost, and refuse what its budget does not allow.

    Args:
        whole: all rows are scored, not the validation split alone.
    """
    tables, also = _tables(data, config, whole)
    for teacher in teachers:
        if isinstance(teacher, EndpointTeacher) and (tables or also):
            announce(teacher, store.answers(teacher.fingerprint), tables, also)


def _tables(data: Data, config: RunConfig, whole: bool) -> tuple[list[Table], list[Table]]:
    """(tables whose rows are all asked, those whose rows may be)."""
    asked = data.agreement or any(map(asks_teachers, (config.method, *config.baselines)))
    tables = [data.validation] if asked or not whole else []
    if whole and data.dev is not None:  # which the report compares student and teachers on
        tables.append(data.dev)
    train = [data.distillation] if whole and asked else []
    return ([*tables], train) if config.signals.live else ([*train, *tables], [])


def forecast(config: RunConfig, rows: Sequence[int] = ()) -> list[str]:
    """What such teachers will cost, a line each; asks nothing.

    Args:
        rows: for so many rows like those of the tables, in place of these.
    """
    specs = {name: spec for name, spec in named_teachers(config).items() if spec.endpoint is not None}
    if not specs:
        return []
    paths = [resolve_path(teacher.path) for teacher in config.teachers if teacher.path]
    data_dir = Path(config.data_dir)
    data = data_of(config, paths[0] if paths else None)
    tables, also = _tables(data, config, True)
    store, found = SignalStore(Path(config.output) / config.signals.store), list[str]()
    for name, spec in specs.items():
        teacher = EndpointTeacher(name, spec, data.task, data_dir)
        answers = store.answers(teacher.fingerprint)
        due = bill_of(teacher, answers, [*tables, *also]).rows
        if not due:
            found.append(f"teacher {name}: all answers are stored")
            continue
        made = ", and the copies that data.augment makes" if config.data.augment else ""
        for count in rows or [due]:
            found.append(
                f"teacher {name}: {'at most ' if also else ''}{count:,} rows to ask{made}; by what the server gives:"
            )
            for way in [answers.way] if answers.way else ("completions", "chat", "samples"):
                if way in teacher.ways:
                    found.append(f"  {way:<14}{_cost(teacher, way, answers, [*tables, *also], count)}")
    return found


def _cost(teacher: EndpointTeacher, way: str, answers: Answers, tables: Sequence[Table], rows: int) -> str:
    """Calls and tokens of so many rows like those of the tables; of samples, from one call per row to one per sample."""
    most, costs = teacher.spec.samples if way.startswith("samples") else 1, list[tuple[str, str]]()
    for teacher.row_calls in sorted({1, most}):
        teacher.way = way
        bill = bill_of(teacher, answers, tables)
        costs.append((f"{teacher.row_calls * rows:,}", f"{round(bill.tokens / bill.rows * rows):,}"))
    calls, tokens = (" to ".join(each) for each in zip(*costs, strict=True))
    return f"{calls} calls, about {tokens} tokens"
