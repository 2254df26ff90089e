"""The content of a comparison's page as plain data: sections of tables and figures. `render` gives them their form."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect.evaluation import Chance, Difference
from distilect.experiments.figure import SYMBOLS, quality_against_cost
from distilect.experiments.results import Result
from distilect.experiments.statistics import SIGNIFICANT, Compared, Cost, Group, PairedTests, cost_of, groups
from distilect.report import words
from distilect.report.figures import Figure

NONE = words.NONE
VERSIONS, MACHINE = ("distilect", "torch", "transformers"), ("platform", "device", "gpu")


@dataclass(frozen=True)
class TableData:
    """A table of texts.

    Attributes:
        header: one title per column; the first column names the rows.
        best: (row, column) of entries to set off.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    best: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class Section:
    """One scenario with one student."""

    title: str
    facts: list[tuple[str, str]]
    findings: list[str]
    tables: list[TableData]
    figures: list[Figure] = field(default_factory=list)


def sections(
    results: Sequence[Result],
    predictions: Mapping[str, NDArray[Any]],
    *,
    baseline: str,
    contenders: Sequence[str] = (),
    resamples: int = 2000,
) -> list[Section]:
    """All sections of a comparison, from its results and predictions alone.

    Seeds that only contenders have are in tables of the contenders, not beside averages of methods that lack them: a seed's rows and
    teachers may be harder than another's.
    """
    tests = PairedTests(predictions, resamples)
    return [_section(group, tests, baseline, contenders) for group in groups(results)]


def _section(whole: Group, tests: PairedTests, baseline: str, contenders: Sequence[str]) -> Section:
    extra, chances = whole.extra_seeds(contenders), tests.chances(whole)
    group, final = whole.only(without=extra), whole.only(contenders)
    reference = baseline if baseline in group.methods else group.methods[0]
    families = {str(result["method"]): str(result["family"]) for result in whole.results}
    compared = tests.against(group, reference)
    costs = {method: cost for method in group.methods if (cost := cost_of(group, method)) is not None}
    tables = [_scores("Scores", group, families, chances), _differences(group, compared, reference)]
    decided = final.tasks == whole.tasks and len(final.complete) > 1
    if decided and extra:
        tables.append(_scores("Contenders, all seeds", final, families, chances))
    if decided:
        tables.append(_pairs(final, tests))
    tables += [_costs(group, costs, reference), _teachers(whole)]
    figure = quality_against_cost(group, costs, families)
    best_among = ("contender, all seeds,", final) if decided and extra else ("method", group)
    return Section(
        title=f"{group.scenario}, student {group.student}",
        facts=_facts(whole, tests, extra, chances),
        findings=_best(*best_among, tests, families, chances) + _significant(group, compared, reference),
        tables=tables,
        figures=[figure] if figure else [],
    )


# ---- facts and findings ----------------------------------------------------------------------------------------------


def _facts(
    group: Group, tests: PairedTests, extra: Collection[int], chances: Mapping[str, Chance]
) -> list[tuple[str, str]]:
    results = group.results
    chance = "; ".join(f"{task} {_points(c.score)}" for task, c in chances.items())
    if out := group.at_chance(chances):
        chance += f"; the best teacher is not significantly above it on {', '.join(out)}, which no share counts"
    student = results[0]["student"]
    rows = "; ".join(
        f"{task} {r['train']:,} train, {r['validation']:,} validation, {r['extra']:,} text only, {r['dev']:,} dev"
        for task in group.tasks
        for r in [next(result["rows"] for result in results if result["task_name"] == task)]
    )
    seeds = _list({int(result["seed"]) for result in results} - set(extra))
    return [
        ("rows", rows),
        ("student", f"{student['layers']} layers, {words.count(student['parameters'])} parameters"),
        ("seeds", seeds + (f"; {_list(extra)} of the contenders only" if extra else "")),
        ("trials", str(len(results))),
        ("resamples", f"{tests.resamples:,}"),
        ("chance (one prediction for all rows)", chance or NONE),
        ("versions", _by_seed(results, lambda r: [f"{k} {r['versions'][k]}" for k in VERSIONS if k in r["versions"]])),
        ("machine", _by_seed(results, lambda r: [str(r["machine"][k]) for k in MACHINE if k in r["machine"]])),
    ]


