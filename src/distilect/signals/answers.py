"""The answers of a teacher behind an API, each on disk as it comes: a line of JSON per row, found by row identity.

    ROOT/<teacher fingerprint>/answers.jsonl     {"way": …}, how the teacher is asked; {"id", "logits", "calls", "tokens", "off"},
                                                 an answer; {"id", "why", "calls", "tokens"}, a row that was not answered

A line carries its own checksum and is appended in one write, so that a kill costs what is under way at most, and several processes may
write at once. A damaged line is left out and reported, and its row asked again.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect.errors import SignalError, why_unwritable
from distilect.models import Answer
from distilect.models.row_index import Ids, unique_rows


class Answers:
    """All answers of one teacher.

    Args:
        warnings: what was found damaged is added to it.

    Attributes:
        way: how the teacher was asked first; it is asked so again.
        calls, tokens: spent on all of the file's lines.
        off: samples that are no label.
        failed: rows that this process has asked in vain, and why.
        fresh: rows that this process has asked, until `take_fresh` counts them.
    """

    def __init__(self, path: Path, warnings: list[str]) -> None:
        self.path, self.warnings = path, warnings
        self.way: str | None = None
        self.calls = self.tokens = self.off = self.fresh = 0
        self.failed: dict[bytes, str] = {}
        self._logits: dict[bytes, NDArray[np.float32]] = {}
        self._read = 0  # bytes of the file that are in memory
        self._lock = RLock()
        self.refresh()

    def __len__(self) -> int:
        return len(self._logits)

    def refresh(self) -> None:
        """Take in the lines that this or another process has added."""
        with self._lock:
            try:
                with self.path.open("rb") as file:
                    file.seek(self._read)
                    content = file.read()
            except FileNotFoundError:
                return
            except OSError as error:
                raise SignalError(f"cannot read {self.path}: {error.strerror or error}") from None
            whole = content[: content.rfind(b"\n") + 1]  # the last line may be half-written
            self._read += len(whole)
            damaged = sum(not self._take(line) for line in whole.splitlines() if line)
            if damaged:
                self.warnings.append(f"{self.path}: {damaged:,} damaged lines are left out, their rows are asked again")

    def lacking(self, ids: Ids) -> NDArray[np.int64]:
        """Row numbers, ascending: one per identity that has no answer and was not asked in vain by this process."""
        first = np.sort(unique_rows(ids))
        known = [(key := _key(row)) in self._logits or key in self.failed for row in ids[first]]
        return np.asarray(first[~np.array(known, dtype=bool)], dtype=np.int64)

    def unanswered(self, ids: Ids) -> list[str]:
        """Why rows have no answer, one per identity that was asked in vain."""
        return [self.failed[key] for row in ids[unique_rows(ids)] if (key := _key(row)) in self.failed]

    def logits(self, ids: Ids, width: int) -> NDArray[np.float32]:
        """float32 [n, C]; a row that was asked in vain has zeros (each label is as likely), in a regression the mean of all answers."""
        found = [self._logits.get(_key(row)) for row in ids]
        fill = np.zeros(width)
        if width == 1 and self._logits and any(one is None for one in found):
            fill = np.mean(list(self._logits.values()), axis=0)
        rows = [fill if one is None else one for one in found]
        return np.asarray(rows, dtype=np.float32).reshape(len(ids), width)

    def give_up(self, ids: Ids) -> None:
        """Take the rows that have no answer for asked in vain: by another rank."""
        for row in ids[self.lacking(ids)]:
            self.failed[_key(row)] = "asked by another process"

    def take_fresh(self) -> int:
        """How many rows this process has asked since this was called last."""
        with self._lock:
            count, self.fresh = self.fresh, 0
        return count

    def begin(self, way: str) -> None:
        """Note how the teacher is asked."""
        self._append({"way": way})

    def add(self, row: NDArray[np.uint64], answer: Answer) -> None:
        """Keep the answer for a row of identity uint64 [2].

        Raises:
            SignalError: the disk is full or cannot be written; earlier answers are kept.
        """
        with self._lock:
            self.fresh += 1
        spent = {"id": _key(row).hex(), "calls": answer.calls, "tokens": answer.tokens}
        if answer.logits is None:
            self.failed[_key(row)] = answer.why
            self._append({**spent, "why": answer.why})
        else:
            self._append({**spent, "logits": [float(value) for value in answer.logits], "off": answer.off})

    def _append(self, line: dict[str, Any]) -> None:
        content = f"{json.dumps({**line, 'check': _check(line)})}\n".encode()
        with self._lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("ab+") as file:
                    end = file.tell()
                    if end and not _ends_a_line(file, end):  # what a kill has cut
                        content = b"\n" + content
                    file.write(content)
            except OSError as error:
                raise SignalError(
                    f"cannot write answers to {self.path}: {why_unwritable(error)}; those before are kept: make room and run again"
                ) from None
            self.refresh()

    def _take(self, line: bytes) -> bool:
        """Whether a line is whole; takes in what it says."""
        try:
            found = json.loads(line)
            if found.pop("check") != _check(found):
                return False
        except (ValueError, TypeError, KeyError, AttributeError):
            return False
        self.way = self.way or found.get("way")
        self.calls += found.get("calls", 0)
        self.tokens += found.get("tokens", 0)
        if "logits" in found:
            self._logits[bytes.fromhex(found["id"])] = np.array(found["logits"], np.float32)
            self.off += found["off"]
        return True


def _key(row: NDArray[np.uint64]) -> bytes:
    """16 bytes, the same on every machine."""
    return row.astype(">u8").tobytes()


def _check(line: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()[:12]


def _ends_a_line(file: Any, end: int) -> bool:
    file.seek(end - 1)
    last: bytes = file.read(1)
    file.seek(0, os.SEEK_END)
    return last == b"\n"
