"""Whom rows believe: closed forms, and the properties that hold for every teacher selector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import log_softmax, logsumexp

from distilect.errors import MethodError
from distilect.options import construct
from distilect.selection import SelectionContext, TeacherSelector
from distilect.selection.registry import TEACHERS
from distilect.selection.static import (
    BestSingle,
    Confidence,
    Entropy,
    FixedTeachers,
    LogisticTeachers,
    RandomSingle,
    SingleTeacher,
    UniformTeachers,
    _fit_conditional_logit,
    teacher_losses,
)
from tests.selection.views import make_context, make_view, part

SPECS = [*TEACHERS, {"name": "single", "teacher": 1}, {"name": "weighted", "values": [3, 0, 1]}]


NEED_ENTROPY = {"entropy"}


def name_of(spec) -> str:
    return spec if isinstance(spec, str) else "-".join(str(v) for v in spec.values())


def skip_where_refused(name, regression):
    if regression and name_of(name) in NEED_ENTROPY:
        pytest.skip("refuses regression, tested by itself")


def built(spec, regression=False, teachers=3):
    selector = construct(TEACHERS, spec, "teacher selector")
    selector.setup(make_context(teachers, regression=regression))
    return selector


# ---- every selector ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_weights_of_a_row_are_shares(spec, regression):
    skip_where_refused(spec, regression)
    view = make_view(40, regression=regression, unlabelled=(0, 7, 39))
    selector = built(spec, regression)
    weights = selector.decide(view)
    assert isinstance(selector, TeacherSelector)
    assert weights.shape == (40, 3) and weights.dtype == torch.float32
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(40))


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_a_rows_weights_depend_on_neither_order_nor_batch(spec, regression):
    """Only a step's teacher of `random-single` belongs to the step: equal in all of its parts, so it passes too."""
    skip_where_refused(spec, regression)
    if spec == "dynamic":
        pytest.skip("compares a row with those of the epoch before; test_uncertainty.py lets epochs begin")
    view = make_view(64, regression=regression, unlabelled=(3, 4), epoch=1, step=11)
    selector = built(spec, regression)
    whole = selector.decide(view)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(selector.decide(part(view, order)), whole[order], rtol=0, atol=0)
    parts = [selector.decide(part(view, o)) for o in order.split(5)]
    torch.testing.assert_close(torch.cat(parts), whole[order], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("spec", list(TEACHERS), ids=name_of)
def test_one_teacher_gets_all_the_weight(spec):
    view = make_view(8, teachers=1, unlabelled=(2,))
    assert built(spec, teachers=1).decide(view).tolist() == [[1.0]] * 8


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_weights_carry_no_gradient_to_the_student(spec):
    view = make_view(8)
    student = view.student.clone().requires_grad_()
    assert not built(spec).decide(replace(view, student=student)).requires_grad


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_a_teacher_that_rules_out_the_label_gives_no_nan(spec):
    """A table of probabilities may hold zeros."""
    view = make_view(6)
    teachers = torch.full_like(view.teachers, -torch.inf)
    teachers[:, :, 0] = 0.0  # every teacher is certain of class 0
    context = make_context()
    context = replace(
        context, validation_logits=np.where(np.arange(4) == 0, 0.0, -np.inf) + np.zeros((64, 3, 1), np.float32)
    )
    selector = construct(TEACHERS, spec, "teacher selector")
    selector.setup(context)
    weights = selector.decide(replace(view, teachers=teachers))
    assert torch.isfinite(weights).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(6))


# ---- closed forms --------------------------------------------------------------------------------------------------


def view_with_probabilities(of_label: list[float]):
    """One row of two classes, label 1; teacher k gives it probability of_label[k]."""
    view = make_view(1, teachers=len(of_label), classes=2)
    p = torch.tensor(of_label)
    return replace(view, labels=torch.tensor([1]), teachers=torch.stack([(1 - p).log(), p.log()], dim=1).unsqueeze(0))


def test_confidence_is_ca_mkds_closed_form_by_hand():
    # cross-entropies ln 2, ln 4, ln 8 → softmax (2, 4, 8) / 14 → (1 - softmax) / 2
    weights = Confidence().decide(view_with_probabilities([1 / 2, 1 / 4, 1 / 8]))
    torch.testing.assert_close(weights, torch.tensor([[12 / 28, 10 / 28, 6 / 28]]))


