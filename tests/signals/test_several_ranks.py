"""Scoring by several processes: the store is that of a single one, also when a rank died on the way."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilect.errors import SignalError
from distilect.locks import locked
from distilect.signals import SignalStore, prepare_signals, scoring
from tests.launch import environment, finish, run_ranks, start_ranks
from tests.signals.helpers import files, load, shards, table
from tests.tiny import tiny_bert

FIELDS = ["cls.1", "hidden.2"]
ROWS, CHUNK = 90, 8  # twelve chunks
WORKER = f"""
import os, sys
from pathlib import Path
from distilect import ranks
from distilect.signals import SignalStore, prepare_signals, scoring
from tests.signals.helpers import load, table

scoring.CHUNK = {CHUNK}
model, root, die = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
ranks.start()
if die >= 0 and ranks.rank() == 1:  # as kill -9: no handler, no clean-up
    add = scoring._add
    def dying(*arguments):
        add(*arguments)
        if arguments[-1] >= die and arguments[0].ragged:  # the last field of a chunk
            os.kill(os.getpid(), 9)
    scoring._add = dying
found = prepare_signals([load(model)], table({ROWS}), SignalStore(root), [{FIELDS!r}])
print(ranks.rank(), found.forwards, found.reused)
"""


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
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER, encoding="utf-8")
    root = tmp_path / "two"
    processes = start_ranks(2, [str(worker), bert, str(root), "5"])
    assert processes[1].wait(timeout=280) == -9
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(shards(root))) < 3 * 9:
        time.sleep(0.2)  # rank 0 ends its own six chunks; then it waits, and the launcher would end it
    for process in processes:
        process.kill()
    finish(processes)
    left = files(root)
    assert set(left.items()) < set(alone.items())  # whole shards, under the names that they always have
    assert len(left) == 3 * 9
    said = run_ranks(2, [str(worker), bert, str(root), "-1"])
    assert files(root) == alone
    assert any(f"0 {3 * CHUNK - 6} " in line for line in said[0].splitlines())  # only what the dead rank owed


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
    code = (
        "import os, sys; from pathlib import Path; from distilect.locks import locked\n"
        f"with locked(Path({str(tmp_path / 'x.lock')!r}), OSError, 'busy', wait=False): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=environment(), check=False).returncode == -9
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
