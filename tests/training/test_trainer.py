"""The trainer: what would silently go wrong without these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from distilect.data import Table
from distilect.errors import RunError
from distilect.training import Batch, DistillationTrainer
from distilect.training.callbacks import History
from distilect.training.checkpoints import last_checkpoint
from tests.presets import slow
from tests.training.helpers import Bench, weights, whole_and_resumed


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def first_gradient(trainer: Any) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and student gradients of the first optimiser step, before clipping and the step itself."""
    found: dict[str, Any] = {}

    class Catch(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            found["grads"] = {
                n: p.grad.clone().numpy() for n, p in trainer.model.named_parameters() if p.grad is not None
            }
            control.should_training_stop = True

    trainer.args.max_grad_norm = 0.0
    trainer.add_callback(Catch())
    trainer.train()
    return float(trainer._total_loss_scalar), found["grads"]


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray], tolerance: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("method", ["pkd", "all-ones", *slow("finetune", "uniform")])
def test_accumulation_and_batch_split_change_neither_loss_nor_gradient(bench: Bench, method: str) -> None:
    """PITFALLS 19: a mean of means weighs rows of small parts more."""
    off = {"dropout": 0.0, "epochs": 1, "batch_size": 12, "final_weights": "last"}
    spec: Any = method
    if method == "all-ones":  # brought to one size, the rounding of a tiny loss would be blown up with it
        spec = {"name": method, "loss_weights": {"name": method, "balance": "none"}}
    loss, grads = first_gradient(bench.trainer(spec, name=f"whole-{method}", **off))
    for change in (
        {"gradient_accumulation_steps": 3},
        {"max_tokens": 40},
        {"gradient_accumulation_steps": 2, "max_tokens": 30},
    ):
        other_loss, other = first_gradient(bench.trainer(spec, name=f"split-{method}", **off, **change))
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert_same(grads, other, tolerance=2e-5)


@pytest.mark.parametrize("method", ["pkd", *slow("uniform", "finetune", "random-single")])
def test_a_resumed_run_equals_the_uninterrupted_one(bench: Bench, method: str, tmp_path: Path) -> None:
    """Invariance 3: weights, history and records; with dropout, so that random state counts. Step 5 ends an epoch."""
    # 40 rows, 8 per step: 5 steps per epoch, each is saved
    save: dict[str, Any] = {"epochs": 3, "evaluations": 5, "final_weights": "last"}

    def build(folder: Path, *callbacks: TrainerCallback) -> DistillationTrainer:
        history = History(folder / "history.jsonl")
        return bench.trainer(method, name=str(folder), **save, callbacks=[*callbacks, history])

    def losses(trainer: DistillationTrainer) -> list[dict[str, Any]]:
        lines = Path(trainer.args.output_dir, "history.jsonl").read_text().splitlines()
        return [{key: json.loads(line).get(key) for key in ("step", "train/loss")} for line in lines]

    whole, others = whole_and_resumed(build, tmp_path, 3, 5)
    rows = (bench.table, ("no", "yes"))
    for resumed in others:
        assert_same(weights(whole), weights(resumed))
        assert whole.records.recorder.table().equals(resumed.records.recorder.table())
        assert whole.records.sample.table(*rows).equals(resumed.records.sample.table(*rows))
        assert whole.counts.tokens == resumed.counts.tokens
        for one, other in zip(losses(whole), losses(resumed), strict=True):
            assert one == pytest.approx(other, nan_ok=True)


def test_a_training_that_is_not_resumable_gives_the_same_and_keeps_weights_only(bench: Bench, tmp_path: Path) -> None:
    """Its best checkpoint ends the training; nobody goes on from one that lacks the optimiser."""
    runs = [
        bench.trainer("uniform", name=str(tmp_path / str(kept)), resumable=kept, epochs=3, evaluations=2)
        for kept in (True, False)
    ]
    for trainer in runs:
        trainer.train()
    assert_same(weights(runs[0]), weights(runs[1]))
    left = [{f.name for f in (tmp_path / str(kept)).rglob("*") if f.is_file()} for kept in (True, False)]
    assert "optimizer.pt" in left[0] and "optimizer.pt" not in left[1] and "model.safetensors" in left[1]
    assert last_checkpoint(tmp_path / "True") is not None
    assert last_checkpoint(tmp_path / "False") is None


def test_two_seeded_runs_are_equal_and_another_seed_is_not(bench: Bench) -> None:
    runs = [bench.trainer("uniform", name=f"seed-{n}", seed=s) for n, s in enumerate((3, 3, 4))]
    for trainer in runs:
        trainer.train()
    assert_same(weights(runs[0]), weights(runs[1]))
    assert any((weights(runs[0])[k] != weights(runs[2])[k]).any() for k in weights(runs[0]))


