"""The formula against explicit loops, and what may never get into it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilect.config import MethodConfig
from distilect.knowledge import Knowledge, StudentOutputs, build_knowledge
from distilect.selection import Method, StepView, build_method, build_teacher_selector
from distilect.selection.base import LossWeights, RowSelector
from distilect.selection.static import AllRows, RandomRowsPlan, UniformTeachers
from distilect.training.step import StepResult, distillation_loss
from tests.knowledge.making import layout, randn, student_outputs, take, teacher_signals
from tests.selection.views import keys, make_context

SHAPES = [(6, 8), (4, 12)]


@dataclass
class Given(RowSelector):
    """A selector of any axis that answers with given values, looked up by row identity."""

    values: Tensor
    keys: Tensor | None = None  # identities that `values` belong to; None: the answer is the same for every row
    trains_rest: bool = True
    asked_with: list[StepView] = field(default_factory=list)

    def decide(self, view: StepView) -> Tensor:
        self.asked_with.append(view)
        if self.keys is None:
            return self.values
        return self.values[[self.keys.tolist().index(key) for key in view.keys.tolist()]]


def view_of(student: StudentOutputs, labels: Tensor, seed: int = 0) -> StepView:
    rows = keys(len(labels), seed)
    return StepView(rows, labels, student.logits.detach(), None, None, progress=0.0, epoch=0, step=0, seed=0)


def method_of(kinds: list[Knowledge], rows, teachers, mix) -> Method:
    return Method("test", rows, teachers, mix, kinds)


def run(student: StudentOutputs, signals, view: StepView, method: Method) -> StepResult:
    return distillation_loss(student, view, method, lambda rows: take(signals, rows))


# ---- closed forms of three kinds, one row and one teacher at a time, in plain Python floats --------------------------


def log_softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    top = max(logits)
    total = math.log(sum(math.exp((z - top) / temperature) for z in logits))
    return [(z - top) / temperature - total for z in logits]


def naive_losses(student: StudentOutputs, signals, labels: Tensor, i: int, k: int) -> dict[str, float]:
    ours, theirs = student.logits[i].tolist(), signals.logits[i, k].tolist()
    log_q, log_p = log_softmax(ours, 4.0), log_softmax(theirs, 4.0)
    label = int(labels[i])
    n = int(student.mask[i].sum())
    distances = []
    for s, t in ((1, 2), (2, 4), (3, 6)):
        a, b = student.hidden[s][i, :n].tolist(), signals.fields[k][f"hidden.{t}"][i, :n].tolist()
        distances.append(
            sum((x - y) ** 2 for u, v in zip(a, b, strict=True) for x, y in zip(u, v, strict=True)) / (n * 8)
        )
    return {
        "labels": 0.0 if label == -100 else -log_softmax(ours)[label],
        "response": 16 * sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True)),
        "feature": sum(distances) / 3,
    }


@given(data=st.data(), seed=st.integers(0, 10_000), trains_rest=st.booleans(), per_row_mix=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_loss_is_the_formula(data, seed, trains_rest, per_row_mix):
    """Σ_i [trained] Σ_m v_m(i) Σ_k w_k(i) l_m,k(i), evaluated by three loops."""
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    teachers = data.draw(st.integers(1, 3))
    kinds = data.draw(st.permutations(["labels", "response", "feature"]))[: data.draw(st.integers(1, 3))]
    count = len(lengths)
    asked = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    labels = torch.tensor(data.draw(st.lists(st.sampled_from([-100, 0, 1, 2, 3]), min_size=count, max_size=count)))
    w = randn(count, teachers, seed=seed + 5).softmax(1)
    v = randn(count, len(kinds), seed=seed + 6).abs()
    v = v if per_row_mix else v[:1].expand(count, -1)

    student = student_outputs(lengths, seed=seed)
    signals = teacher_signals(lengths, [(6, 8)] * teachers, seed=seed)
    view = view_of(student, labels, seed)
    built = build_knowledge({kind: {} for kind in kinds}, layout(teachers=[(6, 8)] * teachers))
    rows, who = Given(asked, view.keys, trains_rest), Given(w, view.keys)
    mix = Given(v, view.keys) if per_row_mix else Given(v[0])
    result = run(student, signals, view, method_of(built, rows, who, mix))

    total = 0.0
    for i in range(count):
        for m, kind in enumerate(kinds):
            if kind == "labels":
                value = naive_losses(student, signals, labels, i, 0)[kind]
            else:
                value = sum(
                    float(w[i, k]) * naive_losses(student, signals, labels, i, k)[kind] for k in range(teachers)
                )
                value = value if asked[i] else 0.0
            assert float(result.losses[i, m]) == pytest.approx(value, rel=1e-4, abs=1e-5)
            if asked[i] or trains_rest:
                total += float(v[i, m]) * value
    assert result.loss.item() == pytest.approx(total, rel=1e-4, abs=1e-5)
    assert torch.equal(result.asked, asked)
    assert torch.equal(result.trained, torch.ones_like(asked) if trains_rest else asked)
    torch.testing.assert_close(result.loss_weights, v)
    if asked.any():
        torch.testing.assert_close(result.teacher_weights, w * asked.unsqueeze(1))


# ---- whole methods --------------------------------------------------------------------------------------------------

LENGTHS = (5, 3, 1, 4, 2, 5, 2, 3)
LABELS = torch.tensor([0, 1, -100, 2, 3, 0, -100, 1])


def ready(config: MethodConfig, shapes=SHAPES) -> Method:
    torch.manual_seed(0)  # projections start at random
    selector = build_teacher_selector(config)
    method = build_method(config, layout((3, 8), shapes), selector)
    for part in method.selectors.values():
        part.setup(make_context(len(shapes), method.kinds))
    return method


def inputs(left: bool = False):
    student = student_outputs(LENGTHS, left=left)
    student.logits.requires_grad_()
    return student, teacher_signals(LENGTHS, SHAPES), view_of(student, LABELS)


@pytest.mark.parametrize(
    "config",
    [
        MethodConfig(name="confidence", rows={"name": "random", "ratio": 0.5}),
        MethodConfig(name="confidence", rows={"name": "random-skip", "ratio": 0.5}),
        MethodConfig(name="pkd", teachers="confidence"),
        MethodConfig(name="random-soft", teachers="best-single", rows={"name": "random", "ratio": 0.7}),
        MethodConfig(name="random-hard", teachers="random-single"),
        MethodConfig(name="finetune"),
    ],
    ids=lambda c: f"{c.name}-{c.teachers}",
)
def test_the_loss_and_its_gradient_do_not_depend_on_how_a_batch_is_split(config):
    method = ready(config)
    student, signals, view = inputs()
    whole = run(student, signals, view, method)
    expected = torch.autograd.grad(whole.loss, [student.logits, *student.hidden[1:]], allow_unused=True)
    for order in (torch.randperm(8, generator=torch.Generator().manual_seed(3)), torch.arange(8)):
        parts = []
        for rows in order.split([1, 4, 3]):
            longest = max(LENGTHS[i] for i in rows.tolist())  # a part is padded less than the whole
            some = student.take(rows)
            some = replace(some, mask=some.mask[:, :longest], hidden=tuple(h[:, :longest] for h in some.hidden))
            parts.append(run(some, take(signals, rows), view.take(rows, None), method))
        total = sum(p.loss for p in parts)
        torch.testing.assert_close(total, whole.loss)
        for name in ("losses", "teacher_weights", "loss_weights", "asked", "trained"):
            values = [getattr(p, name) for p in parts]
            if name == "teacher_weights":  # a part of which no row asks has no K axis
                values = [w if w.shape[1] else w.new_zeros(len(w), whole.teacher_weights.shape[1]) for w in values]
            torch.testing.assert_close(torch.cat(values), getattr(whole, name)[order])
        got = torch.autograd.grad(total, [student.logits, *student.hidden[1:]], allow_unused=True, retain_graph=True)
        for one, other in zip(got, expected, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other)


def test_uniform_over_one_teacher_is_kd_bit_for_bit():
    student, signals, view = inputs()
    signals = replace(signals, logits=signals.logits[:, :1], fields=signals.fields[:1])
    results = []
    for name in ("uniform", "kd", "confidence", "best-single", "random-single"):
        result = run(student, signals, view, ready(MethodConfig(name=name), SHAPES[:1]))
        results.append((result.loss, *torch.autograd.grad(result.loss, student.logits)))
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0]) and torch.equal(gradient, results[0][1])


def test_labels_alone_are_finetuning_and_the_first_two_kinds_are_kd():
    """AKSKD's check: a = (1, 0, 0, 0) is fine-tuning, (1, 1, 0, 0) vanilla distillation."""
    shapes = [(6, 8)]
    student, signals, view = inputs()
    signals = replace(signals, logits=signals.logits[:, :1], fields=signals.fields[:1])
    four = ready(MethodConfig(name="all-ones"), shapes)
    finetune = run(student, signals, view, ready(MethodConfig(name="finetune"), shapes)).loss
    kd_mix = {"name": "fixed", "weights": {"labels": 1.0, "response": 1.0}}
    kd = run(student, signals, view, ready(MethodConfig(name="kd", loss_weights=kd_mix), shapes)).loss
    for weights, expected in (([1.0, 0, 0, 0], finetune), ([1.0, 1.0, 0, 0], kd)):
        four.loss_weights = Given(torch.tensor(weights))
        torch.testing.assert_close(run(student, signals, view, four).loss, expected)


