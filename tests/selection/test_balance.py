"""Kinds of knowledge brought to one size: an action of 1 is to mean the same for each."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from distilect.selection import balance as balance_module
from distilect.selection.balance import Balance
from distilect.selection.static import AllOnes, FixedWeights, RandomHard, RandomSoft
from tests.selection.views import make_context, make_view

KINDS = ("labels", "response", "feature")


def balance(mode: str = "labels", kinds: tuple[str, ...] = KINDS) -> Balance:
    return Balance(mode, kinds)  # type: ignore[arg-type]


def step(*losses: float, rows: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    return rows * torch.tensor(losses, dtype=torch.float64), torch.full((len(losses),), float(rows))


def test_every_kind_is_brought_to_the_size_of_the_label_loss_whose_factor_is_one_exactly() -> None:
    made = balance()
    made.start(torch.tensor([0.7, 0.07, 7.0]))
    torch.testing.assert_close(made.factors(), torch.tensor([1.0, 10.0, 0.1]))
    assert made.factors()[0].item() == 1.0


def test_unit_brings_every_kind_to_size_one_and_none_changes_nothing() -> None:
    made = balance("unit")
    made.start(torch.tensor([0.5, 0.25, 2.0]))
    torch.testing.assert_close(made.factors(), torch.tensor([2.0, 4.0, 0.5]))
    off = balance("none")
    off.add(step(1.0, 9.0, 9.0))
    assert off.factors().tolist() == [1.0, 1.0, 1.0] and off.means is None


def test_means_run_over_steps_whatever_the_number_of_rows_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance_module, "_SMOOTHING", 0.5)
    made = balance("unit")
    made.start(torch.tensor([1.0, 1.0, 1.0]))
    made.add(step(3.0, 1.0, 1.0, rows=2))
    made.add(step(4.0, 1.0, 1.0, rows=64))
    assert made.factors().tolist() == pytest.approx([1 / 3, 1.0, 1.0])  # ((1 + 3) / 2 + 4) / 2


def test_a_kind_that_did_not_speak_keeps_its_size() -> None:
    made = balance("unit")
    made.start(torch.tensor([1.0, 0.5, torch.nan]))
    assert made.factors().tolist() == [1.0, 2.0, 1.0]
    sums, counts = step(1.0, 0.0, 0.0)
    counts[1:] = 0
    made.add((sums, counts))
    assert made.factors().tolist() == [1.0, 2.0, 1.0]
    made.add(step(1.0, 0.5, 0.25))  # the third kind speaks for the first time
    assert made.factors()[2].item() == 4.0


def test_a_loss_that_vanishes_is_not_blown_up_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance_module, "_SMOOTHING", 0.0)
    made = balance()
    made.start(torch.tensor([1.0, 1.0, 1.0]))
    made.add(step(1.0, 1e-9, 0.0))
    assert made.factors().tolist() == pytest.approx([1.0, 100.0, 100.0])


def test_without_label_knowledge_the_first_kind_is_the_reference() -> None:
    made = balance(kinds=("response", "feature"))
    made.start(torch.tensor([2.0, 1.0]))
    assert made.factors().tolist() == [1.0, 2.0]


def test_sizes_survive_saving_and_a_new_training_forgets_them() -> None:
    made, other = balance(), balance()
    made.start(torch.tensor([0.7, 0.07, 7.0]))
    made.add(step(0.5, 0.2, 3.0))
    other.load_state_dict(made.state_dict())
    assert torch.equal(made.factors(), other.factors())
    made.reset()
    assert made.factors().tolist() == [1.0, 1.0, 1.0]


def test_an_unknown_way_to_balance_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"balance is 'label', expected one of labels, unit, none. Did you mean 'labels'"
    ):
        AllOnes(balance="label")


@pytest.mark.parametrize("make", [FixedWeights, AllOnes, RandomSoft, RandomHard])
def test_static_mixes_are_balanced_when_asked_and_only_then(make) -> None:
    plain, balanced = make(), make(balance="labels")
    for selector in (plain, balanced):
        selector.setup(make_context(kinds=KINDS))
        selector.learn(SimpleNamespace(step_losses=step(1.0, 0.5, 4.0)))  # type: ignore[arg-type]
    assert balanced.needs.step_losses and not plain.needs.step_losses
    view = make_view(step=3)
    torch.testing.assert_close(balanced.decide(view), plain.decide(view) * torch.tensor([1.0, 2.0, 0.25]))
    again = make(balance="labels")
    again.setup(make_context(kinds=KINDS))
    again.load_state_dict(balanced.state_dict())
    assert torch.equal(again.decide(view), balanced.decide(view))
