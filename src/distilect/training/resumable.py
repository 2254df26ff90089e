"""`transformers.Trainer` with our checkpoints: a plain student, strictly loaded, beside one file of extra state."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import PreTrainedModel, Trainer, TrainerState

from distilect import ranks
from distilect.config import TrainConfig
from distilect.data import Encoded
from distilect.errors import ConfigError
from distilect.evaluation import predict
from distilect.models import has_adapters, save_adapters
from distilect.selection import EpisodicSelector, Method
from distilect.training import distributed
from distilect.training.arguments import scheduler_by_progress
from distilect.training.checkpoints import finish_checkpoint
from distilect.training.counts import Counts
from distilect.training.projections import Projections
from distilect.training.records import StepRecords
from distilect.training.rows import TrainingRows
from distilect.training.state import load_state, save_state
from distilect.training.weights import load_weights, whole_model, whole_state

STATE_FILE = "distilect.safetensors"
AVERAGED = 0.2  # share of training whose weights are averaged


class ResumableTrainer(Trainer):
    """The part of `DistillationTrainer` that knows nothing of the step: optimiser, learning rate, budget, log, evaluation,
    checkpoints.

    A checkpoint is the student as a normal Hugging Face folder (of a student with adapters, what is trained) plus one file with selectors, projections, records and counts.

    Attributes:
        of_all_ranks: tokens of all ranks, the running step's included; the same on each.
        average: running mean of the weights, once it has begun.
    """

    control: Any  # the Trainer's own, as the next four
    lr_scheduler: Any
    model: Any
    model_wrapped: Any
    is_fsdp_enabled: bool
    rows: TrainingRows
    method: Method
    config: TrainConfig
    records: StepRecords
    counts: Counts
    of_all_ranks: Counts
    projections: Projections
    average: AveragedModel | None = None

    # ---- optimiser and learning rate -------------------------------------------------------------------------------

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's optimiser, with the projections of the kinds of knowledge beside the student."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer() if model is None else super().create_optimizer(model)
        if fresh or self.is_fsdp_enabled:
            self.projections.join(optimizer, sharded=self.is_fsdp_enabled)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate over steps; over the tokens that are spent where there is a budget of them."""
        if self.config.token_budget is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = scheduler_by_progress(self.config, optimizer or self.optimizer, lambda: self.progress)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def floating_point_ops(self, inputs: Any) -> int:
        """The Trainer's own estimate, which nothing of ours shows."""
        return 0

    # ---- how far training is: steps, or tokens of a budget ---------------------------------------------------------

    @property
    def spent_tokens(self) -> float:
        """Student tokens so far, of all ranks; those of episodes that selectors learned from included."""
        return self.of_all_ranks.student_tokens + self.stage_tokens

    @property
    def stage_tokens(self) -> float:
        """Student tokens of episodes that selectors learned from before this training."""
        episodic = [s for s in self.method.selectors.values() if isinstance(s, EpisodicSelector)]
        return sum(selector.spent_tokens for selector in episodic)

    @property
    def progress(self) -> float:
        """Share of training that is done, in [0, 1]."""
        if self.config.token_budget is not None:
            return min(1.0, self.spent_tokens / self.config.token_budget)
        return self.state.global_step / max(self.state.max_steps, 1)

    @property
    def budget_spent(self) -> bool:
        return self.config.token_budget is not None and self.spent_tokens >= self.config.token_budget

    # ---- log and evaluation ----------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add our averages and the selectors' health to the Trainer's training logs."""
        if "loss" in logs:
            if ranks.world() > 1:
                distributed.collect_averages(self.records, self.method)
            logs = {**logs, **self.records.averages.pop()}
            for selector in self.method.selectors.values():
                logs |= selector.health()
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Scores on the validation split, in a multi-label task with the thresholds that suit it now; the student's mode is restored."""
        logits = self.predict_rows(self.rows.validation_encoded)
        table, task = self.rows.validation, self.rows.task
        thresholds = task.thresholds(logits, table.labels)
        scores = task.score(logits, table.labels, thresholds, table.offsets) | {"loss": task.loss(logits, table.labels)}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict_rows(self, encoded: Encoded) -> NDArray[np.float32]:
        """float32 [N, C]: the student's logits on other rows. With several ranks all have to call it."""
        most, precision = 2 * self.config.max_tokens, self.config.precision
        if ranks.world() == 1:
            return predict(self.model, encoded, max_tokens=most, precision=precision)
        return distributed.predict_shared(self.model, encoded, None, most, precision)

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if ranks.world() > 1:
            self.collect()
            distributed.same_everywhere(self.method.selectors)
        super()._save_checkpoint(model, trial)
        ranks.barrier()  # each rank has written its random state
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            if self.config.resumable:  # otherwise it never counts as complete: nobody goes on from it
                save_state(self._extra_state(), folder / STATE_FILE)
                finish_checkpoint(folder, self.state.global_step)
            self._drop_old_checkpoints(folder)
        ranks.barrier()  # none goes on, to read the best one or to be killed, before this one is whole

    def _drop_old_checkpoints(self, newest: Path) -> None:
        """Keep the newest and the best; only now, as the newest is complete."""
        best = Path(self.state.best_model_checkpoint) if self.state.best_model_checkpoint else newest
        for folder in Path(self.args.output_dir).glob("checkpoint-*"):
            if folder.name not in (newest.name, best.name):
                shutil.rmtree(folder, ignore_errors=True)

    def collect(self) -> None:
        """With several ranks: move all sums to rank 0."""
        if ranks.world() > 1:
            distributed.collect(self.records, self.method, self.counts)

    def _extra_state(self) -> dict[str, Any]:
        return {
            "selectors": {axis: selector.state_dict() for axis, selector in self.method.selectors.items()},
            "projections": self.projections.state_dict(),
            "records": self.records.state_dict(),
            "counts": self.counts.state_dict(),
            **({"average": self.average.state_dict()} if self.average is not None else {}),
        }

    def load_extra_state(self, checkpoint: Path) -> None:
        """Selectors, projections, counts and records as they were at that checkpoint."""
        state = load_state(checkpoint / STATE_FILE)
        for axis, selector in self.method.selectors.items():
            selector.load_state_dict(state["selectors"][axis])
        self.projections.load_state_dict(state["projections"])
        self.records.load_state_dict(state["records"])
        self.counts.load_state_dict(state["counts"])
        self.of_all_ranks.load_state_dict(state["counts"])
        if "average" in state:
            self.average = AveragedModel(self.model)
            self.average.load_state_dict(state["average"])
        if ranks.world() > 1:
            distributed.keep_sums_on_main(self.records, self.method, self.counts)

    # ---- the weights that training ends with ------------------------------------------------------------------------

    def average_weights(self) -> None:
        """After a step of the last fifth, where the mean of the weights is wanted. It costs one pass over them."""
        if self.config.final_weights != "average" or self.progress <= 1 - AVERAGED:
            return
        if self.is_fsdp_enabled:
            raise ConfigError("train.final_weights: average is not made of sharded weights: use best or last")
        if self.average is None:
            self.average = AveragedModel(self.model)
        self.average.update_parameters(self.model)

    def take_average(self) -> None:
        """The mean in place of the last weights."""
        if self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict(), strict=True)
            self.average = None

    def finish_from(self, checkpoint: Path) -> None:
        """Take the weights of a training that had spent its budget when it was stopped."""
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        self._load_from_checkpoint(best or str(checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.model, resume_from_checkpoint, sharded=self.is_fsdp_enabled)

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """A plain checkpoint, also of a sharded model; of one with adapters these alone."""
        if has_adapters(self.model):
            if self.args.should_save:
                save_adapters(self.model, output_dir or str(self.args.output_dir))
            return
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        state = whole_state(self.model)
        if self.args.should_save:
            self._save(output_dir, state_dict=state)

    def whole_model(self) -> PreTrainedModel:
        """The student after training, as a plain model on every rank: parameters that were sharded (FSDP2) are put together."""
        if self.is_fsdp_enabled:
            self.model = self.model_wrapped = whole_model(self.model, self.args.device)
            self.is_fsdp_enabled = False
        plain: PreTrainedModel = self.model
        return plain
