"""Every verb calls its one function with what was typed, and prints what came out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from distilect.cli import app
from distilect.config import load_config

VERBS = (
    "demo",
    "finetune",
    "pretrain",
    "distill",
    "score",
    "advise",
    "run",
    "compare",
    "estimate",
    "augment",
    "trim",
    "evaluate",
    "predict",
    "report",
    "export",
    "methods",
    "schema",
)
CONFIG = "name: tiny\ndata: {train: train.csv}\nteachers: [teacher-a]\nstudent: 'teacher-a[layers=1]'\nmethod: kd\n"


def call(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), prog_name="distilect")


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG, encoding="utf-8")
    return str(file)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a module of plain functions in the place of a heavy one."""

    def put(name: str, **functions: Any) -> None:
        module = ModuleType(name)
        module.__dict__.update(functions)
        monkeypatch.setitem(sys.modules, name, module)
        package, _, attribute = name.rpartition(".")
        monkeypatch.setattr(sys.modules[package], attribute, module, raising=False)

    return put


@pytest.fixture
def fake_report(stand_in: Any) -> list[Any]:
    """A report room that notes what it was asked for."""
    asked: list[Any] = []

    def build_report(folder: Path) -> Path:
        asked.append(folder)
        return folder / "report.html"

    def build_summary(folders: list[Path], target: Path) -> Path:
        asked.append((folders, target))
        return target

    stand_in(
        "distilect.report",
        build_report=build_report,
        build_summary=build_summary,
        summary_table=lambda metrics: "TABLE " + " ".join(m["method"] for m in metrics),
    )
    return asked


def run_python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


# ---- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    result = call(verb, "--help")
    assert result.exit_code == 0
    assert f"Example: distilect {verb}" in result.output


def test_the_list_of_verbs_is_complete_and_no_line_of_it_is_cut() -> None:
    result = call("--help")
    assert result.exit_code == 0
    for verb in VERBS:
        assert f"\n  {verb} " in result.output
    assert "..." not in result.output.partition("Commands:")[2]


def test_help_starts_without_loading_what_is_heavy() -> None:
    code = (
        "import sys, distilect, distilect.cli\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'yaml', 'pyarrow', 'sklearn', 'distilect.config'}\n"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, f"imported at start: {done.stderr}"


def test_help_takes_less_than_half_a_second() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        assert run_python("-m", "distilect", "--help").returncode == 0
        return time.perf_counter() - start

    # The best of five: other work on the machine must not fail this.
    assert min(seconds() for _ in range(5)) < 0.5


def test_the_version_is_the_library_s() -> None:
    import distilect

    assert call("--version").output == f"distilect {distilect.__version__}\n"


# ---- what each verb calls --------------------------------------------------------------------------------------------


def test_run_passes_the_config_with_overrides_and_names_the_report(
    config: str, stand_in: Any, fake_report: list[Any]
) -> None:
    seen: dict[str, Any] = {}

    def run(settings: Any, *, overwrite: bool = False) -> list[Any]:
        seen.update(settings=settings, overwrite=overwrite)
        return [SimpleNamespace(folder=Path("r/tiny"), metrics={"method": "kd"}, report=Path("r/tiny/report.html"))]

    stand_in("distilect.pipeline", run=run)
    result = call("run", config, "train.epochs=5", "method=uniform", "--overwrite")
    assert result.exit_code == 0, result.output
    assert (seen["settings"].train.epochs, seen["settings"].method.name, seen["overwrite"]) == (5, "uniform", True)
    assert "TABLE kd" in result.output
    assert "report: r/tiny/report.html" in result.output
    assert fake_report == []


def test_run_with_baselines_sets_the_students_side_by_side(
    config: str, tmp_path: Path, stand_in: Any, fake_report: list[Any]
) -> None:
    folders = [tmp_path / "tiny", tmp_path / "tiny-kd"]
    results = [SimpleNamespace(folder=f, metrics={"method": f.name}, report=f / "report.html") for f in folders]
    stand_in("distilect.pipeline", run=lambda settings, overwrite: results)
    result = call("run", config, f"output={tmp_path}")
    assert result.exit_code == 0, result.output
    assert fake_report == [(folders, tmp_path / "tiny-summary.html")]
    assert f"report: {tmp_path}/tiny-summary.html" in result.output


def test_a_dry_run_prints_the_whole_config_as_it_would_be_run(config: str, tmp_path: Path, stand_in: Any) -> None:
    stand_in("distilect.selection", likely_stages=lambda method, train: [])
    stand_in("distilect.pipeline", run=lambda *a, **k: pytest.fail("a dry run ran"))
    result = call("run", config, "--dry-run", "seed=7")
    assert result.exit_code == 0, result.output
    again = tmp_path / "again.yaml"
    again.write_text(result.stdout, encoding="utf-8")
    assert load_config(again) == load_config(config, ["seed=7"])
    assert yaml.safe_load(result.stdout)["train"]["batch_size"] == 32


def test_score_prints_what_was_done(config: str, stand_in: Any) -> None:
    stand_in("distilect.pipeline", score=lambda settings: [f"{settings.name}: 3 rows scored"])
    assert call("score", config, "name=other").output == "other: 3 rows scored\n"


def test_trim_prints_what_became_smaller(stand_in: Any) -> None:
    seen: list[Any] = []

    def trim(model: str, texts: list[str], **options: Any) -> dict[str, Any]:
        seen.append((model, texts, options))
        shares = {"changed": 0.0257, "unknown": (0.0, 0.0001), "needed": 1663, "report": ["a line"]}
        return {"tokens": [30522, 4000], "parameters": [22.71e6, 12.53e6], "bytes": [91.6e6, 50.2e6], **shares}

    stand_in("distilect.pipeline", trim=trim)
    result = call("trim", "m", "a.csv", "b.csv", "--size", "4000", "--output", "small", "--text", "t")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "tokens       30,522 → 4,000 (1,663 for any text)",
        "parameters   22.71 M → 12.53 M",
        "on disk      91.6 MB → 50.2 MB",
        "text         2.57 % of its tokens are cut into smaller ones",
        "unknown      0.00 % → 0.01 % of the tokens",
        "a line",
        "model: small",
    ]
    assert seen == [("m", ["a.csv", "b.csv"], {"size": 4000, "output": Path("small"), "text": ["t"], "data_dir": "."})]
    assert call("trim", "m", "--output", "small").exit_code == 0
    assert seen[1][:2] == ("m", ()) and seen[1][2]["size"] is None
    assert call("trim", "m", "--output", "small", "--size", "0").exit_code == 2


