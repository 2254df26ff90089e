"""Multi-label tasks: each label is a choice between two, and what selectors see of a row is a mean over its labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distilect.knowledge.labels import label_loss
from distilect.knowledge.response import response_binary_kl, response_kl
from distilect.selection.dynamickd import entropy, uncertainty
from distilect.selection.registry import TEACHERS
from distilect.selection.rewards import correctness
from distilect.selection.static import teacher_losses
from distilect.selection.teacher_state import StateBuilder, losses, predictions
from distilect.selection.view import normalised_entropy, two_classes
from tests.selection.views import make_context, make_view

VIEW = make_view(multi_label=True, unlabelled=(3,))


def entropies(logits: torch.Tensor) -> torch.Tensor:
    p = torch.sigmoid(logits.double())
    return -(p * p.log2() + (1 - p) * (1 - p).log2())


def test_uncertainty_is_the_mean_binary_entropy_in_bits() -> None:
    expected = entropies(VIEW.student).mean(-1)
    torch.testing.assert_close(normalised_entropy(VIEW.student, True).double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        uncertainty("entropy", VIEW.student[None], True).double(), expected, rtol=1e-5, atol=1e-6
    )
    assert entropy(torch.zeros(1, 5), True).item() == 1.0
    assert entropy(torch.full((1, 5), -200.0), True).item() == 0.0  # sure that none applies; a softmax would be uniform


def test_margin_and_confidence_are_means_over_labels_too() -> None:
    p = torch.sigmoid(VIEW.student)
    torch.testing.assert_close(uncertainty("margin", VIEW.student[None], True), (1 - (2 * p - 1).abs()).mean(-1))
    torch.testing.assert_close(
        uncertainty("confidence", VIEW.student[None], True), (1 - torch.maximum(p, 1 - p)).mean(-1)
    )
    passes = torch.randn(4, 5, 3)
    spread = passes.sigmoid().std(0, unbiased=False).mean(-1)
    torch.testing.assert_close(uncertainty("spread", passes, True), spread)


def test_the_label_loss_is_the_mean_binary_cross_entropy_and_0_without_labels() -> None:
    known = VIEW.has_label
    assert known.sum() == 11
    found = label_loss(VIEW.student, VIEW.labels)
    expected = F.binary_cross_entropy_with_logits(VIEW.student, VIEW.labels.float(), reduction="none").mean(-1)
    torch.testing.assert_close(found[known], expected[known])
    assert found[3] == 0
    logits = VIEW.student.clone().requires_grad_()
    label_loss(logits, VIEW.labels).sum().backward()
    assert logits.grad is not None and not logits.grad[3].any() and logits.grad[0].all()


def test_the_response_is_the_mean_of_the_labels_binary_kls() -> None:
    assert VIEW.teachers is not None
    per_label = [
        response_kl(two_classes(VIEW.student[:, c]), two_classes(VIEW.teachers[:, :, c]), 3.0) for c in range(4)
    ]
    found = response_binary_kl(VIEW.student, VIEW.teachers, 3.0)
    torch.testing.assert_close(found, torch.stack(per_label).mean(0))
    assert (found > 0).all()
    same = response_binary_kl(VIEW.student, VIEW.student.unsqueeze(1), 3.0)
    torch.testing.assert_close(same, torch.zeros_like(same))
    certain = response_binary_kl(torch.full((1, 2), -300.0), torch.full((1, 1, 2), 300.0), 1.0)
    assert torch.isfinite(certain).all() and certain.item() == pytest.approx(300.0)


def test_teachers_losses_are_per_row() -> None:
    assert VIEW.teachers is not None
    found = teacher_losses(VIEW)
    for k in range(3):
        torch.testing.assert_close(found[:, k], label_loss(VIEW.teachers[:, k], VIEW.labels))


def test_the_state_holds_each_labels_probability_and_loss() -> None:
    assert VIEW.teachers is not None
    torch.testing.assert_close(predictions(VIEW.teachers, True), torch.sigmoid(VIEW.teachers))
    per_label = losses(VIEW.teachers, VIEW.labels)
    assert per_label.shape == (12, 3, 4) and not per_label[3].any()
    torch.testing.assert_close(per_label.mean(-1), teacher_losses(VIEW))
    builder = StateBuilder(None)
    builder.fit(make_context(multi_label=True).sample(64))
    _, own = builder(VIEW, VIEW.has_label)
    assert own.shape == (12, 3, 4 + 4 + 1)
    assert own[:, :, -1].eq(VIEW.has_label[:, None]).all()
    assert not own[3, :, 4:8].any()


@pytest.mark.parametrize("name", sorted(set(TEACHERS) - {"reinforced", "reinforced-virtual"}))
def test_every_teacher_selector_weighs_the_teachers_of_each_row(name: str) -> None:
    options: dict[str, Any] = {"dynamic": {"by": "batch"}, "gate": {"encoder": None}}
    selector = TEACHERS[name](**options.get(name, {}))
    selector.setup(make_context(multi_label=True))
    weights = selector.decide(VIEW)
    assert weights.shape == (12, 3) and torch.isfinite(weights).all() and (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(12))


def test_best_single_follows_the_teacher_that_is_right_on_all_labels() -> None:
    view = make_view(multi_label=True)
    assert view.teachers is not None
    right = torch.where(view.labels == 1, 4.0, -4.0)
    teachers = torch.stack([-right, right, torch.zeros_like(right)], dim=1)
    weights = TEACHERS["best-single"]().decide(view.take(torch.arange(12), teachers))
    assert weights[:, 1].eq(1).all()


def test_the_logistic_weights_follow_the_teacher_that_predicts_the_labels() -> None:
    context = make_context(multi_label=True, rows=200)
    labels = context.validation_labels
    assert labels is not None and context.validation_logits is not None
    context.validation_logits[:, 1] = np.where(labels == 1, 1.5, -1.5) + context.validation_logits[:, 1]
    selector = TEACHERS["logistic"]()
    selector.setup(context)
    weights = selector.decide(VIEW)[0]
    assert weights[1] > 0.8


def test_reward_3_scores_by_micro_f1() -> None:
    logits, labels = torch.tensor([[2.0, -1.0], [1.0, 1.0], [9.0, 9.0]]), torch.tensor([[1, 0], [0, 1], [-100, -100]])
    assert correctness(logits, labels.to(torch.int8)) == pytest.approx(2 * 2 / (3 + 2))
    assert correctness(logits[2:], labels[2:].to(torch.int8)) == 0.0


def test_methods_without_response_knowledge_measure_binary_kls() -> None:
    context = make_context(multi_label=True)
    assert VIEW.teachers is not None
    torch.testing.assert_close(
        context.response(VIEW.student, VIEW.teachers), response_binary_kl(VIEW.student, VIEW.teachers, 1.0)
    )
