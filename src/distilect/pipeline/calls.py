"""What teachers behind an API are asked for in a run: announced before it starts, or forecast without asking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distilect.config import RunConfig
from distilect.data import Data, Table, load_data
from distilect.models import EndpointTeacher, Teacher, resolve_path
from distilect.pipeline.teachers import named_teachers
from distilect.selection import asks_teachers
from distilect.signals import SignalStore, announce, bill_of


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
    data = load_data(config.data, config.task, config.seed, data_dir, paths[0] if paths else None)
    tables, also = _tables(data, config, True)
    store, found = SignalStore(Path(config.output) / config.signals.store), list[str]()
    for name, spec in specs.items():
        teacher = EndpointTeacher(name, spec, data.task, data_dir)
        answers = store.answers(teacher.fingerprint)
        bill = bill_of(teacher, answers, [*tables, *also])
        made = " beside the copies that data.augment makes" if config.data.augment else ""
        most = "at most " if also else ""
        if not bill.rows:
            found.append(f"teacher {name}: all answers are stored")
            continue
        for count in rows or [bill.rows]:
            tokens = round(bill.tokens / bill.rows * count)
            found.append(
                f"teacher {name}: {most}{count:,} rows to ask{made}; {count:,} calls where it gives log-probabilities of labels or several "
                f"samples at once, else up to {count * spec.samples:,}; about {tokens:,} tokens"
            )
    return found
