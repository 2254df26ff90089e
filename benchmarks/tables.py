"""The tables of docs/results/{rlkd,akskd,dynamickd,glue,export,demo}.md and docs/trim.md, from the committed result files.

    python -m benchmarks.tables          # rewrites them
    python -m benchmarks.tables --check  # only says which differ

A table stands between `<!-- table: NAME FILES -->` and `<!-- /table -->`. NAME is a function of this file, FILES are its arguments: result
files, relative to benchmarks/results/. Scores are × 100, mean ± standard deviation over seeds; differences are paired by seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import export_speed, rlkd_price, selection_speed, trim
from benchmarks.common import RESULTS, table
from distilect.files import atomic_write

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs" / "results" / f"{name}.md" for name in ("rlkd", "akskd", "dynamickd", "glue", "export", "demo")]
PAGES.append(ROOT / "docs" / "trim.md")
KINDS = ("labels", "response", "feature", "relation")
SUBSETS = ["+".join(kinds) for size in (1, 2, 3, 4) for kinds in itertools.combinations(KINDS, size)]
TITLES = {"mrpc": "MRPC", "cola": "CoLA", "rte": "RTE", "sts-b": "STS-B", "sst-2": "SST-2"}
MARKED = re.compile(r"<!-- table: (\w+)(.*?) -->((?!<!-- table:).)*?<!-- /table -->", re.DOTALL)

Line = dict[str, Any]  # a trained student
Runs = dict[int, Line]  # a method's students by seed


# ---- lines and figures -----------------------------------------------------------------------------------------------


def read(file: str) -> list[Line]:
    return [json.loads(line) for line in (RESULTS / file).read_text(encoding="utf-8").splitlines()]


def by_method(lines: Sequence[Line]) -> dict[str, Runs]:
    found: dict[str, Runs] = {}
    for line in lines:
        found.setdefault(line["method"], {})[line["seed"]] = line
    return found


def primary(scores: dict[str, float]) -> float:
    """A task's first metric, in [0, 1]."""
    return next(iter(scores.values()))


def scores_of(runs: Runs, part: str = "scores") -> list[float]:
    return [100 * primary(line[part]) for line in runs.values()]


def paired(ours: Runs, theirs: Runs) -> list[float]:
    """Differences on the seeds that both have, in points."""
    seeds = sorted(set(ours) & set(theirs))
    return [100 * (primary(ours[seed]["scores"]) - primary(theirs[seed]["scores"])) for seed in seeds]


def mean_std(values: Sequence[float], sign: str = "", unit: str = "") -> str:
    """`81.2 ± 0.4`, with the sample's standard deviation; with `sign="+"` as a difference."""
    if not values:
        return "–"
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.1f}{spread}{unit}"


def score(runs: Runs) -> str:
    return mean_std(scores_of(runs))


def metric(name: str, runs: Runs) -> str:
    return mean_std([100 * line["scores"][name] for line in runs.values()])


def metrics(runs: Runs) -> str:
    return ", ".join(f"{name} {metric(name, runs)}" for name in next(iter(runs.values()))["scores"])


def minus(ours: Runs, theirs: Runs) -> str:
    """Empty for a method against itself."""
    return "" if ours is theirs else mean_std(paired(ours, theirs), "+")


def best_of(methods: dict[str, Runs], part: str = "scores") -> str:
    return max(methods, key=lambda name: np.mean(scores_of(methods[name], part)))


def teachers(lines: Sequence[Line]) -> str:
    return ", ".join(f"{name} {100 * primary(scores):.1f}" for name, scores in lines[-1]["teachers"].items())


def title(file: str) -> str:
    """The task of `FOLDER/EXPERIMENT-TASK.jsonl`."""
    return next(name for task, name in TITLES.items() if Path(file).stem.endswith(f"-{task}"))


def method_table(methods: dict[str, Runs], columns: dict[str, Callable[[Runs], str]]) -> str:
    rows = [[f"`{name}`", str(len(runs)), *(cell(runs) for cell in columns.values())] for name, runs in methods.items()]
    return table(["method", "seeds", *columns], rows)


