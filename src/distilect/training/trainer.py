"""`DistillationTrainer`: `transformers.Trainer` with the distillation step, its batches and its extra state."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    get_scheduler,
    set_seed,
)

from distilect import ranks
from distilect.config import TrainConfig
from distilect.data import Encoded, EpochBatchSampler, Table, Window, row_keys, token_budget_splits
from distilect.errors import ConfigError, RunError, TeacherError
from distilect.knowledge import StudentOutputs
from distilect.models import (
    attention_maps,
    captured,
    classification_positions,
    default_device,
    quiet,
    resolve_precision,
)
from distilect.selection import Averages, Method, StepView
from distilect.signals import SignalSource
from distilect.tasks import Task
from distilect.training.callbacks import LastStepEvaluation, Patience
from distilect.training.checkpoints import finish_checkpoint
from distilect.training.checkpoints import last_checkpoint as last_checkpoint
from distilect.training.first_look import FirstLook
from distilect.training.probe import TrainerProbe
from distilect.training.recorder import SelectionRecorder
from distilect.training.row_sample import RowSample
from distilect.training.state import load_state, save_state
from distilect.training.step import StepResult, distillation_loss
from distilect.training.together import IDLE, Together

STATE_FILE = "distilect.safetensors"
FORWARD_SHARE = 1 / 3  # of a training token's operations: a pass without gradient costs 2 of 6 per parameter


@dataclass(frozen=True)
class TrainingRows:
    """The rows that a model is trained on, with everything that a step needs of them.

    Attributes:
        table: train rows followed by unlabelled extra rows.
        encoded: the same rows, tokenised for the student.
        validation, validation_encoded: the validation split; scores on it choose the checkpoint.
        task: what is learned.
        cls_token_id: of the student's tokenizer; None where it has no classification token.
    """

    table: Table
    encoded: Encoded
    validation: Table
    validation_encoded: Encoded
    task: Task
    cls_token_id: int | None = None

    def take(self, rows: np.ndarray) -> TrainingRows:
        """Training on some of the rows only, int64 [n]; the same rows held out."""
        return replace(self, table=self.table.take(rows), encoded=self.encoded.take(rows))


class _Positions(Dataset[int]):
    """The dataset that the data loader sees: row i is the number i; the collator looks it up."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return int(index)


@dataclass
class Counts:
    """What training cost, beside time."""

    tokens: int = 0
    rows: int = 0
    extra: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, amount: float) -> None:
        self.extra[name] = self.extra.get(name, 0.0) + amount

    @property
    def student_tokens(self) -> float:
        """Tokens that the student was trained on, and a third of those that it was run on without gradient for selectors."""
        return self.tokens + FORWARD_SHARE * self.extra.get("forward_tokens", 0.0)


