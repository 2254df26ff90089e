"""DynamicKD in the trainer: what is really skipped, what it equals, and that it goes on where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from distilect.data import Window
from distilect.evaluation import predict
from distilect.selection import Passes, row_uniform
from distilect.selection.dynamickd import entropy
from distilect.selection.dynamickd_rows import rows_of_window
from distilect.training import Batch, DistillationTrainer
from tests.presets import slow
from tests.training.helpers import Bench, weights, whole_and_resumed
from tests.training.test_trainer import assert_same, first_gradient

Spec = dict[str, Any]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def data(**rows: Any) -> Spec:
    """The data arm with these options of its row selector."""
    return {"name": "dynamic-data", "rows": {"name": "uncertainty", **rows}}


def skip(**rows: Any) -> Spec:
    return data(name="uncertainty-skip", **rows)


def plan(**rows: Any) -> Spec:
    return data(name="uncertainty-plan", **rows)


@contextmanager
def watched(trainer: DistillationTrainer) -> Iterator[dict[str, list[set[int]]]]:
    """Which rows go through the student, by whether the pass has a gradient: positions found by their tokens."""
    seen: dict[str, list[set[int]]] = {"train": [], "score": []}
    encoded = trainer.rows.encoded
    whole = encoded.collate(np.arange(len(encoded)))
    known = {
        tuple(ids[mask.bool()].tolist()): position
        for position, (ids, mask) in enumerate(zip(whole["input_ids"], whole["attention_mask"], strict=True))
    }

    def note(module: Any, args: Any, kwargs: Any) -> None:
        pairs = zip(kwargs["input_ids"], kwargs["attention_mask"], strict=True)
        rows = {known.get(tuple(ids[mask.bool()].tolist()), -1) for ids, mask in pairs}
        seen["train" if torch.is_grad_enabled() else "score"].append(rows)

    handle = trainer.model.register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    handle.remove()


def trained(trainer: DistillationTrainer) -> list[set[int]]:
    """Rows of the training table that had a pass with gradient, pass by pass."""
    with watched(trainer) as seen:
        trainer.train()
    return seen["train"]


# ---- what it equals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        {},
        {"name": "uncertainty-skip"},
        {"name": "uncertainty-plan"},
        *slow({"score": "margin"}, {"score": "spread"}, {"name": "uncertainty-plan", "reverse": True}),
    ],
    ids=str,
)
def test_ratio_1_is_kd_bit_for_bit(bench: Bench, rows: Spec) -> None:
    """With dropout: a selector that looks at rows must not draw from the training's random state."""
    runs = [
        bench.trainer(spec, name=name, epochs=1, final_weights="last")
        for name, spec in (("kd", "kd"), ("all", data(ratio=1.0, **rows)))
    ]
    for trainer in runs:
        trainer.train()
    assert_same(weights(runs[0]), weights(runs[1]))


@pytest.mark.parametrize(
    "teachers",
    [{"mode": "hard"}, {"mode": "soft-instance"}, *slow({"mode": "hard", "by": "batch"}, {"mode": "soft"})],
    ids=str,
)
def test_with_two_equal_teachers_every_mode_is_kd(bench: Bench, teachers: Spec) -> None:
    pool = bench.teachers
    try:
        bench.teachers = [pool[0], pool[0]]
        runs = [
            bench.trainer(spec, name="equal", epochs=1, final_weights="last")
            for spec in ("kd", {"name": "dynamic-teacher", "teachers": {"name": "dynamic", **teachers}})
        ]
    finally:
        bench.teachers = pool
    for trainer in runs:
        trainer.train()
    assert_same(weights(runs[0]), weights(runs[1]), tolerance=2e-5)


def test_passes_of_a_selector_leave_the_trainings_random_state_alone(bench: Bench) -> None:
    """The same weights with and without a pass with dropout before each step: strategy none looks, and ignores it."""
    static = {"name": "uncertainty", "strategy": "none"}
    runs = [bench.trainer({"name": "dynamic-objective", "loss_weights": static}, name="look", epochs=1) for _ in "ab"]
    runs[1].preselection.passes = {Passes(2, dropout=True), Passes()}
    for trainer in runs:
        trainer.train()
    assert runs[1].counts.extra["probed_rows"] == 3 * 40 and "probed_rows" not in runs[0].counts.extra
    assert_same(weights(runs[0]), weights(runs[1]))


def test_static_weights_of_the_objective_are_a_fixed_mix(bench: Bench) -> None:
    knowledge = {"labels": {}, "response": {}, "feature": {"tokens": "cls", "normalize": True}}
    fixed = {"name": "fixed", "weights": {"labels": 1.0, "response": 0.7, "feature": 0.3}}
    static = {"name": "uncertainty", "strategy": "none", "share": 0.3}
    runs = [
        bench.trainer({"name": "dynamic-objective", "loss_weights": static}, name="static", epochs=1),
        bench.trainer({"name": "pkd", "knowledge": knowledge, "loss_weights": fixed}, name="fixed", epochs=1),
    ]
    for trainer in runs:
        trainer.train()
    assert_same(weights(runs[0]), weights(runs[1]), tolerance=1e-5)


