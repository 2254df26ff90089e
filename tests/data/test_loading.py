"""Tables of a run: what is inferred, what is split, and what is refused with which words."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilect.config import DataConfig, TaskConfig
from distilect.data import Data, Table, load_data, load_table, loading, read_columns, read_rows
from distilect.errors import ConfigError, DataError
from tests.data.writing import WRITERS, Columns, write_csv, write_jsonl, write_parquet, write_plain_tsv

TWENTY = [f"text {i}" for i in range(20)]
BINARY: dict[str, list] = {"text": TWENTY, "label": [i % 2 for i in range(20)]}


class Folder:
    """Writes tables into a folder and loads them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, columns: Columns) -> str:
        WRITERS[Path(name).suffix](self.path / name, columns)
        return name

    def load(self, columns: Columns | None = None, task: dict[str, Any] | None = None, **config: Any) -> Data:
        if columns is not None:
            config["train"] = self.write("train.csv", columns)
        return load_data(DataConfig(**{"validation_size": 0, **config}), TaskConfig(**task or {}), 0, self.path)

    def fault(self, columns: Columns | None = None, task: dict[str, Any] | None = None, **config: Any) -> str:
        with pytest.raises(DataError) as caught:
            self.load(columns, task, **config)
        message = str(caught.value)
        assert len(message.splitlines()) <= 2, message
        return message


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


# ---- columns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "texts", "label"),
    [
        (["text", "label"], ["text"], "label"),
        (["id", "Sentence", "Label"], ["Sentence"], "Label"),
        (["sentence1", "sentence2", "score"], ["sentence1", "sentence2"], "score"),
        (["premise", "hypothesis", "text", "gold_label"], ["premise", "hypothesis"], "gold_label"),
        (["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"], ["#1 String", "#2 String"], "Quality"),
        (["question", "sentence", "label"], ["question", "sentence"], "label"),
        (["question", "class"], ["question"], "class"),
        (["target", "what they said"], ["what they said"], "target"),
    ],
)
def test_columns_are_inferred_from_usual_names(folder: Folder, names: list, texts: list, label: str) -> None:
    columns = {name: [f"{name} {i}" for i in range(20)] for name in names} | {label: [i % 2 for i in range(20)]}
    data = folder.load(columns)
    assert data.task.num_texts == len(texts)
    assert data.train.text([3]) == [tuple(f"{name} 3" for name in texts)]
    assert any(f"text {' + '.join(texts)}, label {label} (inferred)" in line for line in data.report)


def test_given_columns_win_over_usual_names(folder: Folder) -> None:
    columns = {"text": TWENTY, "body": [f"body {i}" for i in range(20)], "label": ["x"] * 20, "mine": BINARY["label"]}
    data = folder.load(columns, text=["body", "text"], label="mine")
    assert data.train.text([1]) == [("body 1", "text 1")]
    assert "inferred" not in "".join(data.report)


@pytest.mark.parametrize(
    ("names", "config", "message"),
    [
        (["words", "more", "label"], {}, "columns: words, more, label. Set data.text"),
        (["text", "kind"], {}, "columns: text, kind. Set data.label"),
        (["text", "label"], {"text": "txt"}, "no column 'txt'; its columns: text, label. Did you mean 'text'"),
        (["text", "label"], {"label": "lable"}, "no column 'lable'; its columns: text, label. Did you mean 'label'"),
        (["text", "label"], {"text": ["text", "text"]}, "one or two different columns, got text, text"),
        (["text", "label"], {"text": []}, "one or two different columns, got none"),
        (["text", "label"], {"text": "text", "label": "text"}, "cannot be both text and label"),
    ],
)
def test_columns_that_are_not_there_are_named(folder: Folder, names: list, config: dict, message: str) -> None:
    assert message in folder.fault({name: BINARY["label"] for name in names}, **config)


def test_a_text_column_of_numbers_is_refused(folder: Folder) -> None:
    file = folder.write("t.parquet", {"text": list(range(20)), "label": BINARY["label"]})
    assert "column 'text' holds int64, expected texts" in folder.fault(train=file)


