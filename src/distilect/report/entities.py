"""Predictions of a task that tags words as entities: scores by type, confusion of types, and entities in their sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect.report import words
from distilect.report.figures import Figure, confusion
from distilect.report.files import Predictions, Row
from distilect.report.shell import Cell, DataTable, number_cell, one_line
from distilect.tasks import NO_LABEL, Scheme, spans, type_scores

Ints = NDArray[np.int64]
Place = tuple[int, int, int]  # row, first word, word after the last; words are counted over all rows

NONE = "none"  # no entity
_WRONG, _FOUND = 150, 50  # entities that are shown
_CONTEXT = 20  # words on either side
_MAX_TEACHERS = 7  # columns of votes


def scores_by_type(predictions: Predictions, logits: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """As `Task.type_scores`, of one model's outputs; empty where the tags are none of entities, or no word has one."""
    scheme, offsets = predictions.scheme, predictions.offsets
    if scheme is None or offsets is None or not predictions.known.any():
        return {}
    return type_scores(_classes(logits), _gold(predictions), offsets, scheme)


def type_table(predictions: Predictions) -> DataTable | None:
    """Precision, recall and F1 of each type and model; None without entities."""
    body = []
    for name, logits in (("student", predictions.student), *predictions.teachers.items()):
        for kind, of in scores_by_type(predictions, logits).items():
            cells = [number_cell(of[key], words.score) for key in ("precision", "recall", "f1")]
            cells.append(number_cell(of["entities"], words.whole))
            body.append([Cell(one_line(kind, 40)), Cell(one_line(name, 40)), *cells])
    body.sort(key=lambda row: row[0].text)  # the models of a type one below the other
    return (
        DataTable("types", ["type", "model", "precision", "recall", "F1", "entities"], body, words=[1])
        if body
        else None
    )


def type_confusion(predictions: Predictions, name: str, logits: NDArray[np.float64]) -> Figure | None:
    """Labelled entities by the type that a model predicts at their words, and predicted ones where none is; None without labels."""
    scheme, offsets = predictions.scheme, predictions.offsets
    if scheme is None or offsets is None or not predictions.known.any():
        return None
    gold = _gold(predictions)
    counts = _confusion(gold, _predicted(gold, logits), offsets, scheme)
    note = f"entities that share a word, whether all of their words agree or not; {NONE}: no entity there"
    return confusion(f"Types by {name}", [*scheme.types, NONE], counts, "entities", note)


def entity_table(predictions: Predictions) -> DataTable | None:
    """Entities that are labelled or that the student predicts, in their sentences, with every model's type for exactly these words.

    Those that the student gets wrong come first, then some that it finds; None without labels.
    """
    scheme, offsets = predictions.scheme, predictions.offsets
    if scheme is None or offsets is None or not predictions.known.any():
        return None
    gold, teachers = _gold(predictions), list(predictions.teachers.items())[:_MAX_TEACHERS]
    models = [("student", predictions.student), *((f"teacher {name}", logits) for name, logits in teachers)]
    labelled = _Votes(gold, offsets, scheme)
    votes = [_Votes(_predicted(gold, logits), offsets, scheme) for _, logits in models]
    # a predicted entity at a labelled one is shown with it
    places = sorted([*labelled.types, *(place for place in votes[0].types if labelled.near(place) is None)])
    right = {place: votes[0].types.get(place) == labelled.types.get(place) for place in places}
    chosen = _spread([place for place in places if not right[place]], _WRONG)
    chosen += _spread([place for place in places if right[place]], _FOUND)
    texts = predictions.texts["text"]
    body = []
    for place in chosen:
        wanted, there = labelled.types.get(place), votes[0].near(place)
        said = [one.vote(place, texts) for one in votes]
        kind = wanted if wanted and right[place] else f"{wanted or NONE} → {said[0]}"
        verdict = _verdict(wanted, votes[0].types[there] if there else None, there == place)
        cells = [_in_sentence(texts, offsets, place, kind, right[place]), Cell(verdict), Cell(wanted or NONE)]
        marks = [
            "good" if one.types.get(place) == wanted and one.near(place) in (place, None) else "bad" for one in votes
        ]
        body.append(cells + [Cell(text, mark=mark) for text, mark in zip(said, marks, strict=True)])
    titles = ["text", "outcome", "label", *(one_line(name, 40) for name, _ in models)]
    return DataTable("entities", titles, body, wide=[0], words=list(range(1, len(titles)))) if body else None


def entity_counts_text(predictions: Predictions) -> str:
    """`Of 120 entities the student finds 96; 31 that it predicts are not labelled.`; "" without entities."""
    scored = scores_by_type(predictions, predictions.student)
    scheme, offsets = predictions.scheme, predictions.offsets
    if not scored or scheme is None or offsets is None:
        return ""
    gold = _gold(predictions)
    labelled = _Votes(gold, offsets, scheme).types
    found = _Votes(_predicted(gold, predictions.student), offsets, scheme).types
    right = sum(found.get(place) == kind for place, kind in labelled.items())
    total, own, more = (words.whole(count) for count in (len(labelled), right, len(found) - right))
    return f"Of {total} entities the student finds {own}; {more} of those that it predicts are not labelled, or with other words or another type."


def by_type(selection: Sequence[Row], scheme: Scheme | None, labels: Sequence[str]) -> list[Row]:
    """What was selected, by type of entity in place of tag; as it is where the tags are none of entities.

    Weights are means over words: those of teachers over the words that asked.
    """
    if scheme is None:
        return list(selection)
    names = {
        name: scheme.types[kind] if kind >= 0 else f"{NONE} ({name})"
        for name, kind in zip(labels, scheme.type_of, strict=False)
    }
    merged: dict[tuple[int, str], list[Row]] = {}
    for row in selection:
        merged.setdefault((row["epoch"], names.get(str(row["group"]), str(row["group"]))), []).append(row)
    return [_merged(epoch, group, rows) for (epoch, group), rows in merged.items()]


