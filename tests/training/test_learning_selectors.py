"""Selectors that learn, inside a training: when they look, what they may look at, and that they survive a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from distilect.data import Table
from distilect.models import CallableTeacher
from distilect.selection import rlkd as rlkd_module
from distilect.selection import step_uniform
from distilect.selection.rlkd import Policy, ReinforcedTeachers, reward_1
from distilect.training.callbacks import History
from distilect.training.checkpoints import last_checkpoint
from distilect.training.trainer import DistillationTrainer
from tests.presets import slow
from tests.tiny import SENTENCES
from tests.training.helpers import TASK, Bench, weights, whole_and_resumed


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def half_labelled(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Labels on the first half of the rows only."""
    other = Bench(tmp_path_factory.mktemp("half"))
    labels = bench.table.labels.copy()
    labels[20:] = -100
    other.table = Table(bench.table.texts, labels, bench.table.ids)
    return other


def rlkd(**options: Any) -> dict[str, Any]:
    """A method that acts and learns from the first step, from every labelled row."""
    eager = {"warmup_epochs": 0, "policy_rows": 0, "share": 1.0, "update_every": 1, "batch_size": 32}
    return {"name": "uniform", "teachers": {"name": "reinforced", **eager, **options}}


def virtual(**options: Any) -> dict[str, Any]:
    """The same with virtual steps."""
    return rlkd(name="reinforced-virtual", **options)


def selector_of(trainer: DistillationTrainer) -> ReinforcedTeachers:
    selector = trainer.method.teachers
    assert isinstance(selector, ReinforcedTeachers)
    return selector


def policy_of(trainer: DistillationTrainer) -> dict[str, np.ndarray]:
    policy = selector_of(trainer).policy
    assert policy is not None
    return {name: p.detach().numpy().copy() for name, p in policy.named_parameters()}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray], tolerance: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=tolerance, atol=tolerance, err_msg=name)


# ---- identities ----------------------------------------------------------------------------------------------------


def test_a_training_within_the_warm_up_is_uniforms_bit_for_bit(bench: Bench) -> None:
    runs = [bench.trainer(m, name=f"warm-{i}") for i, m in enumerate(("uniform", rlkd(warmup_epochs=9)))]
    for trainer in runs:
        trainer.train()
    assert_same(*map(weights, runs))
    assert selector_of(runs[1]).policy is None and "probed_rows" not in runs[1].counts.extra


@pytest.mark.parametrize("name", ["reinforced", "reinforced-virtual"])
def test_a_training_that_selects_all_teachers_is_uniforms_bit_for_bit(bench: Bench, name: str) -> None:
    """PAPERS 1.12, 4. With dropout: looking at the student between steps must not shift its draws or leave it in eval mode."""
    runs = [bench.trainer(m, name=f"all-{name}-{i}") for i, m in enumerate(("uniform", rlkd(name=name)))]
    selector = selector_of(runs[1])
    build = selector.policy_for

    def sure(state: torch.Tensor) -> Policy:
        policy = build(state)
        policy.bias.data.fill_(60.0)
        return policy

    selector.policy_for = sure  # type: ignore[method-assign]
    for trainer in runs:
        trainer.train()
    assert selector.updates > 0
    assert_same(*map(weights, runs))
    tables = [[{k: v for k, v in line.items()} for line in t.records.recorder.table().to_pylist()] for t in runs]
    assert tables[0] == tables[1]


def test_a_training_with_one_hot_actions_per_step_is_random_singles_bit_for_bit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [bench.trainer(m, name=f"one-hot-{i}") for i, m in enumerate(("random-single", rlkd()))]

    def one_hot(z: torch.Tensor, rows: torch.Tensor, seed: int, epoch: int) -> tuple[torch.Tensor, ...]:
        draw = step_uniform((1,), seed, runs[1].state.global_step, "teachers").expand(len(z))
        actions = torch.nn.functional.one_hot((draw * z.shape[1]).long(), z.shape[1]).bool()
        return actions, actions, torch.zeros(len(z), dtype=torch.bool)

    monkeypatch.setattr(rlkd_module, "sample_actions", one_hot)
    for trainer in runs:
        trainer.train()
    assert_same(*map(weights, runs))


