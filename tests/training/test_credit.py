"""Credit inside a training: real gradients, rows that are set apart, looks that are paid for, and a resumed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distilect.data import row_keys
from distilect.errors import MethodError
from distilect.models.classifiers import output_layer
from distilect.pipeline.assembly import set_apart
from distilect.selection.alignment import AlignmentTeachers
from distilect.selection.credit import credit, head_kernel
from distilect.training.trainer import DistillationTrainer
from tests.training.helpers import Bench, toy_table, weights, whole_and_resumed


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def alignment(**options: Any) -> dict[str, Any]:
    return {"name": "alignment", "teachers": options}


def selector_of(trainer: DistillationTrainer) -> AlignmentTeachers:
    assert isinstance(trainer.method.teachers, AlignmentTeachers)
    return trainer.method.teachers


def test_the_exact_kernel_gives_the_product_of_gradients_of_a_real_students_output_layer(bench: Bench) -> None:
    trainer = bench.trainer(alignment(encoder="student", rows="validation"), name="exact", dropout=0.0)
    student, rows = trainer.student, trainer.rows
    model = student.model.eval()
    layer = list(output_layer(model, MethodError).parameters())
    assert rows.credit is not None and rows.credit_encoded is not None

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, layer)])

    batch = rows.batch(np.arange(5))
    teachers = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    held_out = model(**rows.credit_encoded.collate(np.arange(len(rows.credit)))).logits
    labels = torch.from_numpy(rows.credit.labels)
    average = gradient(F.cross_entropy(held_out, labels))
    expected = []
    for i in range(5):
        logits = model(**rows.batch([i]).inputs).logits[0]
        expected.append(gradient(-(teachers[i].softmax(-1) * logits.log_softmax(-1)).sum()) @ average)

    own = student(model, batch.inputs, hidden=False, features=True)
    keys = torch.from_numpy(row_keys(rows.credit.ids))
    logits, features = trainer.probe.credit(keys)
    torch.testing.assert_close(logits, held_out, rtol=1e-4, atol=1e-5)
    assert own.features is not None and features is not None
    errors = F.one_hot(labels, 2) - logits.softmax(-1)
    direction = head_kernel(own.features, features) @ errors / len(errors)
    found = credit(teachers.softmax(-1).unsqueeze(1), own.logits.softmax(-1), direction, regression=False)
    torch.testing.assert_close(found[:, 0].detach(), torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_credit_rows_do_not_choose_the_checkpoint(bench: Bench) -> None:
    apart, whole = (bench.trainer(alignment(rows=rows), name=f"rows-{rows}") for rows in ("validation", "train"))
    assert whole.rows.credit is None and len(whole.rows.validation) == 12
    assert apart.rows.credit is not None
    chosen, credited = set(row_keys(apart.rows.validation.ids)), set(row_keys(apart.rows.credit.ids))
    assert len(chosen) == len(credited) == 6 and not chosen & credited
    assert set(selector_of(apart).credit.sample.keys.tolist()) == credited
    assert set(selector_of(whole).credit.sample.keys.tolist()) == set(whole.rows.keys.tolist())


def test_rows_are_set_apart_by_text_and_class_whatever_the_order_of_the_file() -> None:
    table = toy_table(200)
    rest, credited = set_apart(table, "validation")
    assert credited is not None and len(rest) == len(credited) == 100
    assert abs(float(rest.labels.mean()) - float(credited.labels.mean())) < 0.02
    _, other = set_apart(table.take(np.random.default_rng(0).permutation(200)), "validation")
    assert other is not None and set(row_keys(other.ids)) == set(row_keys(credited.ids))
    assert set_apart(table, None)[1] is set_apart(table, "train")[1] is None
    with pytest.raises(MethodError, match="rows: validation: cannot hold .* or set rows: train"):
        set_apart(table.take(np.arange(1)), "validation")


def test_looks_are_counted_and_shared_by_selectors(bench: Bench) -> None:
    for name, spec, looks in (
        ("one", alignment(), 1),
        ("two", alignment() | {"loss_weights": "alignment", "rows": "alignment"}, 1),
        ("epoch", alignment(smoothing=0.5), 2),
        ("steps", alignment(smoothing=0.5, every=4), 1 + 10 // 4),
    ):
        trainer = bench.trainer(spec, name=f"looks-{name}")
        trainer.train()
        assert trainer.counts.extra["probed_rows"] == looks * 40, name


def test_a_look_leaves_training_as_it_is(bench: Bench) -> None:
    """With dropout: equal weights of the teachers, bit for bit, where no credit is used."""
    runs = [bench.trainer(spec, name=f"as-is-{i}") for i, spec in enumerate(("uniform", alignment(encoder="student")))]
    selector = selector_of(runs[1])
    selector.chosen = lambda: 0.0  # type: ignore[method-assign]
    for trainer in runs:
        trainer.train()
    one, two = map(weights, runs)
    assert all((one[name] == two[name]).all() for name in one)


@pytest.mark.parametrize(
    "spec",
    [
        alignment(encoder="student", smoothing=0.5, rows="validation"),
        alignment(every=3, smoothing=0.5) | {"loss_weights": "alignment", "rows": "alignment"},
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one(bench: Bench, spec: dict[str, Any], tmp_path: Path) -> None:
    def build(folder: Path, *callbacks: Any) -> DistillationTrainer:
        bench.folder, kept = folder.parent, bench.folder
        try:
            return bench.trainer(spec, name=folder.name, callbacks=list(callbacks))
        finally:
            bench.folder = kept

    whole, resumed = whole_and_resumed(build, tmp_path, 3)
    for trainer in resumed:
        one, two = weights(whole), weights(trainer)
        for name in one:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)