# ---- docs/results/rlkd.md --------------------------------------------------------------------------------------------


def specialists(file: str) -> str:
    lines = read(file)
    methods = by_method(lines)
    uniform, oracle, gate = methods["uniform"], methods["oracle"], methods["gate"]

    def closed(runs: Runs) -> str:
        gaps = paired({seed: oracle[seed] for seed in runs}, uniform)
        shares = [100 * ours / gap for ours, gap in zip(paired(runs, uniform), gaps, strict=True)]
        return mean_std(shares, "+", " %")

    columns = {"accuracy": score, "minus `uniform`, paired": lambda runs: mean_std(paired(runs, uniform), "+")}
    if np.mean(paired(oracle, uniform)) >= 2:  # a share of no gap means nothing
        columns["share of the gap uniform → oracle"] = closed
    columns["minus `gate`, paired"] = lambda runs: minus(runs, gate)
    text, rows = max(line["rows"]["all"] for line in lines), lines[0]["rows"]
    return (
        f"{text:,} rows of text, {rows['train']} of them labelled (another draw for each seed), {rows['dev']:,} dev rows; teachers on all "
        f"of dev: {teachers(lines)}.\n\n{method_table(methods, columns)}"
    )


def bad_teacher(file: str) -> str:
    lines = read(file)
    good, with_bad = (by_method([x for x in lines if x["pool"] == pool]) for pool in ("good", "with-bad"))
    rows = []
    for label, methods in {"two good": good, "and the bad one": with_bad}.items():
        for name, runs in methods.items():
            weights = [line["selection"][-1].get("teacher/bad") for line in runs.values()]
            bad = "–" if None in weights else f"{np.mean(weights):.3f} (most {max(weights):.3f})"
            loss = "" if methods is good else minus(runs, good.get(name, {}))
            rows.append([f"`{name}`", label, str(len(runs)), score(runs), bad, loss])
    header = [
        "method",
        "pool",
        "seeds",
        "accuracy",
        "last weight of the bad teacher",
        "minus the pool without it, paired",
    ]
    return f"Teachers: {teachers([x for x in lines if x['pool'] == 'with-bad'])}.\n\n{table(header, rows)}"


def last_weights(runs: Runs) -> str:
    last = [line["selection"][-1] for line in runs.values()]
    names = [key for key in last[0] if key.startswith("teacher/")]
    return ", ".join(f"{name.removeprefix('teacher/')} {np.mean([x[name] for x in last]):.2f}" for name in names)


def pool(file: str) -> str:
    lines = read(file)
    methods = {name: runs for name, runs in by_method(lines).items() if not name.startswith("kd:")}
    static = {name: runs for name, runs in methods.items() if not name.startswith("rlkd") and name != "gate"}
    about = (
        f"Teachers: {teachers(lines)}. Student: {lines[0]['rows']['all']:,} rows. Best static one: `{best_of(static)}`."
    )
    rlkd = partial(minus, methods["rlkd"])
    columns: dict[str, Callable[[Runs], str]] = {
        "score": metrics,
        "`rlkd` minus it, paired": rlkd,
        "last weights": last_weights,
    }
    return f"{about}\n\n{method_table(methods, columns)}"


def single_teachers(*files: str) -> str:
    """Whether a better teacher has a better student."""
    rows, findings = [], []
    for file in files:
        lines, task = read(file), title(file)
        own = {name: primary(scores) for name, scores in lines[-1]["teachers"].items()}
        methods = by_method(lines)
        students = {name: methods[f"kd:{name}"] for name in sorted(own, key=lambda name: -own[name])}
        rows += [[task, name, f"{100 * own[name]:.1f}", str(len(x)), score(x)] for name, x in students.items()]
        pairs = list(itertools.combinations(students, 2))
        swapped = [
            f"{better} → {worse} ({minus(students[worse], students[better])})"
            for better, worse in pairs
            if np.mean(scores_of(students[worse])) > np.mean(scores_of(students[better])) + 1e-7
        ]
        found = f"{task}: in {len(swapped)} of {len(pairs)} pairs the worse teacher gave the better student"
        findings.append(f"- {found}{': ' if swapped else ''}{'; '.join(swapped)}.")
    return (
        table(["task", "teacher", "its own score", "seeds", "score of its student"], rows)
        + "\n\n"
        + "\n".join(findings)
    )


