"""What the page of a comparison says, as plain data: sections of tables and figures. How they look is the renderers' matter."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect.evaluation import Difference
from distilect.experiments.records import Line
from distilect.experiments.statistics import (
    SIGNIFICANT,
    Board,
    Compared,
    Cost,
    Tests,
    best_teacher,
    boards,
    cost_of,
    pareto,
)
from distilect.report import words
from distilect.report.figures import Figure

NONE = words.NONE
FEW = 8  # methods that the figure names all


@dataclass(frozen=True)
class TableData:
    """A table of texts.

    Attributes:
        header: one title per column; the first column names the rows.
        best: (row, column) of cells to set off.
        code: the first column holds names of methods.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    best: frozenset[tuple[int, int]] = frozenset()
    code: bool = True


@dataclass(frozen=True)
class Section:
    """One scenario with one student."""

    title: str
    facts: list[tuple[str, str]]
    findings: list[str]
    tables: list[TableData]
    figures: list[Figure] = field(default_factory=list)


def sections(
    lines: Sequence[Line],
    predictions: Mapping[str, NDArray[Any]],
    *,
    baseline: str,
    contenders: Sequence[str] = (),
    resamples: int = 2000,
) -> list[Section]:
    """All sections of a comparison, from its lines and predictions alone.

    Seeds that only contenders have are in tables of the contenders, not beside averages of methods that lack them: a seed's rows and
    teachers may be harder than another's.
    """
    tests = Tests(predictions, resamples)
    return [_section(board, tests, baseline, contenders) for board in boards(lines)]


def _section(whole: Board, tests: Tests, baseline: str, contenders: Sequence[str]) -> Section:
    extra = whole.extra_seeds(contenders)
    board, final = whole.only(without=extra), whole.only(contenders)
    reference = baseline if baseline in board.methods else board.methods[0]
    compared = tests.against(board, reference)
    costs = {m: cost for m in board.methods if (cost := cost_of(board, m)) is not None}
    tables = [_scores(board), _differences(board, compared, reference)]
    decided = final.tasks == whole.tasks and len(final.complete) > 1
    if decided and extra:
        tables.append(_scores(final, "Contenders, all seeds"))
    if decided:
        tables.append(_pairs(final, tests))
    tables += [_costs(board, costs, reference), _teachers(whole)]
    figure = quality_against_cost(board, costs)
    return Section(
        title=f"{board.scenario}, student {board.student}",
        facts=_facts(whole, tests, extra),
        findings=_findings(board, final if decided and extra else board, tests, compared, reference),
        tables=tables,
        figures=[figure] if figure else [],
    )


def _facts(board: Board, tests: Tests, extra: Collection[int]) -> list[tuple[str, str]]:
    lines = [line for task in board.runs.values() for runs in task.values() for line in runs.values()]
    first = lines[0]
    seeds = sorted({int(line["seed"]) for line in lines})
    rows = {t: next(iter(next(iter(board.runs[t].values())).values()))["rows"] for t in board.tasks}
    shown = "; ".join(
        f"{task} {r['train']:,} train, {r['validation']:,} held out, {r['extra']:,} text only, {r['dev']:,} dev"
        for task, r in rows.items()
    )
    return [
        ("rows", shown),
        ("student", f"{first['student']['layers']} layers, {words.count(first['student']['parameters'])} parameters"),
        (
            "seeds",
            _seeds(s for s in seeds if s not in extra) + (f"; {_seeds(extra)} of the contenders only" if extra else ""),
        ),
        ("runs", str(len(lines))),
        ("resamples", f"{tests.resamples:,}"),
        ("versions", _all_of(lines, "versions", ("distilect", "torch", "transformers"))),
        ("machine", _all_of(lines, "machine", ("platform", "device", "gpu"))),
    ]