def test_teacher_outputs_are_the_same_before_and_after_training(bench: Bench) -> None:
    """PITFALLS 1, 4 and invariance 4: teachers stay in eval mode, off the module tree, without gradients."""
    rows = np.arange(8)
    trainer = bench.trainer("uniform", name="teachers")
    before = trainer.source.fetch(bench.table, rows, [[], []]).logits
    trainer.train()
    trainer.model.train()
    after = trainer.source.fetch(bench.table, rows, [[], []]).logits
    assert torch.equal(before, after) and not after.requires_grad
    for teacher in bench.teachers:
        assert not teacher.model.training
        assert all(p.grad is None and not p.requires_grad for p in teacher.model.parameters())


def test_teacher_weights_are_not_in_checkpoints(bench: Bench, tmp_path: Path) -> None:
    """PITFALLS 2."""
    from safetensors import safe_open

    trainer = bench.trainer("pkd", name=str(tmp_path), epochs=1)
    trainer.train()
    folder = last_checkpoint(tmp_path)
    assert folder is not None
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert len(set(file.keys())) == len(trainer.model.state_dict())
    small = sum(p.numel() for p in trainer.model.parameters())
    assert (folder / "model.safetensors").stat().st_size < 4 * small + 20_000


def test_the_student_is_not_left_in_eval_mode_by_an_evaluation(bench: Bench) -> None:
    """PITFALLS 40."""
    modes: list[bool] = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            modes.append(model.training)

    bench.trainer("finetune", name="modes", epochs=2, evaluations=5, callbacks=[Watch()]).train()
    assert modes == [True] * 10


def test_signals_follow_their_rows_while_the_sampler_shuffles(bench: Bench) -> None:
    """PITFALLS 20: a cache addressed by position gives each row another row's signals."""
    trainer = bench.trainer("uniform", name="identity")
    seen: list[tuple[Any, Any]] = []
    ask = trainer._ask

    def spy(batch: Batch, index: torch.Tensor) -> Any:
        signals = ask(batch, index)
        seen.append((torch.from_numpy(batch.positions)[index], signals.logits))
        return signals

    trainer._ask = spy  # type: ignore[method-assign]
    trainer.train()
    alone = trainer.source.fetch(bench.table, np.arange(len(bench.table)), [[], []]).logits
    assert len({tuple(rows.tolist()) for rows, _ in seen}) > 5  # really shuffled
    for rows, logits in seen:
        torch.testing.assert_close(logits, alone[rows], rtol=1e-4, atol=1e-5)


def test_batches_are_drawn_anew_each_epoch(bench: Bench) -> None:
    """PITFALLS 22."""
    sampler = bench.trainer("finetune", name="anew").sampler
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        epochs.append([tuple(sorted(b)) for b in sampler])
    assert all(sorted(x for b in e for x in b) == list(range(40)) for e in epochs)
    assert set(epochs[0]) != set(epochs[1]) != set(epochs[2])


@pytest.mark.parametrize("method", ["random-single", *slow("uniform")])
def test_selections_do_not_depend_on_the_batch(bench: Bench, method: str) -> None:
    """PITFALLS 30: same seed and rows, same selection, whatever accumulation and split."""
    tables = []
    for number, change in enumerate(({}, {"gradient_accumulation_steps": 2}, {"max_tokens": 32})):
        spec = {"name": method, "rows": {"name": "random", "ratio": 0.5}}
        trainer = bench.trainer(spec, name=f"selections-{method}-{number}", dropout=0.0, **change)
        trainer.train()
        tables.append(trainer.records.recorder.table().to_pylist())
    for other in tables[1:]:
        for one, two in zip(tables[0], other, strict=True):
            assert one == pytest.approx(two)


def test_planned_rows_are_the_only_ones_loaded(bench: Bench) -> None:
    trainer = bench.trainer({"name": "uniform", "rows": {"name": "random-plan", "ratio": 0.25}}, name="plan")
    trainer.train()
    assert trainer.counts.rows == 2 * 10  # two epochs of a quarter of 40 rows
    assert [line["rows"] for line in trainer.records.recorder.table().to_pylist() if line["group"] == "all"] == [10, 10]


def test_skipped_rows_ask_no_teacher_and_give_no_gradient(bench: Bench) -> None:
    trainer = bench.trainer({"name": "uniform", "rows": {"name": "random-skip", "ratio": 0.3}}, name="skip", epochs=1)
    before = trainer.source.forwards
    trainer.train()
    line = trainer.records.recorder.table().to_pylist()[0]
    assert 0 < line["asked"] < 1 and line["asked"] == line["trained"]
    assert trainer.source.forwards - before == 2 * round(line["asked"] * 40)  # two teachers, selected rows only


