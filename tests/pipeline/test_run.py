"""A run from a table to its folder."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distilect.config import load_config, parse_config
from distilect.errors import DistilectError, MethodError, RunError
from distilect.pipeline import distill, evaluate, finetune, run, score
from distilect.pipeline.folders import check_free, claim
from distilect.pipeline.predictions import read_predictions
from distilect.pipeline.teachers import teacher_folder
from distilect.pipeline.work import Workbench
from tests.launch import fork, wait
from tests.pipeline.helpers import Job, write_scores, write_table
from tests.presets import each_preset
from tests.tiny import tiny_bert, tiny_distilbert, tiny_roberta


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def finished(job: Job) -> Any:
    """A run with a store of its own, so that nothing in it was scored before."""
    return run(job.config(name="finished", output=str(job.folder / "own")))[0]


def test_a_runs_folder_is_as_documented(finished: Any) -> None:
    names = {path.name for path in finished.folder.iterdir()}
    assert {
        "config.yaml",
        "student",
        "metrics.json",
        "history.jsonl",
        "selection.parquet",
        "rows.parquet",
        "predictions.parquet",
        "report.html",
        "checkpoints",
    } <= names
    student = {path.name for path in (finished.folder / "student").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= student
    assert not [path for path in finished.folder.rglob("*.tmp")]


def test_metrics_hold_what_the_issue_asks_for(finished: Any) -> None:
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    assert metrics == finished.metrics
    assert metrics["task"]["labels"] == ["no", "yes"] and metrics["method"] == "uniform" and metrics["seed"] == 0
    student, cost = metrics["student"], metrics["cost"]
    assert 0 <= student["scores"]["accuracy"] <= 1 and student["parameters"] > 0 and student["bytes"] > 0
    assert [t["name"] for t in metrics["teachers"]] == ["a", "b"]
    assert all(
        0 <= t["scores"]["accuracy"] <= 1 and t["parameters"] > student["parameters"] / 2 for t in metrics["teachers"]
    )
    assert cost["train_seconds"] > 0 and cost["scoring_seconds"] > 0 and cost["steps"] == 2 * 5
    assert cost["teacher_forwards"] == 2 * (72 + 8) and cost["tokens"] > 72 * 2 * 4
    assert {"torch", "transformers", "distilect", "python"} <= set(metrics["versions"])
    assert len(metrics["data_fingerprint"]) == 16
    assert student["latency_ms"]["p50"] > 0 and metrics["rows"] == {
        "train": 72,
        "validation": 8,
        "dev": 30,
        "extra": 0,
        "truncated": 0,
    }


def test_the_student_loads_where_distilect_is_not_importable(finished: Any, tmp_path: Path) -> None:
    def load() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "distilect"]:
            sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails
        model = AutoModelForSequenceClassification.from_pretrained(finished.folder / "student")
        tokenizer = AutoTokenizer.from_pretrained(finished.folder / "student")
        logits = model(**tokenizer("a good film", return_tensors="pt")).logits
        (tmp_path / "label").write_text(model.config.id2label[int(logits.argmax())])

    assert wait([fork(load, tmp_path / "log")]) == [0], (tmp_path / "log").read_text()
    assert (tmp_path / "label").read_text() in ("no", "yes")


def test_the_recorded_config_repeats_the_run(finished: Any, job: Job) -> None:
    again = load_config(finished.folder / "config.yaml", ["name=repeated"])
    repeated = run(again)[0]
    assert repeated.metrics["student"]["scores"] == finished.metrics["student"]["scores"]
    assert repeated.metrics["cost"]["teacher_forwards"] == 0  # everything came from the store
    assert (repeated.folder / "history.jsonl").read_text() == (finished.folder / "history.jsonl").read_text()


def test_selection_says_what_was_used(finished: Any) -> None:
    table = pq.read_table(finished.folder / "selection.parquet").to_pylist()
    whole = [line for line in table if line["group"] == "all"]
    assert [line["epoch"] for line in whole] == [0, 1] and all(line["rows"] == 72 for line in whole)
    assert whole[0]["teacher/a"] == whole[0]["teacher/b"] == 0.5 and whole[0]["knowledge/response"] == 0.5
    assert sum(line["rows"] for line in table if line["epoch"] == 0 and line["group"] in ("no", "yes")) == 72


def test_predictions_are_those_that_were_scored(finished: Any) -> None:
    ids, labels, student = read_predictions(finished.folder / "predictions.parquet")
    assert float((student.argmax(1) == labels).mean()) == pytest.approx(
        finished.metrics["student"]["scores"]["accuracy"]
    )
    table = pq.read_table(finished.folder / "predictions.parquet")
    for teacher in finished.metrics["teachers"]:
        outputs = np.array(table[f"teacher/{teacher['name']}"].to_pylist())
        assert float((outputs.argmax(1) == labels).mean()) == pytest.approx(teacher["scores"]["accuracy"])
    assert len(ids) == 30 and table.schema.metadata[b"split"] == b"dev"


def test_without_dev_the_validation_rows_are_kept_and_called_so(job: Job) -> None:
    before = json.dumps(job.raw())
    result = run(job.config(name="no-dev", data={"train": str(job.train)}))[0]
    table = pq.read_table(result.folder / "predictions.parquet")
    assert table.schema.metadata[b"split"] == b"validation" and table.num_rows == 8
    assert result.metrics["student"]["scores"] == {} and json.dumps(job.raw()) == before


def test_damaged_predictions_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match="cannot read predictions from"):
        read_predictions(tmp_path / "predictions.parquet")


@pytest.mark.parametrize("method", each_preset())
def test_every_preset_runs(job: Job, method: str) -> None:
    given: dict[str, Any] = {"name": method}
    if method.startswith("akskd"):
        # the preset's eight and ten take half a minute
        given["loss_weights"] = {"name": "actor-critic", "episodes": 2, "phases": 2}
    if method == "rlkd":  # the preset's two thousand take as long
        given["teachers"] = {"policy_updates": 20}
    result = run(job.config(name=f"preset-{method}", method=given, teachers=job.teachers))[0]
    assert np.isfinite(list(result.metrics["student"]["scores"].values())).all()
    assert result.metrics["method"] == method


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rlkd", "akskd", "akskd-hard"])
def test_presets_that_learn_before_the_student_does_run_with_their_own_settings(job: Job, method: str) -> None:
    result = run(job.config(name=f"whole-{method}", method={"name": method}, teachers=job.teachers))[0]
    assert np.isfinite(list(result.metrics["student"]["scores"].values())).all()


def test_stored_and_live_teachers_train_the_same_student(job: Job) -> None:
    """Invariance 2."""
    results = [
        run(job.config(name=f"live-{live}", method={"name": "uniform"}, signals={"precision": "fp32", "live": live}))[0]
        for live in (False, True)
    ]
    histories = [[json.loads(line) for line in (r.folder / "history.jsonl").read_text().splitlines()] for r in results]
    losses = [[line["train/loss"] for line in h if "train/loss" in line] for h in histories]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert results[1].metrics["cost"]["teacher_forwards"] == 2 * (2 * 72 + 8)  # two teachers: two epochs, held out


def test_the_five_line_call_works(job: Job) -> None:
    result = distill(
        train=str(job.train),
        dev=str(job.dev),
        teachers=job.teachers,
        student="a[layers=1,3]",
        method="kd",
        name="five-lines",
        output=str(job.folder / "runs"),
        train__epochs=1,
    )
    assert result.folder == job.folder / "runs" / "five-lines" and result.report and result.report.exists()


def test_a_function_and_a_table_can_be_teachers(job: Job) -> None:
    texts = [line.rpartition(",")[0] for f in (job.train, job.dev) for line in f.read_text().splitlines()[1:]]
    table = job.folder / "llm.jsonl"
    rows = [
        {"text": t, "no": 0.9 if t.startswith("bad") else 0.2, "yes": 0.1 if t.startswith("bad") else 0.8}
        for t in dict.fromkeys(texts)
    ]
    table.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")

    def oracle(batch: list[Any]) -> np.ndarray:
        return np.array([[2.0, 0.0] if text.startswith("bad") else [0.0, 2.0] for text in batch])

    result = distill(
        train=str(job.train),
        dev=str(job.dev),
        teachers=[{"table": str(table)}, oracle],
        student=job.teachers[0],
        method="uniform",
        name="outside",
        output=str(job.folder / "runs"),
        train__epochs=1,
    )
    assert [(t["name"], t["scores"]["accuracy"]) for t in result.metrics["teachers"]] == [("llm", 1.0), ("oracle", 1.0)]
    with pytest.raises(MethodError, match="llm.*no hidden states"):
        distill(
            train=str(job.train),
            teachers=[{"table": str(table)}],
            student=job.teachers[0],
            method="pkd",
            name="outside-pkd",
            output=str(job.folder / "runs"),
        )


def test_a_mixed_pool_teaches_one_student(job: Job) -> None:
    """Three tokenizers, three label orders; the student has its own."""
    teachers = [
        tiny_bert(job.folder / "mixed-bert", ["yes", "no"], 5),
        tiny_roberta(job.folder / "mixed-roberta", ["no", "yes"], 6),
        tiny_distilbert(job.folder / "mixed-distilbert", ["YES", "NO"], 7),
    ]
    method = {"name": "pkd", "teachers": "confidence"}  # feature knowledge at the classification token
    result = run(job.config(name="mixed", teachers=teachers, student="mixed-roberta", method=method))[0]
    assert len(result.metrics["teachers"]) == 3
    method["knowledge"] = {"labels": {}, "response": {}, "relation": {}}
    with pytest.raises(MethodError, match="mixed-bert.*another tokenizer"):
        run(job.config(name="mixed-tokens", teachers=teachers, student="mixed-roberta", method=method))


def test_a_teacher_without_dropout_is_another_one_and_its_students_keep_their_own(job: Job) -> None:
    raw = tiny_bert(job.folder / "raw-dropout", ["no", "yes"], 4)
    folders = []
    for dropout in ({}, {"dropout": None}, {"dropout": 0.0}):
        own = {"name": "own", "finetune": {"init": raw, "epochs": 1, "learning_rate": 1e-3, **dropout}}
        config = job.config(teachers=[own], output=str(job.folder / "dropout"))
        data = Workbench.open(config).data
        folders.append(teacher_folder("own", config.teachers[0].finetune, data, config))
    assert folders[0] == folders[1] != folders[2]
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    assert any((weights[0][name] != weights[2][name]).any() for name in weights[0])
    configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
    assert configs[2]["hidden_dropout_prob"] == configs[0]["hidden_dropout_prob"] == 0.1


def test_a_temperature_that_has_no_effect_is_told(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    train = write_scores(job.folder / "t-train.csv", 40)
    teacher = tiny_bert(job.folder / "t-score", 1, 1)
    changes: dict[str, Any] = {"teachers": [teacher], "student": "t-score[layers=1]", "data": {"train": str(train)}}
    for name, method, told in (("scores-T", {"name": "kd", "temperature": 2}, True), ("scores-plain", "kd", False)):
        run(job.config(name=name, method=method, **changes))
        assert ("temperature has no effect in a regression" in " ".join(capsys.readouterr().err.split())) == told


def test_teachers_are_finetuned_once_and_never_see_the_validation_rows(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tiny_bert(job.folder / "raw", 2, 8, layers=3)
    teachers = [{"name": "own", "finetune": {"init": raw, "epochs": 2, "learning_rate": 1e-3, "seed": 4}}]
    first = run(job.config(name="own-1", teachers=teachers, student="own[layers=2]"))[0]
    second = run(job.config(name="own-2", teachers=teachers, student="own[layers=2]"))[0]
    printed = capsys.readouterr().err
    assert "teacher own: fine-tuned" in printed and "teacher own: reused" in printed
    assert first.metrics["student"]["scores"] == second.metrics["student"]["scores"]
    folder = Path(first.metrics["teachers"][0]["path"])
    record = json.loads((folder / "distilect-teacher.json").read_text())
    assert record["identity"]["task"]["labels"] == ["no", "yes"]
    assert not list(folder.parent.glob("*.partial"))


def test_baselines_run_beside_the_method_from_the_same_student(job: Job) -> None:
    results = run(
        job.config(name="pair", baselines=["finetune", {"name": "kd", "alpha": 0.9}, {"name": "kd", "alpha": 0.1}])
    )
    assert [r.folder.name for r in results] == ["pair", "pair-finetune", "pair-kd", "pair-kd-3"]
    assert results[1].metrics["cost"]["teacher_forwards"] == 0


def test_extra_rows_without_labels_are_learned_from_teachers(job: Job) -> None:
    extra = write_table(job.folder / "extra.csv", 24, seed=9)
    data = {"train": str(job.train), "dev": str(job.dev), "extra": str(extra)}
    result = run(job.config(name="extra", data=data))[0]
    assert result.metrics["rows"]["extra"] == 24
    groups = {line["group"]: line["rows"] for line in pq.read_table(result.folder / "selection.parquet").to_pylist()}
    assert groups["all"] == 96 and groups["(no label)"] == 24
    alone = run(job.config(name="extra-finetune", data=data, method="finetune"))[0]
    assert alone.metrics["cost"]["steps"] == 2 * 5  # nothing to learn on rows that only teachers can label


def test_regression_runs_end_to_end(job: Job) -> None:
    train, dev = write_scores(job.folder / "s-train.csv", 80), write_scores(job.folder / "s-dev.csv", 30, 1)
    teachers = [tiny_bert(job.folder / f"score-{i}", 1, i) for i in (1, 2)]
    for method in ("uniform", "confidence", "logistic", "best-single", "pkd"):
        result = run(
            job.config(
                name=f"scores-{method}",
                method=method,
                teachers=teachers,
                student="score-1[layers=1]",
                data={"train": str(train), "dev": str(dev)},
            )
        )[0]
        assert set(result.metrics["student"]["scores"]) == {"pearson", "spearman"}


def test_score_fills_the_store_once(job: Job) -> None:
    config = job.config(name="scored", output=str(job.folder / "elsewhere"), method="pkd")
    assert any("72" in line for line in score(config))
    result = run(config)[0]
    assert result.metrics["cost"]["teacher_forwards"] == 0


def test_a_stopped_run_goes_on_and_ends_the_same(job: Job, monkeypatch: pytest.MonkeyPatch, finished: Any) -> None:
    from distilect.training.trainer import DistillationTrainer

    config = job.config(name="stopped")
    save = DistillationTrainer._save_checkpoint

    def stop(self: Any, model: Any, trial: Any) -> None:
        save(self, model, trial)
        raise KeyboardInterrupt

    monkeypatch.setattr(DistillationTrainer, "_save_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.setattr(DistillationTrainer, "_save_checkpoint", save)
    with pytest.raises(RunError, match="unfinished run with other settings"):
        run(job.config(name="stopped", seed=5))
    result = run(config)[0]
    assert result.metrics["cost"]["resumed_at_step"] == 5
    assert result.metrics["student"] | {"latency_ms": 0, "rows_per_second": 0} == finished.metrics["student"] | {
        "latency_ms": 0,
        "rows_per_second": 0,
    }
    assert (result.folder / "history.jsonl").read_text() == (finished.folder / "history.jsonl").read_text()


def test_a_folder_that_is_not_ours_is_left_alone(job: Job, finished: Any) -> None:
    before = (finished.folder / "metrics.json").read_text()
    with pytest.raises(RunError, match="holds a finished run: give it more train.epochs to go on, use overwrite=True"):
        run(job.config(name="finished", output=str(job.folder / "own")))
    assert (finished.folder / "metrics.json").read_text() == before
    foreign = job.folder / "runs" / "foreign"
    foreign.mkdir(parents=True)
    (foreign / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="not empty and holds no run"):
            run(job.config(name="foreign"), overwrite=overwrite)
    assert (foreign / "thesis.txt").read_text() == "years of work"


def test_a_run_that_was_stopped_after_training_keeps_its_best_weights(
    job: Job, monkeypatch: pytest.MonkeyPatch, finished: Any
) -> None:
    from distilect.pipeline import job as whole_job

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    config = job.config(name="stopped-late")
    with monkeypatch.context() as patch:
        patch.setattr(whole_job, "write_model_card", stop)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    result = run(config)[0]
    assert result.metrics["cost"]["resumed_at_step"] == result.metrics["cost"]["steps"] == 10
    assert result.metrics["student"]["scores"] == finished.metrics["student"]["scores"]
    assert result.metrics["student"]["validation"] == finished.metrics["student"]["validation"]
    assert len(list((result.folder / "checkpoints").iterdir())) <= 2  # the newest, and the best that it would end with


def test_a_run_that_failed_before_training_may_change_its_settings(job: Job) -> None:
    with pytest.raises(DistilectError, match="nowhere"):
        run(job.config(name="mended", data={"train": str(job.folder / "nowhere.csv")}))
    assert run(job.config(name="mended", method="finetune"))[0].metrics["name"] == "mended"


@pytest.mark.parametrize(
    "changes", [{"data": {"train": "nowhere.csv"}}, {"teachers": ["/nowhere/x"]}, {"student": "a[layers=9,9]"}]
)
def test_overwrite_with_bad_input_keeps_the_earlier_run(job: Job, changes: dict[str, Any]) -> None:
    folder = job.folder / "runs" / "precious"
    if not folder.exists():
        run(job.config(name="precious", method="finetune"))
    before = {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(DistilectError):
        run(job.config(name="precious", **changes), overwrite=True)
    assert {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()} == before


def test_settings_of_the_library_call_reach_parts_that_have_short_forms(job: Job) -> None:
    result = distill(
        str(job.train),
        str(job.dev),
        teachers=job.teachers,
        student="a[layers=1]",
        method="uniform",
        name="dotted",
        output=str(job.folder / "runs"),
        train__epochs=1,
        method__alpha=0.9,
        student__max_length=16,
        data={"text": "text"},
    )
    recorded = load_config(result.folder / "config.yaml")
    assert recorded.method.alpha == 0.9 and recorded.student.max_length == 16 and recorded.data.dev == str(job.dev)


def test_two_functions_of_one_name_are_refused(job: Job) -> None:
    with pytest.raises(DistilectError, match="different names"):
        distill(str(job.train), teachers=[lambda x: x, lambda x: x], student="a", output=str(job.folder / "runs"))


def test_overwrite_replaces_a_finished_run(job: Job) -> None:
    run(job.config(name="twice", method="finetune"))
    assert run(job.config(name="twice", method="finetune"), overwrite=True)[0].metrics["cost"]["resumed_at_step"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "unifrom"}, "Did you mean 'uniform'"),
        ({"method": {"name": "kd", "teachers": {"name": "single", "teacher": "c"}}}, "one of a, b"),
        ({"method": {"name": "kd", "loss_weights": {"name": "fixed", "weights": {"feature": 1.0}}}}, "feature"),
        ({"method": {"name": "uniform", "knowledge": {"response": False}}}, "copies labels only"),
        ({"method": {"name": "pkd", "knowledge": {"response": {"temprature": 2}}}}, "Did you mean 'temperature'"),
        ({"teachers": [], "student": "{a}"}, "needs a teacher"),
        ({"student": "a[layers=1,9]"}, "9"),
        ({"teachers": [{"path": "/nowhere/teacher"}]}, "/nowhere/teacher"),
    ],
)
def test_bad_choices_are_reported_in_a_line_or_two(job: Job, changes: dict[str, Any], message: str) -> None:
    if changes.get("student") == "{a}":
        changes = changes | {"student": job.teachers[0]}
    with pytest.raises(DistilectError) as caught:
        run(job.config(name="bad", **changes), overwrite=True)
    text = str(caught.value)
    assert message in text and len(text.splitlines()) <= 4


def test_finetune_makes_a_teacher_and_evaluate_scores_it(job: Job) -> None:
    raw = tiny_bert(job.folder / "raw-2", 2, 3, layers=2, hidden=32)
    metrics = finetune(
        str(job.train),
        init=raw,
        output=str(job.folder / "made"),
        dev=str(job.dev),
        epochs=12,
        learning_rate=5e-3,
        overrides=["train.max_length=32"],
    )
    assert metrics["student"]["scores"]["accuracy"] > 0.8  # the first word tells
    found = evaluate(str(job.folder / "made" / "student"), str(job.dev), max_length=32, precision="fp32")
    assert found["scores"]["accuracy"] == pytest.approx(metrics["student"]["scores"]["accuracy"], abs=0.05)
    assert found["rows"] == 30


def test_a_student_learns_what_its_teachers_know(job: Job) -> None:
    """The whole point, at toy size: from teachers alone (alpha = 1), without one label."""
    teacher = str(job.folder / "made" / "student")
    if not Path(teacher).exists():
        pytest.skip("needs the teacher of the test before")
    fresh = tiny_bert(job.folder / "fresh", ["no", "yes"], 30, layers=2, hidden=32)
    config = parse_config(
        job.raw(
            name="learned",
            teachers=[{"name": "made", "path": teacher}],
            student=fresh,
            method={"name": "kd", "alpha": 1.0},
            train={"epochs": 25, "batch_size": 16, "max_length": 32, "learning_rate": 5e-3, "precision": "fp32"},
        )
    )
    result = run(config)[0]
    assert result.metrics["student"]["scores"]["accuracy"] > 0.8


def test_without_validation_rows_the_last_weights_are_kept(job: Job) -> None:
    data = {"train": str(job.train), "dev": str(job.dev), "validation_size": 0}
    method = {"name": "kd", "teachers": {"name": "single", "teacher": "a"}}
    result = run(job.config(name="all-rows", data=data, method=method))[0]
    assert result.metrics["rows"]["train"] == 80 and result.metrics["student"]["validation"] == {}
    for method in ("logistic", "weighted", "kd"):
        with pytest.raises(MethodError, match="validation split"):
            run(job.config(name=f"all-rows-{method}", data=data, method=method))


@pytest.mark.parametrize("name", ["teachers", "signals"])
def test_a_run_may_not_take_the_folder_of_teachers_or_signals(job: Job, name: str) -> None:
    with pytest.raises(DistilectError, match="choose another"):
        run(job.config(name=name))


@pytest.mark.parametrize(("code", "reason"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "Read-only")])
def test_a_run_folder_that_cannot_be_made_says_why(
    job: Job, monkeypatch: pytest.MonkeyPatch, code: int, reason: str
) -> None:
    """Every command reports a full disk with the same message."""
    plain = Path.mkdir

    def no_room(self: Path, *args: Any, **options: Any) -> None:
        if self.name == "unmade":
            raise OSError(code, os.strerror(code), str(self))
        plain(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", no_room)
    with pytest.raises(RunError, match=f"cannot write to .*unmade: {reason}"):
        run(job.config(name="unmade"))


def test_a_claim_that_was_cut_off_is_made_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, or kill -9 between two calls, left a temporary file that kept every rerun out."""
    config = job.config(name="cut-off", train={"epochs": 1})
    folder = job.folder / "runs" / "cut-off"

    def no_room(self: Path, *args: Any, **options: Any) -> Any:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", no_room)
        with pytest.raises(RunError, match="the disk is full"):
            claim(folder, config, overwrite=False)
    assert not list(folder.iterdir())
    (folder / ".config.yaml.123.tmp").touch()
    check_free(folder, config, overwrite=False)
    (folder / "thesis.txt").touch()
    with pytest.raises(RunError, match="holds no run"):
        check_free(folder, config, overwrite=False)


def test_overwriting_cut_off_half_way_leaves_no_folder_without_a_run(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    config = job.config(name="overwritten", train={"epochs": 1})
    folder = job.folder / "runs" / "overwritten"
    claim(folder, config, overwrite=False)
    (folder / "metrics.json").write_text("{}")

    def killed(path: Path, **options: Any) -> None:
        if Path(path).exists():
            (Path(path) / "config.yaml").unlink()  # the first of its files
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            claim(folder, config, overwrite=True)
    check_free(folder, config, overwrite=False)
    claim(folder, config, overwrite=True)
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]
    assert not (job.folder / "runs" / ".overwritten.old").exists()
