"""Held-out rows: repeats of a text never straddle the split, classes keep their shares, order does not matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilect.data import Table, hold_out
from distilect.errors import DataError

rows_of = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), min_size=2, max_size=120)


def table_of(rows: list[tuple[int, int]]) -> Table:
    return Table.from_texts([f"text {text}" for text, _ in rows], [label for _, label in rows])


@given(rows_of, st.floats(0.05, 0.6), st.integers(0, 5))
def test_a_text_is_on_one_side_only_and_no_row_is_lost(rows, size, seed) -> None:
    table = table_of(rows)
    try:
        kept, held = hold_out(table, size, seed)
    except DataError:
        assert len({text for text, _ in rows}) <= 4  # nothing to split
        return
    assert sorted([*kept, *held]) == list(range(len(rows)))
    assert len(kept) and len(held)
    assert not set(table.text(kept)) & set(table.text(held))


@given(st.lists(st.integers(0, 3), min_size=20, max_size=200), st.integers(1, 15), st.integers(0, 5))
def test_a_count_of_different_texts_is_met_when_classes_allow(labels, count, seed) -> None:
    table = Table.from_texts([f"text {i}" for i in range(len(labels))], labels)
    kept, held = hold_out(table, float(count), seed)
    assert count - 4 <= len(held) <= count
    assert set(table.labels[kept]) == set(labels)


def test_classes_keep_their_shares() -> None:
    table = Table.from_texts([f"text {i}" for i in range(1000)], [0] * 700 + [1] * 200 + [2] * 100)
    _, held = hold_out(table, 0.1, 0)
    assert np.bincount(table.labels[held]).tolist() == [70, 20, 10]


def test_the_split_depends_on_seed_and_texts_not_on_the_order_of_the_file() -> None:
    rows = [(i % 90, i % 3) for i in range(300)]
    table = table_of(rows)
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = table.take(order)

    def held(table: Table, seed: int) -> set:
        return set(table.text(hold_out(table, 0.2, seed)[1]))

    assert held(table, 0) == held(shuffled, 0)
    assert held(table, 0) != held(table, 1)


def test_the_split_is_the_same_on_every_machine_and_version() -> None:
    # the rows that choose checkpoints must not change under a published number
    table = Table.from_texts([f"text {i}" for i in range(12)], [0, 1] * 6)
    assert hold_out(table, 4, 0)[1].tolist() == [3, 4, 8, 9]


def test_a_class_with_one_text_stays_in_train() -> None:
    table = Table.from_texts([f"text {i}" for i in range(50)], [0] * 49 + [1])
    for seed in range(20):
        assert 49 in hold_out(table, 0.4, seed)[0]


def test_a_text_with_many_repeats_does_not_empty_the_validation_rows() -> None:
    table = Table.from_texts(["again"] * 500 + [f"text {i}" for i in range(500)], [0] * 1000)
    for seed in range(5):
        assert 90 <= len(hold_out(table, 0.1, seed)[1]) <= 100


def test_scores_are_split_without_classes() -> None:
    table = Table.from_texts([f"text {i}" for i in range(50)], [i / 7 for i in range(50)])
    assert len(hold_out(table, 0.2, 0)[1]) == 10


def test_nothing_is_validation_of_size_0() -> None:
    kept, held = hold_out(table_of([(0, 0), (1, 1)]), 0.0, 0)
    assert kept.tolist() == [0, 1] and not len(held)


@pytest.mark.parametrize(("size", "message"), [(10.0, "cannot hold 10 rows out of 3"), (1.0, "one text only")])
def test_a_split_that_leaves_nothing_is_refused(size: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        hold_out(Table.from_texts(["a", "b", "c"], [0, 1, 2]), size, 0)