def test_confidence_in_regression_uses_squared_errors():
    view = make_view(1, regression=True)
    teachers = torch.tensor([[[1.0], [2.0], [-1.0]]])  # squared errors 0, 1, 4
    view = replace(view, labels=torch.tensor([1.0]), teachers=teachers)
    shares = np.exp([0.0, 1.0, 4.0]) / np.exp([0.0, 1.0, 4.0]).sum()
    torch.testing.assert_close(Confidence().decide(view), torch.tensor((1 - shares) / 2).float().unsqueeze(0))


def test_teacher_losses_are_the_cross_entropies_with_the_gold_label():
    view = make_view(5, unlabelled=(2,))
    got = teacher_losses(view)
    for i in (0, 1, 3, 4):
        for k in range(3):
            expected = -log_softmax(view.teachers[i, k].numpy())[int(view.labels[i])]
            assert float(got[i, k]) == pytest.approx(expected, rel=1e-5)
    assert not got[2].any()


@pytest.mark.parametrize("regression", [False, True])
def test_best_single_is_the_teacher_nearest_to_the_label(regression):
    view = make_view(50, regression=regression)
    weights = BestSingle().decide(view)
    for i in range(50):
        if regression:
            distances = [abs(float(view.teachers[i, k, 0] - view.labels[i])) for k in range(3)]
        else:
            distances = [-float(view.teachers[i, k].softmax(0)[view.labels[i]]) for k in range(3)]
        assert weights[i].tolist() == [float(k == int(np.argmin(distances))) for k in range(3)]


@pytest.mark.parametrize("make", [BestSingle, Confidence])
@pytest.mark.parametrize("regression", [False, True])
def test_rows_without_a_label_believe_all_teachers_equally(make, regression):
    view = make_view(6, regression=regression, unlabelled=(1, 4))
    weights = make().decide(view)
    torch.testing.assert_close(weights[[1, 4]], torch.full((2, 3), 1 / 3))
    assert not torch.isclose(weights[[0, 2, 3, 5]], torch.tensor(1 / 3)).all(1).any()


def test_uniform_is_uniform():
    assert torch.equal(UniformTeachers().decide(make_view(4, teachers=5)), torch.full((4, 5), 0.2))


# ---- entropy -------------------------------------------------------------------------------------------------------


def test_entropy_is_the_softmax_of_the_teachers_certainty():
    # entropies in units of log 2: 1, H(1/4) = 0.8113, 0
    weights = Entropy(temperature=0.5).decide(view_with_probabilities([1 / 2, 1 / 4, 1.0]))
    u = np.array([1.0, -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75)), 0.0])
    shares = np.exp(-u / 0.5) / np.exp(-u / 0.5).sum()
    torch.testing.assert_close(weights, torch.tensor(shares).float().unsqueeze(0))


def test_entropy_at_temperature_0_believes_the_most_certain_teacher_and_at_a_high_one_all():
    view = make_view(30)
    certain = stats.entropy(view.teachers.softmax(-1).numpy(), axis=-1).argmin(1)
    assert torch.equal(Entropy(temperature=0).decide(view), torch.eye(3)[certain])
    torch.testing.assert_close(Entropy(temperature=1e6).decide(view), torch.full((30, 3), 1 / 3))
    torch.testing.assert_close(
        Entropy(temperature=1e-4).decide(view), Entropy(temperature=0).decide(view), atol=1e-3, rtol=0
    )


def test_entropy_needs_no_label():
    view = make_view(30)
    bare = replace(view, labels=torch.full_like(view.labels, -100))
    assert torch.equal(Entropy().decide(view), Entropy().decide(bare))


@pytest.mark.parametrize("temperature", [0, 0.1])
def test_entropy_of_teachers_that_rule_classes_out_is_that_of_the_rest(temperature):
    some, all_but_one = torch.tensor([0.0, 0.0, -torch.inf]), torch.tensor([0.0, -torch.inf, -torch.inf])
    view = replace(make_view(1, classes=3), teachers=torch.stack([some, all_but_one]).unsqueeze(0))
    weights = Entropy(temperature=temperature).decide(view)
    assert weights[0, 1] > 0.99 and torch.isfinite(weights).all()


def test_entropy_refuses_a_regression_and_negative_temperatures():
    with pytest.raises(ValueError, match="which a regression has not: use confidence or uniform"):
        Entropy().setup(make_context(regression=True))
    with pytest.raises(ValueError, match=r"temperature is -0\.1, expected 0 or more"):
        Entropy(temperature=-0.1)


# ---- random ones ---------------------------------------------------------------------------------------------------


