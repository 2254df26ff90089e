"""Which rows ask: shares, exact counts, and independence of batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilect.errors import MethodError
from distilect.options import construct
from distilect.selection import PlannedRows, RowSelector
from distilect.selection.registry import ROWS
from distilect.selection.static import AllRows, RandomRows, RandomRowsPlan, RandomRowsSkip
from tests.selection.views import keys, make_view, part


@pytest.mark.parametrize("name", list(ROWS))
def test_every_row_selector_is_one(name):
    assert isinstance(construct(ROWS, name, "row selector"), RowSelector)


@pytest.mark.parametrize("random", [RandomRows, RandomRowsSkip])
def test_a_rows_selection_depends_on_neither_order_nor_batch(random):
    view, selector = make_view(200), random(ratio=0.4)
    whole = selector.decide(view)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    assert torch.equal(selector.decide(part(view, order)), whole[order])
    assert torch.equal(torch.cat([selector.decide(part(view, o)) for o in order.split(17)]), whole[order])


def test_the_share_is_the_ratio_and_every_row_gets_its_turn():
    selector = RandomRows(ratio=0.3)
    chosen = torch.stack([selector.decide(make_view(2000, epoch=epoch)) for epoch in range(20)])
    assert float(chosen.float().mean()) == pytest.approx(0.3, abs=4 * (0.21 / 40_000) ** 0.5)
    assert float(chosen.any(0).float().mean()) > 0.99  # 1 - 0.7^20; the same rows every epoch would give 0.3


def test_other_seeds_choose_other_rows():
    one, two = (RandomRows(ratio=0.5).decide(make_view(500, run_seed=seed)) for seed in (1, 2))
    assert 0.4 < float((one == two).float().mean()) < 0.6


def test_what_becomes_of_the_rest():
    assert RandomRows().trains_rest and not RandomRowsSkip().trains_rest and not RandomRowsPlan().trains_rest
    assert RandomRowsSkip().before_step and not RandomRows().before_step
    assert isinstance(RandomRowsPlan(), PlannedRows)
    assert AllRows().trains_rest and not any(isinstance(one, PlannedRows) for one in (AllRows(), RandomRows()))


def test_all_rows_are_all_rows():
    view = make_view(9)
    assert AllRows().decide(view).tolist() == [True] * 9
    assert RandomRows(ratio=1.0).decide(view).all()


@given(st.integers(1, 300), st.floats(0.001, 1.0), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_a_plan_has_exactly_as_many_rows_as_announced(count, ratio, epoch):
    selector, rows = RandomRowsPlan(ratio=ratio), keys(count, epoch).numpy()
    plan = selector.plan(rows, epoch, 3)
    assert len(plan) == selector.planned(count) == max(1, round(ratio * count))
    assert len(np.unique(plan)) == len(plan) and plan.min() >= 0 and plan.max() < count


def test_a_plan_is_of_rows_not_of_positions():
    rows = keys(500).numpy()
    order = np.random.default_rng(0).permutation(500)
    selector = RandomRowsPlan(ratio=0.25)
    assert set(rows[selector.plan(rows, 4, 1)]) == set(rows[order][selector.plan(rows[order], 4, 1)])
    assert np.array_equal(selector.plan(rows, 4, 1), selector.plan(rows, 4, 1))


def test_plans_of_other_epochs_and_seeds_differ():
    rows, selector = keys(1000).numpy(), RandomRowsPlan(ratio=0.5)
    first = set(selector.plan(rows, 0, 1))
    for epoch, seed in ((1, 1), (0, 2)):
        assert 200 < len(first & set(selector.plan(rows, epoch, seed))) < 300  # 250 expected


def test_planned_rows_all_ask():
    assert RandomRowsPlan(ratio=0.1).decide(make_view(30)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"ratio": ratio}, "ratio is") for ratio in (0, -0.1, 1.5, float("nan"))] + [({"rest": "drop"}, "unknown option")],
)
def test_shares_and_options_that_do_not_exist_are_refused(options, message):
    with pytest.raises(MethodError, match=f"row selector 'random': {message}"):
        construct(ROWS, {"name": "random", **options}, "row selector")