# ---- kind of task and labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([10, 9, 2] * 8, ("2", "9", "10")),
        (["b", "a", " c "] * 8, ("a", "b", "c")),
        ([1.0, 0.0] * 12, ("0", "1")),
        (["-1", "1", "0"] * 8, ("-1", "0", "1")),
        ([True, False] * 12, ("false", "true")),
        (["1.5", "nan", "x", "y"] * 6, ("1.5", "nan", "x", "y")),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_labels_become_names_in_order(folder: Folder, labels: list, names: tuple, suffix: str) -> None:
    file = folder.write(f"t{suffix}", {"text": [f"text {i}" for i in range(24)], "label": labels})
    data = folder.load(train=file)
    assert data.task.kind == "classification" and data.task.labels == names
    shown = [str(int(x)) if isinstance(x, float) else str(x).strip().lower() for x in labels]
    assert [data.task.labels[i] for i in data.train.labels] == shown


@pytest.mark.parametrize("suffix", WRITERS)
def test_float_labels_make_a_regression(folder: Folder, suffix: str) -> None:
    scores = [i / 4 for i in range(20)]
    data = folder.load(train=folder.write(f"t{suffix}", {"text": TWENTY, "score": scores}))
    assert (data.task.kind, data.task.labels, data.task.metrics) == ("regression", (), ("pearson", "spearman"))
    assert data.train.labels.dtype == np.float32 and data.train.labels.tolist() == scores


def test_integer_scores_are_a_regression_when_asked_for_or_judged_by_pearson(folder: Folder) -> None:
    for task in ({"kind": "regression"}, {"metrics": ["pearson"]}):
        assert folder.load(BINARY, task=task).train.labels.dtype == np.float32


def test_fractional_labels_are_classes_when_asked_for(folder: Folder) -> None:
    data = folder.load({"text": TWENTY, "label": [0.5, 1.5] * 10}, task={"kind": "classification"})
    assert data.task.labels == ("0.5", "1.5")


def test_hundreds_of_classes_are_fine(folder: Folder) -> None:
    texts = [f"text {i}" for i in range(1200)]
    data = folder.load({"text": texts, "label": [f"intent-{i % 300:03}" for i in range(1200)]}, validation_size=0.25)
    assert data.task.num_outputs == 300 and data.task.metrics == ("accuracy", "macro_f1")
    assert len(set(data.validation.labels)) == len(set(data.train.labels)) == 300


def test_a_label_column_with_a_value_per_row_is_taken_for_another_column(folder: Folder) -> None:
    columns = {"text": [f"text {i}" for i in range(300)], "target": [f"id-{i}" for i in range(300)]}
    assert "300 different labels in 300 rows. Set data.label" in folder.fault(columns)


def test_given_labels_set_the_order_and_name_integers(folder: Folder) -> None:
    data = folder.load({"text": TWENTY, "label": ["no", "yes"] * 10}, task={"labels": ["yes", "no", "maybe"]})
    assert data.task.labels == ("yes", "no", "maybe") and data.train.labels[:2].tolist() == [1, 0]
    data = folder.load(BINARY, task={"labels": ["neg", "pos"]})
    assert data.task.labels == ("neg", "pos") and data.train.labels.tolist() == BINARY["label"]


def test_a_label_that_is_not_among_the_given_ones_is_named(folder: Folder) -> None:
    columns = {"text": TWENTY, "label": ["no", "yes"] * 9 + ["yse", "no"]}
    message = folder.fault(columns, task={"labels": ["no", "yes"]})
    assert "train.csv, line 20: the train label 'yse' is not among task.labels: no, yes. Did you mean 'yes'" in message


def test_metrics_that_do_not_fit_are_refused(folder: Folder) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'matthews'"):
        folder.load(BINARY, task={"metrics": ["mathews"]})


def test_one_class_is_nothing_to_learn(folder: Folder) -> None:
    message = "every row has the label 1 in column 'label'; a classifier needs two classes"
    assert message in folder.fault({"text": TWENTY, "label": [1] * 20})
    assert message in folder.fault({"text": TWENTY, "label": [1] * 20}, task={"labels": ["0", "1"]})