def test_equal_weights_are_the_mean_over_teachers():
    student, signals, view = inputs()
    one_each = []
    for k in range(2):
        method = ready(MethodConfig(name="uniform", loss_weights="all-ones"))
        method.teachers = Given(torch.eye(2)[k].expand(8, 2), view.keys)
        one_each.append(run(student, signals, view, method).loss)
    loss = run(student, signals, view, ready(MethodConfig(name="uniform", loss_weights="all-ones"))).loss
    torch.testing.assert_close(loss, (one_each[0] + one_each[1]) / 2)


def test_left_padding_changes_nothing():
    method = ready(MethodConfig(name="all-ones", teachers="uniform"))
    student, signals, view = inputs()
    torch.testing.assert_close(
        run(inputs(left=True)[0], signals, view, method).losses, run(student, signals, view, method).losses
    )


# ---- weights are not a way to lower the loss ------------------------------------------------------------------------


class Leaky(LossWeights):
    """Weights that carry the student's own graph, as an uncertainty computed without `no_grad` does."""

    def __init__(self, logits: Tensor, columns: int) -> None:
        self.logits, self.columns = logits, columns

    def decide(self, view: StepView) -> Tensor:
        return self.logits[:, : self.columns].softmax(1)


@pytest.mark.parametrize("part", ["teachers", "loss_weights", "both"])
def test_the_student_cannot_lower_its_loss_by_moving_a_weight(part):
    student, signals, view = inputs()
    gradients = []
    for leak in (True, False):
        logits = student.logits if leak else student.logits.detach()
        method = ready(MethodConfig(name="uniform"))
        if part != "loss_weights":
            method.teachers = Leaky(logits, 2)
        if part != "teachers":
            method.loss_weights = Leaky(logits, 2)
        result = run(student, signals, view, method)
        gradients.append(torch.autograd.grad(result.loss, student.logits)[0])
    assert torch.equal(*gradients) and gradients[0].any()