def test_finetune_passes_all_its_options(stand_in: Any, fake_report: list[Any]) -> None:
    seen: dict[str, Any] = {}

    def finetune(train: str, **options: Any) -> dict[str, Any]:
        seen.update(options, train=train)
        return {"method": "finetune"}

    stand_in("distilect.pipeline", finetune=finetune)
    words = "train.csv train.warmup_ratio=0 --init bert[layers=4] --output runs/a --dev dev.csv --overwrite --epochs 2"
    more = "--learning-rate 1e-4 --batch-size 8 --max-length 64 --seed 3 --kind classification --labels no,yes"
    result = call("finetune", *words.split(), *more.split(), "--metric", "macro_f1", "--text", "a", "--label", "y")
    assert result.exit_code == 0, result.output
    assert "model: runs/a/student" in result.output
    assert seen == {
        "train": "train.csv",
        "init": "bert[layers=4]",
        "output": "runs/a",
        "dev": "dev.csv",
        "overrides": ["train.warmup_ratio=0"],
        "overwrite": True,
        "data_dir": ".",
        "epochs": 2.0,
        "learning_rate": 1e-4,
        "batch_size": 8,
        "max_length": 64,
        "seed": 3,
        "kind": "classification",
        "labels": ["no", "yes"],
        "metrics": ["macro_f1"],
        "text": ["a"],
        "label": ["y"],
    }


def test_finetune_passes_nothing_that_was_not_given(stand_in: Any, fake_report: list[Any]) -> None:
    seen: dict[str, Any] = {}
    stand_in("distilect.pipeline", finetune=lambda train, **options: seen.update(options) or {"method": "finetune"})
    assert call("finetune", "t.csv", "--init", "bert", "--output", "runs/a").exit_code == 0
    assert set(seen) == {"init", "output", "dev", "overrides", "overwrite", "data_dir"}


