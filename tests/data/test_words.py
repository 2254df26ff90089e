"""Tables of words: CoNLL files in their many forms, lists in JSONL, Parquet and `datasets`, and what is refused with which words."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distilect.config import DataConfig, TaskConfig
from distilect.data import Data, Table, hold_out, load_data, load_table
from distilect.errors import ConfigError, DataError

WORDS = [["Ada", "Lovelace", "wrote"], ["in", "London", "."], ["Acme", "Corp", "paid"]]
TAGS = [["B-per", "I-per", "O"], ["O", "B-loc", "O"], ["B-org", "I-org", "O"]]
LABELS = ("O", "B-loc", "I-loc", "B-org", "I-org", "B-per", "I-per")
NER = {"tokens": WORDS, "ner_tags": TAGS}


def conll(words: list[list[str]], *columns: list[list[str]], by: str = "\t") -> str:
    """A sentence's words with their tags beside them, an empty line after each sentence."""
    sentences = [zip(*lists, strict=True) for lists in zip(words, *columns, strict=True)]
    return "\n".join("".join(by.join(line) + "\n" for line in sentence) for sentence in sentences)


class Folder:
    """Writes tables into a folder and loads them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, content: str | bytes | dict[str, Any]) -> str:
        path = self.path / name
        if isinstance(content, dict):
            if path.suffix == ".parquet":
                pq.write_table(pa.table(content), path)
                return name
            rows = zip(*content.values(), strict=True)
            content = "".join(json.dumps(dict(zip(content, row, strict=True))) + "\n" for row in rows)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    def load(
        self, content: Any = None, name: str = "train.conll", task: dict[str, Any] | None = None, **config: Any
    ) -> Data:
        if content is not None:
            config["train"] = self.write(name, content)
        return load_data(DataConfig(**{"validation_size": 0, **config}), TaskConfig(**task or {}), 0, self.path)

    def fault(self, *args: Any, **config: Any) -> str:
        with pytest.raises(DataError) as caught:
            self.load(*args, **config)
        message = str(caught.value)
        assert len(message.splitlines()) <= 2, message
        return message


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def content(table: Table, labels: tuple[str, ...]) -> list[list[tuple[str, str]]]:
    """The words of each row with their tags; "-" where a word has none."""
    offsets = table.offsets
    assert offsets is not None
    names = ["-" if label < 0 else labels[label] for label in table.labels]
    return [
        list(zip(words, names[start:end], strict=True))
        for words, start, end in zip(table.words(range(len(table))), offsets[:-1], offsets[1:], strict=True)
    ]


def paired(words: list[list[str]], tags: list[list[str]]) -> list[list[tuple[str, str]]]:
    return [list(zip(*row, strict=True)) for row in zip(words, tags, strict=True)]


# ---- CoNLL ---------------------------------------------------------------------------------------------------------

UPOS = [["PROPN", "PROPN", "VERB"], ["ADP", "PROPN", "PUNCT"], ["PROPN", "PROPN", "VERB"]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.conll", conll(WORDS, TAGS)),
        ("t.conll", conll(WORDS, TAGS, by=" ")),
        ("t.conll", conll(WORDS, UPOS, UPOS, TAGS, by=" ")),
        ("t.bio", conll(WORDS, TAGS).rstrip("\n")),
        ("t.conll", conll(WORDS, TAGS).replace("\n", "\r\n")),
        ("t.conll", "\ufeff" + conll(WORDS, TAGS)),
        ("t.conll", "-DOCSTART-\tO\n\n" + conll(WORDS[:1], TAGS[:1]) + "-DOCSTART- -X-\n" + conll(WORDS[1:], TAGS[1:])),
        ("t.conll", "#begin document (a/b); part 000\n" + conll(WORDS, TAGS) + "#end document\n"),
        ("t.conll", "# a comment of some words\n" + conll(WORDS, TAGS).replace("\nin", "\n# id = 2\nin")),
        ("t.conll", "\n\n" + conll(WORDS, TAGS).replace("\n\n", "\n \t\n\n")),
        ("t.iob", conll(WORDS, TAGS).replace("\t", "   ")),
    ],
)
def test_conll_files_are_read_in_all_their_forms(folder: Folder, name: str, text: str) -> None:
    data = folder.load(text, name)
    assert data.task.kind == "tokens"
    assert data.task.labels == LABELS
    assert data.task.metrics == ("entity_f1", "entity_precision", "entity_recall", "accuracy")
    assert content(data.train, LABELS) == paired(WORDS, TAGS)


@pytest.mark.parametrize("name", ["t.txt", "t.tsv", "t.txt.gz", "t.conll.gz"])
def test_other_text_files_are_conll_where_the_task_is_tokens(folder: Folder, name: str) -> None:
    text = conll(WORDS, TAGS).encode()
    data = folder.load(gzip.compress(text) if name.endswith("gz") else text, name, task={"kind": "tokens"})
    assert content(data.train, LABELS) == paired(WORDS, TAGS)
    by_metric = folder.load(conll(WORDS, TAGS), task={"metrics": ["entity_recall(per)"]})
    assert by_metric.task.metrics == ("entity_recall(per)",)


def test_utf16_is_read_and_windows_encodings_are_refused_with_the_command(folder: Folder) -> None:
    words = [["Käthe", "schläft"]]
    text = conll(words, [["B-per", "O"]])
    assert folder.load(text.encode("utf-16")).train.words([0]) == words
    assert "iconv -f WINDOWS-1252" in folder.fault(text.encode("cp1252"))


@pytest.mark.parametrize(
    ("text", "label", "expected"),
    [(None, None, TAGS), (0, 1, UPOS), ("0", "-2", UPOS), (None, -1, TAGS), (-3, 2, TAGS)],
)
def test_columns_of_conll_files_are_numbers(folder: Folder, text: Any, label: Any, expected: list) -> None:
    data = folder.load(conll(WORDS, UPOS, TAGS), text=text, label=label)
    assert content(data.train, data.task.labels) == paired(WORDS, expected)


UNIVERSAL = """# sent_id = 1
# text = Vámonos al mar
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\t_\t_\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_
2.1\tnada\t_\t_\t_\t_\t_\t_\t_\t_
3\tmar\tmar\tNOUN\t_\t_\t1\tobl\t_\t_

