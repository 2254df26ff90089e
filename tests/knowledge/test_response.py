"""The response loss: one definition, T² · KL(teacher ‖ student) summed over classes, per row and teacher."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from torch import Tensor

from distilect.errors import MethodError
from distilect.knowledge import StudentOutputs, build_knowledge
from distilect.knowledge.response import (
    response_binary_divergence,
    response_binary_kl,
    response_divergence,
    response_kl,
    response_mse,
)
from distilect.signals import TeacherSignals
from tests.knowledge.making import layout, no_labels, randn


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """The logits of the reference values: student and teacher, [6, 5]."""
    torch.manual_seed(0)
    return torch.randn(6, 5), torch.randn(6, 5)


def mean_kl(pair: tuple[Tensor, Tensor], temperature: float) -> float:
    return float(response_kl(pair[0], pair[1].unsqueeze(1), temperature).mean())


def test_the_loss_has_the_reference_scale(pair):
    assert mean_kl(pair, 4.0) == pytest.approx(0.838409, abs=1e-6)
    assert mean_kl(pair, 4.0) / 16 == pytest.approx(0.052401, abs=1e-6)
    assert mean_kl(pair, 1.0) == pytest.approx(0.706923, abs=1e-6)
    reverse = (pair[1], pair[0])
    assert mean_kl(reverse, 1.0) == pytest.approx(0.687630, abs=1e-6)  # direction matters


@pytest.mark.parametrize(("temperature", "reference"), [(4.0, 1.627042), (1.0, 1.891633)])
def test_kl_is_the_soft_cross_entropy_less_the_teachers_entropy(pair, temperature, reference):
    log_p = torch.log_softmax(pair[1] / temperature, -1)
    entropy = -(log_p.exp() * log_p).sum(-1).mean()
    assert mean_kl(pair, temperature) / temperature**2 + float(entropy) == pytest.approx(reference, abs=1e-6)


def test_a_student_equal_to_its_teacher_has_loss_zero_and_gradient_zero():
    student = randn(7, 5, seed=1, scale=3).requires_grad_()
    for temperature in (0.5, 1.0, 4.0, 20.0):
        loss = response_kl(student, student.detach().unsqueeze(1), temperature)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert torch.equal(loss, torch.zeros(7, 1))
        assert gradient.abs().max() < 1e-5


def test_the_gradient_does_not_vanish_as_the_temperature_rises():
    student, teacher = randn(32, 6, seed=2).requires_grad_(), randn(32, 1, 6, seed=3)
    norms = {}
    for temperature in (1.0, 8.0, 64.0):
        (gradient,) = torch.autograd.grad(response_kl(student, teacher, temperature).sum(), student)
        norms[temperature] = float(gradient.norm())
    assert norms[8.0] > 0.3 * norms[1.0]
    assert norms[64.0] == pytest.approx(norms[8.0], rel=0.1)
    # the limit: the student's and the teacher's logits, centred, over the number of classes
    student_, teacher_ = student.detach(), teacher.squeeze(1)
    limit = ((student_ - student_.mean(1, keepdim=True)) - (teacher_ - teacher_.mean(1, keepdim=True))) / 6
    assert norms[64.0] == pytest.approx(float(limit.norm()), rel=0.02)


@given(
    rows=st.integers(1, 4),
    teachers=st.integers(1, 3),
    classes=st.integers(2, 6),
    temperature=st.floats(0.3, 30),
    scale=st.floats(0.01, 10),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_temperature_is_on_both_sides_and_classes_are_summed(rows, teachers, classes, temperature, scale, seed):
    student, teacher = (
        randn(rows, classes, seed=seed, scale=scale),
        randn(rows, teachers, classes, seed=seed + 1, scale=scale),
    )
    got = response_kl(student, teacher, temperature)
    assert got.shape == (rows, teachers) and got.dtype == torch.float32
    for i in range(rows):
        for k in range(teachers):
            log_p = log_softmax(teacher[i, k].double().numpy() / temperature)
            log_q = log_softmax(student[i].double().numpy() / temperature)
            expected = temperature**2 * np.sum(np.exp(log_p) * (log_p - log_q))
            assert float(got[i, k]) == pytest.approx(expected, rel=1e-3, abs=2e-6 * temperature**2)


def test_classes_without_probability_do_not_dilute_the_loss():
    student, teacher = randn(4, 3, seed=4), randn(4, 1, 3, seed=5)
    wider = torch.full((4, 20), -1e3)
    more = response_kl(torch.cat([student, wider], 1), torch.cat([teacher, wider.unsqueeze(1)], 2), 2.0)
    torch.testing.assert_close(more, response_kl(student, teacher, 2.0))


def test_adding_a_constant_to_all_logits_of_a_row_changes_nothing():
    student, teacher = randn(4, 3, seed=6), randn(4, 2, 3, seed=7)
    shifted = response_kl(student + 5.0, teacher - 3.0, 4.0)
    torch.testing.assert_close(shifted, response_kl(student, teacher, 4.0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "teacher", [[0.0, -torch.inf, -torch.inf], [1e4, -1e4, 0.0], [1e30, -1e30, 0.0], [0.0, 0.0, -1e38]]
)
def test_probabilities_of_zero_and_huge_logits_give_no_nan(teacher):
    for student_values in ([0.0, 1.0, 2.0], [1e4, -1e4, 0.0]):
        student = torch.tensor([student_values], requires_grad=True)
        loss = response_kl(student, torch.tensor([[teacher]]), 4.0)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert torch.isfinite(loss).all() and (loss >= 0).all()
        assert torch.isfinite(gradient).all()


def test_a_teacher_that_is_certain_leaves_the_cross_entropy_with_its_class():
    student = randn(3, 4, seed=8)
    teacher = torch.full((3, 1, 4), -torch.inf)
    teacher[:, :, 2] = 0.0
    torch.testing.assert_close(response_kl(student, teacher, 1.0)[:, 0], -student.log_softmax(1)[:, 2])


def test_bfloat16_logits_are_compared_in_float32():
    student, teacher = randn(5, 3, seed=9).bfloat16(), randn(5, 2, 3, seed=10).bfloat16()
    got = response_kl(student, teacher, 4.0)
    assert got.dtype == torch.float32
    assert torch.equal(got, response_kl(student.float(), teacher.float(), 4.0))


def outputs(logits: Tensor) -> StudentOutputs:
    return StudentOutputs(
        logits, torch.ones(len(logits), 1, dtype=torch.bool), torch.zeros(len(logits), dtype=torch.int64)
    )


def signals(logits: Tensor) -> TeacherSignals:
    return TeacherSignals(logits, [{} for _ in range(logits.shape[1])])


def test_regression_learns_the_teachers_scores_whatever_the_labels_are():
    """The mean over one output, not a sum over the batch, and not the labels."""
    (response,) = build_knowledge({"response": {}}, layout(regression=True, teachers=[(0, 0), (0, 0)]))
    student, teachers = torch.tensor([[1.0], [2.0]]), torch.tensor([[[3.0], [1.0]], [[2.0], [0.0]]])
    for labels in (torch.tensor([9.0, torch.nan]), torch.tensor([0.0, 0.0])):
        got = response(outputs(student), signals(teachers), labels)
        assert got.tolist() == [[4.0, 0.0], [0.0, 4.0]]


def test_temperature_changes_nothing_in_regression():
    student, teachers = randn(3, 1, seed=11), randn(3, 1, 1, seed=12)
    kinds = [build_knowledge({"response": {"temperature": t}}, layout(regression=True))[0] for t in (1.0, 9.0)]
    one, nine = (kind(outputs(student), signals(teachers), torch.zeros(3)) for kind in kinds)
    assert torch.equal(one, nine) and (one > 0).all()


def test_mse_compares_raw_logits_and_takes_their_mean():
    student, teachers = randn(4, 3, seed=13), randn(4, 2, 3, seed=14)
    expected = torch.stack([((student - teachers[:, k]) ** 2).sum(1) / 3 for k in range(2)], dim=1)
    torch.testing.assert_close(response_mse(student, teachers), expected)
    (kind,) = build_knowledge({"response": {"distance": "mse"}}, layout(teachers=[(0, 0)] * 2))
    torch.testing.assert_close(kind(outputs(student), signals(teachers), no_labels(4)), expected)


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": -1.0}, {"distance": "kll"}])
def test_options_that_would_train_nonsense_are_refused(options):
    with pytest.raises(MethodError, match=f"response.*{next(iter(options))} is"):
        build_knowledge({"response": options}, layout())


def test_an_annealed_temperature_goes_from_the_first_to_the_last(pair):
    teachers = TeacherSignals(pair[1].unsqueeze(1), [{}])
    student = StudentOutputs(pair[0], torch.ones(6, 1, dtype=torch.bool), torch.zeros(6, dtype=torch.int64))
    options = {"response": {"temperature": 4.0, "final_temperature": 1.0}}
    (kind,) = build_knowledge(options, layout())
    for progress, temperature in ((0.0, 4.0), (0.5, 2.5), (1.0, 1.0)):
        kind.begin_step(progress)
        found = kind(student, teachers, no_labels(6))
        torch.testing.assert_close(found, response_kl(pair[0], pair[1].unsqueeze(1), temperature))


def test_words_have_textbrewer_s_loss_and_gradient() -> None:
    """Its cross-entropy is our KL but for the teacher's entropy; its mask leaves padding out, ours are the places of the words."""
    known = json.loads((Path(__file__).with_name("textbrewer.json")).read_text(encoding="utf-8"))
    temperature, width = known["temperature"], len(known["student"][0])
    student = torch.tensor(known["student"], requires_grad=True)
    teacher = torch.tensor(known["teacher"])
    places = torch.tensor([row * width + place for row, words in enumerate(known["words"]) for place in range(words)])
    theirs = teacher.flatten(0, 1)[places]
    per_word = response_kl(student.flatten(0, 1)[places], theirs.unsqueeze(1), temperature)[:, 0]
    entropy = torch.special.entr((theirs / temperature).softmax(-1)).sum(-1)
    assert float((per_word / temperature**2 + entropy).mean()) == pytest.approx(known["loss"], abs=1e-6)
    (per_word / temperature**2).mean().backward()
    torch.testing.assert_close(student.grad, torch.tensor(known["gradient"]), rtol=0, atol=1e-7)