@pytest.mark.parametrize("suffix", WRITERS)
def test_spellings_that_look_the_same_are_one_label_and_told(folder: Folder, suffix: str) -> None:
    labels = ["caf\u00e9", "cafe\u0301", "old  town", "old\u00a0town", "\ufeffold town"] * 4
    data = folder.load(train=folder.write(f"t{suffix}", {"text": TWENTY, "label": labels}))
    assert data.task.labels == ("caf\u00e9", "old town")
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1] * 4
    line = "train: label 'caf\u00e9' is spelled in 2 ways ('caf\\xe9', 'cafe\\u0301'), taken as one"
    assert line in data.report
    assert sum("label 'old town' is spelled in 3 ways" in line for line in data.report) == 1


def test_one_spelling_is_kept_as_it_is_and_others_are_taken_for_it(folder: Folder, tmp_path: Path) -> None:
    columns = {"text": TWENTY, "label": ["a  b", "cafe\u0301"] * 10}
    dev = folder.write("dev.jsonl", {"text": ["x", "y"], "label": ["caf\u00e9", "a\u00a0b"]})
    data = folder.load(columns, dev=dev)
    assert data.task.labels == ("a  b", "cafe\u0301") and not any("train: label" in line for line in data.report)
    assert data.dev is not None and data.dev.labels.tolist() == [1, 0]
    assert "dev: labels are taken for those of the task in another spelling" in "\n".join(data.report)
    assert folder.load(columns, task={"labels": ["caf\u00e9", "a b"]}).train.labels.tolist() == [1, 0] * 10
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "caf\u00e9", "1": "a b"}}))
    table, task = load_table("train.csv", data_dir=tmp_path, like=tmp_path)
    assert task.labels == ("caf\u00e9", "a b") and table.labels.tolist() == [1, 0] * 10


def test_a_label_of_invisible_characters_is_missing(folder: Folder) -> None:
    message = folder.fault({"text": TWENTY, "label": ["a", "b", "\u200b", "b"] * 5})
    assert "line 4: no label in column 'label'" in message


BOOLEANS = {
    "csv": ("t.csv", ["True", "False"]),
    "upper": ("t.csv", ["TRUE", "FALSE"]),
    "lower": ("t.csv", ["true", "false"]),
    "json": ("t.jsonl", [True, False]),
    "parquet": ("t.parquet", [True, False]),
    "numbers": ("t.csv", ["1", "0"]),
    "integers": ("t.parquet", [1, 0]),
}


@pytest.mark.parametrize("dev", BOOLEANS)
@pytest.mark.parametrize("train", BOOLEANS)
def test_booleans_of_any_file_are_the_same_labels(folder: Folder, train: str, dev: str) -> None:
    name, values = BOOLEANS[train]
    first = folder.write(f"train-{name}", {"text": TWENTY, "label": values * 10})
    name, values = BOOLEANS[dev]
    second = folder.write(f"dev-{name}", {"text": ["x", "y"], "label": values})
    data = folder.load(train=first, dev=second)
    assert data.task.labels[1].lower() in ("true", "1") and data.train.labels[:2].tolist() == [1, 0]
    assert data.dev is not None and data.dev.labels.tolist() == [1, 0]


def test_booleans_in_mixed_case_are_joined(folder: Folder) -> None:
    data = folder.load({"text": TWENTY, "label": ["True", "true", "FALSE", "False"] * 5})
    assert data.task.labels == ("false", "true") and data.train.labels[:4].tolist() == [1, 1, 0, 0]


def test_0_against_booleans_in_another_order_is_refused_as_it_may_be_either(folder: Folder) -> None:
    message = folder.fault(BINARY, task={"labels": ["True", "False"]})
    assert "line 2: the train label '0' is not among task.labels: True, False. 0 may mean false" in message


def test_the_columns_of_a_table_of_outputs_may_be_spelled_in_another_way(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "o.jsonl", {"text": ["b"], "caf\u00e9 a": [0.25], "b": [0.75]})
    assert read_columns(path, ["cafe\u0301\u00a0a", "b"], 1)[1].tolist() == [[0.25, 0.75]]


# ---- files ---------------------------------------------------------------------------------------------------------


