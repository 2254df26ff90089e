"""Kinds weighed by products of gradients: the mixture is the one of steepest descent, and phases are what they say."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from distilect.selection import KindGradients, Look
from distilect.selection.alignment_kinds import SMOOTHING, AlignedKinds, steepest
from distilect.training.state import from_bytes, to_bytes
from tests.selection.views import keys, make_context, make_view

KINDS = ("labels", "response", "feature")


def products(kinds: Tensor, target: Tensor) -> KindGradients:
    """Of gradients [M, P] and [P]."""
    kinds, target = kinds.double(), target.double()
    return KindGradients(kinds @ kinds.T, kinds @ target, float(target.norm()))


def cosine(action: Tensor, kinds: Tensor, target: Tensor) -> Tensor:
    """[n] of mixtures [n, M]."""
    return torch.cosine_similarity(action.double() @ kinds.double(), target.double()[None], dim=1)


@pytest.mark.parametrize("seed", range(4))
def test_no_mixture_descends_more_steeply_and_none_is_negative(seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    target = torch.randn(12, generator=draws)
    kinds = torch.randn(4, 12, generator=draws) + 0.3 * target * torch.tensor([[1.0], [1.0], [0.0], [-1.0]])
    factors = torch.tensor([1.0, 30.0, 0.2, 4.0])
    found = steepest(products(kinds, target), factors)
    assert found is not None and found.min() >= 0 and float(found.max()) == 1.0
    others = torch.rand(20_000, 4, generator=draws) ** 3 / factors
    best = cosine((found * factors)[None], kinds, target)
    assert float(best) > float(cosine(others * factors, kinds, target).max()) - 1e-4


def test_of_two_kinds_that_pull_alike_one_is_copied_and_one_that_pulls_away_is_left_out() -> None:
    target = torch.tensor([1.0, 1.0, 0.0])
    kinds = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.5], [-1.0, 0.0, 0.0]])
    found = steepest(products(kinds, target), torch.ones(3))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.0]), atol=1e-4, rtol=0)


def test_a_kind_without_a_gradient_has_weight_0_and_where_none_helps_nothing_is_said() -> None:
    kinds = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, -1.0]])
    assert steepest(products(kinds, torch.tensor([1.0, 1.0])), torch.ones(3)).tolist() == [0.0, 1.0, 0.0]
    assert steepest(products(kinds, torch.tensor([-1.0, 1.0])), torch.ones(3)) is None


@dataclass
class Pulling:
    """A probe whose kinds are orthogonal and pull towards the validation rows as `pull` says."""

    pull: Tensor
    steps: int = 6
    done: int = 0
    looks: list[Tensor] = field(default_factory=list)
    step_losses: tuple[Tensor, Tensor] | None = None
    keys: Tensor = field(default_factory=lambda: keys(100))

    @property
    def progress(self) -> float:
        return self.done / self.steps

    def look(self, rows: Tensor) -> Look:
        return Look(torch.zeros(1), torch.zeros(0), torch.tensor([1.0, 0.5, 0.25]))

    def kind_gradients(self, rows: Tensor, limit: int) -> KindGradients:
        self.looks.append(rows)
        return products(torch.eye(3), self.pull)


def begun(probe: Pulling, **options: int) -> AlignedKinds:
    selector = AlignedKinds(**options)
    selector.setup(make_context(kinds=KINDS))
    selector.begin_epoch(probe, 0)
    return selector


def train(selector: AlignedKinds, probe: Pulling, until: int) -> None:
    while probe.done < until:
        probe.done += 1
        selector.learn(probe)


def test_each_phase_begins_with_a_look_at_other_rows() -> None:
    probe = Pulling(torch.tensor([1.0, 0.5, 0.0]))
    train(begun(probe, phases=3), probe, 6)
    assert len(probe.looks) == 3 and all(len(rows) == 32 for rows in probe.looks)
    assert not torch.equal(probe.looks[0], probe.looks[1])


def test_weights_are_a_running_mean_of_the_looks_times_factors_of_size() -> None:
    probe = Pulling(torch.tensor([1.0, 0.5, 0.0]))
    selector = begun(probe, phases=2)
    factors = torch.tensor([1.0, 2.0, 4.0])
    # orthogonal kinds of length 1: the best mixture is the pull itself, so an action counts in units of f
    first = torch.tensor([1.0, 0.5, 0.0]) / factors
    torch.testing.assert_close(selector.decide(make_view()), first * factors, atol=1e-4, rtol=0)
    probe.pull = torch.tensor([0.0, 0.5, 0.5])
    train(selector, probe, 3)
    expected = SMOOTHING * first + (1 - SMOOTHING) * torch.tensor([0.0, 1.0, 0.5])
    torch.testing.assert_close(selector.decide(make_view()), expected * factors, atol=1e-4, rtol=0)
    assert selector.health()["credit/response"] == pytest.approx((0.5 / 1.25**0.5 + 0.5**0.5) / 2)


def test_where_no_kind_helps_the_weights_stay() -> None:
    probe = Pulling(torch.tensor([-1.0, -1.0, -1.0]))
    selector = begun(probe, phases=2)
    assert selector.decide(make_view()).tolist() == [1.0, 2.0, 4.0]  # all ones, of one size
    probe.pull = torch.tensor([1.0, -1.0, -1.0])
    train(selector, probe, 3)
    assert selector.decide(make_view()).tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-4)


def test_a_resumed_training_neither_looks_again_nor_forgets() -> None:
    probe = Pulling(torch.tensor([1.0, 0.5, 0.2]))
    selector = begun(probe, phases=3)
    train(selector, probe, 3)
    other = AlignedKinds(phases=3)
    other.setup(make_context(kinds=KINDS))
    other.load_state_dict(from_bytes(to_bytes(selector.state_dict())))
    other.begin_epoch(probe, 0)
    assert len(probe.looks) == 2 and torch.equal(other.decide(make_view()), selector.decide(make_view()))


def test_a_single_kind_or_no_validation_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="weighs kinds of knowledge, but the method copies response only"):
        AlignedKinds().setup(make_context(kinds=("response",)))
    context = make_context(kinds=KINDS)
    assert context.validation_labels is not None
    with pytest.raises(ValueError, match=r"set data\.validation_size or data\.validation"):
        AlignedKinds().setup(replace(context, validation_labels=context.validation_labels[:0]))