def _by_seed(results: Sequence[Result], describe: Callable[[Result], list[str]]) -> str:
    """What the results say of themselves; where several machines made them, with the seeds that each made."""
    seeds: dict[str, set[int]] = {}
    for result in results:
        seeds.setdefault(", ".join(describe(result)), set()).add(int(result["seed"]))
    if len(seeds) == 1:
        return next(iter(seeds))
    return "; ".join(f"{text} (seed {_list(numbers)})" for text, numbers in seeds.items())


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _best(
    among: str, group: Group, tests: PairedTests, families: Mapping[str, str], chances: Mapping[str, Chance]
) -> list[str]:
    """The best method of each family, and a test of the best adaptive against the best static one."""
    found, best = [], {}
    for family in SYMBOLS:
        of_family = [method for method in group.complete if families[method] == family]
        if of_family:
            name = best[family] = max(of_family, key=lambda m: group.average(m) or -math.inf)
            kept, above = group.kept(name, chances), group.kept(name, chances, above=True)
            share = f", {_cut(100 * kept)} % of the best teacher's score" if kept is not None else ""
            share += f", {_cut(100 * above)} % above chance" if share and above is not None else ""
            found.append(f"Best {family} {among} on average: {name}, {_points(group.average(name))}{share}.")
    if "static" in best and "adaptive" in best:
        difference = tests.average(group, best["adaptive"], best["static"])
        if difference is not None:
            found.append(
                f"{best['adaptive']} minus {best['static']}: {_signed(difference.difference)} points {_interval(difference)}, "
                f"p = {_p(difference.p_value)} (one test; both methods were picked by these scores, which favours the better one)."
            )
    return found


def _significant(group: Group, compared: Sequence[Compared], baseline: str) -> list[str]:
    significant = [c for c in compared if c.average is not None and c.average.p_value < SIGNIFICANT]
    better = [c.method for c in significant if c.average is not None and c.average.difference > 0]
    worse = [c.method for c in significant if c.average is not None and c.average.difference < 0]
    found = [
        f"Significantly better than {baseline} on average (Holm-corrected, p < {SIGNIFICANT}): {', '.join(better) or 'none'}; "
        f"significantly worse: {', '.join(worse) or 'none'}."
    ]
    fewest = min(len(seeds) for seeds in group.runs.values())
    if fewest < 3:
        found.append(
            f"Some methods have only {fewest} seed(s): their p-values reflect little or nothing of the spread between seeds."
        )
    missing = [method for method in group.methods if method not in group.complete]
    if missing:
        found.append(f"Not on all tasks, so without average and rank: {', '.join(missing)}.")
    return found


# ---- tables ----------------------------------------------------------------------------------------------------------


def _scores(title: str, group: Group, families: Mapping[str, str], chances: Mapping[str, Chance]) -> TableData:
    """Mean ± standard deviation × 100 per task and on average, share of the teacher, rank; best first."""
    ranks, averages = group.ranks(), {method: group.average(method) for method in group.methods}
    order = sorted(group.methods, key=lambda m: math.inf if averages[m] is None else -float(averages[m] or 0.0))
    metrics = {result["task_name"]: result["primary"] for result in group.results}
    rows = []
    for method in order:
        counts = sorted(len(group.seeds(task, method)) for task in group.tasks if group.seeds(task, method))
        shares = [group.kept(method, chances), group.kept(method, chances, above=True)]
        average = averages[method]
        rows.append(
            [
                method,
                families[method],
                *(_mean_std(group.scores(task, method)) for task in group.tasks),
                NONE if average is None else _mean_std(group.average_by_seed(method), mean=average),
                *(NONE if share is None else _cut(100 * share) for share in shares),
                f"{ranks[method]:.1f}" if method in ranks else NONE,
                "–".join(map(str, dict.fromkeys((counts[0], counts[-1])))),
            ]
        )
    columns = [{method: group.mean(task, method) for method in order} for task in group.tasks] + [averages]
    best = set()
    for number, column in enumerate(columns, start=2):
        known = [value for value in column.values() if value is not None]
        best |= {(row, number) for row, method in enumerate(order) if known and column[method] == max(known)}
    titles = [f"{task}, {metrics[task]}" for task in group.tasks]
    return TableData(
        title,
        ["method", "kind", *titles, "average", "of teacher, %", "above chance, %", "rank", "seeds"],
        rows,
        "× 100 on dev, which nothing was chosen on: mean ± standard deviation over seeds. The average is over tasks; its ± is over "
        "seeds. Of teacher: share of the score of the best teacher of the pool on the same rows; above chance: of what it scores "
        "above one prediction for all rows; both over the tasks whose teacher is above chance. Rank: mean over tasks, 1 is best.",
        frozenset(best),
    )


