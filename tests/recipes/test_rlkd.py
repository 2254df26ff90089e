"""The recipes in the RL-KD paper's setting: they parse, their data can be read, and they run on tiny models of the same families."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from distilect.config import RunConfig, load_config
from distilect.data import load_data
from distilect.models import parse_spec
from distilect.pipeline import run
from distilect.pipeline.folders import plan_folders
from distilect.selection import build_teacher_selector, get_preset
from tests.tiny import SENTENCES, tiny_albert, tiny_bert, tiny_roberta, tiny_xlnet

PAPERS = Path(__file__).parents[2] / "recipes" / "papers"
RECIPES = sorted(file for file in PAPERS.glob("rlkd-*.yaml") if file.stem != "rlkd-grid")
MRPC = PAPERS / "rlkd-mrpc.yaml"
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
        return load_config(recipe, [*overrides, *changes])


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


def test_a_dry_run_of_the_recipe_and_its_baselines_finishes(three: list[Any]) -> None:
    names = ("", "finetune", "kd", "kd-3", "kd-4", "kd-5", "uniform", "random-single", "weighted", "logistic")
    expected = ["-".join(filter(None, ("rlkd-mrpc", name))) for name in (*names, "best-single")]
    assert [result.folder.name for result in three] == expected
    for result in three:
        metrics = json.loads((result.folder / "metrics.json").read_text())
        assert np.isfinite([*metrics["student"]["scores"].values(), *metrics["student"]["validation"].values()]).all()
        assert [teacher["name"] for teacher in metrics["teachers"]] == ["bert", "roberta", "albert", "xlnet"]


def test_the_teachers_are_of_the_four_families(three: list[Any]) -> None:
    folders = [Path(teacher["path"]) for teacher in three[0].metrics["teachers"]]
    kinds = [json.loads((folder / "config.json").read_text())["model_type"] for folder in folders]
    assert kinds == ["bert", "roberta", "albert", "xlnet"]


def test_the_policy_takes_over_after_the_warm_up(three: list[Any]) -> None:
    lines = pq.read_table(three[0].folder / "selection.parquet").to_pylist()
    whole = [line for line in lines if line["group"] == "all"]
    shares = [[line[f"teacher/{name}"] for name in ("bert", "roberta", "albert", "xlnet")] for line in whole]
    assert shares[0] == [0.25] * 4 and len(set(shares[1])) > 1
    assert sum(shares[1]) == pytest.approx(1)


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


@pytest.fixture(scope="module")
def grid() -> Any:
    spec = importlib.util.spec_from_file_location("grid", PAPERS / "grid.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(grid: Any, name: str, *overrides: str, recipe: Path = MRPC) -> list[RunConfig]:
    commands = list(grid.commands(recipe, name, list(overrides)))
    assert all(command[:3] == ["distilect", "run", str(recipe)] for command in commands)
    return [load_config(recipe, command[3:]) for command in commands]


def test_the_students_grid_is_the_papers_for_every_method(grid: Any) -> None:
    configs = parsed(grid, "students")
    found = {(c.train.learning_rate, c.method.temperature, c.method.alpha) for c in configs}
    assert found == {(lr, t, a) for lr in (1e-5, 2e-5, 5e-5) for t in (5, 10, 20) for a in (0.2, 0.5, 0.7)}
    assert len({c.name for c in configs}) == len(configs) == 27
    for config in configs:
        first, *others = config.baselines
        assert first.name == "finetune" and first.alpha is None and len(others) == 9
        assert {(b.temperature, b.alpha) for b in others} == {(config.method.temperature, config.method.alpha)}


def test_the_rewards_grid_holds_what_the_students_grid_leaves_out(grid: Any) -> None:
    found = [(c.method.teachers["reward"], c.method.teachers["gamma"]) for c in parsed(grid, "rewards")]
    assert len(found) == 5 * 27
    assert set(found) == {(1, 0.5), (3, 0.3), (3, 0.5), (3, 0.7), (3, 0.9)}
    for command in grid.commands(MRPC, "rewards", []):
        assert "baselines=[]" in command and not any(text.startswith("baselines.") for text in command)


def test_the_teachers_grid_fine_tunes_each_model_alone(grid: Any) -> None:
    configs = parsed(grid, "teachers")
    starts = [teacher.finetune.init for teacher in load_config(MRPC).teachers]
    assert {c.student.init for c in configs} == set(starts) and len(configs) == 4 * 3
    assert all(c.method.name == "finetune" and not c.teachers and not c.baselines for c in configs)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_has_the_grids(grid: Any, recipe: Path) -> None:
    for name in ("teachers", "students", "rewards"):
        last = list(grid.commands(recipe, name, ["seed=3", "name=other"]))[-1]
        config = load_config(recipe, last[3:])
        assert config.seed == 3 and config.name.startswith(f"other-{name}-")


def test_numbers_are_written_so_that_yaml_reads_them_as_numbers(grid: Any) -> None:
    for name in ("teachers", "students", "rewards"):
        for command in grid.commands(MRPC, name, []):
            values = dict(text.partition("=")[::2] for text in command[3:])
            assert isinstance(yaml.safe_load(values["train.learning_rate"]), float)


def test_the_script_runs_on_the_standard_library_and_prints_what_a_shell_reads() -> None:
    command = [sys.executable, "-I", "-S", str(PAPERS / "grid.py"), str(MRPC), "students", f"student={BERT_6}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 27 and f"student={BERT_6}" in shlex.split(lines[0])
    wrong = subprocess.run([*command[:5], "studnets"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "rlkd-grid.yaml has teachers, students, rewards" in wrong.stderr


def test_the_best_cell_is_chosen_on_validation_rows_not_on_dev(grid: Any, tmp_path: Path) -> None:
    scores = {  # held out, dev
        "rlkd-mrpc-students-lr1e-5-T5-a0.2": (0.7, 0.9),
        "rlkd-mrpc-students-lr5e-5-T20-a0.7": (0.8, 0.6),
        "rlkd-mrpc-students-lr5e-5-T20-a0.7-kd-3": (0.75, 0.5),
    }
    for name, (validation, dev) in scores.items():
        student = {"validation": {"accuracy": validation}, "scores": {"accuracy": dev}}
        method = "kd" if "kd" in name.split("-") else "rlkd"
        (tmp_path / name).mkdir()
        metrics = {"method": method, "primary": "accuracy", "student": student}
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    first, *lines = grid.best(MRPC, "students", [f"output={tmp_path}"])
    assert first == "3 finished runs of 27 cells"
    assert [line.split()[0] for line in lines] == ["rlkd", "kd"]
    assert lines[0].endswith("rlkd-mrpc-students-lr5e-5-T20-a0.7") and "0.8000 held out, 0.6000 dev" in lines[0]
    with pytest.raises(ValueError, match="no run of the grid 'rewards' is finished"):
        grid.best(MRPC, "rewards", [f"output={tmp_path}"])
