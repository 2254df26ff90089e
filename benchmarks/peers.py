"""An epoch here against an epoch elsewhere: TextBrewer's multi-teacher distiller, transformers' Trainer, and a bare loop.

    pip install textbrewer
    python -m benchmarks.peers --data-dir PATH/TO/glue

A student of three layers, three teachers of six, on MRPC's first rows, all in one process in turns. Peers are run as their documentation
shows it, once with all rows padded to 128 tokens and once with each batch padded to its longest row. Teacher outputs are stored
here beforehand; what that costs is stated as well. The bare loop has the same batches as ours, without teachers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from benchmarks.common import build_trainer, in_turns, open_bench, table, timed_training, write_result
from distilect.models import CheckpointTeacher
from distilect.pipeline.work import Workbench

BATCH, LENGTH, RATE = 32, 128, 5e-5
OURS = {
    "distilect, finetune": {"name": "finetune"},
    "distilect, uniform": {"name": "uniform"},
    "distilect, rlkd": {"name": "rlkd", "teachers": {"warmup_epochs": 0}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder with MRPC/")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = {"glue": "MRPC", "max_train_rows": given.rows}
        train = {"epochs": 1, "batch_size": BATCH, "max_length": LENGTH}
        start = time.perf_counter()
        bench = open_bench(given.data_dir, data, train, Path(folder), teachers=3)
        build_trainer(bench, {"name": "uniform"})  # the teachers' outputs are stored
        scoring = time.perf_counter() - start
        epochs: dict[str, Callable[[], float]] = {
            "TextBrewer, three teachers, padded to 128": lambda: textbrewer_epoch(bench, folder, "max_length"),
            "TextBrewer, three teachers, padded per batch": lambda: textbrewer_epoch(bench, folder, "longest"),
            "transformers' Trainer, no teacher, padded to 128": lambda: trainer_epoch(bench, folder, "max_length"),
            "transformers' Trainer, no teacher, padded per batch": lambda: trainer_epoch(bench, folder, "longest"),
            "bare loop, no teacher": lambda: bare_epoch(bench),
            **{name: lambda config=config: timed_training(bench, config)[0] for name, config in OURS.items()},  # type: ignore[misc]
        }
        times = in_turns(lambda name: epochs[name](), list(epochs), given.repeats)
        rows = len(bench.data.train)
    found = {name: as_figures(seconds, times["distilect, uniform"]) for name, seconds in times.items()}
    write_result("peers", {"rows": rows, "epochs": found, "teachers_built_and_scored_seconds": round(scoring, 1)})
    print(as_table(found))


def as_figures(seconds: list[float], ours: list[float]) -> dict[str, float]:
    """Median seconds of an epoch, and over those of `uniform` in the same turn."""
    over = statistics.median(one / other for one, other in zip(seconds, ours, strict=True))
    return {"seconds": round(statistics.median(seconds), 2), "over_uniform": round(over, 2)}


def as_table(found: dict[str, Any]) -> str:
    lines = [[name, f"{v['seconds']:.1f}", f"{v['over_uniform']:.2f}"] for name, v in found.items()]
    return table(["", "seconds, median", "over `uniform`"], lines)


# ---- the peers -------------------------------------------------------------------------------------------------------


def batches(bench: Workbench, tokenizer: Any, padding: str) -> Any:
    """Shuffled batches of the training rows in the usual way."""
    rows = bench.data.train
    texts = [list(column) for column in zip(*rows.text(range(len(rows))), strict=True)]
    encoded = tokenizer(*texts, truncation=True, max_length=LENGTH)
    features = [
        {name: values[row] for name, values in encoded.items()} | {"labels": int(rows.labels[row])}
        for row in range(len(rows))
    ]
    return features, DataCollatorWithPadding(tokenizer, padding=padding, max_length=LENGTH)


def textbrewer_epoch(bench: Workbench, folder: str, padding: str) -> float:
    """`MultiTeacherDistiller` of TextBrewer, α = 0.5 and T = 4 as here."""
    from textbrewer import DistillationConfig, MultiTeacherDistiller, TrainingConfig

    student = bench.new_student()
    features, collate = batches(bench, student.tokenizer, padding)
    loader: Any = DataLoader(features, batch_size=BATCH, shuffle=True, collate_fn=lambda rows: dict(collate(rows)))
    device = student.model.device
    teachers = [teacher.model for teacher in bench.teachers if isinstance(teacher, CheckpointTeacher)]
    distiller = MultiTeacherDistiller(
        TrainingConfig(output_dir=str(Path(folder) / "textbrewer"), device=device),
        DistillationConfig(temperature=4, hard_label_weight=0.5, kd_loss_weight=0.5),
        teachers,
        student.model,
        _adapted,
        _adapted,
    )
    optimizer = torch.optim.AdamW(student.model.parameters(), lr=RATE)
    start = time.perf_counter()
    with distiller:
        distiller.train(optimizer, loader, num_epochs=1, callback=None)
    return time.perf_counter() - start


def _adapted(batch: Any, outputs: Any) -> dict[str, Any]:
    return {"logits": (outputs.logits,), "losses": (outputs.loss,)}


def trainer_epoch(bench: Workbench, folder: str, padding: str) -> float:
    """`transformers.Trainer` with its defaults, fine-tuning the student."""
    student = bench.new_student()
    features, collate = batches(bench, student.tokenizer, padding)
    arguments = TrainingArguments(
        output_dir=str(Path(folder) / "trainer"),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(student.model, arguments, train_dataset=features, data_collator=collate)
    start = time.perf_counter()
    trainer.train()
    return time.perf_counter() - start


def bare_epoch(bench: Workbench) -> float:
    """Forward, backward, step over batches of similar length; no teacher, no Trainer."""
    trainer, _ = build_trainer(bench, {"name": "finetune"})
    model = trainer.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    model.train()
    start = time.perf_counter()
    for batch in trainer.get_train_dataloader():
        loss = torch.nn.functional.cross_entropy(model(**batch.inputs).logits, batch.labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
