"""docs/results/akskd.md from the result files of `benchmarks.akskd`.

python -m benchmarks.akskd_summary
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.akskd import KINDS, SUBSETS, TASKS
from benchmarks.common import RESULTS
from benchmarks.lab import Results
from benchmarks.pages import Line, by_method, mean_std, paired, primary, spread, table
from benchmarks.tasks import GLUE

PAGE = Path(__file__).parent.parent / "docs" / "results" / "akskd.md"


def load(name: str) -> list[Line]:
    return Results(RESULTS / "akskd" / f"{name}.jsonl").lines()


def validation(line: Line) -> float:
    return float(next(iter(line["validation"].values())))


def signs(name: str) -> list[str]:
    """A subset as four cells."""
    return ["×" if kind in name.split("+") else "" for kind in KINDS]


# ---- 3. findings -----------------------------------------------------------------------------------------------------


def subsets(data: str) -> str:
    lines = load(f"subsets-{data}")
    if not lines:
        return ""
    methods = by_method(lines)
    order = sorted(methods, key=lambda m: -np.mean([primary(line) for line in methods[m].values()]))
    rows = [
        [
            *signs(m),
            str(len(methods[m])),
            mean_std([primary(line) for line in methods[m].values()]),
            mean_std([validation(line) for line in methods[m].values()]),
        ]
        for m in order
    ]
    everything = "+".join(KINDS)
    best = max(methods, key=lambda m: np.mean([validation(line) for line in methods[m].values()]))
    verdict = ""
    if everything in methods:
        difference = spread(paired(methods[best], methods[everything]))
        place = order.index(everything) + 1
        verdict = (
            f"All four kinds are number {place} of {len(order)} on dev. The best subset on held-out rows, {best.replace('+', ' + ')}, minus all "
            f"four, on dev, paired by seed: {difference} points.\n\n"
        )
    metric = next(iter(lines[0]["scores"]))
    header = [*KINDS, "seeds", f"{metric} on dev", "on held-out rows"]
    return f"### {GLUE[data]}: whole trainings\n\n{about(lines)}\n\n{verdict}{table(header, rows)}\n"


def about(lines: list[Line]) -> str:
    teacher = next(iter(lines[-1]["teachers"].values()))
    scores = ", ".join(f"{n} {100 * v:.1f}" for n, v in teacher.items())
    rows = lines[-1]["rows"]
    return f"{rows['train']:,} rows of train, {rows['dev']:,} of dev. Teacher (six layers): {scores}."


def thirds(data: str) -> str:
    """Per third: the subsets by how far the held-out loss fell, from the same student."""
    lines = load(f"thirds-{data}")
    if not lines:
        return ""
    gains: dict[tuple[str, int], list[float]] = {}
    for line in lines:
        fall = line["validation_loss_before"] - line["validation_loss"]
        gains.setdefault((line["method"], line["third"]), []).append(1000 * fall)
    names = ["+".join(s) for s in SUBSETS]
    rows = []
    for name in names:
        cells = [gains.get((name, third), []) for third in range(3)]
        rows.append([*signs(name), *(spread(c) if c else "–" for c in cells)])
    bests = []
    for third in range(3):
        known = [n for n in names if (n, third) in gains]
        if known:
            best = max(known, key=lambda n: np.mean(gains[(n, third)]))
            bests.append(f"third {third + 1}: {best.replace('+', ' + ')}")
    header = [*KINDS, "first third", "second third", "last third"]
    return (
        f"### {GLUE[data]}: by thirds\n\nFall of the held-out cross-entropy × 1,000 over one third of the training (an epoch) with this "
        "subset, from the same student: the first two thirds before it with all four kinds. "
        f"Largest falls: {'; '.join(bests)}.\n\n{table(header, rows)}\n"
    )


# ---- 4. against --------------------------------------------------------------------------------------------------------


def against(data: str, place: str = "") -> str:
    """`place`: of lines from another machine, where teacher and students were made anew."""
    lines = load(f"against-{data}{place}")
    if not lines:
        return ""
    methods = by_method(lines)
    rows = []
    for name, runs in methods.items():
        over = spread(paired(methods.get("akskd", {}), runs)) if name != "akskd" else ""
        scores = [mean_std([line["scores"][m] for line in runs.values()]) for m in lines[0]["scores"]]
        rows.append([f"`{name}`", str(len(runs)), *scores, over, _cost(runs), _actions(runs)])
    header = [
        "method",
        "seeds",
        *lines[0]["scores"],
        "`akskd` minus it, paired",
        "stage A, in rows / of the run's",
        "last action or weights",
    ]
    return f"### {GLUE[data]}{_machine(lines)}\n\n{about(lines)}\n\n{table(header, rows)}\n"


def _machine(lines: list[Line]) -> str:
    """Of a GPU: its name."""
    gpus = sorted({line["made"]["machine"]["gpu"] for line in lines if "gpu" in line["made"]["machine"]})
    return f", once more on {' and '.join(gpus)}" if gpus else ""


def _cost(runs: dict[int, Line]) -> str:
    """What learning or searching cost beside the run: rows trained on, a row without gradient a third; measured."""
    found = []
    for line in runs.values():
        stage = line.get("stage_a") or {}
        if stage.get("rows"):
            units = stage["rows"] + (stage.get("probed_rows") or 0) / 3
            found.append((units, units / (line["rows"]["train"] * line["train"].get("epochs", 3.0))))
    if not found:
        return "–"
    units, shares = np.mean([u for u, _ in found]), np.mean([s for _, s in found])
    return f"{units:,.0f} ({shares:.1f}×)"


def _actions(runs: dict[int, Line]) -> str:
    line = next(iter(runs.values()))
    if "best" in line:
        return "; ".join(" ".join(f"{w:g}" for w in one["best"]) for one in runs.values())
    names = [f"actor/a_{kind}" for kind in KINDS]
    if not all(n in line["health"] for n in names):
        return ""
    return " ".join(f"{np.mean([one['health'][n] for one in runs.values()]):.2f}" for n in names)


# ---- 5. headline -------------------------------------------------------------------------------------------------------


def headline() -> str:
    """Share of the teacher's score, per task and on average; which recipe was best on held-out rows."""
    by_task = {data: by_method(load(f"headline-{data}")) for data in TASKS}
    by_task = {data: methods for data, methods in by_task.items() if methods}
    if not by_task:
        return ""
    names = list(dict.fromkeys(m for methods in by_task.values() for m in methods))
    rows, chosen = [], {}
    for name in names:
        kept = {d: _kept(methods[name]) for d, methods in by_task.items() if name in methods}
        held = [validation(line) for d in kept for line in by_task[d][name].values()]
        whole = len(kept) == len(by_task)
        if whole:
            chosen[name] = float(np.mean(held))
        cells = [f"{100 * kept[d]:.1f} %" if d in kept else "–" for d in by_task]
        rows.append([name, *cells, f"{100 * np.mean(list(kept.values())):.1f} %" if whole else "–"])
    verdict = ""
    if chosen:
        best = max(chosen, key=lambda n: chosen[n])
        row = next(row for row in rows if row[0] == best)
        verdict = f"Best on held-out rows, averaged over the tasks: **{best}**, which keeps {row[-1]} on dev (the paper: 98.5 %).\n\n"
    teachers = "; ".join(
        f"{GLUE[d]}: {about([x for m in ms.values() for x in m.values()])}" for d, ms in by_task.items()
    )
    header = ["student of 3 of 6 layers", *(GLUE[d] for d in by_task), "mean"]
    return f"{verdict}{table(header, rows)}\n\n{teachers}\n"


