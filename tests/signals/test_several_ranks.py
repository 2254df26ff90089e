"""Scoring by several processes: the store is that of a single one, also when a rank died on the way."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilect import ranks
from distilect.errors import SignalError
from distilect.files import locked
from distilect.signals import FieldStore, SignalStore, prepare_signals, scoring
from tests.launch import fork, run_ranks, start_ranks, wait
from tests.signals.helpers import files, load, shards, table
from tests.tiny import tiny_bert

FIELDS = ["cls.1", "hidden.2"]
ROWS, CHUNK = 90, 8  # twelve chunks


def work(model: str, root: Path, dies_at: int | None = None) -> None:
    """What each rank does; rank 1 is killed when it has written the last field of its chunk `dies_at`."""
    ranks.start()
    if dies_at is not None and ranks.rank() == 1:
        add, chunks = scoring._add, []

        def dying(store: FieldStore, ids: Any, values: Any) -> None:
            add(store, ids, values)
            chunks.extend([1] * store.ragged)
            if len(chunks) == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

        scoring._add = dying
    found = prepare_signals([load(model)], table(ROWS), SignalStore(root), [FIELDS])
    print("scored", found.forwards, "reused", found.reused)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_bert(tmp_path_factory.mktemp("bert"), ["neg", "mid", "pos"])


@pytest.fixture
def alone(bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The store of a single process."""
    monkeypatch.setattr(scoring, "CHUNK", CHUNK)
    prepare_signals([load(bert)], table(ROWS), SignalStore(tmp_path / "alone"), [FIELDS])
    found = files(tmp_path / "alone")
    assert len(found) == 3 * 12
    return found


def test_two_ranks_fill_the_store_of_one_also_after_one_of_them_was_killed(
    bert: str, tmp_path: Path, alone: dict[str, bytes]
) -> None:
    root = tmp_path / "two"
    children = start_ranks(2, lambda: work(bert, root, dies_at=3), tmp_path)
    assert os.waitstatus_to_exitcode(os.waitpid(children[1], 0)[1]) == -9
    deadline = time.monotonic() + 250
    while time.monotonic() < deadline and len(shards(root)) < 3 * 9:
        time.sleep(0.05)  # rank 0 ends its own six chunks; then it waits, or has noticed
    with contextlib.suppress(ProcessLookupError):
        os.kill(children[0], signal.SIGKILL)  # as the launcher would
    os.waitpid(children[0], 0)
    left = files(root)
    assert set(left.items()) < set(alone.items())  # whole shards, under the names that they always have
    assert len(left) == 3 * 9
    said = run_ranks(2, lambda: work(bert, root), tmp_path)
    assert files(root) == alone
    assert f"scored {3 * CHUNK - 6} reused {ROWS - 3 * CHUNK + 6}" in said[0]  # only what the dead rank owed


def test_a_second_process_waits_for_the_one_that_scores(bert: str, tmp_path: Path) -> None:
    """It then reuses what was stored, and runs nothing."""
    teacher = load(bert)
    lock = tmp_path / teacher.fingerprint[:16] / ".lock"
    done: list[Any] = []

    def second() -> None:
        done.append(prepare_signals([load(bert)], table(20), SignalStore(tmp_path), [[]]))

    thread = threading.Thread(target=second)
    with locked(lock, SignalError, "busy", wait=False):
        thread.start()
        thread.join(timeout=3)
        assert thread.is_alive() and not shards(tmp_path)
        with pytest.raises(SignalError, match="busy"), locked(lock, SignalError, "busy", wait=False):
            pass
    thread.join(timeout=120)
    assert done and done[0].forwards == 20


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    def die() -> None:
        with locked(tmp_path / "x.lock", SignalError, "busy", wait=False):
            os.kill(os.getpid(), signal.SIGKILL)

    assert wait([fork(die, tmp_path / "log")]) == [-9]
    with locked(tmp_path / "x.lock", SignalError, "busy", wait=False):
        pass


def test_tables_of_many_blocks_are_scored_block_by_block(
    bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "CHUNK", CHUNK)
    rows = table(50)
    whole = prepare_signals([load(bert)], rows, SignalStore(tmp_path / "a"), [FIELDS])
    monkeypatch.setattr(scoring, "BLOCK", 16)
    parts = prepare_signals([load(bert)], rows, SignalStore(tmp_path / "b"), [FIELDS])
    assert (parts.forwards, parts.reused) == (50, 0)
    assert whole.source is not None and parts.source is not None
    said = [p.source.fetch(rows, np.arange(50), [FIELDS]) for p in (whole, parts)]  # type: ignore[union-attr]
    np.testing.assert_allclose(said[0].logits, said[1].logits, atol=1e-5)
    again = prepare_signals([load(bert)], rows, SignalStore(tmp_path / "b"), [FIELDS])
    assert (again.forwards, again.reused) == (0, 50)