def price(file: str) -> str:
    found = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    warm_up = f"{found['policy_warm_up_over_uniform_epoch']:.2f} of an epoch ({found['rows']:,} rows)"
    return (
        f"{rlkd_price.as_table(found['epoch_over_uniform'])}\n\nThe preset's policy warm-up, once per run: {warm_up}."
    )


# ---- docs/results/akskd.md -------------------------------------------------------------------------------------------


def rows_and_teacher(lines: Sequence[Line]) -> str:
    rows, teacher = lines[-1]["rows"], lines[-1]["teachers"]["six"]
    scores = ", ".join(f"{name} {100 * value:.1f}" for name, value in teacher.items())
    return f"{rows['train']:,} rows of train, {rows['dev']:,} of dev. Teacher (six layers): {scores}."


def crosses(subset: str) -> list[str]:
    return ["×" if kind in subset.split("+") else "" for kind in KINDS]


def subsets(file: str) -> str:
    lines = read(file)
    methods = by_method(lines)
    order = sorted(methods, key=lambda name: -np.mean(scores_of(methods[name])))
    rows = [
        [
            *crosses(name),
            str(len(methods[name])),
            score(methods[name]),
            mean_std(scores_of(methods[name], "validation")),
        ]
        for name in order
    ]
    best, place = best_of(methods, "validation"), order.index(SUBSETS[-1]) + 1
    header = [*KINDS, "seeds", f"{next(iter(lines[0]['scores']))} on dev", "on the validation split"]
    return (
        f"{rows_and_teacher(lines)}\n\nAll four kinds are number {place} of {len(order)} on dev. The best subset on the validation split, "
        f"{best.replace('+', ' + ')}, minus all four, on dev, paired by seed: {minus(methods[best], methods[SUBSETS[-1]])} points."
        f"\n\n{table(header, rows)}"
    )


def thirds(file: str) -> str:
    """How far the validation loss falls in each third of a training, by subset; of one seed."""
    falls = {(x["method"], x["third"]): 1000 * (x["validation_loss_before"] - x["validation_loss"]) for x in read(file)}
    rows = [[*crosses(name), *(f"{falls[name, third]:+.1f}" for third in range(3))] for name in SUBSETS]
    bests = [max(SUBSETS, key=lambda name: falls[name, third]).replace("+", " + ") for third in range(3)]
    largest = "; ".join(f"third {number}: {best}" for number, best in enumerate(bests, start=1))
    return f"Largest falls: {largest}.\n\n{table([*KINDS, 'first third', 'second third', 'last third'], rows)}"


def stage_a(runs: Runs) -> str:
    """Rows trained on before the student's own training; a row without gradient counts a third."""
    found = []
    for line in runs.values():
        stage = line.get("stage_a") or {}
        if stage.get("rows"):
            rows = stage["rows"] + (stage.get("probed_rows") or 0) / 3
            found.append((rows, rows / (line["rows"]["train"] * line["train"].get("epochs", 3))))
    if not found:
        return "–"
    rows, share = np.mean(found, axis=0)
    return f"{rows:,.0f} ({share:.1f}×)"


def actions(runs: Runs) -> str:
    """A search's choice of each seed, or an actor's last action for each kind, mean over seeds."""
    lines = list(runs.values())
    if "best" in lines[0]:
        return "; ".join(" ".join(f"{weight:g}" for weight in line["best"]) for line in lines)
    names = [f"actor/a_{kind}" for kind in KINDS if f"actor/a_{kind}" in lines[0]["health"]]
    return " ".join(f"{np.mean([line['health'][name] for line in lines]):.2f}" for name in names)