def test_what_was_detected_about_files_is_reported(folder: Folder) -> None:
    (folder.path / "train.txt").write_text('text|label\n"Well, well"|1\n"So, so"|0\n')
    write_csv(folder.path / "dev.csv", {"text": ["a", "b"], "label": ["1", "0"]}, ";")
    data = folder.load(train="train.txt", dev="dev.csv")
    assert "train: train.txt: fields are separated by '|'" in data.report
    assert any(line.startswith("train: train.txt: double quotes around fields are removed") for line in data.report)
    assert "dev: dev.csv: fields are separated by ';'" in data.report


def test_a_given_delimiter_is_that_of_all_files(folder: Folder) -> None:
    for name in ("train.csv", "dev.tsv", "validation.txt", "extra.csv"):
        write_csv(folder.path / name, {"text": TWENTY, "label": BINARY["label"]}, "x", csv.QUOTE_ALL)
    names = {"dev": "dev.tsv", "validation": "validation.txt", "extra": "extra.csv"}
    data = folder.load(train="train.csv", delimiter="x", quoting=True, **names)
    assert data.dev is not None and data.extra is not None
    assert [len(t) for t in (data.train, data.dev, data.validation, data.extra)] == [20] * 4


def test_what_was_detected_about_one_table_is_printed(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(folder.path / "t.csv", {"text": TWENTY, "label": ["yes", "no"] * 10}, "|")
    load_table("t.csv", data_dir=folder.path)
    read_rows("t.csv", data_dir=folder.path)
    assert capsys.readouterr().err.count("t.csv: fields are separated by '|'") == 2


def test_a_file_of_plain_lines_is_not_taken_for_a_column_with_its_first_line_as_name(folder: Folder) -> None:
    (folder.path / "lines.txt").write_text("good food and a view\nlate again\n")
    message = folder.fault(BINARY, extra="lines.txt")
    assert "its first line, 'good food and a view'" in message and "Put a line `text` above" in message
    (folder.path / "lines.txt").write_text("text\ngood food, and a view\nlate again\n")
    assert len(folder.load(BINARY, extra="lines.txt").extra or []) == 2


def test_several_columns_that_were_read_as_one_are_told_by_their_header(folder: Folder) -> None:
    (folder.path / "train.csv").write_text("text label\nfine 1\ndull 0\n")
    assert "has one column, 'text label', expected texts and labels" in folder.fault(train="train.csv")
    assert folder.load(train="train.csv", delimiter=" ").task.labels == ("0", "1")


@pytest.mark.parametrize("name", ["reviews.csv.gz", "reviews/train.csv", "reviews/train-*.csv", "reviews-*.jsonl"])
def test_a_task_is_named_after_its_files(tmp_path: Path, name: str) -> None:
    assert loading.table_name(tmp_path / name) == "reviews"


# ---- bad rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("blank", ["", "  "])
def test_a_row_without_text_is_named(folder: Folder, suffix: str, blank: str) -> None:
    texts = [*TWENTY[:6], blank, *TWENTY[7:]]
    message = folder.fault(train=folder.write(f"t{suffix}", {**BINARY, "text": texts}))
    place = {".jsonl": "line 7", ".parquet": "row 7"}.get(suffix, "line 8")
    assert f"t{suffix}, {place}: no text in column text. Fill it in or remove the row" in message


def test_a_null_text_is_named(folder: Folder) -> None:
    for writer, place in ((write_jsonl, "line 3"), (write_parquet, "row 3")):
        name = writer(
            folder.path / f"t.{'jsonl' if writer is write_jsonl else 'parquet'}",
            {**BINARY, "text": [*TWENTY[:2], None, *TWENTY[3:]]},
        ).name
        assert f"{name}, {place}: no text in column 'text'" in folder.fault(train=name)


def test_one_text_of_a_pair_may_be_blank_but_not_both(folder: Folder) -> None:
    columns = {"sentence1": ["", *TWENTY[1:]], "sentence2": TWENTY, "label": BINARY["label"]}
    assert folder.load(columns).train.text([0]) == [("", "text 0")]
    columns["sentence2"] = [" ", *TWENTY[1:]]
    assert "line 2: no text in column sentence1 + sentence2" in folder.fault(columns)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_missing_label_in_train_is_named_with_where_such_rows_go(folder: Folder, suffix: str) -> None:
    gap = "" if suffix in (".csv", ".tsv") else None
    labels = [*map(str, BINARY["label"][:4]), gap, *map(str, BINARY["label"][5:])]
    message = folder.fault(train=folder.write(f"t{suffix}", {"text": TWENTY, "label": labels}))
    assert "no label in column 'label'" in message and "data.extra" in message
    assert ("line 6" if gap == "" else "5:") in message


def test_a_missing_label_in_dev_is_named(folder: Folder) -> None:
    dev = folder.write("dev.csv", {"text": ["a", "b"], "label": ["1", ""]})
    assert "dev.csv, line 3: no label in column 'label'. The dev rows must all be labelled" in folder.fault(
        BINARY, dev=dev
    )


def test_a_label_in_dev_that_train_lacks_is_named(folder: Folder) -> None:
    dev = folder.write("dev.csv", {"text": ["a", "b"], "label": ["good", "baad"]})
    message = folder.fault({"text": TWENTY, "label": ["bad", "good"] * 10}, dev=dev)
    assert "dev.csv, line 3: the dev label 'baad' is not among the labels of train.csv: bad, good." in message
    assert "Did you mean 'bad'" in message


@pytest.mark.parametrize(
    ("bad", "shown"), [("nan", "'nan'"), ("n/a", "'n/a'"), ("inf", "'inf'"), ("1e999", "'1e999'"), ("1,5", "'1,5'")]
)
def test_a_score_that_is_no_number_is_named(folder: Folder, bad: str, shown: str) -> None:
    columns = {"text": TWENTY, "score": [*(i / 4 for i in range(19)), bad]}
    message = folder.fault(columns)
    assert f"train.csv, line 21: score {shown} in column 'score' is not a finite number" in message


def test_a_nan_score_in_parquet_is_named(folder: Folder) -> None:
    file = folder.write("t.parquet", {"text": TWENTY, "score": [0.5, float("inf"), *[0.25] * 18]})
    assert "t.parquet, row 2: score inf" in folder.fault(train=file)
    file = folder.write("t.parquet", {"text": TWENTY, "score": [0.5, float("nan"), *[0.25] * 18]})
    assert "t.parquet, row 2: no label in column 'score'" in folder.fault(train=file)


def test_names_in_a_regression_are_refused(folder: Folder) -> None:
    columns = {"text": TWENTY, "label": ["good", "bad"] * 10}
    assert "line 2: score 'good'" in folder.fault(columns, task={"kind": "regression"})


def test_lists_as_labels_are_refused_in_a_classification(folder: Folder) -> None:
    file = folder.write("t.parquet", {"text": TWENTY, "label": [["a"], ["b"]] * 10})
    fault = folder.fault(train=file, task={"kind": "classification"})
    assert "column 'label' holds list" in fault and "task.kind: multi-label" in fault


# ---- what goes where -----------------------------------------------------------------------------------------------


def test_no_train_is_an_error_that_says_what_to_set(folder: Folder) -> None:
    assert "set data.train to a table, or data.glue" in folder.fault()


def test_the_first_rows_are_used_when_train_is_cut(folder: Folder) -> None:
    data = folder.load(BINARY, max_train_rows=6)
    assert data.train.text(range(len(data.train))) == [(text,) for text in TWENTY[:6]]


def test_a_class_missed_by_cutting_train_is_explained(folder: Folder) -> None:
    columns = {"text": TWENTY, "label": [i % 2 if i < 10 else 2 for i in range(20)]}
    dev = folder.write("dev.csv", {"text": ["a"], "label": [2]})
    message = folder.fault(columns, dev=dev, max_train_rows=8)
    assert "not among the labels of train.csv (its first 8 rows): 0, 1" in message


def test_validation_rows_leave_train_and_share_no_text_with_it(folder: Folder) -> None:
    texts = [f"text {i % 70}" for i in range(100)]
    data = folder.load({"text": texts, "label": [i % 2 for i in range(100)]}, validation_size=0.2)
    assert len(data.train) + len(data.validation) == 100 and 15 <= len(data.validation) <= 20
    assert not set(data.train.text(range(len(data.train)))) & set(data.validation.text(range(len(data.validation))))
    assert any("30 repeats of a text kept" in line for line in data.report)
    assert any("held out of train" in line for line in data.report)


def test_a_validation_file_replaces_the_split(folder: Folder) -> None:
    file = folder.write("held.jsonl", {"text": ["a", TWENTY[3]], "label": [1, 0]})
    data = folder.load(BINARY, validation=file, validation_size=0.5)
    assert (len(data.train), len(data.validation)) == (20, 2)
    assert any("validation: 1 of 2 rows have a text that train has too" in line for line in data.report)


def test_dev_never_takes_part_in_training(folder: Folder) -> None:
    dev = folder.write("dev.tsv", {"text": ["new", TWENTY[0]], "label": [0, 1]})
    with_dev, without = folder.load(BINARY, dev=dev, validation_size=0.3), folder.load(BINARY, validation_size=0.3)
    assert with_dev.dev is not None and with_dev.dev.labels.tolist() == [0, 1]
    assert with_dev.train.fingerprint() == without.train.fingerprint()
    assert with_dev.validation.fingerprint() == without.validation.fingerprint()
    assert without.dev is None and any("dev: none given" in line for line in without.report)
    assert any("dev: 1 of 2 rows have a text that train has too" in line for line in with_dev.report)


@pytest.mark.parametrize(
    "extra", [{"text": ["x", "y"]}, {"text": ["x", "y"], "label": ["never", ""]}, {"sentence": ["x", "y"]}]
)
def test_extra_rows_are_unlabelled_and_follow_train(folder: Folder, extra: dict) -> None:
    data = folder.load(BINARY, extra=folder.write("extra.jsonl", extra))
    assert data.extra is not None and data.extra.labels.tolist() == [-100, -100]
    assert len(data.distillation) == 22 and data.distillation.text([20, 21]) == [("x",), ("y",)]
    assert folder.load(BINARY).distillation is not None


def test_extra_rows_of_a_regression_have_nan_as_score(folder: Folder) -> None:
    data = folder.load(
        {"text": TWENTY, "score": [i / 4 for i in range(20)]}, extra=folder.write("e.csv", {"text": ["x"]})
    )
    assert data.extra is not None and data.extra.labels.dtype == np.float32 and np.isnan(data.extra.labels).all()
    assert len(data.distillation) == 21


def test_extra_rows_with_another_number_of_texts_are_refused(folder: Folder) -> None:
    extra = folder.write("extra.csv", {"premise": ["x"], "hypothesis": ["y"]})
    assert "text in premise + hypothesis, but train has text" in folder.fault(BINARY, extra=extra)


def test_other_files_may_call_their_columns_otherwise(folder: Folder) -> None:
    dev = folder.write("dev.csv", {"sentence": ["a"], "class": [1]})
    assert folder.load(BINARY, dev=dev).dev.labels.tolist() == [1]  # type: ignore[union-attr]


def test_absolute_paths_ignore_the_data_dir(folder: Folder, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "t.csv", BINARY)
    data = load_data(DataConfig(train=str(file)), TaskConfig(), 0, Path("/nowhere"))
    assert len(data.train) + len(data.validation) == 20


def test_the_task_is_named_after_the_file_or_its_folder(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    write_csv(tmp_path / "films" / "train.csv", BINARY)
    write_csv(tmp_path / "reviews.csv", BINARY)
    names = [
        load_data(DataConfig(train=n), TaskConfig(), 0, tmp_path).task.name for n in ("films/train.csv", "reviews.csv")
    ]
    assert names == ["films", "reviews"]


def test_loading_twice_gives_the_same_rows_and_another_seed_another_split(folder: Folder) -> None:
    config = DataConfig(train=folder.write("t.csv", BINARY), validation_size=0.4)
    first, second, other = (load_data(config, TaskConfig(), seed, folder.path) for seed in (0, 0, 1))
    assert first.validation.fingerprint() == second.validation.fingerprint() != other.validation.fingerprint()


# ---- one table -----------------------------------------------------------------------------------------------------


def test_one_table_is_read_with_the_labels_of_a_checkpoint(folder: Folder, tmp_path: Path) -> None:
    folder.write("t.csv", {"text": TWENTY, "label": ["neg", "pos"] * 10})
    (tmp_path / "config.json").write_text('{"id2label": {"0": "pos", "1": "neg"}}')
    table, task = load_table("t.csv", data_dir=tmp_path, like=tmp_path, given=TaskConfig(metrics=["matthews"]))
    assert task.labels == ("pos", "neg") and task.metrics == ("matthews",)
    assert table.labels.tolist() == [1, 0] * 10
    folder.write("t.csv", {"text": TWENTY, "label": [2, 0] * 10})
    (tmp_path / "config.json").write_text('{"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}')
    assert load_table("t.csv", data_dir=tmp_path, like=tmp_path)[1].labels == ("0", "1", "2")
    folder.write("t.csv", {"text": TWENTY, "label": [0, 4] * 10})
    with pytest.raises(DataError, match="line 3: the evaluation label '4' is not among those of the model: 0, 1, 2"):
        load_table("t.csv", data_dir=tmp_path, like=tmp_path)


def test_one_table_of_scores_is_known_by_the_checkpoint(folder: Folder, tmp_path: Path) -> None:
    folder.write("t.csv", BINARY)
    (tmp_path / "config.json").write_text('{"id2label": {"0": "LABEL_0"}, "problem_type": "regression"}')
    table, task = load_table("t.csv", data_dir=tmp_path, like=str(tmp_path))
    assert task.kind == "regression" and table.labels.dtype == np.float32
    (tmp_path / "config.json").write_text('{"id2label": {"0": "LABEL_0"}}')  # a score, or one logit for two classes
    assert load_table("t.csv", data_dir=tmp_path, like=str(tmp_path))[1].labels == ("0", "1")
    folder.write("stars.csv", {"text": TWENTY, "label": [1, 2, 3, 4] * 5})
    assert load_table("stars.csv", data_dir=tmp_path, like=str(tmp_path))[1].kind == "regression"
    assert load_table("t.csv", data_dir=tmp_path, like=None)[1].labels == ("0", "1")


def test_a_table_of_outputs_is_joined_by_text(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "o.jsonl", {"text": ["b", "a"], "0": [0.25, 1], "1": [0.75, 0], "label": [1, 0]})
    ids, values = read_columns(path, ["1", "0"], 1)
    assert (ids == Table.from_texts(["b", "a"]).ids).all() and values.tolist() == [[0.75, 0.25], [0.0, 1.0]]
    with pytest.raises(DataError, match="no column '2'"):
        read_columns(path, ["2"], 1)
    with pytest.raises(DataError, match="the task has 2 text"):
        read_columns(path, ["0"], 2)


# ---- metrics of one class ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frauds", "metrics"),
    [
        (50, ("accuracy", "f1(ok)")),
        (34, ("accuracy", "f1(ok)")),
        (33, ("accuracy", "f1(ok)", "macro_f1")),
        (5, ("accuracy", "f1(ok)", "macro_f1")),
    ],
)
def test_macro_f1_stands_beside_where_classes_are_unbalanced(tmp_path: Path, frauds: int, metrics: tuple) -> None:
    labels = ["fraud"] * frauds + ["ok"] * (100 - frauds)
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"text {n},{label}\n" for n, label in enumerate(labels)))
    _, task = load_table(str(tmp_path / "t.csv"))
    assert task.metrics == metrics
    config = DataConfig(train=str(tmp_path / "t.csv"))
    chosen = load_data(config, TaskConfig(positive="fraud"), 0).task
    assert chosen.metrics == tuple(name.replace("(ok)", "(fraud)") for name in metrics)
    asked = load_data(config, TaskConfig(positive="fraud", metrics=["recall", "auc", "f1(ok)"]), 0).task
    assert asked.metrics == ("recall(fraud)", "auc(fraud)", "f1(ok)")


