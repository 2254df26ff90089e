"""docs/results/rlkd.md from the result files of `benchmarks.rlkd` and `benchmarks.rlkd_price`.

python -m benchmarks.rlkd_summary
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from benchmarks.common import RESULTS
from benchmarks.pages import (
    Line,
    by_method,
    lines_of,
    mean_std,
    paired,
    primary,
    scores_of,
    spread,
    table,
    teachers_line,
    write_page,
)


def load(name: str) -> list[Line]:
    return lines_of(f"rlkd/{name}")


def specialists(data: str, title: str) -> str:
    lines = load(f"specialists-{data}")
    if not lines:
        return ""
    methods = by_method(lines)
    gap = paired(methods["oracle"], methods["uniform"])
    wide = np.mean(gap) >= 2  # a share of nothing says nothing
    rows = []
    for name, runs in methods.items():
        above = paired(runs, methods["uniform"])
        closed = [100 * ours / whole for ours, whole in zip(above, gap, strict=False)]
        row = [f"`{name}`", str(len(runs)), mean_std([primary(line) for line in runs.values()]), spread(above)]
        rows.append(
            [
                *row,
                *([spread(closed, " %")] if wide else []),
                "" if name == "gate" else spread(paired(runs, methods["gate"])),
            ]
        )
    first = lines[0]
    about = (
        f"{max(line['rows']['all'] for line in lines):,} rows of text, {first['rows']['train']} of them labelled (another draw for each seed), "
        f"{first['rows']['dev']:,} dev rows; teachers on all of dev: {teachers_line(lines)}."
    )
    share = ["share of the gap uniform → oracle"] if wide else []
    header = ["method", "seeds", "accuracy", "minus `uniform`, paired", *share, "minus `gate`, paired"]
    return f"### {title}\n\n{about}\n\n{table(header, rows)}\n"


def bad_teacher(data: str, title: str) -> str:
    lines = load(f"bad-teacher-{data}")
    if not lines:
        return ""
    pools = {p: by_method([line for line in lines if line["pool"] == p]) for p in ("good", "with-bad")}
    rows = []
    for pool, methods in pools.items():
        for name, runs in methods.items():
            last = [line["selection"][-1].get("teacher/bad") for line in runs.values()]
            weight = [w for w in last if w is not None]
            bad = f"{np.mean(weight):.3f} (most {max(weight):.3f})" if weight else "–"
            loss = spread(paired(runs, pools["good"].get(name, {}))) if pool == "with-bad" else ""
            scores = mean_std([primary(line) for line in runs.values()])
            label = "two good" if pool == "good" else "and the bad one"
            rows.append([f"`{name}`", label, str(len(runs)), scores, bad, loss])
    with_bad = [line for line in lines if line["pool"] == "with-bad"] or lines
    header = [
        "method",
        "pool",
        "seeds",
        "accuracy",
        "last weight of the bad teacher",
        "minus the pool without it, paired",
    ]
    return f"### {title}\n\nTeachers: {teachers_line(with_bad)}.\n\n{table(header, rows)}\n"


def pool(data: str, title: str) -> str:
    lines = load(f"pool-{data}")
    if not lines:
        return ""
    methods = by_method(lines)
    statics = [m for m in methods if not m.startswith(("rlkd", "kd:")) and m != "gate"]
    rows = []
    for name, runs in methods.items():
        if name.startswith("kd:"):
            continue
        ours = methods.get("rlkd", {})
        over = spread(paired(ours, runs)) if name != "rlkd" else ""
        weights = _weights(runs)
        rows.append([f"`{name}`", str(len(runs)), scores_of(runs), over, weights])
    about = f"Teachers: {teachers_line(lines)}. Student: {lines[0]['rows']['all']:,} rows."
    best = max(statics, key=lambda m: np.mean([primary(line) for line in methods[m].values()]))
    header = ["method", "seeds", "score", "`rlkd` minus it, paired", "last weights"]
    return f"### {title}\n\n{about} Best static one: `{best}`.\n\n{table(header, rows)}\n"


def _weights(runs: dict[int, Line]) -> str:
    last = [line["selection"][-1] for line in runs.values()]
    names = [k for k in last[0] if k.startswith("teacher/")]
    return ", ".join(f"{n.removeprefix('teacher/')} {np.mean([one[n] for one in last]):.2f}" for n in names)


def table_1(tasks: dict[str, str]) -> str:
    """Whether a better teacher gave a better student."""
    rows, verdicts = [], []
    for data, title in tasks.items():
        lines = load(f"pool-{data}")
        singles = {m.removeprefix("kd:"): runs for m, runs in by_method(lines).items() if m.startswith("kd:")}
        if not singles:
            continue
        score = {name: next(iter(lines[-1]["teachers"][name].values())) for name in singles}
        order = sorted(singles, key=lambda name: -score[name])
        for name in order:
            students = [primary(line) for line in singles[name].values()]
            rows.append([title, name, f"{100 * score[name]:.1f}", str(len(students)), mean_std(students)])
        means = {name: np.mean([primary(line) for line in singles[name].values()]) for name in order}
        swapped = [
            f"{better} → {worse} ({spread(paired(singles[worse], singles[better]))})"
            for i, better in enumerate(order)
            for worse in order[i + 1 :]
            if means[worse] > means[better] + 1e-9
        ]
        pairs = len(order) * (len(order) - 1) // 2
        verdicts.append(
            f"{title}: in {len(swapped)} of {pairs} pairs the worse teacher gave the better student"
            + (f": {'; '.join(swapped)}" if swapped else "")
        )
    if not rows:
        return ""
    header = ["task", "teacher", "its own score", "seeds", "score of its student"]
    return table(header, rows) + "\n\n" + "\n".join(f"- {verdict}." for verdict in verdicts) + "\n"


def price() -> str:
    path = RESULTS / "rlkd_price.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        [name, f"{v['median']:.2f}", f"{min(v['all']):.2f}–{max(v['all']):.2f}"]
        for name, v in found["epoch_over_uniform"].items()
    ]
    warm = found["policy_warm_up_over_uniform_epoch"]
    return (
        table(["", "epoch / epoch of `uniform`, median", "range"], rows)
        + f"\n\nThe preset's policy warm-up, once per run: {warm:.2f} of an epoch ({found['rows']:,} rows).\n"
    )


HEAD = """# RL-KD: results