def test_random_single_is_one_teacher_per_step_and_any_over_steps():
    chosen = []
    for step in range(600):
        weights = RandomSingle().decide(make_view(7, step=step, seed=step))
        assert (weights == weights[0]).all()
        chosen.append(int(weights[0].argmax()))
    assert stats.chisquare(np.bincount(chosen, minlength=3)).pvalue > 1e-3
    again = np.array(chosen)
    assert 0.2 < np.mean(again[1:] == again[:-1]) < 0.47  # a third, if steps are independent


# ---- single --------------------------------------------------------------------------------------------------------


def context(scores=(), names=("bert", "roberta", "albert")) -> SelectionContext:
    return SelectionContext(teachers=names, kinds=("labels", "response"), validation_scores=tuple(scores))


@pytest.mark.parametrize(
    ("teacher", "scores", "index"),
    [
        ("best", (0.7, 0.9, 0.8), 1),
        ("best", (-0.3, -0.1, -0.2), 1),
        ("albert", (0.9, 0, 0), 2),
        (1, (0.9, 0, 0), 1),
        (0, (), 0),
    ],
)
def test_single_is_the_best_a_name_or_an_index(teacher, scores, index):
    selector = SingleTeacher(teacher=teacher)
    selector.setup(context(scores))
    assert selector.kept == [index]
    assert selector.decide(make_view(3)).tolist() == [[float(k == index) for k in range(3)]] * 3


def test_the_best_of_several_cannot_be_known_without_validation_scores():
    with pytest.raises(ValueError, match="needs a validation split|needs labels on validation rows"):
        SingleTeacher(teacher="best").setup(context(()))
    alone = SingleTeacher(teacher="best")
    alone.setup(context((), names=("bert",)))
    assert alone.kept == [0]


@pytest.mark.parametrize("teacher", ["best", "albert", 2])
def test_single_stays_with_its_teacher_when_the_pool_is_narrowed_to_it(teacher):
    selector = SingleTeacher(teacher=teacher)
    selector.setup(context((0.1, 0.2, 0.3)))
    selector.setup(context((0.3,), names=("albert",)))
    assert selector.kept == [0]
    assert selector.decide(make_view(3, teachers=1)).tolist() == [[1.0]] * 3


@pytest.mark.parametrize(
    ("teacher", "message"), [("robert", "Did you mean 'roberta'"), (3, "3"), (-1, "-1"), ("", "''")]
)
def test_a_teacher_that_is_not_there_is_refused(teacher, message):
    with pytest.raises(ValueError, match=f"{message}.*"):
        SingleTeacher(teacher=teacher).setup(context((0.1, 0.2, 0.3)))


@pytest.mark.parametrize("spec", [s for s in TEACHERS if s != "single"])
def test_selectors_that_may_choose_any_teacher_keep_all(spec):
    assert built(spec).kept is None


# ---- fixed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "scores", "weights"),
    [
        (None, (0.6, 0.9, 0.5), (0.3, 0.45, 0.25)),
        (None, (-0.2, 0.3, 0.1), (0.0, 0.75, 0.25)),  # a negative correlation is no share
        ([1, 1, 2], (), (0.25, 0.25, 0.5)),
        ({"albert": 3, "bert": 1, "roberta": 0}, (), (0.25, 0.0, 0.75)),  # by name, not by the order of writing
    ],
)
def test_fixed_weights_are_scaled_to_shares(values, scores, weights):
    selector = FixedTeachers(values=values)
    selector.setup(context(scores))
    torch.testing.assert_close(selector.decide(make_view(4)), torch.tensor([weights] * 4))


@pytest.mark.parametrize(
    "values",
    [[1, 2], [1, 2, 3, 4], [1, -1, 1], [0, 0, 0], {"bert": 1}, {"bert": 1, "roberta": 1, "albert": 1, "xlnet": 1}, []],
)
def test_fixed_weights_that_do_not_fit_the_teachers_are_refused(values):
    with pytest.raises(ValueError, match="values"):
        FixedTeachers(values=values).setup(context((0.1, 0.2, 0.3)))


def test_weights_by_score_are_not_silently_equal_when_no_teacher_scores_above_zero():
    with pytest.raises(ValueError, match="no teacher scores above 0"):
        FixedTeachers().setup(context((-0.2, 0.0, -0.1)))


def test_weights_by_score_need_scores():
    with pytest.raises(ValueError, match="needs a validation split|needs labels on validation rows"):
        FixedTeachers().setup(context())


# ---- logistic ------------------------------------------------------------------------------------------------------