def test_what_is_logged_holds_no_graph():
    result = run(*inputs(), ready(MethodConfig(name="uniform")))
    assert result.loss.requires_grad
    for name in ("losses", "teacher_weights", "loss_weights", "asked", "trained"):
        assert not getattr(result, name).requires_grad, name


# ---- rows that do not ask -------------------------------------------------------------------------------------------


def spying(signals, calls: list[list[int]]):
    def ask(rows: Tensor):
        calls.append(rows.tolist())
        return take(signals, rows)

    return ask


def test_only_rows_that_ask_are_looked_up():
    student, signals, view = inputs()
    method = ready(MethodConfig(name="pkd", teachers="uniform"))
    asked = torch.tensor([False, True, True, False, False, True, False, False])
    method.rows, calls = Given(asked, view.keys), []
    distillation_loss(student, view, method, spying(signals, calls))
    assert calls == [[1, 2, 5]]


@pytest.mark.parametrize(
    "knowledge", [{"response": {}}, {"response": {}, "feature": {}}, {"labels": {}, "response": {}}]
)
@pytest.mark.parametrize("trains_rest", [True, False])
def test_a_batch_of_which_no_row_asks_has_a_loss_that_can_be_differentiated(knowledge, trains_rest):
    student, signals, view = inputs()
    method = ready(MethodConfig(name="uniform", knowledge={"labels": False} | knowledge))
    method.rows, calls = Given(torch.zeros(8, dtype=torch.bool), view.keys, trains_rest), []
    result = distillation_loss(student, view, method, spying(signals, calls))
    (gradient,) = torch.autograd.grad(result.loss, student.logits)
    learns = trains_rest and "labels" in knowledge
    assert calls == [] and bool(gradient.any()) == learns == (result.loss.item() > 0)
    assert torch.isfinite(gradient).all() and result.losses.shape == (8, len(knowledge))
    assert not result.asked.any() and result.trained.all() == trains_rest


