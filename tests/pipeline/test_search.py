"""Settings chosen before a run: on the validation split alone, within a budget, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distilect.config import RunConfig, load_config
from distilect.errors import ConfigError
from distilect.pipeline import pace, run, runs, search
from distilect.pipeline.search import choices, rounds, with_choice
from tests.pipeline.helpers import Job

# a rate of 1e-9 learns nothing: the student keeps the score that it has untrained
TUNE = {"train.learning_rate": [1e-9, 3e-3]}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("job"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "SECONDS", 0.2)


def settings(job: Job, name: str, **more: Any) -> RunConfig:
    train = job.raw()["train"] | {"epochs": 2}
    found = {"budget": "10min", "tune": TUNE}
    return job.config(
        name=name, method="finetune", teachers=[], student=job.teachers[0], train=train, search=found | more
    )


def test_a_third_of_the_choices_goes_on_until_few_are_left() -> None:
    assert rounds(1) == [1] and rounds(3) == [3] and rounds(4) == [4, 2] and rounds(27) == [27, 9, 3]


def test_choices_are_all_combinations_in_method_and_training(job: Job) -> None:
    found = choices({"alpha": [0.5, 0.9], "train.epochs": [1, 2]})
    assert found[1] == {"alpha": 0.5, "train.epochs": 2} and len(found) == 4
    config = with_choice(
        job.config(method="kd"), {"alpha": 0.9, "train.epochs": 7, "knowledge.response.temperature": 2}
    )
    assert (config.method.alpha, config.train.epochs) == (0.9, 7)
    assert config.method.knowledge == {"response": {"temperature": 2}}


def test_the_students_layers_can_be_a_choice(job: Job) -> None:
    config = job.config(method="kd")
    chosen = with_choice(config, {"student": "a[layers=0]", "train.epochs": 2})
    assert chosen.student.init == "a[layers=0]" and chosen.train.epochs == 2
    longer = with_choice(config, {"student.init": "a[layers=1]"})
    assert longer.student == config.student.model_copy(update={"init": "a[layers=1]"})


def test_the_better_rate_is_chosen_and_dev_is_not_seen(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    distil = search.distil

    def watched(bench: Any, *args: Any, **options: Any) -> Any:
        seen.append((bench.data.dev, args[1].train.learning_rate))
        return distil(bench, *args, **options)

    monkeypatch.setattr(search, "distil", watched)
    # labels of the validation split that the trained student gets right and the untrained one does not are not left to chance
    scores = iter([{"accuracy": 0.4}, {"accuracy": 0.9}])

    def scored(bench: Any, folder: Path) -> Any:
        watched(bench, folder, bench.config, False, report=False)
        return {"student": {"validation": next(scores)}}

    monkeypatch.setattr(search, "trained", scored)
    result = run(settings(job, "rates"))[0]
    assert seen == [(None, 1e-9), (None, 3e-3)]
    config = load_config(result.folder / "config.yaml")
    assert config.train.learning_rate == 3e-3 and config.search is None
    (found,) = (job.folder / "runs" / "search").glob("rates-*/found.json")
    tried = json.loads(found.read_text())
    assert tried["chosen"] == {"train.learning_rate": 3e-3} and len(tried["tried"]) == 2
    assert result.metrics["student"]["scores"]


@pytest.mark.slow
def test_a_search_is_made_once_and_a_stopped_run_goes_on(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(job, "once")
    with monkeypatch.context() as patch:
        patch.setattr(runs, "distil", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(config)
    (found,) = (job.folder / "runs" / "search").glob("once-*")
    assert [path.name for path in found.iterdir()] == ["found.json"]
    monkeypatch.setattr(search, "_halving", None)  # a second search would need it
    assert run(config)[0].folder.name == "once"


def test_a_stopped_search_goes_on_with_its_lengths(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    config, distil, seen = settings(job, "stopped"), search.distil, []

    def stop(bench: Any, folder: Path, *args: Any, **options: Any) -> Any:
        seen.append(folder.name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return distil(bench, folder, *args, **options)

    monkeypatch.setattr(search, "distil", stop)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.setattr(search, "measure_pace", None)  # measured again, the lengths would be others
    run(config)
    assert seen == ["round-1-0", "round-1-1", "round-1-1"]


def test_what_cannot_be_searched_is_an_error(job: Job) -> None:
    with pytest.raises(ConfigError, match=r"search\.budget: 0.02s is too little for 2 choices: give it .* or more"):
        run(settings(job, "short", budget="0.02s"))
    with pytest.raises(ConfigError, match="'search.tune': alpha lists no value to try"):
        settings(job, "empty", tune={"alpha": []})
    none = settings(job, "blind")
    none = none.model_copy(update={"data": none.data.model_copy(update={"validation_size": 0})})
    with pytest.raises(ConfigError, match="no validation split to choose by: set data.validation_size"):
        run(none)