def _seeds(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _all_of(lines: Sequence[Line], part: str, names: Sequence[str]) -> str:
    """What the lines say of themselves; several machines may have made them, with the seeds that each made."""
    seeds: dict[str, set[int]] = {}
    for line in lines:
        known = line[part]
        text = ", ".join(
            f"{name} {known[name]}" if part == "versions" else str(known[name]) for name in names if name in known
        )
        seeds.setdefault(text, set()).add(int(line["seed"]))
    if len(seeds) == 1:
        return next(iter(seeds))
    return "; ".join(f"{text} (seed {_seeds(numbers)})" for text, numbers in seeds.items())


# ---- sentences -------------------------------------------------------------------------------------------------------


def _findings(board: Board, final: Board, tests: Tests, compared: Sequence[Compared], baseline: str) -> list[str]:
    """What can be said, in sentences that are computed. The best of a kind are found, and tested, on `final`."""
    found = []
    best = {kind: _best_of(final, kind) for kind in ("static", "adaptive", "oracle")}
    among = "method" if final is board else "contender, all seeds,"
    for kind, name in best.items():
        if name is not None:
            kept = final.kept(name)
            share = f", {_cut(100 * kept)} % of the best teacher's score" if kept is not None else ""
            found.append(f"Best {kind} {among} on the average: {name}, {_points(final.average(name))}{share}.")
    if best["static"] is not None and best["adaptive"] is not None:
        difference = tests.average(final, best["adaptive"], best["static"])
        if difference is not None:
            found.append(
                f"{best['adaptive']} minus {best['static']}: {_difference(difference)}, p = {_p(difference.p_value)} (one test of two "
                "methods that were picked by the same scores: it flatters the picked ones)."
            )
    surely = [c for c in compared if c.average is not None and c.average.p_value < SIGNIFICANT]
    better = [c.method for c in surely if c.average is not None and c.average.difference > 0]
    worse = [c.method for c in surely if c.average is not None and c.average.difference < 0]
    found.append(
        f"Surely better than {baseline} on the average (Holm, 5 %): {', '.join(better) or 'none'}; surely worse: "
        f"{', '.join(worse) or 'none'}."
    )
    counts = {len(board.seeds(t, m)) for t in board.tasks for m in board.methods if board.seeds(t, m)}
    if counts and min(counts) < 3:
        found.append(
            f"Some runs have {min(counts)} seed(s) only: their p-values know little or nothing of the spread between seeds."
        )
    missing = [m for m in board.methods if m not in board.complete]
    if missing:
        found.append(f"Not on all tasks, so without average and rank: {', '.join(missing)}.")
    return found


def _best_of(board: Board, kind: str) -> str | None:
    of_kind = [m for m in board.complete if _family(board, m) == kind]
    return max(of_kind, key=lambda m: board.average(m) or -math.inf, default=None)


def _family(board: Board, method: str) -> str:
    return next(str(line["family"]) for task in board.tasks for line in board.seeds(task, method).values())


# ---- tables ----------------------------------------------------------------------------------------------------------


def _scores(board: Board, title: str = "Scores") -> TableData:
    """Mean ± standard deviation × 100 per task and on the average, share of the teacher, rank; best first."""
    ranks = board.ranks()
    averages = {m: board.average(m) for m in board.methods}
    order = sorted(board.methods, key=lambda m: math.inf if averages[m] is None else -float(averages[m] or 0.0))
    metrics = {t: next(iter(next(iter(board.runs[t].values())).values()))["primary"] for t in board.tasks}
    header = [
        "method",
        "kind",
        *(f"{t}, {metrics[t]}" for t in board.tasks),
        "average",
        "of teacher, %",
        "rank",
        "seeds",
    ]
    rows = []
    for method in order:
        counts = sorted({len(board.seeds(t, method)) for t in board.tasks if board.seeds(t, method)})
        kept, average = board.kept(method), board.average(method)
        spread = board.average_by_seed(method) if average is not None else []
        rows.append(
            [
                method,
                _family(board, method),
                *(_mean_std(board.scores(t, method)) for t in board.tasks),
                NONE if average is None else _mean_std(spread, mean=average),
                NONE if kept is None else f"{_cut(100 * kept)}",
                f"{ranks[method]:.1f}" if method in ranks else NONE,
                "–".join(map(str, dict.fromkeys((counts[0], counts[-1])))),
            ]
        )
    columns = [*[{m: board.mean(t, m) for m in order} for t in board.tasks], {m: board.average(m) for m in order}]
    best = {(row, number + 2) for number, column in enumerate(columns) for row in _best_rows(order, column)}
    return TableData(
        title,
        header,
        rows,
        "× 100 on dev, which nothing was chosen on: mean ± standard deviation over seeds. The average is over tasks; its ± is over "
        "seeds. Share of the best teacher of the pool on the same rows. Rank: mean over tasks, 1 is best.",
        frozenset(best),
    )


def _best_rows(order: Sequence[str], column: Mapping[str, float | None]) -> list[int]:
    known = [v for v in column.values() if v is not None]
    return [i for i, m in enumerate(order) if known and column[m] == max(known)]


def _differences(board: Board, compared: Sequence[Compared], baseline: str) -> TableData:
    rows = []
    for found in sorted(compared, key=lambda c: -(c.average.difference if c.average else -math.inf)):
        rows.append(
            [
                found.method,
                *(_tested(found.tasks.get(t)) for t in board.tasks),
                _tested(found.average, interval=True),
                f"{found.wins} / {found.ties} / {found.losses}",
                f"{found.higher} / {found.equal} / {found.lower}",
            ]
        )
    return TableData(
        f"Minus {baseline}",
        ["method", *board.tasks, "average [95 %]", "tasks won / tied / lost", "runs higher / equal / lower"],
        rows,
        "Points; in brackets the two-sided p-value of a paired bootstrap over rows and seeds, adjusted by Holm over the methods of a "
        "column. A task is won or lost where that p is below 0.05. Runs: pairs with the same task and seed, by score alone.",
    )


def _pairs(board: Board, tests: Tests) -> TableData:
    rows = [[f"{a} − {b}", _tested(d, interval=True)] for a, b, d in tests.pairs(board, board.methods)]
    note = "Average over tasks; p adjusted by Holm over all pairs of contenders."
    return TableData("Contenders, pair by pair", ["pair", "difference [95 %]"], rows, note)


def _costs(board: Board, costs: Mapping[str, Cost], baseline: str) -> TableData:
    """Per run, averaged over tasks."""
    rows = []
    base = costs.get(baseline)
    for method, cost in sorted(costs.items(), key=lambda item: item[1].all_tokens):
        rows.append(
            [
                method,
                _points(board.average(method)),
                f"{cost.seconds:,.1f}",
                f"{cost.stage_seconds:,.1f}",
                f"{cost.search_seconds:,.1f}",
                _ratio(cost.all_tokens, base),
                f"{cost.steps:,.0f}",
                words.count(cost.tokens),
                words.count(cost.forward_tokens),
                words.count(cost.stage_tokens),
                words.count(cost.search_tokens),
                words.count(cost.teacher_rows),
                words.count(cost.asked),
            ]
        )
    header = [
        "method",
        "average",
        "seconds",
        "stage, seconds",
        "search, seconds",
        f"tokens, × {baseline}",
        "steps",
        "student tokens",
        "of them looks",
        "of them stages",
        "search tokens",
        "teacher forwards",
        "rows asked",
    ]
    return TableData(
        "Cost of a run",
        header,
        rows,
        "Averaged over the seeds that all methods have, and over tasks. Seconds of training as measured; other work on the machine is in them. Student tokens: all stages "
        "and passes, those without gradient counted a third; looks (before that) and stages are parts of it. Search: trainings that "
        "only chose settings, once for all seeds. Teacher forwards: rows × teachers to be run once on an empty store; rows asked: rows × "
        "teachers read in the steps.",
    )


def _ratio(tokens: float, base: Cost | None) -> str:
    return words.times(tokens / base.all_tokens) if base is not None and base.all_tokens else NONE


def _teachers(board: Board) -> TableData:
    """Teachers on dev; seeds that ran on several machines may have had teachers of several makings."""
    found: dict[str, dict[str, list[str]]] = {}
    layers: dict[str, str] = {}
    for task in board.tasks:
        lines = [line for runs in board.runs[task].values() for line in runs.values()]
        for line in sorted(lines, key=lambda line: int(line["seed"])):
            for teacher in line["teachers"]:
                value = (teacher.get("scores") or {}).get(line["primary"])
                layers[teacher["name"]] = str(teacher.get("layers") or NONE)
                if value is not None:
                    found.setdefault(teacher["name"], {}).setdefault(task, []).append(_points(float(value)))
    rows = [
        [name, layers[name], *(" / ".join(dict.fromkeys(values.get(t, [NONE]))) for t in board.tasks)]
        for name, values in found.items()
    ]
    note = "× 100 on dev"
    if any(" / " in cell for row in rows for cell in row):
        note += "; a / b: made anew for later seeds, on another machine"
    return TableData("Teachers", ["teacher", "layers", *board.tasks], rows, f"{note}.")


# ---- figure ----------------------------------------------------------------------------------------------------------


def quality_against_cost(board: Board, costs: Mapping[str, Cost]) -> Figure | None:
    """Student tokens, searches included, against the average score; the methods that no other one beats in both are joined."""
    points = {
        m: (cost.all_tokens, 100 * average)
        for m, cost in costs.items()
        if (average := board.average(m)) is not None and cost.all_tokens > 0
    }
    if len(points) < 2:
        return None
    front = pareto({m: p for m, p in points.items() if _family(board, m) != "oracle"})
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Pareto front",
            "x": [points[m][0] for m in front],
            "y": [points[m][1] for m in front],
            "line": {"dash": "dot", "shape": "hv"},
            "hoverinfo": "skip",
        }
    ]
    drawn = _side_by_side(points)
    named = list(points) if len(points) <= FEW else front
    for kind in ("static", "adaptive", "oracle"):
        names = [m for m in points if _family(board, m) == kind]
        if names:
            data.append(_trace(board, kind, names, points, drawn, named))
    ends = (min(drawn.values()) / 1.3, max(drawn.values()) * 1.3)
    layout = {
        "xaxis": {
            "title": {"text": "student tokens per run"},
            "type": "log",
            "range": [float(np.log10(x)) for x in ends],
        },
        "yaxis": {"title": {"text": "average score × 100"}},
    }
    note = (
        "average over tasks against student tokens, stages, looks and searches included; bars: ± standard deviation over seeds. "
        "Methods of one cost stand side by side, the best on the right: hover for the number"
    )
    return Figure("Quality against cost", note, data, layout)


