"""Language models from a table to a run's folder, and what other commands do with one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from distilect.cli import app
from distilect.config import parse_config
from distilect.errors import ConfigError, DistilectError, ExportError, RunError, StudentError, TeacherError
from distilect.evaluation import completion_scores, resampled_scores, row_draws
from distilect.experiments.results import compact_predictions, expand_labels, expand_predictions
from distilect.export.ship import export_run
from distilect.pipeline import advise, evaluate, run
from distilect.pipeline import generations as generations_module
from distilect.pipeline.generations import generations, prompts_for
from distilect.pipeline.prediction import predict_file
from distilect.pipeline.teachers import data_of
from distilect.pipeline.work import Workbench
from distilect.report.tokens import read_completions
from distilect.tasks import Task
from tests.language import TASK, pairs
from tests.tiny import llama_tokenizer, tiny_llama, wordpiece_tokenizer

GENERATION = {"rows": 8, "max_new_tokens": 6}
WRITTEN = {"exact_match", "rouge_l"}
EVIL = "<script>alert(1)</script>"


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path.name


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A config over tables and teachers in one folder."""
    folder = tmp_path_factory.mktemp("language")
    dev = [*pairs(7, 1), {"prompt": EVIL, "completion": " a joy"}]
    extra = write(folder / "extra.jsonl", pairs(6, 2))
    return {
        "name": "first",
        "output": str(folder / "runs"),
        "data_dir": str(folder),
        "data": {
            "train": write(folder / "train.jsonl", pairs(40)),
            "dev": write(folder / "dev.jsonl", dev),
            "extra": extra,
            "validation_size": 6,
        },
        "task": {"kind": "causal-lm"},
        "teachers": [
            {"name": "a", "path": tiny_llama(folder / "a", 1, layers=4, tied=True)},
            {"name": "b", "finetune": {"init": str(folder / "a"), "epochs": 1, "learning_rate": 3e-3}},
        ],
        "student": "a[layers=2]",
        "method": "uniform",
        "train": {"epochs": 2, "max_length": 40, "batch_size": 8, "precision": "fp32", "learning_rate": 3e-3},
        "signals": {"precision": "fp32"},
    }


@pytest.fixture(scope="module")
def finished(base: dict[str, Any]) -> Path:
    pytest.importorskip("rouge_score")
    return run(parse_config(base | {"generation": GENERATION}))[0].folder


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return found