@pytest.mark.parametrize("name", ["random", "random-skip"])
def test_rows_that_are_not_selected_learn_from_labels_or_not_at_all(name):
    student, signals, view = inputs()
    method = ready(MethodConfig(name="uniform", rows={"name": name, "ratio": 0.5}))
    result = run(student, signals, view, method)
    (gradient,) = torch.autograd.grad(result.loss, student.logits)
    left_out = ~result.asked
    assert left_out.any() and result.asked.any()
    expected = left_out & (LABELS != -100) if name == "random" else torch.zeros(8, dtype=torch.bool)
    assert torch.equal(gradient[left_out].any(1), expected[left_out])
    assert gradient[result.asked].any(1).all()
    assert not result.losses[left_out, 1].any()


def test_the_loss_on_teacher_outputs_of_random_rows_is_on_average_the_mean_over_those_that_ask():
    """As that of chosen rows: else the control of a choice would hear its teachers half as loud."""
    student, signals, view = inputs()
    some, whole = (
        run(student, signals, view, ready(MethodConfig(name="uniform", rows=rows)))
        for rows in ({"name": "random", "ratio": 0.5}, "all")
    )
    assert 0 < some.asked.sum() < 8
    torch.testing.assert_close(some.losses[some.asked, 1], 2 * whole.losses[some.asked, 1])


@pytest.mark.parametrize("config", [MethodConfig(name="uniform"), MethodConfig(name="finetune")], ids=lambda c: c.name)
def test_the_label_term_is_a_mean_over_the_labelled_rows_of_the_step(config):
    """Over all rows, 5 % of labels would weigh α/20 beside teacher outputs that weigh α."""
    student, signals, view = inputs()
    method = ready(config)
    result = distillation_loss(student, view, method, lambda rows: take(signals, rows), None, 6 / 8)
    mean = torch.nn.functional.cross_entropy(student.logits, LABELS)
    torch.testing.assert_close(result.losses[:, 0].mean(), mean.detach())
    plain = run(student, signals, view, method)
    torch.testing.assert_close(result.losses[:, 1:], plain.losses[:, 1:])


