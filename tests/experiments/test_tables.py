"""The tables say what the results say, in Markdown, LaTeX and HTML, whatever the names hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from distilect.experiments.figure import side_by_side
from distilect.experiments.render import latex, markdown
from distilect.experiments.tables import Section, sections
from distilect.report import build_comparison
from tests.experiments.made import Made


@pytest.fixture(scope="module")
def found() -> list[Section]:
    made = Made()
    for seed in (0, 1, 2):
        for task in ("one", "two"):
            made.add("kd", 0.70 + 0.01 * seed, task=task, seed=seed)
            made.add("a|b_<i>", 0.80 + 0.01 * seed, task=task, seed=seed, family="adaptive", tokens=2000)
            made.add("wasteful", 0.75, task=task, seed=seed, tokens=9000, tuning_tokens=1000)
            made.add("oracle", 0.90, task=task, seed=seed, family="oracle")
    made.add("half", 0.99, task="one")
    return sections(made.results, made.predictions, baseline="kd", contenders=["kd", "a|b_<i>"], resamples=500)


def test_scores_are_sorted_and_the_best_is_set_off(found: list[Section]) -> None:
    table = found[0].tables[0]
    assert [row[0] for row in table.rows] == ["oracle", "a|b_<i>", "wasteful", "kd", "half"]
    row = table.rows[1]
    assert row == ["a|b_<i>", "adaptive", "81.0 ± 1.0", "81.0 ± 1.0", "81.0 ± 1.0", "90.0", "77.5", "2.0", "3"]
    assert table.rows[-1][2:] == ["99.0", "–", "–", "–", "–", "–", "1"]
    assert table.best == {(4, 2), (0, 3), (0, 4)}


def test_differences_carry_adjusted_p_values(found: list[Section]) -> None:
    table = found[0].tables[1]
    assert table.title == "Minus kd"
    row = next(row for row in table.rows if row[0] == "a|b_<i>")
    assert row[1].startswith("+10.0 (") and row[1].endswith("*") and row[3].startswith("+10.0 [+")
    assert row[-2:] == ["2 / 0 / 0", "6 / 0 / 0"]


def test_findings_name_the_best_and_what_is_missing(found: list[Section]) -> None:
    text = "\n".join(found[0].findings)
    assert (
        "Best static method on average: wasteful, 75.0, 83.3 % of the best teacher's score, 62.5 % above chance."
        in text
    )
    assert "Best adaptive method on average: a|b_<i>" in text
    assert "a|b_<i> minus wasteful: +6.0 points" in text
    assert "without average and rank: half" in text and "Some methods have only 1 seed(s)" in text


def test_the_facts_name_chance_and_the_tasks_that_no_share_counts(found: list[Section]) -> None:
    assert dict(found[0].facts)["chance (one prediction for all rows)"] == "one 50.0; two 50.0"
    made = Made().add("kd", 0.7).add("kd", 0.52, task="rte", teacher=0.53)
    facts = dict(sections(made.results, made.predictions, baseline="kd", resamples=100)[0].facts)
    assert facts["chance (one prediction for all rows)"].endswith(
        "significantly above it on rte, which no share counts"
    )


def test_seeds_of_contenders_alone_do_not_stand_beside_averages_without_them() -> None:
    """Seed 3 is an easy one: whoever has it would look better than who lacks it."""
    made = Made()
    for task in ("one", "two"):
        for seed in (0, 1, 2):
            made.add("kd", 0.70, task=task, seed=seed).add("plain", 0.75, task=task, seed=seed)
            made.add("gate", 0.74, task=task, seed=seed, family="adaptive")
        made.add("kd", 0.90, task=task, seed=3).add("gate", 0.98, task=task, seed=3, family="adaptive")
    found = sections(made.results, made.predictions, baseline="kd", contenders=["kd", "gate"], resamples=500)[0]
    tables = {table.title: table for table in found.tables}
    assert list(tables)[2:4] == ["Contenders, all seeds", "Contenders, pair by pair"]
    means = {row[0]: (row[4].split()[0], row[-1]) for row in tables["Scores"].rows}
    assert means == {"plain": ("75.0", "3"), "gate": ("74.0", "3"), "kd": ("70.0", "3")}
    means = {row[0]: (row[4].split()[0], row[-1]) for row in tables["Contenders, all seeds"].rows}
    assert means == {"gate": ("80.0", "4"), "kd": ("75.0", "4")}
    assert next(r for r in tables["Minus kd"].rows if r[0] == "gate")[3].startswith("+4.0 [")
    assert tables["Contenders, pair by pair"].rows[0][1].startswith("+5.0 [")
    assert {row[1] for row in tables["Cost of a trial"].rows} == {"75.0", "74.0", "70.0"}
    assert dict(found.facts)["seeds"] == "0, 1, 2; 3 of the contenders only"
    assert "Best static contender, all seeds, on average: kd, 75.0" in found.findings[0]
    assert "gate minus kd: +5.0 points" in found.findings[2]


def test_without_other_methods_or_on_fewer_tasks_contenders_have_no_table_of_their_own() -> None:
    made = Made()
    for seed in (0, 1):
        made.add("kd", 0.7, seed=seed).add("pkd", 0.8, seed=seed)
    alone = sections(made.results, made.predictions, baseline="kd", contenders=["kd", "pkd"], resamples=100)[0]
    assert [t.title for t in alone.tables][1:3] == ["Minus kd", "Contenders, pair by pair"]
    made.add("plain", 0.7, task="two")
    partly = sections(made.results, made.predictions, baseline="kd", contenders=["kd", "pkd"], resamples=100)[0]
    assert not [t.title for t in partly.tables if t.title.startswith("Contenders")]


def test_teachers_that_were_made_anew_are_told_apart() -> None:
    made = Made().add("kd", 0.7, teacher=0.9).add("pkd", 0.7, teacher=0.9)
    table = sections(made.results, made.predictions, baseline="kd", resamples=100)[0].tables[-1]
    assert (table.title, table.rows, table.note) == ("Teachers", [["t", "6", "90.0"]], "× 100 on dev.")
    made.add("pkd", 0.7, seed=1, teacher=0.85).add("kd", 0.7, seed=1, teacher=0.85)
    table = sections(made.results, made.predictions, baseline="kd", resamples=100)[0].tables[-1]
    assert table.rows == [["t", "6", "90.0 / 85.0"]] and "made anew for later seeds" in table.note


def test_results_of_several_machines_are_told_apart() -> None:
    """A table that names one machine would pass off the others' seeds as its own."""
    made = Made().add("kd", 0.7, seed=0).add("kd", 0.7, seed=1).add("kd", 0.7, seed=2)
    made.results[2]["machine"] = {"platform": "there", "device": "cuda", "gpu": "G"}
    facts = dict(sections(made.results, made.predictions, baseline="kd", resamples=100)[0].facts)
    assert facts["machine"] == "here, cpu (seed 0, 1); there, cuda, G (seed 2)"
    assert facts["versions"] == "distilect 0, torch 2"