def rivals(file: str) -> str:
    lines = read(file)
    methods = by_method(lines)
    columns: dict[str, Callable[[Runs], str]] = {name: partial(metric, name) for name in lines[0]["scores"]}
    columns["`akskd` minus it, paired"] = partial(minus, methods["akskd"])
    columns |= {"stage A, in rows / of the run's": stage_a, "last action or weights": actions}
    return f"{rows_and_teacher(lines)}\n\n{method_table(methods, columns)}"


def half_of_the_layers(*files: str) -> str:
    """Shares of the teacher's score; one seed."""
    tasks = {title(file): {line["method"]: line for line in read(file)} for file in files}
    rows, validation = {}, {}
    for name in dict.fromkeys(name for lines in tasks.values() for name in lines):
        lines = {task: lines[name] for task, lines in tasks.items() if name in lines}
        kept = {task: 100 * primary(x["scores"]) / primary(x["teachers"]["six"]) for task, x in lines.items()}
        mean = "–"
        if len(kept) == len(tasks):
            mean = f"{np.mean(list(kept.values())):.1f} %"
            validation[name] = np.mean([primary(line["validation"]) for line in lines.values()])
        rows[name] = [name, *(f"{kept[task]:.1f} %" if task in kept else "–" for task in tasks), mean]
    best = max(validation, key=lambda name: validation[name])
    about = "\n".join(f"- {task}: {rows_and_teacher(list(lines.values()))}" for task, lines in tasks.items())
    return (
        f"Best on the validation split, averaged over the tasks: **{best}**, which keeps {rows[best][-1]} on dev (the paper: 98.5 %).\n\n"
        f"{table(['student of 3 of 6 layers', *tasks, 'mean'], list(rows.values()))}\n\n{about}"
    )


# ---- docs/results/dynamickd.md ---------------------------------------------------------------------------------------


def speed(file: str) -> str:
    found = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    return "\n\n".join(
        f"### {name}: {one['rows']:,} rows of {one['mean_tokens']} tokens\n\n{selection_speed.as_table(one)}"
        for name, one in found.items()
        if isinstance(one, dict) and "stored" in one
    )


def enlarged(file: str) -> str:
    lines = read(file)
    methods = by_method(lines)
    whole = methods["all"]

    def count(key: str, runs: Runs) -> str:
        return f"{np.mean([line[key] for line in runs.values()]):,.0f}"

    def time(runs: Runs) -> str:
        ratios = [line["train_seconds"] / whole[seed]["train_seconds"] for seed, line in runs.items()]
        return "" if runs is whole else f"{np.median(ratios):.2f}"

    columns: dict[str, Callable[[Runs], str]] = {
        "score": metrics,
        "minus `all`, paired": lambda runs: minus(runs, whole),
        "rows that asked the teacher": partial(count, "teacher_rows"),
        "rows trained on": partial(count, "trained_rows"),
        "wall time / `all`": time,
    }
    rows = max((line["rows"] for line in lines), key=lambda rows: rows["all"])
    return (
        f"{rows['train']:,} rows with labels and their changed copies, {rows['all']:,} in all; {rows['dev']:,} dev rows. "
        f"Teacher: {teachers(lines)}.\n\n{method_table(methods, columns)}"
    )


def arm(file: str, *ours: str) -> str:
    lines = read(file)
    methods = by_method(lines)
    columns: dict[str, Callable[[Runs], str]] = {
        "score": metrics,
        **{f"`{our}` minus it, paired": partial(minus, methods[our]) for our in ours},
    }
    best = best_of({name: runs for name, runs in methods.items() if name not in ours})
    about = f"Teachers: {teachers(lines)}. Student: {lines[0]['rows']['all']:,} rows. The best of the others: `{best}`."
    return f"{about}\n\n{method_table(methods, columns)}"


# ---- docs/results/glue.md --------------------------------------------------------------------------------------------


