"""The recipes in the RL-KD paper's setting: they parse, their data can be read, and they run on tiny models of the same families."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from distilect.config import RunConfig, load_config
from distilect.data import load_data
from distilect.experiments import Plan, Trial, compare, load_compare
from distilect.experiments.trials import choices
from distilect.models import parse_spec
from distilect.pipeline import run
from distilect.pipeline.folders import plan_folders
from distilect.pipeline.search import with_choice
from distilect.selection import build_teacher_selector, get_preset
from tests.tiny import SENTENCES, tiny_albert, tiny_bert, tiny_roberta, tiny_xlnet

PAPERS = Path(__file__).parents[2] / "recipes" / "papers"
RECIPES = sorted(file for file in PAPERS.glob("rlkd-*.yaml") if file != PAPERS / "rlkd-grid.yaml")
MRPC = PAPERS / "rlkd-mrpc.yaml"
GRID = PAPERS / "rlkd-grid.yaml"
BERT_6 = "google-bert/bert-base-uncased[layers=0,1,2,3,4,5]"
HUB = {  # columns, classes
    "mnli": (["premise", "hypothesis"], ["entailment", "neutral", "contradiction"]),
    "qqp": (["question1", "question2"], ["not_duplicate", "duplicate"]),
    "qnli": (["question", "sentence"], ["entailment", "not_entailment"]),
}


def commands_of(recipe: Path) -> list[list[str]]:
    """The overrides of each `distilect run` in the head comment."""
    head = recipe.read_text(encoding="utf-8").partition("\nname:")[0]
    joined = head.replace("\\\n#", "")
    return [shlex.split(line)[3:] for line in re.findall(r"distilect run .*", joined)]


def write_mrpc(folder: Path, rows: int = 48) -> Path:
    """A GLUE folder in MRPC's official form; a repeated first word makes a paraphrase."""
    rng = np.random.default_rng(0)
    words = " ".join(SENTENCES).replace(",", "").split()
    (folder / "MRPC").mkdir(parents=True)
    for file, count in (("train.tsv", rows), ("dev.tsv", rows // 2)):
        lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
        for i in range(count):
            first, second = " ".join(rng.choice(words, size=5)), " ".join(rng.choice(words, size=4))
            label = int(rng.integers(2))
            lines.append(f"{label}\t{i}\t{i + count}\t{first}\t{first.split()[0] if label else 'no'} {second}")
        (folder / "MRPC" / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


class Toy:
    """Tiny checkpoints in the place of the hub's, and what turns a recipe into a run of seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        sizes: dict[str, Any] = {"layers": 8, "hidden": 16}
        self.models = {
            "google-bert/bert-base-uncased": tiny_bert(folder / "bert-base", 3, 1, **sizes),
            "FacebookAI/roberta-base": tiny_roberta(folder / "roberta-base", 3, 2, **sizes),
            "albert/albert-base-v2": tiny_albert(folder / "albert-base", 3, 3, **sizes),
            "xlnet/xlnet-base-cased": tiny_xlnet(folder / "xlnet-base", 3, 4, **sizes),
        }
        write_mrpc(folder)

    def config(self, recipe: Path, *overrides: str) -> RunConfig:
        """The recipe with its models replaced; everything else is as in the file or overridden here."""
        given = load_config(recipe, list(overrides))
        hub_id, _, layers = given.student.init.partition("[")
        changes = [f"student={self.models[hub_id]}[{layers}", f"output={self.folder / 'runs'}"]
        for number, teacher in enumerate(given.teachers):
            assert teacher.finetune is not None
            changes += [f"teachers.{number}.finetune.init={self.models[teacher.finetune.init]}"]
            changes += [f"teachers.{number}.finetune.epochs=1"]
        changes += [f"data_dir={self.folder}", "train.epochs=2", "train.precision=fp32", "signals.precision=fp32"]
        kept = [override for override in overrides if not override.startswith("student=")]
        return load_config(recipe, [*kept, *changes])


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("toy"))


# ---- the files -----------------------------------------------------------------------------------------------------


def test_there_is_a_recipe_for_each_task() -> None:
    assert [file.stem for file in RECIPES] == [f"rlkd-{t}" for t in ("mnli", "mrpc", "qnli", "qqp", "rte", "sst2")]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_parses_and_its_methods_take_their_options(recipe: Path) -> None:
    config = load_config(recipe)
    assert config.name == recipe.stem
    for method in (config.method, *config.baselines):
        get_preset(method.name)
        build_teacher_selector(method)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_the_commands_in_the_head_comment_give_students_of_three_and_six_layers(recipe: Path) -> None:
    students = [load_config(recipe, overrides).student.init for overrides in commands_of(recipe)]
    assert [parse_spec(student)[1] for student in students] == [[0, 1, 2], [0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_the_recipes_differ_in_their_rows_and_the_policys_history_alone(recipe: Path) -> None:
    bodies = []
    for file in (recipe, MRPC):
        text = file.read_text(encoding="utf-8")
        body = text[text.index("\nteachers:") :].replace(file.stem, "NAME")
        bodies.append(re.sub(r"update_every: .*", "", body))
    assert bodies[0] == bodies[1]


def test_the_folders_of_the_single_teachers_are_as_the_recipe_says() -> None:
    said = re.findall(r"teacher: (\w+)}} *# (\S+)", MRPC.read_text(encoding="utf-8"))
    plans = {folder.name: single.method.teachers for folder, single in plan_folders(load_config(MRPC))}
    assert len(said) == 4
    for teacher, folder in said:
        assert plans[folder] == {"name": "single", "teacher": teacher}


# ---- the rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "rows"), [("mrpc", (3668, 408)), ("rte", (2490, 277)), ("sst2", (67349, 872))])
def test_official_files_are_read_as_the_recipe_says(task: str, rows: tuple[int, int], glue_dir: Path) -> None:
    config = load_config(PAPERS / f"rlkd-{task}.yaml")
    data = load_data(config.data, config.task, config.seed, glue_dir)
    assert (len(data.train) + len(data.validation), len(data.dev or ())) == rows
    assert data.task.metrics == ("accuracy",) and len(data.task.labels) == 2


def hub_rows(texts: list[str], classes: list[str], split: str, count: int) -> Any:
    """A split with the columns and class names that nyu-mll/glue has."""
    datasets = pytest.importorskip("datasets")
    columns = {text: [f"{text} {split} {i}" for i in range(count)] for text in texts}
    labels = {"label": [i % len(classes) for i in range(count)], "idx": list(range(count))}
    strings = {text: datasets.Value("string") for text in texts}
    kinds = {**strings, "label": datasets.ClassLabel(names=classes), "idx": datasets.Value("int32")}
    return datasets.Dataset.from_dict(columns | labels, features=datasets.Features(kinds))


class Hub(SimpleNamespace):
    """Stands in for the module `datasets`: one config of nyu-mll/glue."""

    def get_dataset_split_names(self, name: str, config: str) -> list[str]:
        assert (name, config) == ("nyu-mll/glue", self.config)
        return list(self.splits)

    def load_dataset(self, name: str, config: str, split: str) -> Any:
        self.asked.append(split)
        return self.splits[split]


@pytest.mark.parametrize(
    ("task", "overrides", "dev"),
    [
        ("mnli", [], "validation_mismatched"),
        ("qqp", [], "validation"),
        (
            "qnli",
            ["data.glue=null", "data.train=nyu-mll/glue", "data.name=qnli", "data.dev=nyu-mll/glue[validation]"],
            "validation",
        ),
    ],
)
def test_hub_rows_are_asked_for_by_config_and_split(
    task: str, overrides: list[str], dev: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("validation_matched", "validation_mismatched") if task == "mnli" else ("validation",)
    splits = {"train": hub_rows(*HUB[task], "train", 30)} | {n: hub_rows(*HUB[task], n, 9) for n in (*names, "test")}
    hub = Hub(config=task, splits=splits, asked=[])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    config = load_config(PAPERS / f"rlkd-{task}.yaml", overrides)
    data = load_data(config.data, config.task, config.seed, tmp_path)
    assert hub.asked == ["train", dev]
    assert list(data.task.labels) == HUB[task][1] and data.task.num_texts == 2
    assert (len(data.train), len(data.validation), len(data.dev or ())) == (27, 3, 9)


def test_mnli_can_be_read_from_the_official_files(tmp_path: Path) -> None:
    """By the overrides of the head comment; train and dev have different columns."""
    (tmp_path / "MNLI").mkdir()
    names = ("contradiction", "entailment", "neutral")
    for file, judges in (("train.tsv", 1), ("dev_mismatched.tsv", 5)):
        columns = ["index", "promptID", "sentence1", "sentence2", *(f"label{n + 1}" for n in range(judges))]
        lines = ["\t".join([*columns, "gold_label"])]
        for i in range(30):
            lines.append("\t".join([str(i), str(i), f'a "{file} {i}', f"b {i}", *[names[i % 3]] * (judges + 1)]))
        (tmp_path / "MNLI" / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    comment = (PAPERS / "rlkd-mnli.yaml").read_text(encoding="utf-8").partition("one by one:")[2]
    overrides = shlex.split(comment.partition("data_dir")[0].replace("#", ""))
    config = load_config(PAPERS / "rlkd-mnli.yaml", overrides)
    data = load_data(config.data, config.task, config.seed, tmp_path)
    assert data.task.labels == names and len(data.dev or ()) == 30
    assert data.train.text([0])[0][0].startswith('a "train.tsv')


# ---- a dry run on tiny models of the four families -----------------------------------------------------------------


@pytest.fixture(scope="module")
def three(toy: Toy) -> list[Any]:
    return run(toy.config(MRPC))


@pytest.mark.slow
def test_a_dry_run_of_the_recipe_and_its_baselines_finishes(three: list[Any]) -> None:
    names = ("", "finetune", "kd", "kd-3", "kd-4", "kd-5", "uniform", "random-single", "weighted", "logistic")
    expected = ["-".join(filter(None, ("rlkd-mrpc", name))) for name in (*names, "best-single")]
    assert [result.folder.name for result in three] == expected
    for result in three:
        metrics = json.loads((result.folder / "metrics.json").read_text())
        assert np.isfinite([*metrics["student"]["scores"].values(), *metrics["student"]["validation"].values()]).all()
        assert [teacher["name"] for teacher in metrics["teachers"]] == ["bert", "roberta", "albert", "xlnet"]


@pytest.mark.slow
def test_the_teachers_are_of_the_four_families(three: list[Any]) -> None:
    folders = [Path(teacher["path"]) for teacher in three[0].metrics["teachers"]]
    kinds = [json.loads((folder / "config.json").read_text())["model_type"] for folder in folders]
    assert kinds == ["bert", "roberta", "albert", "xlnet"]


@pytest.mark.slow
def test_the_policy_takes_over_after_the_warm_up(three: list[Any]) -> None:
    lines = pq.read_table(three[0].folder / "selection.parquet").to_pylist()
    whole = [line for line in lines if line["group"] == "all"]
    shares = [[line[f"teacher/{name}"] for name in ("bert", "roberta", "albert", "xlnet")] for line in whole]
    assert shares[0] == [0.25] * 4 and len(set(shares[1])) > 1
    assert sum(shares[1]) == pytest.approx(1)


@pytest.mark.slow
def test_the_student_of_six_layers_runs_too(toy: Toy, three: list[Any]) -> None:
    overrides = ["name=rlkd-mrpc-6", f"student={BERT_6}", "baselines=[]", "method.teachers.reward=3"]
    result = run(toy.config(MRPC, *overrides))[0]
    depths = [
        json.loads((r.folder / "student/config.json").read_text())["num_hidden_layers"] for r in (three[0], result)
    ]
    assert depths == [3, 6]
    assert result.metrics["cost"]["teacher_forwards"] == 0  # teachers and what they said are those of the first run
    assert (result.folder / "selection.parquet").exists()


# ---- the grids -----------------------------------------------------------------------------------------------------


def grid_commands() -> list[list[str]]:
    """The overrides of each `distilect compare` in the grid's head comment."""
    head = GRID.read_text(encoding="utf-8").partition("\nname:")[0].replace("\\\n#", "")
    return [shlex.split(line)[3:] for line in re.findall(r"distilect compare .*", head)]


def tried(trial: Trial) -> list[RunConfig]:
    """The config of every choice that the trial's search tries."""
    config = Plan(load_compare(GRID)).run_config(trial.setup, trial)
    return [with_choice(config, choice) for choice in choices(trial.method)]


def test_the_grid_is_the_papers_for_every_method() -> None:
    trials = Plan(load_compare(GRID)).trials
    assert len(trials) == 13
    for trial in trials:
        found = [(c.train.learning_rate, c.method.temperature, c.method.alpha) for c in tried(trial)]
        if trial.label == "finetune":
            assert found == [(rate, None, None) for rate in (1e-5, 2e-5, 5e-5)]
        else:
            grid = {(rate, t, a) for rate in (1e-5, 2e-5, 5e-5) for t in (5, 10, 20) for a in (0.2, 0.5, 0.7)}
            assert set(found) == grid


def test_the_grid_has_the_three_rewards_and_the_gammas_of_the_third() -> None:
    found = [
        (c.method.teachers["reward"], build_teacher_selector(c.method).options.gamma)
        for trial in Plan(load_compare(GRID)).trials
        if trial.label.startswith("rlkd")
        for c in tried(trial)
    ]
    assert len(found) == 27 + 27 + 4 * 27
    assert set(found) == {(1, 0.5), (2, 0.5), (3, 0.3), (3, 0.5), (3, 0.7), (3, 0.9)}


def test_the_grids_settings_are_the_recipes() -> None:
    recipe, plan = load_config(MRPC), Plan(load_compare(GRID))
    by_label = {trial.label: plan.run_config(trial.setup, trial) for trial in plan.trials}
    ours = by_label["rlkd-reward-2"]
    assert ours.train == recipe.train and ours.student == recipe.student
    assert (ours.data, ours.task, ours.seed) == (recipe.data, recipe.task, recipe.seed)
    assert [(t.name, t.finetune) for t in ours.teachers] == [(t.name, t.finetune) for t in recipe.teachers]
    selectors = [build_teacher_selector(config.method) for config in (ours, recipe)]
    assert selectors[0].options == selectors[1].options
    names = {method.name for method in (recipe.method, *recipe.baselines)}
    assert {config.method.name for config in by_label.values()} == names


def test_the_commands_of_the_grid_choose_the_teachers_first() -> None:
    teachers, students = (load_compare(GRID, overrides) for overrides in grid_commands())
    starts = {teacher.finetune.init for teacher in load_config(MRPC).teachers}
    assert {student.init for student in teachers.students} == starts and not teachers.teachers
    assert [tried(trial)[0].method.name for trial in Plan(teachers).trials] == ["finetune"] * 4
    assert len(Plan(students).trials) == 13


@pytest.mark.slow
def test_the_grid_trains_every_choice_and_reports_the_best(toy: Toy) -> None:
    """Two methods and two learning rates on tiny models; the choice is by validation rows."""
    models = toy.models
    overrides = [
        f"data_dir={toy.folder}",
        f"output={toy.folder / 'grid'}",
        f"students=['{models['google-bert/bert-base-uncased']}[layers=0,1,2]']",
        f"teachers=[{{name: bert, finetune: {{init: {models['google-bert/bert-base-uncased']}, epochs: 1}}}}]",
        "methods=[{name: kd, label: uniform, tune: {train.learning_rate: [1.0e-3, 1.0e-9], alpha: [0.5]}}]",
        "train.epochs=1",
        "train.precision=fp32",
        "signals.precision=fp32",
    ]
    comparison = compare(load_compare(GRID, overrides))
    assert comparison.done == 1 and not comparison.failed
    (file,) = (comparison.folder / "tuned").glob("*.json")
    search = json.loads(file.read_text(encoding="utf-8"))
    assert [point["choice"] for point in search["tried"]] == [
        {"train.learning_rate": rate, "alpha": 0.5} for rate in (1e-3, 1e-9)
    ]
    best = max(search["tried"], key=lambda point: point["validation"]["accuracy"])
    assert search["chosen"] == best["choice"]
