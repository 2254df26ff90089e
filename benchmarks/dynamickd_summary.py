"""docs/results/dynamickd.md from the result files of `benchmarks.dynamickd` and `benchmarks.selection_speed`.

python -m benchmarks.dynamickd_summary
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
    paired,
    primary,
    scores_of,
    spread,
    table,
    teachers_line,
    write_page,
)
from benchmarks.tasks import GLUE


def enlarged(data: str, title: str) -> str:
    """Scores beside what they cost: teacher rows and trained rows exactly, wall time as a ratio of runs of one seed."""
    lines = lines_of(f"dynamickd/enlarged-{data}")
    if not lines:
        return ""
    methods = by_method(lines)
    whole = methods.get("all", {})
    rows = [
        [
            f"`{name}`",
            str(len(runs)),
            scores_of(runs),
            "" if name == "all" else spread(paired(runs, whole)),
            f"{np.mean([line['teacher_rows'] for line in runs.values()]):,.0f}",
            f"{np.mean([line['trained_rows'] for line in runs.values()]):,.0f}",
            _times(runs, whole),
        ]
        for name, runs in methods.items()
    ]
    copies = max(lines, key=lambda line: line["rows"]["all"])["rows"]
    about = (
        f"{copies['train']:,} rows with labels and their changed copies, {copies['all']:,} in all; {copies['dev']:,} dev rows. "
        f"Teacher: {teachers_line(lines)}."
    )
    header = [
        "method",
        "seeds",
        "score",
        "minus `all`, paired",
        "rows the teacher was asked",
        "rows trained on",
        "wall time / `all`",
    ]
    return f"### {title}\n\n{about}\n\n{table(header, rows)}\n"


def _times(runs: dict[int, Line], whole: dict[int, Line]) -> str:
    ratios = [runs[s]["train_seconds"] / whole[s]["train_seconds"] for s in runs if s in whole and runs is not whole]
    return f"{np.median(ratios):.2f}" if ratios else ""


def against(experiment: str, data: str, title: str, ours: tuple[str, ...]) -> str:
    """Every method's score, and what each of ours has above it on the same seeds."""
    lines = lines_of(f"dynamickd/{experiment}-{data}")
    if not lines:
        return ""
    methods = by_method(lines)
    rows = [
        [f"`{name}`", str(len(runs)), scores_of(runs)]
        + ["" if name == our else spread(paired(methods.get(our, {}), runs)) for our in ours]
        for name, runs in methods.items()
    ]
    others = {
        name: np.mean([primary(line) for line in runs.values()]) for name, runs in methods.items() if name not in ours
    }
    best = max(others, key=lambda name: others[name])
    about = f"Teachers: {teachers_line(lines)}. Student: {lines[0]['rows']['all']:,} rows. The best of the others: `{best}`."
    header = ["method", "seeds", "score", *(f"`{our}` minus it, paired" for our in ours)]
    return f"### {title}\n\n{about}\n\n{table(header, rows)}\n"


def speed() -> str:
    path = RESULTS / "selection_speed.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text(encoding="utf-8"))
    parts = []
    for task, measured in found.items():
        if not isinstance(measured, dict) or "stored" not in measured:
            continue
        rows = [
            [
                name,
                *(
                    f"{measured[signals][name]['median']:.2f} ({min(measured[signals][name]['all']):.2f}–{max(measured[signals][name]['all']):.2f})"
                    for signals in ("stored", "live")
                ),
                "" if one["target"] is None else f"≤ {one['target']:.2f}",
                f"{one['rows']:,}",
                f"{one['probed']:,.0f}",
            ]
            for name, one in measured["stored"].items()
        ]
        header = ["rows", "stored signals", "live teacher", "asked for", "rows trained on", "rows scored"]
        parts.append(
            f"### {task}: {measured['rows']:,} rows of {measured['mean_tokens']} tokens\n\n{table(header, rows)}\n"
        )
    return "\n".join(parts)


HEAD = """# DynamicKD: results

Written by `python -m benchmarks.dynamickd_summary` from `benchmarks/results/dynamickd/*.jsonl` and `benchmarks/results/selection_speed.json`;
every line there says command, date, machine and versions. Commands: head of `benchmarks/dynamickd.py`. Mean ± standard deviation over
seeds; differences are paired by seed, in points. Scores are those of dev; nothing was chosen on it. The seed draws data order, dropout
and every random choice; teachers and copies are the same for all seeds.
"""


def main() -> None:
    arms = ("mrpc", "cola")
    sections: list[tuple[str, Callable[[], str]]] = [
        ("What choosing rows saves", speed),
        (
            "A tenth of twenty times the data",
            lambda: "\n".join(enlarged(k, v) for k, v in GLUE.items() if lines_of(f"dynamickd/enlarged-{k}")),
        ),
        (
            "Which teacher (arm 1)",
            lambda: "\n".join(against("teachers", k, GLUE[k], ("hard", "soft-instance")) for k in arms),
        ),
        (
            "Which objective (arm 3)",
            lambda: "\n".join(against("objective", k, GLUE[k], ("uncertainty",)) for k in arms),
        ),
    ]
    write_page("dynamickd", HEAD, sections)


if __name__ == "__main__":
    main()
