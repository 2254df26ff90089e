"""Which kinds of knowledge to copy: by credit, by an actor-critic, or by a search, with what each costs beside the training.

    python -m benchmarks.kinds --data-dir PATH/TO/glue --task CoLA --seeds 0 1 2

One teacher of six layers, students of three, four kinds that are brought to one size. A search trains by each of the fifteen subsets for a
quarter of the steps, and the validation split chooses. Each line of the result is written as it comes; what is there is not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from benchmarks.common import BACKBONE, RESULTS, made
from distilect.config import MethodConfig, parse_config
from distilect.pipeline.assembly import training_rows
from distilect.pipeline.work import Workbench
from distilect.selection import EpisodicSelector
from distilect.training import DistillationTrainer, run_episodes

KINDS = ("labels", "response", "feature", "relation")
SUBSETS = [one for one in itertools.product((1, 0), repeat=4) if any(one)]
TRAIN = {"CoLA": {"learning_rate": 1e-4, "max_length": 40}, "MRPC": {"learning_rate": 2e-4, "max_length": 96}}
METHODS: dict[str, Any] = {
    "all-ones": "all-ones",
    "credit": {"name": "akskd", "loss_weights": {"name": "alignment-kinds"}},
    "akskd": "akskd",
    "random-soft": "random-soft",
    "search": None,
}


def open_task(task: str, rows: int, data_dir: str, folder: Path) -> Workbench:
    """Rows, the teacher (fine-tuned now unless it is there), and the student."""
    how = {"init": BACKBONE, "seed": 1, "epochs": 3, "learning_rate": 1e-4}
    raw: dict[str, Any] = {
        "data": {"glue": task, "max_train_rows": rows, "validation_size": 0.2},
        "data_dir": data_dir,
        "teachers": [{"name": "six", "finetune": how}],
        "student": "six[layers=1,3,5]",
        "output": str(folder / task),
        "train": {"final_weights": "last", "epochs": 3, "batch_size": 32, **TRAIN[task]},
    }
    return Workbench.open(parse_config(raw))


def weighing(subset: tuple[int, ...]) -> dict[str, Any]:
    """Fixed weights of kinds that are brought to one size."""
    weights = dict(zip(KINDS, map(float, subset), strict=True))
    return {"name": "all-ones", "loss_weights": {"name": "fixed", "balance": "labels", "weights": weights}}


def trained(bench: Workbench, spec: Any, seed: int, share: float = 1.0) -> dict[str, Any]:
    """A student by a method: scores, the last weights, and student tokens, `beside` those of the steps.

    Args:
        share: of the optimiser steps.
    """
    student = bench.new_student()
    config = MethodConfig.model_validate({"name": spec} if isinstance(spec, str) else spec)
    method, prepared = bench.prepare(config, student)
    data, beside = bench.data, 0.0
    rows = training_rows(student, data.train, data.validation, data.task)
    train = bench.config.train.model_copy(update={"epochs": share * bench.config.train.epochs})
    folder = Path(bench.config.output) / "training"
    selector = method.loss_weights
    if isinstance(selector, EpisodicSelector):
        beside = run_episodes(
            bench.new_student,
            rows,
            method,
            prepared.source,
            train,
            folder / f"a-{seed}",
            seed=seed,
            description="akskd",
        ).student_tokens
        selector.freeze()
    trainer = DistillationTrainer(student.model, rows, method, prepared.source, train, folder, seed, saves=False)
    trainer.train()
    assert data.dev is not None
    outputs = trainer.predict_rows(student.encode(data.dev))
    recorded = trainer.records.recorder.table().to_pylist()
    last = [line for line in recorded if line["group"] == "all"][-1]
    return {
        "scores": {name: round(value, 5) for name, value in data.task.score(outputs, data.dev.labels).items()},
        "validation": data.task.score(trainer.predict_rows(rows.validation_encoded), data.validation.labels)[
            data.task.primary
        ],
        "weights": {kind: round(last[f"knowledge/{kind}"], 4) for kind in KINDS},
        "tokens": trainer.counts.tokens,
        "beside": round(beside + trainer.counts.student_tokens - trainer.counts.tokens),
    }


def searched(bench: Workbench, seed: int) -> dict[str, Any]:
    """The subset with the best validation score after a quarter of the steps, trained in full."""
    tried = [trained(bench, weighing(subset), seed, share=0.25) for subset in SUBSETS]
    best = max(range(len(SUBSETS)), key=lambda n: tried[n]["validation"])
    found = trained(bench, weighing(SUBSETS[best]), seed)
    spent = sum(one["tokens"] + one["beside"] for one in tried)
    return {**found, "beside": found["beside"] + spent, "subset": list(SUBSETS[best])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/kinds"))
    parser.add_argument("--data-dir", required=True, help="folder with the GLUE tasks")
    parser.add_argument("--task", choices=list(TRAIN), default="CoLA")
    parser.add_argument("--rows", type=int, default=2000, help="of train, with its validation split")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    file = RESULTS / "akskd" / f"credit-{given.task.lower()}.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(line["seed"], line["method"]) for line in lines}
    bench = open_task(given.task, given.rows, given.data_dir, given.folder)
    for seed, name in itertools.product(given.seeds, METHODS):
        if (seed, name) in done:
            continue
        found = searched(bench, seed) if name == "search" else trained(bench, METHODS[name], seed)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"method": name, "seed": seed, "rows": given.rows, **found, "made": made()}) + "\n")
        print(seed, name, found, flush=True)


if __name__ == "__main__":
    main()
