"""Does the adviser promise what choosing teachers gives? Promised gain on validation rows against the gain measured on held-out rows.

    python -m benchmarks.adviser --folder runs/adviser --data-dir PATH/TO/glue

Fine-tunes the teachers below once (on a slow core about half an hour; one that is there is not made again), makes the pools out of them
(two seconds each), and trains no student.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.common import BACKBONE, write_result
from distilect.config import FinetuneConfig, RunConfig, TeacherConfig, parse_config
from distilect.data import Data, Table, load_data, row_keys
from distilect.demo.docstrings import build_docstrings
from distilect.experiments.scenarios import with_noise
from distilect.pipeline.advise import words
from distilect.pipeline.judge import TEMPERATURES, Judgement, calibrated, judge, mixture, set_up, weights_on
from distilect.pipeline.teachers import finetuned_teacher
from distilect.pipeline.work import Workbench
from distilect.selection import TrainingSample
from distilect.tasks import Task

ROWS = 1500  # of train with its validation split; the others are for measuring


@dataclass(frozen=True)
class Made:
    """How a teacher is made.

    Attributes:
        rows: table → the rows that it learns from, bool [N]; None: all.
        noise: share of wrong labels, among the rows of `wrong` (default: all).
    """

    layers: int
    seed: int
    parts: int = 1  # classes are dealt out in turn into so many parts …
    part: int = 0  # … of which it learns this one
    noise: float = 0.0
    noisy_parts: int = 1  # as above: the part of the classes whose labels are wrong
    noisy_part: int = 0
    share: float = 1.0  # of its rows, the first ones


TEACHERS = {
    "part-0": Made(2, 11, parts=3, part=0),
    "part-1": Made(2, 12, parts=3, part=1),
    "part-2": Made(2, 13, parts=3, part=2),
    "two-a": Made(2, 2),
    "bad": Made(2, 3, noise=1.0),
    "half-0": Made(2, 21, parts=2, part=0),
    "half-1": Made(2, 22, parts=2, part=1),
    "wrong-0": Made(2, 31, noise=1.0, noisy_parts=3, noisy_part=0),
    "wrong-1": Made(2, 32, noise=1.0, noisy_parts=3, noisy_part=1),
    "few": Made(2, 5, share=0.2),
    "four-a": Made(4, 1),
    "two-b": Made(2, 6),
    "noisy": Made(2, 7, noise=0.4),
    "quarter-0": Made(2, 41, parts=4, part=0),
    "quarter-1": Made(2, 42, parts=4, part=1),
    "four-b": Made(4, 8),
}


def base_config(folder: Path) -> RunConfig:
    """The rows of all pools, and the settings that teachers are fine-tuned with."""
    files = build_docstrings(folder / "data")
    raw: dict[str, Any] = {
        "name": "adviser",
        "output": str(folder),
        "data": {
            "train": str(files.train_path),
            "dev": str(files.dev_path),
            "max_train_rows": ROWS,
            "validation_size": 0.2,
        },
        "student": f"{BACKBONE}[layers=2]",
        "train": {"max_length": 64, "learning_rate": 2e-4},
    }
    return parse_config(raw)


def rows_for(made: Made, data: Data) -> Data:
    """What a teacher learns from."""

    def changed(table: Table) -> Table:
        table = table.take(np.flatnonzero(table.labels % made.parts == made.part))
        table = table.take(np.arange(max(1, round(made.share * len(table)))))
        if not made.noise:
            return table
        hit = table.labels % made.noisy_parts == made.noisy_part
        wrong = with_noise(table, made.noise, data.task, made.seed, "adviser")
        return replace(table, labels=np.where(hit, wrong.labels, table.labels))

    return replace(data, train=changed(data.train), validation=changed(data.validation))


def make_teachers(config: RunConfig, data: Data) -> dict[str, Path]:
    """Fine-tuned now, unless they are there."""
    found = {}
    for name, made in TEACHERS.items():
        init = BACKBONE if made.layers == 6 else f"{BACKBONE}[layers={made.layers}]"
        learned = made.share / made.parts
        spec = FinetuneConfig(
            init=init, seed=made.seed, epochs=min(8.0, 3.0 / learned), learning_rate=2e-4, batch_size=16
        )
        found[name] = finetuned_teacher(name, spec, rows_for(made, data), config)
    return found


# ---- pools -----------------------------------------------------------------------------------------------------------

PARTS = ("part-0", "part-1", "part-2")
POOLS: dict[str, list[tuple[str, ...]]] = {
    "ordinary": [
        ("four-a", "four-b"),
        ("four-a", "two-a"),
        ("two-a", "two-b"),
        ("four-a", "four-b", "two-a"),
        ("four-a", "two-a", "two-b"),
        ("four-a", "four-b", "two-a", "two-b"),
    ],
    "a poor teacher": [
        ("four-a", "bad"),
        ("two-a", "bad"),
        ("four-a", "two-a", "bad"),
        ("two-a", "two-b", "bad"),
        ("four-a", "noisy"),
        ("two-a", "noisy"),
        ("two-a", "noisy", "bad"),
        ("two-a", "few"),
        ("four-a", "few"),
        ("few", "noisy"),
    ],
    "specialists": [
        PARTS,
        (*PARTS, "two-a"),
        (*PARTS, "bad"),
        ("half-0", "half-1"),
        ("half-0", "half-1", "four-a"),
        ("half-0", "half-1", "few"),
        ("part-0", "part-1"),
        ("part-0", "two-a"),
        ("part-0", "four-a"),
        ("part-0", "half-1"),
        ("quarter-0", "quarter-1"),
        ("quarter-0", "quarter-1", "two-a"),
        ("half-0", "few"),
        ("half-0", "noisy"),
    ],
    "wrong about some classes": [
        ("wrong-0", "wrong-1"),
        ("wrong-0", "wrong-1", "two-a"),
        ("wrong-0", "wrong-1", "noisy"),
        ("wrong-0", "two-a"),
        ("wrong-0", "four-a"),
        ("wrong-0", "few"),
        ("wrong-0", "bad"),
        ("wrong-0", "part-0"),
        ("wrong-1", "part-1"),
        ("wrong-0", "half-0"),
    ],
}
HELD = 1500  # rows behind those of train, for measuring, beside dev


def held_out(config: RunConfig, data: Data) -> Table:
    """Rows that neither teachers nor adviser have seen."""
    everything = config.data.model_copy(update={"max_train_rows": ROWS + HELD, "validation_size": 0.0})
    whole = load_data(everything, config.task, config.seed, Path(config.data_dir))
    assert whole.task.labels == data.task.labels and data.dev is not None
    return Table.concat([whole.train.take(np.arange(ROWS, len(whole.train))), data.dev])


def sample_of(bench: Workbench, table: Table) -> TrainingSample:
    """The outputs of all teachers on a table."""
    logits = torch.from_numpy(np.stack([bench.outputs(teacher, table) for teacher in bench.teachers], axis=1))
    return TrainingSample(torch.from_numpy(row_keys(table.ids)), torch.tensor(table.labels), logits, None)


def of_pool(sample: TrainingSample, names: Sequence[str], pool: Sequence[str]) -> TrainingSample:
    """Those of some teachers."""
    return replace(sample, teachers=sample.teachers[:, [names.index(name) for name in pool]])


# ---- promised and measured -------------------------------------------------------------------------------------------


def measured(
    task: Task, pool: Sequence[str], known: TrainingSample, held: TrainingSample, found: Judgement
) -> dict[str, float]:
    """Score on the held-out rows of what each rule teaches, set up on all rows that the adviser saw."""
    fitted, rows = (calibrated(task, one, known) for one in (known, held))
    scores = {}
    for rule in found.rules:
        weights = weights_on(set_up(rule.name, task, pool, fitted), rows)
        scores[rule.name] = score(task, mixture(task, rows.teachers.numpy(), weights, rule.temperature), held)
    return scores


def uncalibrated(task: Task, held: TrainingSample) -> dict[str, float]:
    """Temperature → score of equal weights over the teachers' outputs as they are."""
    logits = held.teachers.numpy()
    weights = np.full(logits.shape[:2], 1 / logits.shape[1])
    return {f"{t:g}": score(task, mixture(task, logits, weights, t), held) for t in TEMPERATURES}