# ---- when and at what it looks -------------------------------------------------------------------------------------


def test_rewards_are_measured_after_the_optimisers_step(bench: Bench) -> None:
    """PITFALLS 31: measured before it, the reward would say nothing of what the choice did to the student."""
    before: list[Any] = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            before.append((weights(trainer), trainer.predict_rows(trainer.rows.encoded)))

    trainer = bench.trainer(
        rlkd(reward=1, update_every=1000), name="after", epochs=1, warmup_ratio=0.0, callbacks=[Watch()]
    )
    selector = selector_of(trainer)
    measure, steps = selector.measure, []

    def spy(chosen: Any, probe: Any) -> torch.Tensor:
        moved = any((weights(trainer)[name] != value).any() for name, value in before[-1][0].items())
        now = reward_1(probe.logits(chosen.keys), chosen.labels)
        then = reward_1(torch.from_numpy(before[-1][1][probe.units(chosen.keys)]), chosen.labels)
        got = measure(chosen, probe)
        steps.append((moved, torch.equal(got, now), bool((got - then).abs().min() > 0)))
        return got

    selector.measure = spy  # type: ignore[method-assign]
    trainer.train()
    assert steps == [(True, True, True)] * 5


def test_the_student_is_run_again_on_the_measured_rows_only_and_virtual_steps_cost_nothing(bench: Bench) -> None:
    for number, (method, least, most) in enumerate(
        [
            (rlkd(), 40, 40),
            (rlkd(share=0.4), 4, 28),
            (virtual(), 0, 0),
            (virtual(policy_rows=4096, policy_updates=3), 40, 40),
        ]
    ):
        trainer = bench.trainer(method, name=f"price-{number}", epochs=1, final_weights="last")
        trainer.train()
        assert least <= trainer.counts.extra.get("probed_rows", 0) <= most


def test_reward_3_looks_at_validation_rows_every_so_many_steps(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rlkd_module, "EVALUATE_EVERY", 4)
    monkeypatch.setattr(rlkd_module, "EVALUATE_ROWS", 7)
    trainer = bench.trainer(rlkd(reward=3), name="third")
    trainer.train()
    assert trainer.counts.extra["probed_rows"] == 10 * 8 + 3 * 7  # each step's rows, and at steps 1, 5 and 9 of 10


def test_an_epochs_history_is_learned_from_when_the_next_one_begins_or_training_ends(bench: Bench) -> None:
    trainer = bench.trainer(rlkd(update_every="epoch", batch_size=40), name="epochs", epochs=3)
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seen.append((selector_of(trainer).updates, len(selector_of(trainer).history)))

    trainer.add_callback(Watch())
    trainer.train()
    waiting = [(epoch, 8 * step) for epoch in range(3) for step in range(1, 6)]
    assert seen == [*waiting[:-1], (3, 0)]


def test_neither_policy_nor_encoder_is_in_the_shipped_student(bench: Bench, tmp_path: Path) -> None:
    from safetensors import safe_open

    trainer = bench.trainer(rlkd(), name=str(tmp_path), epochs=1)
    trainer.train()
    folder = last_checkpoint(tmp_path)
    assert folder is not None and not trainer.projections.parameters
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(trainer.model.state_dict())


# ---- rows without labels, regression, the student's own vector -----------------------------------------------------


