"""Gradients of the kinds inside a training: they are autograd's, are paid for, and leave the training as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distilect.data import row_keys
from distilect.errors import RunError
from distilect.selection import draw_rows
from distilect.selection.alignment_kinds import AlignedKinds
from distilect.signals import fit_calibration
from distilect.training.trainer import DistillationTrainer
from tests.presets import slow
from tests.training.helpers import Bench, weights, whole_and_resumed


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def aligned(**options: Any) -> dict[str, Any]:
    return {"name": "akskd", "loss_weights": {"name": "alignment-kinds", "phases": 3, **options}}


def selector_of(trainer: DistillationTrainer) -> AlignedKinds:
    assert isinstance(trainer.method.loss_weights, AlignedKinds)
    return trainer.method.loss_weights


def test_the_products_are_those_of_the_whole_students_gradients(bench: Bench) -> None:
    trainer = bench.trainer({**aligned(), "teachers": "single"}, name="products", dropout=0.0)
    rows, validation = trainer.rows, trainer.rows.validation
    trainer.model.train()
    found = trainer.probe.kind_gradients(rows.keys[:6], 8)
    assert all(module.training for module in trainer.model.modules())
    model = trainer.model.eval()

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        parts = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, retain_graph=True)
        parts = [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), parts, strict=True)]
        return torch.cat([part.flatten() for part in parts]).double()

    assert trainer.source is not None
    said = trainer.source.fetch(rows.table, np.arange(6), [[], []]).logits
    logits = model(**rows.batch(np.arange(6)).inputs).logits
    response = [
        F.kl_div((logits / 4).log_softmax(-1), (t / 4).softmax(-1), reduction="batchmean") * 16 for t in said.unbind(1)
    ]
    own = [gradient(F.cross_entropy(logits, rows.labels[:6])), gradient(torch.stack(response).mean())]

    keys = torch.from_numpy(row_keys(validation.ids))
    drawn = np.flatnonzero(np.isin(keys.numpy(), draw_rows(keys, 8, 0, 0, "look").numpy()))
    assert len(drawn) == 8
    outputs = model(**rows.validation_encoded.collate(drawn)).logits
    target = gradient(F.cross_entropy(outputs, torch.from_numpy(validation.labels[drawn])))
    expected = torch.stack(own)
    torch.testing.assert_close(found.gram[:2, :2], expected @ expected.T, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.toward[:2], expected @ target, rtol=1e-3, atol=1e-6)
    assert found.length == pytest.approx(float(target.norm()), rel=1e-4)
    assert found.gram.shape == (4, 4) and (found.gram.diagonal() > 0).all()
    # 6 rows: a pass and a backward pass for each of four kinds; 8 validation rows: a pass and a backward pass
    assert trainer.counts.extra["probed_rows"] == 6 * 9 + 8 * 3


def test_the_validation_loss_is_that_of_calibrated_outputs(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.validation = bench.table  # enough rows for a temperature
    trainer = bench.trainer(aligned(), name="calibrated")
    head = trainer.model.classifier
    with torch.no_grad():
        head.weight.mul_(50.0)  # very sure of itself
    every = np.arange(40)
    loss = trainer.probe._validation_loss(every)
    with torch.no_grad():
        logits = trainer.model(**trainer.rows.validation_encoded.collate(every)).logits
    fitted = fit_calibration(bench.task, logits.numpy(), bench.table.labels)
    labels = torch.from_numpy(bench.table.labels)
    assert fitted.temperature > 2
    assert float(loss.detach()) == pytest.approx(float(F.cross_entropy(fitted(logits), labels)), rel=1e-3)
    assert float(loss.detach()) < float(F.cross_entropy(logits, labels)) - 0.1


def test_looking_leaves_training_as_it_is(bench: Bench) -> None:
    """With dropout: all ones, bit for bit, where no credit is used."""
    plain = {"name": "akskd", "loss_weights": {"name": "all-ones", "balance": "labels"}}
    runs = [bench.trainer(spec, name=f"as-is-{i}") for i, spec in enumerate((plain, aligned()))]
    selector = selector_of(runs[1])
    look = selector._look

    def forgetting(probe: Any, number: int) -> None:
        look(probe, number)
        selector.action = None

    selector._look = forgetting  # type: ignore[method-assign]
    for trainer in runs:
        trainer.train()
    one, two = map(weights, runs)
    assert all((one[name] == two[name]).all() for name in one)
    assert runs[1].counts.extra["probed_rows"] > 3 * 32 * 9


@pytest.mark.parametrize("change", [{"max_tokens": 32}, *slow({"gradient_accumulation_steps": 2})])
def test_accumulation_and_batch_split_change_no_weight(bench: Bench, change: dict[str, Any]) -> None:
    found = []
    for number, more in enumerate(({}, change)):
        trainer = bench.trainer(aligned(), name=f"split-{len(change)}-{number}", dropout=0.0, **more)
        trainer.train()
        found.append(selector_of(trainer).action)
    torch.testing.assert_close(found[0], found[1], atol=5e-3, rtol=0)


def test_a_resumed_run_equals_the_uninterrupted_one(bench: Bench, tmp_path: Path) -> None:
    def build(folder: Path, *callbacks: Any) -> DistillationTrainer:
        return bench.trainer(aligned(), name=str(folder), final_weights="last", callbacks=list(callbacks))

    whole, (resumed,) = whole_and_resumed(build, tmp_path, 4)
    one, two = weights(whole), weights(resumed)
    assert all((one[name] == two[name]).all() for name in one)
    assert whole.counts.extra == resumed.counts.extra


@pytest.mark.parametrize("kind", ["words", *slow("regression", "multi_label")])
def test_other_kinds_of_task(tmp_path: Path, kind: str) -> None:
    options: dict[str, Any] = {kind: True}
    bench = Bench(tmp_path, **options)
    trainer = bench.trainer(aligned(), name="other")
    trainer.train()
    action = selector_of(trainer).action
    assert action is not None and action.isfinite().all() and action.max() > 0


def test_a_sharded_student_is_refused_in_a_line(bench: Bench) -> None:
    trainer = bench.trainer(aligned(), name="sharded")
    trainer.probe.sharded = True
    with pytest.raises(RunError, match="which FSDP shards: launch without FSDP, or set loss_weights: fixed"):
        trainer.probe.kind_gradients(trainer.rows.keys[:2], 2)