def score(task: Task, outputs: Any, held: TrainingSample) -> float:
    return round(task.score(outputs, held.labels.numpy())[task.primary], 5)


def line(task: Task, family: str, pool: Sequence[str], known: TrainingSample, held: TrainingSample) -> dict[str, Any]:
    """One pool: what was promised on validation rows, and what was measured on held-out ones."""
    started = time.process_time()
    found = judge(task, pool, known)
    seconds = time.process_time() - started
    scores = measured(task, pool, known, held, found)
    return {
        "family": family,
        "pool": list(pool),
        "promised": asdict(found.choosing),
        "measured": round(scores[found.by_row.name] - scores[found.fixed.name], 5),
        "fixed": found.fixed.name,
        "by_row": found.by_row.name,
        "agreement": round(found.agreement, 4),
        "pooling": asdict(found.pooling) | {"measured": round(scores[found.fixed.name] - scores["single"], 5)},
        "oracle": asdict(found.oracle),
        "advice": words(task, found, "the best teacher", 0.0)[-1],
        "scores": scores,
        "uniform_uncalibrated": uncalibrated(task, held),
        "judge_seconds": round(seconds, 2),
    }


def agreement(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Spearman's correlation of promised and measured gains over the pools: of a choice per row over the best fixed weights, of these over the best
    teacher alone, and of both together."""
    choosing = [(one["promised"]["value"], one["measured"]) for one in lines]
    pooling = [(one["pooling"]["value"], one["pooling"]["measured"]) for one in lines]
    both = [(a + c, b + d) for (a, b), (c, d) in zip(choosing, pooling, strict=True)]
    gains = {"choosing": choosing, "pooling": pooling, "both": both}
    return {name: round(float(spearmanr(*zip(*pairs, strict=True))[0]), 3) for name, pairs in gains.items()}


# ---- GLUE ------------------------------------------------------------------------------------------------------------

GLUE = {"CoLA": 40, "SST-2": 48, "STS-B": 64, "MRPC": 96, "RTE": 96}  # tokens
GLUE_TEACHERS = {"four-a": Made(4, 1), "four-b": Made(4, 2), "two": Made(2, 3)}


def glue_line(name: str, data_dir: str, folder: Path) -> dict[str, Any]:
    """An ordinary pool: three teachers that differ in depth and seed, on the first 2,000 rows of a task; measured on its dev."""
    raw: dict[str, Any] = {
        "data_dir": data_dir,
        "data": {"glue": name, "max_train_rows": 2000, "validation_size": 0.2},
        "teachers": [
            {
                "name": teacher,
                "finetune": {"init": f"{BACKBONE}[layers={made.layers}]", "seed": made.seed, "learning_rate": 2e-4},
            }
            for teacher, made in GLUE_TEACHERS.items()
        ],
        "student": f"{BACKBONE}[layers=2]",
        "train": {"max_length": GLUE[name]},
        "output": str(folder),
    }
    bench = Workbench.open(parse_config(raw))
    assert bench.data.dev is not None
    samples = (sample_of(bench, table) for table in (bench.data.validation, bench.data.dev))
    return {"task": name, **line(bench.data.task, "GLUE", list(GLUE_TEACHERS), *samples)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/adviser"))
    parser.add_argument("--data-dir", help="folder with the GLUE tasks; default: without them")
    given = parser.parse_args()
    glue = [glue_line(task, given.data_dir, given.folder / "glue") for task in (GLUE if given.data_dir else ())]
    config = base_config(given.folder)
    data = load_data(config.data, config.task, config.seed, Path(config.data_dir))
    made = make_teachers(config, data)
    specs = [TeacherConfig(name=name, path=str(path)) for name, path in made.items()]
    bench = Workbench.open(config.model_copy(update={"teachers": specs}))
    known, held = sample_of(bench, data.validation), sample_of(bench, held_out(config, data))
    names, lines = list(made), []
    for family, pools in POOLS.items():
        for pool in pools:
            lines.append(line(data.task, family, pool, of_pool(known, names, pool), of_pool(held, names, pool)))
            print(family, pool, lines[-1]["promised"], lines[-1]["measured"], flush=True)
    lines += glue
    alone = {name: score(data.task, held.teachers[:, k].numpy(), held) for k, name in enumerate(names)}
    values = {
        "rows": {"train": len(data.train), "validation": len(known.keys), "held_out": len(held.keys)},
        "teachers": {name: asdict(how) | {"accuracy": alone[name]} for name, how in TEACHERS.items()},
        "pools": len(lines),
        "spearman": agreement(lines),
        "lines": lines,
    }
    write_result("adviser", values)


if __name__ == "__main__":
    main()
