"""A teacher behind an API as a source of signals: every answer is kept, and no row is asked twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilect import ranks
from distilect.data import Table
from distilect.errors import DistilectError, SignalError, TeacherError
from distilect.files import locked
from distilect.models import Answer, EndpointTeacher
from distilect.models.endpoint import WAYS
from distilect.models.row_index import unique_rows
from distilect.progress import bar, console
from distilect.signals.answers import Answers
from distilect.signals.base import Rows

SHARE, FEW = 0.05, 3  # of the rows may go without an answer, and so many of any table
BLOCK = 4096  # rows that are handed to the threads at a time
SAMPLE = 1000  # rows that tokens are estimated from
PROBES = 3  # rows that are tried, as the first one may have no answer


@dataclass(frozen=True)
class Bill:
    """What is still to be asked.

    Attributes:
        rows: different ones without an answer.
        calls, tokens: that they take, about; calls are one per row or, where the way is not known yet, at most so many.
    """

    rows: int
    calls: int
    tokens: int

    def text(self) -> str:
        return f"{self.rows:,} rows to ask, {self.calls:,} calls, about {self.tokens:,} tokens"


def bill_of(teacher: EndpointTeacher, answers: Answers, tables: Sequence[Table]) -> Bill:
    """What the rows of some tables cost that have no answer yet; asks nothing."""
    ids = np.concatenate([np.empty((0, 2), np.uint64), *(table.ids for table in tables)])
    rows = answers.lacking(ids)
    shown = rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(np.int64)] if len(rows) else rows
    starts, tokens = np.cumsum([0, *map(len, tables)]), list[int]()
    for table, start, end in zip(tables, starts, starts[1:], strict=False):
        tokens += [teacher.estimate(texts) for texts in table.text(shown[(start <= shown) & (shown < end)] - start)]
    calls = len(rows) * (teacher.row_calls if teacher.way else teacher.spec.samples)
    return Bill(len(rows), calls, round(len(rows) * float(np.mean(tokens))) if tokens else 0)


def announce(teacher: EndpointTeacher, answers: Answers, tables: Sequence[Table], also: Sequence[Table] = ()) -> None:
    """Find out how the teacher answers, print what it will cost, and refuse what its budget does not allow. All ranks call it.

    Args:
        tables: whose rows will all be asked.
        also: whose rows may be asked, in a live run.

    Raises:
        TeacherError: the budget does not allow it; nothing but the probe has been asked.
    """
    if ranks.is_main() and bill_of(teacher, answers, [*tables, *also]).rows:
        with asking(answers, teacher.name):
            answers.refresh()
            for table in [*tables, *also]:
                find_way(teacher, answers, table)
            due, most = bill_of(teacher, answers, tables), bill_of(teacher, answers, [*tables, *also])
            more = f"; at most {most.calls:,} calls in all, as training asks for further rows" if also else ""
            console.print(f"teacher {teacher.name}: {due.text()}, {teacher.describe()}{more}", markup=False)
            check_budget(teacher, answers, due)
    ranks.barrier()
    find_way(teacher, answers, [*tables, *also][0].take(np.empty(0, np.int64)))  # that of the answers, on all ranks


@contextmanager
def asking(answers: Answers, name: str) -> Iterator[None]:
    """Held while a process asks, so that two do not ask the same rows."""
    busy = f"another process asks {name} into {answers.path.parent}"
    with locked(answers.path.with_name(".lock"), SignalError, busy, wait=True, what="answers "):
        yield


def find_way(teacher: EndpointTeacher, answers: Answers, table: Table) -> None:
    """That of the answers which are there, or the first one that the server gives; the answer which finds it is kept."""
    if teacher.way is not None:
        return
    answers.refresh()
    if answers.way in WAYS:
        teacher.way = answers.way
        if len(answers) and answers.way.startswith("samples"):
            teacher.row_calls = max(1, min(teacher.spec.samples, round(answers.calls / len(answers))))
        return
    rows = answers.lacking(table.ids)[:PROBES]
    if not len(rows):
        return
    way, number, answer = teacher.probe(table.text(rows))
    answers.begin(way)
    answers.add(table.ids[rows[number]], answer)


def check_budget(teacher: EndpointTeacher, answers: Answers, due: Bill) -> None:
    """Raise where a bill is more than the budget leaves."""
    limits = (("call", answers.calls, due.calls), ("token", answers.tokens, due.tokens))
    for kind, spent, wanted in limits:
        limit = getattr(teacher.spec, f"{kind}_budget")
        if limit is not None and spent + wanted > limit:
            raise TeacherError(
                f"teacher {teacher.name!r}: {due.rows:,} rows take about {wanted:,} {kind}s, {spent:,} were spent before, the budget is "
                f"{limit:,}: raise {kind}_budget, or give it fewer rows; what was answered is kept"
            )


class AskedReader:
    """Reads a teacher's answers, and asks for those that are not there.

    Args:
        table: of which at most `SHARE` of the rows may stay without an answer.
    """

    def __init__(self, teacher: EndpointTeacher, answers: Answers, table: Table) -> None:
        self.teacher, self.answers = teacher, answers
        self.name = teacher.name
        self.forwards = 0
        self._most = max(FEW, SHARE * len(unique_rows(table.ids)))
        self._lock, self._under_way, self._failed = Lock(), 0, 0
        self._broken: DistilectError | None = None

    def read(self, table: Table, rows: Rows, fields: Sequence[str]) -> dict[str, Tensor]:
        """See `Reader`; logits only."""
        ids = table.ids[rows]
        lacking = self.answers.lacking(ids)
        if len(lacking):
            self.ask(table, np.asarray(rows, dtype=np.int64)[lacking])
            self.forwards += self.answers.take_fresh()
        return {"logits": torch.from_numpy(self.answers.logits(ids, len(self.teacher.order)))}

    def ask_all(self, table: Table) -> int:
        """Ask for all rows without an answer, on rank 0; returns how many these were."""
        if ranks.is_main():
            with asking(self.answers, self.name):
                self.answers.refresh()
                find_way(self.teacher, self.answers, table)
                check_budget(self.teacher, self.answers, bill_of(self.teacher, self.answers, [table]))
                self.ask(table, self.answers.lacking(table.ids))
        ranks.barrier()
        if not ranks.is_main():
            self.answers.refresh()
            self.answers.give_up(table.ids)
        return ranks.from_main(self.answers.take_fresh())

    def ask(self, table: Table, rows: NDArray[np.int64]) -> None:
        """Ask for some rows, several at a time; each answer is kept as it comes.

        Raises:
            TeacherError: the server refuses, the budget is spent, or too many rows stay without an answer. What was answered is kept.
        """
        find_way(self.teacher, self.answers, table)
        threads = ThreadPoolExecutor(self.teacher.spec.concurrency)
        try:
            with bar() as progress:
                task = progress.add_task(f"asking {self.name}", total=len(rows))
                for start in range(0, len(rows), BLOCK):
                    block = rows[start : start + BLOCK]
                    for _ in threads.map(self._one, table.ids[block], table.text(block)):
                        progress.advance(task)
        finally:  # after an error or Ctrl-C the rows under way are waited for, and kept
            threads.shutdown(cancel_futures=True)

    def _one(self, row: NDArray[np.uint64], texts: Sequence[str]) -> None:
        """Ask for one row, in a thread of its own."""
        if not len(self.answers.lacking(row[None])):  # it was the probe's
            return
        with self._lock:
            if self._broken is not None:
                raise self._broken
            self._check_spent()
            self._under_way += 1
        try:
            answer = self.teacher.answer(texts)
            self.teacher.refuse(answer, (401, 403, 404))
            self.answers.add(row, answer)
            self._count(answer)
        except DistilectError as error:
            self._broken = error
            raise
        finally:
            with self._lock:
                self._under_way -= 1

    def _check_spent(self) -> None:
        """Rows under way are counted as if they were answered."""
        ahead = self._under_way + 1
        spent = self.answers.calls + ahead * self.teacher.row_calls
        for kind, found in (("call", spent), ("token", self.answers.tokens)):
            limit = getattr(self.teacher.spec, f"{kind}_budget")
            if limit is not None and found > limit:
                raise TeacherError(
                    f"teacher {self.name!r}: the budget of {limit:,} {kind}s is spent; {len(self.answers):,} answers are kept in "
                    f"{self.answers.path}: raise {kind}_budget and run again"
                )

    def _count(self, answer: Answer) -> None:
        with self._lock:
            self._failed += answer.logits is None
            if self._failed > self._most:
                raise TeacherError(
                    f"teacher {self.name!r}: {self._failed:,} rows have no answer, more than {SHARE:.0%} of the table ({answer.why}); "
                    f"{len(self.answers):,} answers are kept in {self.answers.path}: see to the server or the prompt, and run again"
                )

    def report(self, table: Table) -> str:
        """What there is to say of the answers for a table, after a semicolon each."""
        unanswered, samples = self.answers.unanswered(table.ids), len(self.answers) * self.teacher.spec.samples
        parts = []
        if unanswered:
            filled = "the mean of all answers" if self.teacher.task.kind == "regression" else "equal probabilities"
            parts.append(f"{len(unanswered):,} rows without an answer have {filled} ({unanswered[0]})")
        if self.answers.off:
            parts.append(f"{self.answers.off:,} of {samples:,} samples are no label")
        return "".join(f"; {part}" for part in parts)
