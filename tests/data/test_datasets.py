"""`datasets` folders and hub ids are read through `datasets`, with the names of classes, the splits and our messages."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distilect.config import DataConfig, TaskConfig
from distilect.data import load_data, open_source
from distilect.errors import DataError

NAMES = ["bad", "good", "odd"]
COLUMNS = {"text": [f"text {i}" for i in range(20)], "label": [i % 2 for i in range(20)]}


@pytest.fixture
def dataset() -> Any:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)})
    return datasets.Dataset.from_dict(COLUMNS, features=features)


def load(config: DataConfig, folder: Path, **task: Any) -> Any:
    return load_data(config, TaskConfig(**task), 0, folder)


def test_a_saved_dataset_is_read_with_the_names_of_its_classes(dataset: Any, tmp_path: Path) -> None:
    dataset.save_to_disk(tmp_path / "saved")
    data = load(DataConfig(train="saved", validation_size=0), tmp_path)
    assert data.task.labels == tuple(NAMES)
    assert data.train.text(range(20)) == [(text,) for text in COLUMNS["text"]]
    assert data.train.labels.tolist() == COLUMNS["label"]


def test_a_saved_selection_of_rows_and_several_shards_is_read_in_order(dataset: Any, tmp_path: Path) -> None:
    dataset.select([5, 3, 8, 2]).save_to_disk(tmp_path / "some", num_shards=2)
    rows = open_source("some", tmp_path).read(["text"])
    assert rows.table["text"].to_pylist() == ["text 5", "text 3", "text 8", "text 2"]


def test_a_folder_of_splits_gives_train_and_dev(dataset: Any, tmp_path: Path) -> None:
    from datasets import DatasetDict

    parts = {"train": dataset, "validation": dataset.select(range(6)), "test": dataset.select(range(4))}
    DatasetDict(parts).save_to_disk(tmp_path / "all")
    data = load(DataConfig(train="all", validation_size=0), tmp_path)
    assert (len(data.train), len(data.dev)) == (20, 6)
    assert len(load(DataConfig(train="all", dev="all[test]", validation_size=0), tmp_path).dev) == 4
    with pytest.raises(DataError, match=r"no split 'tset'; its splits: train, validation, test. Write it as"):
        load(DataConfig(train="all", dev="all[tset]"), tmp_path)
    with pytest.raises(DataError, match="clearly meant for 'extra'"):
        load(DataConfig(train="all", extra="all"), tmp_path)


def test_parquet_files_that_datasets_wrote_keep_the_names_of_classes(dataset: Any, tmp_path: Path) -> None:
    dataset.to_parquet(str(tmp_path / "t.parquet"))
    assert load(DataConfig(train="t.parquet"), tmp_path).task.labels == tuple(NAMES)


def test_a_class_label_of_minus_one_is_no_label(dataset: Any, tmp_path: Path) -> None:
    unlabelled = dataset.map(lambda row, i: {"label": -1 if i == 7 else row["label"]}, with_indices=True)
    unlabelled.save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"saved, row 8: no label in column 'label'.*data.extra"):
        load(DataConfig(train="saved"), tmp_path)


def test_a_damaged_folder_is_refused(dataset: Any, tmp_path: Path) -> None:
    dataset.save_to_disk(tmp_path / "saved")
    file = next((tmp_path / "saved").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="damaged"):
        open_source("saved", tmp_path)


class FakeHub(SimpleNamespace):
    """Stands in for the module: one data set, `org/set`, with two splits."""

    def get_dataset_split_names(self, name: str, config: str | None) -> list[str]:
        if name != "org/set":
            raise ConnectionError("not on the hub\nand a long tail")
        return ["train", "validation"]

    def load_dataset(self, name: str, config: str | None, split: str) -> Any:
        self.asked.append((name, config, split))
        return self.dataset if split == "train" else self.dataset.select(range(5))


def test_a_hub_id_is_loaded_through_datasets(dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub(dataset=dataset, asked=[])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    data = load(DataConfig(train="org/set", dev="org/set", name="small", validation_size=0), tmp_path)
    assert hub.asked == [("org/set", "small", "train"), ("org/set", "small", "validation")]
    assert (len(data.train), len(data.dev), data.task.labels) == (20, 5, tuple(NAMES))
    with pytest.raises(DataError) as caught:
        load(DataConfig(train="org/other"), tmp_path)
    assert "no file or folder 'org/other', and no data set of that name could be loaded from the hub" in str(
        caught.value
    )
    assert "long tail" not in str(caught.value)
