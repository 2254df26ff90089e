"""What was decided for some rows of train, row by row: the content of `rows.parquet`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilect.data import Table
from distilect.files import atomic
from distilect.selection import normalised_entropy
from distilect.tasks import NO_LABEL, of_candidates
from distilect.training.step import StepResult

EXAMPLES, TOKENS = 12, 160  # rows of a language model that are kept whole, and tokens of each
ROWS = 400  # enough to see a pattern, few enough that a page can hold their texts
_STRETCH = 1 << 20  # rows whose keys are compared at once
MAX_TEXT = 600  # characters; the page shows less
_CONTEXT = 20  # words on either side of one that is shown


class RowSample:
    """Decisions on the rows with the smallest keys: a random sample, since keys are hashes, and the same one in every run over
    the same rows, whatever their order.

    Args:
        keys: int64 [U], the identities of all units of train (rows; of a word table, words).
        teachers, kinds: names, in the order of the K and M axes.
        positions: int64 [S], the sample, in place of that by keys.
    """

    def __init__(
        self,
        keys: NDArray[np.int64],
        teachers: tuple[str, ...],
        kinds: tuple[str, ...],
        rows: int = ROWS,
        positions: NDArray[np.int64] | None = None,
    ) -> None:
        self.teachers, self.kinds = teachers, kinds
        # ascending: looked up by bisection
        self.positions = np.sort(_smallest(keys, rows) if positions is None else positions)
        # epoch → [S, 4 + 2K + M]: seen, asked, trained, uncertainty, teacher weights, right, knowledge weights; NaN where a row
        # did not come
        self.epochs: dict[int, Tensor] = {}

    def add(
        self,
        epoch: int,
        positions: NDArray[np.int64],
        student: Tensor,
        result: StepResult,
        multi_label: bool = False,
        tokens: bool = False,
    ) -> None:
        """Keep what one batch decided; `positions` int64 [B] of units, `student` its logits [B, C] in this pass.

        Stays on the device: nothing is waited for.
        """
        found, slots = self._find(positions)
        if not len(found):
            return
        device = result.asked.device
        index = torch.from_numpy(found).to(device)
        weights, right = result.teacher_weights[index], result.right[index]
        if weights.shape[1] != len(self.teachers):  # no row of this batch asked
            weights = weights.new_zeros(len(found), len(self.teachers))
            right = torch.full_like(weights, torch.nan)
        logits = student[index]
        unsure = logits.new_full((len(found),), torch.nan)
        if logits.shape[1] > 1:
            unsure = normalised_entropy(logits, multi_label, tokens)
        decided = [torch.ones_like(unsure), result.asked[index], result.trained[index], unsure]
        values = torch.cat(
            [torch.stack([column.float() for column in decided], dim=1), weights, right, result.loss_weights[index]],
            dim=1,
        ).float()
        self._keep(epoch, slots, values)

    def leave_out(self, epoch: int, positions: NDArray[np.int64]) -> None:
        """Keep that rows left the step before its pass: neither asked nor trained on."""
        found, slots = self._find(positions)
        if len(found):
            values = torch.full((len(found), 4 + 2 * len(self.teachers) + len(self.kinds)), torch.nan)
            values[:, 0], values[:, 1:3] = 1, 0
            self._keep(epoch, slots, values)

    def _find(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which of some rows (int64 [B]) are in the sample, as indexes into them, and their places in it."""
        if not len(self.positions):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        slots = np.searchsorted(self.positions, positions).clip(max=len(self.positions) - 1)
        found = np.flatnonzero(self.positions[slots] == positions)
        return found, slots[found]

    def _keep(self, epoch: int, slots: NDArray[np.int64], values: Tensor) -> None:
        if epoch not in self.epochs:
            self.epochs[epoch] = values.new_full((len(self.positions), values.shape[1]), torch.nan)
        kept = self.epochs[epoch] = self.epochs[epoch].to(values.device)  # a resumed one comes from the CPU
        kept[torch.from_numpy(slots).to(values.device)] = values

    def table(self, rows: Table, labels: Sequence[str]) -> pa.Table:
        """One line per epoch and sampled row that a pass saw: its text, label, and what was decided.

        Columns: epoch, row (position in train; of a word among all words), text[, text_2] (a word is marked in its sentence: [[word]]), label (a name, several names, or a number), asked, trained, uncertainty (the
        student's normalised entropy when it learned from the row), `teacher/NAME`, `right/NAME` (1 where the teacher's best class
        is the label), `knowledge/NAME`. Null where it is not known.
        """
        texts = [tuple(map(shorten, row)) for row in _texts(rows, self.positions)]
        gold = [label_name(value, labels) for value in rows.labels[self.positions]]
        if rows.tokens is not None:  # the token is its own label
            gold = [None if name is None else _marked(text[0]) for name, text in zip(gold, texts, strict=True)]
        lines: list[dict[str, Any]] = []
        for epoch, values in sorted(self.epochs.items()):
            for slot, line in enumerate(values.tolist()):
                if line[0] == 1:
                    texts_of_row = dict(zip(("text", "text_2"), texts[slot], strict=False))
                    row = {"epoch": epoch, "row": int(self.positions[slot])}
                    lines.append(row | texts_of_row | {"label": gold[slot]} | self._decisions(line))
        return pa.Table.from_pylist(lines)

    def tokens(self, rows: Table) -> pa.Table:
        """One line per sampled token of a language model that a pass saw, as in the last epoch: the content of `examples.parquet`.

        Columns: row (position in train), before (what stands between the token and the one before it, such as the prompt), text, epoch, asked,
        `teacher/NAME` (its weight).
        """
        assert rows.units is not None and rows.tokens is not None
        own = np.unique(rows.units.rows(self.positions))
        whole = [text for (text,) in rows.text(own)]
        starts = rows.units.offsets[own]
        before = rows.tokens.between(whole, rows.units, own)
        pieces = rows.words(own)
        lines: list[dict[str, Any]] = []
        for slot, unit in enumerate(self.positions.tolist()):
            seen = [
                (epoch, values[slot].tolist()) for epoch, values in sorted(self.epochs.items()) if values[slot, 0] == 1
            ]
            if seen:
                place = int(np.searchsorted(starts, unit, side="right")) - 1
                within = unit - int(starts[place])
                epoch, values = seen[-1]
                line = {"row": int(own[place]), "before": before[place][within], "text": pieces[place][within]}
                weights = dict(zip(self.teachers, values[4:], strict=False))
                lines.append(
                    line | {"epoch": epoch, "asked": values[1] == 1} | {f"teacher/{k}": v for k, v in weights.items()}
                )
        return pa.Table.from_pylist(lines)

    def _decisions(self, line: list[float]) -> dict[str, Any]:
        names = [f"{word}/{name}" for word in ("teacher", "right") for name in self.teachers]
        names += [f"knowledge/{name}" for name in self.kinds]
        values = [None if value != value else value for value in line[3:]]
        decided = {"asked": bool(line[1]), "trained": bool(line[2])}
        return decided | dict(zip(["uncertainty", *names], values, strict=True))

    def write(self, path: Path, rows: Table, labels: Sequence[str]) -> None:
        _write(path, self.table(rows, labels))

    def write_tokens(self, path: Path, rows: Table) -> None:
        """Nothing without a sample."""
        if len(self.positions):
            _write(path, self.tokens(rows))

    def join(self, other: dict[int, Tensor]) -> None:
        """Add what another rank saw: each row of a step is seen by one of them."""
        for epoch, values in other.items():
            kept = self.epochs.get(epoch)
            if kept is None:
                self.epochs[epoch] = values
            else:
                self.epochs[epoch] = torch.where(values[:, :1] == 1, values.to(kept.device), kept)

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": dict(self.epochs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epochs = {int(epoch): values for epoch, values in state["epochs"].items()}