def test_a_row_without_label_learns_from_teachers_only(bench: Bench) -> None:
    labelled = bench.table
    try:
        bench.table = labelled.without_labels()
        fine = bench.trainer("finetune", name="bare", epochs=1, final_weights="last")
        start = weights(fine)
        _, grads = first_gradient(fine)
        assert all(not g.any() for g in grads.values())
        _, grads = first_gradient(bench.trainer("uniform", name="taught", epochs=1, final_weights="last"))
        assert any(g.any() for g in grads.values())
        assert start.keys() == weights(fine).keys()
    finally:
        bench.table = labelled


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(bench: Bench, tmp_path: Path) -> None:
    trainer = bench.trainer("finetune", name=str(tmp_path), epochs=3)

    class Poison(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == 7:
                with torch.no_grad():
                    next(model.parameters()).fill_(float("nan"))

    trainer.add_callback(Poison())
    with pytest.raises(RunError, match=r"loss is nan at step 8, rows .*learning_rate"):
        trainer.train()
    assert last_checkpoint(tmp_path).name == "checkpoint-5"  # type: ignore[union-attr]


def test_a_checkpoint_that_was_cut_short_is_never_read(bench: Bench, tmp_path: Path) -> None:
    bench.trainer("finetune", name=str(tmp_path), epochs=2, final_weights="last").train()
    newest = last_checkpoint(tmp_path)
    assert newest is not None
    model = newest / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-10])
    found = last_checkpoint(tmp_path)
    assert found is None or found.name == "checkpoint-5"  # the best one, if that was the earlier epoch's
    assert not newest.exists()


def test_projections_are_trained_beside_the_student_and_resumed(tmp_path: Path) -> None:
    """PITFALLS 38: teachers are wider than the student."""
    from tests.tiny import tiny_bert

    bench = Bench(tmp_path)
    bench.student_path = tiny_bert(tmp_path / "narrow", ["no", "yes"], seed=4, layers=2, hidden=8)
    method = {"name": "pkd", "teachers": "uniform"}
    trainer = bench.trainer(method, name="projected", epochs=1)
    start = [p.detach().clone() for p in trainer.projections.parameters]
    assert len(start) == 2 and start[0].shape == (16, 8)
    trainer.train()
    assert all((a != b).any() for a, b in zip(start, trainer.projections.parameters, strict=True))
    assert not any("projection" in name for name in trainer.model.state_dict())
    again = bench.trainer(method, name="projected", epochs=1)
    again.load_extra_state(last_checkpoint(tmp_path / "projected"))  # type: ignore[arg-type]
    assert all(
        torch.equal(a, b) for a, b in zip(trainer.projections.parameters, again.projections.parameters, strict=True)
    )


def test_kd_is_uniform_over_one_teacher_bit_for_bit(bench: Bench) -> None:
    pool = bench.teachers
    try:
        bench.teachers = pool[:1]
        runs = [
            bench.trainer(method, name=f"one-{method}") for method in ("kd", "uniform", "confidence", "best-single")
        ]
    finally:
        bench.teachers = pool
    for trainer in runs:
        trainer.train()
    for other in runs[1:]:
        assert_same(weights(runs[0]), weights(other))


def test_response_weight_zero_is_finetuning_bit_for_bit(bench: Bench) -> None:
    runs = [bench.trainer("finetune", name="ft"), bench.trainer({"name": "kd", "alpha": 0.0}, name="kd0")]
    for trainer in runs:
        trainer.train()
    assert_same(weights(runs[0]), weights(runs[1]))


def test_regression_learns_from_teachers_and_from_labels(tmp_path: Path) -> None:
    """PITFALLS 39."""
    bench = Bench(tmp_path, regression=True)
    label_grads = first_gradient(bench.trainer("finetune", name="a", dropout=0.0))[1]
    teacher_grads = first_gradient(bench.trainer({"name": "uniform", "alpha": 1.0}, name="b", dropout=0.0))[1]
    assert any(g.any() for g in label_grads.values()) and any(g.any() for g in teacher_grads.values())
    assert any((label_grads[k] != teacher_grads[k]).any() for k in label_grads)
    trainer = bench.trainer("uniform", name="c", epochs=1)
    trainer.train()
    assert np.isfinite(trainer.state.log_history[-1].get("eval_pearson", 0.0))


def test_patience_stops_after_so_many_worse_evaluations(bench: Bench) -> None:
    trainer = bench.trainer("finetune", name="patience", epochs=30, early_stopping_patience=2, learning_rate=1e-12)
    trainer.train()
    assert trainer.state.global_step == 3 * 5  # nothing ever improves after the first evaluation


