"""Gold labels: cross-entropy or squared error per row, 0 and without gradient where there is no label."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from distilect.knowledge import build_knowledge
from distilect.knowledge.labels import cross_entropy, label_loss, squared_error
from tests.knowledge.making import layout, randn, student_outputs


def test_cross_entropy_is_minus_the_log_probability_of_the_label():
    logits, labels = randn(5, 3, seed=1), torch.tensor([0, 1, 2, 2, 0])
    expected = -logits.softmax(1)[torch.arange(5), labels].log()
    torch.testing.assert_close(cross_entropy(logits, labels), expected)


def test_rows_without_a_label_have_no_loss_and_no_gradient():
    logits = randn(3, 4, seed=2).requires_grad_()
    loss = cross_entropy(logits, torch.tensor([-100, 1, -100]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss[0] == 0 and loss[2] == 0 and loss[1] > 0
    assert not gradient[[0, 2]].any() and gradient[1].any()


def test_an_unlabelled_row_does_not_change_the_loss_of_others():
    logits = randn(4, 3, seed=3)
    labels = torch.tensor([0, -100, 2, 1])
    known = torch.tensor([0, 2, 3])
    torch.testing.assert_close(cross_entropy(logits, labels)[known], cross_entropy(logits[known], labels[known]))


def test_nan_labels_give_no_nan_in_loss_or_gradient():
    logits = torch.tensor([[1.0], [2.0], [1e20]], requires_grad=True)
    loss = squared_error(logits, torch.tensor([3.0, torch.nan, torch.nan]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.tolist() == [4.0, 0.0, 0.0]
    assert gradient.squeeze(1).tolist() == [-4.0, 0.0, 0.0]


def test_the_kind_of_label_decides_between_class_and_score():
    logits = randn(3, 1, seed=4)
    assert torch.equal(
        label_loss(logits, torch.tensor([0.0, 1.0, 2.0])), squared_error(logits, torch.tensor([0.0, 1.0, 2.0]))
    )
    logits = randn(3, 3, seed=4)
    assert torch.equal(label_loss(logits, torch.tensor([0, 1, 2])), cross_entropy(logits, torch.tensor([0, 1, 2])))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_scored_in_float32(dtype):
    logits = randn(4, 3, seed=5).to(dtype)
    assert cross_entropy(logits, torch.tensor([0, 1, 2, 0])).dtype == torch.float32
    assert squared_error(logits[:, :1], torch.zeros(4)).dtype == torch.float32


def test_labels_ask_no_teacher():
    (kind,) = build_knowledge({"labels": {}}, layout(teachers=[(0, 0)]))
    student = student_outputs()
    assert not kind.asks_teachers and not kind.needs_hidden() and list(kind.teacher_fields(0)) == []
    assert kind(student, None, torch.tensor([0, -100, 1])).shape == (3,)


def test_class_weights_and_smoothing_weigh_rows_by_their_class():
    logits, labels = randn(4, 3, seed=6), torch.tensor([0, 2, 1, -100])
    weights, smoothing = (0.5, 1.0, 4.0), 0.1
    (kind,) = build_knowledge({"labels": {}}, replace(layout(), class_weights=weights, label_smoothing=smoothing))
    student = replace(student_outputs(lengths=(2, 2, 2, 2)), logits=logits)
    log = logits.log_softmax(1)
    w = torch.tensor(weights)
    for row, label in enumerate(labels[:3].tolist()):
        expected = -(1 - smoothing) * w[label] * log[row, label] - smoothing / 3 * (w * log[row]).sum()
        assert kind(student, None, labels)[row].item() == pytest.approx(expected.item(), rel=1e-5)
    assert kind(student, None, labels)[3] == 0
