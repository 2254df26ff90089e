"""Tables larger than memory: the same rows as in memory, from mapped files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilect.config import DataConfig, TaskConfig
from distilect.data import EpochBatchSampler, Table, arrow_files, batches, encode, load_data, steps_per_epoch
from distilect.data.batches import epoch_batches, streamed_batches
from distilect.data.on_disk import TableWriter, open_table
from distilect.errors import DataError
from tests.tiny import SENTENCES, wordpiece_tokenizer


def rows_of(count: int, pairs: bool = False) -> Table:
    rng = np.random.default_rng(0)
    words = " ".join(SENTENCES).split()
    texts: list[Any] = [f"{i} é " + " ".join(rng.choice(words, size=int(rng.integers(1, 30)))) for i in range(count)]
    texts = [(text, "" if i % 3 else "zwei") for i, text in enumerate(texts)] if pairs else texts
    return Table.from_texts(texts, rng.integers(0, 2, size=count))


@pytest.mark.parametrize("pairs", [False, True])
def test_a_table_written_in_blocks_is_the_same_table(tmp_path: Path, pairs: bool) -> None:
    table = rows_of(50, pairs)
    writer = TableWriter(tmp_path / "t", table.num_texts, labels=np.int64)
    for start, stop in ((0, 20), (20, 37), (37, 37), (37, 50)):
        writer.add(table.take(np.arange(start, stop)))
    mapped = writer.finish()
    every = np.arange(50)
    assert mapped.text(every) == table.text(every) and mapped.fingerprint() == table.fingerprint()
    assert mapped.folder is not None and isinstance(mapped.labels, np.memmap)
    assert mapped.take(every[7:9]).text([0, 1]) == table.text([7, 8])
    encoded = encode(table, wordpiece_tokenizer(), 16)
    for _ in range(2):  # made, then found
        from_disk = encode(mapped, wordpiece_tokenizer(), 16)
        assert from_disk.truncated == encoded.truncated > 0
        for name, values in encoded.collate(every[::-1]).items():
            assert (from_disk.collate(every[::-1])[name] == values).all()


def rows_of_words(count: int) -> tuple[list[list[str]], list[list[str]]]:
    """Sentences and their tags in IOB1: an entity begins with I-, and with B- after another of its type. Some are long, some alike."""
    rng = np.random.default_rng(0)
    known = " ".join(SENTENCES).replace(",", "").split()
    words = [[str(word) for word in rng.choice(known, int(rng.choice([2, 5, 40])))] for _ in range(count)]
    words[::20] = [["a", "fine", "film"]] * len(words[::20])
    tags = [[("O", "I-a", "I-b")[len(word) % 3] for word in row] for row in words]
    tags[1] = ["I-a", "B-a", *["O"] * (len(words[1]) - 2)]
    tags[-3:] = [["O"] * len(row) for row in words[-3:]]  # rows that say nothing of the scheme
    return words, tags


def test_a_streamed_word_table_is_the_loaded_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_files, "BLOCK", 16)
    words, tags = rows_of_words(100)
    words[7], tags[7] = ["", " "], ["O", "O"]  # no word is left of the row
    pq.write_table(pa.table({"tokens": words, "ner_tags": tags}), tmp_path / "train.parquet")
    pq.write_table(pa.table({"tokens": words[:5], "ner_tags": tags[:5]}), tmp_path / "validation.parquet")
    config = DataConfig(
        train=str(tmp_path / "train.parquet"),
        validation=str(tmp_path / "validation.parquet"),
        cache=str(tmp_path / "cache"),
    )
    data = load_data(config, TaskConfig(), 0)
    plain = load_data(config.model_copy(update={"cache": None}), TaskConfig(), 0)
    assert data.task == plain.task and data.task.labels == ("O", "B-a", "I-a", "B-b", "I-b")
    table, other = data.train, plain.train
    assert table.folder is not None and isinstance(table.labels, np.memmap) and len(table) == 99
    assert table.fingerprint() == other.fingerprint() and (table.unit_keys() == other.unit_keys()).all()
    assert table.num_units == other.num_units and table.num_labelled_units == other.num_labelled_units
    assert table.num_labelled == other.num_labelled == 99
    assert table.words(range(99)) == other.words(range(99)) == [row for row in words if row[0]]
    assert any("mapped from" in line and f"({table.num_units:,} words)" in line for line in data.report)
    assert any(line.startswith("train, first 100 rows: the tags are IOB1") for line in data.report)
    assert any(
        "1 rows without words in column 'tokens' left out, the first: train.parquet, row 8" in x for x in data.report
    )
    for mean in (False, True):
        mapped, encoded = (encode(t, wordpiece_tokenizer(), 16, mean=mean) for t in (table, other))
        assert mapped.truncated == encoded.truncated > 0 and isinstance(mapped.columns["input_ids"], np.memmap)
        order = np.random.default_rng(1).permutation(99)
        for name, values in encoded.collate(order).items():
            assert (mapped.collate(order)[name] == values).all(), name
    assert len(list(Path(table.folder).glob("tokens-*/columns.json"))) == 1  # one for both ways to read a word


def test_sentences_of_a_streamed_word_table_are_held_out_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_files, "BLOCK", 64)
    words, tags = rows_of_words(300)
    pq.write_table(pa.table({"tokens": words, "ner_tags": tags}), tmp_path / "train.parquet")
    config = DataConfig(train=str(tmp_path / "train.parquet"), cache=str(tmp_path / "cache"), validation_size=0.2)
    data = load_data(config, TaskConfig(), 0)
    assert len(data.train) + len(data.validation) == 300 and 25 < len(data.validation) < 100
    train, held = (set(map(tuple, table.ids.tolist())) for table in (data.train, data.validation))
    assert not train & held
    assert load_data(config, TaskConfig(), 0).train.fingerprint() == data.train.fingerprint()
    assert len([entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]) == 1


def test_a_streamed_table_is_written_anew_where_the_labels_have_another_order(tmp_path: Path) -> None:
    config = DataConfig(train=str(parquet(tmp_path)), cache=str(tmp_path / "cache"), validation_size=0.2)
    one = load_data(config, TaskConfig(), 0)
    other = load_data(config, TaskConfig(labels=["yes", "no"]), 0)
    assert (one.train.labels == 1 - other.train.labels).all()


def test_a_table_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path / "t", 1, labels=np.float32)
    writer.add(Table.from_texts(["a", "b"], [0.5, 1.0]))
    with pytest.raises(DataError, match="does not hold a complete table"):
        open_table(tmp_path / "t")
    writer.finish()
    (tmp_path / "t" / "labels.bin").write_bytes(b"1234")
    with pytest.raises(DataError, match=r"labels\.bin has another size"):
        open_table(tmp_path / "t")


def parquet(folder: Path, count: int = 300) -> Path:
    table = rows_of(count)
    path = folder / "train.parquet"
    texts = [row[0] for row in table.text(np.arange(count))]
    pq.write_table(
        pa.table({"text": texts, "label": [("no", "yes")[i] for i in table.labels]}), path, row_group_size=64
    )
    return path


def test_a_streamed_table_holds_the_rows_of_a_loaded_one(tmp_path: Path) -> None:
    config = DataConfig(train=str(parquet(tmp_path)), cache=str(tmp_path / "cache"), validation_size=0.2)
    data = load_data(config, TaskConfig(), 0)
    plain = load_data(config.model_copy(update={"cache": None}), TaskConfig(), 0)
    assert data.task == plain.task and data.train.folder is not None
    ids = np.concatenate([data.train.ids, data.validation.ids])
    both = np.concatenate([plain.train.ids, plain.validation.ids])
    assert sorted(map(tuple, ids.tolist())) == sorted(map(tuple, both.tolist()))
    assert 30 < len(data.validation) < 90
    again = load_data(config, TaskConfig(), 0)
    assert again.train.fingerprint() == data.train.fingerprint()
    assert len([entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]) == 1


def test_a_failed_write_leaves_nothing_and_the_next_one_is_whole(tmp_path: Path) -> None:
    good = pa.table({"text": [f"row {i}" for i in range(150_000)], "label": ["no", "yes"] * 75_000})
    bad = pa.table({"text": ["row"], "label": ["new"]})
    config = DataConfig(train=str(tmp_path / "train.parquet"), cache=str(tmp_path / "cache"), validation_size=0.2)
    pq.write_table(pa.concat_tables([good, bad]), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="train.parquet, row 150001: the train label 'new' is not among"):
        load_data(config, TaskConfig(), 0)
    assert not [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]
    pq.write_table(good, tmp_path / "train.parquet")
    data = load_data(config, TaskConfig(), 0)
    assert len(data.train) + len(data.validation) == 150_000


def test_what_cannot_be_streamed_says_so(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,no\nb,yes\nc,no\n", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be streamed: expected Parquet"):
        load_data(DataConfig(train=str(tmp_path / "train.csv"), cache=str(tmp_path / "c")), TaskConfig(), 0)


@pytest.mark.parametrize(
    ("count", "size", "micro", "world"), [(1000, 32, 1, 1), (1001, 32, 2, 2), (999, 7, 1, 3), (130, 64, 1, 1)]
)
def test_streamed_batches_are_a_partition_in_as_many_steps(
    monkeypatch: pytest.MonkeyPatch, count: int, size: int, micro: int, world: int
) -> None:
    monkeypatch.setattr(batches, "_STRETCH", 16)
    monkeypatch.setattr(batches, "_MIXED", 4)
    lengths = np.random.default_rng(0).integers(3, 90, count)
    options: dict[str, Any] = {"micro": micro, "world": world}
    shares = [list(streamed_batches(lengths, size, 3, 1, rank=r, **options)) for r in range(world)]
    steps = steps_per_epoch(count, size, micro)
    assert [len(share) for share in shares] == [steps * micro] * world
    assert sorted(int(row) for share in shares for part in share for row in part) == list(range(count))
    whole = [sorted(r for share in shares for p in share[s * micro : (s + 1) * micro] for r in p) for s in range(steps)]
    alone = [sorted(b.tolist()) for b in streamed_batches(lengths, size, 3, 1)] if micro == 1 else whole
    assert whole == alone  # ranks split the same batches
    sizes = sorted(map(len, whole), reverse=True)
    assert all(n == size for n in sizes[:-1] if n <= size)


def test_streamed_reading_goes_forward_and_mixes_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_STRETCH", 16)
    monkeypatch.setattr(batches, "_MIXED", 4)
    monkeypatch.setattr(batches, "LARGE", 500)
    lengths = np.random.default_rng(0).integers(3, 90, 4096)
    sampler = EpochBatchSampler(lengths, 32, 0)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        epochs.append([frozenset(batch) for batch in sampler])
    assert not set(epochs[0]) & set(epochs[1])
    near = [len({row // 16 for batch in epochs[0][i : i + 2] for row in batch}) for i in range(0, 128, 2)]
    assert max(near) <= 4 + 4  # 64 rows lie in the stretches of a window, and the next
    assert len({row // 16 for row in epochs[0][0]}) > 2
    assert len(epoch_batches(lengths, 32, 0, 0)) == len(epochs[0])