def test_logistic_finds_the_one_good_teacher():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    logits = rng.normal(size=(400, 3, 4))
    logits[np.arange(400), 1, labels] += 2.0
    selector = LogisticTeachers()
    selector.setup(replace(make_context(), validation_logits=logits.astype(np.float32), validation_labels=labels))
    weights = selector.decide(make_view(2))
    assert float(weights[0, 1]) > 0.9
    torch.testing.assert_close(weights[0], weights[1])


def test_a_teacher_that_rules_out_the_truth_loses_its_weight_instead_of_stopping_the_fit():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 4, 200)
    logits = rng.normal(size=(200, 3, 4))
    logits[np.arange(200), 1, labels] += 2.0
    logits[np.arange(20), 0, labels[:20]] = -np.inf
    selector = LogisticTeachers()
    selector.setup(replace(make_context(), validation_logits=logits, validation_labels=labels))
    assert float(selector.fixed[1]) > 0.8 and float(selector.fixed[0]) < 0.05


def test_logistic_weighs_teachers_by_the_exponents_that_made_the_labels():
    """Labels drawn from p ∝ p_0^1.5 · p_1^0.5 must give β = (1.5, 0.5, 0)."""
    rng = np.random.default_rng(1)
    log_p = log_softmax(2 * rng.normal(size=(20_000, 3, 3)), axis=-1)
    mixed = np.einsum("nkc,k->nc", log_p, np.array([1.5, 0.5, 0.0]))
    labels = (mixed + rng.gumbel(size=mixed.shape)).argmax(1)
    np.testing.assert_allclose(_fit_conditional_logit(log_p, labels), [1.5, 0.5, 0.0], atol=0.06)


def test_the_fit_is_the_maximum_of_its_likelihood():
    rng = np.random.default_rng(2)
    log_p, labels = log_softmax(rng.normal(size=(60, 2, 3)), axis=-1), rng.integers(0, 3, 60)
    log_p[np.arange(60), 0, labels] += 0.7
    log_p = log_softmax(log_p, axis=-1)

    def loss(beta):
        mixed = np.einsum("nkc,k->nc", log_p, beta)
        return (logsumexp(mixed, axis=1) - mixed[np.arange(60), labels]).mean() + 5e-4 * float(np.dot(beta, beta))

    grid = [np.array([a, b]) for a in np.linspace(0, 4, 41) for b in np.linspace(0, 4, 41)]
    assert loss(_fit_conditional_logit(log_p, labels)) <= min(loss(beta) for beta in grid) + 1e-7


def test_regression_recovers_the_mixture_that_made_the_labels():
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(200, 3)).astype(np.float32)
    labels = 0.7 * scores[:, 0] + 0.3 * scores[:, 2] - 0.0 * scores[:, 1]
    selector = LogisticTeachers()
    selector.setup(
        replace(make_context(regression=True), validation_logits=scores[:, :, None], validation_labels=labels)
    )
    torch.testing.assert_close(
        selector.decide(make_view(1, regression=True))[0], torch.tensor([0.7, 0.0, 0.3]), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("regression", [False, True])
def test_validation_rows_without_a_label_are_not_fitted(regression):
    whole = make_context(regression=regression)
    labels = whole.validation_labels.copy()
    labels[::2] = np.nan if regression else -100
    with_gaps = replace(whole, validation_labels=labels)
    without = replace(whole, validation_logits=whole.validation_logits[1::2], validation_labels=labels[1::2])
    selectors = [LogisticTeachers(), LogisticTeachers()]
    for selector, given in zip(selectors, (with_gaps, without), strict=True):
        selector.setup(given)
    torch.testing.assert_close(selectors[0].fixed, selectors[1].fixed)
    assert selectors[0].fixed.isfinite().all()


@pytest.mark.parametrize(
    "missing", [{"validation_logits": None}, {"validation_labels": np.full(64, -100)}, {"validation_labels": None}]
)
def test_logistic_needs_labelled_rows_that_were_validation(missing):
    with pytest.raises(ValueError, match="needs a validation split|needs labels on validation rows"):
        LogisticTeachers().setup(replace(make_context(), **missing))


def test_misspelt_teacher_selectors_name_the_nearest():
    with pytest.raises(MethodError, match=r"no teacher selector is called 'confidense'.*Did you mean 'confidence'\?"):
        construct(TEACHERS, "confidense", "teacher selector")
    with pytest.raises(MethodError, match=r"'entropy': temperature is 'warm', expected 0 or more"):
        construct(TEACHERS, {"name": "entropy", "temperature": "warm"}, "teacher selector")
