"""What is copied: fixed weights by name, and random ones that belong to the step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from distilect.selection import LossWeights
from distilect.selection.registry import LOSS_WEIGHTS
from distilect.selection.static import AllOnes, FixedWeights, RandomHard, RandomSoft
from tests.selection.views import make_context, make_view

KINDS = ("labels", "response", "feature", "relation")


def set_up(selector, kinds=KINDS):
    selector.setup(make_context(kinds=kinds))
    return selector


@pytest.mark.parametrize("name", list(LOSS_WEIGHTS))
def test_every_knowledge_selector_gives_one_weight_per_kind_none_negative(name):
    selector = set_up(LOSS_WEIGHTS[name]())
    assert isinstance(selector, LossWeights)
    weights = selector.decide(make_view(5))
    assert weights.shape in ((4,), (5, 4)) and weights.dtype == torch.float32 and (weights >= 0).all()


def test_fixed_weights_go_by_name_in_the_order_of_the_kinds():
    selector = FixedWeights(weights={"response": 0.25, "labels": 0.75})
    assert set_up(selector).decide(make_view()).tolist() == [0.75, 0.25, 1.0, 1.0]
    assert set_up(selector, ("relation", "response", "labels")).decide(make_view()).tolist() == [1.0, 0.25, 0.75]


def test_a_weight_for_a_kind_that_is_not_copied_is_refused():
    with pytest.raises(ValueError, match=r"\['feature'\].*\['labels', 'response'\]"):
        set_up(FixedWeights(weights={"feature": 2.0}), ("labels", "response"))


def test_all_ones_are_all_ones():
    assert set_up(AllOnes()).decide(make_view()).tolist() == [1.0] * 4


@pytest.mark.parametrize("make", [RandomSoft, RandomHard])
def test_random_weights_belong_to_the_step_not_to_the_part_of_a_batch(make):
    selector = set_up(make())
    one, other = (selector.decide(make_view(rows, seed=rows, step=9, epoch=0)) for rows in (3, 8))
    assert torch.equal(one, other)
    steps = torch.stack([selector.decide(make_view(2, step=step)) for step in range(40)])
    assert len(torch.unique(steps, dim=0)) > 5


def test_soft_weights_are_uniform():
    selector = set_up(RandomSoft())
    draws = np.stack([selector.decide(make_view(1, step=step)).numpy() for step in range(1500)])
    for kind in range(4):
        assert stats.kstest(draws[:, kind], "uniform").pvalue > 1e-3


def test_a_hard_subset_is_never_empty_and_else_a_fair_coin_per_kind():
    selector = set_up(RandomHard())
    draws = np.stack([selector.decide(make_view(1, step=step)).numpy() for step in range(1600)])
    assert set(np.unique(draws)) == {0.0, 1.0} and draws.sum(1).min() >= 1
    sizes = np.bincount(draws.sum(1).astype(int), minlength=5)[1:]
    expected = np.array([4 + 1, 6, 4, 1]) / 16 * 1600  # the empty subset becomes one of a single kind
    assert stats.chisquare(sizes, expected).pvalue > 1e-3


def test_one_kind_alone_is_always_copied():
    selector = set_up(RandomHard(), ("labels",))
    assert all(selector.decide(make_view(1, step=step)).tolist() == [1.0] for step in range(20))
