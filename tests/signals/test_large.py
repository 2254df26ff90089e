"""Tables and stores larger than memory: ten times the rows need the memory of one time, and open as fast."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from distilect.config import DataConfig, TaskConfig
from distilect.data import EpochBatchSampler, arrow_files, batches, encode, encoding, load_data, loading
from distilect.errors import SignalError
from distilect.models import CallableTeacher
from distilect.signals import FieldStore, SignalStore, prepare_signals, scoring, store
from distilect.tasks import Task
from tests.memory import growth
from tests.tiny import SENTENCES, wordpiece_tokenizer

Ids = Any


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is held at a time is small, so that a few thousand rows are many."""
    monkeypatch.setattr(arrow_files, "BLOCK", 1 << 10)
    monkeypatch.setattr(loading, "_PEEK", 1 << 10)
    monkeypatch.setattr(encoding, "LARGE", 0)  # with a progress bar, which takes some megabytes once
    monkeypatch.setattr(batches, "LARGE", 1 << 10)
    monkeypatch.setattr(batches, "_STRETCH", 1 << 5)
    monkeypatch.setattr(scoring, "BLOCK", 1 << 11)
    monkeypatch.setattr(scoring, "CHUNK", 1 << 9)
    monkeypatch.setattr(store, "_SMALL", 0)
    monkeypatch.setattr(store, "_MAPPED", 8)


def write_rows(path: Path, count: int, tagged: bool = False) -> None:
    words = " ".join(SENTENCES).split()
    schema = pa.schema([("text", pa.string()), ("label", pa.string())])
    if tagged:
        schema = pa.schema([("tokens", pa.list_(pa.string())), ("tags", pa.list_(pa.string()))])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, 4096):
            rows = range(start, min(count, start + 4096))
            texts = [f"{i} {words[i % len(words)]} {words[i * 7 % len(words)]}" * 3 for i in rows]
            labels: list[Any] = [("no", "yes")[i % 2] for i in rows]
            if tagged:
                sentences = [text.split() for text in texts]
                tags = [[("no", "yes")[len(word) % 2] for word in sentence] for sentence in sentences]
                writer.write_table(pa.table({"tokens": sentences, "tags": tags}, schema))
                continue
            writer.write_table(pa.table({"text": texts, "label": labels}, schema))


def lengths(texts: list[Any]) -> np.ndarray:
    return np.array([[float(len(text)), 1.0] for text in texts])


def lengths_of_words(sentences: list[Any]) -> list[np.ndarray]:
    return [lengths(words) for words in sentences]


def whole_way(folder: Path, count: int, tagged: bool = False) -> None:
    """Stream a table, tokenise it, score it, and read an epoch of it with its signals."""
    config = DataConfig(train=str(folder.parent / f"{count}.parquet"), cache=str(folder / "cache"), validation_size=50)
    data = load_data(config, TaskConfig(), 0)
    assert data.train.folder is not None and abs(len(data.train) - count) < 200
    encoded = encode(data.train, wordpiece_tokenizer(), 32)
    task = Task("toy", "tokens" if tagged else "classification", ("no", "yes"), ("accuracy",), 1)
    teacher = CallableTeacher("length", lengths_of_words if tagged else lengths, task)
    prepared = prepare_signals([teacher], data.train, SignalStore(folder / "store"), [[]])
    source = prepared.source
    assert source is not None and prepared.forwards == len(data.train)
    for number, rows in enumerate(EpochBatchSampler(encoded.lengths, 64, 0)):
        if number % 20 == 0:
            encoded.collate(rows)
            logits = source.fetch(data.train, np.array(rows), [[]]).logits[:, 0, 0]
            read = data.train.text(rows)
            texts = [word for words in data.train.words(rows) for word in words] if tagged else [t[0] for t in read]
            assert logits.tolist() == [float(len(text)) for text in texts]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.slow
@pytest.mark.parametrize("tagged", [False, True])
def test_ten_times_the_rows_need_no_more_memory(tmp_path: Path, tagged: bool) -> None:
    few, many = 10_000, 100_000
    for count in (few, many):
        write_rows(tmp_path / f"{count}.parquet", count, tagged)
    added = growth(
        lambda: whole_way(tmp_path / "many", many, tagged),
        tmp_path / "log",
        after=lambda: whole_way(tmp_path / "few", few, tagged),
    )
    held = (
        many * (60 + 2 * 8 + 8 + 12 * 8) / 1e6
    )  # megabytes of texts, identities, labels and tokens, if they were held
    assert added < held / 2, (added, held)


