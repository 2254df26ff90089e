"""Random draws are a function of (seed, epoch, row, stream): uniform, independent, and blind to batches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from distilect.selection import Averages, row_uniform, step_uniform
from distilect.selection.draws import _mix
from tests.selection.views import keys

STREAMS = ("rows", "teachers", "knowledge", "plan")
MASK = (1 << 64) - 1


def splitmix(x: int) -> int:
    """The published finaliser, on Python integers that never overflow."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
@settings(deadline=None)
def test_mixing_is_splitmix64_to_the_bit(values):
    got = _mix(torch.tensor(values, dtype=torch.int64))
    assert [v & MASK for v in got.tolist()] == [splitmix(v & MASK) for v in values]


@pytest.mark.parametrize("rows", [keys(20_000), torch.arange(20_000), torch.arange(20_000) << 40])
@pytest.mark.parametrize("stream", STREAMS)
def test_draws_are_uniform_whatever_the_identities_look_like(rows, stream):
    draws = row_uniform(rows, 3, 1, stream).numpy()
    assert draws.min() >= 0 and draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("rows", [keys(20_000), torch.arange(20_000)])
def test_draws_of_other_seeds_epochs_and_streams_are_independent(rows):
    draws = [
        row_uniform(rows, seed, epoch, stream).numpy()
        for seed, epoch, stream in itertools.product((0, 1, 12345), (0, 1, 2), STREAMS)
    ]
    correlations = np.corrcoef(np.stack(draws)) - np.eye(len(draws))
    assert np.abs(correlations).max() < 0.035  # 5 standard errors
    for other in draws[1:6]:
        table = np.histogram2d(draws[0], other, bins=8)[0]
        assert stats.chi2_contingency(table).pvalue > 1e-4


def test_draws_of_neighbouring_rows_are_independent():
    draws = row_uniform(torch.arange(20_000), 0, 0, "rows").numpy()
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.035


@given(st.integers(2, 40), st.integers(0, 1000), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_a_rows_draw_depends_on_neither_order_nor_batch(count, seed, random):
    rows, order = keys(count, seed), list(range(count))
    random.shuffle(order)
    cut = random.randrange(1, count)
    whole = row_uniform(rows, seed, 2, "teachers")
    assert torch.equal(row_uniform(rows[order], seed, 2, "teachers"), whole[order])
    halves = [row_uniform(part, seed, 2, "teachers") for part in (rows[:cut], rows[cut:])]
    assert torch.equal(torch.cat(halves), whole)


def test_draws_do_not_touch_the_global_random_state():
    torch.manual_seed(0)
    one, before = row_uniform(keys(5), 0, 0, "rows"), torch.get_rng_state()
    assert torch.equal(row_uniform(keys(5), 0, 0, "rows"), one)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("seed", [0, 2**31 - 1, 2**63, 2**80 + 1, -5])
def test_no_seed_overflows(seed):
    draws = row_uniform(keys(1000), seed, 10**6, "plan")
    assert 0.4 < float(draws.mean()) < 0.6


def test_an_unknown_stream_is_not_drawn_from():
    with pytest.raises(KeyError):
        row_uniform(keys(3), 0, 0, "row")


def test_draws_per_step_are_uniform_over_steps_and_over_places():
    draws = np.stack([step_uniform((2, 3), 5, step, "knowledge").numpy() for step in range(3000)])
    assert draws.shape == (3000, 2, 3)
    for place in np.ndindex(2, 3):
        assert stats.kstest(draws[(slice(None), *place)], "uniform").pvalue > 1e-3
    correlations = np.corrcoef(draws.reshape(3000, 6).T) - np.eye(6)
    assert np.abs(correlations).max() < 0.09


def test_averages_are_means_over_everything_that_was_counted():
    averages = Averages()
    averages.add("a", torch.tensor(6.0), 3)
    averages.add("a", torch.tensor(2.0), torch.tensor(1))
    averages.add("never", torch.tensor(0.0), torch.tensor(0))
    assert averages.pop() == {"a": 2.0}
    assert averages.pop() == {}


def test_averages_keep_no_graph():
    averages, value = Averages(), torch.ones(1, requires_grad=True).sum()
    averages.add("a", value)
    assert not averages.sums["a"].requires_grad
