"""The whole job by two processes, as `torchrun -m distilect run CONFIG` starts them: one folder, that of a single process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from distilect.config import parse_config
from distilect.pipeline import run
from distilect.selection import actor_critic, akskd, artefact
from tests.language import pairs
from tests.launch import run_ranks
from tests.pipeline.helpers import Job
from tests.tiny import tiny_bert, tiny_llama


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("job"))


# two short episodes, then the run itself
SMALL = {"episodes": 2, "share": 0.5, "phases": 2}
AKSKD = {"name": "akskd", "loss_weights": {"name": "actor-critic", **SMALL}}


def config(job: Job, output: str) -> Any:
    """One teacher is fine-tuned first, by both ranks; a baseline follows."""
    raw = str(job.folder / "raw")
    # a teacher that has learned something: the response of an untrained one is all but that of its student, whose balanced weight
    # would be tens of thousands and show the rounding of the processor
    own = {"init": raw, "epochs": 20, "learning_rate": 5e-3, "seed": 4}
    teachers = [{"name": "own", "finetune": own}, job.teachers[1]]
    train = job.raw()["train"] | {"dropout": 0.0}
    return job.config(
        data={"train": str(job.train), "dev": str(job.dev), "validation_size": 24},  # enough to calibrate the teachers
        output=str(job.folder / output),
        teachers=teachers,
        student="own[layers=0,2]",
        train=train,
        method="confidence",
        baselines=["finetune", AKSKD],
    )


def learned_alike(alone: Path, both: Path) -> None:
    """One selection module is written, and all ranks go on with it; it was paid for once."""
    (about, tensors), (other, others) = artefact.read(alone), artefact.read(both)
    for key in ("episodes", "steps", "tokens", "rows", "student_tokens", "probed_rows"):
        assert about["about"][key] == other["about"][key] > 0, key
    assert tensors.keys() == others.keys()
    for name, value in tensors.items():
        torch.testing.assert_close(others[name].float(), value.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_two_ranks_write_the_folder_of_one(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(akskd, "RANDOM", 0.0)  # the actor acts at once
    for name, value in {"HIDDEN": 16, "WIDTH": 8, "UPDATES": 2}.items():
        monkeypatch.setattr(actor_critic, name, value)
    tiny_bert(job.folder / "raw", 2, 8, layers=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    alone = run(config(job, "alone"))
    run_ranks(2, lambda: run(config(job, "both")) and None, tmp_path)
    for one in alone:
        folder = job.folder / "both" / one.folder.name
        assert {p.name for p in folder.iterdir()} == {p.name for p in one.folder.iterdir()}
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        for key in ("scores", "validation"):
            assert metrics["student"][key] == pytest.approx(one.metrics["student"][key], abs=1e-6)
        for teacher, other in zip(metrics["teachers"], one.metrics["teachers"], strict=True):
            assert teacher.get("calibration") == other.get("calibration")
        for key in ("steps", "tokens", "teacher_rows", "teacher_forwards", "probed_rows"):
            assert metrics["cost"][key] == one.metrics["cost"][key], key
        lines = [
            [json.loads(line) for line in (f / "history.jsonl").read_text(encoding="utf-8").splitlines()]
            for f in (one.folder, folder)
        ]
        assert len(lines[0]) == len(lines[1])
        for line, other in zip(*lines, strict=True):
            assert line == pytest.approx(other, rel=1e-2, abs=1e-4)
        for name in ("selection.parquet", "rows.parquet"):
            tables = [pq.read_table(f / name).to_pylist() for f in (one.folder, folder)]
            for line, other in zip(*tables, strict=True):
                numbers = [{k: v for k, v in both.items() if isinstance(v, int | float)} for both in (line, other)]
                assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=1e-4)
    learned_alike(*(job.folder / name / alone[2].folder.name / "selector" for name in ("alone", "both")))
    stores = [
        {str(p.relative_to(job.folder / name)) for p in (job.folder / name).rglob("shard-*")}
        for name in ("alone", "both")
    ]
    assert len(stores[0]) == len(stores[1]) > 0


@pytest.mark.slow
def test_two_ranks_distil_a_language_model_with_adapters_as_one_does(tmp_path: Path) -> None:
    """Weights on tokens and written completions are those of all ranks; the second run reads what teachers wrote."""
    pytest.importorskip("peft")
    pytest.importorskip("rouge_score")
    for role, count, seed in (("train", 40, 0), ("dev", 20, 1)):
        lines = [json.dumps(row) for row in pairs(count, seed)]
        (tmp_path / f"{role}.jsonl").write_text("\n".join(lines), encoding="utf-8")

    def settings(output: str, name: str = "lm") -> Any:
        return parse_config(
            {
                "name": name,
                "output": str(tmp_path / output),
                "data_dir": str(tmp_path),
                "data": {"train": "train.jsonl", "dev": "dev.jsonl", "validation_size": 6},
                "task": {"kind": "causal-lm"},
                "teachers": [{"name": n, "path": tiny_llama(tmp_path / n, seed)} for seed, n in enumerate("ab")],
                "student": {"init": "a[layers=1]", "lora": {}},
                "method": {"name": "confidence", "temperature": 1},
                "train": {"epochs": 1, "max_length": 40, "batch_size": 8, "precision": "fp32", "learning_rate": 1e-2},
                "signals": {"precision": "fp32"},
                "generation": {"rows": 20, "max_new_tokens": 5},
            }
        )

    alone = run(settings("alone"))[0]
    run_ranks(2, lambda: run(settings("both")) and None, tmp_path)
    run_ranks(2, lambda: run(settings("both", "again")) and None, tmp_path)
    for name in ("lm", "again"):
        folder = tmp_path / "both" / name
        assert {p.name for p in folder.iterdir()} == {p.name for p in alone.folder.iterdir()}
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        assert metrics["student"]["scores"] == pytest.approx(alone.metrics["student"]["scores"], rel=1e-3)
        assert metrics["generation"] == alone.metrics["generation"]
        assert (folder / "generations.jsonl").read_text() == (alone.folder / "generations.jsonl").read_text()
        tables = [pq.read_table(f / "examples.parquet").to_pylist() for f in (alone.folder, folder)]
        assert [line["text"] for line in tables[0]] == [line["text"] for line in tables[1]]
        for line, other in zip(*tables, strict=True):
            numbers = [{k: v for k, v in both.items() if isinstance(v, int | float)} for both in (line, other)]
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=1e-4)
