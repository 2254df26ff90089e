from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from distilect.errors import RunError
from distilect.report import build_report, build_summary
from distilect.report.selection import selection_by_epoch
from tests.report.run_files import metrics, write_answers, write_rows, write_run

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """What a browser makes of a page: elements, visible text, and the sources of scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    @property
    def figures(self) -> list[dict[str, Any]]:
        return [json.loads(source) for source in self.scripts if source.startswith("{")]


def whole_run(folder: Path, **options: Any) -> Path:
    """A run with all of its files."""
    write_run(folder, **options)
    write_rows(folder)
    write_answers(folder)
    return folder


def titles(page: Page) -> list[str]:
    return [str(attrs["aria-label"]) for _, attrs in page.elements if attrs.get("class") == "plot"]


def names(page: Page) -> list[str]:
    return [trace.get("name", "") for figure in page.figures for trace in figure["data"]]


def test_the_verdict_comes_first_and_is_against_the_best_teacher(tmp_path: Path) -> None:
    page = Page(build_report(write_run(tmp_path)))
    assert "90.0 % of the best teacher's accuracy, 2.50× smaller, 2.50× faster" in page.text
    assert "Student 0.720, best teacher (strong) 0.800 accuracy on 100 dev rows: a difference of −0.080." in page.text
    assert page.text.index("90.0 %") < page.text.index("Models")


def test_a_share_just_below_the_teacher_is_not_rounded_up_to_all_of_it(tmp_path: Path) -> None:
    values = metrics()
    values["student"]["scores"]["accuracy"] = 0.79997
    assert "99.9 % of the best teacher" in Page(build_report(write_run(tmp_path, values))).text


def test_a_larger_slower_student_is_called_larger_and_slower(tmp_path: Path) -> None:
    values = metrics()
    values["student"] |= {"bytes": 200_000_000, "latency_ms": {"p50": 15.0, "p95": 20.0}}
    assert "2.00× larger, 1.50× slower" in Page(build_report(write_run(tmp_path, values))).text


def test_curves_and_selection_are_drawn_from_the_files(tmp_path: Path) -> None:
    page = Page(build_report(write_run(tmp_path)))
    assert {"training", "validation", "accuracy", "weak", "entropy", "labels", "asked teachers"} <= set(names(page))
    loss = next(trace for figure in page.figures for trace in figure["data"] if trace["name"] == "training")
    assert loss["x"] == [10, 20, 30, 40]
    assert loss["y"] == [0.2, 0.1, 2 / 30, 0.05]


def test_the_page_stands_alone_loads_nothing_and_is_small_enough_to_mail(tmp_path: Path) -> None:
    path = build_report(write_run(tmp_path))
    page = Page(path)
    assert path.stat().st_size <= 6e6
    assert sum("Plotly" in source and len(source) > 1e6 for source in page.scripts) == 1
    addresses = [attrs.get("src") or attrs.get("href") or "#" for _, attrs in page.elements]
    assert {address[0] for address in addresses} == {"#"}, "an address outside the page"
    policy = next(attrs["content"] for _, attrs in page.elements if "http-equiv" in attrs)
    assert policy is not None and policy.startswith("default-src 'none'")


def test_a_script_in_any_name_or_label_stays_text(tmp_path: Path) -> None:
    plain = Page(build_report(write_run(tmp_path / "plain")))
    values = metrics(name=EVIL, method=EVIL, primary=EVIL, versions={EVIL: EVIL}, machine={EVIL: EVIL})
    values["task"] |= {"name": EVIL, "labels": [EVIL]}
    values["student"]["source"] = {"path": EVIL}
    values["student"]["scores"][EVIL] = 0.7
    values["teachers"][0]["name"] = EVIL
    values["teachers"][0]["scores"][EVIL] = 0.7
    folder = write_run(tmp_path / "evil", values, name=EVIL, group=EVIL)
    write_rows(folder, teachers=(EVIL, "b"), text=EVIL)
    write_answers(folder, teachers=(EVIL, "b"), text=EVIL, labels=(EVIL, "b"))
    page = Page(build_report(folder))
    assert EVIL in page.text
    assert not [tag for tag, attrs in page.elements if tag == "img" or "onerror" in attrs]
    assert len([tag for tag, _ in page.elements if tag == "script"]) - len(page.figures) == len(
        [tag for tag, _ in plain.elements if tag == "script"]
    ) - len(plain.figures)
    assert not [source for source in page.scripts if source.startswith("alert")]
    # plotly reads HTML in its labels: there a name has to be escaped once more
    assert not [name for name in names(page) if "<" in name]
    hovers = [text for figure in page.figures for trace in figure["data"] for text in trace.get("text", [])]
    assert hovers and not [text for text in hovers if "<" in str(text).replace("<br>", "")]
    axes = [name for figure in page.figures for name in figure["data"][0].get("y", []) if isinstance(name, str)]
    assert axes and not [name for name in axes if "<" in name]


def test_a_script_in_the_summary_page_stays_text(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, metrics(name=EVIL, method=EVIL)) for name in "ab"]
    page = Page(build_summary(folders, tmp_path / "summary.html"))
    assert EVIL in page.text
    assert not [tag for tag, _ in page.elements if tag == "img"]


def test_metrics_alone_make_a_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"student": {"scores": {"accuracy": 0.5}}}')
    page = Page(build_report(tmp_path))
    assert "accuracy 0.500" in page.text
    assert page.figures == []


@pytest.mark.parametrize("content", ["{}", '{"student": null, "teachers": 3, "task": [], "cost": "x", "rows": 1}'])
def test_no_content_of_metrics_breaks_the_page(tmp_path: Path, content: str) -> None:
    (tmp_path / "metrics.json").write_text(content)
    assert "no student" in Page(build_report(tmp_path)).text


@pytest.mark.parametrize("missing", ["student", "teachers", "task", "primary", "cost", "rows", "method", "signals"])
def test_each_part_of_metrics_may_be_missing(tmp_path: Path, missing: str) -> None:
    values = {key: value for key, value in metrics().items() if key != missing}
    assert "Models" in Page(build_report(write_run(tmp_path, values))).text


@pytest.mark.parametrize(
    "missing", ["config.yaml", "history.jsonl", "selection.parquet", "rows.parquet", "predictions.parquet"]
)
def test_each_other_file_may_be_missing(tmp_path: Path, missing: str) -> None:
    (whole_run(tmp_path) / missing).unlink()
    assert "90.0 %" in Page(build_report(tmp_path)).text


def test_half_a_line_of_history_and_a_damaged_table_are_noted_not_fatal(tmp_path: Path) -> None:
    write_run(tmp_path)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 50, "train/l')
    damaged = ("selection.parquet", "rows.parquet", "predictions.parquet")
    for name in damaged:
        (tmp_path / name).write_bytes(b"PAR1 no")
    page = Page(build_report(tmp_path))
    assert "left out: 1" in page.text
    for name in damaged:
        assert f"{name} could not be read" in page.text
    assert "training" in names(page)


def test_nan_scores_are_shown_as_unknown(tmp_path: Path) -> None:
    values = metrics()
    values["student"]["scores"]["accuracy"] = float("nan")
    page = Page(build_report(write_run(tmp_path, values)))
    assert "nan" not in re.sub(r"[a-z]*nan[a-z]+|[a-z]+nan", "", page.text.lower())
    assert "accuracy –" in page.text


def test_a_negative_teacher_score_gives_no_share(tmp_path: Path) -> None:
    values = metrics()
    for raw in [values["student"], *values["teachers"]]:
        raw["scores"] = {"accuracy": -0.1}
    assert "accuracy -0.100, 2.00× smaller" in Page(build_report(write_run(tmp_path, values))).text


def test_a_run_without_dev_shows_the_validation_score_and_says_so(tmp_path: Path) -> None:
    values = metrics()
    for raw in [values["student"], *values["teachers"]]:
        raw["scores"] = {}
    page = Page(build_report(write_run(tmp_path, values)))
    assert "accuracy 0.750 on the validation split (no dev rows), 2.00× smaller" in page.text


def test_a_long_history_does_not_make_a_heavy_page(tmp_path: Path) -> None:
    write_run(tmp_path)
    lines = (json.dumps({"step": step, "train/loss": 1 / step}) for step in range(1, 20_001))
    (tmp_path / "history.jsonl").write_text("\n".join(lines))
    page = Page(build_report(tmp_path))
    assert max(len(trace["x"]) for figure in page.figures for trace in figure["data"]) <= 1500


def test_a_folder_without_a_run_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no metrics\.json in .*: expected the folder of a finished run"):
        build_report(tmp_path)
    (tmp_path / "metrics.json").write_text("[1]")
    with pytest.raises(RunError, match="expected a JSON object, got list"):
        build_report(tmp_path)


def test_the_summary_links_the_runs_own_pages_relative_to_itself(tmp_path: Path) -> None:
    build_report(write_run(tmp_path / "one two"))
    write_run(tmp_path / "three")
    page = Page(build_summary([tmp_path / "one two", tmp_path / "three"], tmp_path / "pages" / "all.html"))
    assert [attrs["href"] for tag, attrs in page.elements if tag == "a"] == ["./../one%20two/report.html"]


def test_a_summary_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="at least one run folder"):
        build_summary([], tmp_path / "all.html")


def test_writing_leaves_no_temporary_files(tmp_path: Path) -> None:
    build_report(write_run(tmp_path))
    assert not list(tmp_path.glob(".*"))


def test_a_teacher_with_more_weight_where_it_is_right_gets_a_figure():
    def rows(right, wrong):
        return [{"epoch": e, "group": "all", "right/a": right, "wrong/a": wrong, "right/b": None} for e in (0, 1)]

    titles = [figure.title for figure in selection_by_epoch(rows(0.9, 0.2))]
    assert "Teacher weights where right and wrong" in titles
    figure = selection_by_epoch(rows(0.9, 0.2))[titles.index("Teacher weights where right and wrong")]
    assert [trace["name"] for trace in figure.data][:2] == ["a, right", "a, wrong"]
    assert figure.data[0]["y"] == [0.9, 0.9] and figure.data[1]["y"] == [0.2, 0.2]
    assert not selection_by_epoch(rows(0.5, 0.5)) and not selection_by_epoch(rows(None, 0.5))


def test_the_page_rebuilds_from_the_run_s_files_alone(tmp_path: Path) -> None:
    first = build_report(whole_run(tmp_path / "run")).read_bytes()
    moved = tmp_path / "elsewhere"
    (tmp_path / "run").rename(moved)
    (moved / "report.html").unlink()
    assert build_report(moved).read_bytes() == first


def test_sections_that_a_run_has_are_listed_and_led_to(tmp_path: Path) -> None:
    page = Page(build_report(whole_run(tmp_path)))
    targets = [attrs["href"] for tag, attrs in page.elements if tag == "a"]
    ids = {f"#{attrs['id']}" for _, attrs in page.elements if attrs.get("id")}
    assert targets == ["#models", "#learning", "#selection", "#health", "#predictions", "#differences", "#cost"]
    assert set(targets) <= ids


def test_selectors_health_is_apart_from_learning_and_selection(tmp_path: Path) -> None:
    page = Page(build_report(write_run(tmp_path)))
    assert "Policy" in titles(page)
    assert page.text.index("Selectors' health") > page.text.index("What was selected")


def test_a_run_over_sst_2_stays_below_six_megabytes(tmp_path: Path) -> None:
    """67,349 rows, long texts, three teachers, a long history, dev as large as train: sampled, not dumped."""
    write_run(tmp_path)
    long = "an awkwardly long review of row {row} " * 12
    write_rows(tmp_path, 400, epochs=3, teachers=("a", "b", "c"), text=long, asked=0.5)
    write_answers(tmp_path, 67_349, teachers=("a", "b", "c"), text=long)
    lines = ({"step": s, **{f"policy/p_{k}": (s + k) % 7 / 7 for k in range(8)}} for s in range(1, 6316))
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert build_report(tmp_path).stat().st_size <= 6e6
