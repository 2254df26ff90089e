"""Batches of rows of similar length, drawn anew in every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from distilect.errors import ConfigError

Rows = NDArray[np.int64]
Lengths = Sequence[int] | NDArray[np.integer]

LARGE = 1 << 21  # tables with more rows are drawn stretch by stretch
_STRETCH = 1 << 13  # neighbouring rows
_MIXED = 64  # stretches among which rows are shuffled
_POOL = 50  # batches' worth of rows that are sorted by length


class Window(NamedTuple):
    """Consecutive optimiser steps of an epoch whose rows are planned at once.

    Attributes:
        number: among the `of` windows of the epoch, from 0.
        rows: how many it has.
    """

    number: int
    of: int
    rows: int


def steps_per_epoch(num_rows: int, batch_size: int, parts: int = 1) -> int:
    """Steps of one epoch. Fewer than `parts` remaining rows join the previous batch."""
    full, rest = divmod(num_rows, batch_size)
    return full + (rest >= parts or (rest > 0 and full == 0))


def epoch_batches(
    lengths: Lengths,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    group: bool = True,
    micro: int = 1,
    rank: int = 0,
    world: int = 1,
    rows: Rows | None = None,
    window: int = 0,
) -> list[Rows]:
    """The batches of one epoch: each row once, in an order that depends on (seed, epoch, window) alone.

    Rows are shuffled, sorted by length within pools of fifty batches, cut into batches of exactly `batch_size` rows
    (one of them smaller where they do not divide), and the batches are shuffled again.

    Args:
        lengths: [N] tokens per row.
        group: sort by length within pools; without it batches are plain random.
        micro: accumulation steps; each batch is split into micro × world interleaved parts of similar lengths.
        rank: of this process among `world`; it gets its `micro` parts of every batch, in order.
        rows: draw from these rows only (a planned selection).
        window: number of the window that `rows` were planned for.

    Returns:
        steps × micro arrays of row numbers. Steps and their rows do not depend on `world`; of a step with fewer rows than parts
        some ranks get empty arrays.

    Raises:
        ConfigError: a batch has too few rows to give every part one.
    """
    drawn = np.arange(len(lengths), dtype=np.int64) if rows is None else np.sort(np.asarray(rows, dtype=np.int64))
    if not len(drawn):
        return []
    parts = micro * world
    if batch_size < parts or len(drawn) < micro:
        raise _too_few(min(batch_size, len(drawn)), micro, world)
    rng = np.random.default_rng([seed % 2**64, epoch, *([window] if window else [])])
    steps = steps_per_epoch(len(drawn), batch_size, micro)
    batches = _shuffled(rng.permutation(drawn), steps, batch_size, lengths if group else None, rng)
    return [batch[part::parts] for batch in batches for part in range(rank, parts, world)]


def streamed_batches(
    lengths: Lengths,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    group: bool = True,
    micro: int = 1,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Rows]:
    """`epoch_batches` for tables of many millions of rows, which are read in long stretches and never listed in full.

    Stretches of neighbouring rows are drawn in random order. Rows are shuffled among `_MIXED` stretches at a time (half a
    million rows), which are then cut into batches as above. Each row is drawn once, in as many steps as there.
    """
    parts = micro * world
    if batch_size < parts:
        raise _too_few(batch_size, micro, world)
    rng = np.random.default_rng([seed % 2**64, epoch])
    stretches = rng.permutation(-(-len(lengths) // _STRETCH))
    rest, start = np.empty(0, np.int64), 0
    while start < len(stretches):
        stop = start + _MIXED
        stop = len(stretches) if len(stretches) - stop < _MIXED else stop  # the last window is never a small one
        rows = [np.arange(n * _STRETCH, min((n + 1) * _STRETCH, len(lengths))) for n in np.sort(stretches[start:stop])]
        order = np.concatenate([rest, rng.permutation(np.concatenate(rows))])
        start = stop
        last = start == len(stretches)
        steps = steps_per_epoch(len(order), batch_size, micro) if last else len(order) // batch_size
        end = len(order) if last else steps * batch_size
        order, rest = order[:end], order[end:]
        for batch in _shuffled(order, steps, batch_size, lengths if group else None, rng):
            for part in range(rank, parts, world):
                yield batch[part::parts]


def token_budget_splits(lengths: Lengths, max_tokens: int) -> list[Rows]:
    """Cut rows into parts whose padded size (rows × longest) is at most `max_tokens`.

    Returns:
        arrays of positions in `lengths`, longest rows first, none of them empty. A row that is longer than the
        budget is a part of its own.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    parts, start = [], 0
    while start < len(order):  # the first row is the longest of its part, so it alone sets how many fit
        stop = start + max(1, max_tokens // max(1, int(sizes[order[start]])))
        parts.append(order[start:stop])
        start = stop
    return parts


def scoring_batches(lengths: Lengths, max_tokens: int) -> list[Rows]:
    """Batches for inference over a whole table, longest first: memory trouble shows at once, and the ETA only falls."""
    return token_budget_splits(lengths, max_tokens)


class EpochBatchSampler(Sampler[list[int]]):
    """`epoch_batches` as a batch sampler for `DataLoader`.

    Args:
        options: keyword arguments of `epoch_batches`: group, micro, rank, world.
        rows_for_window: (epoch, window) → the `window.rows` rows to draw from (a planned selection), asked for when the
            window's first batch is due. Needs `rows_per_epoch`.
        window: optimiser steps per window; None: an epoch is one window.
    """

    def __init__(
        self,
        lengths: Lengths,
        batch_size: int,
        seed: int,
        *,
        rows_for_window: Callable[[int, Window], Rows] | None = None,
        rows_per_epoch: int | None = None,
        window: int | None = None,
        **options: Any,
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size, self.seed, self.options = batch_size, seed, options
        self.rows_for_window, self.window = rows_for_window, window
        self.rows = len(self.lengths) if rows_per_epoch is None else rows_per_epoch
        self.micro = int(options.get("micro", 1))
        self.epoch, self.done = 0, 0

    def set_epoch(self, epoch: int, done: int = 0) -> None:
        """Choose the epoch that the next iteration draws, and how many optimiser steps of it are done already."""
        self.epoch, self.done = epoch, done

    def __len__(self) -> int:
        """Batches per epoch for this rank; the same in every epoch."""
        return self.micro * self._steps(self.rows)

    def windows(self) -> list[Window]:
        """How an epoch is cut: windows of so many full steps, the last one takes what remains."""
        steps = self._steps(self.rows)
        size = self.window or max(1, steps)
        of = max(1, -(-steps // size))
        full = size * self.batch_size
        return [Window(n, of, full if n < of - 1 else self.rows - n * full) for n in range(of)]

    def __iter__(self) -> Iterator[list[int]]:
        drawn: tuple[Any, ...] = (self.lengths, self.batch_size, self.seed, self.epoch)
        end = 0
        for window in self.windows():
            steps = self._steps(window.rows)
            end += steps
            batches: Iterable[Rows]
            if 0 < end <= self.done:  # a resumed run skips finished windows without planning them again
                batches = [np.empty(0, np.int64)] * (self.micro * steps)
            elif self.rows_for_window is not None:
                batches = epoch_batches(*drawn, rows=self._planned(window), window=window.number, **self.options)
            elif len(self.lengths) > LARGE:
                batches = streamed_batches(*drawn, **self.options)
            else:
                batches = epoch_batches(*drawn, window=window.number, **self.options)
            for batch in batches:
                yield batch.tolist()

    def _planned(self, window: Window) -> Rows:
        assert self.rows_for_window is not None
        rows = self.rows_for_window(self.epoch, window)
        if len(rows) != window.rows:
            raise ConfigError(
                f"epoch {self.epoch} was planned with {len(rows)} rows, expected {window.rows}: "
                "the learning rate schedule needs the same number of steps in every epoch"
            )
        return rows

    def _steps(self, rows: int) -> int:
        return steps_per_epoch(rows, self.batch_size, self.micro)


def _too_few(rows: int, micro: int, world: int) -> ConfigError:
    return ConfigError(
        f"batches of {rows} rows cannot be split into {micro * world} parts ({micro} accumulation steps x {world} ranks): "
        "raise train.batch_size or lower train.gradient_accumulation_steps"
    )


def _shuffled(
    order: Rows, steps: int, batch_size: int, lengths: Lengths | None, rng: np.random.Generator
) -> list[Rows]:
    """Shuffled rows as `steps` batches in random order; with `lengths`, the rows of a batch are of similar length."""
    if lengths is not None:
        sizes, width = np.asarray(lengths), _POOL * batch_size
        pools = [order[start : start + width] for start in range(0, len(order), width)]
        order = np.concatenate([pool[np.argsort(sizes[pool], kind="stable")] for pool in pools])
    batches = np.split(order, np.arange(1, steps) * batch_size)
    return [batches[step] for step in rng.permutation(steps)]