# ---- GLUE ----------------------------------------------------------------------------------------------------------

GLUE: dict[str, tuple[dict[str, list], tuple[str, ...]]] = {
    "SST-2": ({"sentence": TWENTY, "label": BINARY["label"]}, ("accuracy",)),
    "RTE": (
        {"index": range(20), "sentence1": TWENTY, "sentence2": TWENTY, "label": ["entailment", "not_entailment"] * 10},
        ("accuracy",),
    ),
    "MRPC": (
        {"Quality": BINARY["label"], "#1 ID": range(20), "#2 ID": range(20), "#1 String": TWENTY, "#2 String": TWENTY},
        ("accuracy", "f1(1)"),
    ),
    "CoLA": ({"gj04": ["gj04"] * 20, "1": BINARY["label"], "": ["", "*"] * 10, "x": TWENTY}, ("matthews",)),
    "STS-B": (
        {
            "index": range(20),
            "genre": TWENTY,
            "filename": TWENTY,
            "year": TWENTY,
            "old_index": TWENTY,
            "source1": TWENTY,
            "source2": TWENTY,
            "sentence1": TWENTY,
            "sentence2": TWENTY,
            "score": [f"{i % 6}.000" for i in range(20)],
        },
        ("pearson", "spearman"),
    ),
}


