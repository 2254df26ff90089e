"""The same global batch on one and on two ranks (gloo, CPU): what would silently go wrong without these."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from distilect import ranks
from distilect.errors import RunError, Terminated
from distilect.training import callbacks
from distilect.training.callbacks import Preemption
from distilect.training.checkpoints import last_checkpoint
from tests.launch import run_ranks
from tests.presets import slow
from tests.training.helpers import Bench
from tests.training.several import ROWS, main, methods, narrow_student

Found = dict[str, dict[str, Any]]

pytestmark = pytest.mark.timeout(900)  # all methods are trained in one fixture; a busy machine takes its time


def numbers(line: dict[str, Any]) -> dict[str, float]:
    """A line without its names."""
    return {key: value for key, value in line.items() if isinstance(value, int | float)}


# What others here do as well: their selectors are static, or differ from another's in a setting.
COVERED = {
    "random-single",
    "random-soft",
    "random-hard",
    "best-single",
    "confidence",
    "entropy",
    "weighted",
    "kd",
    "pkd",
}
COVERED |= {
    "adaptive",
    "akskd-hard",
    "all-ones",
    "dynamic-teacher, soft",
    "random rows skipped",
    "rows skipped",
    "rlkd, real steps",
    "rlkd, credit",
    "words, skipped",
    "language, skipped",
}
METHODS = [*(name for name in methods() if name not in COVERED), *slow(*sorted(COVERED))]


@pytest.fixture(scope="module")
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """One process, rank 0 of two, rank 1 of two: the methods of all tests that were collected in one start."""
    folder = tmp_path_factory.mktemp("ranks")
    here = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    names = sorted({item.callspec.params["name"] for item in here})
    narrow_student(Bench(folder, rows=ROWS))
    Bench(folder / "words", rows=ROWS, words=True)
    Bench(folder / "language", rows=ROWS, tokens=True)
    main(folder, names)
    run_ranks(2, lambda: main(folder, names), folder)
    return [json.loads((folder / f"out-{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")]


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_train_as_one(trained: list[Found], name: str) -> None:
    """PITFALLS 5, 30 and invariance 1: same selections, losses within fp32 rounding, gradients really synchronised."""
    one, first, second = (found[name] for found in trained)
    # a kind that is brought to the size of another may weigh a thousand: its rounding does too
    heaviest = max([1.0, *(v for line in one["selection"] for k, v in line.items() if k.startswith("knowledge/"))])
    assert first["losses"] == pytest.approx(one["losses"], rel=1e-5, abs=1e-6 * heaviest)
    assert first["scores"] == pytest.approx(one["scores"])
    assert first["weights"] == pytest.approx(one["weights"], rel=1e-3, abs=2e-3)
    assert first["weights"] == second["weights"] and first["beside"] == second["beside"]
    assert first["beside"] == pytest.approx(one["beside"], abs=2e-3)
    assert len(first["selection"]) == len(one["selection"]) > 0
    for line, other in zip(first["selection"], one["selection"], strict=True):
        assert numbers(line) == pytest.approx(numbers(other), rel=1e-4, abs=2e-5)
        assert line.items() - numbers(line).items() == other.items() - numbers(other).items()
    assert len(first["rows"]) == len(one["rows"]) > 0
    for line, other in zip(first["rows"], one["rows"], strict=True):
        assert line == pytest.approx(other, rel=1e-3, abs=1e-3)
    for key in ("probed", "asked", "trained", "spent"):
        assert first[key] == one[key]
    assert second["spent"] == one["spent"]


@pytest.mark.parametrize("name", METHODS)
def test_selectors_are_the_same_on_both_ranks_and_their_health_is_that_of_all_rows(
    trained: list[Found], name: str
) -> None:
    one, first, second = (found[name] for found in trained)
    assert first["states"] == second["states"]
    for line, other in zip(first["health"], one["health"], strict=True):
        assert line.keys() == other.keys()
        assert line == pytest.approx(other, rel=1e-3, abs=2e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the models of a bench, made once."""
    path = tmp_path_factory.mktemp("stops")
    Bench(path, rows=ROWS)
    return path


class AtStep2(TrainerCallback):
    """Something that happens to rank 1 alone."""

    def __init__(self, act: Any) -> None:
        self.act = act

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == 2 and ranks.rank() == 1:
            self.act(model)


def test_a_loss_that_is_no_number_on_one_rank_stops_all_with_its_rows(folder: Path) -> None:
    def poison(model: Any) -> None:
        with torch.no_grad():
            next(model.parameters()).fill_(float("nan"))

    def work() -> None:
        ranks.start()
        trainer = Bench(folder, rows=ROWS).trainer("finetune", name="nan", callbacks=[AtStep2(poison)])
        with pytest.raises(RunError) as caught:
            trainer.train()
        print("told:", caught.value)

    said = run_ranks(2, work, folder)
    told = [next(line for line in one.splitlines() if line.startswith("told:")) for one in said]
    assert told[0] == told[1]
    assert "the loss is nan at step 3, rows [" in told[0] and "of train (from 0)" in told[0]
    assert last_checkpoint(folder / "nan") is None  # of five steps per epoch none was over


def test_a_signal_to_one_rank_stops_all_with_a_checkpoint(folder: Path) -> None:
    def work() -> None:
        ranks.start()
        callbacks._GRACE = 1000.0  # on a busy machine a step may take longer than a machine's last seconds
        preemption = Preemption()
        trainer = Bench(folder, rows=ROWS).trainer("uniform", name="stopped", preemption=preemption)
        trainer.add_callback(AtStep2(lambda model: os.kill(os.getpid(), signal.SIGTERM)))
        trainer.train()
        with pytest.raises(Terminated):
            preemption.close()
        print("step:", trainer.state.global_step)

    said = run_ranks(2, work, folder)
    assert all("step: 3" in one for one in said)
    found = last_checkpoint(folder / "stopped")
    assert found is not None and found.name == "checkpoint-3"
    assert len(list(found.glob("rng_state_*.pth"))) == 2
