"""What several ranks of one training do together, so that each of them decides as a single process would.

Gradients are synchronised by the Trainer (DDP, FSDP2). Here is the rest, in one place, so that no selector knows of ranks:

- A selector sees its rank's rows of a step. Before `learn` its buffers are synchronised: it learns from the whole step on every
  rank, and its parameters stay the same everywhere.
- A choice before the step is made over the rows of all ranks, and so is one within it that compares the rows of a batch.
- Passes of the student for selectors and evaluation are shared out in the batches that a single process would run, and every rank
  gets all results: they do not depend on the number of ranks.
- Sums for history, selection record and costs are collected on rank 0, which alone writes.

A single process never calls any of this. All ranks have to call each function at the same point.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distilect import ranks
from distilect.data import Encoded, scoring_batches
from distilect.errors import RunError
from distilect.evaluation import Candidates, predict, run_batches
from distilect.selection import Averages, Method, RowSelector, Selector, StepView
from distilect.training.counts import Counts
from distilect.training.records import StepRecords
from distilect.training.rows import Batch, TrainingRows
from distilect.training.state import from_bytes, to_bytes

logger = logging.getLogger(__name__)

# ---- the step ------------------------------------------------------------------------------------------------------


def sum_over_ranks(*values: int) -> list[int]:
    """Each value summed over all ranks."""
    found = ranks.gather({"v": torch.tensor(values)})
    return [int(value) for value in torch.stack([one["v"] for one in found]).sum(0)]


def positions_of_all(own: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of the step on all ranks, ascending; `own` int64 [n] are this rank's."""
    found = ranks.gather({"v": torch.from_numpy(own)})
    return np.sort(np.concatenate([one["v"].numpy() for one in found]))


def aligned_parts(own: list[Batch], rows: TrainingRows) -> list[Batch]:
    """As many parts of a batch as the rank with the most has: idle ones first, so that the last one is its own where it has any."""
    most = max(int(one["v"]) for one in ranks.gather({"v": torch.tensor(len(own))}))
    return [*(rows.idle_batch() for _ in range(most - len(own))), *own]


def decide_rows(selector: RowSelector, view: StepView) -> Tensor:
    """bool [B]: the choice of a selector that compares the rows of a part, made over the parts of all ranks."""
    more = {"vectors": view.vectors, "features": view.features, "rows": view.rows}
    own = {"keys": view.keys, "labels": view.labels, "student": view.student}
    found = ranks.gather(own | {name: value for name, value in more.items() if value is not None})
    start = sum(len(one["keys"]) for one in found[: ranks.rank()])
    parts: dict[str, Any] = {name: torch.cat([one[name] for one in found]).to(view.keys.device) for name in found[0]}
    whole = replace(view, **parts, pooled=None, passes={}, teachers=None, position=None)
    return selector.decide(whole)[start : start + len(view.keys)]


def raise_first(message: str) -> None:
    """Stop all ranks where one of them had a loss that is no number (`message` is not empty).

    Raises:
        RunError: the first such rank's message.
    """
    found = ranks.gather({"v": torch.frombuffer(bytearray(message.encode() or b"\0"), dtype=torch.uint8)})
    for one in found:
        text = one["v"].numpy().tobytes().decode().rstrip("\0")
        if text:
            raise RunError(text)