Written by `python -m benchmarks.rlkd_summary` from `benchmarks/results/rlkd/*.jsonl` and `benchmarks/results/rlkd_price.json`; every
line there says command, date, machine and versions. Commands: head of `benchmarks/rlkd.py`. Mean ± standard deviation over seeds;
differences are paired by seed, in points. Scores are those of dev; nothing was chosen on it. The seed draws data order, dropout and
every selection, and in the first section also the labelled rows; teachers are the same for all seeds.
"""


def main() -> None:
    tasks = {"mrpc": "MRPC", "cola": "CoLA"}
    sections: list[tuple[str, Callable[[], str]]] = [
        (
            "Specialists and few labels",
            lambda: (
                specialists("demo", "Docstrings, the six largest classes: each teacher saw two")
                + "\n"
                + specialists("sst-2", "SST-2: each teacher saw one cluster of the texts")
            ),
        ),
        ("A bad teacher in the pool", lambda: bad_teacher("mrpc", "MRPC") + "\n" + bad_teacher("demo", "Docstrings")),
        ("Against every static baseline", lambda: "\n".join(pool(k, v) for k, v in tasks.items())),
        ("The paper's Table 1: is a better teacher better for a small student?", lambda: table_1(tasks)),
        ("The price", price),
    ]
    write_page("rlkd", HEAD, sections)


if __name__ == "__main__":
    main()