# ---- what is skipped -----------------------------------------------------------------------------------------------


def test_teachers_are_asked_on_the_selected_rows_only(bench: Bench) -> None:
    """DynamicKD's check: teacher rows = int(r·B) per batch; 40 rows in batches of 8."""
    for rows, expected in (
        ({"ratio": 0.3}, 5 * 2),
        ({"ratio": 0.01}, 5 * 1),
        ({"name": "uncertainty-skip", "ratio": 0.3}, 5 * 2),
        ({"name": "uncertainty-plan", "ratio": 0.3}, 12),
        ({"ratio": 0.25, "score": "random"}, 5 * 2),
    ):
        trainer = bench.trainer(data(**rows), name="asked", epochs=1, final_weights="last")
        before = trainer.source.forwards
        trainer.train()
        # both teachers are live and in the pool here; the pipeline narrows it to the one that is believed
        assert trainer.source.forwards - before == 2 * expected
        assert trainer.counts.extra["teacher_rows"] == 2 * expected


def test_skipped_rows_are_scored_without_gradient_and_never_trained_on(bench: Bench) -> None:
    trainer = bench.trainer(skip(ratio=0.25), name="skip", epochs=1, final_weights="last")
    with watched(trainer) as seen:
        trainer.train()
    assert [len(rows) for rows in seen["train"]] == [2] * 5  # not 8: the backward pass costs what is kept
    assert set().union(*(rows for rows in seen["score"] if -1 not in rows)) == set(range(40))
    assert trainer.counts.rows == 10 and trainer.counts.extra["probed_rows"] == 40
    line = trainer.records.recorder.table().to_pylist()[0]
    assert (line["rows"], line["asked"], line["trained"]) == (40, 0.25, 0.25)
    assert line["knowledge/response"] == 0.5  # of the rows that were seen


def test_the_rows_that_stay_are_the_most_uncertain_of_their_batch(bench: Bench) -> None:
    trainer = bench.trainer(skip(ratio=0.25), name="top", epochs=1, final_weights="last", learning_rate=1e-12)
    trainer.sampler.set_epoch(0)
    batches = [sorted(batch) for batch in trainer.sampler]
    u = entropy(torch.from_numpy(predict(trainer.model, trainer.rows.encoded, precision="fp32")))
    for rows, batch in zip(trained(trainer), batches, strict=True):
        assert rows == {batch[i] for i in u[batch].topk(2).indices.tolist()}


def test_random_rows_that_are_skipped_cost_no_pass_at_all(bench: Bench) -> None:
    spec = {"name": "kd", "rows": {"name": "random-skip", "ratio": 0.4}}
    trainer = bench.trainer(spec, name="random", epochs=1, final_weights="last")
    chosen = set((row_uniform(trainer.rows.keys, 0, 0, "rows") < 0.4).nonzero().flatten().tolist())
    seen = trained(trainer)
    assert set().union(*seen) == chosen and 0 < len(chosen) < 40
    assert "probed_rows" not in trainer.counts.extra


def test_a_step_of_which_no_row_is_chosen_changes_nothing_and_gives_no_nan(bench: Bench) -> None:
    spec = {"name": "kd", "rows": {"name": "random-skip", "ratio": 1e-9}}
    for change in ({}, {"gradient_accumulation_steps": 2}):
        trainer = bench.trainer(spec, name="none", epochs=1, final_weights="last", weight_decay=0.0, **change)
        before = weights(trainer)
        trainer.train()
        assert_same(before, weights(trainer))
        assert trainer.state.global_step == 5
        assert trainer.records.recorder.table().to_pylist()[0]["trained"] == 0


def test_rows_outside_a_plan_are_never_loaded(bench: Bench) -> None:
    trainer = bench.trainer(plan(ratio=0.25), name="plan", epochs=2, final_weights="last")
    loaded: list[set[int]] = []
    collate = trainer.rows.encoded.collate
    keep = {id(trainer.rows.encoded)}

    def spy(self: Any, rows: Any) -> Any:
        if id(self) in keep:
            loaded.append(set(np.asarray(rows).tolist()))
        return collate.__func__(self, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(trainer.rows.encoded), "collate", spy)
        with watched(trainer) as seen:
            trainer.train()
    training = [rows for rows in loaded if len(rows) <= 8]  # scoring loads more rows at once
    assert len(set().union(*seen["train"])) <= 20 and trainer.counts.rows == 20
    assert set().union(*training) == set().union(*seen["train"])
    assert trainer.state.global_step == 2 * 2  # 10 rows in batches of 8: two steps an epoch