def in_context(predictions: Predictions, word: int) -> str:
    """A word of a word table in its sentence: `lives in [[London]] now`."""
    assert predictions.offsets is not None
    row = int(np.searchsorted(predictions.offsets, word, side="right")) - 1
    before, middle, after = _parts(predictions.texts["text"], predictions.offsets, (row, word, word + 1))
    return f"{before}[[{middle}]]{after}"


class _Votes:
    """The entities of one model, or the labelled ones.

    Attributes:
        types: place → type.
        at: int64 [U], the number of the type at each word; -1 outside.
    """

    def __init__(self, classes: Ints, offsets: Ints, scheme: Scheme) -> None:
        self.types: dict[Place, str] = {}
        self.at = np.full(len(classes), -1)
        self._place_at: dict[int, Place] = {}  # word → the entity that it is in
        for row, first, after, kind in zip(*(part.tolist() for part in spans(classes, offsets, scheme)), strict=True):
            if kind < len(scheme.types):  # a prediction that is no class has none
                start, end = int(offsets[row]) + first, int(offsets[row]) + after
                self.types[row, start, end] = scheme.types[kind]
                self.at[start:end] = kind
                self._place_at |= dict.fromkeys(range(start, end), (row, start, end))

    def near(self, place: Place) -> Place | None:
        """The entity with exactly these words, or else the first one that shares a word; None without one."""
        shared = (self._place_at[word] for word in range(*place[1:]) if word in self._place_at)
        return place if place in self.types else next(shared, None)

    def vote(self, place: Place, texts: Any) -> str:
        """The type for exactly these words; `person for “Ada”`, if it is for others; or `none`."""
        found = self.near(place)
        if found is None or found == place:
            return NONE if found is None else self.types[found]
        return f"{self.types[found]} for “{_words(texts, found[1], found[2])}”"


def _verdict(wanted: str | None, found: str | None, exact: bool) -> str:
    """What the student made of an entity, by its label and its prediction at these words."""
    if found is None:
        return "missed"
    if wanted is None:
        return "not there"
    return "wrong type" if found != wanted else "found" if exact else "wrong words"


def _in_sentence(texts: Any, offsets: Ints, place: Place, kind: str, right: bool) -> Cell:
    """The sentence with the entity in brackets, and its type or what is wrong with it."""
    before, middle, after = _parts(texts, offsets, place)
    marked = f"[{middle} | {kind}]"
    mark = "good" if right else "bad"
    return Cell(f"{before}{marked}{after}", parts=((before, ""), (marked, mark), (after, "")))


def _parts(texts: Any, offsets: Ints, place: Place) -> tuple[str, str, str]:
    """The words before some words of a row, these, and those after them; with the spaces between."""
    row, start, end = place
    low, high = max(int(offsets[row]), start - _CONTEXT), min(int(offsets[row + 1]), end + _CONTEXT)
    before, after = _words(texts, low, start), _words(texts, end, high)
    return f"{before} " if before else "", _words(texts, start, end), f" {after}" if after else ""


def _words(texts: Any, start: int, end: int) -> str:
    return " ".join(one_line(str(word), 60) for word in texts.slice(start, end - start).to_pylist())


def _confusion(gold: Ints, predicted: Ints, offsets: Ints, scheme: Scheme) -> Ints:
    """int64 [T + 1, T + 1]: entities by labelled and predicted type; the last is "none"."""
    ours, theirs = _Votes(gold, offsets, scheme), _Votes(predicted, offsets, scheme)
    none = len(scheme.types)
    counts = np.zeros((none + 1, none + 1), np.int64)
    for _, start, end in ours.types:
        there = theirs.at[start:end]
        counts[ours.at[start], there[there >= 0][0] if (there >= 0).any() else none] += 1
    for _, start, end in theirs.types:
        if (ours.at[start:end] < 0).all():
            counts[none, theirs.at[start]] += 1
    return counts


def _merged(epoch: int, group: str, rows: Sequence[Row]) -> Row:
    """Groups as one; `right` and `wrong` are of all rows alone."""
    if len(rows) == 1:
        return {**rows[0], "group": group}
    count = sum(row["rows"] for row in rows)
    found: Row = {"epoch": epoch, "group": group, "rows": count}
    for key in rows[0]:
        if key in ("asked", "trained") or key.startswith(("teacher/", "knowledge/")):
            weights = [row["rows"] * (row["asked"] if key.startswith("teacher/") else 1.0) for row in rows]
            total = sum(weights)
            found[key] = (
                sum(w * (row.get(key) or 0.0) for w, row in zip(weights, rows, strict=True)) / total if total else 0.0
            )
    return found


def _classes(logits: NDArray[np.float64]) -> Ints:
    """int64 [U]; -1, which is no class, where an output is NaN."""
    broken = np.isnan(logits).any(axis=1)
    return np.where(broken, -1, np.nan_to_num(logits).argmax(axis=1)).astype(np.int64)


def _predicted(gold: Ints, logits: NDArray[np.float64]) -> Ints:
    """int64 [U]: what a model predicts; a word without a label is left out of it, as scores do."""
    return np.where(gold == NO_LABEL, NO_LABEL, _classes(logits))


def _gold(predictions: Predictions) -> Ints:
    return np.where(predictions.gold < 0, NO_LABEL, predictions.gold).astype(np.int64)


def _spread(places: list[Any], count: int) -> list[Any]:
    """At most so many of them, from all over the rows."""
    if len(places) <= count:
        return places
    return [places[index] for index in np.linspace(0, len(places) - 1, count).astype(int)]