def test_the_front_leaves_out_who_costs_more_for_less_and_the_oracle(found: list[Section]) -> None:
    front = found[0].figures[0].data[0]
    assert front["name"] == "Pareto front" and front["x"] == [1000, 2000]
    names = {trace["name"]: trace["hovertext"] for trace in found[0].figures[0].data[1:]}
    assert [n.partition("<br>")[0] for n in names["adaptive"]] == ["a|b_&lt;i&gt;"]
    assert [n.partition("<br>")[0] for n in names["static"]] == ["kd", "wasteful"]


def test_methods_of_one_cost_are_drawn_side_by_side() -> None:
    drawn = side_by_side({"good": (1000, 80.0), "dear": (3000, 81.0), "bad": (1010, 70.0), "fair": (1000, 75.0)})
    assert drawn["bad"] < drawn["fair"] < drawn["good"] and drawn["dear"] == 3000
    assert drawn["bad"] > 0.87 * 1000 and drawn["good"] < 1.13 * 1000


def test_searches_are_part_of_the_cost(found: list[Section]) -> None:
    table = found[0].tables[3]
    assert table.title == "Cost of a trial"
    ratio = {row[0]: row[table.header.index("tokens, × kd")] for row in table.rows}
    assert (ratio["kd"], ratio["wasteful"]) == ("1.00×", "10.0×")


def test_markdown_and_latex_are_not_broken_by_names(found: list[Section]) -> None:
    text = markdown("t", ["intro"], found)
    for line in text.splitlines():
        if line.startswith("| `a"):
            assert line.startswith(("| `a\\|b_<i>` |", "| `a\\|b_<i> − kd` |"))
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if "adaptive" in line and line[0] == "|"}
    assert widths == {10}
    tex = latex(found)
    assert r"\texttt{a|b\_$<$i$>$}" in tex and "81.0 $\\pm$ 1.0" in tex
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == len(found[0].tables)
    assert "%" not in tex.partition("\n")[2].replace(r"\%", "")


def test_the_page_is_self_contained_and_escaped(found: list[Section], tmp_path: Path) -> None:
    page = build_comparison("a <b>", ["of `kd`"], found, tmp_path / "comparison.html").read_text()
    assert "<title>a &lt;b&gt;" in page and "a|b_<i>" not in page
    assert "a|b_&lt;i&gt;" in page and "Quality against cost" in page
    assert 'http-equiv="Content-Security-Policy"' in page and 'src="http' not in page
    assert page.count("<table>") == len(found[0].tables)
