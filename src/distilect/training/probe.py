"""The student as selectors may look at it between steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from distilect.data import Encoded, row_keys, scoring_batches
from distilect.errors import RunError
from distilect.evaluation.modes import eval_mode
from distilect.knowledge import StudentOutputs
from distilect.knowledge.labels import label_loss
from distilect.models import autocast
from distilect.selection import Look, Passes, Pull
from distilect.signals import TeacherSignals

if TYPE_CHECKING:
    from distilect.training.trainer import DistillationTrainer


class TrainerProbe:
    """`selection.Probe` for a trainer: rows are named by identity; every row that is run is counted.

    Equal texts share an identity, and their logits are the same.
    """

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.trainer = trainer
        self.rows = trainer.keys

    @cached_property
    def order(self) -> np.ndarray:
        """int64 [N]: positions by ascending identity; 16 bytes a row that only selectors which look at rows ask for."""
        return np.argsort(self.rows.numpy(), kind="stable")

    @cached_property
    def sorted(self) -> np.ndarray:
        """int64 [N]."""
        return self.rows.numpy()[self.order]

    def positions(self, rows: Tensor) -> np.ndarray:
        """int64 [n]: where the rows stand in the training table."""
        found: np.ndarray = self.order[np.searchsorted(self.sorted, rows.cpu().numpy())]
        return found

    @property
    def progress(self) -> float:
        """Share of the training that is done."""
        return self.trainer.progress

    def look(self, rows: Tensor) -> Look:
        """See `selection.Probe`: student, teachers and losses on rows of train, without dropout."""
        trainer = self.trainer
        positions = self.positions(rows)
        trainer.count_probe(trainer.rows.encoded.lengths[positions])
        parts = scoring_batches(trainer.rows.encoded.lengths[positions], self._max_tokens())
        with eval_mode(trainer.model, trainer.knowledge), torch.no_grad():
            found = trainer.together.share_out(len(parts), lambda n: self._seen(positions[parts[n]]))
        whole = {name: torch.cat([one[name] for one in found]) for name in found[0]}
        pooled = [whole[f"teacher {k}"].mean(0) for k in range(len(whole) - 2)]
        return Look(
            student=whole["student"].mean(0),
            teachers=torch.cat(pooled) if pooled else torch.zeros(0),
            losses=whole["losses"].nanmean(0),
        )

    def _seen(self, positions: np.ndarray) -> dict[str, Tensor]:
        """What a look wants of some rows, [n, …] each, on the CPU: `student`, `losses`, and `teacher K` where a selector wants it."""
        student, said, losses = self._losses(positions)
        assert student.hidden is not None
        cls = zip(said.fields, self.trainer.method.teacher_cls, strict=False) if said is not None else ()
        return {
            "student": student.at_cls(len(student.hidden) - 1).cpu(),
            "losses": losses.cpu(),
            **{f"teacher {k}": fields[name].float().cpu() for k, (fields, name) in enumerate(cls)},
        }

    def pull(self, rows: Tensor, limit: int) -> Pull:
        """See `selection.Probe`. Gradients are held one per kind: M + 1 times the student's size in memory, on rank 0 alone.

        Raises:
            RunError: the student is sharded: no process holds a whole gradient.
        """
        trainer = self.trainer
        if trainer.is_fsdp_enabled:
            raise RunError(
                "this method compares gradients of the whole student (measure: virtual), which is sharded by FSDP: "
                "set measure: phase, or launch without FSDP"
            )
        positions, validation = self.positions(rows), self._validation_rows(limit)
        for encoded, some in ((trainer.rows.encoded, positions), (trainer.rows.validation_encoded, validation)):
            trainer.count_probe(encoded.lengths[some], 3)  # a backward pass costs two forward passes
        found = trainer.together.by_main(lambda: self._products(positions, validation))
        return Pull(found["gram"], found["toward"], float(found["length"]))

    def _products(self, positions: np.ndarray, validation: np.ndarray) -> dict[str, Tensor]:
        """What a `Pull` holds; int64 [n] each: rows of train, and held-out ones."""
        trainer = self.trainer
        weights = [p for p in trainer.model.parameters() if p.requires_grad]
        with eval_mode(trainer.model, trainer.knowledge), torch.enable_grad():
            _, _, losses = self._losses(positions)
            means = losses.nanmean(0)
            kinds = torch.stack([_gradient(mean, weights) for mean in means])  # [M, P]
            inputs = self._inputs(trainer.rows.validation_encoded, validation)
            _, student = self._forward(inputs, hidden=False)
            labels = torch.tensor(trainer.rows.validation.labels[validation]).to(student.logits.device)
            known = ~labels.isnan() if labels.is_floating_point() else labels != -100
            target = _gradient(label_loss(student.logits, labels)[known].mean(), weights)
        gram, toward = (kinds @ kinds.T).double().cpu(), (kinds @ target).double().cpu()
        return {"gram": gram, "toward": toward, "length": target.norm().double().cpu()}

    def _losses(self, positions: np.ndarray) -> tuple[StudentOutputs, TeacherSignals | None, Tensor]:
        """A pass over rows of train: the student, what teachers say, and float32 [n, M]: each kind's loss, NaN where it is silent."""
        trainer, source = self.trainer, self.trainer.source
        _, student = self._forward(self._inputs(trainer.rows.encoded, positions), hidden=True)
        device = student.logits.device
        labels = trainer.row_labels[torch.from_numpy(positions)].to(device)
        said = None
        if source is not None:
            fields = trainer.method.looked_at(source.num_teachers)
            said = source.fetch(trainer.rows.table, positions, fields).to(device)
        silent = labels.isnan() if labels.is_floating_point() else labels == -100
        columns = []
        for kind in trainer.method.knowledge:
            if kind.asks_teachers:
                columns.append(kind(student, said, labels).mean(1))  # [n, K]: all teachers alike
            else:
                columns.append(kind(student, None, labels).masked_fill(silent, torch.nan))
        return student, said, torch.stack(columns, dim=1)

    def _forward(self, inputs: dict[str, Tensor], hidden: bool) -> tuple[Any, StudentOutputs]:
        trainer = self.trainer
        with autocast(trainer.config.precision, trainer.args.device):
            return trainer.student_outputs(trainer.model, inputs, hidden)

    def _inputs(self, encoded: Encoded, positions: np.ndarray) -> dict[str, Tensor]:
        return {name: value.to(self.trainer.args.device) for name, value in encoded.collate(positions).items()}

    def logits(self, rows: Tensor) -> Tensor:
        """float32 [n, C], on the device of `rows`."""
        return self.run(rows, Passes())[0]

    def run(self, rows: Tensor, passes: Passes) -> Tensor:
        """float32 [P, n, C], on the device of `rows`."""
        return self.run_positions(self.positions(rows), passes).to(rows.device)

    def run_positions(self, positions: np.ndarray, passes: Passes) -> Tensor:
        """float32 [P, n, C] on rows of the training table, int64 [n]."""
        trainer = self.trainer
        trainer.count_probe(trainer.rows.encoded.lengths[positions], passes.count)
        with self._own_draws() if passes.dropout else nullcontext():
            found = [
                trainer.together.predict(
                    trainer.model,
                    trainer.rows.encoded,
                    positions,
                    self._max_tokens(),
                    trainer.config.precision,
                    passes.dropout,
                    partial(self._draw_batch, number) if passes.dropout else _nothing,
                )
                for number in range(passes.count)
            ]
        return torch.from_numpy(np.stack(found))

    def _draw_batch(self, number: int, batch: int) -> None:
        """Dropout masks of one batch of one pass, where several processes share the batches out."""
        torch.manual_seed(self._key(number, batch))

    def _key(self, *more: int) -> int:
        trainer = self.trainer
        key = np.random.SeedSequence([trainer.run_seed % 2**64, trainer.state.global_step, *more])
        return int(key.generate_state(1)[0])

    def _max_tokens(self) -> int:
        """Padded tokens per batch; a processor is a third to a half faster with what stays in its cache."""
        many = 2 * self.trainer.config.max_tokens
        return min(many, 2048) if self.trainer.args.device.type == "cpu" else many

    @contextmanager
    def _own_draws(self) -> Iterator[None]:
        """Dropout masks by (seed, step): the training's own random state is as if nothing had been run."""
        device = self.trainer.args.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self._key())
            yield

    def validation(self, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Logits [n, C] and labels [n] on rows held out of train; the lowest identities, as a file may be sorted by class."""
        trainer = self.trainer
        encoded, labels = trainer.rows.validation_encoded, trainer.rows.validation.labels
        rows = self._validation_rows(limit)
        trainer.count_probe(encoded.lengths[rows])
        found = trainer.together.predict(
            trainer.model, encoded, rows, 2 * trainer.config.max_tokens, trainer.config.precision
        )
        return torch.from_numpy(found), torch.tensor(labels[rows])

    def _validation_rows(self, limit: int | None) -> np.ndarray:
        """int64 [n]: positions, the same ones at every look."""
        return np.argsort(row_keys(self.trainer.rows.validation.ids), kind="stable")[:limit]


def _nothing(number: int) -> None:
    """Before a batch without draws."""


def _gradient(value: Tensor, weights: list[Tensor]) -> Tensor:
    """float32 [P]: the gradient of a mean loss by all weights; 0 where it is a constant (a kind without a row that speaks)."""
    if not value.requires_grad or not bool(torch.isfinite(value)):
        return torch.zeros(sum(p.numel() for p in weights), device=weights[0].device)
    found = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(weights, found, strict=True)]
    )