def test_a_run_gives_a_plain_checkpoint_that_learned(finished: Path) -> None:
    metrics = metrics_of(finished)
    student, teachers = metrics["student"], {t["name"]: t for t in metrics["teachers"]}
    assert metrics["primary"] == "accuracy" and set(student["scores"]) == {"accuracy", "perplexity"} | WRITTEN
    assert teachers["b"]["scores"]["perplexity"] < teachers["a"]["scores"]["perplexity"]  # it was fine-tuned
    model = AutoModelForCausalLM.from_pretrained(finished / "student")
    tokenizer = AutoTokenizer.from_pretrained(finished / "student")
    assert model.config.num_hidden_layers == 2 and model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer.get_vocab() == llama_tokenizer().get_vocab()
    ids = tokenizer("good food", return_tensors="pt")
    said = model.generate(**ids, max_new_tokens=3, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    assert said.shape[1] > ids["input_ids"].shape[1]
    before = evaluate(metrics["teachers"][0]["path"], finished.parent.parent / "dev.jsonl", max_length=40)["scores"]
    assert student["scores"]["perplexity"] < before["perplexity"]


def test_scores_are_the_models_own(finished: Path, base: dict[str, Any]) -> None:
    """By transformers alone, of each dev row by itself; the same as evaluate says."""
    model, dev = AutoModelForCausalLM.from_pretrained(finished / "student").eval(), data_of(parse_config(base)).dev
    assert dev is not None and dev.tokens is not None and dev.units is not None
    losses, right = [], []
    for row in range(len(dev)):
        ids = torch.from_numpy(dev.tokens.ids[dev.tokens.rows.of([row])].astype(np.int64))
        places = torch.from_numpy(dev.tokens.places[dev.units.of([row])].astype(np.int64))
        with torch.no_grad():
            log_p = model(input_ids=ids[None]).logits[0, places - 1].log_softmax(-1)
        losses += (-log_p.gather(1, ids[places][:, None])[:, 0]).tolist()
        right += (log_p.argmax(1) == ids[places]).tolist()
    scores = metrics_of(finished)["student"]["scores"]
    assert scores["perplexity"] == pytest.approx(float(np.exp(np.mean(losses))), rel=1e-4)
    assert scores["accuracy"] == pytest.approx(float(np.mean(right)))
    again = evaluate(finished / "student", Path(base["data_dir"]) / "dev.jsonl", precision="fp32")
    assert again["scores"]["perplexity"] == pytest.approx(scores["perplexity"], rel=1e-5) and again["rows"] == 8


def test_teachers_scores_come_from_what_is_stored(finished: Path, base: dict[str, Any]) -> None:
    metrics = metrics_of(finished)
    plain = evaluate(
        metrics["teachers"][0]["path"], Path(base["data_dir"]) / "dev.jsonl", max_length=40, precision="fp32"
    )
    for name, value in metrics["teachers"][0]["scores"].items():
        if name in WRITTEN:
            continue
        assert value == pytest.approx(plain["scores"][name], rel=2e-3)
    assert metrics["signals"]["scored_rows"] == 2 * 46  # train, validation and extra, each once


def test_the_page_shows_completions_and_nothing_in_them_acts(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "could not be read" not in page
    assert EVIL not in page and "&lt;script&gt;alert(1)" in page
    section = page[page.index('id="completions"') : page.index('id="cost"')]
    assert "likeliest token is also that of teacher a" in section
    spans = re.findall(r'<span class="(good|bad)" title="student: 0\.\d\d, likeliest', section)
    found = read_completions(finished)
    assert found is not None and len(spans) == sum(len(example.tokens) for example in found.examples)
    assert found.examples[-1].prompt == EVIL
    assert "".join(token.text for _, token in found.examples[-1].tokens) == " a joy⏎"
    card = (finished / "student" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-generation" in card and 'pipeline("text-generation"' in card


def test_completions_are_written_scored_and_shown_by_all_models(
    finished: Path, base: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.loads(line) for line in (finished / "generations.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["row"] for line in lines] == list(range(8)) and lines[-1]["prompt"] == EVIL
    assert lines[-1]["completion"] == " a joy"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(finished / "student"), llama_tokenizer()
    for line in lines:
        ids = tokenizer(line["prompt"], return_tensors="pt")
        said = model.generate(**ids, max_new_tokens=6, do_sample=False, pad_token_id=1)[0, ids["input_ids"].shape[1] :]
        assert line["student"] == tokenizer.decode(said, skip_special_tokens=True)
    metrics = metrics_of(finished)
    true = [line["completion"] for line in lines]
    for model_scores, name in ((metrics["student"], "student"), (metrics["teachers"][1], "teacher/b")):
        expected = completion_scores(true, [line[name] for line in lines])
        assert {key: model_scores["scores"][key] for key in WRITTEN} == expected
    assert metrics["generation"]["rows"] == 8 and set(metrics["generation"]["unfinished"]) == {
        "student",
        "teacher/a",
        "teacher/b",
    }
    page = (finished / "report.html").read_text(encoding="utf-8")
    section = page[page.index('<h2 id="generations"') : page.index('<h2 id="cost"')]
    assert EVIL not in section and "&lt;script&gt;alert(1)" in section and "teacher b" in section

    data = str(Path(base["data_dir"]) / "dev.jsonl")
    options = ["--generate", "8", "--max-new-tokens", "6", "--precision", "fp32"]
    outcome = CliRunner().invoke(app, ["evaluate", str(finished / "student"), data, *options])
    assert f"rouge_l      {metrics['student']['scores']['rouge_l']:.4f}" in outcome.output, outcome.output

    # a second run asks no teacher again
    bench = Workbench.open(parse_config(base | {"generation": GENERATION, "name": "again"}))
    prompts = prompts_for(bench, bench.new_student())
    asked: list[str] = []
    write = generations_module._written
    monkeypatch.setattr(generations_module, "_written", lambda name, *rest: asked.append(name) or write(name, *rest))
    again = generations(bench, bench.new_student(), prompts)
    assert asked == ["student"] and again.texts["teacher/b"] == [line["teacher/b"] for line in lines]


def test_predictions_hold_few_numbers_per_token(finished: Path, base: dict[str, Any]) -> None:
    table = pq.read_table(finished / "predictions.parquet")
    dev = data_of(parse_config(base)).dev
    assert dev is not None and table.num_rows == dev.num_units
    values = table["student"].combine_chunks().flatten().to_numpy().reshape(-1, 4)
    np.testing.assert_allclose(np.exp(values[:, :3]).sum(1), 1, atol=1e-4)
    tokenizer = llama_tokenizer()
    assert table["says/student"].to_pylist() == [tokenizer.decode([int(token)]) for token in values[:, 3]]


def test_what_is_for_classifiers_is_refused(finished: Path, base: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="model.generate"):
        predict_file(finished, Path(base["data_dir"]) / "dev.jsonl", tmp_path / "out.csv")
    with pytest.raises(ExportError, match="shipped as its checkpoint"):
        export_run(finished, onnx=True)
    assert export_run(finished, license="mit").lines == [f"model card: {finished / 'student' / 'README.md'}"]
    config = parse_config(base | {"data": {**base["data"], "extra": None}})
    assert "not judged ahead" in "".join(advise(config).words)
    outcome = CliRunner().invoke(app, ["trim", str(finished), "--output", str(tmp_path / "trimmed")])
    assert outcome.exit_code == 1 and "is not trimmed" in outcome.output


REFUSED: dict[str, tuple[dict[str, Any], type[DistilectError], str]] = {
    "an API": ({"teachers": [{"endpoint": "http://localhost/v1", "model": "m"}]}, ConfigError, "are checkpoints"),
    "a table": ({"teachers": [{"table": "outputs.csv"}]}, ConfigError, "are checkpoints"),
    "a trimmed student": ({"student": {"init": "a[layers=2]", "vocabulary": 100}}, StudentError, "vocabulary is set"),
    "long rows": ({"train": {"max_length": 100}}, TeacherError, "reads 64 tokens at most.*train.max_length: 64"),
    "smoothing": ({"train": {"max_length": 40, "label_smoothing": 0.1}}, ConfigError, "remove them"),
    "alignment": ({"method": "alignment"}, DistilectError, "class by class"),
    "an answer that is nowhere": (
        {"generation": {"rows": 2, "answer_after": "####"}},
        ConfigError,
        "none of the 2 completions holds '####'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(base: dict[str, Any], name: str) -> None:
    change, error, message = REFUSED[name]
    plain = {**base, "teachers": base["teachers"][:1], "name": "refused"}
    with pytest.raises(error, match=message) as raised:
        run(parse_config(plain | change))
    assert len(str(raised.value).splitlines()) <= 2


def test_it_is_said_that_no_frozen_encoder_is_used(finished: Path, base: dict[str, Any]) -> None:
    bench = Workbench.open(parse_config({**base, "name": "gated", "method": "gate"}))
    prepared = bench.prepare(bench.config.method, bench.new_student())[1]
    assert any(line.startswith("gate: decides without a frozen encoder") for line in prepared.report)


def test_a_teacher_with_another_vocabulary_is_refused(base: dict[str, Any], tmp_path: Path) -> None:
    other = tiny_llama(tmp_path / "other", 5)
    wordpiece_tokenizer().save_pretrained(other)
    teachers = [base["teachers"][0], {"name": "other", "path": other}]
    with pytest.raises(TeacherError, match=r"'other' has another vocabulary than the student \(\d+ and 320 tokens\)"):
        run(parse_config(base | {"teachers": teachers, "name": "vocabulary"}))


def test_the_command_line_runs_chats_with_sampled_signals(base: dict[str, Any], tmp_path: Path) -> None:
    chats = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
        for row in pairs(16)
    ]
    write(tmp_path / "chats.jsonl", chats)
    config = base | {
        "data_dir": str(tmp_path),
        "data": {"train": "chats.jsonl", "validation_size": 4},
        "output": str(tmp_path / "runs"),
        "teachers": base["teachers"][:1],
        "method": {"name": "dynamic-data", "temperature": 1},
        "signals": {"tokens": {"keep": "samples", "count": 8}, "precision": "fp32"},
        "train": {**base["train"], "epochs": 1},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    outcome = CliRunner().invoke(app, ["run", str(tmp_path / "run.yaml")])
    assert outcome.exit_code == 0, outcome.output
    assert "text messages" in outcome.output and "tokens to learn among" in outcome.output
    page = (tmp_path / "runs" / "first" / "report.html").read_text(encoding="utf-8")
    assert "could not be read" not in page and 'id="completions"' in page


def test_comparisons_keep_what_the_accuracy_looks_at() -> None:
    rng = np.random.default_rng(0)
    outputs = np.log(rng.dirichlet(np.ones(3), 50)).astype(np.float32)
    outputs = np.concatenate([outputs, rng.integers(0, 300, (50, 1)).astype(np.float32)], axis=1)
    labels, offsets = np.zeros(50, np.int32), np.array([0, 10, 15, 50])
    kept = compact_predictions(TASK, outputs)
    again, gold = expand_predictions(TASK, kept), expand_labels(TASK, labels.astype(np.float64))
    task = Task("t", "causal-lm", (), ("accuracy",), 1)
    assert task.score(again, gold) == task.score(outputs, labels)
    once = resampled_scores(task, again, gold, np.ones((1, 3), np.float32), offsets)
    assert once[0] == pytest.approx(task.score(outputs, labels)["accuracy"])
    draws = row_draws(3, 20, 0)
    right = np.add.reduceat(outputs[:, 0] >= outputs[:, 1], offsets[:-1])
    expected = draws @ right / (draws @ np.diff(offsets))
    np.testing.assert_allclose(resampled_scores(task, again, gold, draws, offsets), expected, rtol=1e-6)
