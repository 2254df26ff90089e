"""What a quantised file may lose: judged on the validation split, which training has not seen and no score is reported on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect.export.rows import Rows
from distilect.progress import console

KEPT = "kept"
SHUFFLES = 50  # of outputs over rows; those of a model that knows nothing score as high as its own


class Gate:
    """Keeps a file whose score is at most `limit` points below that of the student in fp32. A point is a hundredth of the primary metric.

    Without labels the score is that of agreement with the student.

    Args:
        rows: of the validation split.
        max_drop: in points. One row less (or word, or entity: what the metric counts) is never too much unless it is 0: a drop of that
            size can't be told from none.

    Attributes:
        tried: per scheme what was found, as `export.json` keeps it.
        open: whether a file can be kept at all.
        refusals: why one is not, each for the user.
    """

    def __init__(self, rows: Rows, max_drop: float) -> None:
        self.rows, self.max_drop = rows, max_drop
        self.metric = rows.task.primary
        self.count, self.counted = rows.graded
        self.limit = max(max_drop, 100 / max(1, self.count)) if max_drop else 0.0
        self.before = self._points(rows.reference)
        self.tried: list[dict[str, Any]] = []
        self.open = self._says_something(rows.reference)
        self.refusals = [] if self.open else [self._at_chance()]
        if self.open:
            console.print(self.rule(), markup=False)

    def rule(self) -> str:
        """A line: what is judged, on what, and what may be lost."""
        of = " in agreement with itself" if self.rows.own_labels else ""
        more = f" ({self._one}; {self.max_drop:g} points would be less than that)" if self.limit > self.max_drop else ""
        return (
            f"validation split, {self.count:,} {self.counted}: the student has {self.metric} {self.before:.2f}{of}; "
            f"a file may lose {self.limit:.2f} points{more}"
        )

    def keeps(self, name: str, size: int, logits: NDArray[np.float32]) -> bool:
        """Whether a file is good enough; prints a line.

        Args:
            name: of the scheme.
            size: of the file in bytes.
            logits: [N, C], its outputs on the rows.
        """
        found, score = self.rows.compare(logits), self._points(logits)
        drop = self.before - score
        tried = {
            "scheme": name,
            "bytes": size,
            "score": round(score, 4),
            "drop": round(drop, 4),
            "changed_labels": found.changed,
            "mean_difference": found.mean if np.isfinite(found.mean) else None,
            "verdict": self._verdict(drop, logits),
        }
        self.tried.append({**tried, "text": _text(tried, self.metric)})
        console.print(f"  {self.tried[-1]['text']}", markup=False)
        return bool(tried["verdict"] == KEPT)

    def refuse(self, what: str, tried: Sequence[Mapping[str, Any]]) -> None:
        """No scheme was good enough: note why.

        Args:
            what: the file that was asked for.
            tried: its part of `tried`.
        """
        best = min(tried, key=lambda each: float(each["drop"]))
        self.refusals.append(
            f"no {what} is kept: none stays within {self.limit:.2f} points of {self.metric} on {self.count:,} validation {self.counted}; the best, "
            f"{best['scheme']}, loses {best['drop']:.2f}: raise --max-drop, or ship student/onnx/model.onnx"
        )

    def to_dict(self) -> dict[str, Any]:
        """For `export.json`."""
        return {
            "text": self.rule(),
            "rows": self.count,
            "counted": self.counted,
            "metric": self.metric,
            "student": round(self.before, 4),
            "max_drop": self.max_drop,
            "limit": round(self.limit, 4),
            "tried": self.tried,
            "refusals": self.refusals,
        }

    @property
    def _one(self) -> str:
        return {"rows": "one row", "words": "one word", "entities": "one entity"}[self.counted]

    def _verdict(self, drop: float, logits: NDArray[np.float32]) -> str:
        if not np.isfinite(logits).all():
            return "outputs that are no numbers"
        if drop > self.limit + 1e-9:
            return "loses too much"
        return KEPT if self._says_something(logits) else "at chance"

    def _points(self, logits: NDArray[np.float32]) -> float:
        return 100 * self.rows.scores(logits)[self.metric]

    def _says_something(self, logits: NDArray[np.float32]) -> bool:
        """Whether the outputs score higher on their own rows than 95 % of shuffled ones do.

        A model that predicts one label for everything scores the same however its outputs are shuffled, and so would its quantised
        file: a drop of 0 that means nothing.
        """
        random = np.random.default_rng(0)
        shuffled = [self._points(random.permutation(logits)) for _ in range(SHUFFLES)]
        return bool(self._points(logits) > np.quantile(shuffled, 0.95))

    def _at_chance(self) -> str:
        return (
            f"the student's outputs say no more about {self.count:,} validation {self.counted} than chance ({self.metric} {self.before:.2f}), so a "
            "loss could not be seen and no 8-bit file is kept: train a better student, or ship student/onnx/model.onnx"
        )


def _text(tried: dict[str, Any], metric: str) -> str:
    """`int8: 8.4 MB, accuracy 65.25 (−0.25), 3 labels changed, outputs differ by 0.0321 on average: kept`."""
    changed = "" if tried["changed_labels"] is None else f", {tried['changed_labels']:,} labels changed"
    drop = f"{-tried['drop'] + 0.0:+.2f}".replace("-", "−")
    mean = tried["mean_difference"]
    differ = "" if mean is None else f", outputs differ by {mean:.3g} on average"
    verdict = KEPT if tried["verdict"] == KEPT else f"not kept, {tried['verdict']}"
    return f"{tried['scheme']}: {tried['bytes'] / 1e6:.1f} MB, {metric} {tried['score']:.2f} ({drop}){changed}{differ}: {verdict}"