def test_unlabelled_rows_learn_from_teachers_only():
    student, signals, view = inputs()
    result = run(student, signals, view, ready(MethodConfig(name="uniform")))
    assert torch.equal(result.losses[:, 0] > 0, LABELS != -100)
    assert (result.losses[:, 1] > 0).all()
    assert torch.isfinite(torch.autograd.grad(result.loss, student.logits)[0]).all()


def test_a_method_without_teachers_asks_nobody():
    student, _, view = inputs()
    method = ready(MethodConfig(name="finetune"))
    result = distillation_loss(student, view, method, lambda rows: pytest.fail("asked"))
    assert not result.asked.any() and result.trained.all() and result.teacher_weights.shape == (8, 0)
    expected = torch.nn.functional.cross_entropy(student.logits, LABELS, reduction="sum")
    torch.testing.assert_close(result.loss, expected)


def test_selectors_see_the_rows_that_they_decide_on():
    student, signals, view = inputs()
    asked = torch.tensor([True, False] * 4)
    method = ready(MethodConfig(name="uniform"))
    method.rows, method.teachers = Given(asked, view.keys), Given(torch.full((8, 2), 0.5), view.keys)
    run(student, signals, view, method)
    (seen,) = method.teachers.asked_with
    assert torch.equal(seen.keys, view.keys[asked]) and torch.equal(seen.labels, LABELS[asked])
    assert torch.equal(seen.student, student.logits.detach()[asked]) and torch.equal(
        seen.teachers, signals.logits[asked]
    )
    assert method.rows.asked_with[0].teachers is None  # rows are chosen before anybody was asked


class Matching(Knowledge):
    """A loss in which student, teachers and labels of another row would show."""

    name, summary = "matching", "for this test"

    def forward(self, student, teachers, labels):
        return student.logits[:, :1] + teachers.logits[:, :, 0] + labels.unsqueeze(1)


def test_kinds_that_ask_teachers_get_student_teachers_and_labels_of_the_same_rows():
    student, signals, view = inputs()
    asked = torch.tensor([False, True, True, False, False, True, False, True])
    who = Given(torch.tensor([1.0, 0.0]).expand(8, 2), view.keys)
    rows, mix = Given(asked, view.keys), Given(torch.ones(1))
    result = run(student, signals, view, method_of([Matching(layout())], rows, who, mix))
    expected = (student.logits[:, 0] + signals.logits[:, 0, 0] + LABELS) * asked
    torch.testing.assert_close(result.losses[:, 0], expected.detach())


# ---- a student equal to its teacher ---------------------------------------------------------------------------------


def test_a_student_equal_to_its_teacher_has_nothing_left_to_learn_from_it():
    student, _, view = inputs()
    signals = replace(teacher_signals(LENGTHS, [(6, 8)]), logits=student.logits.detach().unsqueeze(1))
    kinds = build_knowledge({"response": {}}, layout())
    result = run(student, signals, view, method_of(kinds, AllRows(), UniformTeachers(), Given(torch.ones(1))))
    assert result.loss.item() == 0.0
    assert torch.autograd.grad(result.loss, student.logits)[0].abs().max() < 1e-6


def test_projections_get_gradients_and_are_no_part_of_the_student():
    student, signals, view = inputs()
    method = ready(MethodConfig(name="pkd", teachers="uniform"))
    run(student, signals, view, method).loss.backward()
    extra = [p for kind in method.knowledge for p in kind.parameters()]
    assert [tuple(p.shape) for p in extra] == [(12, 8)] and extra[0].grad.any()


def test_planned_rows_are_all_trained_on():
    student, signals, view = inputs()
    method = ready(MethodConfig(name="uniform"))
    method.rows = RandomRowsPlan(ratio=0.2)
    result = run(student, signals, view, method)
    assert result.asked.all() and result.trained.all()
