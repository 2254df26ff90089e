"""What happens around steps: history, TensorBoard, a progress bar, stopping early or on SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID
from transformers import TrainerCallback, TrainerControl, TrainerState

from distilect import progress
from distilect.errors import Terminated
from distilect.files import atomic_write
from distilect.training.counts import Counts

_GRACE = (
    8.0  # seconds from SIGTERM until a step that does not end is given up: machines are taken away after 10 and more
)

_NAMES = {"loss": "train/loss", "grad_norm": "train/grad_norm", "learning_rate": "train/learning_rate"}
_SKIPPED = ("epoch", "total_flos", "train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss")


def stable_names(logs: dict[str, Any]) -> dict[str, float]:
    """The Trainer's log names in our namespaces: `loss` → `train/loss`, `eval_f1` → `eval/f1`; ours pass as they are."""
    named = {}
    for key, value in logs.items():
        if key in _SKIPPED or not isinstance(value, int | float):
            continue
        named[_NAMES.get(key, f"eval/{key[5:]}" if key.startswith("eval_") else key)] = float(value)
    return named


class Hooks(TrainerCallback):
    """A callback made of functions, by the name of the event: `Hooks(on_step_end=f)` calls f(state, control)."""

    def __init__(self, **functions: Callable[[TrainerState, TrainerControl], None]) -> None:
        for event, function in functions.items():
            setattr(self, event, lambda args, state, control, function=function, **_: function(state, control))


class History(TrainerCallback):
    """`history.jsonl` and TensorBoard, with the same names.

    A resumed run drops the lines that were written after its checkpoint, so that no step stands twice.

    Args:
        stage: of a run in stages, in each of its lines.
        steps, epochs: of earlier stages; this one's are counted on from there.
    """

    def __init__(
        self, path: Path, tensorboard: Path | None = None, stage: str = "", steps: int = 0, epochs: float = 0.0
    ) -> None:
        self.path = path
        self.tensorboard = tensorboard
        self.stage, self.steps, self.epochs = stage, steps, epochs
        self.writer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = self.steps + state.global_step
        kept = [line for line in self.read() if line["step"] <= step] if step else []
        atomic_write(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        if self.tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter  # imports for 2 s; nobody else needs it

            self.writer = SummaryWriter(str(self.tensorboard), purge_step=step + 1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        values = stable_names(logs or {})
        if not values:
            return
        step, epoch = self.steps + state.global_step, self.epochs + float(state.epoch or 0.0)
        line = {"step": step, "epoch": round(epoch, 6), **({"stage": self.stage} if self.stage else {}), **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.writer is not None:
            self.writer.close()

    def read(self) -> list[dict[str, Any]]:
        """The lines so far; a last line that a kill cut short is left out."""
        if not self.path.exists():
            return []
        lines = []
        for text in self.path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
        return lines


class Bar(TrainerCallback):
    """One progress bar for the whole run, with ETA and the last loss.

    It counts steps, or `tokens` where there is a budget of them.

    Args:
        done: steps or tokens of earlier stages.
        later: those of later stages, as a multiple of this one's.
    """

    def __init__(self, description: str, budget: int | None = None, done: int = 0, later: float = 0.0) -> None:
        self.description, self.budget, self.done, self.later = description, budget, done, later
        self.tokens: Callable[[], float] = lambda: 0.0
        self.display: Progress | None = None
        self.task = TaskID(0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.display = progress.bar()
        self.display.start()
        total = self.done + round((self.budget or state.max_steps) * (1 + self.later))
        self.task = self.display.add_task(self.description, total=total, completed=self._done(state))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.display is not None:
            self.display.update(self.task, completed=self._done(state))

    def _done(self, state: TrainerState) -> int:
        return self.done + (int(self.tokens()) if self.budget else state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if self.display is not None and logs and "loss" in logs:
            self.display.update(self.task, description=f"{self.description} · loss {logs['loss']:.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        if self.display is not None:
            self.display.stop()
            self.display = None


class Clock(TrainerCallback):
    """Seconds of training, kept in the checkpoints so that a resumed run counts all of its parts."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.last = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.counts.extra.setdefault("seconds", 0.0)
        self.last = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.perf_counter()
        self.counts.extra["seconds"] += now - self.last
        self.last = now

    on_train_end = on_step_end


class LastStepEvaluation(TrainerCallback):
    """Evaluate and save after the very last step too, when the evaluation interval does not end there."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True


class Patience(TrainerCallback):
    """Stop after so many evaluations without a better validation score, or without a lower loss where `metric` is `loss`.

    It counts in the Trainer's own log history, so a resumed run stops where the uninterrupted one does.
    """

    def __init__(self, patience: int, metric: str) -> None:
        self.patience, self.key, self.best = patience, f"eval_{metric}", min if metric == "loss" else max

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        scores = [line[self.key] for line in state.log_history if self.key in line]
        if scores and len(scores) - 1 - scores.index(self.best(scores)) >= self.patience:
            control.should_training_stop = True


class Preemption(TrainerCallback):
    """On SIGTERM: finish the step, keep a checkpoint, stop; with several ranks all of them, if any is asked to.

    A second signal, or a step of more than 8 s, stops at once: the last checkpoint is kept. A checkpoint within an epoch is no
    occasion to evaluate: the run that goes on from it shall choose among the same weights as one that was never stopped.

    Attributes:
        asked: this process got the signal.
        stops: some rank did, and all know it: the trainer sets it when a step begins (of a single process: when it ends).
        steps_per_epoch, budget_spent: of the training; the trainer sets them.
    """

    def __init__(self) -> None:
        self.asked = self.stops = self.mid_epoch = False
        self.steps_per_epoch = 1
        self.budget_spent: Callable[[], bool] = lambda: False
        self.before: Any = None
        self.timer: threading.Timer | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self.before = signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.asked:
            raise Terminated
        self.asked = True
        self.timer = threading.Timer(_GRACE, os.kill, (os.getpid(), signal.SIGTERM))
        self.timer.daemon = True
        self.timer.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.stops = self.stops or (args.world_size == 1 and self.asked)
        if self.stops:
            control.should_training_stop = True
            over = self.budget_spent() or state.global_step >= state.max_steps
            self.mid_epoch = state.global_step % self.steps_per_epoch > 0 and not over
            control.should_save = control.should_save or self.mid_epoch

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.mid_epoch:
            control.should_evaluate = control.should_save = False

    def close(self) -> None:
        """Give the signal back.

        Raises:
            Terminated: it came.
        """
        if self.timer is not None:
            self.timer.cancel()
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)
        if self.stops:
            raise Terminated