1\tYa\tya\tADV\t_\t_\t0\troot\t_\t_
"""


@pytest.mark.parametrize("name", ["t.conllu", "t.conll"])
def test_conllu_has_parts_of_speech_without_ranges_and_empty_nodes(folder: Folder, name: str) -> None:
    data = folder.load(UNIVERSAL, name)
    assert data.task.metrics == ("accuracy", "macro_f1")
    assert content(data.train, data.task.labels) == [
        [("Vamos", "VERB"), ("nos", "PRON"), ("mar", "NOUN")],
        [("Ya", "ADV")],
    ]


def test_a_score_and_a_hash_are_words_outside_conllu(folder: Folder) -> None:
    words = [["#", "1-2", "to"], ["1.1", "#one"]]
    tags = [["O", "O", "B-x"], ["O", "O"]]
    data = folder.load(conll(words, tags))
    assert content(data.train, data.task.labels) == paired(words, tags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tO\nb\n", "train.conll, line 2: 1 fields, expected 2 as in line 1"),
        ("a O\nb O O\n", "train.conll, line 2: 3 fields, expected 2"),
        ("\n# x y z\na\tO\nb O\n", "train.conll, line 4: 1 fields, expected 2 as in line 3"),
        ("a\tO\n# no comment here\n", "line 2: 1 fields, expected 2"),
        ("a\tB-x\nb\t\n", r"train.conll, line 1, word 2 ('b'): no tag in column '1'"),
        ("\n\n", "has no words: expected a word per line"),
        ("-DOCSTART- O\n\n", "has no words"),
        ("a\tO\nb\tO\n", "has the tag O at every word"),
        (" \tO\n\u200b\tB-x\n", "no row has words"),
        ("a\tb\x1fc\tO\n", "control character"),
    ],
)
def test_a_conll_file_that_cannot_be_used_is_refused_with_its_line(folder: Folder, text: str, message: str) -> None:
    config = {"text": 1} if "\x1f" in text else {}
    assert message in folder.fault(text, **config)


def test_settings_that_do_not_fit_conll_files_are_named(folder: Folder) -> None:
    text = conll(WORDS, UPOS, TAGS)
    assert "remove it" in folder.fault(text, quoting=True)
    assert "no column '7'" in folder.fault(text, label=7)
    assert "no column 'tag'" in folder.fault(text, label="tag")
    assert "cannot be both" in folder.fault(text, text=2, label=-1)
    assert "data.text names 2 columns" in folder.fault(text, text=["0", "1"])
    assert "data.label names 2 columns" in folder.fault(text, label=["1", "2"])
    assert "expected task.kind tokens" in folder.fault(text, task={"kind": "classification"})
    assert "label_delimiter '|'" in folder.fault(text, label_delimiter="|")


# Words as files can hold them: no line ends, no separators, and something visible.
word = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zs", "Zl", "Zp")), min_size=1, max_size=5).filter(
    lambda text: not text.startswith(("-DOCSTART-", "#"))
)


@given(st.lists(st.lists(st.tuples(word, st.sampled_from(LABELS)), min_size=1, max_size=5), min_size=1, max_size=5))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_word_is_lost_in_any_format(folder: Folder, rows: list[list[tuple[str, str]]]) -> None:
    words, tags = [[w for w, _ in row] for row in rows], [[t for _, t in row] for row in rows]
    task = {"labels": list(LABELS), "kind": "tokens"}
    for name, table in (
        ("t.conll", conll(words, tags)),
        ("s.conll", conll(words, tags, by=" ")),
        ("t.jsonl", {"tokens": words, "tags": tags}),
        ("t.parquet", {"tokens": words, "tags": tags}),
    ):
        found = folder.load(table, name, task)
        assert found.train.words(range(len(rows))) == words
        assert found.train.num_units == sum(map(len, rows))
        assert (found.train.ids == Table.from_words(words).ids).all()


# ---- lists ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
@pytest.mark.parametrize(
    "names", [("tokens", "ner_tags"), ("Words", "tags"), ("words", "pos_tags"), ("tokens", "labels")]
)
def test_columns_of_lists_are_inferred(folder: Folder, name: str, names: tuple[str, str]) -> None:
    data = folder.load({"id": [1, 2, 3], names[0]: WORDS, names[1]: TAGS}, name)
    assert data.task.kind == "tokens"
    assert content(data.train, LABELS) == paired(WORDS, TAGS)
    assert f"text {names[0]}, label {names[1]} (inferred)" in data.report[1]


def test_columns_of_lists_are_named(folder: Folder) -> None:
    data = folder.load({"a": WORDS, "b": TAGS, "c": UPOS}, "t.jsonl", text="a", label="c")
    assert content(data.train, data.task.labels) == paired(WORDS, UPOS)
    assert "no column has a usual name for tags" in folder.fault({"tokens": WORDS, "b": TAGS}, "t.jsonl")
    assert "Set data.text to the one with the lists" in folder.fault(
        {"a": WORDS, "b": TAGS}, "t.jsonl", task={"kind": "tokens"}
    )


def test_a_list_of_labels_beside_a_text_is_multi_label(folder: Folder) -> None:
    texts = ["a", "b", "c"]
    several = [["x", "y"], ["x"], []]
    assert folder.load({"text": texts, "labels": several}, "t.jsonl").task.kind == "multi-label"
    beside = {"text": texts, "tokens": WORDS, "labels": several}
    assert folder.load(beside, "t.jsonl").task.kind == "multi-label"
    assert folder.load({"text": texts, "tokens": WORDS, "ner_tags": TAGS}, "t.jsonl").task.kind == "tokens"


def test_a_text_beside_a_column_of_objects_called_tokens_is_still_classified(folder: Folder) -> None:
    rows = {"text": ["a", "b", "c"], "tokens": [{"x": 1}] * 3, "label": ["p", "q", "p"]}
    assert folder.load(rows, "t.jsonl").task.kind == "classification"


@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_class_labels_of_datasets_give_the_names(folder: Folder, form: str) -> None:
    import datasets

    numbers = [[LABELS.index(tag) for tag in row] for row in TAGS]
    numbers[1][2] = -100
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=list(LABELS))),
        }
    )
    made = datasets.Dataset.from_dict({"tokens": WORDS, "ner_tags": numbers}, features=features)
    if form == "folder":
        made.save_to_disk(str(folder.path / "made"))
    else:
        made.to_parquet(str(folder.path / "made.parquet"))
    data = folder.load(train="made" if form == "folder" else "made.parquet")
    assert data.task.labels == LABELS
    expected = [*TAGS[:1], ["O", "B-loc", "-"], *TAGS[2:]]
    assert content(data.train, LABELS) == paired(WORDS, expected)


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_integers_need_names(folder: Folder, name: str) -> None:
    rows = {"tokens": WORDS, "tags": [[LABELS.index(tag) for tag in row] for row in TAGS]}
    assert "name the tags with task.labels" in folder.fault(rows, name)
    rows["tags"][0][2] = -100
    data = folder.load(rows, name, {"labels": list(LABELS)})
    expected = [["B-per", "I-per", "-"], *TAGS[1:]]
    assert content(data.train, LABELS) == paired(WORDS, expected)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"tokens": WORDS, "tags": [*TAGS[:2], ["O"]]}, "line 3: 3 words in column 'tokens' and 1 tags in 'tags'"),
        ({"tokens": WORDS, "tags": [["O"] * 3, None, ["B-x"] * 3]}, "line 2: no label in column 'tags'"),
        ({"tokens": WORDS, "tags": [["B-x", " ", "O"], *TAGS[1:]]}, "line 1, word 2 ('Lovelace'): no tag"),
        ({"tokens": ["a b"] * 3, "tags": TAGS}, "column 'tokens' holds large_string, expected lists of words"),
        ({"tokens": WORDS, "tags": ["O", "O", "O"]}, "column 'tags' holds large_string, expected lists of tags"),
        (
            {"tokens": [["a\x1fb"], ["c"], ["d"]], "tags": [["O"], ["O"], ["X"]]},
            r"line 1, word 1 ('a\x1fb'): the word holds",
        ),
        ({"tokens": WORDS}, "texts alone, no labels"),
    ],
)
def test_lists_that_cannot_be_used_are_refused_with_their_row(folder: Folder, rows: dict, message: str) -> None:
    assert message in folder.fault(rows, "t.jsonl", {"kind": "tokens"})


def test_parquet_nulls(folder: Folder) -> None:
    tags: list = [["B-per", None, "O"], *TAGS[1:]]
    data = folder.load({"tokens": WORDS, "tags": tags}, "t.parquet")
    assert content(data.train, data.task.labels)[0] == [("Ada", "B-per"), ("Lovelace", "-"), ("wrote", "O")]
    words: list = [["Ada", None, "wrote"], *WORDS[1:]]
    assert "row 1: a word in column 'tokens' is null" in folder.fault({"tokens": words, "tags": TAGS}, "t.parquet")
    numbers = {"tokens": [[1, 2], [3]], "tags": [["O", "O"], ["X"]]}
    assert "lists of int64, expected lists of words" in folder.fault(numbers, "t.parquet")


def test_many_different_tags_are_a_wrong_column(folder: Folder) -> None:
    rows = [[f"word{i}"] for i in range(200)]
    assert "200 different tags for 200 words" in folder.fault(conll(rows, rows))
    assert folder.load(conll(rows, rows), task={"kind": "tokens"}).task.num_outputs == 200


# ---- what is left out, and schemes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_blank_words_and_rows_without_words_are_left_out_and_reported(folder: Folder, name: str) -> None:
    words: list = [["Ada", " ", "Lovelace", "\u200b"], [], ["", "\x1f\t"], None, ["\ufe0f", "b c"]]
    tags: list = [["B-per", "O", "I-per", "O"], [], ["O", "O"], [], ["O", "B-loc"]]
    data = folder.load({"tokens": words, "tags": tags}, name)
    assert content(data.train, data.task.labels) == [
        [("Ada", "B-per"), ("Lovelace", "I-per")],
        [("\ufe0f", "O"), ("b c", "B-loc")],
    ]
    report = "\n".join(data.report)
    assert "train: 4 words without visible characters left out, with their tags" in report
    place = "t.jsonl, line 2" if name == "t.jsonl" else "t.parquet, row 2"
    assert f"train: 3 rows without words in column 'tokens' left out, the first: {place}" in report
    assert "train: 2 rows of 2 words (4 words) from" in report


def test_the_report_tells_scheme_types_and_sizes(folder: Folder) -> None:
    data = folder.load(conll([*WORDS, ["Oh"]], [*TAGS, ["O"]]), name="demo.conll")
    assert data.report[0].startswith(
        "task demo: 7 tags (BIO, 3 types: loc, org, per), a tag per word, scored by entity_f1,"
    )
    assert "train: demo.conll: CoNLL, 2 columns between tabs" in data.report
    assert "train: 4 rows of 1 to 3 words (10 words) from demo.conll; text 0, label 1 (inferred)" in data.report
    assert "train: I-loc added to the tags: every type has all of its scheme's" in data.report


def test_iob1_is_read_as_bio_and_reported(folder: Folder) -> None:
    tags = [["I-per", "I-per", "O"], ["O", "I-loc", "O"], ["I-org", "B-org", "O"]]
    data = folder.load(conll(WORDS, tags), dev=folder.write("dev.conll", conll(WORDS, tags)))
    bio = [["B-per", "I-per", "O"], ["O", "B-loc", "O"], ["B-org", "B-org", "O"]]
    assert content(data.train, data.task.labels) == paired(WORDS, bio)
    assert data.dev is not None
    assert content(data.dev, data.task.labels) == paired(WORDS, bio)
    for role in ("train", "dev"):
        assert f"{role}: the tags are IOB1, read as BIO (3 tags written anew)" in data.report


def test_illegal_tags_are_kept_and_reported_with_the_first_place(folder: Folder) -> None:
    tags = [["B-per", "I-loc", "O"], ["O", "B-loc", "I-loc"], ["B-org", "I-org", "O"]]
    data = folder.load(conll(WORDS, tags))
    assert content(data.train, data.task.labels) == paired(WORDS, tags)
    [line] = [line for line in data.report if "are illegal in" in line]
    assert line == (
        "train: 1 of 9 tags are illegal in BIO and kept as they are (an entity begins where none is continued), the first: I-loc at "
        "train.conll, line 1, word 2 ('Lovelace')"
    )


def test_a_tag_that_spoils_the_scheme_is_named(folder: Folder) -> None:
    tags = [["B-per", "I-per", "MISC"], *TAGS[1:]]
    data = folder.load(conll(WORDS, tags))
    assert data.task.metrics == ("accuracy", "macro_f1")
    assert any("read as plain ones, not as entities, because 'MISC'" in line for line in data.report)
    with pytest.raises(ConfigError, match="'MISC' is none"):
        folder.load(conll(WORDS, tags), task={"metrics": ["entity_f1"]})


def test_part_of_speech_needs_no_remark(folder: Folder) -> None:
    assert not any("plain" in line or "added" in line for line in folder.load(conll(WORDS, UPOS)).report)


# ---- several tables --------------------------------------------------------------------------------------------------


def test_a_dev_tag_that_train_lacks_is_named_with_its_place(folder: Folder) -> None:
    folder.write("dev.conll", conll([["x", "y"]], [["O", "B-pers"]]))
    message = folder.fault(conll(WORDS, TAGS), dev="dev.conll")
    assert "dev.conll, line 1, word 2 ('y'): the dev label 'B-pers' is not among the labels of train.conll" in message
    assert "Did you mean 'B-per'" in message


def test_the_inside_of_a_type_that_train_has_with_one_word_only_is_no_error_in_dev(folder: Folder) -> None:
    folder.write("dev.conll", conll([["New", "York"]], [["B-loc", "I-loc"]]))
    data = folder.load(conll(WORDS, TAGS), dev="dev.conll")
    assert data.dev is not None
    assert content(data.dev, data.task.labels) == [[("New", "B-loc"), ("York", "I-loc")]]


def test_labels_keep_the_order_that_is_given(folder: Folder) -> None:
    order = list(reversed(LABELS))
    assert folder.load(conll(WORDS, TAGS), task={"labels": order}).task.labels == tuple(order)
    assert "'B-loc' is not among task.labels" in folder.fault(
        conll(WORDS, TAGS), task={"labels": ["O", "B-per", "I-per", "B-org", "I-org"]}
    )


def test_extra_needs_no_tags_and_each_file_has_its_own_columns(folder: Folder) -> None:
    folder.write("extra.txt", "Grace\nHopper\n\nsaid\n")
    folder.write("extra.jsonl", {"words": [["Grace", "Hopper"], ["said"]], "source": ["a", "b"]})
    folder.write("dev.conll", conll(WORDS, UPOS, TAGS))
    for extra in ("extra.txt", "extra.jsonl"):
        data = folder.load(NER, "t.jsonl", extra=extra, dev="dev.conll")
        assert data.extra is not None
        assert content(data.extra, LABELS) == [[("Grace", "-"), ("Hopper", "-")], [("said", "-")]]
        assert data.distillation.num_units == 12
        assert data.dev is not None
        assert content(data.dev, LABELS) == paired(WORDS, TAGS)
    folder.write("plain.jsonl", {"tokens": ["a b", "c"]})
    assert "expected lists of words" in folder.fault(NER, "t.jsonl", extra="plain.jsonl")


def test_train_without_tags_takes_the_task_from_labels_or_a_teacher(folder: Folder) -> None:
    words = {"tokens": WORDS, "id": [1, 2, 3]}
    folder.write("dev.jsonl", NER)
    data = folder.load(words, "t.jsonl", {"labels": list(LABELS)}, dev="dev.jsonl", validation="t.jsonl")
    assert (data.task.kind, data.train.num_labelled, data.agreement) == ("tokens", 0, True)
    assert data.dev is not None and data.dev.num_labelled == 3
    assert "no column has a usual name for tags" in folder.fault(
        words, "t.jsonl", task={"labels": list(LABELS)}, dev="t.jsonl"
    )
    (folder.path / "teacher").mkdir()
    about = {"architectures": ["BertForTokenClassification"], "id2label": dict(enumerate(LABELS))}
    (folder.path / "teacher" / "config.json").write_text(json.dumps(about))
    config = DataConfig(train="t.jsonl", validation_size=0)
    like = str(folder.path / "teacher")
    assert load_data(config, TaskConfig(), 0, folder.path, like=like).task.labels == LABELS
    folder.write("text.csv", "text\na\nb\nc\n")
    with pytest.raises(DataError, match="the teacher tags words"):
        load_data(DataConfig(train="text.csv", validation_size=0), TaskConfig(), 0, folder.path, like=like)
    table, task = load_table("dev.jsonl", data_dir=folder.path, like=like)
    assert task.kind == "tokens" and content(table, LABELS) == paired(WORDS, TAGS)


def test_load_table_infers_tokens(folder: Folder) -> None:
    for name, table in (("t.conll", conll(WORDS, TAGS)), ("t.jsonl", NER)):
        found, task = load_table(folder.write(name, table), data_dir=folder.path)
        assert task.kind == "tokens"
        assert content(found, LABELS) == paired(WORDS, TAGS)


def test_a_folder_of_conll_files_has_splits(folder: Folder) -> None:
    (folder.path / "set").mkdir()
    for name in ("train", "dev", "test"):
        folder.write(f"set/{name}.conll", conll(WORDS, TAGS))
    data = folder.load(train="set", dev="set[dev]")
    assert data.dev is not None
    assert data.train.num_units == data.dev.num_units == 9
    assert any("3 of 3 rows have a text that train has too" in line for line in data.report)


def test_glue_has_no_words(folder: Folder) -> None:
    (folder.path / "SST-2").mkdir()
    for name in ("train", "dev"):
        folder.write(f"SST-2/{name}.tsv", "sentence\tlabel\na\t0\nb\t1\n")
    assert folder.fault(glue="SST-2", task={"kind": "tokens"}).endswith("Remove data.glue")


# ---- split -----------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=3), min_size=4, max_size=60
    ),
    st.floats(0.1, 0.5),
    st.integers(0, 3),
)
def test_sentences_are_held_out_whole_and_repeats_stay_together(rows, size, seed) -> None:
    words = [[f"w{word}" for word, _ in row] for row in rows]
    table = Table.from_words(words, [[tag for _, tag in row] for row in rows])
    try:
        kept, held = hold_out(table, size, seed)
    except DataError:
        assert len({tuple(row) for row in words}) <= 6
        return
    assert sorted([*kept, *held]) == list(range(len(rows)))
    assert not set(map(tuple, table.words(kept))) & set(map(tuple, table.words(held)))
    both = table.take(kept).num_units + table.take(held).num_units
    assert both == table.num_units


def test_rare_types_keep_their_share_of_the_validation_split() -> None:
    rare = [i % 20 == 0 for i in range(400)]
    table = Table.from_words([[f"w{i}", "and"] for i in range(400)], [[1 if r else 2, 0] for r in rare])
    for seed in range(5):
        _, held = hold_out(table, 0.1, seed)
        assert sum(rare[row] for row in held) == 2
        assert len(held) == 40


def test_the_split_of_words_does_not_depend_on_the_order_of_the_file() -> None:
    random = np.random.default_rng(0)
    table = Table.from_words([[f"w{i}", "x"] for i in range(100)], random.integers(0, 5, (100, 2)).tolist())
    shuffled = table.take(random.permutation(100))
    one, other = ({tuple(words) for words in t.words(hold_out(t, 0.2, 3)[1])} for t in (table, shuffled))
    assert one == other


def test_wnut17(wnut17_dir: Path) -> None:
    data = load_data(DataConfig(train=str(wnut17_dir), dev=f"{wnut17_dir}[dev]"), TaskConfig(), 0)
    assert len(data.task.labels) == 13
    assert data.task.scheme is not None and data.task.scheme.name == "BIO"
    assert len(data.train) + len(data.validation) == 3394
    assert data.train.num_units + data.validation.num_units == 62730
    assert data.dev is not None and (len(data.dev), data.dev.num_units) == (1009, 15733)
