"""Looking at the student between steps: the right rows, the right mode, and no trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distilect.data import Table, row_keys
from tests.training.helpers import Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def test_logits_are_those_of_the_rows_that_were_named_in_their_order(bench: Bench) -> None:
    trainer = bench.trainer("finetune", name="order")
    whole = torch.from_numpy(trainer.predict_rows(trainer.rows.encoded))
    positions = torch.randperm(len(bench.table), generator=torch.Generator().manual_seed(0))[:13]
    found = trainer.probe.logits(trainer.rows.keys[positions])
    torch.testing.assert_close(found, whole[positions], atol=1e-5, rtol=1e-4)
    assert float((found[0] - found[1]).abs().max()) > 1e-3
    assert trainer.probe.logits(trainer.rows.keys[:0]).shape == (0, 2)


def test_rows_of_equal_texts_are_one_row(bench: Bench) -> None:
    one = bench.table
    try:
        bench.table = Table.from_texts(["a fine film", "dull", "a fine film", "the sea"] * 2, [0, 1, 1, 0] * 2)
        trainer = bench.trainer("finetune", name="equal")
    finally:
        bench.table = one
    found = trainer.probe.logits(trainer.rows.keys)
    assert torch.equal(found[0], found[2]) and torch.equal(found[0], found[6])
    assert not torch.equal(found[0], found[1])


def test_looking_leaves_mode_gradients_and_random_state_as_they_were(bench: Bench) -> None:
    """PITFALLS 40: and the student is looked at without dropout."""
    trainer = bench.trainer("finetune", name="trace", dropout=0.5)
    trainer.model.train()
    before = torch.get_rng_state()
    first, second = trainer.probe.logits(trainer.rows.keys), trainer.probe.logits(trainer.rows.keys)
    trainer.probe.validation()
    assert trainer.model.training and torch.equal(first, second) and not first.requires_grad
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_every_row_that_is_run_is_counted(bench: Bench) -> None:
    trainer = bench.trainer("finetune", name="counts")
    trainer.probe.logits(trainer.rows.keys[:7])
    trainer.probe.validation(5)
    trainer.probe.validation()
    assert trainer.counts.extra["probed_rows"] == 7 + 5 + 12


@pytest.mark.parametrize("limit", [None, 5, 99])
def test_validation_logits_and_labels_belong_together(bench: Bench, limit: int | None) -> None:
    trainer = bench.trainer("finetune", name="held-out")
    logits, labels = trainer.probe.validation(limit)
    whole = trainer.predict_rows(trainer.rows.validation_encoded)
    order = np.argsort(row_keys(bench.validation.ids))[:limit]
    assert len(logits) == len(labels) == min(limit or 12, 12)
    np.testing.assert_array_equal(labels.numpy(), bench.validation.labels[order])
    np.testing.assert_allclose(logits.numpy(), whole[order], atol=1e-5)
    assert torch.equal(logits, trainer.probe.validation(limit)[0])  # the same rows each time


def test_some_validation_rows_stand_for_all_of_them_where_the_file_is_sorted_by_class(bench: Bench) -> None:
    """The first rows of such a file would all be of one class, and the score would reward predicting it."""
    validation = bench.validation
    try:
        bench.validation = Table.from_texts([f"the film number {i}" for i in range(60)], [0] * 30 + [1] * 30)
        labels = bench.trainer("finetune", name="sorted").probe.validation(20)[1]
    finally:
        bench.validation = validation
    assert 0.2 < float(labels.double().mean()) < 0.8


def test_scores_are_looked_at_as_floats(tmp_path: Path) -> None:
    bench = Bench(tmp_path, regression=True)
    trainer = bench.trainer("finetune")
    logits, labels = trainer.probe.validation(4)
    assert logits.shape == (4, 1) and labels.dtype == torch.float32
