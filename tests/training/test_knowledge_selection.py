"""AKSKD inside a training: identities, what the probe sees, invariance, resuming, and the episodes of stage A."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from distilect.config import StudentConfig
from distilect.data import Table, encode
from distilect.models import build_student
from distilect.selection import Episodes, actor_critic
from distilect.selection import akskd as akskd_module
from distilect.selection.akskd import ActorCriticWeights
from distilect.training import run_episodes
from distilect.training.episodes import episode_rows
from distilect.training.trainer import DistillationTrainer
from tests.presets import slow
from tests.training.helpers import TASK, Bench, weights, whole_and_resumed

KINDS = ("labels", "response", "feature", "relation")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small selection module, few updates and few rows; the actor acts from the first phase on."""
    for name, value in {"HIDDEN": 16, "WIDTH": 8, "UPDATES": 2}.items():
        monkeypatch.setattr(actor_critic, name, value)
    for name, value in {"STATE_ROWS": 8, "REWARD_ROWS": 12, "RANDOM": 0.0}.items():
        monkeypatch.setattr(akskd_module, name, value)


def akskd(**options: Any) -> dict[str, Any]:
    """With fewer phases; a training that is not preceded by episodes is itself one, in which the selector learns."""
    return {"name": "akskd", "loss_weights": {"name": "actor-critic", "phases": 3, **options}}


def selector_of(trainer: DistillationTrainer) -> ActorCriticWeights:
    assert isinstance(trainer.method.loss_weights, ActorCriticWeights)
    return trainer.method.loss_weights


def forced(trainer: DistillationTrainer, *action: float) -> DistillationTrainer:
    """This action, whatever the actor's output is."""
    selector_of(trainer)._choose = lambda observed, progress: torch.tensor(action).float()  # type: ignore[method-assign]
    return trainer


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray], tolerance: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=tolerance, atol=tolerance, err_msg=name)


# ---- identities (with dropout: looking at the student must not shift its draws or leave it in eval mode) ---------------


def test_labels_alone_are_finetune_bit_for_bit(bench: Bench) -> None:
    runs = [bench.trainer("finetune", name="finetune"), forced(bench.trainer(akskd(), name="labels"), 1, 0, 0, 0)]
    for trainer in runs:
        trainer.train()
    assert len(selector_of(runs[1]).memory) and runs[1].counts.extra["probed_rows"] > 0
    assert_same(*map(weights, runs))


def test_labels_and_response_are_kd_bit_for_bit(bench: Bench) -> None:
    runs = [
        bench.trainer({"name": "kd", "alpha": 0.75}, name="kd"),
        forced(bench.trainer(akskd(balance="none"), name="two"), 0.25, 0.75, 0, 0),
    ]
    for trainer in runs:
        trainer.train()
    assert_same(*map(weights, runs))


def test_one_phase_is_a_run_with_fixed_weights_bit_for_bit(bench: Bench) -> None:
    one = bench.trainer(akskd(phases=1, balance="none"), name="one-phase")
    one.train()
    action = selector_of(one).action
    assert action is not None and action.min() > 0 and len(selector_of(one).memory) == 1
    mix = {"name": "fixed", "weights": dict(zip(KINDS, action.tolist(), strict=True))}
    fixed = bench.trainer({"name": "akskd", "loss_weights": mix}, name="fixed")
    fixed.train()
    assert_same(weights(one), weights(fixed))


# ---- what the probe sees -------------------------------------------------------------------------------------------------


