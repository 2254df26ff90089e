"""Comparisons of tiny models: resumed after a kill, with trials that fail, with equal budgets, from published results."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from distilect.cli import app
from distilect.config import dump_config
from distilect.errors import ConfigError, RunError
from distilect.experiments import Plan, compare, engines, estimate, publish
from distilect.experiments.compare import open_trials
from distilect.experiments.estimate import OVERHEAD_SECONDS
from distilect.experiments.jobs import Job, Outcome, Worker
from distilect.experiments.results import Result, Results, read_predictions
from distilect.experiments.runner import Runner
from distilect.pipeline.work import Workbench
from tests.experiments.helpers import Toy
from tests.launch import fork, wait
from tests.tagging import sentences, taught, write_conll
from tests.tiny import tiny_bert

pytestmark = pytest.mark.timeout(900)  # a busy machine may take ten times as long as a free one


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("compare"))


def results_of(config: Any) -> list[Result]:
    return Results(config.folder / "results.jsonl").read()


def run_cli(file: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["compare", str(file), *words], prog_name="distilect")


@pytest.fixture(scope="module")
def finished(toy: Toy) -> Any:
    """Two tasks, one of them a regression; a method that cannot be run; teachers made here."""
    tasks = [{"name": "one", "data": toy.tables["one"]}, {"name": "scores", "data": toy.scores}]
    methods = [
        {"name": "finetune", "tasks": ["one"]},
        "kd",
        {"name": "pkd", "teachers": "confidence", "tasks": ["one"]},
        {"name": "entropy", "tasks": ["scores"]},  # refuses regressions
        {"name": "kd", "label": "kd-tuned", "tune": {"alpha": [0.1, 0.9]}, "tasks": ["one"]},
    ]
    config = toy.config(
        name="whole",
        tasks=tasks,
        methods=methods,
        teachers=[toy.made("x"), toy.made("y", 2)],
        seeds=[0, 1],
        students=["x[layers=1]"],
        contenders=["kd", "finetune"],
    )
    return config, compare(config)


def test_a_failed_trial_is_reported_and_does_not_stop_the_rest(finished: Any) -> None:
    config, found = finished
    assert found.done == 2 * (1 + 2 + 1 + 1) and found.left == 2
    assert set(found.failed) == {f"ordinary.scores.x_layers_1.entropy.seed={s}" for s in (0, 1)}
    assert all("entropy, which a regression has not" in error for error in found.failed.values())
    record = json.loads((config.folder / "failed" / f"trial.{next(iter(found.failed))}.json").read_text())
    assert "Traceback" in record["traceback"] and record["key"] in found.failed
    assert "Failed, and missing here: ordinary.scores.x_layers_1.entropy" in found.pages.tables.read_text()


def test_a_result_has_the_fields_of_metrics_and_its_place_in_the_comparison(finished: Any) -> None:
    config, _ = finished
    line = next(line for line in results_of(config) if line["method"] == "mix-pkd-confidence")
    assert {"task", "seed", "primary", "student", "teachers", "cost", "rows", "versions", "machine"} <= set(line)
    assert line["student"]["layers"] == 1 and line["student"]["latency_ms"]["p50"] > 0
    assert (line["scenario"], line["task_name"], line["preset"]) == ("ordinary", "one", "pkd")
    assert line["overrides"] == {"teachers": "confidence"} and line["trial"].endswith("seed=0")
    assert line["cost"]["student_tokens"] == line["cost"]["tokens"] > 0
    assert line["cost"]["teacher_forwards"] == 0 and line["cost"]["teacher_rows_scored"] == 2 * 54


def test_teachers_are_made_and_scored_once_for_all(finished: Any) -> None:
    config, _ = finished
    records = list((Path(config.output) / "teachers").glob("*/distilect-teacher.json"))
    of_whole = {line["teachers"][0]["path"] for line in results_of(config)}
    assert len(of_whole) == 2 and {str(r.parent) for r in records} >= of_whole
    before = {r: r.stat().st_mtime_ns for r in records}
    lines = len(results_of(config))
    again = compare(config)
    assert len(results_of(config)) == lines and set(again.failed)  # those that failed are tried again
    assert {r: r.stat().st_mtime_ns for r in records} == before


def test_tuning_chooses_on_validation_rows_once_for_all_seeds(finished: Any) -> None:
    config, _ = finished
    (file,) = (config.folder / "tuned").glob("*.json")
    search = json.loads(file.read_text())
    validation = [point["validation"]["accuracy"] for point in search["tried"]]
    assert search["chosen"] == search["tried"][validation.index(max(validation))]["choice"]
    tuned = [line for line in results_of(config) if line["method"] == "kd-tuned"]
    assert [line["seed"] for line in tuned] == [0, 1]
    assert all(line["tuned"] == search["chosen"] for line in tuned)
    assert tuned[0]["cost"]["tuning_tokens"] == sum(point["tokens"] for point in search["tried"]) > 0


def test_only_small_files_are_left(finished: Any) -> None:
    config, _ = finished
    assert not list(config.folder.rglob("*.safetensors"))
    assert not list((config.folder / "trials").glob("*/student"))
    assert sum(f.stat().st_size for f in config.folder.rglob("*.parquet")) < 60_000


def test_tables_can_be_made_again_from_published_results_alone(finished: Any, tmp_path: Path) -> None:
    config, _ = finished
    pages = publish(config, docs=tmp_path)
    assert pages is not None and pages.tables == tmp_path / "whole.md"
    before = {name: (tmp_path / name).read_bytes() for name in ("whole.md", "whole.tex", "whole.jsonl")}
    text = (tmp_path / "whole.md").read_text()
    assert "(1.000)" in text or "(0." in text  # p-values, from the published predictions
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config.model_copy(update={"output": str(tmp_path / "nowhere")})), encoding="utf-8")
    done = run_cli(file, "--page-only", "--results", str(tmp_path), "--docs", str(tmp_path))
    assert done.exit_code == 0, done.output
    text = (tmp_path / "whole.md").read_text()
    assert [line for line in text.splitlines() if line[:1] == "|"] == [
        line for line in before["whole.md"].decode().splitlines() if line[:1] == "|"
    ]
    assert (tmp_path / "whole.jsonl").read_bytes() == before["whole.jsonl"]
    assert not (tmp_path / "nowhere").exists()


def test_a_comparison_goes_on_from_published_results_on_another_machine(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that is done is done again, a search neither; predictions come along, or tests would lack them."""
    config, _ = finished
    publish(config, docs=tmp_path / "docs")
    there = config.model_copy(update={"output": str(tmp_path / "runs"), "seeds": [0, 1, 2]})
    monkeypatch.setattr(Runner, "_search", lambda *_: pytest.fail("searched again"))
    found = compare(there, only=["one"], results=tmp_path / "docs")
    assert not found.failed and found.left == 0
    seeds = [line["seed"] for line in results_of(there) if line["method"] == "kd-tuned"]
    assert sorted(seeds) == [0, 1, 2]
    tuned = {str(line["tuned"]) for line in results_of(there) if line["method"] == "kd-tuned"}
    assert len(tuned) == 1
    old = {line["trial"]: line["finished"] for line in results_of(config)}
    new = {line["trial"]: line["finished"] for line in results_of(there)}
    assert {key: new[key] for key in old} == old and len(new) > len(old)
    text = found.pages.tables.read_text()  # type: ignore[union-attr]
    row = next(line for line in text.splitlines() if line.startswith("| `kd-tuned` |") and "(" in line)
    assert "Minus kd" in text and ("(1.000)" in row or "(0." in row)  # old seeds are tested with the new one
    with pytest.raises(RunError, match="no results at"):
        compare(there, results=tmp_path / "nowhere")


