"""Does the adviser promise what choosing teachers gives? Promised gain on validation rows against the gain measured on held-out rows.

    python -m benchmarks.adviser --folder runs/adviser

Fine-tunes the teachers below once (on a slow core about half an hour), makes the pools out of them, and trains no student.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import BACKBONE
from distilect.config import FinetuneConfig, RunConfig, parse_config
from distilect.data import Data, Table, load_data
from distilect.demo.docstrings import build_docstrings
from distilect.experiments.scenarios import with_noise
from distilect.pipeline.teachers import finetuned_teacher

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
        "data": {"train": str(files.train_path), "dev": str(files.dev_path), "max_train_rows": ROWS, "validation_size": 0.2},
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/adviser"))
    given = parser.parse_args()
    config = base_config(given.folder)
    data = load_data(config.data, config.task, config.seed, Path(config.data_dir))
    make_teachers(config, data)


if __name__ == "__main__":
    main()