def glue(file: str, task: str) -> str:
    runs = [line for line in read(file) if line["run"].startswith(task)]
    first, rows = runs[0], runs[0]["rows"]
    best = max(teacher["scores"][first["primary"]] for teacher in first["teachers"])

    def row(name: str, model: dict[str, Any], kept: str = "") -> list[str]:
        scores = " / ".join(f"{100 * value:.1f}" for value in model["scores"].values())
        return [name, str(model["layers"]), f"{model['parameters'] / 1e6:.1f} M", scores, kept]

    cells = [row(f"teacher {teacher['name']}", teacher) for teacher in first["teachers"]]
    for run in runs:
        share = run["student"]["scores"][first["primary"]] / best
        cells.append(row(f"student, `{run['method']}`", run["student"], f"{100 * share:.1f} %"))
    limit = first["max_train_rows"]
    only = f"The first {limit:,} rows of train only: " if limit else ""
    about = f"{only}{rows['train']:,} rows of train, {rows['validation']:,} validation rows, {rows['dev']:,} of dev."
    header = ["model", "layers", "parameters", " / ".join(first["task"]["metrics"]), "share of best teacher"]
    return f"{about}\n\n{table(header, cells)}"


# ---- docs/results/demo.md --------------------------------------------------------------------------------------------


def demo(file: str) -> str:
    """The models of `distilect demo`; of the lines, a `metrics.json` each, those with one seed are one demo."""
    lines = read(file)
    methods = {name: {seed: line["student"] for seed, line in runs.items()} for name, runs in by_method(lines).items()}
    pools = {line["seed"]: {teacher["name"]: teacher for teacher in line["teachers"]} for line in lines}
    names = next(iter(pools.values()))
    models = {f"teacher {name}": {seed: pool[name] for seed, pool in pools.items()} for name in names}
    best = {seed: max(pool.values(), key=lambda teacher: primary(teacher["scores"])) for seed, pool in pools.items()}
    models |= {f"student, `{name}`": runs for name, runs in methods.items()}
    rows = [
        [
            name,
            f"{next(iter(runs.values()))['parameters'] / 1e6:.1f} M",
            score(runs),
            "" if name.startswith("teacher") else minus(runs, methods["finetune"]),
            "" if name.startswith("teacher") else minus(runs, best),
        ]
        for name, runs in models.items()
    ]
    return table(["model", "parameters", "accuracy", "minus `finetune`", "minus the best teacher"], rows)


# ---- docs/trim.md ----------------------------------------------------------------------------------------------------


def trimmed(file: str) -> str:
    return trim.as_table(json.loads((RESULTS / file).read_text(encoding="utf-8"))["models"])


# ---- docs/results/export.md --------------------------------------------------------------------------------------


def export(file: str, part: str) -> str:
    return export_speed.TABLES[part](json.loads((RESULTS / file).read_text(encoding="utf-8")))


# ---- pages -----------------------------------------------------------------------------------------------------------

RLKD, AKSKD = (specialists, bad_teacher, pool, single_teachers, price), (subsets, thirds, rivals, half_of_the_layers)
MAKERS: dict[str, Callable[..., str]] = {
    maker.__name__: maker for maker in (*RLKD, *AKSKD, speed, enlarged, arm, glue, demo, trimmed, export)
}


def renewed(page: str) -> str:
    """The page with all its tables made anew."""
    text, count = MARKED.subn(_made, page)
    if count != page.count("<!-- table:"):
        raise ValueError("a table is not closed: expected <!-- /table --> after each <!-- table: … -->")
    return text


def _made(found: re.Match[str]) -> str:
    name, files = found[1], found[2].split()
    return f"<!-- table: {name}{found[2]} -->\n\n{MAKERS[name](*files)}\n\n<!-- /table -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a table differs")
    check, differ = parser.parse_args().check, False
    for path in PAGES:
        old = path.read_text(encoding="utf-8")
        new = renewed(old)
        for before, after in zip(MARKED.finditer(old), MARKED.finditer(new), strict=True):
            if before[0] != after[0]:
                differ = True
                print(f"{path.name}: {before[1]}{before[2]} {'differs' if check else 'is new'}")
        if not check:
            atomic_write(path, new)
    sys.exit(check and differ)


if __name__ == "__main__":
    main()
