"""The store: what is on disk is whole, checked, found by identity and never stale."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from distilect.data import Table
from distilect.errors import MethodError, SignalError, TeacherError
from distilect.models import CallableTeacher, CheckpointTeacher
from distilect.models.row_index import RowIndex, unique_rows
from distilect.signals import Prepared, SignalStore, prepare_signals, scoring
from distilect.signals import store as store_module
from tests.launch import fork, wait
from tests.signals.helpers import TASK, files, load, shards, table
from tests.tiny import tiny_bert


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_bert(tmp_path_factory.mktemp("teacher"), TASK.labels, seed=3)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK", 8)


def score(path: str, rows: Table, root: Path, fields: tuple[str, ...] = (), **options: Any) -> Prepared:
    return prepare_signals([load(path)], rows, SignalStore(root), [fields], **options)


def test_teachers_run_once_and_a_second_run_only_reads(bert: str, tmp_path: Path) -> None:
    first, second = score(bert, table(30), tmp_path), score(bert, table(30), tmp_path)
    assert (first.forwards, first.reused) == (30, 0)
    assert (second.forwards, second.reused) == (0, 30)
    assert "30 reused" in second.report[0]


def test_repeated_rows_are_run_once(bert: str, tmp_path: Path) -> None:
    rows = table(10)
    prepared = score(bert, Table.concat([rows, rows]), tmp_path)
    assert prepared.forwards == 10
    assert prepared.source is not None
    logits = prepared.source.fetch(Table.concat([rows, rows]), np.arange(20), [[]]).logits
    assert (logits[:10] == logits[10:]).all()


def test_edited_text_is_scored_again_and_nothing_else(bert: str, tmp_path: Path) -> None:
    score(bert, table(30), tmp_path)
    texts = [row[0] for row in table(30).text(range(30))]
    texts[4] += " indeed"
    again = score(bert, Table.from_texts(texts), tmp_path)
    assert (again.forwards, again.reused) == (1, 29)


def test_a_flipped_byte_is_found_told_and_recomputed(bert: str, tmp_path: Path) -> None:
    score(bert, table(30), tmp_path)
    before = files(tmp_path)
    victim = max(shards(tmp_path), key=lambda path: path.stat().st_size)  # not the last, which has fewer rows
    damaged = bytearray(victim.read_bytes())
    damaged[-1] ^= 1
    victim.write_bytes(damaged)
    again = score(bert, table(30), tmp_path)
    assert again.forwards == 8
    assert "damaged" in again.report[0] and victim.name in again.report[0]
    assert victim.with_name(victim.name + ".damaged").exists()
    assert sorted(content for content in files(tmp_path).values()) == sorted(before.values())


def test_a_flipped_byte_is_found_by_a_store_that_has_the_file_open(bert: str, tmp_path: Path) -> None:
    store, teacher = SignalStore(tmp_path), load(bert)
    prepare_signals([teacher], table(30), store, [["mean.1"]])
    pooled = [path for path in shards(tmp_path) if path.parent.name == "mean.1"]
    victim = max(pooled, key=lambda path: path.stat().st_size)  # not the last, which has fewer rows
    damaged = bytearray(victim.read_bytes())
    damaged[-3] ^= 8
    victim.write_bytes(damaged)
    again = prepare_signals([teacher], table(30), store, [["mean.1"]])
    assert again.forwards == 8 and "damaged" in again.report[0]


@pytest.mark.parametrize("content", [b"", b"not a shard", b"\xff" * 400])
def test_rubbish_in_place_of_a_shard_is_put_aside(bert: str, tmp_path: Path, content: bytes) -> None:
    score(bert, table(12), tmp_path)
    max(shards(tmp_path), key=lambda path: path.stat().st_size).write_bytes(content)
    assert score(bert, table(12), tmp_path).forwards == 8


def _weights(folder: Path) -> str:
    return tiny_bert(folder, TASK.labels, seed=4)


def _tokenizer(folder: Path) -> str:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"lowercase": true', '"lowercase": false'))
    return str(folder)


def _config(folder: Path) -> str:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    return str(folder)


@pytest.mark.parametrize(("change", "told"), [(_weights, "weights"), (_tokenizer, "tokenizer"), (_config, "config")])
def test_a_changed_teacher_is_reported_and_scored_again(tmp_path: Path, change: Any, told: str) -> None:
    path = tiny_bert(tmp_path / "teacher", TASK.labels, seed=3)
    score(path, table(9), tmp_path / "store")
    change(tmp_path / "teacher")
    again = score(path, table(9), tmp_path / "store")
    assert again.forwards == 9
    assert f"teacher t: {told} changed" in again.report[0]


def test_another_maximum_length_or_precision_is_another_signal(bert: str, tmp_path: Path) -> None:
    score(bert, table(9), tmp_path)
    for teacher in (load(bert, max_length=8), load(bert, precision="bf16")):
        assert prepare_signals([teacher], table(9), SignalStore(tmp_path), [[]]).forwards == 9


def test_disk_full_leaves_nothing_half_written_and_keeps_earlier_shards(
    bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 3:  # the manifest and two shards fit
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SignalError, match="the disk is full; what was stored before is kept"):
        score(bert, table(30), tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(scoring, "CHUNK", 8)
    assert len(shards(tmp_path)) == 2
    assert not list(tmp_path.rglob("*.tmp"))
    assert score(bert, table(30), tmp_path).forwards == 30 - 16


def test_a_store_that_is_a_file_is_one_clear_line(bert: str, tmp_path: Path) -> None:
    (tmp_path / "signals").write_text("no folder")
    with pytest.raises(SignalError, match="cannot write teacher signals"):
        score(bert, table(3), tmp_path / "signals")


def score_slowly(bert: str, folder: Path) -> None:
    """What the killed process does: 0.15 s a batch, so that a kill falls within it."""
    forward = CheckpointTeacher.forward

    def slow(self: CheckpointTeacher, *given: Any) -> Any:
        time.sleep(0.15)
        return forward(self, *given)

    with mock.patch.object(CheckpointTeacher, "forward", slow):
        prepare_signals([load(bert)], table(100), SignalStore(folder), [["cls.1", "hidden.2"]], max_tokens=64)


def test_kill_9_at_any_moment_keeps_the_finished_part_and_gives_the_same_bytes(bert: str, tmp_path: Path) -> None:
    fields = ("cls.1", "hidden.2")
    score(bert, table(100), tmp_path / "whole", fields, max_tokens=64)
    for attempt in range(2):
        child = fork(lambda: score_slowly(bert, tmp_path / "killed"), tmp_path / "log")
        deadline = time.time() + 60
        while len(shards(tmp_path / "killed")) < 4 + 5 * attempt and time.time() < deadline:
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        assert wait([child]) == [-signal.SIGKILL]
    partial = files(tmp_path / "killed")
    kept = len([name for name in partial if "hidden.2" in name])
    resumed = score(bert, table(100), tmp_path / "killed", fields, max_tokens=64)
    assert 0 < kept < 13
    assert resumed.forwards <= 100 - 8 * kept
    whole = files(tmp_path / "whole")
    assert {name: whole.get(name) for name in partial} == partial  # the finished part is that of the uninterrupted run
    assert files(tmp_path / "killed") == whole


def test_over_the_disk_budget_teachers_are_run_live_and_it_is_said(bert: str, tmp_path: Path) -> None:
    prepared = score(bert, table(9), tmp_path, ("hidden.1",), budget_gb=1e-6)
    assert "run live" in prepared.report[0] and "budget" in prepared.report[0]
    assert not shards(tmp_path)
    assert prepared.source is not None
    prepared.source.fetch(table(9), np.arange(4), [["hidden.1"]])
    assert prepared.source.forwards == 4


def test_logits_are_stored_whatever_the_budget(bert: str, tmp_path: Path) -> None:
    assert score(bert, table(9), tmp_path, budget_gb=1e-9).forwards == 9
    assert shards(tmp_path)


def test_a_row_that_was_never_scored_is_refused_not_guessed(bert: str, tmp_path: Path) -> None:
    source = score(bert, table(9), tmp_path).source
    assert source is not None
    with pytest.raises(SignalError, match="lacks 2 of 3 rows"):
        source.fetch(Table.from_texts(["new", "0 x", table(9).text([0])[0][0]]), np.arange(3), [[]])


def test_nan_logits_name_teacher_and_row(bert: str, tmp_path: Path) -> None:
    teacher = load(bert)
    teacher.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(TeacherError, match=r"teacher 't' gives NaN or infinity for 8 of 8 rows, the first is '\d+ "):
        prepare_signals([teacher], table(20), SignalStore(tmp_path), [[]])
    assert not shards(tmp_path)


@pytest.mark.parametrize("field", ["hidden.3", "cls.-1", "pooled.1", "hidden"])
def test_fields_that_a_checkpoint_lacks_are_refused(bert: str, tmp_path: Path, field: str) -> None:
    with pytest.raises(MethodError, match="expected cls.L, mean.L or hidden.L with L from 0 to 2"):
        score(bert, table(3), tmp_path, (field,))


def test_outputs_of_a_function_are_stored_too_but_hidden_states_are_refused(tmp_path: Path) -> None:
    calls = []

    def function(texts: list[str]) -> np.ndarray:
        calls.append(len(texts))
        return np.array([[len(text), 0.0, 1.0] for text in texts])

    teacher = CallableTeacher("llm", function, TASK)
    first = prepare_signals([teacher], table(20), SignalStore(tmp_path), [[]])
    again = prepare_signals([CallableTeacher("llm", function, TASK)], table(20), SignalStore(tmp_path), [[]])
    assert (first.forwards, again.forwards, calls) == (20, 0, [8, 8, 4])
    function.fingerprint = "v2"  # type: ignore[attr-defined]
    changed = prepare_signals([CallableTeacher("llm", function, TASK)], table(20), SignalStore(tmp_path), [[]])
    assert changed.forwards == 20 and "fingerprint changed" in changed.report[0]
    with pytest.raises(MethodError, match="gives outputs only, no hidden states"):
        prepare_signals([teacher], table(3), SignalStore(tmp_path), [["cls.1"]])


def test_hidden_states_beyond_half_precision_do_not_become_infinite(bert: str, tmp_path: Path) -> None:
    teacher = load(bert)
    teacher.model.bert.encoder.layer[1].output.LayerNorm.bias.fill_(1e6)
    source = prepare_signals([teacher], table(3), SignalStore(tmp_path), [["hidden.2"]]).source
    assert source is not None
    hidden = source.fetch(table(3), np.arange(1), [["hidden.2"]]).fields[0]["hidden.2"]
    assert float(hidden.max()) == 65504.0


# ---- the index -----------------------------------------------------------------------------------------------------


def test_rows_whose_first_64_bits_collide_are_told_apart() -> None:
    ids = np.array([[7, 3], [7, 1], [2, 9], [7, 2]], dtype=np.uint64)
    wanted = np.array([[7, 2], [7, 4], [2, 9], [9, 9], [7, 1], [7, 3], [0, 0]], dtype=np.uint64)
    assert RowIndex.of(ids).find(wanted).tolist() == [3, -1, 2, -1, 1, 0, -1]
    assert RowIndex.of(ids[:0]).find(wanted).tolist() == [-1] * 7


def test_unique_rows_do_not_depend_on_the_order_of_the_table() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 5, size=(50, 2)).astype(np.uint64)
    shuffled = ids[rng.permutation(50)]
    assert (ids[unique_rows(ids)] == shuffled[unique_rows(shuffled)]).all()
    assert len(unique_rows(ids)) == len(np.unique(ids, axis=0))


@pytest.mark.slow
def test_32_random_rows_of_3_teachers_among_a_million_take_a_millisecond(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 2**63, size=(1_000_000, 2)).astype(np.uint64)
    stores = [store_module.FieldStore(tmp_path / str(k) / "logits", []) for k in range(3)]
    for store in stores:
        for part in np.array_split(np.arange(len(ids)), 20):
            store.add(ids[part], rng.normal(size=(len(part), 3)).astype(np.float32))
        store.refresh()
    draws = [ids[rng.integers(0, len(ids), size=32)] for _ in range(101)]
    for store in stores:
        store.get(draws[0])
    seconds = []
    for draw in draws[1:]:
        started = time.perf_counter()
        for store in stores:
            store.get(draw)
        seconds.append(time.perf_counter() - started)
    assert np.median(seconds) < 1e-3