@pytest.mark.parametrize("name", GLUE)
def test_a_glue_folder_is_recognised_by_its_columns_whatever_its_name(tmp_path: Path, name: str) -> None:
    columns, metrics = GLUE[name]
    (tmp_path / "some-folder").mkdir()
    for file in ("train.tsv", "dev.tsv"):
        path = write_plain_tsv(tmp_path / "some-folder" / file, columns)
        if name == "CoLA":
            path.write_text(path.read_text().split("\n", 1)[1])
    data = load_data(DataConfig(glue="some-folder", validation_size=0), TaskConfig(), 0, tmp_path)
    assert (data.task.name, data.task.metrics) == (name, metrics)
    assert data.dev is not None and len(data.train) == len(data.dev) == 20
    assert data.task.kind == ("regression" if name == "STS-B" else "classification")
    table, task = load_table("some-folder", data_dir=tmp_path)
    assert task == data.task and table.fingerprint() == data.dev.fingerprint()
    if name == "CoLA":
        assert load_table("some-folder/dev.tsv", data_dir=tmp_path)[0].fingerprint() == data.dev.fingerprint()


def test_what_is_no_glue_folder_says_why(folder: Folder, tmp_path: Path) -> None:
    assert "no GLUE folder" in folder.fault(glue="nowhere")
    (tmp_path / "g").mkdir()
    write_plain_tsv(tmp_path / "g" / "train.tsv", {"a": ["x"], "b": ["y"]})
    assert "expected train.tsv and dev.tsv, found train.tsv" in folder.fault(glue="g")
    write_plain_tsv(tmp_path / "g" / "dev.tsv", GLUE["SST-2"][0])
    assert "fits no GLUE task (STS-B, MRPC" in folder.fault(glue="g")
    write_plain_tsv(tmp_path / "g" / "train.tsv", GLUE["MRPC"][0])
    assert "train.tsv is MRPC, dev.tsv is SST-2" in folder.fault(glue="g")
    assert "remove data.train and data.dev" in folder.fault(glue="g", train="t.csv")