def test_results_of_other_settings_are_left_out_and_their_trials_run_again(finished: Any) -> None:
    config, _ = finished
    other = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 2.0})})
    plan = Plan(other)
    assert len(open_trials(plan, plan.trials)) == len(plan.trials)
    assert publish(other) is None


def test_a_multi_label_task_is_compared_up_to_its_tables(toy: Toy) -> None:
    """Predictions and labels are kept flat: chance and resamples must see one column per label again."""
    sets = [["a"], ["b", "c"], [], ["a", "c"]] * 6
    for name in ("train", "dev"):
        lines = [
            json.dumps({"text": f"{i} {' '.join(labels)} text", "labels": labels}) for i, labels in enumerate(sets)
        ]
        (toy.folder / f"sets-{name}.jsonl").write_text("\n".join(lines) + "\n")
    data = {name: str(toy.folder / f"sets-{name}.jsonl") for name in ("train", "dev")}
    topics = tiny_bert(toy.folder / "topics", ["a", "b", "c"], 5, problem_type="multi_label_classification")
    tasks = [{"name": "sets", "data": data, "task": {"kind": "multi-label"}, "teachers": [topics]}]
    config = toy.config(
        name="sets", tasks=tasks, students=["topics[layers=1]"], methods=["finetune", "dynamic-data"], seeds=[0, 1]
    )
    found = compare(config)
    assert found.done == 4 and not found.failed
    page = (config.folder / "comparison.md").read_text(encoding="utf-8")
    assert "| sets, micro_f1 |" in page
    assert re.search(r"chance \(one prediction for all rows\): sets \d", page)
    assert re.search(r"dynamic-data minus finetune: .+ points \[.+\], p = ", page)


