"""Which trials a config means, how they are called, and what makes an earlier result stale."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distilect.config import parse_part
from distilect.errors import ConfigError, DistilectError
from distilect.experiments.config import CompareConfig, ComparedMethodConfig, load_compare
from distilect.experiments.methods import family, label_of
from distilect.experiments.runner import Runner
from distilect.experiments.trials import Plan, choices
from distilect.tasks import Task

CONFIGS = Path(__file__).parent.parent.parent / "configs" / "compare"


def raw(**changes: Any) -> dict[str, Any]:
    return {
        "tasks": [
            {"name": "one", "data": {"train": "data/one.csv"}},
            {"name": "two", "data": {"train": "data/two.csv"}},
        ],
        "teachers": ["teacher-a", "teacher-b"],
        "students": ["teacher-a[layers=1,3]"],
        "methods": ["finetune", "kd", "uniform"],
        "seeds": [0, 1],
    } | changes


def plan(**changes: Any) -> Plan:
    return Plan(parse_part(CompareConfig, raw(**changes)))


def method(**values: Any) -> ComparedMethodConfig:
    return ComparedMethodConfig.model_validate(values)


def test_trials_come_seed_after_seed_so_that_a_part_is_a_whole_table() -> None:
    trials = plan().trials
    assert len(trials) == 2 * 3 * 2
    assert [trial.seed for trial in trials] == [0] * 6 + [1] * 6
    assert trials[0].key == "ordinary.one.teacher-a_layers_1_3.finetune.seed=0"
    assert trials[0].setup.key == "ordinary.one"


def test_a_method_may_have_seeds_and_tasks_of_its_own() -> None:
    methods = ["kd", {"name": "uniform", "seeds": [0, 1, 2, 3], "tasks": ["two"]}]
    found = [(t.label, t.setup.task.name, t.seed) for t in plan(methods=methods, seeds=[0]).trials]
    assert found == [("kd", "one", 0), ("kd", "two", 0), *(("uniform", "two", seed) for seed in range(4))]


@pytest.mark.parametrize(
    ("values", "label", "kind"),
    [
        ({"name": "kd"}, "kd", "static"),
        ({"name": "finetune"}, "finetune", "static"),
        ({"name": "kd", "alpha": 0.9, "temperature": 2}, "kd-alpha0.9-T2", "static"),
        ({"name": "kd", "label": "strong"}, "strong", "static"),
        ({"name": "best-single"}, "best-single", "static"),
        ({"name": "gate"}, "gate", "adaptive"),
        ({"name": "gate", "teachers": {"name": "gate", "pooling": "mean"}}, "gate", "adaptive"),
        ({"name": "gate", "teachers": {"pooling": "mean"}}, "gate", "adaptive"),
        ({"name": "kd", "teachers": {"teacher": "a"}}, "kd", "static"),
        ({"name": "rlkd"}, "rlkd", "adaptive"),
        ({"name": "dynamic-data"}, "dynamic-data", "adaptive"),
        ({"name": "dynamic-objective"}, "dynamic-objective", "adaptive"),
        ({"name": "pkd", "teachers": "gate"}, "mix-pkd-gate", "adaptive"),
        ({"name": "pkd", "teachers": "gate", "label": "gated"}, "mix-gated", "adaptive"),
        ({"name": "pkd", "teachers": "uniform", "label": "mix-u"}, "mix-u", "static"),
        ({"name": "kd", "knowledge": {"labels": {}, "response": {}, "relation": {}}}, "mix-kd-relation", "static"),
        ({"name": "kd", "knowledge": {"response": {"distance": "mse"}}}, "kd", "static"),
        ({"name": "all-ones", "knowledge": {"relation": False}}, "mix-all-ones-less", "static"),
        ({"name": "uniform", "teachers": "oracle", "label": "oracle"}, "oracle", "oracle"),
    ],
)
def test_names_and_kinds_of_methods(values: dict[str, Any], label: str, kind: str) -> None:
    assert label_of(method(**values)) == label
    assert family(method(**values)) == kind


def test_only_takes_names_and_patterns() -> None:
    found = plan()
    assert {t.setup.task.name for t in found.only(["two"])} == {"two"}
    assert {t.label for t in found.only(["kd"])} == {"kd"}
    assert {t.seed for t in found.only(["seed=1"])} == {1}
    assert len(found.only(["*.one.*.kd.*", "uniform"])) == 2 + 4
    assert found.only([]) == found.trials
    with pytest.raises(ConfigError, match=r"matches no trial.*Did you mean 'uniform'"):
        found.only(["unifrom"])


def settings(**changes: Any) -> str:
    return next(t.settings for t in plan(**changes).trials if t.label == "kd" and t.setup.task.name == "one")


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"epochs": 1}},
        {"teachers": ["teacher-a"]},
        {"equal_tokens": True},
        {"scenarios": [{"name": "ordinary", "label_noise": 0.2}]},
        {"tasks": [{"name": "one", "data": {"train": "data/one.csv", "max_train_rows": 10}}]},
        {"tasks": [{"name": "one", "data": {"train": "data/one.csv"}, "train": {"epochs": 9}}]},
        {"methods": [{"name": "kd", "label": "kd", "alpha": 0.9}]},
    ],
)
def test_settings_that_change_a_result_make_it_stale(changes: dict[str, Any]) -> None:
    assert settings(**changes) != settings()


@pytest.mark.parametrize(
    "changes",
    [
        {"workers": 3},
        {"output": "elsewhere"},
        {"data_dir": "/data"},
        {"seeds": [0, 1, 2, 3]},
        {"methods": ["kd"]},
        {"methods": [{"name": "kd", "seeds": [0, 5]}]},
        {"contenders": ["kd"]},
        {"tasks": [{"name": "one", "data": {"train": "/another/machine/data/one.csv"}}]},
    ],
)
def test_settings_that_change_no_result_do_not(changes: dict[str, Any]) -> None:
    assert settings(**changes) == settings()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["kd", "kd"]}, "two methods are called 'kd'"),
        ({"methods": ["kdd"]}, "no method is called 'kdd'"),
        (
            {"methods": [{"name": "kd", "tasks": ["tow"]}]},
            "no task of this comparison is called 'tow'.*Did you mean 'two'",
        ),
        ({"baseline": "pkd"}, "no method of this comparison is called 'pkd'"),
        ({"teachers": []}, "method 'kd' needs a teacher, but task 'one' has none"),
        ({"methods": [{"name": "kd", "tune": {"alpha": []}}]}, "tune.alpha lists no value"),
        (
            {"methods": [{"name": "kd", "train": {"epoch": 3}}]},
            "method kd, train: unknown key 'epoch': did you mean 'epochs'",
        ),
        ({"methods": [{"name": "kd", "seeds": []}]}, "no trial is left"),
        ({"task": []}, "unknown key 'task': did you mean 'tasks'"),
        ({"students": []}, "'students'"),
        ({"name": "signals"}, "this one is kept"),
        ({"scenarios": [{"name": "a", "labelled": 0}]}, "scenarios.0.labelled"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DistilectError, match=message):
        plan(**changes)


SCORES, CLASSES = Task("s", "regression", (), ("pearson",), 2), Task("c", "classification", ("a", "b"), ("f1",), 1)


def test_a_search_in_a_regression_tries_no_temperatures_as_they_have_no_effect_there() -> None:
    tune = {"alpha": [0.2, 0.9], "temperature": [1, 4], "knowledge.response.temperature": [2, 8]}
    tuned = method(name="kd", tune=tune)
    assert len(choices(tuned, CLASSES)) == len(choices(tuned)) == 8
    assert choices(tuned, SCORES) == [{"alpha": 0.2}, {"alpha": 0.9}]


def test_a_search_of_a_single_choice_trains_nothing() -> None:
    found = plan(methods=[{"name": "kd", "tune": {"temperature": [1, 4]}}])
    (trial, *_), runner = found.trials, Runner.__new__(Runner)
    runner.clean = SimpleNamespace(task=SCORES)  # type: ignore[assignment]
    search = runner._search(trial, found.run_config(trial.setup, trial), Path("/nowhere"))
    assert search == {"chosen": {}, "tried": [], "seconds": 0.0, "tokens": 0}


def test_the_config_of_a_run_is_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: {train: a.csv}\nstudent: b\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config of a run.*distilect run"):
        load_compare(file)


# a first look; the only task at hand whose teachers can be specialists by class, or whose units are words or tokens
ONE_TASK = {"demo", "alignment", "wnut17", "wnut17-types", "lm-small", "lm-gsm8k", "lm-specialists"}


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_configs_of_the_project_are_whole(file: Path) -> None:
    found = Plan(load_compare(file))
    assert found.config.name == file.stem
    assert len({trial.setup.task.name for trial in found.trials}) >= (1 if file.stem in ONE_TASK else 2)
    if file.stem != "demo":
        assert all(len(found.seeds(m)) >= 3 for m in found.config.methods)


def test_the_full_comparison_has_all_presets_and_two_mixes() -> None:
    from distilect.selection import presets

    found = Plan(load_compare(CONFIGS / "full.yaml"))
    others = {"keep"}  # a recipe, with a comparison of its own
    missing = set(presets()) - {m.name for m in found.config.methods} - others
    assert not missing, f"add to configs/compare/full.yaml: {missing}"
    assert sum(label.startswith("mix-") for label in found.labels) >= 2
