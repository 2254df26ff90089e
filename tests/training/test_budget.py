"""Training until a number of student tokens is spent, whatever the method spends them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilect.errors import ConfigError, RunError
from distilect.selection import EpisodicSelector, SelectionContext
from distilect.selection.static import AllOnes
from distilect.training.checkpoints import last_checkpoint
from distilect.training.fit import _train
from tests.presets import slow
from tests.training.helpers import Bench, weights


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("budget"))


def largest_step(trainer: Any) -> int:
    """Tokens of the longest eight rows: what one step can spend at most, a look at them included."""
    return int(np.sort(trainer.rows.encoded.lengths)[-8:].sum() * 4 / 3) + 1


METHODS: dict[str, Any] = {
    "finetune": "finetune",
    "uniform": "uniform",
    "a probe after each step": {"name": "rlkd-published", "teachers": {"name": "reinforced", "warmup_epochs": 0}},
    "half of the rows": {"name": "kd", "rows": {"name": "random-skip", "ratio": 0.5}},
    "a look before each step": {"name": "dynamic-data", "rows": {"name": "uncertainty-skip", "ratio": 0.5}},
}


@pytest.mark.parametrize(
    "method", ["a probe after each step", "a look before each step", *slow("finetune", "uniform", "half of the rows")]
)
def test_every_method_stops_within_a_step_of_the_budget(bench: Bench, method: str) -> None:
    trainer = bench.trainer(METHODS[method], name=method, token_budget=1500, evaluations=2)
    trainer.train()
    assert 1500 <= trainer.spent_tokens < 1500 + largest_step(trainer)
    forward = trainer.counts.extra.get("forward_tokens", 0.0)
    assert (forward > 0) == ("probe" in method or "look" in method)
    assert trainer.spent_tokens == pytest.approx(trainer.counts.tokens + forward / 3)


def test_the_learning_rate_rises_and_falls_with_the_tokens(bench: Bench) -> None:
    trainer = bench.trainer("finetune", name="rate", token_budget=2000, warmup_ratio=0.25, logging_steps=1)
    trainer.train()
    rates = [line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line]
    top = int(np.argmax(rates))
    assert rates[top] == pytest.approx(1e-3, rel=0.2) and 0 < top < len(rates) - 1
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 0.2e-3


def test_a_resumed_training_ends_where_the_uninterrupted_one_does(bench: Bench) -> None:
    whole = bench.trainer("kd", name="whole", token_budget=1600, final_weights="last")
    whole.train()
    first = bench.trainer("kd", name="parts", token_budget=1600, final_weights="last")
    first.add_callback(_stop_at(7))
    with pytest.raises(KeyboardInterrupt):
        first.train()
    again = bench.trainer("kd", name="parts", token_budget=1600, final_weights="last")
    checkpoint = last_checkpoint(bench.folder / "parts")
    assert checkpoint is not None
    again.load_extra_state(checkpoint)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert again.state.global_step == whole.state.global_step
    assert again.counts.tokens == whole.counts.tokens
    assert all(np.array_equal(a, weights(whole)[name]) for name, a in weights(again).items())


def test_a_training_that_had_spent_its_budget_takes_no_further_step(bench: Bench) -> None:
    done = bench.trainer("kd", name="done", token_budget=1000)
    done.train()
    again = bench.trainer("kd", name="done", token_budget=1000)
    checkpoint = last_checkpoint(bench.folder / "done")
    assert checkpoint is not None
    again.load_extra_state(checkpoint)
    _train(again, checkpoint)
    assert again.state.global_step == done.state.global_step and again.counts.tokens == done.counts.tokens
    assert all(np.array_equal(a, weights(done)[name]) for name, a in weights(again).items())


class LearnedBefore(AllOnes, EpisodicSelector):
    """Static weights that claim to have learned in episodes."""


def learned_before(kinds: tuple[str, ...], tokens: float) -> LearnedBefore:
    selector = LearnedBefore()
    selector.setup(SelectionContext(teachers=("t1", "t2"), kinds=kinds))
    selector.spent_tokens = tokens
    return selector


def test_what_a_selector_was_trained_on_before_is_part_of_the_budget(bench: Bench) -> None:
    trainer = bench.trainer("all-ones", name="stage", token_budget=1500)
    trainer.method.loss_weights = learned_before(trainer.method.kinds, tokens=1000.0)
    trainer.train()
    assert trainer.counts.tokens < 500 + largest_step(trainer) and trainer.spent_tokens >= 1500
    eaten = bench.trainer("all-ones", name="eaten", token_budget=1500)
    eaten.method.loss_weights = learned_before(eaten.method.kinds, tokens=1500.0)
    with pytest.raises(RunError, match="nothing is left for the student"):
        _train(eaten, None)


def test_a_scheduler_that_cannot_follow_tokens_is_refused(bench: Bench) -> None:
    trainer = bench.trainer("finetune", name="refused", token_budget=500, lr_scheduler_type="reduce_lr_on_plateau")
    with pytest.raises(ConfigError, match="cannot follow train.token_budget"):
        trainer.train()


def _stop_at(step: int) -> Any:
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step:
                raise KeyboardInterrupt

    return Stop()


def test_a_run_says_what_its_student_cost(tmp_path: Path) -> None:
    from distilect.pipeline import run
    from distilect.pipeline.predictions import read_predictions
    from tests.pipeline.helpers import Job

    job = Job(tmp_path)
    train = {"epochs": 2, "batch_size": 16, "max_length": 32, "precision": "fp32", "token_budget": 900}
    method = {"name": "rlkd-published", "teachers": {"name": "reinforced", "warmup_epochs": 0}}
    result = run(job.config(method=method, train=train))[0]
    cost = result.metrics["cost"]
    assert cost["forward_tokens"] > 0 and cost["stage_tokens"] == 0
    assert cost["student_tokens"] == pytest.approx(cost["tokens"] + cost["forward_tokens"] / 3, abs=1)
    assert 900 <= cost["student_tokens"] < 1400
    ids, labels, outputs = read_predictions(result.folder / "predictions.parquet")
    assert ids.shape == (30, 2) and outputs.shape == (30, 2)
    accuracy = float((outputs.argmax(1) == labels).mean())
    assert accuracy == result.metrics["student"]["scores"]["accuracy"]
