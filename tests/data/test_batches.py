"""Batches are a partition of the rows, drawn anew in every epoch; the number of steps depends on the row count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilect.data import (
    EpochBatchSampler,
    Window,
    epoch_batches,
    scoring_batches,
    steps_per_epoch,
    token_budget_splits,
)
from distilect.data import batches as batches_module
from distilect.errors import ConfigError

lengths_of = st.lists(st.integers(1, 200), min_size=1, max_size=300)
epochs = st.integers(0, 50)


def flat(batches: list) -> list[int]:
    return sorted(int(row) for batch in batches for row in batch)


@given(lengths_of, st.integers(1, 40), st.integers(-5, 2**40), epochs, st.booleans())
def test_an_epoch_is_a_partition_into_batches_of_the_right_size(lengths, size, seed, epoch, group) -> None:
    with pytest.MonkeyPatch.context() as small:
        small.setattr(batches_module, "_POOL", 3)
        batches = epoch_batches(lengths, size, seed, epoch, group=group)
    assert flat(batches) == list(range(len(lengths)))
    sizes = sorted((len(batch) for batch in batches), reverse=True)
    assert all(n == size for n in sizes[:-1])
    assert 0 < sizes[-1] <= size
    assert len(batches) == steps_per_epoch(len(lengths), size)


@given(lengths_of, st.integers(1, 40), st.integers(1, 4), st.integers(1, 3), epochs)
def test_ranks_and_parts_split_every_batch_of_the_same_epoch(lengths, size, micro, world, epoch) -> None:
    parts = micro * world
    if size < parts or len(lengths) < micro:
        with pytest.raises(ConfigError, match=f"cannot be split into {parts} parts"):
            epoch_batches(lengths, size, 0, epoch, micro=micro, world=world)
        return
    shares = [epoch_batches(lengths, size, 0, epoch, micro=micro, world=world, rank=r) for r in range(world)]
    steps = steps_per_epoch(len(lengths), size, micro)  # more ranks make neither more nor fewer of them
    assert [len(share) for share in shares] == [steps * micro] * world
    assert world > 1 or all(len(part) for share in shares for part in share)
    assert flat([part for share in shares for part in share]) == list(range(len(lengths)))
    for step in range(steps):
        rows = [part for share in shares for part in share[step * micro : (step + 1) * micro]]
        counts = [len(part) for part in rows]
        assert max(counts) - min(counts) <= 1
        assert size <= sum(counts) < size + micro or micro <= sum(counts) < size or steps == 1


def test_splitting_a_batch_does_not_change_which_rows_make_the_step() -> None:
    # else accumulation or more ranks would train on other batches (PITFALLS 19, 30)
    lengths = np.random.default_rng(0).integers(3, 90, 640)
    whole = epoch_batches(lengths, 32, 7, 2)
    for micro, world in [(2, 1), (4, 1), (1, 2), (2, 4)]:
        shares = [epoch_batches(lengths, 32, 7, 2, micro=micro, world=world, rank=r) for r in range(world)]
        for step, batch in enumerate(whole):
            parts = [p for share in shares for p in share[step * micro : (step + 1) * micro]]
            assert flat(parts) == sorted(batch.tolist())


def test_a_rest_too_small_to_split_joins_the_batch_before() -> None:
    batches = epoch_batches([5] * 33, 16, 0, 0, micro=4)
    assert len(batches) == 2 * 4
    assert sorted(sum(len(p) for p in batches[i : i + 4]) for i in (0, 4)) == [16, 17]


@given(lengths_of, st.integers(1, 40), epochs)
def test_the_same_seed_and_epoch_draw_the_same_batches(lengths, size, epoch) -> None:
    first, second = (epoch_batches(lengths, size, 3, epoch) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_batches_are_composed_anew_in_every_epoch() -> None:
    # a cache must never freeze them (PITFALLS 22)
    lengths = np.random.default_rng(0).integers(3, 90, 2000)
    sets = [{frozenset(b.tolist()) for b in epoch_batches(lengths, 32, 0, epoch)} for epoch in range(3)]
    assert not sets[0] & sets[1] and not sets[1] & sets[2]
    assert not sets[0] & {frozenset(b.tolist()) for b in epoch_batches(lengths, 32, 1, 0)}


@given(st.integers(1, 200), st.integers(1, 40), st.data())
def test_the_number_of_steps_does_not_depend_on_lengths_or_epoch(count, size, data) -> None:
    lengths = data.draw(st.lists(st.integers(1, 500), min_size=count, max_size=count))
    steps = {len(epoch_batches(lengths, size, 0, epoch)) for epoch in range(3)}
    assert steps == {len(epoch_batches([1] * count, size, 9, 0))}


def test_grouping_saves_padding_and_mixes_batch_order() -> None:
    lengths = np.random.default_rng(0).integers(3, 120, 5000)

    def padded(batches: list) -> int:
        return sum(len(b) * int(lengths[b].max()) for b in batches)

    grouped, plain = epoch_batches(lengths, 32, 0, 0), epoch_batches(lengths, 32, 0, 0, group=False)
    assert padded(grouped) < 1.1 * lengths.sum()
    assert padded(plain) > 1.7 * lengths.sum()
    longest = [int(lengths[b].max()) for b in grouped]
    assert longest != sorted(longest)


def test_planned_rows_are_the_only_ones_drawn_whatever_their_order() -> None:
    rows = np.array([9, 3, 4, 77, 50])
    first = epoch_batches([5] * 100, 2, 0, 0, rows=rows)
    assert flat(first) == [3, 4, 9, 50, 77]
    second = epoch_batches([5] * 100, 2, 0, 0, rows=rows[::-1])
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_no_rows_make_no_batches() -> None:
    assert epoch_batches([], 4, 0, 0) == []
    assert epoch_batches([5] * 9, 4, 0, 0, rows=np.empty(0, np.int64)) == []


@given(st.lists(st.integers(0, 300), max_size=200), st.integers(1, 2000))
def test_parts_keep_the_token_budget_and_lose_no_row(lengths, budget) -> None:
    for split in (token_budget_splits, scoring_batches):
        parts = split(lengths, budget)
        assert flat(parts) == list(range(len(lengths)))
        for part in parts:
            longest = max(lengths[i] for i in part)
            assert len(part) == 1 or len(part) * longest <= budget


def test_scoring_starts_with_the_longest_rows() -> None:
    parts = scoring_batches([4, 90, 30, 8], 90)
    assert [part.tolist() for part in parts] == [[1], [2, 3, 0]]


def test_the_sampler_draws_the_epoch_that_was_set() -> None:
    lengths = list(range(1, 101))
    sampler = EpochBatchSampler(lengths, 8, 5, micro=2)
    assert len(sampler) == len(list(sampler)) == 26
    first = list(sampler)
    assert first == [b.tolist() for b in epoch_batches(lengths, 8, 5, 0, micro=2)]
    sampler.set_epoch(1)
    assert list(sampler) == [b.tolist() for b in epoch_batches(lengths, 8, 5, 1, micro=2)] != first


def test_a_planned_sampler_keeps_its_length() -> None:
    sampler = EpochBatchSampler(
        [5] * 100, 8, 0, rows_for_window=lambda epoch, _: np.arange(epoch, epoch + 24), rows_per_epoch=24
    )
    assert len(sampler) == 3
    sampler.set_epoch(40)
    assert flat(list(sampler)) == list(range(40, 64)) and len(sampler) == 3


def test_a_plan_with_another_number_of_rows_is_refused() -> None:
    sampler = EpochBatchSampler(
        [5] * 100, 8, 0, rows_for_window=lambda epoch, _: np.arange(24 + epoch), rows_per_epoch=24
    )
    list(sampler)
    sampler.set_epoch(1)
    with pytest.raises(ConfigError, match="planned with 25 rows, expected 24"):
        list(sampler)


# ---- planned windows -----------------------------------------------------------------------------------------------


def windowed(
    planned: int, asked: list[tuple[int, Window]], window: int | None = 2, **options: Any
) -> EpochBatchSampler:
    """A sampler over 200 rows whose windows are stretches of consecutive rows."""

    def rows(epoch: int, window: Window) -> np.ndarray:
        asked.append((epoch, window))
        return np.arange(window.rows) + 50 * window.number

    lengths = np.random.default_rng(0).integers(3, 30, 200)
    return EpochBatchSampler(lengths, 8, 1, rows_for_window=rows, rows_per_epoch=planned, window=window, **options)


@pytest.mark.parametrize("planned", [1, 7, 8, 16, 17, 39, 40, 41, 47])
@pytest.mark.parametrize("micro", [1, 3])
def test_windows_share_the_steps_of_an_epoch(planned: int, micro: int) -> None:
    """Whole steps each; a rest that joins a step, as it is too small for all parts, stays in its window."""
    if planned < micro:
        pytest.skip("fewer rows than parts")
    sampler = windowed(planned, asked := [], micro=micro)
    windows = sampler.windows()
    assert sum(window.rows for window in windows) == planned
    assert all(window.rows == 16 for window in windows[:-1])
    batches = list(sampler)
    assert len(batches) == len(sampler) and [window for _, window in asked] == windows
    assert sorted(row for batch in batches for row in batch) == sorted(
        row for window in windows for row in range(50 * window.number, 50 * window.number + window.rows)
    )


def test_a_window_is_planned_when_its_first_batch_is_due_and_not_before() -> None:
    asked: list[tuple[int, Window]] = []
    batches = iter(windowed(40, asked))
    for step, expected in enumerate((1, 1, 2, 2, 3)):
        batch = next(batches)
        assert len(asked) == expected, step
        assert {row // 50 for row in batch} == {expected - 1}


@pytest.mark.parametrize("done", range(5))
@pytest.mark.parametrize("micro", [1, 2])
def test_a_resumed_sampler_asks_for_no_window_that_is_over(done: int, micro: int) -> None:
    whole = windowed(40, [], micro=micro)
    whole.set_epoch(3)
    expected = list(whole)
    asked: list[tuple[int, Window]] = []
    resumed = windowed(40, asked, micro=micro)
    resumed.set_epoch(3, done)
    batches = list(resumed)
    assert len(batches) == len(expected) and batches[done * micro :] == expected[done * micro :]
    assert [window.number for _, window in asked] == list(range(done // 2, 3))


def test_a_window_of_a_whole_epoch_has_the_batches_of_a_planned_epoch() -> None:
    lengths = np.random.default_rng(0).integers(3, 30, 200)
    for sampler in (windowed(40, [], window=None), windowed(40, [], window=99)):
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            assert list(sampler) == [b.tolist() for b in epoch_batches(lengths, 8, 1, epoch, rows=np.arange(40))]


def test_windows_of_one_epoch_are_shuffled_apart() -> None:
    batches = list(windowed(48, []))
    first, second = batches[:2], batches[2:4]
    assert [[row + 50 for row in batch] for batch in first] != second


def test_a_window_with_another_number_of_rows_than_announced_is_refused() -> None:
    sampler = EpochBatchSampler([5] * 50, 8, 0, rows_for_window=lambda e, w: np.arange(3), rows_per_epoch=40, window=1)
    with pytest.raises(ConfigError, match="planned with 3 rows"):
        list(sampler)
