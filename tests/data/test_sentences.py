"""Texts and lists of words, as a model that tags words reads them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilect.data.sentences import WORD, Sentences, open_sentences, read_sentences, words_of
from distilect.errors import DataError
from distilect.export.plain import SCRIPT


def read(folder: Path, name: str, content: Any, **options: Any) -> tuple[Sentences, bool]:
    path = folder / name
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.table(content), path)
    else:
        rows = zip(*content.values(), strict=True)
        path.write_text("".join(json.dumps(dict(zip(content, row, strict=True))) + "\n" for row in rows))
    source, column, lists = open_sentences(name, data_dir=folder, **options)
    return read_sentences(source.read(source.columns), column, lists), lists


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ada Lovelace, of London.", ["Ada", "Lovelace", ",", "of", "London", "."]),
        ("Jean-Luc's (U.S.) 3.5!", ["Jean-Luc", "'", "s", "(", "U.S", ".", ")", "3.5", "!"]),
        ("x--y @user #tag snake_case", ["x", "-", "-", "y", "@", "user", "#", "tag", "snake_case"]),
        ("cafe\u0301 नमस्ते می\u200cروم", ["cafe\u0301", "नमस्ते", "می\u200cروم"]),  # marks and joiners are parts of words
        ("❤️日本語。", ["❤️", "日本語", "。"]),
        ("a\x1fb\u200b \t\n", ["a", "b"]),
        ("", []),
    ],
)
def test_a_text_is_split_at_spaces_and_punctuation(text: str, words: list[str]) -> None:
    assert [word for word, _ in words_of(text)] == words


@given(st.text(max_size=60))
def test_words_stand_where_it_is_said_and_no_visible_character_is_lost(text: str) -> None:
    found = words_of(text)
    assert all(text[start:end] == word for word, (start, end) in found)
    assert all(a[1] <= b[0] for (_, a), (_, b) in itertools.pairwise(found))
    inside = {place for _, (start, end) in found for place in range(start, end)}
    assert not [c for place, c in enumerate(text) if c.isalnum() and place not in inside]


def test_the_script_beside_an_export_has_the_same_rule() -> None:
    scope: dict[str, Any] = {}
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    exec("\n".join(line for line in lines if line.startswith(("INNER =", "WORD ="))), scope)
    assert scope["WORD"] == WORD


def test_texts_are_split_and_know_their_characters(tmp_path: Path) -> None:
    found, lists = read(tmp_path, "t.jsonl", {"id": [1, 2, 3], "text": ["Ada, here", "\u200b", "so?"]})
    assert not lists and found.bounds is not None
    assert found.table.words(range(2)) == [["Ada", ",", "here"], ["so", "?"]]
    assert found.kept.tolist() == [0, 2] and found.sizes.tolist() == [3, 0, 2]
    assert found.bounds.tolist() == [[0, 3], [3, 4], [5, 9], [0, 2], [2, 3]]
    assert found.places.tolist() == [0, 1, 2, 0, 1]
    assert not (found.table.has_label).any()


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_lists_of_words_stay_as_they_are(tmp_path: Path, name: str) -> None:
    found, lists = read(tmp_path, name, {"tokens": [["a", " ", "b"], [], ["c"]]})
    assert lists and found.texts is None
    assert found.table.words(range(2)) == [["a", "b"], ["c"]]
    assert found.kept.tolist() == [0, 2] and found.sizes.tolist() == [3, 0, 1]
    assert found.places.tolist() == [0, 2, 0]


def test_a_conll_file_needs_no_tags(tmp_path: Path) -> None:
    found, lists = read(tmp_path, "t.conll", "Ada\nwrites\n\nso\n")
    assert lists and found.table.words(range(2)) == [["Ada", "writes"], ["so"]]


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ({"mine": [["a", "b"]], "text": ["no"]}, {"text": "mine"}, [["a", "b"]]),
        ({"mine": ["a b"], "text": ["no"]}, {"text": ["mine"]}, [["a", "b"]]),
        ({"mine": ["a b"], "text": ["no"]}, {"usual": ["mine"]}, [["a", "b"]]),
        ({"text": ["a b"]}, {"usual": ["0"]}, [["a", "b"]]),
        ({"tokens": [["a", "b"]], "tags": [["O", "O"]]}, {}, [["a", "b"]]),
    ],
)
def test_the_column_is_the_one_that_is_named_or_has_a_usual_name(
    tmp_path: Path, content: Any, options: Any, words: list[list[str]]
) -> None:
    assert read(tmp_path, "t.jsonl", content, **options)[0].table.words([0]) == words


def test_no_row_has_words(tmp_path: Path) -> None:
    found, _ = read(tmp_path, "t.jsonl", {"tokens": [[], []]})
    assert len(found.table) == 0 and found.sizes.tolist() == [0, 0] and found.kept.dtype == np.int64


def test_pairs_of_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="reads one text per row: name it with --text"):
        read(tmp_path, "t.jsonl", {"sentence1": ["a"], "sentence2": ["b"]})


@pytest.mark.parametrize("name", ["t.tsv", "t.txt"])
def test_a_conll_file_by_another_name_is_told_how_to_be_called(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="If it is a CoNLL file, give it a name that ends in .conll"):
        read(tmp_path, name, "Ada\tB-per\nwrites\tO\n\nso\tO\n")
