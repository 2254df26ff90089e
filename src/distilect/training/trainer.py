"""`DistillationTrainer`: `transformers.Trainer` with the distillation step, its batches and its extra state.

A batch goes through `get_batch_samples` → `training_step` → `compute_loss` → `distillation_loss` (step.py) → `_after_step`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, set_seed

from distilect import ranks
from distilect.config import TrainConfig
from distilect.data import EpochBatchSampler, Window, token_budget_splits
from distilect.errors import ConfigError, RunError, TeacherError
from distilect.knowledge import StudentOutputs
from distilect.models import default_device, has_adapters
from distilect.selection import Method, PlannedRows, Selector, StepView
from distilect.signals import SignalSource, TeacherSignals
from distilect.tasks import has_label
from distilect.training import distributed
from distilect.training.arguments import criterion, refuse_data_parallel, refuse_sharded, training_arguments
from distilect.training.callbacks import Hooks, LastStepEvaluation, Patience, Preemption
from distilect.training.counts import Counts
from distilect.training.preselection import Preselection
from distilect.training.probe import StudentProbe
from distilect.training.projections import Projections
from distilect.training.records import StepRecords
from distilect.training.resumable import ResumableTrainer
from distilect.training.rows import Batch, Positions, TrainingRows, position_of
from distilect.training.step import distillation_loss
from distilect.training.student import StudentPass


class DistillationTrainer(ResumableTrainer):
    """Train a student by the formula of `training.step`.

    The model handed to the Trainer is the plain student; teachers are behind `source`, and projections of the kinds of
    knowledge are optimised beside it. Checkpoints hold the student as a normal Hugging Face folder plus one file with
    selectors, projections and counts.

    Args:
        model: the student.
        rows: what it is trained on.
        method: selectors and knowledge.
        source: teacher outputs; None for methods that ask no teacher.
        config: how it is trained.
        output: folder for checkpoints.
        seed: of data order, dropout and every draw.
        vectors: a frozen encoder's row vectors (as "logits" of a single teacher), where a selector needs them.
        callbacks: further `TrainerCallback`s.
        preemption: stops the training on SIGTERM; None: nothing does.
        saves: evaluate on the validation split and write checkpoints; not so in throw-away trainings.
    """

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
        preemption: Preemption | None = None,
        saves: bool = True,
    ) -> None:
        if isinstance(model, nn.DataParallel):
            refuse_data_parallel(max(2, len(model.device_ids)))
        ranks.start()
        self.rows, self.method, self.source, self.vectors = rows, method, source, vectors
        self.config, self.run_seed, self.preemption = config, seed, preemption
        self.fields = method.fields(source.num_teachers) if source is not None else []
        self.needs_pooled = any(selector.needs.pooled for selector in method.selectors.values())
        self.needs_features = any(selector.needs.features for selector in method.selectors.values())
        self.needs_hidden = self.needs_pooled or any(kind.needs_hidden() for kind in method.knowledge)
        self.projections = Projections(method.knowledge, default_device())
        self.student = StudentPass.of(model, method.knowledge, rows.cls_token_id)
        self.records = StepRecords(rows, method, tuple(source.names) if source is not None else ())
        self.counts = Counts()
        self.of_all_ranks = Counts()  # tokens, the running step's included; the same on each rank
        self.preselection = Preselection(rows, method)
        self.sampler = batch_sampler(rows, method, config, seed)
        self.units_in_step, self.labelled_share = 1, 1.0  # the share of these units that have a label
        # units and losses [b, M] of this batch's parts, for messages
        self.part_losses: list[tuple[NDArray[np.int64], Tensor]] = []
        self.bad_loss = ""  # the message of a loss that is no number
        steps_per_epoch = len(self.sampler) // config.gradient_accumulation_steps
        evaluates = saves and len(rows.validation) > 0
        super().__init__(
            model=model,
            args=training_arguments(config, rows.task, steps_per_epoch, output, seed, evaluates=evaluates, saves=saves),
            train_dataset=Positions(len(rows)),
            eval_dataset=Positions(len(rows.validation)),
            data_collator=rows.batch,
        )
        refuse_data_parallel(self.args.n_gpu)
        if self.is_fsdp_enabled:
            refuse_sharded(rows.encoded.causal, has_adapters(model))
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True  # older Trainers divide by accumulation unless this is set
        self.probe = StudentProbe(
            self.student,
            self.projections.modules,
            rows,
            method,
            source,
            config.precision,
            config.max_tokens,
            seed,
            count=self._count_probe,
            training_progress=lambda: self.progress,
            training_step=lambda: self.state.global_step,
            sharded=self.is_fsdp_enabled,
            vectors=vectors,
        )
        self.add_callback(
            Hooks(
                on_epoch_begin=self._begin_epoch,
                on_step_begin=self._begin_step,
                on_step_end=self._after_step,
                on_pre_optimizer_step=self._before_optimizer_step,
            )
        )
        for callback in [*(self._stopping() if saves else []), *(callbacks or [])]:
            self.add_callback(callback)
        if preemption is not None:
            preemption.steps_per_epoch, preemption.budget_spent = steps_per_epoch, lambda: self.budget_spent
            self.add_callback(preemption)

    def _stopping(self) -> list[TrainerCallback]:
        """Callbacks that evaluate once more at the end and stop early; both need a validation split."""
        if not len(self.rows.validation):
            if self.config.early_stopping_patience is not None:
                raise ConfigError(
                    "train.early_stopping_patience is set, but there is no validation split: set data.validation_size or data.validation"
                )
            return []
        found: list[TrainerCallback] = [LastStepEvaluation()] if self.config.evaluations > 1 else []
        if self.config.early_stopping_patience is not None:
            found.append(Patience(self.config.early_stopping_patience, criterion(self.config, self.rows.task)))
        return found

    # ---- a step, in the order of its stages ------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches by length; already cut for this rank, so that accelerate must not shard them again."""
        return DataLoader(self.train_dataset, batch_sampler=self.sampler, collate_fn=self.rows.batch)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Any]:
        """The accumulated batches of one optimiser step, without the rows that leave it before the training pass.

        Also counts the units that the step trains on, and those of them that have a label, over all batches and ranks: the
        denominators of its means.
        """
        batches = list(islice(epoch_iterator, num_batches))
        several = ranks.world() > 1
        if batches and self.preselection.needed:
            of_all_ranks = distributed.positions_of_all if several else None
            batches, left_out = self.preselection(batches, self.probe.run_positions, self.view_of, of_all_ranks)
            if left_out is not None:
                self.records.leave_out(left_out.to(self.args.device), self.sampler.epoch)
        trained = [self._trained(batch) for batch in batches]
        units, tokens = sum(map(len, trained)), sum(batch.tokens for batch in batches)
        # of the table, not of the batch: its labels are on the device, which would be waited for
        labelled = sum(int(has_label(self.rows.table.labels[own]).sum()) for own in trained)
        if several:
            asked = self.preemption is not None and self.preemption.asked
            units, tokens, labelled, stop = distributed.sum_over_ranks(units, tokens, labelled, int(asked))
            if self.preemption is not None:
                self.preemption.stops = stop > 0
        self.of_all_ranks.tokens += tokens
        self.units_in_step = max(units, 1)
        self.labelled_share = max(labelled, 1) / self.units_in_step
        # gradients are synchronised in the last batch's backward pass: empty ones come first, and an idle row stands in for none
        batches = sorted(batches, key=lambda batch: len(batch) > 0)
        if batches and not len(batches[-1]):
            batches[-1] = self.rows.idle_batch()
        return batches, torch.tensor(self.units_in_step)

    def _trained(self, batch: Batch) -> NDArray[np.int64]:
        """The units of a batch that the step will train on, places in the table's labels."""
        return batch.units if self.method.rows.trains_rest else batch.trained

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Run one batch, in parts where it holds more padded tokens than `max_tokens`; the loss is the same."""
        parts = self._parts(inputs)
        self.part_losses = []
        total = torch.zeros((), device=self.args.device)
        for number, part in enumerate(parts, start=1):
            with contextlib.nullcontext() if number == len(parts) else self.accelerator.no_sync(model):
                total = total + super().training_step(model, part, num_items_in_batch)
        return self._checked(total)

    def _parts(self, batch: Batch) -> list[Batch]:
        if not len(batch) or batch.idle:
            parts = [batch] if batch.idle else []
        else:
            self.counts.tokens += batch.tokens
            self.counts.rows += len(batch)
            splits = token_budget_splits(batch.lengths, self.config.max_tokens)
            parts = [batch] if len(splits) == 1 else [self.rows.part(batch, index) for index in splits]
        return distributed.aligned_parts(parts, self.rows) if self._in_step else parts

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The formula on one part of a batch, divided by the units of the whole optimiser step."""
        batch: Batch = inputs.to(self.args.device)
        signals = self._before_pass(batch)
        named = None if signals is None else signals.candidates
        student = self.student(model, batch.inputs, self.needs_hidden, self.needs_features, candidates=named)
        if batch.idle:
            return self._idle_loss(student)
        pooled = student.at_cls(len(student.hidden) - 1).detach() if self.needs_pooled and student.hidden else None
        view = self.view_of(batch, student.logits.detach(), pooled, student.features)
        selected = batch.selected
        if selected is None and self._in_step and self.method.rows.compares:
            selected = distributed.decide_rows(self.method.rows, view)
        ask = partial(self._ask, batch) if signals is None else signals.of_units
        result = distillation_loss(student, view, self.method, ask, selected, self.labelled_share)
        self.records.add(batch, view, result, self.labelled_share)
        self.part_losses.append((batch.units, result.losses))
        return result.loss * (self.args.world_size / self.units_in_step)  # gradients are averaged over ranks

    def _idle_loss(self, student: StudentOutputs) -> Tensor:
        """0, with a gradient of zeros: this rank has no rows in this part."""
        if self._in_step and self.method.rows.compares:
            nobody = self.rows.batch([], inputs=False).to(student.logits.device)
            features = None if student.features is None else student.features[:0]
            view = self.view_of(nobody, student.logits[:0].detach(), features=features)
            distributed.decide_rows(self.method.rows, view)
        return student.logits.sum() * 0.0

    @property
    def _in_step(self) -> bool:
        """Whether all ranks have to run the same number of parts: sharded parameters, or rows compared across ranks."""
        return ranks.world() > 1 and (self.is_fsdp_enabled or self.method.rows.compares)

    def view_of(
        self, batch: Batch, logits: Tensor, pooled: Tensor | None = None, features: Tensor | None = None
    ) -> StepView:
        """Some units of this step as selectors see them; `logits` [U, C], `pooled` [U, H], `features` [U, H]."""
        vectors = None
        if self.vectors is not None:
            vectors = self.vectors.fetch(self.rows.table, batch.positions, [[]]).logits[:, 0].to(logits.device)
        position = position_of(self.rows.table, batch.units)
        rows = None
        if batch.of_rows is not None:
            rows = self.rows.row_keys[torch.from_numpy(batch.positions[batch.of_rows.owners])].to(logits.device)
        return StepView(
            keys=batch.keys,
            labels=batch.labels,
            student=logits,
            pooled=pooled,
            teachers=None,
            progress=self.progress,
            epoch=self.sampler.epoch,
            step=self.state.global_step,
            seed=self.run_seed,
            vectors=vectors,
            passes=batch.passes,
            features=features,
            position=None if position is None else position.to(logits.device),
            rows=rows,
        )

    def _before_pass(self, batch: Batch) -> TeacherSignals | None:
        """What the teachers of a language model say of all units of a part: the tokens that they name are the student's classes.

        None where the student's classes are known, or no teacher is asked.
        """
        if self.source is None or not self.rows.encoded.causal:
            return None
        if batch.idle:  # its classes count, as all ranks look at the same ones; its row does not
            return self.source.fetch(self.rows.table, batch.positions, self.fields).to(batch.keys.device)
        return self._fetch(batch.positions).to(batch.keys.device)

    def _ask(self, batch: Batch, index: Tensor) -> TeacherSignals:
        """Teacher outputs on some units of a part; `index` int64 [b] within it."""
        units, places = index.cpu().numpy(), None
        if batch.of_rows is not None:
            units, places = batch.of_rows.locate(units)
        found = self._fetch(batch.positions[units])
        return (found if places is None else found.of_units(torch.from_numpy(places))).to(index.device)

    def _fetch(self, positions: NDArray[np.int64]) -> TeacherSignals:
        """Teacher outputs on some rows."""
        assert self.source is not None
        self.counts.add("teacher_rows", len(positions) * self.source.num_teachers)
        try:
            return self.source.fetch(self.rows.table, positions, self.fields)
        except TeacherError as error:
            raise RunError(
                f"step {self.state.global_step + 1}, {_named(positions)}: {error}; the last checkpoint is kept"
            ) from None

    def _checked(self, loss: Tensor) -> Tensor:
        """Stop at once on a loss that is no number: the last checkpoint is still good. Waits for the device, once per batch.

        Raises:
            RunError: names the step and the rows; with several ranks when they meet, at the end of the step.
        """
        if torch.isfinite(loss):
            return loss
        bad = [units[~torch.isfinite(losses.cpu()).all(1).numpy()] for units, losses in self.part_losses]
        positions = self.rows.table.locate(np.concatenate(bad))[0]
        self.bad_loss = (
            f"the loss is {float(loss)} at step {self.state.global_step + 1}, "
            f"{_named(positions) if len(positions) else 'the mean over its rows'}: "
            "lower train.learning_rate or set train.precision: fp32; the last checkpoint is kept"
        )
        if ranks.world() == 1:
            raise RunError(self.bad_loss)
        return loss

    def _before_optimizer_step(self, state: Any, control: Any) -> None:
        if ranks.world() > 1:
            distributed.raise_first(self.bad_loss)
        self.projections.step(self.args.max_grad_norm, self._get_learning_rate())

    def _after_step(self, state: Any, control: Any) -> None:
        """The selectors learn from the step that is over."""
        losses = self.records.take_losses()
        if ranks.world() > 1:
            if losses is not None:
                losses = self.accelerator.reduce(losses.to(self.args.device))
            distributed.synchronise(self._observing(), self.args.device)
        self.probe.step_losses = None if losses is None else (losses[0], losses[1])
        for selector in self.method.selectors.values():
            selector.learn(self.probe)
        self.average_weights()
        if self.budget_spent:
            control.should_training_stop = True
            if self.config.evaluations > 1:  # otherwise the epoch's end evaluates and saves
                control.should_evaluate = control.should_save = True

    def _observing(self) -> list[Selector]:
        """Selectors that saw their rank's rows only: all but one that chooses before the step, from the rows of all ranks."""
        whole = self.method.rows if self.method.rows.before_step else None
        return [selector for selector in self.method.selectors.values() if selector is not whole]

    # ---- around the steps ------------------------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train from the run's seed, whatever drew random numbers since the trainer was built; each rank drops out by its own."""
        seeds = np.random.SeedSequence([self.run_seed % 2**64, ranks.rank()])
        set_seed(self.run_seed if ranks.is_main() else int(seeds.generate_state(1)[0]))
        self.projections.start()
        return super().train(*args, **kwargs)

    def _begin_epoch(self, state: Any, control: Any) -> None:
        self.student.model = self.model  # the Trainer may have put another one in its place
        epoch, done = divmod(state.global_step, len(self.sampler) // self.config.gradient_accumulation_steps)
        self.sampler.set_epoch(epoch, done)
        for selector in self.method.selectors.values():
            selector.begin_epoch(self.probe, epoch)

    def _begin_step(self, state: Any, control: Any) -> None:
        self.projections.begin_step(self.progress)

    def _count_probe(self, lengths: NDArray[np.integer], passes: int) -> None:
        """Count passes without gradient over rows of so many tokens, of all ranks together: each of them says the same."""
        tokens = passes * int(lengths.sum())
        self.of_all_ranks.add("forward_tokens", tokens)
        if ranks.is_main():  # whose sums are those of all in the end
            self.counts.add("probed_rows", passes * len(lengths))
            self.counts.add("forward_tokens", tokens)


def _named(positions: NDArray[np.int64]) -> str:
    """Rows of train, for messages."""
    return f"rows {positions[:8].tolist()}{'…' if len(positions) > 8 else ''} of train (from 0)"


def batch_sampler(rows: TrainingRows, method: Method, config: TrainConfig, seed: int) -> EpochBatchSampler:
    """Whole optimiser steps, cut into this rank's parts; the rows that a planning selector chose, if there is one."""
    planner = method.rows if isinstance(method.rows, PlannedRows) else None
    window = None if planner is None else planner.window
    keys = rows.row_keys.numpy()

    def plan(epoch: int, of: Window) -> NDArray[np.int64]:
        assert planner is not None
        return planner.plan(keys, epoch, seed, None if window is None else of)

    return EpochBatchSampler(
        rows.encoded.lengths,
        batch_size=config.batch_size,
        seed=seed,
        group=config.group_by_length,
        micro=config.gradient_accumulation_steps,
        rank=ranks.rank(),
        world=ranks.world(),
        rows_for_window=None if planner is None else plan,
        rows_per_epoch=None if planner is None else planner.planned(len(rows)),
        window=window,
    )