def _side_by_side(points: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Where to draw each method's cost: those within 2 % of each other are spread over at most a quarter, by quality."""
    drawn: dict[str, float] = {}
    waiting = sorted(points, key=lambda m: points[m][0])
    while waiting:
        least = points[waiting[0]][0]
        alike = sorted((m for m in waiting if points[m][0] <= 1.02 * least), key=lambda m: (points[m][1], m))
        step = min(0.05, 0.25 / len(alike))
        for number, method in enumerate(alike):
            drawn[method] = points[method][0] * (1 + step * (number - (len(alike) - 1) / 2))
        waiting = [m for m in waiting if m not in alike]
    return drawn


def _trace(
    board: Board,
    kind: str,
    names: Sequence[str],
    points: Mapping[str, tuple[float, float]],
    drawn: Mapping[str, float],
    named: Sequence[str],
) -> dict[str, Any]:
    from distilect.report.figures import label

    deviations = [
        100 * float(np.std(values, ddof=1)) if len(values := board.average_by_seed(m)) > 1 else 0.0 for m in names
    ]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": kind,
        "x": [drawn[m] for m in names],
        "y": [points[m][1] for m in names],
        "text": [label(m) if m in named else "" for m in names],
        "hovertext": [f"{label(m)}<br>{points[m][1]:.1f} for {words.count(points[m][0])} tokens" for m in names],
        "hoverinfo": "text",
        "textposition": "top right",
        "marker": {"size": 9, "symbol": {"static": "circle", "adaptive": "diamond", "oracle": "x"}[kind]},
        "error_y": {"type": "data", "array": deviations, "thickness": 1, "width": 2},
    }


# ---- words -----------------------------------------------------------------------------------------------------------


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
    if found is None:
        return NONE
    between = f" [{_signed(found.low)}, {_signed(found.high)}]" if interval else ""
    mark = " *" if found.p_value < SIGNIFICANT else ""
    return f"{_signed(found.difference)}{between} ({_p(found.p_value)}){mark}"


def _difference(found: Difference) -> str:
    return f"{_signed(found.difference)} points [{_signed(found.low)}, {_signed(found.high)}]"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _p(value: float) -> str:
    if math.isnan(value):
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _cut(value: float) -> str:
    """One decimal, cut and not rounded up: 98.46 is not 98.5."""
    return f"{math.floor(10 * value + 1e-9) / 10:.1f}"


__all__ = ["Section", "TableData", "best_teacher", "quality_against_cost", "sections"]