def test_a_plan_ranks_by_the_student_at_the_beginning_of_its_window(bench: Bench) -> None:
    """Two windows of one step: the second is planned with the weights after the first step, not one step before."""
    spec = plan(ratio=0.4, refresh=1)
    trainer = bench.trainer(spec, name="window", epochs=1, final_weights="last", learning_rate=0.05, warmup_ratio=0.0)
    scores: list[torch.Tensor] = []

    class Score(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            scores.append(entropy(torch.from_numpy(predict(trainer.model, trainer.rows.encoded, precision="fp32"))))

    scores.append(entropy(torch.from_numpy(predict(trainer.model, trainer.rows.encoded, precision="fp32"))))
    trainer.add_callback(Score())
    with watched(trainer) as seen:
        trainer.train()
    assert len(seen["train"]) == 2
    for number, (rows, u) in enumerate(zip(seen["train"], scores, strict=False)):
        pool = rows_of_window(trainer.rows.keys, 0, trainer.run_seed, Window(number, 2, 8), planned=16)
        assert rows == set(pool[u[pool].topk(8).indices].tolist())
    assert not seen["train"][0] & seen["train"][1]
    assert (scores[0] - scores[1]).abs().max() > 0.01  # else the test would not see one step too early


# ---- invariance ----------------------------------------------------------------------------------------------------

INVARIANT = {
    "rows within a step": skip(ratio=0.3),
    "rows by spread": skip(ratio=0.3, score="spread"),
    "rows by spread, all trained": data(ratio=0.3, score="spread"),
    "plan": plan(ratio=0.3, refresh=2),
    "teachers": {"name": "dynamic-teacher"},
    "soft teachers": {"name": "dynamic-teacher", "teachers": {"mode": "soft"}},
    "objective": {"name": "dynamic-objective"},
}


QUICK = ("rows by spread", "plan", "soft teachers")


@pytest.mark.parametrize("name", [*QUICK, *slow(*(name for name in INVARIANT if name not in QUICK))])
def test_neither_accumulation_nor_the_token_budget_changes_loss_gradient_or_choice(bench: Bench, name: str) -> None:
    """PITFALLS 19 and 30. With dropout in the scoring passes its masks, hence scores, do follow the token budget."""
    drop = 0.1 if "spread" in name else 0.0
    found = []
    changes: list[Spec] = [
        {},
        {"gradient_accumulation_steps": 3},
        {"max_tokens": 40},
        {"gradient_accumulation_steps": 2, "max_tokens": 30},
    ]
    for number, change in enumerate(changes[:2] if drop else changes):
        options: Spec = {"epochs": 1, "batch_size": 12, "final_weights": "last", **change}
        if drop == 0.0:
            options["dropout"] = 0.0
        trainer = bench.trainer(INVARIANT[name], name=f"cut-{number}", **options)
        chosen: list[set[int]] = []
        ask = trainer._ask

        def spy(batch: Batch, index: torch.Tensor, chosen: Any = chosen, ask: Any = ask) -> Any:
            chosen.append(set(batch.positions[index.numpy()].tolist()))
            return ask(batch, index)

        trainer._ask = spy  # type: ignore[method-assign]
        loss, grads = first_gradient(trainer)
        found.append((loss, grads, set().union(*chosen)))
    for loss, grads, rows in found[1:]:
        assert rows == found[0][2]
        if drop == 0.0:
            assert loss == pytest.approx(found[0][0], rel=1e-5)
            assert_same(found[0][1], grads, tolerance=2e-5)


def test_the_loss_of_a_step_is_a_mean_over_the_rows_that_stay(bench: Bench) -> None:
    """And so it is that of a whole batch of those rows: a tenth of the rows must not mean a tenth of the gradient."""
    options: Spec = {"dropout": 0.0, "epochs": 1, "final_weights": "last", "batch_size": 40}
    loss, grads = first_gradient(bench.trainer(skip(ratio=0.2), name="mean", **options))
    plan_loss, plan_grads = first_gradient(bench.trainer(plan(ratio=0.2), name="mean-plan", **options))
    assert loss == pytest.approx(plan_loss, rel=1e-5)
    assert_same(grads, plan_grads, tolerance=2e-5)


# ---- resuming ------------------------------------------------------------------------------------------------------

RESUMED = {
    "hard": {"name": "dynamic-teacher"},
    "soft": {"name": "dynamic-teacher", "teachers": {"mode": "soft"}},
    "labels": data(ratio=0.3),
    "skip": skip(ratio=0.3),
    "dropout": skip(ratio=0.3, score="spread"),
    "plan": plan(ratio=0.6),
    "windows": plan(ratio=0.6, refresh=2),
    "windows of three arms": {
        "name": "dynamic-objective",
        "teachers": "dynamic",
        "rows": {"name": "uncertainty-plan", "ratio": 0.6, "refresh": 2},
    },
}


@pytest.mark.parametrize(
    "name", ["skip", "windows of three arms", *slow("soft", "dropout", "plan", "hard", "labels", "windows")]
)
def test_a_resumed_run_equals_the_uninterrupted_one(bench: Bench, name: str, tmp_path: Path) -> None:
    """Steps 1 and 3 of 3 (plans, the last step of an epoch) or 5: step 1 lies within a window of two."""
    settings: Spec = {"epochs": 2, "final_weights": "last", "evaluations": 5, "batch_size": 8}

    def build(folder: Path, *callbacks: TrainerCallback) -> DistillationTrainer:
        return bench.trainer(RESUMED[name], name=str(folder), callbacks=list(callbacks), **settings)

    whole, others = whole_and_resumed(build, tmp_path, 1, 3)
    for resumed in others:
        assert_same(weights(whole), weights(resumed))
        assert whole.records.recorder.table().equals(resumed.records.recorder.table())
        assert whole.counts == resumed.counts


# ---- everything with everything ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "dynamic-objective", "teachers": "dynamic", "rows": {"name": "uncertainty", "ratio": 0.5}},
        {"name": "rlkd", "teachers": {"policy_updates": 20}, "rows": {"name": "uncertainty-skip", "ratio": 0.5}},
        {"name": "finetune", "rows": {"name": "uncertainty-skip", "ratio": 0.5}},
        *slow(
            {**skip(ratio=0.5), "teachers": "dynamic"},
            {"name": "dynamic-objective", "rows": {"name": "random-skip", "ratio": 0.5}, "teachers": "uniform"},
            {"name": "dynamic-teacher", "rows": {"name": "random-plan", "ratio": 0.5}, "loss_weights": "all-ones"},
            {
                "name": "rlkd",
                "teachers": {"policy_updates": 20},
                "rows": {"name": "uncertainty-plan", "ratio": 0.5, "refresh": 2},
            },
            {**data(ratio=0.5), "teachers": "confidence"},
        ),
    ],
    ids=lambda spec: "-".join(str(v) for v in spec.values())[:60],
)
def test_arms_combine_with_each_other_and_with_other_methods_by_config_alone(bench: Bench, spec: Spec) -> None:
    trainer = bench.trainer(spec, name="both", final_weights="last")
    before = weights(trainer)
    trainer.train()
    assert any((before[name] != value).any() for name, value in weights(trainer).items())
    lines = [line for line in trainer.records.recorder.table().to_pylist() if line["group"] == "all"]
    assert len(lines) == 2
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses and np.isfinite(losses).all()


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "dynamic-teacher"},
        plan(ratio=0.5, refresh=2),
        {"name": "dynamic-objective", "rows": {"name": "uncertainty", "ratio": 0.3}},
        *slow(
            {"name": "dynamic-teacher", "teachers": {"mode": "soft-instance"}},
            data(ratio=0.5),
            skip(ratio=0.5),
            {"name": "dynamic-objective"},
        ),
    ],
    ids=str,
)
def test_every_arm_has_a_counterpart_in_regression(tmp_path_factory: Any, spec: Spec) -> None:
    bench = _regression(tmp_path_factory)
    trainer = bench.trainer(spec, name="scores", final_weights="last")
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses and np.isfinite(losses).all()
    assert np.isfinite(trainer.state.log_history[-1].get("eval_pearson", 0.0))


