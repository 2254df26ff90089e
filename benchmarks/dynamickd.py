"""DynamicKD against its rivals: data enlarged twenty times, which teacher, which objective.

    python -m benchmarks.dynamickd enlarged --data sst-2 --data-dir PATH/TO/glue
    python -m benchmarks.dynamickd teachers --data mrpc --data-dir PATH/TO/glue
    python -m benchmarks.dynamickd objective --data mrpc --data-dir PATH/TO/glue

One line per student in benchmarks/results/dynamickd/EXPERIMENT-DATA.jsonl; a stopped command goes on where it was, and several may
run at once. `python -m benchmarks.dynamickd_summary` writes docs/results/dynamickd.md from these files. Nothing is chosen on dev.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS
from benchmarks.lab import Methods, Results, run_all
from benchmarks.tasks import BACKBONE, whole_task, whole_teacher
from distilect.config import parse_config

# ---- the paper's headline: a tenth of twenty times the data ----------------------------------------------------------

TENTH: dict[str, Any] = {"name": "uncertainty-skip", "ratio": 0.1}
PLAN: dict[str, Any] = {"name": "uncertainty-plan", "ratio": 0.1}
ENLARGED: Methods = {
    "all": {"name": "kd"},
    "entropy": {"name": "dynamic-data", "rows": TENTH},
    "random": {"name": "dynamic-data", "rows": {**TENTH, "score": "random"}},
    # a step's rows are all chosen: as large as what the two above leave of a batch, in steps as many
    "stale": {"name": "dynamic-data", "rows": {**PLAN, "refresh": 50}, "batch_size": 8},
    "random-plan": {"name": "dynamic-data", "rows": {**PLAN, "score": "random"}, "batch_size": 8},
    "certain": {"name": "dynamic-data", "rows": {**TENTH, "reverse": True}},
}
NOT_ENLARGED: Methods = {"not-enlarged": {"name": "kd", "epochs": 2}}  # as many rows as a tenth of twenty times
# More lets students of one seed take minutes rather than an hour; the teacher has seen all of train.
ENLARGED_ROWS = {"sst-2": 4000, "cola": 2000, "mrpc": 1500, "rte": 1000}


def enlarged(data: str, data_dir: str, work: Path, seeds: list[int], methods: Methods) -> None:
    """One pass over the first rows of train and twenty changed copies of each; the teacher runs live, so that rows that do not ask save it."""
    config = whole_task(data, data_dir, work, limit=12_000 if data == "sst-2" else None).config
    config["teachers"] = [_teacher(work, config, "six")]
    config["signals"] = {"live": True}
    config["data"]["max_train_rows"] = ENLARGED_ROWS[data]
    config["train"].update(epochs=1, batch_size=64)
    copies = {**config, "data": {**config["data"], "augment": {"times": 20}}}
    results = Results(RESULTS / "dynamickd" / f"enlarged-{data}.jsonl")
    wanted = methods or {**ENLARGED, **NOT_ENLARGED}
    for seed in seeds:
        for made_of, known in ((copies, ENLARGED), (config, NOT_ENLARGED)):
            chosen = {name: method for name, method in wanted.items() if name in known}
            run_all(parse_config({**made_of, "seed": seed}), chosen, results, work, seed)


# ---- arm 1: which teacher --------------------------------------------------------------------------------------------

TEACHERS: Methods = {
    "kd:four": {"name": "kd", "teachers": {"name": "single", "teacher": "four"}},
    "kd:six": {"name": "kd", "teachers": {"name": "single", "teacher": "six"}},
    "uniform": {"name": "uniform"},
    "hard": {"name": "dynamic-teacher"},
    "soft": {"name": "dynamic-teacher", "teachers": {"name": "dynamic", "mode": "soft"}},
    "soft-instance": {"name": "dynamic-teacher", "teachers": {"name": "dynamic", "mode": "soft-instance"}},
    "hard-reversed": {"name": "dynamic-teacher", "teachers": {"name": "dynamic", "order": ["six", "four"]}},
}


def teachers(data: str, data_dir: str, work: Path, seeds: list[int], methods: Methods) -> None:
    """A teacher of four layers and one of six; all labels."""
    config = whole_task(data, data_dir, work).config
    config["teachers"] = [_teacher(work, config, name) for name in ("four", "six")]
    results = Results(RESULTS / "dynamickd" / f"teachers-{data}.jsonl")
    for seed in seeds:
        run_all(parse_config({**config, "seed": seed}), methods or TEACHERS, results, work, seed)


# ---- arm 3: which knowledge ------------------------------------------------------------------------------------------


def _mix(**options: Any) -> dict[str, Any]:
    return {"name": "dynamic-objective", "loss_weights": {"name": "uncertainty", **options}}


OBJECTIVE: Methods = {
    "uncertainty": _mix(),
    "uncertainty-r": _mix(strategy="uncertainty-r"),
    **{f"static-{share}": _mix(strategy="none", share=share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)},
}


def objective(data: str, data_dir: str, work: Path, seeds: list[int], methods: Methods) -> None:
    """Labels, outputs and hidden states of one teacher of six layers; the share of hidden states by uncertainty or fixed."""
    config = whole_task(data, data_dir, work).config
    config["teachers"] = [_teacher(work, config, "six")]
    results = Results(RESULTS / "dynamickd" / f"objective-{data}.jsonl")
    for seed in seeds:
        run_all(parse_config({**config, "seed": seed}), methods or OBJECTIVE, results, work, seed)


# ---- running ---------------------------------------------------------------------------------------------------------

LAYERS = {"six": (BACKBONE, 1), "four": (f"{BACKBONE}[layers=4]", 3)}


def _teacher(work: Path, config: dict[str, Any], name: str) -> dict[str, str]:
    init, seed = LAYERS[name]
    return {"name": name, "path": str(whole_teacher(work, name, config, init, seed, 1e-4, 3))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=["enlarged", "teachers", "objective"])
    parser.add_argument("--data", required=True, choices=list(ENLARGED_ROWS))
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/dynamickd"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+")
    given = parser.parse_args()
    experiment, known = {
        "enlarged": (enlarged, {**ENLARGED, **NOT_ENLARGED}),
        "teachers": (teachers, TEACHERS),
        "objective": (objective, OBJECTIVE),
    }[given.experiment]
    chosen = {name: known[name] for name in given.methods or []}
    experiment(given.data, given.data_dir, given.work / given.data, given.seeds, chosen)


if __name__ == "__main__":
    main()