DIVERGENCES = json.loads((Path(__file__).with_name("divergences.json")).read_text(encoding="utf-8"))
MIXTURES = {"reverse-kl": None, "js": 0.2, "skew-kl": 0.3, "skew-reverse-kl": 0.3, "todi": None}


@pytest.mark.parametrize("source", DIVERGENCES["found"])
def test_divergences_have_the_values_and_gradients_of_trl_liger_distillm_and_todi(source: str) -> None:
    theirs, temperature = DIVERGENCES["found"][source], DIVERGENCES["temperature"]
    mixture = {"mixture": theirs["mixture"]} if theirs["mixture"] else {}
    options = {"response": {"distance": theirs["distance"], "temperature": temperature, **mixture}}
    (kind,) = build_knowledge(options, layout())
    student = torch.tensor(DIVERGENCES["student"], requires_grad=True)
    loss = kind(outputs(student), signals(torch.tensor(DIVERGENCES["teacher"]).unsqueeze(1)), no_labels(4))
    (loss.sum() / temperature**2).backward()  # none of them multiplies by T²
    assert float(loss.sum()) / temperature**2 == pytest.approx(theirs["loss"], abs=1e-6)
    torch.testing.assert_close(student.grad, torch.tensor(theirs["gradient"]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("distance", MIXTURES)
def test_every_divergence_is_zero_in_agreement_and_above_it_elsewhere(distance: str) -> None:
    student = randn(6, 5, seed=20, scale=3).requires_grad_()
    same = response_divergence(student, student.detach().unsqueeze(1), 2.0, distance, MIXTURES[distance] or 0.0)
    assert same.shape == (6, 1) and same.abs().max() < 1e-5
    (gradient,) = torch.autograd.grad(same.sum(), student)
    assert gradient.abs().max() < 1e-5
    other = response_divergence(student, randn(6, 2, 5, seed=21), 2.0, distance, MIXTURES[distance] or 0.0)
    assert other.shape == (6, 2) and (other > 1e-3).all()


@pytest.mark.parametrize(
    ("distance", "strength"),
    [("reverse-kl", 1.0), ("js", 0.2 * 0.8), ("skew-kl", 0.7**2), ("skew-reverse-kl", 0.7**2), ("todi", 1.5)],
)
def test_the_documented_strength_of_each_divergence_near_agreement(distance: str, strength: float) -> None:
    student = randn(8, 6, seed=22).double().requires_grad_()
    teacher = (student.detach() + 1e-2 * randn(8, 6, seed=23)).unsqueeze(1)
    (kl,) = torch.autograd.grad(response_kl(student, teacher, 1.0).sum(), student)
    found = response_divergence(student, teacher, 1.0, distance, MIXTURES[distance] or 0.0)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert float((gradient * kl).sum() / (kl * kl).sum()) == pytest.approx(strength, rel=0.02)


@pytest.mark.parametrize("distance", ["kl", *MIXTURES])
def test_classes_that_a_row_does_not_have_change_no_loss(distance: str) -> None:
    """Candidates of a token are padded with -inf on both sides."""
    options = {"response": {"distance": distance, "temperature": 2.0}}
    (kind,) = build_knowledge(options, layout(teachers=[(0, 0)] * 2))
    student, teachers = randn(4, 3, seed=24).requires_grad_(), randn(4, 2, 3, seed=25)
    nothing = torch.full((4, 2), -torch.inf)
    padded = torch.cat([student, nothing], 1)
    wider = torch.cat([teachers, nothing.unsqueeze(1).expand(-1, 2, -1)], 2)
    plain, more = (kind(outputs(z), signals(t), no_labels(4)) for z, t in ((student, teachers), (padded, wider)))
    torch.testing.assert_close(more, plain, rtol=0, atol=0)
    expected, found = (torch.autograd.grad(loss.sum(), student)[0] for loss in (plain, more))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("distance", MIXTURES)
def test_a_class_that_only_the_teacher_rules_out_gives_a_finite_loss_that_falls_with_it(distance: str) -> None:
    student = torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True)
    loss = response_divergence(student, torch.tensor([[[0.0, 1.0, -torch.inf]]]), 1.0, distance, 0.5)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert torch.isfinite(loss).all() and gradient[0, 2] > 0


@pytest.mark.parametrize("distance", MIXTURES)
def test_a_label_of_several_is_a_distribution_over_yes_and_no(distance: str) -> None:
    student, teachers, mixture = randn(4, 3, seed=26), randn(4, 2, 3, seed=27), MIXTURES[distance] or 0.0
    found = response_binary_divergence(student, teachers, 2.0, distance, mixture)
    for label in range(3):  # the logits of yes and no are z and 0
        yes_no = (torch.stack([x[..., label], torch.zeros_like(x[..., label])], -1) for x in (student, teachers))
        found = found - response_divergence(*yes_no, 2.0, distance, mixture) / 3
    torch.testing.assert_close(found, torch.zeros(4, 2), rtol=0, atol=1e-5)


def test_a_multi_label_task_compares_labels_by_the_divergence_asked_for() -> None:
    several = replace(layout(), multi_label=True)
    student, teachers = randn(4, 3, seed=28), randn(4, 1, 3, seed=29)
    for distance, expected in (
        ("kl", response_binary_kl(student, teachers, 4.0)),
        ("js", response_binary_divergence(student, teachers, 4.0, "js", 0.5)),
    ):
        (kind,) = build_knowledge({"response": {"distance": distance}}, several)
        assert torch.equal(kind(outputs(student), signals(teachers), torch.zeros(4, 3)), expected)


def test_a_mixture_that_would_have_no_effect_is_refused() -> None:
    with pytest.raises(MethodError, match=r"mixture belongs to distance: js, .*; distance is kl: leave it out"):
        build_knowledge({"response": {"mixture": 0.5}}, layout())


def test_two_divergences_stand_side_by_side_as_two_kinds() -> None:
    student, teachers = randn(4, 3, seed=30), randn(4, 1, 3, seed=31)
    kinds = build_knowledge({"response": {"temperature": 2.0}, "divergence": {"temperature": 2.0}}, layout())
    found = [kind(outputs(student), signals(teachers), no_labels(4)) for kind in kinds]
    assert torch.equal(found[0], response_kl(student, teachers, 2.0))
    assert torch.equal(found[1], response_divergence(student, teachers, 2.0, "reverse-kl", 0.0))
    with pytest.raises(MethodError, match="divergence.*no distributions to compare"):
        build_knowledge({"divergence": {}}, layout(regression=True))