def _regression(factory: Any, made: list[Bench] = []) -> Bench:  # noqa: B006
    """One bench for all parameters."""
    if not made:
        made.append(Bench(factory.mktemp("regression"), regression=True))
    return made[0]


def test_bf16_trains_and_chooses_nearly_the_same_rows(bench: Bench) -> None:
    chosen = []
    for precision in ("fp32", "bf16"):
        spec = skip(ratio=0.5)
        trainer = bench.trainer(
            spec, name=precision, precision=precision, dropout=0.0, epochs=1, final_weights="last", batch_size=40
        )
        chosen.append(trained(trainer)[0])
    assert len(chosen[0] & chosen[1]) >= 16


def test_the_history_has_the_uncertainty_and_the_share_of_rows(bench: Bench) -> None:
    spec = {"name": "dynamic-objective", "teachers": "dynamic", "rows": {"name": "uncertainty", "ratio": 0.25}}
    trainer = bench.trainer(spec, name="health", epochs=1)
    trainer.train()
    line = next(line for line in trainer.state.log_history if "loss" in line)
    assert line["rows/selected"] == line["rows/asked"] == 0.25
    assert 0 <= line["uncertainty/mean"] <= 1 and line["uncertainty/score_selected"] >= line["uncertainty/score"]
    assert "uncertainty/threshold" in line