def test_distill_passes_all_its_options(stand_in: Any, fake_report: list[Any]) -> None:
    seen: dict[str, Any] = {}

    def distill(*tables: Any, **options: Any) -> Any:
        seen.update(options, tables=tables)
        return SimpleNamespace(folder=Path("runs/a"), metrics={"method": "keep"}, report=Path("runs/a/report.html"))

    stand_in("distilect.pipeline", distill=distill)
    words = "train.csv train.max_length=64 --teacher a --teacher b --output runs/a --dev dev.csv --layers 6 --budget 1h"
    result = call(
        "distill", *words.split(), *["--extra", "more.csv", "--text", "t", "--label", "y", "--seed", "3", "--overwrite"]
    )
    assert result.exit_code == 0, result.output
    for line in ("student: runs/a/student", "report: runs/a/report.html", "repeat: distilect run runs/a/config.yaml"):
        assert line in result.output
    assert seen == {
        "tables": ("train.csv", "dev.csv"),
        "teachers": ["a", "b"],
        "student": None,
        "layers": 6,
        "method": "keep",
        "budget": "1h",
        "name": "a",
        "output": Path("runs"),
        "overwrite": True,
        "overrides": ["train.max_length=64"],
        "data_dir": ".",
        "seed": 3,
        "data": {"text": ["t"], "label": ["y"], "extra": "more.csv"},
    }


def test_pretrain_passes_all_its_options(stand_in: Any) -> None:
    seen: dict[str, Any] = {}
    stand_in(
        "distilect.pipeline",
        pretrain=lambda texts, **options: seen.update(options, texts=texts) or {"losses": {"feature": 0.25}},
    )
    words = "bert train.batch_size=64 --text a.csv --text b.csv --layers 6 --output runs/six --budget 2h --seed 1"
    result = call("pretrain", *words.split())
    assert result.exit_code == 0 and result.output.split() == ["feature", "0.2500", "model:", "runs/six/student"]
    assert seen == {
        "texts": ["a.csv", "b.csv"],
        "init": "bert",
        "output": "runs/six",
        "layers": 6,
        "budget": "2h",
        "overrides": ["train.batch_size=64"],
        "overwrite": False,
        "data_dir": ".",
        "seed": 1,
    }


def test_evaluate_passes_only_what_the_library_s_function_takes() -> None:
    pipeline = pytest.importorskip("distilect.pipeline", exc_type=ImportError)
    import inspect

    from distilect.cli.app import evaluate

    assert set(inspect.signature(evaluate).parameters) <= set(inspect.signature(pipeline.evaluate).parameters)


@pytest.mark.parametrize(
    "words",
    [
        "finetune t.csv --init bert --output o --epochs 1 --epochs 2",
        "evaluate m t.csv --kind=regression --kind classification",
        "predict m t.csv --output a.csv --output b.csv",
        "export r --dev a.csv --dev b.csv",
    ],
)
def test_an_option_of_one_value_is_refused_when_it_is_given_twice(words: str) -> None:
    result = call(*words.split())
    assert result.exit_code == 2
    assert "is given twice: it takes one value" in result.output


def test_an_option_of_several_values_may_be_repeated(stand_in: Any) -> None:
    seen: dict[str, Any] = {}

    def evaluate(*_: Any, **options: Any) -> dict[str, Any]:
        seen.update(options)
        return {"scores": {}, "rows": 1}

    stand_in("distilect.pipeline", evaluate=evaluate)
    assert (
        call("evaluate", "m", "t.csv", "--text", "a", "--text", "b", "--labels", "x", "--labels", "y,z").exit_code == 0
    )
    assert seen["text"] == ["a", "b"] and seen["labels"] == ["x", "y,z"]


def test_predict_passes_all_its_options_and_prints_what_was_done(stand_in: Any) -> None:
    seen: dict[str, Any] = {}

    def predict_file(*given: Any, **options: Any) -> list[str]:
        seen.update(options, given=given)
        return ["3 rows", "1 cut"]

    stand_in("distilect.pipeline.prediction", predict_file=predict_file)
    result = call(
        "predict", "m", "t.csv", "--output", "p.csv", "--text", "a", "--max-length", "64", "--precision", "fp32"
    )
    assert result.output.splitlines() == ["3 rows", "1 cut"]
    assert seen["given"] == ("m", "t.csv", Path("p.csv"))
    assert (seen["text"], seen["max_length"], seen["precision"]) == (["a"], 64, "fp32")