def start_equal(parameters: Sequence[nn.Parameter]) -> None:
    """Parameters outside the wrapped model start as rank 0's."""
    first = ranks.gather({str(n): p for n, p in enumerate(parameters)} if ranks.is_main() else {})[0]
    with torch.no_grad():
        for n, parameter in enumerate(parameters):
            parameter.copy_(first[str(n)])


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Gradients of parameters outside the wrapped model: their mean over ranks; a rank without any adds 0."""
    own = {str(n): torch.zeros_like(p) if p.grad is None else p.grad for n, p in enumerate(parameters)}
    found = ranks.gather(own)
    for n, parameter in enumerate(parameters):
        parameter.grad = torch.stack([one[str(n)] for one in found]).mean(0).to(parameter)


# ---- selectors -----------------------------------------------------------------------------------------------------


def synchronise(selectors: Iterable[Selector], device: torch.device) -> None:
    """Every selector observes what it would have observed of this step as the only process."""
    buffers = [buffer for selector in selectors for buffer in selector.buffers()]
    if not buffers:
        return
    own = {f"{n}/{name}": v for n, buffer in enumerate(buffers) for name, v in buffer.fresh().items()}
    found = ranks.gather(own)
    for n, buffer in enumerate(buffers):
        prefix = f"{n}/"
        parts = [{k.removeprefix(prefix): v for k, v in one.items() if k.startswith(prefix)} for one in found]
        buffer.synchronise(parts, device)


def same_everywhere(selectors: Mapping[str, Selector]) -> None:
    """Selectors are the same on all ranks, or made so: on processors of different kinds rounding may drift apart."""
    for axis, selector in selectors.items():
        state = {key: value for key, value in selector.state_dict().items() if key != "averages"}
        digest = torch.frombuffer(bytearray(hashlib.sha256(to_bytes(state)).digest()), dtype=torch.uint8)
        found = ranks.gather({"v": digest})
        if all(torch.equal(one["v"], found[0]["v"]) for one in found):
            continue
        logger.warning("selector %s had drifted apart between ranks: all go on with rank 0's", axis)
        message = torch.frombuffer(bytearray(to_bytes(selector.state_dict())), dtype=torch.uint8)
        first = ranks.gather({"v": message} if ranks.is_main() else {})[0]["v"]
        if not ranks.is_main():
            selector.load_state_dict(from_bytes(first.numpy().tobytes()))


# ---- sums, on rank 0 -----------------------------------------------------------------------------------------------


def collect(records: StepRecords, method: Method, counts: Counts) -> None:
    """Move the sums of all ranks to rank 0; those of the others are empty afterwards."""
    collect_averages(records, method)
    recorder = records.recorder
    sums = _summed({str(epoch): value for epoch, value in recorder.epochs.items()})
    recorder.epochs = {int(epoch): value for epoch, value in sums.items()}
    for sample in (records.sample, records.examples):
        found = ranks.gather({} if ranks.is_main() else {str(epoch): v for epoch, v in sample.epochs.items()})
        for one in found[1:] if ranks.is_main() else []:
            sample.join({int(epoch): values for epoch, values in one.items()})
        sample.epochs = sample.epochs if ranks.is_main() else {}
    seconds = counts.extra.pop("seconds", 0.0)  # wall time is no sum over ranks
    own = {"tokens": counts.tokens, "rows": counts.rows, **{f"+{k}": v for k, v in counts.extra.items()}}
    total = _summed({k: torch.tensor(v, dtype=torch.float64) for k, v in own.items()})
    counts.tokens, counts.rows = int(total.pop("tokens", 0)), int(total.pop("rows", 0))
    counts.extra = {"seconds": seconds, **{key[1:]: float(value) for key, value in total.items()}}


def collect_averages(records: StepRecords, method: Method) -> None:
    """Only what a log line needs."""
    for averages in _averages(records, method):
        own = {f"s{name}": value for name, value in averages.sums.items()}
        own |= {f"c{n}": torch.as_tensor(count, dtype=torch.float64) for n, count in averages.counts.items()}
        found = _summed(own)
        averages.sums = {name[1:]: value for name, value in found.items() if name[0] == "s"}
        averages.counts = {name[1:]: float(value) for name, value in found.items() if name[0] == "c"}


def keep_sums_on_main(records: StepRecords, method: Method, counts: Counts) -> None:
    """After a checkpoint was read: its sums are those of all ranks, and rank 0 holds them."""
    if ranks.is_main():
        return
    records.recorder.epochs, records.sample.epochs, records.examples.epochs = {}, {}, {}
    counts.tokens, counts.rows, counts.extra = 0, 0, {"seconds": counts.extra.get("seconds", 0.0)}
    for averages in _averages(records, method):
        averages.sums, averages.counts = {}, {}


def _averages(records: StepRecords, method: Method) -> list[Averages]:
    held = [getattr(selector, "averages", None) for selector in method.selectors.values()]
    return [records.averages, *(averages for averages in held if isinstance(averages, Averages))]


def _summed(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums by name over all ranks, in the order of ranks; nothing on the ranks beside the first."""
    sums: dict[str, Tensor] = {}
    for one in ranks.gather(own):
        for name, value in one.items():
            sums[name] = sums[name] + value if name in sums else value
    # safetensors sorts names: keep the order in which rank 0 counted them
    names = [*own, *(name for name in sums if name not in own)]
    return {name: sums[name] for name in names} if ranks.is_main() else {}


# ---- passes without gradient ---------------------------------------------------------------------------------------


def share_out(count: int, work: Callable[[int], dict[str, Tensor]], *, sharded: bool) -> list[dict[str, Tensor]]:
    """`work(n)` for n of so many batches, each done by one rank; all results, in the order of n, on all ranks."""
    rank, world = ranks.rank(), ranks.world()
    done: dict[str, Tensor] = {}
    for n in range(rank, count, world):
        done |= {f"{n}/{name}": value for name, value in work(n).items()}
    if sharded and count % world and rank >= count % world:
        work(count - 1)  # sharded models have to run in step
    results: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for one in ranks.gather(done):
        for key, value in one.items():
            number, _, name = key.partition("/")
            results[int(number)][name] = value
    return results


def predict_shared(
    model: Any,
    encoded: Encoded,
    rows: NDArray[np.int64] | None,
    max_tokens: int,
    precision: str,
    dropout: bool = False,
    before: Callable[[int], object] = lambda number: None,
    candidates: Candidates | None = None,
) -> NDArray[np.float32]:
    """`evaluation.predict`, its batches shared out; the same float32 [n, C] (of words [u, C]) on all ranks.

    Args:
        before: called before each batch with its number among all of them, where dropout draws by it.
    """
    rows = np.arange(len(encoded)) if rows is None else rows
    if not len(rows):
        return predict(model, encoded, rows=rows, precision=precision)
    batches, world = scoring_batches(encoded.lengths[rows], max_tokens), ranks.world()
    # the last round repeats a batch on the ranks that have none left: sharded models have to run in step
    rounds = range(ranks.rank(), -(-len(batches) // world) * world, world)
    mine = [min(n, len(batches) - 1) for n in rounds]
    own_rows = [rows[batches[n]] for n in mine]
    parts = run_batches(model, encoded, own_rows, precision, dropout, lambda i: before(mine[i]), candidates)
    found = ranks.gather({str(n): part for n, part in zip(mine, parts, strict=True)})
    units = None if encoded.words is None else encoded.words.units.take(rows)
    logits = np.empty((len(rows) if units is None else len(units), parts[0].shape[1]), dtype=np.float32)
    for one in found:
        for number, values in one.items():
            own = batches[int(number)]
            logits[own if units is None else units.of(own)] = values.numpy()
    return logits
