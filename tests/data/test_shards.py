"""Tables in several files: all rows, once, in order, and never rows of another split."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilect.config import DataConfig, TaskConfig
from distilect.data import Table, load_data, load_table, open_source, read_rows
from distilect.errors import DataError
from tests.data.writing import WRITERS, write_csv, write_jsonl, write_parquet


def shards(folder: Path, suffix: str, names: str = "train", count: int = 3, rows: int = 4) -> list[str]:
    """Files of some rows each; returns their texts."""
    folder.mkdir(exist_ok=True)
    texts = [[f"{names} {i} {j}" for j in range(rows)] for i in range(count)]
    for i, part in enumerate(texts):
        labels = [str(j % 2) for j in range(rows)]
        WRITERS[suffix](folder / f"{names}-{i:05}{suffix}", {"text": part, "label": labels})
    return [text for part in texts for text in part]


def fault(spec: str, role: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        source = open_source(spec, role=role)
        source.read(source.columns)
    assert len(str(caught.value).splitlines()) <= 2
    return str(caught.value)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("spec", ["data", "data/*{}", "data/train-*", "data/train-0000[0-2]{}", "d*/train-0000[0-2]*"])
def test_all_files_are_read_in_the_order_of_their_names(tmp_path: Path, suffix: str, spec: str) -> None:
    texts = shards(tmp_path / "data", suffix)
    source = open_source(spec.format(suffix), tmp_path)
    rows = source.read(["text"])
    assert rows.table["text"].to_pylist() == texts
    assert f"3 files, train-00000{suffix} to train-00002{suffix}" in source.notes[0]
    assert rows.where(9).startswith(f"train-00002{suffix}, ")
    assert source.read(["text"], 6).table["text"].to_pylist() == texts[:6]


def test_compressed_files_and_arrays_are_shards_too(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"a{i}.json.gz").write_bytes(gzip.compress(f'[{{"text": "t{i}", "label": {i}}}]'.encode()))
    assert open_source(str(tmp_path)).read(["text"]).table["text"].to_pylist() == ["t0", "t1"]


def test_a_split_in_brackets_is_no_pattern_and_a_pattern_is_no_split(tmp_path: Path) -> None:
    shards(tmp_path / "data", ".csv")
    test = shards(tmp_path / "data", ".csv", "test", 1)
    assert open_source("data[test]", tmp_path).read(["text"]).table["text"].to_pylist() == test
    assert len(open_source("data/train-0000[0-1]*", tmp_path).read(["text"])) == 8
    (tmp_path / "part-1").write_text("")  # without a suffix
    with pytest.raises(DataError, match="unknown kind of file|is empty"):
        open_source("part-[0-9]", tmp_path)
    write_csv(tmp_path / "odd[1].csv", {"text": ["a"]})
    assert open_source("odd[1].csv", tmp_path).columns == ["text"]


def test_files_of_another_split_are_not_read(tmp_path: Path) -> None:
    train = shards(tmp_path / "data", ".parquet")
    valid = shards(tmp_path / "data", ".parquet", "validation", 1)
    shards(tmp_path / "data", ".parquet", "test", 1)
    source = open_source("data", tmp_path)
    assert source.read(["text"]).table["text"].to_pylist() == train
    assert "not read: test-00000.parquet, validation-00000.parquet" in source.notes[0]
    assert open_source("data", tmp_path, role="dev").read(["text"]).table["text"].to_pylist() == valid
    assert "its splits: test, train, validation. Write it as" in fault(str(tmp_path / "data"), "extra")


def test_files_of_no_table_are_told(tmp_path: Path) -> None:
    shards(tmp_path, ".csv")
    for name in ("README.md", "_SUCCESS", ".DS_Store"):
        (tmp_path / name).write_text("x")
    assert open_source(str(tmp_path)).notes[0].endswith("; not read: README.md")


def test_other_columns_are_refused_but_keys_of_json_may_be_missing(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", {"text": ["a"], "label": [1]})
    write_csv(tmp_path / "b.csv", {"text": ["b"], "lable": [1]})
    assert "b.csv has other columns (text, lable) than a.csv (text, label)" in fault(str(tmp_path))
    (tmp_path / "json").mkdir()
    write_jsonl(tmp_path / "json" / "a.jsonl", {"text": ["a"]})
    write_jsonl(tmp_path / "json" / "b.jsonl", {"text": ["b"], "label": [1]})
    rows = open_source(str(tmp_path / "json")).read(["text", "label"])
    assert rows.table.to_pydict() == {"text": ["a", "b"], "label": [None, 1]}


def test_columns_in_another_order_are_the_same(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", {"text": ["a"], "label": [1]})
    write_csv(tmp_path / "b.csv", {"label": [0], "text": ["b"]})
    rows = open_source(str(tmp_path)).read(["text", "label"])
    assert rows.table.to_pydict() == {"text": ["a", "b"], "label": ["1", "0"]}


def test_the_same_rows_in_two_formats_are_not_read_twice(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", {"text": ["a"], "label": [1]})
    write_parquet(tmp_path / "train.parquet", {"text": ["a"], "label": [1]})
    message = fault(str(tmp_path))
    assert "different kinds (.csv, .parquet)" in message
    pattern = message.rpartition("such as ")[2]
    assert len(open_source(pattern).read(["text"])) == 1


def test_other_types_and_other_names_of_classes_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"text": ["a"], "label": [1]})
    write_parquet(tmp_path / "b.parquet", {"text": ["b"], "label": ["x"]})
    assert "columns of different types" in fault(str(tmp_path))
    for name, names in (("a", '["no", "yes"]'), ("b", '["yes", "no"]')):
        about = '{"info": {"features": {"label": {"names": %s, "_type": "ClassLabel"}}}}' % names  # noqa: UP031
        table = pa.table({"text": ["a"], "label": [1]}).replace_schema_metadata({"huggingface": about})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    assert "b.parquet numbers its classes in another way than a.parquet" in fault(str(tmp_path))


@pytest.mark.parametrize("spec", ["nothing-*.csv", "data/*.jsonl"])
def test_a_pattern_without_files_is_told(tmp_path: Path, spec: str) -> None:
    shards(tmp_path / "data", ".csv")
    assert "no file matches" in fault(str(tmp_path / spec))


def test_every_role_may_be_in_several_files(tmp_path: Path) -> None:
    train = shards(tmp_path / "data", ".csv")
    shards(tmp_path / "data", ".csv", "validation", 2)
    shards(tmp_path / "data", ".csv", "test", 2)
    shards(tmp_path / "more", ".jsonl", "more", 2)
    config = DataConfig(train="data", dev="data[test]", validation="data/valid*", extra="more/*.jsonl")
    data = load_data(config, TaskConfig(), 0, tmp_path)
    assert data.dev is not None and data.extra is not None
    assert [len(t) for t in (data.train, data.dev, data.validation, data.extra)] == [len(train), 8, 8, 8]
    assert sum(" files, " in line for line in data.report) == 4
    assert len(load_table("data/test*", data_dir=tmp_path)[0]) == 8
    assert len(read_rows("data/test*", data_dir=tmp_path)[1]) == 8


@pytest.mark.parametrize("spec", ["data", "data/*.parquet"])
def test_parquet_shards_are_streamed_and_a_change_of_one_is_noticed(tmp_path: Path, spec: str) -> None:
    texts = shards(tmp_path / "data", ".parquet", rows=40)
    config = DataConfig(train=spec, cache=str(tmp_path / "cache"), validation_size=0.2)

    def all_ids() -> np.ndarray:
        data = load_data(config, TaskConfig(), 0, tmp_path)
        assert data.train.folder is not None and len(data.validation)
        return np.sort(np.concatenate([data.train.ids, data.validation.ids])[:, 0])

    assert (all_ids() == np.sort(Table.from_texts(texts).ids[:, 0])).all()
    write_parquet(tmp_path / "data" / "train-00001.parquet", {"text": ["new", "newer"], "label": ["0", "1"]})
    kept = [text for text in texts if not text.startswith("train 1 ")]
    assert (all_ids() == np.sort(Table.from_texts([*kept, "new", "newer"]).ids[:, 0])).all()


def test_shards_that_cannot_be_streamed_say_so(tmp_path: Path) -> None:
    shards(tmp_path / "data", ".csv")
    with pytest.raises(DataError, match="cannot be streamed"):
        load_data(DataConfig(train="data", cache=str(tmp_path / "c")), TaskConfig(), 0, tmp_path)
