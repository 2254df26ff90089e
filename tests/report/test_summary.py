"""Runs side by side: who scored highest, what it cost, what was set differently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distilect.report import build_summary
from distilect.report.figures import score_against_cost
from distilect.report.models import model_rows
from tests.report.run_files import metrics, model, write_run
from tests.report.test_page import Page, names


def run(folder: Path, accuracy: float, config: str = "", **changes: Any) -> Path:
    values = metrics(name=folder.name, **changes)
    values["student"]["scores"]["accuracy"] = accuracy
    write_run(folder, values)
    (folder / "config.yaml").write_text(config or "seed: 0\n")
    return folder


def test_the_verdict_names_the_best_student_and_how_far_the_next_is(tmp_path: Path) -> None:
    folders = [run(tmp_path / "a", 0.70), run(tmp_path / "b", 0.74, method="gate"), run(tmp_path / "c", 0.72)]
    page = Page(build_summary(folders, tmp_path / "all.html"))
    assert "b scores highest: accuracy 0.740, 92.5 % of its best teacher's." in page.text
    assert "Method gate; c follows 0.020 behind." in page.text
    assert "On 100 rows, the 95 % confidence interval of this accuracy is about ±0.086" in page.text


def test_runs_of_different_tasks_are_not_ranked_and_it_says_so(tmp_path: Path) -> None:
    other = {**metrics()["task"], "name": "another"}
    page = Page(build_summary([run(tmp_path / "a", 0.7), run(tmp_path / "b", 0.8, task=other)], tmp_path / "x.html"))
    assert "scores highest" not in page.text and "of different tasks" in page.text


def test_only_settings_that_differ_are_listed_down_to_those_of_a_teacher(tmp_path: Path) -> None:
    text = "name: {0}\nseed: 0\nmethod: {{name: {0}}}\nteachers: [{{name: t, epochs: {1}}}, {{name: u}}]\n"
    folders = [run(tmp_path / "kd", 0.7, text.format("kd", 1)), run(tmp_path / "gate", 0.7, text.format("gate", 2))]
    page = Page(build_summary(folders, tmp_path / "x.html"))
    settings = page.text.split("Settings that differ")[1]
    assert "method.name" in settings and "teachers.0.epochs" in settings
    assert "seed" not in settings.split("Runs")[0] and "teachers.1" not in settings


def test_curves_of_all_runs_are_in_one_plot_and_costs_in_one_table(tmp_path: Path) -> None:
    page = Page(build_summary([run(tmp_path / "a", 0.7), run(tmp_path / "b", 0.7)], tmp_path / "x.html"))
    assert names(page).count("a") == names(page).count("b") == 2  # validation score, loss
    assert "1 min 01 s" in page.text


def test_two_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for part in ("x", "y"):
        run(tmp_path / part / "same", 0.7)
    page = Page(build_summary([tmp_path / "x" / "same", tmp_path / "y" / "same"], tmp_path / "all.html"))
    assert f"same ({tmp_path / 'x' / 'same'})" in page.text and f"same ({tmp_path / 'y' / 'same'})" in page.text


def test_names_of_points_that_are_close_do_not_stand_on_each_other() -> None:
    values = metrics(
        teachers=[{"name": n, **model(0.8 + i / 1000, 80, 8.0 + i / 100)} for i, n in enumerate("abc")],
        student=model(0.6, 40, 2.0),
    )
    figure = score_against_cost(model_rows(values), "accuracy")
    assert figure is not None
    assert len(set(figure.data[0]["textposition"])) == 3
