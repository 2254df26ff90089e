"""What the processes of one training do together, so that each of them decides as a single one would.

Gradients are the Trainer's affair (DDP, FSDP2). Here is the rest, in one place, so that no selector knows of ranks:

- A selector sees its rank's rows of a step. Before `after_step` its `observations` are completed by what the other ranks saw, in the
  order of ranks: it learns from the whole step on every rank, and its parameters stay the same everywhere.
- A choice before the step (`FirstLook`) is made over the rows of all ranks, and so is one within it that compares rows of a batch.
- Passes of the student for selectors and evaluation are shared out in the batches that a single process would run, and every rank
  gets all results: they do not depend on the number of ranks.
- Sums for history, selection record and costs are collected on rank 0, which alone writes.

With one process nothing of this runs.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from distilect import ranks
from distilect.data import Encoded, scoring_batches
from distilect.errors import RunError
from distilect.evaluation import predict, run_batches
from distilect.selection import Averages, StepView
from distilect.training.state import from_bytes, to_bytes

if TYPE_CHECKING:
    from distilect.training.trainer import DistillationTrainer

logger = logging.getLogger(__name__)

IDLE = "idle"  # key of a part that only keeps step with the other ranks


class Together:
    """The collective part of one trainer; every method has to be called by all ranks at the same point."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.trainer = trainer
        self.world, self.rank = ranks.world(), ranks.rank()
        # by axis, the selector's lists of observations and how many items of each are of all ranks already
        self.taken: dict[str, list[tuple[list[Any], int]]] = {}
        self.stop = False  # some rank was asked to stop
        self.bad = ""  # what was wrong with a loss of this rank

    # ---- the step --------------------------------------------------------------------------------------------------

    def step_begins(self, rows: int, tokens: int, stop: bool) -> tuple[int, int]:
        """Rows and tokens of the step over all ranks; takes note whether any rank was asked to stop."""
        if self.world == 1:
            self.stop = stop
            return rows, tokens
        found = ranks.gather({"v": torch.tensor([rows, tokens, int(stop)])})
        counts = torch.stack([one["v"] for one in found]).sum(0)
        self.stop = bool(counts[2])
        return int(counts[0]), int(counts[1])

    def positions(self, own: np.ndarray) -> np.ndarray:
        """Rows of the step on all ranks, ascending; `own` int64 [n] are this rank's."""
        if self.world == 1:
            return np.sort(own)
        found = ranks.gather({"v": torch.from_numpy(own)})
        return np.sort(np.concatenate([one["v"].numpy() for one in found]))

    def in_last_part(self, batches: list[dict[str, Tensor]]) -> list[dict[str, Any]]:
        """The parts of a step with empty ones first, and a row of weight 0 where there are none.

        The optimiser needs its zeros, and gradients are exchanged in the last part's backward pass: every rank needs one.
        """
        if not batches or (self.world == 1 and any(len(batch["rows"]) for batch in batches)):
            return batches
        ordered: list[dict[str, Any]] = sorted(batches, key=lambda batch: len(batch["rows"]) > 0)
        if not len(ordered[-1]["rows"]):
            ordered[-1] = self.idle()
        return ordered

    def idle(self) -> dict[str, Any]:
        """A part that keeps step with other ranks: the shortest row, with weight 0, seen by no selector or record."""
        return {**self.trainer.collate([self.trainer.shortest]), IDLE: True}

    @property
    def in_step(self) -> bool:
        """Whether all ranks have to run the same number of parts: sharded parameters, or rows compared across ranks."""
        if self.world == 1:
            return False
        return bool(self.trainer.is_fsdp_enabled or self.trainer.method.rows.compares)

    def parts(self, own: list[np.ndarray]) -> list[np.ndarray | None]:
        """This rank's parts of a batch, None where it only keeps step; the last one is its own where it has any."""
        if not self.in_step:
            return list(own)
        most = max(int(one["v"]) for one in ranks.gather({"v": torch.tensor(len(own))}))
        return [*[None] * (most - len(own)), *own]

    def select(self, view: StepView) -> Tensor | None:
        """bool [B] of a selector that compares the rows of a part: over the parts of all ranks. None: it may choose alone."""
        if not self.in_step or not self.trainer.method.rows.compares:
            return None
        mine = {"rows": view.rows, "labels": view.labels, "student": view.student}
        found = ranks.gather(mine)
        start = sum(len(one["rows"]) for one in found[: self.rank])
        whole = _joined(view, found)
        return self.trainer.method.rows.select(whole)[start : start + len(view.rows)]

    def check(self) -> None:
        """Stop all ranks where one of them had a loss that is no number.

        Raises:
            RunError: the first such rank's message.
        """
        if self.world == 1:
            return
        said = ranks.gather({"v": torch.frombuffer(bytearray(self.bad.encode() or b"\0"), dtype=torch.uint8)})
        for one in said:
            text = one["v"].numpy().tobytes().decode().rstrip("\0")
            if text:
                raise RunError(text)

    def share(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Parameters outside the wrapped model start as rank 0's."""
        if self.world == 1 or not parameters:
            return
        first = ranks.gather({str(n): p for n, p in enumerate(parameters)} if self.rank == 0 else {})[0]
        with torch.no_grad():
            for n, parameter in enumerate(parameters):
                parameter.copy_(first[str(n)])

    def average(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Gradients of parameters outside the wrapped model: their mean over ranks; a rank without any adds 0."""
        if self.world == 1 or not parameters:
            return
        own = {str(n): torch.zeros_like(p) if p.grad is None else p.grad for n, p in enumerate(parameters)}
        found = ranks.gather(own)
        for n, parameter in enumerate(parameters):
            mean = torch.stack([one[str(n)] for one in found]).mean(0)
            parameter.grad = mean.to(parameter)

    # ---- selectors -------------------------------------------------------------------------------------------------

    def complete(self) -> None:
        """Give every selector what it would have seen of this step as the only process."""
        if self.world == 1:
            return
        lists = self._observations()
        if not lists:
            return
        starts = {axis: [self._start(axis, n, items) for n, items in enumerate(w)] for axis, w in lists.items()}
        mine: dict[str, Tensor] = {}
        for axis, waiting in lists.items():
            for number, items in enumerate(waiting):
                fresh = items[starts[axis][number] :]
                mine |= {f"{axis}/{number}/{i}": value for i, value in enumerate(_tensors(fresh))}
        found = ranks.gather(mine)
        for axis, waiting in lists.items():
            kind = self.trainer.method.selectors[axis].item
            for number, items in enumerate(waiting):
                del items[starts[axis][number] :]
                for one in found:
                    items += _items(one, f"{axis}/{number}/", kind, self.trainer.args.device)

    def taken_in(self) -> None:
        """Note what the selectors have left waiting: all of it is of all ranks."""
        if self.world > 1:
            lists = self._observations()
            self.taken = {axis: [(items, len(items)) for items in waiting] for axis, waiting in lists.items()}

    def _start(self, axis: str, number: int, items: list[Any]) -> int:
        """How many of these items are of all ranks already; none of a list that was begun anew since."""
        taken = self.taken.get(axis, [])
        if number >= len(taken) or taken[number][0] is not items:
            return 0
        return min(taken[number][1], len(items))

    def _observations(self) -> dict[str, list[list[Any]]]:
        """By axis; not those of a selector that has seen the whole step on every rank."""
        selectors = self.trainer.method.selectors
        whole = "rows" if self.trainer.first_look.chooses else None
        found = {axis: s.observations() for axis, s in selectors.items() if axis != whole}
        return {axis: waiting for axis, waiting in found.items() if waiting}

    def same_everywhere(self) -> None:
        """Selectors are the same on all ranks, or made so: on processors of different kinds rounding may drift apart."""
        if self.world == 1:
            return
        for axis, selector in self.trainer.method.selectors.items():
            state = {key: value for key, value in selector.state_dict().items() if key != "averages"}
            content = to_bytes(state)
            digest = torch.frombuffer(bytearray(hashlib.sha256(content).digest()), dtype=torch.uint8)
            found = ranks.gather({"v": digest})
            if all(torch.equal(one["v"], found[0]["v"]) for one in found):
                continue
            logger.warning("selector %s had drifted apart between ranks: all go on with rank 0's", axis)
            message = torch.frombuffer(bytearray(to_bytes(selector.state_dict())), dtype=torch.uint8)
            first = ranks.gather({"v": message} if self.rank == 0 else {})[0]["v"]
            if self.rank:
                selector.load_state_dict(from_bytes(first.numpy().tobytes()))

    # ---- sums, on rank 0 -------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Move the sums of all ranks to rank 0; those of the others are empty afterwards."""
        if self.world == 1:
            return
        trainer = self.trainer
        for averages in self._averages():
            self._collect_averages(averages)
        recorder = trainer.recorder
        sums = self._summed({str(epoch): value for epoch, value in recorder.epochs.items()})
        recorder.epochs = {int(epoch): value for epoch, value in sums.items()}
        self._collect_row_sample()
        counts = trainer.counts
        seconds = counts.extra.pop("seconds", 0.0)  # wall time is no sum over ranks
        own = {"tokens": counts.tokens, "rows": counts.rows, **{f"+{k}": v for k, v in counts.extra.items()}}
        found = self._summed({k: torch.tensor(v, dtype=torch.float64) for k, v in own.items()})
        counts.tokens, counts.rows = int(found.pop("tokens", 0)), int(found.pop("rows", 0))
        counts.extra = {"seconds": seconds, **{key[1:]: float(value) for key, value in found.items()}}

    def _collect_row_sample(self) -> None:
        sample = self.trainer.row_sample
        found = ranks.gather({str(epoch): values for epoch, values in sample.epochs.items()} if self.rank else {})
        if self.rank:
            sample.epochs = {}
        else:
            for one in found[1:]:
                sample.join({int(epoch): values for epoch, values in one.items()})

    def _averages(self) -> list[Averages]:
        held = [getattr(s, "averages", None) for s in self.trainer.method.selectors.values()]
        return [self.trainer.averages, *(found for found in held if isinstance(found, Averages))]

    def collect_averages(self) -> None:
        """Only what a log line needs."""
        if self.world > 1:
            for averages in self._averages():
                self._collect_averages(averages)

    def _collect_averages(self, averages: Averages) -> None:
        counts = {name: torch.as_tensor(count, dtype=torch.float64) for name, count in averages.counts.items()}
        both = {f"s{name}": value for name, value in averages.sums.items()} | {f"c{n}": v for n, v in counts.items()}
        found = self._summed(both)
        averages.sums = {name[1:]: value for name, value in found.items() if name[0] == "s"}
        averages.counts = {name[1:]: float(value) for name, value in found.items() if name[0] == "c"}

    def _summed(self, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sums by name over all ranks, in the order of ranks; nothing on the ranks beside the first."""
        sums: dict[str, Tensor] = {}
        for one in ranks.gather(own):
            for name, value in one.items():
                sums[name] = sums[name] + value if name in sums else value
        # safetensors sorts names: keep the order in which rank 0 counted them
        names = [*own, *(name for name in sums if name not in own)]
        return {name: sums[name] for name in names} if self.rank == 0 else {}

    def forget_sums(self) -> None:
        """After a checkpoint was read: its sums are those of all ranks, and rank 0 holds them."""
        if self.rank == 0:
            return
        trainer = self.trainer
        trainer.recorder.epochs, trainer.row_sample.epochs = {}, {}
        trainer.counts = type(trainer.counts)(extra={"seconds": trainer.counts.extra.get("seconds", 0.0)})
        for averages in self._averages():
            averages.sums, averages.counts = {}, {}

    # ---- passes without gradient -----------------------------------------------------------------------------------

    def share_out(self, count: int, work: Callable[[int], dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """`work(n)` for n of so many batches, each done by one rank; all results, in the order of n, on all ranks."""
        if self.world == 1:
            return [work(n) for n in range(count)]
        done: dict[str, Tensor] = {}
        for n in range(self.rank, count, self.world):
            done |= {f"{n}/{name}": value for name, value in work(n).items()}
        if self.trainer.is_fsdp_enabled and count % self.world and self.rank >= count % self.world:
            work(count - 1)  # sharded models have to run in step
        results: list[dict[str, Tensor]] = [{} for _ in range(count)]
        for one in ranks.gather(done):
            for key, value in one.items():
                number, _, name = key.partition("/")
                results[int(number)][name] = value
        return results

    def by_main(self, work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What rank 0 finds, on all ranks: the same to the last bit, whatever their processors."""
        return ranks.gather(work() if self.rank == 0 else {})[0]

    def predict(
        self,
        model: Any,
        encoded: Encoded,
        rows: np.ndarray | None,
        max_tokens: int,
        precision: str,
        dropout: bool = False,
        before: Callable[[int], object] = lambda number: None,
    ) -> np.ndarray:
        """`evaluation.predict`, its batches shared out; the same float32 [n, C] on all ranks.

        Args:
            before: called before each batch with its number among all of them, where dropout draws by it.
        """
        if self.world == 1:
            return predict(model, encoded, rows=rows, max_tokens=max_tokens, precision=precision, dropout=dropout)
        rows = np.arange(len(encoded)) if rows is None else rows
        if not len(rows):
            return predict(model, encoded, rows=rows, precision=precision)
        batches = scoring_batches(encoded.lengths[rows], max_tokens)
        # the last round repeats a batch on the ranks that have none left: sharded models have to run in step
        mine = [
            min(n, len(batches) - 1) for n in range(self.rank, -(-len(batches) // self.world) * self.world, self.world)
        ]
        parts = run_batches(
            model, encoded, [rows[batches[n]] for n in mine], precision, dropout, lambda i: before(mine[i])
        )
        found = ranks.gather({str(n): part for n, part in zip(mine, parts, strict=True)})
        logits = np.empty((len(rows), parts[0].shape[1]), dtype=np.float32)
        for one in found:
            for number, values in one.items():
                logits[batches[int(number)]] = values.numpy()
        return logits


def _tensors(items: Sequence[Any]) -> list[Tensor]:
    """Items (tuples or dataclasses of tensors, rows first) as one: field by field, [n, …]."""
    if not items:
        return []
    columns = zip(*(_values(item) for item in items), strict=True)
    return [torch.cat([value.cpu() for value in column]) for column in columns]


def _values(item: Any) -> list[Tensor]:
    return [getattr(item, f.name) for f in fields(item)] if is_dataclass(item) else list(item)


def _items(found: dict[str, Tensor], prefix: str, kind: Any, device: torch.device) -> list[Any]:
    """What one rank saw, as an item of that kind; [] where it saw nothing."""
    names = sorted((name for name in found if name.startswith(prefix)), key=_number)
    values = [found[name].to(device) for name in names]
    if not values:
        return []
    return [tuple(values) if kind is tuple else kind(*values)]


def _number(name: str) -> int:
    return int(name.rpartition("/")[2])


def _joined(view: StepView, found: Sequence[dict[str, Tensor]]) -> StepView:
    """The rows of all ranks as one view; what was gathered of them, and no more."""
    parts: dict[str, Any] = {name: torch.cat([one[name] for one in found]).to(view.rows.device) for name in found[0]}
    return replace(view, **parts, pooled=None, vectors=None, passes={}, teachers=None)