def test_a_task_over_words_is_compared_up_to_its_tables_and_published_with_its_rows(toy: Toy, tmp_path: Path) -> None:
    data = {
        name: str(write_conll(toy.folder / f"words-{name}.conll", sentences(count, seed)))
        for seed, (name, count) in enumerate({"train": 40, "dev": 24}.items())
    }
    tagger = taught(toy.folder / "tagger", layers=2, steps=8)
    tasks = [{"name": "words", "data": data, "teachers": [tagger]}]
    config = toy.config(
        name="words", tasks=tasks, students=["tagger[layers=1]"], methods=["finetune", "kd"], seeds=[0, 1]
    )
    found = compare(config)
    assert found.done == 4 and not found.failed
    page = (config.folder / "comparison.md").read_text(encoding="utf-8")
    assert "| words, entity_f1 |" in page
    assert re.search(r"chance \(one prediction for all rows\): words \d", page)
    assert re.search(r"\| `finetune` \| .\d+\.\d \(\d\.\d+\) \|", page)  # with a p-value: sentences were resampled
    publish(config, docs=tmp_path)
    kept = read_predictions([tmp_path / "words.predictions.parquet"])
    (offsets,) = (value for key, value in kept.items() if key.startswith("offsets ordinary.words "))
    (labels,) = (value for key, value in kept.items() if key.startswith("labels ordinary.words "))
    assert len(offsets) == 25 and offsets[-1] == len(labels) == sum(len(words) for words, _ in sentences(24, 1))


# ---- kills and locks -------------------------------------------------------------------------------------------------


def test_a_killed_comparison_goes_on_where_it_was(toy: Toy) -> None:
    config = toy.config(
        name="killed",
        methods=["finetune", "kd", "uniform", "weighted"],
        train={"epochs": 4, "batch_size": 4, "max_length": 32, "precision": "fp32", "logging_steps": 5},
    )
    child = fork(lambda: compare(config), toy.folder / "killed.log")
    trials = config.folder / "trials"

    def in_the_second_trial() -> bool:
        return len(results_of(config)) >= 1 and any(trials.glob("*.kd.*/checkpoints/checkpoint-*/complete.json"))

    deadline = time.monotonic() + 600
    while not in_the_second_trial() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    assert wait([child]) == [-signal.SIGKILL]
    before = results_of(config)
    assert 1 <= len(before) < 4, "the kill came too late to test anything"
    found = compare(config)
    lines = results_of(config)
    assert found.done == 4 and not found.failed
    assert lines[: len(before)] == before and len({line["trial"] for line in lines}) == len(lines) == 4
    assert any(line["cost"]["resumed_at_step"] > 0 for line in lines[len(before) :])


