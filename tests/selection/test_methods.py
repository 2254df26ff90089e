"""Methods by name: presets run, unknown words name the nearest, alpha and temperature land where they should."""

from __future__ import annotations

import pytest
import torch

from distilect.config import MethodConfig
from distilect.errors import MethodError
from distilect.knowledge import KNOWLEDGE
from distilect.selection import asks_teachers, build_method, build_teacher_selector, get_preset, presets
from distilect.selection.methods import kinds_of, merged
from distilect.selection.registry import LOSS_WEIGHTS, ROWS, TEACHERS
from distilect.training.step import distillation_loss
from tests.knowledge.making import layout, student_outputs, take, teacher_signals
from tests.selection.views import make_context, make_view

NEED_ENTROPY = {"entropy"}
LENGTHS = (5, 3, 1, 4)
TEACHER_SHAPES = [(6, 8), (4, 8), (6, 12)]


def build(config: MethodConfig, regression: bool = False, shapes=None):
    """A method that is ready to be evaluated."""
    shapes = TEACHER_SHAPES if shapes is None else shapes
    selector = build_teacher_selector(config)
    method = build_method(config, layout((3, 8), shapes if selector else [], regression), selector)
    context = make_context(len(shapes), method.kinds, regression=regression)
    for part in method.selectors.values():
        part.setup(context)
    return method


def mix_of(**options) -> list[float]:
    return build(MethodConfig(**options)).loss_weights.decide(make_view()).tolist()


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize("name", list(presets()))
def test_every_preset_runs_and_teaches_the_student(name, regression):
    if regression and name in NEED_ENTROPY:
        pytest.skip("refuses regression, tested by itself")
    torch.manual_seed(0)
    method = build(MethodConfig(name=name), regression)
    classes = 1 if regression else 4
    student = student_outputs(LENGTHS, classes=classes)
    student.logits.requires_grad_()
    teachers = teacher_signals(LENGTHS, TEACHER_SHAPES, classes=classes)
    view = make_view(4, regression=regression, unlabelled=(2,))
    result = distillation_loss(student, view, method, lambda rows: take(teachers, rows))
    result.loss.backward()
    assert torch.isfinite(result.loss) and result.losses.shape == (4, len(method.knowledge))
    reached = [student.logits.grad, *(h.grad for h in student.hidden)]
    assert any(g is not None and g.any() for g in reached)
    assert all(torch.isfinite(g).all() for g in reached if g is not None)


@pytest.mark.parametrize("name", list(presets()))
def test_every_preset_says_what_it_is_and_is_made_of_registered_parts(name):
    preset = get_preset(name)
    assert preset.name == name and preset.summary
    for spec, registry in (
        (preset.rows, ROWS),
        (preset.loss_weights, LOSS_WEIGHTS),
        (preset.teachers or "uniform", TEACHERS),
    ):
        assert (spec if isinstance(spec, str) else spec["name"]) in registry
    assert set(preset.knowledge) <= set(KNOWLEDGE)
    assert asks_teachers(MethodConfig(name=name)) == (preset.teachers is not None)


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(MethodError, match=r"no method is called 'unifrom'.*Did you mean 'uniform'\?"):
        build_teacher_selector(MethodConfig(name="unifrom"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teachers": "confidense"}, "Did you mean 'confidence'"),
        ({"teachers": {"name": "single", "techer": "a"}}, "Did you mean 'teacher'"),
        ({"teachers": {"teacher": "a"}}, "teacher selector 'uniform': unknown option 'teacher'"),
        ({"rows": "randm"}, "Did you mean 'random'"),
        ({"rows": {"name": "random", "ration": 0.5}}, "Did you mean 'ratio'"),
        ({"loss_weights": "random_soft"}, "Did you mean 'random-soft'"),
        ({"knowledge": {"labels": {}, "respons": {}}}, "Did you mean 'response'"),
        ({"knowledge": {"labels": {}, "response": True}}, "response is True, expected its options"),
        ({"rows": {"name": "random", "ratio": "half"}}, "row selector 'random'"),
    ],
)
def test_misspelt_parts_and_options_name_the_nearest(options, message):
    with pytest.raises(MethodError, match=message):
        build(MethodConfig(name="uniform", **options))


@pytest.mark.parametrize(
    ("given", "preset", "expected"),
    [
        (None, "uniform", {"name": "uniform"}),
        ({"ratio": 0.1}, "random", {"name": "random", "ratio": 0.1}),
        ({"name": "random", "ratio": 0.1}, {"name": "random", "x": 1}, {"name": "random", "x": 1, "ratio": 0.1}),
        ("random", {"name": "random", "x": 1}, {"name": "random", "x": 1}),
        ({"name": "other"}, {"name": "random", "x": 1}, {"name": "other"}),
    ],
)
def test_options_are_merged_with_the_presets_and_another_name_replaces_its_selector(given, preset, expected):
    assert merged(given, preset) == expected


