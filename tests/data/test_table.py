"""Rows have an identity that depends on their texts alone, and tables keep texts, labels and ids together."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilect.data import Table, row_identity, row_keys
from distilect.errors import DataError

encodable = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
rows = st.one_of(st.tuples(encodable), st.tuples(encodable, encodable))


@given(rows, rows)
def test_two_rows_have_one_identity_only_if_their_texts_are_equal(first: tuple, second: tuple) -> None:
    assert (row_identity(first) == row_identity(second)) == (first == second)


@given(encodable, st.integers(0, 12))
def test_moving_the_border_between_two_texts_changes_the_identity(text: str, border: int) -> None:
    border = min(border, len(text))
    whole, cut = row_identity((text, "")), row_identity((text[:border], text[border:]))
    assert (whole == cut) == (border == len(text))
    assert row_identity((text,)) not in (whole, cut)


def test_the_identity_is_the_same_on_every_machine_and_version() -> None:
    # stores of teacher signals are addressed by it: changing it throws all of them away
    assert row_identity(("a fine film",)) == (7744097051642823124, 9893960959078737610)


@given(st.lists(st.tuples(encodable, encodable), min_size=1, max_size=20))
def test_the_ids_of_a_table_are_the_identities_of_its_rows(pairs: list[tuple[str, str]]) -> None:
    table = Table.from_texts(pairs)
    assert [tuple(map(int, pair)) for pair in table.ids] == [row_identity(pair) for pair in pairs]
    assert table.text(range(len(pairs))) == pairs
    assert row_keys(table.ids).dtype == np.int64
    assert row_keys(table.ids).view(np.uint64).tolist() == table.ids[:, 0].tolist()


def test_duplicates_are_kept_and_share_an_identity() -> None:
    table = Table.from_texts(["a", "b", "a"], [0, 1, 1])
    assert len(table) == 3
    assert (table.ids[0] == table.ids[2]).all() and (table.ids[0] != table.ids[1]).any()


def test_taking_rows_moves_texts_labels_and_ids_together() -> None:
    table = Table.from_texts(["a", "b", "c"], [0, 1, 2])
    taken = table.take([2, 0, 2])
    assert taken.text([0, 1, 2]) == [("c",), ("a",), ("c",)]
    assert taken.labels.tolist() == [2, 0, 2]
    assert (taken.ids == table.ids[[2, 0, 2]]).all()
    assert len(table.take([])) == 0


def test_joined_tables_keep_their_rows_in_order() -> None:
    joined = Table.concat([Table.from_texts(["a"], [1]), Table.from_texts(["b"]), Table.from_texts(["c"], [0])])
    assert joined.text([0, 1, 2]) == [("a",), ("b",), ("c",)]
    assert joined.labels.tolist() == [1, -100, 0]
    assert joined.has_label.tolist() == [True, False, True]


def test_tables_that_do_not_fit_are_not_joined() -> None:
    one, two, scored = Table.from_texts(["a"]), Table.from_texts([("a", "b")]), Table.from_texts(["a"], [0.5])
    with pytest.raises(DataError, match="one text and with two"):
        Table.concat([one, two])
    with pytest.raises(DataError, match="different kinds of labels"):
        Table.concat([one, scored])


def test_scores_are_float32_and_missing_ones_nan() -> None:
    table = Table.from_texts(["a", "b"], [0.5, float("nan")])
    assert table.labels.dtype == np.float32
    assert table.has_label.tolist() == [True, False]
    assert not table.without_labels().has_label.any()
    assert Table.from_texts(["a", "b"], [0, 1]).without_labels().labels.tolist() == [-100, -100]


def test_the_fingerprint_changes_with_texts_labels_and_order() -> None:
    base = Table.from_texts(["a", "b"], [0, 1])
    others = [
        Table.from_texts(["a", "c"], [0, 1]),
        Table.from_texts(["a", "b"], [1, 1]),
        Table.from_texts(["b", "a"], [0, 1]),
        Table.from_texts([("a", ""), ("b", "")], [0, 1]),
        Table.from_texts(["a", "b"], [0.0, 1.0]),
        base.without_labels(),
        base.take([0]),
    ]
    prints = {table.fingerprint() for table in [base, *others]}
    assert len(prints) == len(others) + 1
    assert all(len(text) == 16 for text in prints)
    assert base.take([0, 1]).fingerprint() == base.fingerprint()


def test_slices_and_chunks_of_arrow_columns_hash_like_their_texts() -> None:
    whole = pa.array(["x", "a", "b", "c"])
    parts = pa.chunked_array([pa.array(["a"]), pa.array(["b", "c"])])
    expected = Table.from_texts(["a", "b", "c"]).ids
    assert (Table.from_columns([whole.slice(1)]).ids == expected).all()
    assert (Table.from_columns([parts]).ids == expected).all()


def test_more_rows_than_a_block_keep_their_order() -> None:
    texts = [f"row {i}" for i in range(40_000)]
    table = Table.from_texts(texts)
    assert table.text([39_999, 16_384]) == [("row 39999",), ("row 16384",)]
    assert tuple(map(int, table.ids[16_384])) == row_identity(("row 16384",))


def test_a_table_needs_parts_of_one_length() -> None:
    with pytest.raises(DataError, match="differ in length"):
        Table((pa.array(["a", "b"]),), np.zeros(1, np.int64), np.zeros((2, 2), np.uint64))
    with pytest.raises(DataError, match="same number of texts"):
        Table.from_texts(["a", ("a", "b")])


def test_a_lone_surrogate_is_named_with_its_row() -> None:
    with pytest.raises(DataError, match="row 2: the text holds a lone surrogate"):
        Table.from_texts(["fine", "bad \ud800"])


def test_an_empty_table_is_a_table() -> None:
    table = Table.from_texts([])
    assert len(table) == 0 and table.ids.shape == (0, 2) and table.fingerprint()


def test_the_fingerprint_of_a_word_table_is_over_all_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "distilect.data.table._STRETCH", 8
    )  # labels are read in blocks, of which there are more than of rows
    rows = [["a"] * 20, ["b"] * 20]
    one, other = (Table.from_words(rows, [[0] * 20, [*[0] * 19, last]]) for last in (0, 1))
    assert one.fingerprint() != other.fingerprint()
    assert one.num_labelled_units == 40 and one.num_labelled == 2
    assert Table.from_words(rows, [[-100] * 20, [0] * 20]).num_labelled == 1