def example_units(rows: Table, keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 [S]: the first tokens to be learned of the rows with the smallest keys (int64 [N]); none but of a language model."""
    if rows.tokens is None or rows.units is None:
        return np.empty(0, np.int64)
    own = _smallest(keys, EXAMPLES)
    starts, sizes = rows.units.offsets[own], np.minimum(rows.units.sizes[own], TOKENS)
    return np.concatenate([np.empty(0, np.int64), *(np.arange(a, a + n) for a, n in zip(starts, sizes, strict=True))])


def _write(path: Path, table: pa.Table) -> None:
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _smallest(keys: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """int64 [≤ count]: where the smallest keys stand; read in stretches, as they may lie on disk."""
    found = np.empty(0, np.int64)
    for start in range(0, len(keys), _STRETCH):
        own = np.arange(start, min(start + _STRETCH, len(keys)))
        found = np.concatenate([found, own])
        if len(found) > count:
            found = found[np.argpartition(keys[found], count - 1)[:count]]
    return found


def _texts(rows: Table, units: NDArray[np.int64]) -> list[tuple[str, ...]]:
    """The texts of some units; of a word its sentence, of a token what is learned of its row, cut around it where it is long."""
    if rows.units is None:
        return rows.text(units)
    own = rows.units.rows(units)
    places = units - rows.units.offsets[own]
    found: list[tuple[str, ...]] = []
    between = " " if rows.of_words else ""
    for words, place in zip(rows.words(own), places.tolist(), strict=True):
        before, after = words[max(0, place - _CONTEXT) : place], words[place + 1 : place + 1 + _CONTEXT]
        found.append((between.join([*before, f"[[{words[place]}]]", *after]),))
    return found


def _marked(text: str) -> str:
    """What is marked in a text."""
    return text.partition("[[")[2].partition("]]")[0]


def shorten(text: str, limit: int = MAX_TEXT) -> str:
    """`text`, cut to `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def label_name(value: Any, labels: Sequence[str]) -> str | None:
    """A label as it is shown: its name, a number in regression, the row's labels of a multi-label task; None where there is none.

    Of the tokens of a language model "0".
    """
    if of_candidates(np.asarray(value)):
        return None if value == NO_LABEL else "0"
    if getattr(value, "ndim", 0):
        names = [name for name, has in zip(labels, value, strict=True) if has == 1]
        return None if value[0] == NO_LABEL else ", ".join(names) or "none of them"
    if not labels:
        return None if value != value else f"{float(value):.4g}"
    return labels[int(value)] if int(value) >= 0 else None