class DistillationTrainer(Trainer):
    """Train a student by the formula of `training.step`.

    The model handed to the Trainer is the plain student; teachers are behind `source`, and projections of the kinds of
    knowledge are optimised beside it. Checkpoints hold the student as a normal Hugging Face folder plus one file with
    selectors, projections and counts.

    Args:
        model: the student.
        rows: what it is trained on.
        method: selectors and knowledge.
        source: teacher signals; None for methods that ask no teacher.
        config: how it is trained.
        output: folder for checkpoints.
        seed: of data order, dropout and every draw.
        vectors: a frozen encoder's row vectors (as "logits" of its only voice), where a selector wants them.
        callbacks: further `TrainerCallback`s.
        keeps: evaluate on the validation split and write checkpoints; not so in throw-away trainings.
    """

    control: Any  # the Trainer's own, as the next four
    lr_scheduler: Any
    model: Any
    model_wrapped: Any
    is_fsdp_enabled: bool
    loss_is_scaled_for_ga = True  # the loss is a sum divided by the rows of the whole optimiser step

    def __init__(
        self,
        model: PreTrainedModel,
        rows: TrainingRows,
        method: Method,
        source: SignalSource | None,
        config: TrainConfig,
        output: Path,
        seed: int = 0,
        callbacks: list[TrainerCallback] | None = None,
        *,
        vectors: SignalSource | None = None,
        keeps: bool = True,
    ) -> None:
        if isinstance(model, nn.DataParallel):
            refuse_data_parallel(max(2, len(model.device_ids)))
        ranks.start()
        self.rows, self.method, self.source, self.config = rows, method, source, config
        self.vectors = vectors
        self.run_seed = seed
        self.keys, self.row_labels = _keys_and_labels(rows.table)
        self.knowledge = nn.ModuleList(method.knowledge).to(default_device())
        self.fields = method.fields(source.num_teachers) if source is not None else []
        self.wants_losses = any(s.wants_losses for s in method.selectors.values())
        self.step_losses = torch.zeros(2, len(method.kinds), dtype=torch.float64)  # sums and counts of this step
        self.wants_pooled = any(s.wants_pooled for s in method.selectors.values())
        self.wants_hidden = self.wants_pooled or any(k.needs_hidden() for k in method.knowledge)
        self.attention_layers = sorted({layer for k in method.knowledge for layer in k.attention_layers()})
        for layer in self.attention_layers:
            attention_maps(model, layer)  # tells at once what the student lacks
        self.averages, self.counts = Averages(), Counts()
        self.of_all = Counts()  # tokens of all ranks, the running step's included; the same on each
        names = tuple(source.names) if source is not None else ()
        self.recorder = SelectionRecorder(names, method.kinds, rows.task.labels)
        self.row_sample = RowSample(self.keys.numpy(), names, method.kinds)
        self.sampler = self._batch_sampler()
        self.rows_in_step = 0
        self.part_rows, self.part_is_idle = torch.empty(0, dtype=torch.int64), False
        self.said_losses: list[
            tuple[Tensor, Tensor]
        ] = []  # rows and losses [b, M] of the last batch's parts, for messages
        self.beside: torch.optim.Optimizer | None = None  # of projections, where the student is sharded (FSDP2)
        self.state_beside: dict[str, Any] | None = None  # of that optimiser in a checkpoint
        self.asked_to_stop = False  # by a signal: after the step that is running
        self.shortest = int(np.argmin(rows.encoded.lengths)) if len(rows.encoded.lengths) else 0
        self.together = Together(self)
        self.probe = TrainerProbe(self)
        self.first_look = FirstLook(self)
        super().__init__(
            model=model,
            args=training_arguments(
                config,
                rows.task,
                len(self.sampler) // config.gradient_accumulation_steps,
                output,
                seed,
                validation=len(rows.validation) > 0,
                keeps=keeps,
            ),
            train_dataset=_Positions(len(rows.table)),
            eval_dataset=_Positions(len(rows.validation)),
            data_collator=self.collate,
            callbacks=[_Schedule(self), *(self._stopping() if keeps else []), *(callbacks or [])],
        )
        refuse_data_parallel(self.args.n_gpu)
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True  # older Trainers divide by accumulation unless this is set

    def _stopping(self) -> list[TrainerCallback]:
        """Callbacks that evaluate once more at the end and stop early; both need rows held out of train."""
        if not len(self.rows.validation):
            if self.config.early_stopping_patience is not None:
                raise ConfigError(
                    "train.early_stopping_patience is set, but no rows are held out of train: set data.validation_size or data.validation"
                )
            return []
        found: list[TrainerCallback] = [LastStepEvaluation()] if self.config.evaluations > 1 else []
        if self.config.early_stopping_patience is not None:
            found.append(Patience(self.config.early_stopping_patience, self.rows.task.primary))
        return found

    # ---- batches ---------------------------------------------------------------------------------------------------

    def _batch_sampler(self) -> EpochBatchSampler:
        """Whole optimiser steps, cut into this rank's parts; the rows that a planning selector chose, if it plans."""
        keys, chooser = self.keys.numpy(), self.method.rows
        planned = chooser.planned(len(self.rows.table))

        def plan(epoch: int, window: Window) -> np.ndarray:
            return chooser.plan(keys, epoch, self.run_seed, None if chooser.window is None else window)

        return EpochBatchSampler(
            self.rows.encoded.lengths,
            batch_size=self.config.batch_size,
            seed=self.run_seed,
            group=self.config.group_by_length,
            micro=self.config.gradient_accumulation_steps,
            rank=ranks.rank(),
            world=ranks.world(),
            rows_for_window=None if planned is None else plan,
            rows_per_epoch=planned,
            window=chooser.window,
        )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches by length; already cut for this rank, so that accelerate must not shard them again."""
        return DataLoader(self.train_dataset, batch_sampler=self.sampler, collate_fn=self.collate)

    def collate(self, positions: list[int]) -> dict[str, Tensor]:
        rows = np.asarray(positions, dtype=np.int64)
        return {**self.rows.encoded.collate(rows), "rows": torch.from_numpy(rows)}

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The parts of one optimiser step; counts the rows it trains on over all parts and ranks, the mean's denominator."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = self.first_look(batches)
        own = sum(int(self.rows.encoded.lengths[batch["rows"].numpy()].sum()) for batch in batches)
        rows, tokens = self.together.step_begins(self.first_look.trained_rows(batches), own, self.asked_to_stop)
        self.of_all.tokens += tokens
        self.rows_in_step = max(rows, 1)
        batches = self.together.in_last_part(batches)
        return batches, torch.tensor(self.rows_in_step)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train from the run's seed, whatever drew random numbers since the trainer was built; each rank drops out by its own."""
        seeds = np.random.SeedSequence([self.run_seed % 2**64, self.together.rank])
        set_seed(int(seeds.generate_state(1)[0]) if self.together.rank else self.run_seed)
        self.together.share(self.extra_parameters())
        return super().train(*args, **kwargs)

    # ---- the step --------------------------------------------------------------------------------------------------

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Run one batch, in parts where it holds more padded tokens than `max_tokens`; the loss is the same."""
        rows = inputs["rows"].numpy()  # still on the CPU: the loader does not move batches
        idle = inputs.pop(IDLE, False)
        if not idle:
            self.counts.tokens += int(self.rows.encoded.lengths[rows].sum())
            self.counts.rows += len(rows)
        own = (
            []
            if idle or not len(rows)
            else token_budget_splits(self.rows.encoded.lengths[rows], self.config.max_tokens)
        )
        parts = self.together.parts(own)
        self.said_losses = []
        if not parts:  # all of its rows were left out, or it is there for the other ranks only
            nothing = torch.zeros((), device=self.args.device)
            return self._part_step(model, {**inputs, IDLE: True}, num_items_in_batch) if idle else nothing
        if len(parts) == 1 and parts[0] is not None:
            return self._checked(self._part_step(model, inputs, num_items_in_batch))
        total = torch.zeros((), device=self.args.device)
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            cut = self.together.idle() if part is None else self.collate(rows[part].tolist())
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                total = total + self._part_step(model, cut, num_items_in_batch)
        return self._checked(total)

    def _part_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any) -> Tensor:
        """Forward and backward of one part; its row numbers stay on the CPU, where signals are looked up."""
        self.part_rows, self.part_is_idle = inputs["rows"], bool(inputs.get(IDLE, False))
        inputs = {key: value for key, value in inputs.items() if key not in ("rows", IDLE)}
        return super().training_step(model, inputs, num_items_in_batch)

    def _checked(self, loss: Tensor) -> Tensor:
        """Stop at once on a loss that is no number: the last checkpoint is still good.

        Raises:
            RunError: names the step and the rows; with several processes when they meet, at the end of the step.
        """
        if torch.isfinite(loss):  # the one point where a step waits for the device; the Trainer's own filter is off
            return loss
        bad = [rows[~torch.isfinite(found.cpu()).all(1)] for rows, found in self.said_losses]
        rows = torch.cat([*bad, torch.empty(0, dtype=torch.int64)]).tolist()
        where = f"rows {rows[:8]}{'…' if len(rows) > 8 else ''} of train (from 0)" if rows else "the mean over its rows"
        self.together.bad = (
            f"the loss is {float(loss)} at step {self.state.global_step + 1}, {where}: "
            "lower train.learning_rate or set train.precision: fp32; the last checkpoint is kept"
        )
        if self.together.world == 1:
            raise RunError(self.together.bad)
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The formula on one part of a batch, divided by the rows of the whole optimiser step."""
        if self.part_is_idle:
            return self._idle_loss(model, inputs)
        outputs, student = self.student_outputs(model, inputs, self.wants_hidden)
        view = self.view_of(self.part_rows, student.logits.detach(), self._pooled(student))
        selected = self.first_look.selected(self.part_rows, student.logits.device)
        if selected is None:
            selected = self.together.select(view)
        result = distillation_loss(student, view, self.method, self._ask, selected)
        self._note(view, result)
        self.said_losses.append((self.part_rows, result.losses))
        loss = result.loss * (self.args.world_size / self.rows_in_step)  # gradients are averaged over ranks
        return (loss, outputs) if return_outputs else loss

    def student_outputs(self, model: nn.Module, inputs: dict[str, Any], hidden: bool) -> tuple[Any, StudentOutputs]:
        """One forward pass: what the model returns, and what the kinds of knowledge want of it."""
        with captured(self.model, self.attention_layers) as attention:
            outputs = model(**inputs, output_hidden_states=hidden)
        cls = classification_positions(inputs["input_ids"], inputs["attention_mask"], self.rows.cls_token_id)
        return outputs, StudentOutputs(
            logits=outputs.logits.float(),
            mask=inputs["attention_mask"].bool(),
            cls=cls,
            hidden=outputs.hidden_states if hidden else None,
            attention=attention,
        )

    def _idle_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """0, with a gradient of zeros: this rank has no rows in this part, and keeps step with the others."""
        logits = model(**inputs, output_hidden_states=self.wants_hidden).logits
        nobody = self.part_rows[:0]
        if self.together.in_step:
            self.together.select(self.view_of(nobody, logits[:0].detach()))
        zero: Tensor = logits.sum() * 0.0
        return zero

    def _pooled(self, student: StudentOutputs) -> Tensor | None:
        """[B, H]: the last layer at the classification token."""
        if not self.wants_pooled or not student.hidden:
            return None
        return student.at_cls(len(student.hidden) - 1).detach()

    def view_of(self, positions: Tensor, logits: Tensor, pooled: Tensor | None = None) -> StepView:
        """Some rows of this step as selectors see them; `positions` int64 [b] on the CPU, `logits` [b, C]."""
        device = logits.device
        return StepView(
            rows=self.keys[positions].to(device),
            labels=self.row_labels[positions].to(device),
            student=logits,
            pooled=pooled,
            teachers=None,
            progress=self.progress,
            epoch=self.sampler.epoch,
            step=self.state.global_step,
            seed=self.run_seed,
            vectors=self._vectors(positions, device),
            passes=self.first_look.passes(positions, device),
        )

    def _vectors(self, positions: Tensor, device: torch.device) -> Tensor | None:
        """float32 [B, D]."""
        if self.vectors is None:
            return None
        return self.vectors.fetch(self.rows.table, positions.numpy(), [[]]).logits[:, 0].to(device)

    def _ask(self, index: Tensor) -> Any:
        """What the teachers say on some rows of the part; `index` int64 [b] within it."""
        assert self.source is not None
        rows = self.part_rows[index.cpu()].numpy()
        self.count("teacher_rows", len(rows) * self.source.num_teachers)
        try:
            return self.source.fetch(self.rows.table, rows, self.fields).to(index.device)
        except TeacherError as error:
            raise RunError(
                f"step {self.state.global_step + 1}, rows {rows[:8].tolist()}{'…' if len(rows) > 8 else ''} of train (from 0): "
                f"{error}; the last checkpoint is kept"
            ) from None

    def _note(self, view: StepView, result: StepResult) -> None:
        """Add to the running averages and the selection record; no value is read here."""
        self.recorder.add(view.epoch, view.labels, result)
        self.row_sample.add(view.epoch, self.part_rows, view.student, result)
        if self.wants_losses:
            self._add_losses(view, result)
        count = len(view.rows)
        for kind, losses in zip(self.method.kinds, result.losses.T, strict=True):
            self.averages.add(f"train/loss_{kind}", losses.sum(), count)
        for kind, weights in zip(self.method.kinds, result.knowledge_weights.T, strict=True):
            self.averages.add(f"knowledge/v_{kind}", weights.sum(), count)
        self.averages.add("rows/asked", result.asked.sum(), count)
        if result.teacher_weights.shape[1]:
            for name, weights in zip(self.recorder.teachers, result.teacher_weights.T, strict=True):
                self.averages.add(f"teacher/w_{name}", weights.sum(), result.asked.sum())

    def _add_losses(self, view: StepView, result: StepResult) -> None:
        """Sums over the rows on which each kind speaks; those of kinds that ask as if every row had asked."""
        asking = torch.tensor([kind.asks_teachers for kind in self.method.knowledge]).to(result.losses.device)
        spoke = torch.where(asking, result.asked.unsqueeze(1), view.has_label.unsqueeze(1)).double()  # [B, M]
        raw = torch.where(asking, self.method.rows.asked_share, 1.0) * result.losses.double()
        self.step_losses = self.step_losses.to(raw.device) + torch.stack([(raw * spoke).sum(0), spoke.sum(0)])

    def tell_losses(self) -> None:
        """Let selectors know the losses of the step that is over, summed over its parts and ranks."""
        if not self.wants_losses:
            return
        found = self.step_losses
        if self.args.world_size > 1:
            found = self.accelerator.reduce(found.to(self.args.device))
        for selector in self.method.selectors.values():
            if selector.wants_losses:
                selector.note_losses(found[0], found[1])
        self.step_losses = torch.zeros_like(found)

    def note_left_out(self, view: StepView, index: Tensor, positions: Tensor) -> None:
        """Count rows of the step that no pass with gradient will see; `index` bool [B], `positions` int64 [B]."""
        self.recorder.leave_out(view.epoch, view.labels[index].to(self.args.device))
        self.row_sample.leave_out(view.epoch, positions[index])
        self.averages.add("rows/asked", torch.zeros(()), int(index.sum()))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add our averages and the selectors' health to the Trainer's training logs."""
        if "loss" in logs:
            self.together.collect_averages()
            logs = {**logs, **self.averages.pop()}
            for selector in self.method.selectors.values():
                logs |= selector.health()
        super().log(logs, start_time)

    def count(self, name: str, amount: float) -> None:
        """Add to a count of what training cost beside the steps themselves."""
        self.counts.add(name, amount)

    def count_probe(self, lengths: np.ndarray, passes: int = 1) -> None:
        """Count passes without gradient over rows of `lengths` tokens, int [n], of all processes together: each of them says the same."""
        tokens = passes * int(lengths.sum())
        self.of_all.add("forward_tokens", tokens)
        if self.together.rank == 0:  # whose sums are those of all in the end
            self.count("probed_rows", passes * len(lengths))
            self.count("forward_tokens", tokens)

    # ---- how far training is: steps, or tokens of a budget ---------------------------------------------------------

    @property
    def spent_tokens(self) -> float:
        """Student tokens so far, of all processes; those that selectors were trained on before included."""
        return self.of_all.student_tokens + sum(s.spent_tokens for s in self.method.selectors.values())

    @property
    def progress(self) -> float:
        """Share of training that is done, in [0, 1]."""
        if self.config.token_budget is not None:
            return min(1.0, self.spent_tokens / self.config.token_budget)
        return self.state.global_step / max(self.state.max_steps, 1)

    @property
    def budget_spent(self) -> bool:
        return self.config.token_budget is not None and self.spent_tokens >= self.config.token_budget

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate over steps; over the tokens that are spent where there is a budget of them."""
        if self.config.token_budget is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = by_progress(self.config, optimizer or self.optimizer, lambda: self.progress)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def finish_from(self, checkpoint: Path) -> None:
        """Take the weights of a training that had spent its budget when it was stopped."""
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        self._load_weights(best or str(checkpoint))

    # ---- parameters beside the student -----------------------------------------------------------------------------

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's optimiser, with the projections of the kinds of knowledge as one more group."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer() if model is None else super().create_optimizer(model)
        extra = self.extra_parameters()
        if extra and self.is_fsdp_enabled:  # which knows the sharded model's parameters only
            self.beside = self.beside or torch.optim.AdamW(extra, weight_decay=0.0)
            if self.state_beside is not None:
                self.beside.load_state_dict(self.state_beside)
        elif fresh and extra:
            optimizer.add_param_group({"params": extra, "weight_decay": 0.0})
        return optimizer

    def step_beside(self) -> None:
        """Move the parameters outside a sharded model, at the learning rate of those within."""
        if self.beside is not None:
            for group in self.beside.param_groups:
                group["lr"] = self._get_learning_rate()
            self.beside.step()

    def extra_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters that are not the student's; clipped and zeroed by `_Schedule`."""
        return [p for p in self.knowledge.parameters() if p.requires_grad]

    # ---- evaluation, on rows held out of train ---------------------------------------------------------------------

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Scores on the validation split; the student's mode is restored."""
        scores = self.rows.task.score(self.predict_rows(self.rows.validation_encoded), self.rows.validation.labels)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict_rows(self, encoded: Encoded) -> np.ndarray:
        """float32 [N, C]: the student's logits on other rows. With several processes all have to call it."""
        return self.together.predict(self.model, encoded, None, 2 * self.config.max_tokens, self.config.precision)

    def _whole_state(self) -> dict[str, Any]:
        """Rank 0: all parameters of a sharded model, on the CPU; nothing on the others, who have to call it too."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: dict[str, Any] = get_model_state_dict(self.model, options=options)
        return state if ranks.is_main() else {}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """A plain checkpoint, also of a sharded model."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        state = self._whole_state()
        if self.args.should_save:
            self._save(output_dir, state_dict=state)

    def whole_model(self) -> PreTrainedModel:
        """The student after training, as a plain model on every rank: parameters that were sharded (FSDP2) are put together."""
        model = self.model
        if not self.is_fsdp_enabled:
            return model  # type: ignore[no-any-return]
        found = ranks.gather(self._whole_state())[0]
        kind = self._kind()
        with torch.device(self.args.device):
            plain: PreTrainedModel = kind(model.config)
        plain.load_state_dict(found, strict=True)
        self.model = self.model_wrapped = plain
        self.is_fsdp_enabled = False
        return plain

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.together.collect()
        self.together.same_everywhere()
        super()._save_checkpoint(model, trial)
        ranks.barrier()  # each rank has written its random state
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            if self.config.resumable:  # otherwise it never counts as complete: nobody goes on from it
                save_state(self._extra_state(), folder / STATE_FILE)
                finish_checkpoint(folder, self.state.global_step)
            self._drop_old_checkpoints(folder)
        ranks.barrier()  # none goes on, to read the best one or to be killed, before this one is whole

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._load_weights(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self._load_weights(self.state.best_model_checkpoint)

    def _load_weights(self, folder: str) -> None:
        """Read a checkpoint as any user would, and take over every tensor.

        The Trainer's own loading skips tensors whose names it does not find: with transformers before 5.6, which write LayerNorm
        weights under older names, a resumed student would silently keep fresh ones.
        """
        with quiet():
            saved = self._kind().from_pretrained(folder, config=self.model.config, use_safetensors=True)
        if not self.is_fsdp_enabled:
            self.model.load_state_dict(saved.state_dict(), strict=True)
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        options = StateDictOptions(
            full_state_dict=True, strict=True
        )  # every rank has read it, and takes its own pieces
        set_model_state_dict(self.model, saved.state_dict(), options=options)

    def _kind(self) -> Any:
        """The student's class; FSDP2 puts one of its own before it."""
        return next(kind for kind in type(self.model).__mro__ if not kind.__name__.startswith("FSDP"))

    def _drop_old_checkpoints(self, newest: Path) -> None:
        """Keep the newest and the best; only now, as the newest is complete."""
        best = Path(self.state.best_model_checkpoint) if self.state.best_model_checkpoint else newest
        for folder in Path(self.args.output_dir).glob("checkpoint-*"):
            if folder.name not in (newest.name, best.name):
                shutil.rmtree(folder, ignore_errors=True)

    def _extra_state(self) -> dict[str, Any]:
        return {
            "selectors": {axis: selector.state_dict() for axis, selector in self.method.selectors.items()},
            "knowledge": dict(self.knowledge.state_dict()),
            "beside": None if self.beside is None else self.beside.state_dict(),
            "recorder": self.recorder.state_dict(),
            "row_sample": self.row_sample.state_dict(),
            "counts": {"tokens": self.counts.tokens, "rows": self.counts.rows, "extra": dict(self.counts.extra)},
            "averages": {"sums": dict(self.averages.sums), "counts": dict(self.averages.counts)},
        }

    def load_extra_state(self, checkpoint: Path) -> None:
        """Selectors, projections, counts and records as they were at that checkpoint."""
        state = load_state(checkpoint / STATE_FILE)
        for axis, selector in self.method.selectors.items():
            selector.load_state_dict(state["selectors"][axis])
        self.knowledge.load_state_dict(state["knowledge"])
        self.state_beside = state.get("beside")
        self.recorder.load_state_dict(state["recorder"])
        self.row_sample.load_state_dict(state.get("row_sample", {"epochs": {}}))
        self.counts = Counts(**state["counts"])
        self.of_all = Counts(self.counts.tokens, self.counts.rows, dict(self.counts.extra))
        self.averages = Averages(**state["averages"])
        self.together.forget_sums()
        self.together.taken_in()


class _Schedule(TrainerCallback):
    """Keeps the sampler's epoch and the parameters beside the student in step with the Trainer."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        steps = len(self.trainer.sampler) // self.trainer.config.gradient_accumulation_steps
        epoch, done = divmod(state.global_step, steps)
        self.trainer.sampler.set_epoch(epoch, done)
        for selector in self.trainer.method.selectors.values():
            selector.begin_epoch(self.trainer.probe, epoch)
        self.trainer.together.taken_in()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.tell_losses()
        self.trainer.together.complete()
        for selector in self.trainer.method.selectors.values():
            selector.after_step(self.trainer.probe)
        self.trainer.together.taken_in()
        if self.trainer.budget_spent:
            control.should_training_stop = True
            if self.trainer.config.evaluations > 1:  # otherwise the epoch's end evaluates and saves
                control.should_evaluate = control.should_save = True

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for parameter in self.trainer.extra_parameters():
            parameter.grad = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        extra = self.trainer.extra_parameters()
        self.trainer.together.check()
        self.trainer.together.average(extra)  # they are outside the wrapped model: nobody else averages them over ranks
        if extra and args.max_grad_norm:
            nn.utils.clip_grad_norm_(extra, args.max_grad_norm)
        self.trainer.step_beside()


def _keys_and_labels(table: Table) -> tuple[Tensor, Tensor]:
    """int64 [N] and [N]: copies, as tables are read-only; of a table larger than memory its mapped files."""
    if table.folder is None:
        return torch.from_numpy(row_keys(table.ids)), torch.tensor(table.labels)
    return torch.from_numpy(table.ids.view(np.int64)[:, 0]), torch.from_numpy(table.labels)


def refuse_data_parallel(gpus: int) -> None:
    """One process with several GPUs would be wrapped in `nn.DataParallel`, which loses hidden states.

    Raises:
        RunError: there are several.
    """
    if gpus > 1:
        raise RunError(
            f"this process sees {gpus} GPUs and would split batches by nn.DataParallel, which is not supported: "
            "set CUDA_VISIBLE_DEVICES=0, or start one process per GPU with accelerate launch"
        )


def training_arguments(
    config: TrainConfig, task: Task, steps: int, output: Path, seed: int, validation: bool, keeps: bool = True
) -> TrainingArguments:
    """The Trainer's arguments; `steps` optimiser steps per epoch, `validation`: there are rows to evaluate on; `keeps`: see above."""
    validation = validation and keeps
    device = default_device()
    precision = resolve_precision(config.precision, device)
    total = max(1, math.ceil(steps * config.epochs))
    if config.token_budget is not None:  # it stops by tokens; a step trains on one at least
        total = max(1, config.token_budget)
    when = "epoch" if config.evaluations == 1 else "steps"
    interval = max(1, steps // config.evaluations)
    return TrainingArguments(
        output_dir=str(output),
        max_steps=total,
        per_device_train_batch_size=max(1, config.batch_size // config.gradient_accumulation_steps),
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=math.ceil(config.warmup_ratio * total),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=device.type == "cpu",
        seed=seed,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy=when if validation else "no",
        eval_steps=interval,
        save_strategy=when if keeps else "no",
        save_steps=interval,
        save_only_model=not config.resumable,
        load_best_model_at_end=config.load_best_model_at_end and validation,
        metric_for_best_model=f"eval_{task.primary}",
        greater_is_better=True,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        average_tokens_across_devices=False,
    )


def by_progress(config: TrainConfig, optimizer: Any, progress: Callable[[], float]) -> Any:
    """A learning rate that is a function of `progress` in [0, 1], in the shape that `config.lr_scheduler_type` has over steps.

    Raises:
        ConfigError: that scheduler is no function of the step alone.
    """
    fine = 100_000  # steps that the shape is read at
    warmup = math.ceil(config.warmup_ratio * fine)
    shape = get_scheduler(config.lr_scheduler_type, optimizer, num_warmup_steps=warmup, num_training_steps=fine)
    if not isinstance(shape, LambdaLR):
        raise ConfigError(
            f"train.lr_scheduler_type: {config.lr_scheduler_type!r} cannot follow train.token_budget: use linear, cosine or constant"
        )
    # all groups have the same shape; plain functions are left out of the scheduler's state
    return LambdaLR(optimizer, lambda _: shape.lr_lambdas[0](int(progress() * fine)))