def test_augment_passes_all_its_options_and_prints_what_was_done(stand_in: Any) -> None:
    seen: dict[str, Any] = {}

    def augment_file(train: str, output: Path, times: int, **options: Any) -> str:
        seen.update(options, train=train, output=output, times=times)
        return "40 rows made of 2"

    stand_in("distilect.augment", augment_file=augment_file)
    result = call(
        "augment",
        "train.csv",
        "--output",
        "more.jsonl",
        "--times",
        "5",
        "--seed",
        "3",
        "--method",
        "mlm",
        "--model",
        "bert",
        "--text",
        "a",
        "--text",
        "b",
        "--label",
        "y",
        "--labels",
        "--data-dir",
        "d",
    )
    assert result.output == "40 rows made of 2\n"
    assert seen == {
        "train": "train.csv",
        "output": Path("more.jsonl"),
        "times": 5,
        "seed": 3,
        "method": "mlm",
        "model": "bert",
        "text": ["a", "b"],
        "label": "y",
        "keep_labels": True,
        "data_dir": "d",
    }
    call("augment", "train.csv", "--output", "more.csv")
    assert (seen["times"], seen["method"], seen["keep_labels"]) == (20, "neighbours", False)


def test_evaluate_prints_one_score_per_line(stand_in: Any) -> None:
    seen: dict[str, Any] = {}

    def evaluate(model: str, data: str, **options: Any) -> dict[str, Any]:
        seen.update(options, model=model, data=data)
        return {"scores": {"accuracy": 0.75, "f1": 0.8}, "rows": 4}

    stand_in("distilect.pipeline", evaluate=evaluate)
    result = call("evaluate", "model", "dev.csv", "--max-length", "64")
    assert [line.split() for line in result.output.splitlines()] == [
        ["accuracy", "0.7500"],
        ["f1", "0.8000"],
        ["rows", "4"],
    ]
    assert (seen["model"], seen["data"], seen["max_length"]) == ("model", "dev.csv", 64)


def test_report_of_one_run_and_of_several(tmp_path: Path, fake_report: list[Any]) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    assert call("report", str(a)).output == f"report: {a}/report.html\n"
    result = call("report", str(a), str(b))
    assert result.exit_code == 0
    assert fake_report == [a, a, b, ([a, b], tmp_path / "summary.html")]
    assert f"side by side: {tmp_path}/summary.html" in result.output


def test_demo_passes_its_folder(tmp_path: Path, stand_in: Any) -> None:
    pytest.importorskip("distilect.demo")
    seen: list[Any] = []
    stand_in("distilect.demo.run", run_demo=lambda folder, quick, seed: seen.append((folder, quick, seed)))
    assert call("demo", "--folder", str(tmp_path), "--quick", "--seed", "2").exit_code == 0
    assert seen == [(tmp_path, True, 2)]


def test_methods_lists_every_preset_on_a_line_and_the_parts() -> None:
    from distilect.selection import presets

    result = call("methods")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    for name, preset in presets().items():
        assert any(line.split()[:1] == [name] and preset.summary in line for line in lines)
    for part in ("rows", "teachers", "knowledge", "loss_weights"):
        assert any(line.startswith(f"  {part} ") for line in lines)


def test_a_method_is_shown_with_every_option_of_its_parts() -> None:
    from distilect.selection import get_preset, registry

    result = call("methods", "rlkd")
    assert result.exit_code == 0, result.output
    spec = get_preset("rlkd").teachers
    selector = registry.TEACHERS[spec if isinstance(spec, str) else spec["name"]]
    assert f"method.teachers: {selector.name}" in result.stdout
    for option, field in selector.Options.model_fields.items():
        assert f"\n  {option} = " in result.stdout
        assert field.description and field.description.split()[0] in result.stdout


def test_every_method_and_every_part_can_be_shown() -> None:
    from distilect.selection import presets
    from distilect.selection.methods import METHOD_PARTS

    for name in [*presets(), *(part for classes in METHOD_PARTS.values() for part in classes)]:
        assert call("methods", name).exit_code == 0, name


def test_a_misspelt_method_gets_its_nearest() -> None:
    result = call("methods", "rlkdd")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Did you mean 'rlkd'?" in result.stderr


def test_a_schema_is_printed_as_json() -> None:
    result = call("schema", "run")
    assert result.exit_code == 0 and "train" in json.loads(result.stdout)["properties"]
    assert call("schema", "walk").exit_code == 2


def test_the_module_runs_as_the_command_does() -> None:
    done = run_python("-m", "distilect", "--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "distilect")
