"""The recipes in AKSKD's setting: they parse, say what they do, and run on tiny models."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilect.config import RunConfig, load_config
from distilect.pipeline import run
from distilect.selection import build_teacher_selector, get_preset
from distilect.selection.akskd import ActorCriticWeights
from tests.recipes.test_dynamickd import write_glue
from tests.tiny import SENTENCES, tiny_bert

PAPERS = Path(__file__).parents[2] / "recipes" / "papers"
RECIPES = {name: PAPERS / f"akskd-{name}.yaml" for name in ("mrpc", "rte", "large")}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny twelve-layer BERT in the place of the hub's, and GLUE folders."""
    folder = tmp_path_factory.mktemp("toy")
    tiny_bert(folder / "bert", 3, 1, layers=12)
    write_glue(folder, 64)
    (folder / "SST-2").mkdir()
    rng = np.random.default_rng(0)
    words = " ".join(SENTENCES).replace(",", "").split()
    for file, rows in (("train.tsv", 64), ("dev.tsv", 20)):
        lines = [
            "sentence\tlabel",
            *(f"{' '.join(rng.choice(words, size=5))}\t{int(rng.integers(2))}" for _ in range(rows)),
        ]
        (folder / "SST-2" / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def tiny(toy: Path, name: str, *overrides: str) -> RunConfig:
    changes = [
        f"teachers.0.finetune.init={toy / 'bert'}",
        "teachers.0.finetune.epochs=1",
        f"data_dir={toy}",
        "train.epochs=1",
        "train.logging_steps=1",
        "train.precision=fp32",
        "signals.precision=fp32",
        f"output={toy / 'runs'}",
        "train.batch_size=16",
        "method.loss_weights.episodes=2",
        "method.loss_weights.phases=2",
    ]
    return load_config(RECIPES[name], [*changes, *overrides])


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_parses_and_its_methods_take_their_options(name: str) -> None:
    config = load_config(RECIPES[name])
    assert config.name == RECIPES[name].stem
    for method in (config.method, *config.baselines):
        get_preset(method.name)
        build_teacher_selector(method)
    assert isinstance(config.method.loss_weights, dict)
    options = {key: value for key, value in config.method.loss_weights.items() if key != "name"}
    assert ActorCriticWeights(**options).parts == ("student", "teacher")
    assert [method.name for method in config.baselines][-3:] == ["all-ones", "random-soft", "random-hard"]


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_in_the_head_comment_are_accepted(name: str) -> None:
    head = RECIPES[name].read_text(encoding="utf-8").partition("\nname:")[0].replace("\\\n#", "")
    commands = [shlex.split(line, comments=True)[3:] for line in re.findall(r"distilect run .*", head)]
    assert len(commands) >= 2
    for overrides in commands:
        load_config(RECIPES[name], overrides)


def test_the_recipes_differ_in_the_task_and_the_size_of_stage_a_alone() -> None:
    mrpc, rte, large = (load_config(path).model_dump() for path in RECIPES.values())
    for other, mix in ((rte, {}), (large, {"episodes": 4, "share": 0.15})):
        assert other["method"]["loss_weights"] == mrpc["method"]["loss_weights"] | mix
        for key in ("student", "teachers", "train", "baselines", "seed"):
            assert other[key] == mrpc[key]


@pytest.mark.slow
def test_layers_are_mapped_as_the_paper_has_it(toy: Path) -> None:
    """Every 2nd teacher layer for BERT_6, every 4th for BERT_3; relation needs at least two of them."""
    result = run(tiny(toy, "mrpc", "baselines=[]", "name=three", "student=bert[layers=0,1,2]"))[0]
    fields = {path.name for path in (toy / "runs" / "signals").glob("*/hidden.*")}
    assert fields == {"hidden.4", "hidden.8", "hidden.12"} and result.metrics["student"]["layers"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(("name", "preset"), [("rte", "akskd"), ("large", "akskd-hard")])
def test_every_recipe_runs_on_tiny_models(toy: Path, name: str, preset: str) -> None:
    hard = ["method.name=akskd-hard", "method.loss_weights.action=hard"] if preset == "akskd-hard" else []
    baselines: Any = [f"baselines=[{', '.join(['random-hard'])}]"]
    results = run(tiny(toy, name, *hard, *baselines))
    for result in results:
        assert np.isfinite(list(result.metrics["student"]["scores"].values())).all()
    selection = results[0].metrics["selection"]
    share = 1.0 if name == "rte" else 0.15
    rows = results[0].metrics["rows"]["train"]
    assert selection["episodes"] == 2 and selection["rows"] == 2 * max(
        round(share * rows), 32
    )  # two phases of 16 rows at least
    lines = [json.loads(line) for line in (results[0].folder / "stage-a.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and ("selection" in results[1].metrics) is False