def test_a_trial_that_another_command_runs_is_left_to_it(toy: Toy) -> None:
    config = toy.config(name="busy", methods=["finetune"])
    trial = Plan(config).trials[0]
    job = Job("trial", trial.key)
    path = config.folder / "locks" / f"{trial.key}.lock"
    path.parent.mkdir(parents=True)
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(600)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    assert Worker(config).do(job).status == "busy"
    holder.kill()  # the lock ends with its process
    holder.wait()
    assert Worker(config).do(job).status == "done"
    assert len(results_of(config)) == 1


def test_a_trial_whose_result_was_not_yet_written_is_not_trained_again(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.config(name="late", methods=["finetune"])
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            compare(config)
    folder = next((config.folder / "trials").iterdir())
    assert (folder / "metrics.json").exists() and results_of(config) == []
    stamp = json.loads((folder / "metrics.json").read_text())["finished"]
    compare(config)
    assert [line["finished"] for line in results_of(config)] == [stamp]
    assert not folder.exists()


def test_a_part_of_a_training_with_other_settings_is_thrown_away(toy: Toy) -> None:
    config = toy.config(name="changed", methods=["finetune"])
    folder = config.folder / "trials" / Plan(config).trials[0].key
    (folder / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    (folder / "config.yaml").write_text("name: another\n", encoding="utf-8")
    (folder / "metrics.json").write_text("{}", encoding="utf-8")
    assert compare(config).done == 1


# ---- engines ---------------------------------------------------------------------------------------------------------


FAKE_WORKER = """
import json, os, sys
for line in sys.stdin:
    job = json.loads(line)
    if job["key"] == "dies":
        os.kill(os.getpid(), 9)
    print(json.dumps({"kind": job["kind"], "key": job["key"], "status": "done", "summary": str(os.getpid())}), flush=True)
"""


def test_a_worker_that_dies_costs_its_own_job_only(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    script = toy.folder / "fake.py"
    script.write_text(FAKE_WORKER, encoding="utf-8")
    monkeypatch.setattr(engines, "worker_command", lambda settings: [sys.executable, str(script)])
    config = toy.config(name="dying", workers=2)
    engine = engines.LocalEngine(config)
    try:
        jobs = [Job("trial", key) for key in ("a", "b", "dies", "c", "d")]
        found = {outcome.key: outcome for outcome in engine.run(jobs)}
        again = list(engine.run(jobs[:1]))
    finally:
        engine.close()
    assert {key for key, outcome in found.items() if outcome.status == "done"} == {"a", "b", "c", "d"}
    assert "SIGKILL (out of memory?)" in found["dies"].error
    assert again[0].status == "done"
    assert (config.folder / "failed" / "trial.dies.json").exists()


def test_a_launcher_of_several_processes_is_refused_before_anything_is_written(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = toy.config(name="launched")
    with pytest.raises(RunError, match="without torchrun or accelerate launch, with workers=N or engine=ray"):
        compare(config)
    assert not config.folder.exists()


def test_an_unknown_engine_is_refused(toy: Toy) -> None:
    with pytest.raises(ConfigError, match="no engine is called 'locall'; known: local.* Did you mean 'local'"):
        engines.engine_of(toy.config(engine="locall"))


def test_another_engine_needs_nothing_but_the_worker(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interface that a cluster's engine fills in: jobs as JSON there, outcomes as JSON back."""

    class Remote:
        def __init__(self, config: Any) -> None:
            self.settings = yaml.safe_load(dump_config(config))
            self.closed = False

        def run(self, jobs: Any) -> Any:
            from distilect.config import parse_part
            from distilect.experiments.config import CompareConfig

            for text in [job.to_json() for job in jobs][::-1]:
                worker = Worker(parse_part(CompareConfig, self.settings))
                yield Outcome(**json.loads(worker.do(Job(**json.loads(text))).to_json()))

        def close(self) -> None:
            self.closed = True

    monkeypatch.setitem(engines.ENGINES, "remote", Remote)
    found = compare(toy.config(name="remote", engine="remote"))
    assert found.done == 2 and not found.failed


def test_signals_are_asked_for_once_whatever_the_number_of_methods(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten methods four ask differently: of one teacher, of two, and the same with layers of their own."""
    asked = []
    real = Workbench.ask
    monkeypatch.setattr(Workbench, "ask", lambda self, planned: asked.append(planned.asks) or real(self, planned))
    one = ["kd", "dynamic-data"]
    two = ["uniform", "best-single", "confidence", "random-single", "dynamic-teacher"]
    pooled = {"tokens": "cls"}
    deep = [{"name": n, "knowledge": {"labels": {}, "response": {}, "feature": pooled}} for n in ("pkd", "uniform")]
    plan = Plan(toy.config(name="asked", methods=["finetune", *one, *two, *deep]))
    runner = Runner.open(plan, plan.setups["ordinary.one"])
    runner.score_signals()
    assert len(asked) == len(set(asked)) == 4
    before = runner.store.size()
    for trial in plan.trials:  # and nothing is missing
        config = plan.run_config(trial.setup, trial)
        bench = runner.workbench(config, 0)
        _, prepared = bench.prepare(config.method, bench.new_student())
        assert prepared.forwards == 0
    assert runner.store.size() == before


def test_speeds_are_not_measured_beside_other_trials(toy: Toy) -> None:
    """A latency measured while another process trains would say nothing."""
    for workers, known in ((1, True), (2, False)):
        plan = Plan(toy.config(name=f"speeds-{workers}", workers=workers, methods=["finetune"]))
        line = Runner.open(plan, plan.setups["ordinary.one"]).run(plan.trials[0])
        assert ("latency_ms" in line["student"]) is known


@pytest.mark.slow
def test_two_workers_give_the_results_of_one(toy: Toy) -> None:
    one, two = (toy.config(name=f"workers-{n}", workers=n, seeds=[0, 1]) for n in (1, 2))
    assert compare(one).done == compare(two).done == 4
    scores = [{line["trial"]: line["student"]["scores"] for line in results_of(config)} for config in (one, two)]
    assert scores[0] == scores[1]


# ---- what is asked for -----------------------------------------------------------------------------------------------


def test_only_runs_the_trials_that_are_named(toy: Toy) -> None:
    config = toy.config(name="only", seeds=[0, 1])
    found = compare(config, only=["*.kd.seed=1"])
    assert (found.done, found.left) == (1, 0)
    assert [line["trial"] for line in results_of(config)] == ["ordinary.one.a_layers_1_3.kd.seed=1"]


def test_a_dry_run_says_what_there_is_to_do_and_writes_nothing(toy: Toy) -> None:
    config = toy.config(name="dry", teachers=[toy.made("x", 7), *toy.teachers], seeds=[0, 1])
    file = toy.folder / "dry.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    done = run_cli(file, "--dry-run")
    assert done.exit_code == 0, done.output
    assert "4 trials, 0 done, 4 to run" in done.output and "teachers to fine-tune: 1," in done.output
    assert "timed steps of 16 rows" in done.output and "disk at most about" in done.output
    assert not config.folder.exists()
    assert "--only 'nothing' matches no trial" in run_cli(file, "--dry-run", "--only", "nothing").stderr


def test_an_estimate_learns_from_finished_trials(finished: Any) -> None:
    config, _ = finished
    plan = Plan(config.model_copy(update={"seeds": [0, 1, 2]}))
    found = estimate(plan.config, ["*.one.*", "*.scores.*.kd.*"])
    assert found.open_trials == 4 + 1 and found.teachers == 0
    assert any("finished trials of one" in line for line in found.basis)
    seconds: dict[str, list[float]] = defaultdict(list)  # by method, of both seeds
    for line in results_of(config):
        if line["task_name"] == "one":
            seconds[line["method"]].append(line["cost"]["train_seconds"])
        elif line["method"] == "kd":
            seconds["kd of scores"].append(line["cost"]["train_seconds"])
    each = {name: float(np.median(of_method)) + OVERHEAD_SECONDS for name, of_method in seconds.items()}
    assert len(each) == 5
    each["kd-tuned"] *= 1 + 2 / 3  # its search of two choices is shared by three seeds
    assert found.trial_seconds == pytest.approx(sum(each.values()))


def test_an_estimate_leaves_out_what_another_machine_made(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = finished
    plan = Plan(config.model_copy(update={"seeds": [0, 1, 2]}))
    other = {**results_of(config)[0]["machine"], "device": "cuda", "gpu": "NVIDIA H200"}
    monkeypatch.setattr(sys.modules[estimate.__module__], "machine", lambda: other)
    found = estimate(plan.config, ["*.one.*"])
    assert found.open_trials == 4
    assert not any("finished trials" in line for line in found.basis)
    assert any("timed steps" in line for line in found.basis)


@pytest.mark.slow
def test_every_method_gets_the_same_tokens_where_that_is_asked(toy: Toy) -> None:
    methods: list[Any] = [
        "finetune",
        "kd",
        {"name": "rlkd-published", "teachers": {"name": "reinforced", "warmup_epochs": 0}},
        {"name": "kd", "label": "kd-tuned", "tune": {"alpha": [0.1, 0.9]}},
    ]
    config = toy.config(
        name="equal",
        methods=methods,
        equal_tokens=True,
        train={"epochs": 3, "batch_size": 8, "max_length": 32, "precision": "fp32", "logging_steps": 5},
    )
    found = compare(config)
    assert not found.failed
    costs = {line["method"]: line["cost"] for line in results_of(config)}
    total = {m: c["student_tokens"] + c["tuning_tokens"] for m, c in costs.items()}
    whole = 3 * sum(costs["finetune"]["tokens"] for _ in range(1)) / 3
    step = whole / 3 / 54 * 8 * 2  # tokens of a long step
    assert costs["rlkd-published"]["forward_tokens"] > 0
    assert costs["rlkd-published"]["tokens"] < costs["kd"]["tokens"]
    for method, tokens in total.items():
        trainings = 3 if method == "kd-tuned" else 1
        assert whole - step <= tokens <= whole + trainings * step, (method, tokens, whole)


@pytest.mark.slow
def test_scenarios_share_teachers_where_they_learn_the_same(toy: Toy) -> None:
    pool = [toy.made("x"), toy.made("bad", 2, noise=1.0)]
    scenarios = [{"name": "clean"}, {"name": "noisy", "label_noise": 0.4}, {"name": "few", "labelled": 0.3}]
    config = toy.config(name="scenarios", teachers=pool, scenarios=scenarios, students=["x[layers=1]"])
    methods = [{"label": "oracle", "name": "uniform", "teachers": "oracle"}]
    found = compare(config.model_copy(update={"methods": toy.config(methods=methods).methods}))
    assert not found.failed and found.done == 3
    assert len({tuple(teacher["path"] for teacher in line["teachers"]) for line in results_of(config)}) == 1
    rows = {line["scenario"]: (line["rows"]["train"], line["rows"]["extra"]) for line in results_of(config)}
    assert rows["clean"] == rows["noisy"] == (54, 0) and rows["few"][0] == 16 and sum(rows["few"]) > 50
    prints = {line["scenario"]: line["data_fingerprint"] for line in results_of(config)}
    assert len(set(prints.values())) == 3


def test_a_teacher_that_cannot_be_made_takes_its_own_tasks_along(toy: Toy) -> None:
    tasks = [
        {"name": "one", "data": toy.tables["one"]},
        {
            "name": "two",
            "data": toy.tables["two"],
            "teachers": [{"name": "gone", "finetune": {"init": "/no/such/model"}}],
        },
    ]
    config = toy.config(name="gone", tasks=tasks, methods=["kd"], students=[toy.backbone])
    file = toy.folder / "gone.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    done = run_cli(file)
    assert done.exit_code == 1
    assert "1 failed" in done.stderr and "teacher gone" in done.stderr and "/no/such/model" in done.stderr
    assert [line["task_name"] for line in results_of(config)] == ["one"]
    shutil.rmtree(config.folder)


def test_a_page_of_nothing_is_an_error(toy: Toy) -> None:
    file = toy.folder / "nothing.yaml"
    file.write_text(dump_config(toy.config(name="nothing")), encoding="utf-8")
    done = run_cli(file, "--page-only")
    assert done.exit_code == 1 and "no trial of this comparison has a result yet" in done.stderr