def fill(folder: Path, count: int) -> FieldStore:
    """A field of so many random rows in shards of 4096."""
    rng = np.random.default_rng(0)
    made = FieldStore(folder / "logits", [])
    for start in range(0, count, 4096):
        ids = rng.integers(0, 2**63, size=(min(4096, count - start), 2)).astype(np.uint64)
        made.add(ids, ids[:, :1].astype(np.float32))
    return made


def some_ids(folder: Path, count: int) -> Ids:
    """Identities of rows in shards here and there."""
    paths = sorted((folder / "logits").glob("*.safetensors"))
    parts = [load_file(path)["ids"][:3] for path in paths[:: max(1, len(paths) // 20)]]
    return np.concatenate(parts)[:count]


def open_and_read(folder: Path) -> None:
    opened = FieldStore(folder / "logits", [])
    opened.refresh()
    ids = some_ids(folder, 32)
    assert np.array_equal(np.asarray(opened.get(ids))[:, 0], ids[:, 0].astype(np.float32))


def test_a_large_field_reads_as_a_small_one_and_finds_damage_when_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 20_000)
    small = FieldStore(tmp_path / "logits", [])
    small.refresh()
    ids = some_ids(tmp_path, 32)
    monkeypatch.setattr(store, "_SMALL", 1000)
    large = FieldStore(tmp_path / "logits", [])
    large.refresh()
    strangers = ids ^ np.uint64(1)
    assert list((tmp_path / "logits").glob("index-*.bin")) and len(large) == len(small) == 20_000
    assert large.lacks(strangers).all() and not large.lacks(ids).any()
    assert np.array_equal(large.get(ids), small.get(ids))
    again = FieldStore(tmp_path / "logits", [])
    again.refresh()
    shard = sorted((tmp_path / "logits").glob("*.safetensors"))[2]
    content = bytearray(shard.read_bytes())
    content[-5] ^= 4
    times = shard.stat()
    shard.write_bytes(bytes(content))
    import os

    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))  # nothing tells of it
    with pytest.raises(SignalError, match="was damaged on disk and is put aside: run again"):
        again.get(ids)
    after = FieldStore(tmp_path / "logits", [])
    after.refresh()
    assert len(after) == 20_000 - 4096


@pytest.mark.slow
def test_ten_million_rows_open_in_constant_time_and_memory(tmp_path: Path) -> None:
    """Measured: a million and ten million; the index is made once, when the field is opened first."""
    grown, opened = [], []
    for count in (1_000_000, 10_000_000):
        folder = tmp_path / str(count)
        fill(folder, count)
        before, store._SMALL = store._SMALL, 1 << 20
        try:
            first = growth(lambda folder=folder: open_and_read(folder), folder / "first")  # type: ignore[misc]
            grown.append((first, growth(lambda folder=folder: open_and_read(folder), folder / "again")))  # type: ignore[misc]
            times = []
            for _ in range(5):
                started = time.perf_counter()
                FieldStore(folder / "logits", []).refresh()
                times.append(time.perf_counter() - started)
            opened.append(min(times))
        finally:
            store._SMALL = before
    print("megabytes (first, again):", grown, "seconds to open:", opened)
    assert grown[1][0] < 1.2 * grown[0][0] + 16 and grown[1][1] < 1.2 * grown[0][1] + 16
    assert opened[1] < 0.5


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_streamed_table_of_many_rows_needs_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "LARGE", 1 << 16)
    monkeypatch.setattr(store, "_SMALL", 1 << 20)
    found = []
    # more than the 2^18 rows of a block of scoring and the 2^19 that an index holds: both are full
    for count in (600_000, 6_000_000):
        write_rows(tmp_path / f"{count}.parquet", count)
        found.append(growth(lambda count=count: whole_way(tmp_path / str(count), count), tmp_path / str(count)))  # type: ignore[misc]
    print("megabytes:", found)
    assert found[1] < 1.2 * found[0] + 16
