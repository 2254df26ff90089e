"""A method in stages: what the preset and the config make of it, before any model is there."""

from __future__ import annotations

from typing import Any

import pytest

from distilect.config import MethodConfig, TrainConfig
from distilect.errors import DistilectError
from distilect.knowledge import Layout
from distilect.selection import Stage, stages_of


def layout(**changes: Any) -> Layout:
    """A student of two layers beside teachers of four with its tokens."""
    given: dict[str, Any] = {
        "student_layers": 2,
        "student_width": 8,
        "teachers": ("a", "b"),
        "teacher_layers": (4, 4),
        "teacher_widths": (8, 8),
        "same_tokens": (True, True),
        "attention": (True, True),
    }
    return Layout(regression=False, **given | changes)


def stages(method: dict[str, Any], train: dict[str, Any] | None = None, **models: Any) -> list[Stage]:
    return stages_of(MethodConfig(**method), TrainConfig(**train or {}), layout(**models))


def test_a_method_without_stages_is_a_single_one():
    (only,) = stages({"name": "rlkd", "alpha": 0.7}, {"epochs": 5})
    assert only == Stage("", MethodConfig(name="rlkd", alpha=0.7), TrainConfig(epochs=5))


def test_stages_share_the_runs_epochs_or_tokens_unless_they_set_their_own():
    given = {"a": {"method": "kd", "share": 0.5}, "b": {"method": "kd"}, "c": {"method": "kd"}}
    found = stages({"stages": given}, {"epochs": 8, "token_budget": 1000})
    assert [(s.train.epochs, s.train.token_budget) for s in found] == [(4, 500), (2, 250), (2, 250)]
    given["a"] = {"method": "kd", "train": {"epochs": 20, "learning_rate": 1e-3}}
    found = stages({"stages": given}, {"epochs": 8, "token_budget": 1000})
    assert [(s.train.epochs, s.train.token_budget) for s in found] == [(20, None), (4, 500), (4, 500)]
    assert [s.train.learning_rate for s in found] == [1e-3, 5e-5, 5e-5]
    assert [s.share for s in found] == [0, 0.5, 0.5]


def test_changes_are_merged_with_the_presets_stages_and_false_removes_one():
    changes = {"outputs": {"method": {"alpha": 0.5}, "train": {"epochs": 9}}, "polish": {"method": "finetune"}}
    body, outputs, polish = stages({"name": "keep", "stages": changes})
    assert outputs.method.alpha == 0.5 and outputs.train.epochs == 9
    assert outputs.method.knowledge == {"response": {"temperature": 4.0, "final_temperature": 1.0}}
    assert (body.name, polish.name, polish.method.name) == ("body", "polish", "finetune")
    (alone,) = stages({"name": "keep", "stages": {"body": False}}, {"epochs": 6})
    assert alone.name == "outputs" and alone.train.epochs == 6
    # a method of another name takes none of the old one's options
    replaced = stages({"name": "keep", "stages": {"outputs": {"method": "rlkd"}}})[1]
    assert replaced.method == MethodConfig(name="rlkd")


def test_a_stage_is_the_method_itself_with_its_own_changes():
    given = {"a": {}, "b": {"method": {"knowledge": {"response": {"temperature": 2.0}}}}, "c": {"method": "finetune"}}
    a, b, c = stages({"name": "rlkd", "alpha": 0.7, "stages": given})
    assert a.method == MethodConfig(name="rlkd", alpha=0.7)
    assert b.method == MethodConfig(name="rlkd", alpha=0.7, knowledge={"response": {"temperature": 2.0}})
    assert c.method == MethodConfig(name="finetune")


@pytest.mark.parametrize(
    ("models", "teacher", "tokens", "attention"),
    [
        ({}, None, "all", True),
        ({"attention": (True, False)}, None, "all", False),
        ({"same_tokens": (False, True)}, {"teacher": "b"}, "all", True),
        ({"same_tokens": (False, False)}, None, "mean", False),
        ({"teacher_layers": (0, 4), "same_tokens": (False, True)}, {"teacher": "b"}, "all", True),
    ],
)
def test_keep_copies_what_the_teachers_have(models: Any, teacher: Any, tokens: str, attention: bool):
    body = stages({"name": "keep"}, **models)[0].method
    assert body.teachers == teacher and body.knowledge is not None
    assert body.knowledge["feature"].get("tokens", "all") == tokens and ("attention" in body.knowledge) == attention


def test_without_labels_the_largest_teacher_stands_for_the_best():
    models = layout(teacher_layers=(2, 4))
    body = stages_of(MethodConfig(name="keep"), TrainConfig(), models, labelled=False)[0].method
    assert body.teachers == {"teacher": "b"}


def test_keep_has_no_first_stage_where_no_teacher_has_hidden_states():
    assert [s.name for s in stages({"name": "keep"}, teacher_layers=(0, 0))] == ["outputs"]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "keep", "alpha": 0.5}, r"set alpha in one of them, as method\.stages\.STAGE\.method\.alpha="),
        ({"name": "keep", "stages": {"body": False, "outputs": False}}, "no stage is left"),
        ({"name": "keep", "stages": {"output": False}}, "no stage 'output' to leave out.*'outputs'"),
        ({"stages": {"../../a": {}}}, r"got the name '\.\./\.\./a', expected letters"),
        ({"name": "keep", "stages": {"outputs": 3}}, "outputs is 3, expected its settings"),
        (
            {"name": "keep", "stages": {"outputs": {"trian": {}}}},
            r"stages\.outputs: unknown key 'trian': did you mean 'train'",
        ),
        (
            {"name": "keep", "stages": {"outputs": {"train": {"epoch": 1}}}},
            r"stages\.outputs\.train: unknown key 'epoch'",
        ),
        ({"stages": {"a": {"method": "kdd"}}}, "no method is called 'kdd'"),
        ({"stages": {"a": {"method": {"name": "keep", "stages": {}}}}}, "no stages of its own"),
        ({"stages": {"a": {"method": "keep"}}}, "'keep' has stages"),
        ({"name": "keep", "stages": {"body": {"share": 0.7}, "outputs": {"share": 0.7}}}, "add up to 1.4"),
        ({"name": "keep", "stages": {"body": {"share": 1.0}}}, "add up to 1 and leave nothing for outputs: lower them"),
    ],
)
def test_what_cannot_be_is_an_error_with_a_remedy(method: dict[str, Any], message: str):
    with pytest.raises(DistilectError, match=message):
        stages(method)
