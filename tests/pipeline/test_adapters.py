"""Students with low-rank adapters, from a config to a plain checkpoint."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from distilect.config import parse_config
from distilect.errors import ConfigError, StudentError
from distilect.evaluation import check_rouge
from distilect.models import has_adapters
from distilect.models.adapters import ADAPTERS
from distilect.pipeline import run
from distilect.pipeline.work import Workbench
from distilect.training import DistillationTrainer
from tests.language import pairs
from tests.pipeline.helpers import Job
from tests.tiny import tiny_llama

pytest.importorskip("peft")
STAGES = {
    "first": {"method": {"name": "kd", "knowledge": {"feature": {}}}, "share": 0.5},
    "second": {"method": "uniform"},
}


def test_a_killed_run_in_stages_goes_on_and_a_language_model_without_adapters_is_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for role, seed in (("train", 0), ("dev", 1)):
        lines = [json.dumps(row) for row in pairs(32 if role == "train" else 6, seed)]
        (tmp_path / f"{role}.jsonl").write_text("\n".join(lines), encoding="utf-8")

    def settings(name: str) -> Any:
        return parse_config(
            {
                "name": name,
                "output": str(tmp_path / "runs"),
                "data_dir": str(tmp_path),
                "data": {"train": "train.jsonl", "dev": "dev.jsonl", "validation_size": 4},
                "task": {"kind": "causal-lm"},
                "teachers": [{"name": "a", "path": tiny_llama(tmp_path / "a", 1, layers=4, tied=True)}],
                "student": {"init": "a[layers=2]", "lora": {"rank": 4}},
                "method": {"name": "kd", "temperature": 1, "stages": STAGES},
                "train": {
                    "epochs": 4,
                    "max_length": 40,
                    "batch_size": 8,
                    "precision": "fp32",
                    "learning_rate": 1e-2,
                    "logging_steps": 2,
                },
                "signals": {"precision": "fp32"},
            }
        )

    whole = run(settings("whole"))[0]
    save, kept = DistillationTrainer._save_checkpoint, list[set[str]]()

    def kill(self: Any, model: Any, trial: Any) -> None:
        save(self, model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        kept.append({path.name for path in folder.iterdir()})
        if "second" in str(folder):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "_save_checkpoint", kill)
        with pytest.raises(KeyboardInterrupt):
            run(settings("killed"))
    assert all(ADAPTERS in names and "model.safetensors" not in names for names in kept)
    killed = run(settings("killed"))[0]
    states = [load_file(result.folder / "student" / "model.safetensors") for result in (whole, killed)]
    assert killed.metrics["cost"]["resumed_at_step"] > 0
    assert not any("lora" in name or "base_layer" in name for name in states[0])
    for name, values in states[0].items():
        torch.testing.assert_close(values, states[1][name], rtol=0, atol=0)

    student = whole.metrics["student"]
    assert 0 < student["trained_parameters"] < student["parameters"] and student["source"]["lora"]["rank"] == 4
    shipped, start = AutoModelForCausalLM.from_pretrained(whole.folder / "student"), Workbench.open(settings("whole"))
    assert student["parameters"] == sum(p.numel() for p in shipped.parameters())
    untrained = start.new_student().model
    assert has_adapters(untrained) and not has_adapters(shipped)
    embeddings = untrained.get_input_embeddings().weight
    torch.testing.assert_close(shipped.get_input_embeddings().weight, embeddings.cpu(), rtol=0, atol=0)
    first, second = (stage["validation"]["perplexity"] for stage in whole.metrics["stages"])
    assert second < first


def test_what_is_missing_is_told_before_teachers_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path)
    with pytest.raises(ConfigError, match="this task is classification: only language models write"):
        run(job.config(generation={"rows": 2}))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(StudentError, match=r"pip install 'distilect\[lm\]'"):
        run(job.config(student={"init": "a[layers=1]", "lora": {}}))
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    with pytest.raises(ConfigError, match=r"rouge-score: pip install 'distilect\[lm\]'"):
        check_rouge()


def test_an_encoder_with_a_trimmed_vocabulary_learns_by_virtual_steps(tmp_path: Path) -> None:
    job = Job(tmp_path)
    student = {"init": "a[layers=1,3]", "vocabulary": "auto", "lora": {}}
    method = {"name": "rlkd", "teachers": {"policy_updates": 4}}
    train = job.raw()["train"] | {"epochs": 2, "learning_rate": 5e-3}
    found = run(job.config(student=student, method=method, train=train))[0]
    metrics = found.metrics["student"]
    assert metrics["trained_parameters"] < metrics["parameters"] and metrics["source"]["lora"]["rank"] == 16
    model = AutoModelForSequenceClassification.from_pretrained(found.folder / "student")
    assert sum(p.numel() for p in model.parameters()) == metrics["parameters"]
    assert np.isfinite(metrics["scores"]["accuracy"])