SIZES = {"SST-2": (67_349, 872), "RTE": (2490, 277), "MRPC": (3668, 408), "CoLA": (8551, 1043), "STS-B": (5749, 1500)}


@pytest.mark.parametrize("name", SIZES)
def test_the_official_glue_files_are_read_to_the_last_row(glue_dir: Path, name: str) -> None:
    data = load_data(DataConfig(glue=name, validation_size=0), TaskConfig(), 0, glue_dir)
    assert data.dev is not None
    assert (len(data.train), len(data.dev)) == SIZES[name]
    assert (data.task.name, data.task.metrics) == (name, GLUE[name][1])
    split = load_data(DataConfig(glue=name), TaskConfig(), 0, glue_dir)
    assert len(split.train) + len(split.validation) == len(data.train)
    assert len(split.validation) == pytest.approx(len(data.train) / 10, abs=2)


def test_the_official_mrpc_is_read_the_same_as_a_plain_tsv(glue_dir: Path) -> None:
    # its texts hold quotes that delimit nothing
    glue = load_data(DataConfig(glue="MRPC"), TaskConfig(), 0, glue_dir)
    plain = load_data(DataConfig(train="MRPC/train.tsv", dev="MRPC/dev.tsv"), TaskConfig(), 0, glue_dir)
    assert plain.train.fingerprint() == glue.train.fingerprint()
    assert plain.dev is not None and glue.dev is not None
    assert plain.dev.fingerprint() == glue.dev.fingerprint()