def test_rows_without_a_label_are_taught_but_never_learned_from(half_labelled: Bench) -> None:
    trainer = half_labelled.trainer(rlkd(update_every=1000), name="half")
    selector, learned = selector_of(trainer), set()
    update = selector.update

    def spy(decisions: Any) -> None:
        learned.update([] if decisions is None else decisions.keys.tolist())
        update(decisions)

    selector.update = spy  # type: ignore[method-assign]
    trainer.train()
    assert selector.hide == 0.5
    assert learned == set(trainer.rows.keys[:20].tolist())
    line = next(x for x in trainer.records.recorder.table().to_pylist() if x["group"] == "(no label)")
    assert line["rows"] == 20 and line["asked"] == 1.0 and line["right/t0"] is None
    assert line["teacher/t0"] + line["teacher/t1"] == pytest.approx(1.0)


@pytest.mark.parametrize("method", [rlkd(reward=3), virtual(state="joint"), "gate"])
def test_regression_trains_and_resumes_nothing_but_numbers(tmp_path: Path, method: Any) -> None:
    bench = Bench(tmp_path, regression=True)
    trainer = bench.trainer(method, name="scores")
    start = weights(trainer)
    trainer.train()
    assert any((start[name] != value).any() for name, value in weights(trainer).items())
    assert all(np.isfinite(value).all() for value in weights(trainer).values())
    if method != "gate":
        assert any(value.any() for value in policy_of(trainer).values())
        assert all(np.isfinite(value).all() for value in policy_of(trainer).values())


def test_the_students_own_vector_can_be_the_state(bench: Bench) -> None:
    trainer = bench.trainer(rlkd(encoder="student"), name="own")
    trainer.train()
    assert trainer.vectors is None and trainer.needs_pooled
    assert policy_of(trainer)["weight"].shape == (2, 16 + 2 + 2)
    assert policy_of(trainer)["weight"][:, :16].all()


def test_a_frozen_encoders_vectors_follow_their_rows(bench: Bench) -> None:
    """PITFALLS 20, for the row vectors: the sampler shuffles."""
    trainer = bench.trainer(rlkd(pooling="mean"), name="frozen")
    seen: dict[int, torch.Tensor] = {}
    decide = selector_of(trainer).decide

    def spy(view: Any) -> torch.Tensor:
        seen.update(zip(view.keys.tolist(), view.vectors, strict=True))
        return decide(view)

    selector_of(trainer).decide = spy  # type: ignore[method-assign]
    trainer.train()
    assert trainer.vectors is not None
    alone = trainer.vectors.fetch(bench.table, np.arange(40), [[]]).logits[:, 0]
    found = torch.stack([seen[key] for key in trainer.rows.keys.tolist()])
    torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-3)


# ---- invariance and resuming ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [rlkd(), *slow(virtual(update_every="epoch"))])
def test_accumulation_and_batch_split_change_neither_choices_nor_the_policy(half_labelled: Bench, method: Any) -> None:
    """DESIGN, invariance 1."""
    found = []
    for number, change in enumerate(({}, {"gradient_accumulation_steps": 2}, {"max_tokens": 32})):
        trainer = half_labelled.trainer(
            method, name=f"split-{method['teachers']['name']}-{number}", dropout=0.0, final_weights="last", **change
        )
        trainer.train()
        found.append((policy_of(trainer), trainer.records.recorder.table().to_pylist()))
    assert found[0][0]["weight"].any()
    for policy, table in found[1:]:
        assert_same(found[0][0], policy, tolerance=1e-3)
        for one, two in zip(found[0][1], table, strict=True):
            assert one == pytest.approx(two, abs=1e-5)


RESUMED = {
    "epoch": rlkd(update_every="epoch", warmup_epochs=1, policy_rows=4096, share=0.7),
    "steps": rlkd(update_every=3, reward=3),
    "virtual": virtual(state="joint", policy_rows=4096, policy_updates=5),
    "student": rlkd(encoder="student", update_every="epoch"),
    "gate": {"name": "gate"},
    "entropy": {"name": "entropy"},
}