def _differences(group: Group, compared: Sequence[Compared], baseline: str) -> TableData:
    rows = [
        [
            found.method,
            *(_tested(found.tasks.get(task)) for task in group.tasks),
            _tested(found.average, interval=True),
            f"{found.wins} / {found.ties} / {found.losses}",
            f"{found.higher} / {found.equal} / {found.lower}",
        ]
        for found in sorted(compared, key=lambda c: -(c.average.difference if c.average else -math.inf))
    ]
    return TableData(
        f"Minus {baseline}",
        ["method", *group.tasks, "average [95 %]", "tasks won / tied / lost", "trials higher / equal / lower"],
        rows,
        "Points; in brackets the two-sided p-value of a paired test over rows and seeds, adjusted by Holm over the methods of a "
        "column. A task is won or lost where that p is below 0.05. Trials: pairs with the same task and seed, by score alone.",
    )


def _pairs(group: Group, tests: PairedTests) -> TableData:
    rows = [[f"{a} − {b}", _tested(d, interval=True)] for a, b, d in tests.pairs(group, group.methods)]
    note = "Average over tasks; p adjusted by Holm over all pairs of contenders."
    return TableData("Contenders, pair by pair", ["pair", "difference [95 %]"], rows, note)


def _costs(group: Group, costs: Mapping[str, Cost], baseline: str) -> TableData:
    base = costs[baseline].all_tokens if baseline in costs else 0
    rows = []
    for method, cost in sorted(costs.items(), key=lambda item: item[1].all_tokens):
        columns = {
            "method": method,
            "average": _points(group.average(method)),
            "seconds": f"{cost.train_seconds:,.1f}",
            "stage, seconds": f"{cost.selection_seconds:,.1f}",
            "search, seconds": f"{cost.tuning_seconds:,.1f}",
            f"tokens, × {baseline}": words.times(cost.all_tokens / base) if base else NONE,
            "steps": f"{cost.steps:,.0f}",
            "student tokens": words.count(cost.student_tokens),
            "of them looks": words.count(cost.forward_tokens),
            "of them stages": words.count(cost.stage_tokens),
            "search tokens": words.count(cost.tuning_tokens),
            "teacher forwards": words.count(cost.teacher_rows_scored),
            "rows asked": words.count(cost.teacher_rows),
        }
        rows.append(columns)
    return TableData(
        "Cost of a trial",
        list(rows[0]) if rows else ["method"],
        [list(columns.values()) for columns in rows],
        "Averaged over the seeds that all methods have, and over tasks. Seconds of training as measured; other work on the machine is "
        "in them. Student tokens: all stages and passes, those without gradient counted a third; looks (before that) and stages are "
        "parts of it. Search: trainings that only chose settings, once for all seeds. Teacher forwards: rows × teachers to be run once "
        "on an empty store; rows asked: rows × teachers read in the steps.",
    )


def _teachers(group: Group) -> TableData:
    """Teachers on dev; where seeds ran on several machines, each may have fine-tuned its own."""
    scores: dict[str, dict[str, list[str]]] = {}
    layers: dict[str, str] = {}
    for result in sorted(group.results, key=lambda r: (group.tasks.index(r["task_name"]), int(r["seed"]))):
        for teacher in result["teachers"]:
            layers[teacher["name"]] = str(teacher.get("layers") or NONE)
            value = (teacher.get("scores") or {}).get(result["primary"])
            if value is not None:
                of_teacher = scores.setdefault(teacher["name"], {})
                of_teacher.setdefault(result["task_name"], []).append(_points(float(value)))
    rows = [
        [name, layers[name], *(" / ".join(dict.fromkeys(values.get(task, [NONE]))) for task in group.tasks)]
        for name, values in scores.items()
    ]
    note = "× 100 on dev"
    if any(" / " in text for row in rows for text in row):
        note += "; a / b: made anew for later seeds, on another machine"
    return TableData("Teachers", ["teacher", "layers", *group.tasks], rows, f"{note}.")


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _points(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f}"


def _mean_std(values: Sequence[float], mean: float | None = None) -> str:
    """`81.2 ± 0.4`, with the sample's standard deviation."""
    if not values and mean is None:
        return NONE
    middle = float(np.mean(values)) if mean is None else mean
    spread = f" ± {100 * float(np.std(values, ddof=1)):.1f}" if len(values) > 1 else ""
    return f"{100 * middle:.1f}{spread}"


def _tested(found: Difference | None, interval: bool = False) -> str:
    """`+1.2 [−0.3, +2.7] (0.021) *`; the star marks significance."""
    if found is None:
        return NONE
    between = f" {_interval(found)}" if interval else ""
    mark = " *" if found.p_value < SIGNIFICANT else ""
    return f"{_signed(found.difference)}{between} ({_p(found.p_value)}){mark}"


def _interval(found: Difference) -> str:
    return f"[{_signed(found.low)}, {_signed(found.high)}]"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _p(value: float) -> str:
    if math.isnan(value):
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _cut(value: float) -> str:
    """One decimal, cut and not rounded up: 98.46 is not 98.5."""
    return f"{math.floor(10 * value + 1e-9) / 10:.1f}"