def test_a_look_gives_means_of_last_layers_and_of_every_kinds_loss(bench: Bench) -> None:
    trainer = bench.trainer(akskd(), name="look", max_tokens=16)
    rows = trainer.rows.keys[[3, 7, 20, 31, 39]]
    positions = torch.tensor([3, 7, 20, 31, 39])
    trainer.model.train()
    look = trainer.probe.look(rows)
    assert all(module.training for module in trainer.model.modules())
    trainer.model.eval()
    inputs = trainer.rows.encoded.collate(positions.numpy())
    with torch.no_grad():
        out = trainer.model(**inputs, output_hidden_states=True)
        teachers = [
            t.model(**inputs, output_hidden_states=True).hidden_states[-1][:, 0].mean(0)  # type: ignore[attr-defined]
            for t in bench.teachers
        ]
    torch.testing.assert_close(look.student, out.hidden_states[-1][:, 0].mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(look.teachers, torch.cat(teachers), atol=1e-5, rtol=1e-4)
    expected = torch.nn.functional.cross_entropy(out.logits, trainer.rows.labels[positions])
    assert look.losses[0].item() == pytest.approx(expected.item(), rel=1e-4)
    assert look.losses.shape == (4,) and (look.losses > 0).all()
    assert trainer.counts.extra["probed_rows"] == 5


def test_a_look_without_labels_says_so(bench: Bench) -> None:
    trainer = bench.trainer(akskd(), name="unlabelled")
    trainer.rows.labels[:] = -100
    losses = trainer.probe.look(trainer.rows.keys[:5]).losses
    assert losses[0].isnan() and not losses[1:].isnan().any()


def test_losses_are_told_once_per_step_as_sums_over_its_rows(bench: Bench) -> None:
    """Labels over labelled rows, the others over rows that asked; not divided by the share that asks."""
    table = bench.table
    labels = table.labels.copy()
    labels[:20] = -100
    half = Bench(bench.folder / "half")
    half.table = Table(table.texts, labels, table.ids)
    told: list[tuple[torch.Tensor, torch.Tensor]] = []
    rows = {"name": "random", "ratio": 0.5}
    for change in ({}, {"gradient_accumulation_steps": 2}, {"max_tokens": 32}):
        trainer = half.trainer(
            {**akskd(), "rows": rows}, name=f"told-{len(told)}", dropout=0.0, epochs=1, batch_size=40, **change
        )
        selector_of(trainer).learn = lambda probe: told.append(probe.step_losses)  # type: ignore[method-assign]
        trainer.train()
    assert len(told) == 3
    for sums, counts in told:
        torch.testing.assert_close(sums, told[0][0], rtol=1e-4, atol=1e-4)
        assert counts.tolist() == told[0][1].tolist()
    asked = told[0][1][1]
    assert told[0][1][0] == 20 and 10 <= asked <= 30
    # features, after one step of the same student: about the same
    mean = trainer.probe.look(trainer.rows.keys).losses[2]
    assert told[0][0][2] / asked == pytest.approx(float(mean), rel=0.3)


# ---- invariance, resuming, regression ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, *slow({"action": "hard"})])
def test_accumulation_and_batch_split_change_no_action(bench: Bench, options: Any) -> None:
    found = []
    for number, change in enumerate(({}, {"gradient_accumulation_steps": 2}, {"max_tokens": 32})):
        trainer = bench.trainer(
            akskd(**options), name=f"split-{len(options)}-{number}", dropout=0.0, final_weights="last", **change
        )
        trainer.train()
        memory = selector_of(trainer).memory.join()
        found.append((memory.actions, memory.rewards, trainer.records.recorder.table().to_pylist()))
    for actions, rewards, table in found[1:]:
        torch.testing.assert_close(actions, found[0][0], atol=2e-3, rtol=0)
        torch.testing.assert_close(rewards, found[0][1], atol=1e-3, rtol=1e-2)
        for one, two in zip(found[0][2], table, strict=True):
            sums = {
                name: pytest.approx(value, rel=1e-3, abs=2e-2)
                for name, value in two.items()
                if isinstance(value, float)
            }
            assert one == {**two, **sums}


@pytest.mark.parametrize(("options", "at"), [({}, 4), ({"action": "hard", "phases": "step"}, 7)])
def test_a_resumed_run_equals_the_uninterrupted_one(bench: Bench, tmp_path: Path, options: Any, at: int) -> None:
    """PITFALLS 33: within a phase; optimisers, memory, sizes and the reward that is still to come are in the checkpoint."""

    def build(folder: Path, *callbacks: TrainerCallback) -> DistillationTrainer:
        settings: dict[str, Any] = {"final_weights": "last", "callbacks": list(callbacks)}
        return bench.trainer(akskd(**options), name=str(folder), **settings)

    whole, (resumed,) = whole_and_resumed(build, tmp_path, at)
    assert_same(weights(whole), weights(resumed))
    assert whole.records.recorder.table().equals(resumed.records.recorder.table())
    assert whole.counts.extra == resumed.counts.extra
    one, two = (selector_of(t).memory.join().tensors() for t in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("options", [{}, {"action": "hard", "state": ["student", "progress", "losses"]}])
def test_regression_learns_from_squared_errors(tmp_path: Path, options: Any) -> None:
    bench = Bench(tmp_path, regression=True)
    trainer = bench.trainer(akskd(**options), name="scores")
    start = weights(trainer)
    trainer.train()
    assert any((start[name] != value).any() for name, value in weights(trainer).items())
    assert all(np.isfinite(value).all() for value in weights(trainer).values())
    memory = selector_of(trainer).memory.join()
    assert memory.rewards.isfinite().all() and memory.rewards.any()


# ---- episodes -------------------------------------------------------------------------------------------------------------


def stage_a(bench: Bench, folder: Path, **options: Any) -> tuple[DistillationTrainer, Any]:
    trainer = bench.trainer(akskd(episodes=3, share=0.5, **options), name=str(folder / "b"))
    students: list[int] = []

    def new_student(seed: int) -> Any:
        students.append(seed)
        return build_student(StudentConfig(init=bench.student_path), TASK, {}, seed, max_length=32)

    done = run_episodes(
        new_student, trainer.rows, trainer.method, trainer.source, trainer.config, folder, seed=3, description="toy"
    )
    assert len(set(students)) == len(students)
    return trainer, done


def test_stage_a_learns_over_fresh_students_and_leaves_the_real_one_alone(bench: Bench, tmp_path: Path) -> None:
    trainer, done = stage_a(bench, tmp_path)
    selector = selector_of(trainer)
    assert (done.episodes, done.steps, done.rows) == (3, 3 * 6, 3 * 40)  # 20 of 40 rows, 3 steps of 8, 2 epochs
    assert selector.memory.join().phases.tolist() == [0, 1, 2] * 3
    lines = [json.loads(line) for line in (tmp_path / "stage-a.jsonl").read_text().splitlines()]
    assert [(line["episode"], line["phase"]) for line in lines] == [(e, p) for e in range(3) for p in range(3)]
    assert all(set(line["action"]) == set(KINDS) for line in lines)
    assert_same(weights(trainer), weights(bench.trainer("finetune", name="untouched")))
    assert not list(tmp_path.rglob("checkpoint-*")) and not trainer.counts.extra


@pytest.mark.slow  # the whole run is killed in tests/pipeline/test_akskd.py
def test_a_stage_a_that_was_killed_goes_on_and_ends_as_the_uninterrupted_one(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = stage_a(bench, tmp_path / "whole")
    train, calls = DistillationTrainer.train, []

    def kill(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        result = train(self, *args, **kwargs)
        if len(calls) == 2:
            raise KeyboardInterrupt  # the second episode is lost
        return result

    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "train", kill)
        with pytest.raises(KeyboardInterrupt):
            stage_a(bench, tmp_path / "cut")
    resumed, done = stage_a(bench, tmp_path / "cut")
    assert (done.resumed, done.episodes, done.steps) == (1, 3, 18)
    one, two = (selector_of(t).learner.module.state_dict() for t in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)
    journals = [(tmp_path / name / "stage-a.jsonl").read_text() for name in ("whole", "cut")]
    assert journals[0] == journals[1]


def test_episodes_draw_their_rows_by_identity_and_have_a_step_for_each_phase(bench: Bench) -> None:
    rows = bench.trainer("finetune", name="rows").rows
    config = bench.trainer("finetune", name="rows").config
    draws = [episode_rows(rows, Episodes(9, 0.5), config, 0, number) for number in range(3)]
    assert all(len(drawn) == 20 for drawn in draws) and not np.array_equal(draws[0], draws[1])
    order = np.random.default_rng(0).permutation(40)
    shuffled = episode_rows(rows.take(order), Episodes(9, 0.5), config, 0, 0)
    assert set(order[shuffled]) == set(draws[0])
    assert (
        len(episode_rows(rows, Episodes(9, 0.01, least_steps=6), config, 0, 0)) == 24
    )  # 6 steps of 8 rows in 2 epochs
    assert len(episode_rows(rows, Episodes(9, 0.01, least_steps=99), config, 0, 0)) == 40


def test_some_rows_of_tokens_are_those_of_the_table(bench: Bench) -> None:
    student = bench.student()
    rows = np.array([5, 0, 39, 17])
    taken = encode(bench.table, student.tokenizer, 32).take(rows)
    alone = encode(bench.table.take(rows), student.tokenizer, 32)
    assert taken.lengths.tolist() == alone.lengths.tolist() and taken.max_length == 32
    for name, value in alone.collate(range(4)).items():
        assert torch.equal(taken.collate(range(4))[name], value)
