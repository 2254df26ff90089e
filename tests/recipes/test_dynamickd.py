"""The recipes in the DynamicKD paper's setting: they parse, say what they do, and run on tiny models."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from distilect.config import RunConfig, load_config
from distilect.pipeline import run
from distilect.selection import build_teacher_selector, get_preset
from tests.tiny import SENTENCES, tiny_bert, wordpiece_tokenizer

PAPERS = Path(__file__).parents[2] / "recipes" / "papers"
RECIPES = {arm: PAPERS / f"dynamickd-{arm}.yaml" for arm in ("teacher", "data", "objective")}
HEADERS = {"RTE": "index\tsentence1\tsentence2\tlabel", "MRPC": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"}


def write_glue(folder: Path, rows: int = 40) -> None:
    """RTE and MRPC in the official form; a repeated first word gives the label away."""
    rng = np.random.default_rng(0)
    words = " ".join(SENTENCES).replace(",", "").split()
    for task, header in HEADERS.items():
        (folder / task).mkdir(parents=True)
        for file, count in (("train.tsv", rows), ("dev.tsv", rows // 2)):
            lines = [header]
            for i in range(count):
                one, label = " ".join(rng.choice(words, size=5)), int(rng.integers(2))
                two = f"{one.split()[0] if label else 'no'} {' '.join(rng.choice(words, size=4))}"
                name = ("not_entailment", "entailment")[label]
                lines.append(f"{i}\t{one}\t{two}\t{name}" if task == "RTE" else f"{label}\t{i}\t{i}\t{one}\t{two}")
            (folder / task / file).write_text("\n".join(lines) + "\n", encoding="utf-8")


def tiny_masked(folder: Path) -> str:
    """A tiny BERT with a masked-LM head."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=200, max_position_embeddings=64, **sizes)).save_pretrained(folder)
    wordpiece_tokenizer().save_pretrained(folder)
    return str(folder)


class Toy:
    """Tiny checkpoints of the recipes' depths in the place of the hub's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = tiny_bert(folder / "bert-base-uncased", 3, 1, layers=12)
        self.large = tiny_bert(folder / "bert-large-uncased", 3, 2, layers=14)
        self.masked = tiny_masked(folder / "masked")
        write_glue(folder)

    def config(self, arm: str, *overrides: str) -> RunConfig:
        given = load_config(RECIPES[arm])
        paths = {"base": self.base, "large": self.large}
        changes = [f"student={self.base}[layers=0,1,2,3,4,5]", f"data_dir={self.folder}"]
        for number, teacher in enumerate(given.teachers):
            changes += [f"teachers.{number}.finetune.init={paths[str(teacher.name)]}"]
            changes += [f"teachers.{number}.finetune.epochs=1"]
        changes += [
            "train.epochs=1",
            "train.logging_steps=1",
            "train.precision=fp32",
            "signals.precision=fp32",
            f"output={self.folder / 'runs'}",
        ]
        return load_config(RECIPES[arm], [*changes, *overrides])


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("toy"))


@pytest.mark.parametrize("arm", RECIPES)
def test_every_recipe_parses_and_its_methods_take_their_options(arm: str) -> None:
    config = load_config(RECIPES[arm])
    assert config.name == RECIPES[arm].stem
    for method in (config.method, *config.baselines):
        get_preset(method.name)
        build_teacher_selector(method)


@pytest.mark.parametrize("arm", RECIPES)
def test_the_commands_in_the_head_comment_are_accepted(arm: str) -> None:
    head = RECIPES[arm].read_text(encoding="utf-8").partition("\nname:")[0].replace("\\\n#", "")
    commands = [shlex.split(line, comments=True)[3:] for line in re.findall(r"distilect run .*", head)]
    assert commands
    for overrides in commands:
        load_config(RECIPES[arm], overrides)


@pytest.mark.parametrize(
    ("arm", "batch", "warmup", "seed"), [("teacher", 16, 0.05, 1), ("data", 32, 0.1, 1), ("objective", 32, 0.1, 1)]
)
def test_the_settings_are_those_of_the_released_scripts(arm: str, batch: int, warmup: float, seed: int) -> None:
    config = load_config(RECIPES[arm])
    train = config.train
    assert (train.learning_rate, train.epochs, train.batch_size, train.warmup_ratio) == (2e-5, 3, batch, warmup)
    assert (train.max_length, train.final_weights, train.weight_decay, train.max_grad_norm) == (128, "last", 0, 1)
    assert config.seed == seed and config.student.init.endswith("bert-base-uncased[layers=0,1,2,3,4,5]")
    for teacher in config.teachers:
        assert teacher.finetune is not None
        assert (teacher.finetune.learning_rate, teacher.finetune.epochs, teacher.finetune.batch_size) == (5e-5, 3, 32)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["objective", "teacher", "data"])
def test_every_recipe_runs_on_tiny_models(toy: Toy, arm: str) -> None:
    results = run(toy.config(arm))
    assert len(results) == 1 + len(load_config(RECIPES[arm]).baselines)
    for result in results:
        assert np.isfinite(list(result.metrics["student"]["scores"].values())).all()
        assert result.metrics["cost"]["steps"] == (3 if arm == "teacher" else 2)  # 40 rows, none held out
    whole = pq.read_table(results[0].folder / "selection.parquet").to_pylist()[0]
    if arm == "teacher":  # 16, 16 and 8 rows: exact halves
        assert (whole["teacher/base"], whole["teacher/large"]) == (0.5, 0.5)
    if arm == "data":
        assert whole["asked"] == 0.5 and whole["trained"] == 1.0
        assert results[0].metrics["cost"]["teacher_rows"] == 20
        assert results[1].metrics["cost"]["teacher_rows"] == 40  # kd
    if arm == "objective":
        lines = (results[0].folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
        line = next(json.loads(line) for line in lines if "uncertainty/mean" in line)
        assert line["knowledge/v_feature"] == pytest.approx(line["uncertainty/mean"])
        assert whole["knowledge/response"] + whole["knowledge/feature"] == pytest.approx(1)


@pytest.mark.slow
def test_the_augmented_variant_of_the_data_arm_runs(toy: Toy) -> None:
    """The second command: rows enlarged by a masked model, a tenth of them asks, all learn from their labels."""
    augmentation: dict[str, Any] = {"times": 3, "method": "mlm", "model": toy.masked, "labels": True}
    config = toy.config(
        "data", "name=enlarged", "method.rows.ratio=0.1", "baselines=[]", f"data.augment={json.dumps(augmentation)}"
    )
    metrics = run(config)[0].metrics
    rows = metrics["rows"]["train"] + metrics["rows"]["extra"]
    assert metrics["rows"]["train"] == 40 and 100 < rows <= 160
    steps = -(-rows // 32)
    assert metrics["cost"]["steps"] == steps and steps <= metrics["cost"]["teacher_rows"] <= 3 * steps