def test_kinds_of_knowledge_are_added_to_the_presets_changed_in_it_and_removed_from_it():
    kinds = kinds_of(
        MethodConfig(name="pkd", knowledge={"feature": {"tokens": "mean"}, "pooled": None}), with_teachers=True
    )
    assert kinds == {"labels": {}, "response": {}, "feature": {"tokens": "mean", "normalize": True}, "pooled": {}}
    assert list(kinds_of(MethodConfig(name="pkd", knowledge={"response": False}), with_teachers=True)) == [
        "labels",
        "feature",
    ]


def test_alpha_weighs_response_and_the_rest_of_it_labels():
    assert mix_of(name="kd") == [0.5, 0.5]
    assert mix_of(name="kd", alpha=0.9) == pytest.approx([0.1, 0.9])
    assert mix_of(name="kd", alpha=0.0) == [1.0, 0.0]
    assert mix_of(name="pkd", alpha=0.75) == pytest.approx([0.25, 0.75, 1.0])
    assert mix_of(name="finetune") == [1.0]


def test_weights_given_by_name_win_over_alpha():
    mix = {"name": "fixed", "weights": {"labels": 3.0, "feature": 0.5}}
    assert mix_of(name="pkd", alpha=0.25, loss_weights=mix) == [3.0, 0.25, 0.5]


def test_alpha_weighs_the_response_wherever_it_stands():
    assert mix_of(name="kd", alpha=0.9, knowledge={"labels": False, "feature": {}}) == pytest.approx([0.9, 1.0])


def test_alpha_that_would_be_ignored_is_refused():
    with pytest.raises(MethodError, match=r"alpha is set.*'all-ones'"):
        mix_of(name="all-ones", alpha=0.3)
    with pytest.raises(MethodError, match=r"alpha is set.*no response"):
        mix_of(name="finetune", alpha=0.3)


def test_options_of_the_presets_own_knowledge_selector_add_to_it_and_another_one_replaces_it():
    hard = build(MethodConfig(name="akskd-hard", loss_weights={"name": "actor-critic", "phases": 4})).loss_weights
    assert hard.options.action == "hard" and hard.options.phases == 4
    assert build(MethodConfig(name="akskd", loss_weights="actor-critic")).loss_weights.options.action == "soft"
    assert build(MethodConfig(name="all-ones", loss_weights="all-ones")).loss_weights.needs.step_losses
    assert not build(MethodConfig(name="all-ones", loss_weights="random-hard")).loss_weights.needs.step_losses


def test_temperature_lands_in_response_knowledge():
    assert build(MethodConfig(name="kd", temperature=7)).knowledge[1].options.temperature == 7
    assert build(MethodConfig(name="kd")).knowledge[1].options.temperature == 4
    given = {"labels": {}, "response": {"temperature": 2}}
    assert build(MethodConfig(name="kd", knowledge=given)).knowledge[1].options.temperature == 2
    config = MethodConfig(name="kd", knowledge=given, temperature=3)
    assert build(config).knowledge[1].options.temperature == 3
    # the config that is written into the run's folder is left alone
    assert config.knowledge["response"] == {"temperature": 2}


def test_a_method_does_not_change_its_preset():
    build(MethodConfig(name="kd", temperature=7, alpha=0.9))
    assert build(MethodConfig(name="kd")).knowledge[1].options.temperature == 4 and mix_of(name="kd") == [0.5, 0.5]


def test_temperature_that_would_be_ignored_is_refused():
    with pytest.raises(MethodError, match=r"temperature is set.*no response"):
        build(MethodConfig(name="finetune", temperature=2))


def test_teachers_without_anything_to_copy_from_them_are_refused_and_the_reverse():
    with pytest.raises(MethodError, match="copies labels only"):
        build(MethodConfig(name="finetune", teachers="uniform"))
    with pytest.raises(MethodError, match="asks no teacher but copies"):
        build(MethodConfig(name="finetune", knowledge={"labels": {}, "response": {}}))


def test_parts_of_other_methods_can_be_mixed():
    config = MethodConfig(
        name="pkd", rows={"name": "random", "ratio": 0.5}, teachers="confidence", loss_weights="random-soft"
    )
    method = build(config)
    assert [s.name for s in method.selectors.values()] == ["random", "confidence", "random-soft"]
    assert method.kinds == ("labels", "response", "feature")
    assert asks_teachers(MethodConfig(name="finetune", teachers="uniform"))


def test_each_field_is_asked_for_once():
    method = build(MethodConfig(name="all-ones"), shapes=[(6, 8), (4, 8)])
    assert method.fields(2) == [
        ["hidden.2", "hidden.4", "hidden.6"],
        [f"hidden.{t}" for _, t in method.knowledge[2].pairs[1]],
    ]
    assert build(MethodConfig(name="kd")).fields(3) == [[], [], []]


def test_table_teachers_can_teach_outputs_but_no_hidden_states():
    assert build(MethodConfig(name="kd"), shapes=[(0, 0)]).kinds == ("labels", "response")
    with pytest.raises(MethodError, match="gives outputs only"):
        build(MethodConfig(name="pkd"), shapes=[(0, 0)])