def test_patience_by_loss_stops_while_the_loss_rises(bench: Bench) -> None:
    settings: dict[str, Any] = {"final_weights": "lowest-loss", "early_stopping_patience": 2}
    trainer = bench.trainer("finetune", name="loss", epochs=30, learning_rate=0.3, dropout=0.0, **settings)
    trainer.train()
    losses = [line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line]
    assert len(losses) < 30 and min(losses) == losses[-3]
    kept = trainer.predict_rows(trainer.rows.validation_encoded)
    assert trainer.rows.task.loss(kept, trainer.rows.validation.labels) == pytest.approx(min(losses), rel=1e-5)


def test_average_weights_are_the_mean_of_the_last_fifth_also_when_resumed(bench: Bench, tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            seen.append({name: value.detach().clone() for name, value in model.named_parameters()})

    def build(folder: Path, *callbacks: TrainerCallback) -> DistillationTrainer:  # 10 steps: the last 2 count
        settings: dict[str, Any] = {"epochs": 2, "evaluations": 5, "final_weights": "average"}
        return bench.trainer("kd", name=str(folder), callbacks=[*callbacks], **settings)

    watched = build(tmp_path / "watched", Watch())
    watched.train()
    watched.take_average()
    expected = {name: (seen[-2][name] + seen[-1][name]) / 2 for name in seen[-1]}
    assert len(seen) == 10
    for name, value in watched.model.named_parameters():
        torch.testing.assert_close(value, expected[name])
    whole, others = whole_and_resumed(build, tmp_path, 9)
    for trainer in (whole, *others):
        trainer.take_average()
        assert_same(weights(trainer), weights(watched))


def test_history_and_tensorboard_have_the_same_names(bench: Bench, tmp_path: Path) -> None:
    """PITFALLS 44: and each point stands at its own step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path, board = tmp_path / "history.jsonl", tmp_path / "tb"
    bench.trainer("uniform", name="names", callbacks=[History(path, board)]).train()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    names = {name for line in lines for name in line} - {"step", "epoch"}
    events = EventAccumulator(str(board))
    events.Reload()
    assert set(events.Tags()["scalars"]) == names
    assert {"train/loss", "train/loss_labels", "train/loss_response", "teacher/w_t0", "eval/accuracy"} <= names
    steps = [point.step for point in events.Scalars("train/loss")]
    assert steps == list(range(1, 11))


def test_bf16_autocast_trains_and_stays_near_fp32(bench: Bench) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        trainer = bench.trainer("uniform", name=precision, precision=precision, dropout=0.0)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
        assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert losses[0] == pytest.approx(losses[1], rel=0.05) and losses[0] != losses[1]


def test_data_parallel_is_refused_with_the_remedy() -> None:
    """PITFALLS 41."""
    from distilect.training.trainer import refuse_data_parallel

    refuse_data_parallel(0)
    refuse_data_parallel(1)
    with pytest.raises(RunError, match="4 GPUs.*CUDA_VISIBLE_DEVICES"):
        refuse_data_parallel(4)


def test_rows_of_two_texts_are_trained_on(bench: Bench) -> None:
    table = Table.from_texts([("a fine film", "dull"), ("the weather", "is cold")] * 8, [0, 1] * 8)
    one = bench.table
    try:
        bench.table = table
        bench.trainer("uniform", name="pairs", epochs=1).train()
    finally:
        bench.table = one


@pytest.mark.parametrize("method", ["finetune", "kd"])
def test_the_label_term_is_a_mean_over_the_labelled_rows_of_an_optimiser_step_however_it_is_cut(
    tmp_path: Path, method: str
) -> None:
    bench = Bench(tmp_path)
    labels = bench.table.labels.copy()
    labels[2:] = -100  # two of forty rows
    bench.table = Table(bench.table.texts, labels, bench.table.ids)
    for number, change in enumerate(({}, {"gradient_accumulation_steps": 4}, {"max_tokens": 32})):
        trainer = bench.trainer(method, name=f"{number}", epochs=1, batch_size=40, dropout=0.0, **change)
        logits = torch.from_numpy(trainer.predict_rows(trainer.rows.encoded))
        expected = torch.nn.functional.cross_entropy(logits[:2], torch.from_numpy(labels[:2]))
        trainer.train()
        (line,) = [line for line in trainer.state.log_history if "train/loss_labels" in line]
        assert line["train/loss_labels"] == pytest.approx(float(expected), rel=1e-4)
        if method == "finetune":
            assert line["loss"] == pytest.approx(float(expected), rel=1e-3)