def _kept(runs: dict[int, Line]) -> float:
    """Student's score over its teacher's, mean over seeds."""
    return float(np.mean([primary(line) / next(iter(line["teachers"]["six"].values())) for line in runs.values()]))


HEAD = """# AKSKD: results

Written by `python -m benchmarks.akskd_summary` from `benchmarks/results/akskd/*.jsonl`; every line there says command, date, machine and
versions. Commands: head of `benchmarks/akskd.py`. Mean ± standard deviation over seeds; differences are paired by seed, in points. Scores
are those of dev; choices, rewards and checkpoints saw a tenth of train that was held out, the same for all seeds. One teacher of six layers; students
of three, cut from it unless said otherwise. All methods with the four kinds bring them to one size in the same way.
"""


def main() -> None:
    tasks = ("mrpc", "cola")
    sections: list[tuple[str, Callable[[], str]]] = [
        (
            "Is all knowledge needed, and always the same?",
            lambda: "\n".join(t for d in tasks for f in (subsets, thirds) if (t := f(d))),
        ),
        (
            "Against its rivals",
            lambda: "\n".join(t for data in tasks for place in ("", "-h200") if (t := against(data, place))),
        ),
        ("Half of the layers", headline),
    ]
    path = RESULTS / "akskd" / "notes.json"
    notes: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    text = HEAD
    for title, body in sections:
        found = body()
        if found.strip():
            text += f"\n## {title}\n\n" + (notes[title] + "\n\n" if title in notes else "") + found
    if text == HEAD:
        text += "\nNothing has been measured yet.\n"
    temporary = PAGE.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, PAGE)
    print(PAGE)


if __name__ == "__main__":
    main()
