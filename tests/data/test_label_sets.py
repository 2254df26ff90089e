"""Labels of a multi-label task, in any of the forms that files have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilect.config import DataConfig, TaskConfig, parse_config
from distilect.data import Table, hold_out, load_data, load_table
from distilect.errors import ConfigError, DataError

TEXTS = [f"text number {n}" for n in range(8)]
SETS = [["toxic"], [], ["obscene", "toxic"], ["threat"], [], ["toxic"], ["obscene"], ["threat", "toxic"]]
LABELS = ("obscene", "threat", "toxic")
MATRIX = np.array([[label in row for label in LABELS] for row in SETS], np.int8)


def write(path: Path, labels: list, name: str = "labels") -> Path:
    """One form of the same table: `labels` as the cells of one column."""
    if path.suffix == ".jsonl":
        lines = [json.dumps({"text": text, name: label}) for text, label in zip(TEXTS, labels, strict=True)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({"text": TEXTS, name: labels}), path)
    else:
        quoted = ['"' + str(label).replace('"', '""') + '"' for label in labels]
        lines = [f"{text},{label}" for text, label in zip(TEXTS, quoted, strict=True)]
        path.write_text("\n".join([f"text,{name}", *lines]) + "\n", encoding="utf-8")
    return path


def write_columns(path: Path, values: dict[str, list]) -> Path:
    lines = [",".join(map(str, ["text", *values]))]
    lines += [",".join(map(str, row)) for row in zip(TEXTS, *values.values(), strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def load(path: Path, task: dict | None = None, **data: object):
    config = DataConfig.model_validate({"train": str(path), "validation_size": 0, **data})
    return load_data(config, TaskConfig.model_validate(task or {}), 0)


def assert_the_table(data) -> None:
    assert data.task.kind == "multi-label"
    assert sorted(data.task.labels) == sorted(LABELS)
    order = [data.task.labels.index(label) for label in LABELS]
    assert data.train.labels.dtype == np.int8
    np.testing.assert_array_equal(data.train.labels[:, order], MATRIX)


# ---- forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_lists_of_names(tmp_path: Path, suffix: str) -> None:
    data = load(write(tmp_path / f"t{suffix}", SETS))
    assert_the_table(data)
    assert data.task.labels == LABELS and data.task.primary == "micro_f1"
    assert "3 labels, any number per row, (obscene, threat, toxic)" in data.report[0]


@pytest.mark.parametrize("delimiter", ["|", ", ", ";", " ", "&&"])
def test_a_delimiter_in_a_column(tmp_path: Path, delimiter: str) -> None:
    path = write(tmp_path / "t.csv", [delimiter.join(row) for row in SETS])
    assert_the_table(load(path, label_delimiter=delimiter))


def test_labels_beside_a_delimiter_are_trimmed_and_blank_parts_are_none(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [" | ".join(row) + " |" for row in SETS])
    assert_the_table(load(path, label_delimiter="|"))


def test_lists_written_as_text_are_told_by_themselves(tmp_path: Path) -> None:
    assert_the_table(load(write(tmp_path / "python.csv", [str(row) for row in SETS])))
    assert_the_table(load(write(tmp_path / "json.csv", [json.dumps(row) for row in SETS])))


@pytest.mark.parametrize(
    "yes_no",
    [("1", "0"), ("True", "False"), ("true", "false"), ("yes", "no"), ("1.0", "0.0")],
    ids=lambda pair: pair[0],
)
def test_a_column_per_label(tmp_path: Path, yes_no: tuple[str, str]) -> None:
    values = {
        label: [yes_no[0] if has else yes_no[1] for has in column]
        for label, column in zip(LABELS, MATRIX.T, strict=True)
    }
    data = load(write_columns(tmp_path / "t.csv", values), label=["toxic", "obscene", "threat"])
    assert data.task.labels == ("toxic", "obscene", "threat")  # the user's order
    assert_the_table(data)


@pytest.mark.parametrize("kind", [pa.int64(), pa.bool_(), pa.float64(), pa.int8()])
def test_a_column_per_label_in_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    columns = {label: pa.array(column.tolist()).cast(kind) for label, column in zip(LABELS, MATRIX.T, strict=True)}
    pq.write_table(pa.table({"text": TEXTS, **columns}), tmp_path / "t.parquet")
    assert_the_table(load(tmp_path / "t.parquet", label=list(LABELS)))


def test_integers_and_names_behind_integers(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    numbers = [[LABELS.index(label) for label in row] for row in SETS]
    data = load(write(tmp_path / "t.jsonl", numbers))
    assert data.task.labels == ("0", "1", "2")
    np.testing.assert_array_equal(data.train.labels, MATRIX)
    names = datasets.ClassLabel(names=[*LABELS, "never"])
    features = datasets.Features({"text": datasets.Value("string"), "labels": datasets.Sequence(names)})
    datasets.Dataset.from_dict({"text": TEXTS, "labels": numbers}, features=features).save_to_disk(tmp_path / "set")
    data = load(tmp_path / "set")
    assert data.task.labels == (*LABELS, "never")
    np.testing.assert_array_equal(data.train.labels[:, :3], MATRIX)


def test_further_tables_are_read_like_train(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", ["|".join(row) for row in SETS])
    dev = write(tmp_path / "dev.csv", ["toxic", "", "threat|obscene"] + [""] * 5)
    extra = write(tmp_path / "extra.csv", [""] * 8)
    data = load(train, label_delimiter="|", dev=str(dev), extra=str(extra))
    assert data.dev is not None and data.dev.labels.tolist()[:3] == [[0, 0, 1], [0, 0, 0], [1, 1, 0]]
    assert data.extra is not None and data.extra.labels.shape == (8, 3) and not data.extra.has_label.any()
    assert len(data.distillation) == 16 and data.distillation.num_labelled == 8


# ---- none, and missing ---------------------------------------------------------------------------------------------


def test_an_empty_list_is_a_label_and_null_is_none(tmp_path: Path) -> None:
    table, task = load_table(str(write(tmp_path / "t.jsonl", SETS)))
    assert table.has_label.all() and task.kind == "multi-label"
    with pytest.raises(DataError, match=r"t\.jsonl, line 2: no label in column 'labels'"):
        load(write(tmp_path / "t.jsonl", [["toxic"], None, ["threat"], *[[]] * 5]))


def test_empty_columns_are_missing_labels_and_half_of_them_a_fault(tmp_path: Path) -> None:
    values = {"toxic": [1, "", 0, 1, 0, 0, 0, 1], "threat": [0, "", 1, 0, 0, 0, 0, 1]}
    with pytest.raises(DataError, match="line 3: no label in column 'toxic, threat'"):
        load(write_columns(tmp_path / "t.csv", values), label=["toxic", "threat"])
    values["threat"][1] = 1
    with pytest.raises(DataError, match="line 3: column 'toxic' is empty, other labels of the row are not"):
        load(write_columns(tmp_path / "t.csv", values), label=["toxic", "threat"])


# ---- refused -------------------------------------------------------------------------------------------------------


def test_a_column_that_is_no_zero_or_one(tmp_path: Path) -> None:
    values = {"toxic": [1, 0, -1, 1, 0, 0, 0, 1], "threat": [0] * 8}
    with pytest.raises(DataError, match="line 4: '-1' in column 'toxic', expected 0 or 1"):
        load(write_columns(tmp_path / "t.csv", values), label=["toxic", "threat"])


def test_texts_without_a_delimiter_name_the_setting(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ["|".join(row) for row in SETS])
    with pytest.raises(DataError, match=r"holds texts such as 'toxic': set data\.label_delimiter"):
        load(path, {"kind": "multi-label"})
    assert_the_table(load(path, {"kind": "multi-label", "labels": list(LABELS)}))  # known labels tell it


def test_metrics_of_a_multi_label_task_tell_the_kind(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ["toxic", "threat"] * 4)
    with pytest.raises(DataError, match=r"set data\.label_delimiter"):
        load(path, {"metrics": ["micro_f1"]})
    with pytest.raises(ConfigError, match="metric 'accuracy' does not fit multi-label"):
        load(write(tmp_path / "t.jsonl", SETS), {"metrics": ["accuracy"]})


def test_labels_that_no_delimiter_parts(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ["toxic", "spam", *["threat"] * 6])
    with pytest.raises(DataError, match="no usual delimiter .* parts into the labels obscene, threat, toxic"):
        load(path, {"kind": "multi-label", "labels": list(LABELS)})


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_several_labels_are_no_other_kind_of_task(tmp_path: Path, kind: str) -> None:
    lists = write(tmp_path / "t.jsonl", SETS)
    with pytest.raises(DataError, match="lists of labels are for task.kind: multi-label"):
        load(lists, {"kind": kind})
    values = {label: column.tolist() for label, column in zip(LABELS, MATRIX.T, strict=True)}
    with pytest.raises(DataError, match=f"label columns obscene, threat, toxic for a task of kind {kind}"):
        load(write_columns(tmp_path / "t.csv", values), {"kind": kind}, label=list(LABELS))


def test_a_zero_or_one_per_label_in_a_list_is_not_read_as_labels_0_and_1(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names a label twice. .* write a column per label"):
        load(write(tmp_path / "t.jsonl", MATRIX.tolist()))
    with pytest.raises(DataError, match="names a label twice"):
        load(write(tmp_path / "t.csv", [str(row) for row in MATRIX.tolist()]))
    with pytest.raises(DataError, match="lists of double, expected names or integers"):
        load(write(tmp_path / "t.parquet", MATRIX.astype(float).tolist()))


def test_label_columns_must_be_those_of_the_task(tmp_path: Path) -> None:
    values = {label: column.tolist() for label, column in zip(LABELS, MATRIX.T, strict=True)}
    path = write_columns(tmp_path / "t.csv", values)
    with pytest.raises(DataError, match="expected one column for each of them"):
        load(path, {"labels": [*LABELS, "spam"]}, label=list(LABELS))
    with pytest.raises(DataError, match="data.label names several: remove one of them"):
        load(path, label=list(LABELS), label_delimiter="|")
    with pytest.raises(DataError, match="expected different columns, got toxic, toxic"):
        load(path, label=["toxic", "toxic"])


def test_one_column_in_a_list_is_that_column(tmp_path: Path) -> None:
    path = write_columns(tmp_path / "t.csv", {"toxic": [0, 1] * 4})
    data = load(path, label=["toxic"])
    assert data.task.kind == "classification" and data.task.labels == ("0", "1")
    with pytest.raises(ConfigError, match="expected one column or more"):
        parse_config({"data": {"train": "t.csv", "label": []}, "student": "s"})


def test_a_label_of_dev_that_train_lacks(tmp_path: Path) -> None:
    dev = write(tmp_path / "dev.jsonl", [["toxic"], ["spam"], *[[]] * 6])
    with pytest.raises(
        DataError, match=r"dev\.jsonl, line 2: the dev label 'spam' is not among the labels of train\.jsonl"
    ):
        load(write(tmp_path / "train.jsonl", SETS), dev=str(dev))


def test_a_json_list_of_other_things(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="line 1: 'labels' is of type list of other values, expected a string, a number, or a list"
    ):
        load(write(tmp_path / "t.jsonl", [[{"a": 1}]] * 8))


def test_a_single_label_is_a_classification(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multi-label needs two labels or more, got toxic; a single label"):
        load(write(tmp_path / "t.jsonl", [["toxic"], []] * 4))


# ---- tables --------------------------------------------------------------------------------------------------------


def test_tables_of_several_labels_are_taken_joined_and_told_apart() -> None:
    table = Table.from_texts(TEXTS, MATRIX)
    assert table.take([2, 0]).labels.tolist() == MATRIX[[2, 0]].tolist()
    both = Table.concat([table, table.without_labels()])
    assert both.num_labelled == 8 and both.has_label.tolist() == [True] * 8 + [False] * 8
    prints = {t.fingerprint() for t in (table, both, table.without_labels(), Table.from_texts(TEXTS, 1 - MATRIX))}
    assert len(prints) == 4
    hidden = MATRIX.copy()
    hidden[1] = -100  # not the same as none of the labels
    assert Table(table.texts, hidden, table.ids).fingerprint() != table.fingerprint()
    with pytest.raises(DataError, match="different kinds of labels"):
        Table.concat([table, Table.from_texts(TEXTS, range(8))])


def test_the_split_shares_out_rare_labels_too() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 4)) < (0.6, 0.3, 0.1, 0.03)).astype(np.int8)
    table = Table.from_texts([f"text {n}" for n in range(400)], labels)
    kept, out = hold_out(table, 0.25, seed=0)
    assert len(out) == 100 and not set(kept) & set(out)
    for c in range(4):
        assert labels[out, c].sum() / labels[:, c].sum() == pytest.approx(0.25, abs=0.08)
    again = hold_out(table, 0.25, seed=0)[1]
    assert again.tolist() == out.tolist()


def test_a_table_larger_than_memory(tmp_path: Path) -> None:
    rows = 300
    rng = np.random.default_rng(0)
    sets = [[label for label in LABELS if rng.random() < 0.4] for _ in range(rows)]
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(rows)], "labels": sets}), tmp_path / "t.parquet")
    memory = load(tmp_path / "t.parquet")
    mapped = load(tmp_path / "t.parquet", cache=str(tmp_path / "cache"))
    assert mapped.train.folder is not None and mapped.train.labels.shape == (rows, 3)
    np.testing.assert_array_equal(mapped.train.labels, memory.train.labels)
    assert mapped.train.fingerprint() == memory.train.fingerprint()


# ---- evaluation ----------------------------------------------------------------------------------------------------


def checkpoint(folder: Path) -> Path:
    folder.mkdir()
    config = {"problem_type": "multi_label_classification", "id2label": dict(enumerate(reversed(LABELS)))}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_a_checkpoint_tells_delimiter_and_columns(tmp_path: Path) -> None:
    like = checkpoint(tmp_path / "model")
    columns = {label: column.tolist() for label, column in zip(LABELS, MATRIX.T, strict=True)}
    forms = [
        write(tmp_path / "pipes.csv", ["|".join(row) for row in SETS]),
        write(tmp_path / "commas.csv", [", ".join(row) for row in SETS]),
        write(tmp_path / "lists.jsonl", SETS),
        write_columns(tmp_path / "columns.csv", columns),
    ]
    for path in forms:
        table, task = load_table(str(path), like=like)
        assert task.kind == "multi-label" and task.labels == tuple(reversed(LABELS))
        np.testing.assert_array_equal(table.labels, MATRIX[:, ::-1])
