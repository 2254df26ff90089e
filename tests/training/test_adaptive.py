"""`adaptive` inside a training: what its plan says is what is trained on, asked and paid for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distilect.data import Table, row_keys
from distilect.selection import KnownRows
from distilect.selection.adaptive import AdaptiveRows
from distilect.training.trainer import DistillationTrainer
from tests.presets import slow
from tests.training.helpers import Bench, weights, whole_and_resumed


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def adaptive(**options: Any) -> dict[str, Any]:
    return {"name": "adaptive", "rows": {"name": "adaptive", **options}}


def selector_of(trainer: DistillationTrainer) -> AdaptiveRows:
    assert isinstance(trainer.method.rows, AdaptiveRows)
    return trainer.method.rows


def test_planned_rows_are_trained_on_and_those_that_pay_ask(tmp_path: Path) -> None:
    """Labels and teachers are random: it pays for rows without a label only."""
    bench = Bench(tmp_path)
    labels = bench.table.labels.copy()
    labels[:16] = -100
    bench.table = Table(bench.table.texts, labels, bench.table.ids)
    trainer = bench.trainer(adaptive(ratio=0.8, price=0.5), name="plan", epochs=3)
    plans: list[tuple[set[int], int]] = []
    plan = selector_of(trainer).plan

    def noted(*args: Any) -> Any:
        found = plan(*args)
        asking = selector_of(trainer).asking
        assert asking is not None
        plans.append((set(found.tolist()), len(asking)))
        return found

    selector_of(trainer).plan = noted  # type: ignore[method-assign]
    trainer.train()
    assert len(plans) == 3 and all(len(rows) == 32 for rows, _ in plans)
    asked = sum(count for _, count in plans)
    assert 0 < asked < 96
    assert trainer.counts.rows == 96 and trainer.counts.extra["teacher_rows"] == 2 * asked
    assert (
        trainer.counts.extra["probed_rows"] == 3 * 24
    )  # a look at the labelled rows for each plan, shared by the selectors
    record = [line for line in trainer.records.recorder.table().to_pylist() if line["group"] == "all"]
    assert [line["asked"] for line in record] == pytest.approx([count / 32 for _, count in plans])


@pytest.mark.parametrize("words", [False, True])
def test_what_is_known_of_rows(tmp_path: Path, words: bool) -> None:
    bench = Bench(tmp_path, words=words)
    trainer = bench.trainer(adaptive(), name="known")
    table, positions = trainer.rows.table, np.array([7, 2, 30])
    found = trainer.probe.known(torch.from_numpy(row_keys(table.ids))[positions])
    assert isinstance(found, KnownRows)
    units = table.unit_index(positions)
    assert found.keys.tolist() == trainer.rows.keys[units].tolist()
    assert found.labels.tolist() == table.labels[units].tolist()
    assert found.tokens.tolist() == trainer.rows.encoded.lengths[positions].tolist()
    counts = [1, 1, 1] if table.units is None else [len(table.units.of([p])) for p in positions]
    assert found.row.bincount().tolist() == counts
    assert trainer.vectors is not None and found.vectors is not None
    expected = trainer.vectors.fetch(table, positions, [[]]).logits[:, 0]
    torch.testing.assert_close(found.vectors, expected)
    assert not trainer.counts.extra  # nothing was run


@pytest.mark.parametrize("change", [{"max_tokens": 32}, *slow({"gradient_accumulation_steps": 2})])
def test_accumulation_and_batch_split_change_no_plan(bench: Bench, change: dict[str, Any]) -> None:
    found = []
    for number, more in enumerate(({}, change)):
        trainer = bench.trainer(adaptive(price=0.1), name=f"split-{len(change)}-{number}", dropout=0.0, **more)
        trainer.train()
        found.append((selector_of(trainer).asking, trainer.records.recorder.table().to_pylist()))
    assert torch.equal(found[0][0], found[1][0])
    for one, two in zip(found[0][1], found[1][1], strict=True):
        assert one == pytest.approx(two, abs=1e-3)


def test_a_run_that_is_resumed_within_an_epoch_equals_the_uninterrupted_one(bench: Bench, tmp_path: Path) -> None:
    def build(folder: Path, *callbacks: Any) -> DistillationTrainer:
        spec = adaptive(price=0.1)
        return bench.trainer(spec, name=str(folder), final_weights="last", callbacks=list(callbacks))

    whole, (resumed,) = whole_and_resumed(build, tmp_path, 4)
    one, two = weights(whole), weights(resumed)
    assert all((one[name] == two[name]).all() for name in one)
    assert whole.records.recorder.table().equals(resumed.records.recorder.table())


@pytest.mark.parametrize("kind", ["words", *slow("regression", "multi_label")])
def test_other_kinds_of_task(tmp_path: Path, kind: str) -> None:
    options: dict[str, Any] = {kind: True}
    bench = Bench(tmp_path, **options)
    trainer = bench.trainer(adaptive(price=0.05), name="other", epochs=1)
    start = weights(trainer)
    trainer.train()
    assert trainer.counts.rows == 20 and any((start[name] != value).any() for name, value in weights(trainer).items())
    assert all(np.isfinite(value).all() for value in weights(trainer).values())