@pytest.mark.parametrize(
    ("method", "at"),
    [
        ("epoch", (3, 5)),
        ("virtual", (3,)),
        *slow(("gate", (3,)), ("steps", (4,)), ("student", (8,)), ("entropy", (3,))),
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one(
    half_labelled: Bench, method: str, at: tuple[int, ...], tmp_path: Path
) -> None:
    """PITFALLS 33, invariance 3: within an epoch, at its end, and with a history that was not yet learned from."""
    settings: dict[str, Any] = {"epochs": 3, "evaluations": 2, "final_weights": "last"}  # 5 steps per epoch

    def build(folder: Path, *callbacks: TrainerCallback) -> DistillationTrainer:
        history = History(folder / "history.jsonl")
        return half_labelled.trainer(RESUMED[method], name=str(folder), **settings, callbacks=[*callbacks, history])

    def lines(trainer: DistillationTrainer) -> list[dict[str, Any]]:
        text = Path(trainer.args.output_dir, "history.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    whole, others = whole_and_resumed(build, tmp_path, *at)
    for resumed in others:
        assert_same(weights(whole), weights(resumed))
        assert whole.records.recorder.table().equals(resumed.records.recorder.table())
        assert whole.counts.extra == resumed.counts.extra
        if method not in ("gate", "entropy"):
            assert policy_of(whole)["weight"].any()
            assert_same(policy_of(whole), policy_of(resumed))
            assert selector_of(whole).moments.state_dict() == selector_of(resumed).moments.state_dict()
        for one, other in zip(lines(whole), lines(resumed), strict=True):
            assert one == pytest.approx(other, nan_ok=True)


# ---- what it is for ------------------------------------------------------------------------------------------------


def test_teachers_are_believed_where_they_are_right_and_the_selection_file_shows_it(tmp_path: Path) -> None:
    """Three functions, each right on the texts that begin with its word; the label block is hidden throughout."""
    words, answers = ("good", "cold", "long"), ("view", "train")
    fill = [w for w in " ".join(SENTENCES).replace(",", "").split() if w not in (*words, *answers)]
    rng = np.random.default_rng(0)
    part, labels = rng.integers(3, size=160), rng.integers(2, size=160)
    texts = [
        " ".join([words[k]] * 2 + [answers[y]] * 2 + list(rng.choice(fill, size=4)))
        for k, y in zip(part, labels, strict=True)
    ]

    def specialist(word: str) -> CallableTeacher:
        def say(batch: list[str]) -> np.ndarray:
            truth = np.array([answers[1] in text for text in batch])
            right = np.array([text.startswith(word) for text in batch])
            return 3.0 * np.eye(2)[np.where(right, truth, ~truth).astype(int)]

        return CallableTeacher(word, say, TASK)

    bench = Bench(tmp_path)
    bench.table, bench.teachers = Table.from_texts(texts, labels), [specialist(word) for word in words]
    method = virtual(policy_rows=4096, policy_updates=300, pooling="mean", batch_size=8)
    trainer = bench.trainer(method, epochs=1)
    selector_of(trainer).hide = 1.0
    trainer.train()
    line = trainer.records.recorder.table().to_pylist()[0]
    for word in words:
        assert line[f"right/{word}"] > 2 * line[f"wrong/{word}"]


# ---- health --------------------------------------------------------------------------------------------------------


def test_health_is_in_the_log_beside_the_loss(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    bench.trainer(rlkd(), name="health", callbacks=[History(path)]).train()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [line for line in lines if "train/loss" in line]
    wanted = {"policy/entropy", "policy/teachers_per_row", "policy/empty", "policy/p_t0", "policy/p_t1"}
    wanted |= {"reward/mean", "reward/baseline", "reward/std"}
    assert len(lines) == 10 and all(wanted <= set(line) for line in lines)
    for line in lines:
        assert 0 <= line["policy/entropy"] <= 1 and 1 <= line["policy/teachers_per_row"] <= 2
        assert 0 <= line["policy/empty"] <= 1 and line["reward/mean"] < 0
