"""The student as selectors may look at it between steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distilect import ranks
from distilect.data import row_keys, scoring_batches
from distilect.errors import RunError
from distilect.evaluation import predict
from distilect.evaluation.modes import eval_mode
from distilect.knowledge import StudentOutputs
from distilect.knowledge.labels import label_loss
from distilect.models import autocast, sampling
from distilect.selection import KindGradients, KnownRows, Look, Method, Passes, draw_rows
from distilect.signals import SignalSource, TeacherSignals, fit_calibration
from distilect.tasks import has_label
from distilect.training.distributed import predict_shared, share_out
from distilect.training.rows import TrainingRows
from distilect.training.student import StudentPass


@dataclass
class StudentProbe:
    """`selection.Probe`: units (rows, or words) are named by identity; every row that is run is counted.

    Equal texts share an identity, and their logits are the same.

    Attributes:
        student: its forward pass.
        projections: of the kinds of knowledge.
        rows: of train and validation.
        source: teacher outputs; None for methods that ask no teacher.
        vectors: a frozen encoder's row vectors, where a selector needs them.
        precision, max_tokens: of a training step.
        seed: of the run.
        count: called with lengths (int [n]) and a number of passes over rows of so many tokens, of all ranks together.
        training_progress, training_step: share of training that is done; optimiser steps done.
        sharded: the student's parameters are (FSDP).
    """

    student: StudentPass
    projections: nn.Module
    rows: TrainingRows
    method: Method
    source: SignalSource | None
    precision: str
    max_tokens: int
    seed: int
    count: Callable[[NDArray[np.integer], int], None]
    training_progress: Callable[[], float]
    training_step: Callable[[], int]
    sharded: bool = False
    vectors: SignalSource | None = None
    step_losses: tuple[Tensor, Tensor] | None = None
    _credit: tuple[int, Tensor, Tensor, Tensor | None] | None = None

    @property
    def keys(self) -> Tensor:
        """int64 [N]."""
        return self.rows.keys

    @property
    def progress(self) -> float:
        return self.training_progress()

    @property
    def device(self) -> torch.device:
        return next(self.student.model.parameters()).device  # type: ignore[no-any-return]

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """int64 [N]: positions by ascending identity; 16 bytes a row that only selectors which look at rows ask for."""
        return np.argsort(self.keys.numpy(), kind="stable")

    @cached_property
    def sorted(self) -> NDArray[np.int64]:
        """int64 [N]."""
        return self.keys.numpy()[self.order]

    def units(self, keys: Tensor) -> NDArray[np.int64]:
        """int64 [n]: where the units stand in the training table's labels."""
        found: NDArray[np.int64] = self.order[np.searchsorted(self.sorted, keys.cpu().numpy())]
        return found

    # ---- logits ----------------------------------------------------------------------------------------------------

    def logits(self, keys: Tensor) -> Tensor:
        """float32 [n, C], on the device of `keys`."""
        return self.run(keys, Passes())[0]

    def run(self, keys: Tensor, passes: Passes) -> Tensor:
        """float32 [P, n, C], on the device of `keys`; of words their whole rows are run."""
        rows, places = self.rows.table.locate(self.units(keys))
        return self.run_positions(rows, passes)[:, torch.from_numpy(places)].to(keys.device)

    def run_rows(self, keys: Tensor, passes: Passes) -> tuple[Tensor, Tensor]:
        """See `selection.Probe`."""
        rows = self._rows(keys)
        return self.run_positions(rows, passes), self._owners(rows)

    def known(self, keys: Tensor) -> KnownRows:
        """See `selection.Probe`."""
        rows = self._rows(keys)
        units = torch.from_numpy(self.rows.table.unit_index(rows))
        vectors = None
        if self.vectors is not None:
            vectors = self.vectors.fetch(self.rows.table, rows, [[]]).logits[:, 0].cpu()
        tokens = torch.from_numpy(self.rows.encoded.lengths[rows].astype(np.int64))
        return KnownRows(self.rows.keys[units], self.rows.labels[units], vectors, self._owners(rows), tokens)

    def _owners(self, rows: NDArray[np.int64]) -> Tensor:
        """int64 [U]: the row of each unit, a place in `rows`."""
        units = self.rows.table.units
        return torch.from_numpy(np.arange(len(rows)) if units is None else units.take(rows).owners)

    def _rows(self, keys: Tensor) -> NDArray[np.int64]:
        """int64 [n]: where rows of these identities stand in the training table."""
        if self.rows.table.units is None:
            return self.units(keys)
        own = self.rows.row_keys.numpy()
        order = np.argsort(own, kind="stable")
        return np.asarray(order[np.searchsorted(own[order], keys.cpu().numpy())])

    def run_positions(self, positions: NDArray[np.int64], passes: Passes) -> Tensor:
        """float32 [P, u, C] on the units of rows of the training table, int64 [n]; on the CPU."""
        self.count(self.rows.encoded.lengths[positions], passes.count)
        model = self.student.model
        differ = passes.dropout and passes.count > 1
        with self._own_draws() if passes.dropout else nullcontext(), sampling(model) if differ else nullcontext():
            found = [self._pass(number, positions, passes.dropout) for number in range(passes.count)]
        return torch.from_numpy(np.stack(found))

    def _pass(self, number: int, positions: NDArray[np.int64], dropout: bool) -> NDArray[np.float32]:
        """float32 [n, C]: one pass over rows of train."""
        model, encoded, most = self.student.model, self.rows.encoded, self._tokens_at_once()
        named = self._candidates if encoded.causal else None
        if ranks.world() == 1:
            return predict(
                model,
                encoded,
                rows=positions,
                max_tokens=most,
                precision=self.precision,
                dropout=dropout,
                candidates=named,
            )
        draw = partial(self._draw_batch, number) if dropout else _nothing
        return predict_shared(model, encoded, positions, most, self.precision, dropout, draw, named)

    def _candidates(self, positions: NDArray[np.int64]) -> Tensor:
        """int64 [u, m]: the classes of a language model at the units of rows of train."""
        if self.source is None:
            tokens, units = self.rows.table.tokens, self.rows.table.units
            assert tokens is not None and units is not None
            return torch.from_numpy(tokens.gold_of(units, positions).astype(np.int64)).unsqueeze(1)
        found = self.source.fetch(self.rows.table, positions, [[] for _ in self.source.names]).candidates
        assert found is not None
        return found

    @contextmanager
    def _own_draws(self) -> Iterator[None]:
        """Dropout masks by (seed, step): the training's own random state is as if nothing had been run."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self._draw_seed())
            yield

    def _draw_batch(self, number: int, batch: int) -> None:
        """Dropout masks of one batch of one pass, where several ranks share the batches out."""
        torch.manual_seed(self._draw_seed(number, batch))

    def _draw_seed(self, *more: int) -> int:
        key = np.random.SeedSequence([self.seed % 2**64, self.training_step(), *more])
        return int(key.generate_state(1)[0])

    def _tokens_at_once(self) -> int:
        """Padded tokens per batch; a processor is a third to a half faster with what stays in its cache."""
        many = 2 * self.max_tokens
        return min(many, 2048) if self.device.type == "cpu" else many

    # ---- validation rows -------------------------------------------------------------------------------------------

    def validation(self, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Logits [u, C] and labels [u] on validation rows; the lowest identities, as a file may be sorted by class."""
        encoded, positions = self.rows.validation_encoded, self._validation_positions(limit)
        self.count(encoded.lengths[positions], 1)
        most = 2 * self.max_tokens
        if ranks.world() == 1:
            logits = predict(self.student.model, encoded, rows=positions, max_tokens=most, precision=self.precision)
        else:
            logits = predict_shared(self.student.model, encoded, positions, most, self.precision)
        if encoded.causal:  # without the token itself, which is no logit
            logits = logits[:, :-1]
        units = self.rows.validation.unit_index(positions)
        return torch.from_numpy(logits), torch.tensor(self.rows.validation.labels[units])

    def _validation_positions(self, limit: int | None) -> NDArray[np.int64]:
        """int64 [n]: the same ones at every look."""
        return np.argsort(row_keys(self.rows.validation.ids), kind="stable")[:limit]

    # ---- credit rows -----------------------------------------------------------------------------------------------

    def credit(self, keys: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `selection.Probe`. Selectors that look at the same moment share one pass."""
        step = self.training_step()
        if self._credit is None or self._credit[0] != step or not torch.equal(self._credit[1], keys):
            self._credit = (step, keys, *self._run_credit(keys))
        return self._credit[2], self._credit[3]

    def _run_credit(self, keys: Tensor) -> tuple[Tensor, Tensor | None]:
        encoded, table, units = self.rows.encoded, self.rows.table, None
        if self.rows.credit is not None and self.rows.credit_encoded is not None:
            encoded, table, own = self.rows.credit_encoded, self.rows.credit, self.rows.credit.unit_keys()
            order = np.argsort(own, kind="stable")
            units = order[np.searchsorted(own[order], keys.numpy())]
        positions, places = table.locate(self.units(keys) if units is None else units)
        self.count(encoded.lengths[positions], 1)
        batches = scoring_batches(encoded.lengths[positions], self._tokens_at_once())
        needed = any(selector.needs.features for selector in self.method.selectors.values())

        def work(number: int) -> dict[str, Tensor]:
            inputs = encoded.collate(positions[batches[number]])
            inputs = {name: value.to(self.device) for name, value in inputs.items()}
            with autocast(self.precision, self.device):
                found = self.student(self.student.model, inputs, hidden=False, features=needed, check=True)
            read = {} if found.features is None else {"features": found.features.cpu()}
            return {"logits": found.logits.cpu(), **read}

        whole, order = self._joined(len(batches), work), np.concatenate(batches)
        if table.units is not None:
            order = table.units.take(positions).of(order)
        back = np.argsort(order)[places]
        return whole["logits"][back], whole["features"][back] if needed else None

    # ---- hidden states and losses ----------------------------------------------------------------------------------

    def look(self, keys: Tensor) -> Look:
        """See `selection.Probe`: student, teachers and losses on rows of train, without dropout."""
        positions = self.rows.table.locate(self.units(keys))[0]
        lengths = self.rows.encoded.lengths[positions]
        self.count(lengths, 1)
        batches = scoring_batches(lengths, self._tokens_at_once())

        def work(number: int) -> dict[str, Tensor]:
            return self._seen(positions[batches[number]])

        whole = self._joined(len(batches), work)
        pooled = [whole[f"teacher {k}"].mean(0) for k in range(len(whole) - 2)]
        return Look(
            student=whole["student"].mean(0),
            teachers=torch.cat(pooled) if pooled else torch.zeros(0),
            losses=whole["losses"].nanmean(0),
        )

    def _joined(self, count: int, work: Callable[[int], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What `work(n)` finds of so many batches, one after the other; several ranks share them out."""
        with eval_mode(self.student.model, self.projections), torch.no_grad():
            if ranks.world() == 1:
                found = [work(number) for number in range(count)]
            else:
                found = share_out(count, work, sharded=self.sharded)
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}

    def _seen(self, positions: NDArray[np.int64]) -> dict[str, Tensor]:
        """What a look needs of the units of some rows, [u, …] each, on the CPU: `student`, `losses`, and `teacher K` where a selector needs it."""
        student, signals, losses = self._losses(positions)
        assert student.hidden is not None
        cls = zip(signals.fields, self.method.teacher_cls, strict=False) if signals is not None else ()
        return {
            "student": student.at_cls(len(student.hidden) - 1).cpu(),
            "losses": losses.cpu(),
            **{f"teacher {k}": fields[name].float().cpu() for k, (fields, name) in enumerate(cls)},
        }

    def _losses(self, positions: NDArray[np.int64]) -> tuple[StudentOutputs, TeacherSignals | None, Tensor]:
        """A pass over rows of train: the student, teacher outputs, and float32 [n, M]: each kind's loss, NaN where it does not apply."""
        inputs = {name: value.to(self.device) for name, value in self.rows.encoded.collate(positions).items()}
        signals = None
        if self.source is not None:
            fields = self.method.all_fields(self.source.num_teachers)
            signals = self.source.fetch(self.rows.table, positions, fields).to(self.device)
        named = None if signals is None else signals.candidates
        with autocast(self.precision, self.device):
            student = self.student(self.student.model, inputs, hidden=True, candidates=named)
        device = student.logits.device
        labels = self.rows.labels[torch.from_numpy(self.rows.table.unit_index(positions))].to(device)
        columns = []
        for kind in self.method.knowledge:
            if kind.asks_teachers:
                found = kind(student, signals, labels)  # [n, K]: all teachers alike
                columns.append((student.per_unit(found) if kind.per_row else found).mean(1))
            else:
                columns.append(kind(student, None, labels).masked_fill(~has_label(labels), torch.nan))
        return student, signals, torch.stack(columns, dim=1)

    # ---- gradients of the kinds ------------------------------------------------------------------------------------

    def kind_gradients(self, keys: Tensor, limit: int) -> KindGradients:
        """See `selection.Probe`. The loss is that of the calibrated outputs. Rank 0 alone holds M + 1 gradients of the student's size.

        Raises:
            RunError: the student is sharded: no process holds a whole gradient.
        """
        if self.sharded:
            raise RunError(
                "this method compares gradients of the whole student, which FSDP shards: launch without FSDP, or set loss_weights: fixed"
            )
        positions = self.rows.table.locate(self.units(keys))[0]
        own = torch.from_numpy(row_keys(self.rows.validation.ids))
        drawn = draw_rows(own, limit, self.seed, self.training_step(), "look").numpy()
        held_out = np.flatnonzero(np.isin(own.numpy(), drawn))
        self.count(
            self.rows.encoded.lengths[positions], 1 + 2 * len(self.method.kinds)
        )  # a backward pass costs two forward passes
        self.count(self.rows.validation_encoded.lengths[held_out], 3)
        found = ranks.gather(self._products(positions, held_out) if ranks.is_main() else {})[0]
        return KindGradients(found["gram"], found["toward"], float(found["length"]))

    def _products(self, positions: NDArray[np.int64], held_out: NDArray[np.int64]) -> dict[str, Tensor]:
        """What `KindGradients` holds; int64 [n] each: rows of train, and validation rows."""
        weights = [p for p in self.student.model.parameters() if p.requires_grad]
        with eval_mode(self.student.model, self.projections), torch.enable_grad():
            means = self._losses(positions)[2].nanmean(0)
            kinds = torch.stack([_gradient(mean, weights) for mean in means])  # [M, P]
            target = _gradient(self._validation_loss(held_out), weights)  # [P]
        products = {"gram": kinds @ kinds.T, "toward": kinds @ target, "length": target.norm()}
        return {name: value.double().cpu() for name, value in products.items()}

    def _validation_loss(self, positions: NDArray[np.int64]) -> Tensor:
        """Mean label loss of the calibrated outputs, with its graph. At the best temperature the loss does not depend on it to first
        order, so the temperature counts as a constant."""
        table = self.rows.validation
        inputs = {name: v.to(self.device) for name, v in self.rows.validation_encoded.collate(positions).items()}
        with autocast(self.precision, self.device):
            logits = self.student(self.student.model, inputs, hidden=False).logits
        labels = table.labels[table.unit_index(positions)]
        logits = fit_calibration(self.rows.task, logits.detach().cpu().numpy(), labels)(logits)
        gold = torch.from_numpy(labels).to(logits.device)
        known = has_label(gold)
        return label_loss(logits[known], gold[known]).mean()


def _gradient(value: Tensor, weights: list[Tensor]) -> Tensor:
    """float32 [P] by all weights; 0 where no row has the loss."""
    if not value.requires_grad or not bool(torch.isfinite(value)):
        return torch.zeros(sum(p.numel() for p in weights), device=weights[0].device)
    found = torch.autograd.grad(value, weights, retain_graph=True, materialize_grads=True)
    return torch.cat([gradient.flatten().float() for gradient in found])


def _nothing(number: int) -> None:
    """Before a batch without draws."""
