"""Tags of words that spell entities (O, B-person, I-person): which scheme they follow, and the spans that they mean.

Spans are read as conlleval and seqeval (in its default mode) read them: an I- or E- that continues nothing begins an entity. In IOB1 an
entity begins with B- only where it follows another one of its type. Both give the same spans, so IOB1 is rewritten as BIO when a table
is read, and everything else knows BIO, BIOES and BILOU only.

A word without a label (-100) is not scored: it ends an entity as the end of a row does, in the labels and in the predictions. A predicted
entity that reaches over such a word counts by its parts on either side of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilect.errors import DataError

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_O, _B, _I, _E, _S = range(5)
_MEANS = {"B": _B, "I": _I, "E": _E, "L": _E, "S": _S, "U": _S}
_LETTERS = {"BIO": "BI", "BIOES": "BIES", "BILOU": "BILU"}
_TAG = re.compile(r"([BIESLU])(?:-(.+))?")
_UNNAMED = "_"  # the type of B and I without one, as in seqeval
_NONE = -100  # the class of a word without a label


@dataclass(frozen=True, eq=False)
class Scheme:
    """What each class of a label set means.

    Attributes:
        name: BIO, BIOES or BILOU.
        types: of the entities, sorted.
        parts: int64 [C + 1], what each class says of a word: outside, begin, inside, end, single. The last one is of the class -1, a
            prediction that is no class: an entity of no type, so that it is always wrong.
        type_of: int64 [C + 1], index in `types`; -1 outside.
    """

    name: str
    types: tuple[str, ...]
    parts: Ints
    type_of: Ints


class Spans(NamedTuple):
    """Entities in the order of the words, int64 [S] each.

    Attributes:
        rows: the row of each.
        starts, ends: its first word and the one after its last, counted from 0 within the row.
        types: index in `Scheme.types`.
    """

    rows: Ints
    starts: Ints
    ends: Ints
    types: Ints


class Reading(NamedTuple):
    """The tags of a table, checked against the scheme.

    Attributes:
        classes: int64 [U]; of a table in IOB1 as BIO, else as they were.
        scheme: as the table was written: BIO, BIOES, BILOU or IOB1.
        illegal: int64, places of the words whose tag the scheme does not allow after the one before (of BIOES: or whose entity has no end).
        changed: how many tags were rewritten.
    """

    classes: Ints
    scheme: str
    illegal: Ints
    changed: int


def scheme_of(labels: Sequence[str]) -> Scheme | None:
    """The scheme of a label set; None where one of them is no tag of a scheme, as in part of speech.

    Example:
        >>> scheme_of(["O", "B-person", "I-person"]).types
        ('person',)
        >>> scheme_of(["NOUN", "VERB"]) is None
        True
    """
    return _scheme(tuple(labels))


@lru_cache(maxsize=64)
def _scheme(labels: tuple[str, ...]) -> Scheme | None:
    tags = [_parsed(label) for label in labels]
    name = _scheme_name(labels)
    if name is None:
        return None
    types = sorted({kind for _, kind in filter(None, tags)})
    parts = [_O if tag is None else _MEANS[tag[0]] for tag in tags]
    type_of = [-1 if tag is None else types.index(tag[1]) for tag in tags]
    return Scheme(name, tuple(types), np.array([*parts, _S]), np.array([*type_of, len(types)]))


def misfit(labels: Iterable[str]) -> str | None:
    """The first label that is no tag of a scheme; None where there is none, or where the tags are of two schemes."""
    return next((label for label in labels if label != "O" and _parsed(label) is None), None)


def closed(found: Iterable[str]) -> tuple[str, ...] | None:
    """The label set of a scheme from the tags of a table: O, then every tag of each type; None if they follow none.

    A type that occurs with B- alone has I- too, as its entities may be longer elsewhere.

    Example:
        >>> closed({"B-person", "O", "B-group", "I-group"})
        ('O', 'B-group', 'I-group', 'B-person', 'I-person')
    """
    tags = sorted(set(found))
    name = _scheme_name(tags)
    if name is None:
        return None
    bare = {tag for tag in tags if tag in _MEANS}
    types = sorted({tag[1] for tag in map(_parsed, tags) if tag is not None})
    return (
        "O",
        *(letter if kind == _UNNAMED and bare else f"{letter}-{kind}" for kind in types for letter in _LETTERS[name]),
    )


def read_tags(classes: Ints, offsets: Ints, labels: Sequence[str], scheme: Scheme, iob1: bool | None = None) -> Reading:
    """Check a table's tags and tell BIO and IOB1 apart: IOB1 where it explains more of the sequences than BIO.

    Illegal sequences are returned, not repaired.

    Args:
        classes: int64 [U], -100 for words without a label; offsets: int64 [N + 1], where each row's words begin.
        iob1: whether the tags are IOB1, where that is known.

    Raises:
        DataError: the tags are IOB1, and `labels` lack the B- that a type needs.
    """
    illegal = _illegal(classes, offsets, scheme)
    if scheme.name != "BIO" or iob1 is False or (iob1 is None and not len(illegal)):
        return Reading(classes, scheme.name, illegal, 0)
    against = _illegal_iob1(classes, offsets, scheme)
    if iob1 is None and len(against) >= len(illegal):
        return Reading(classes, "BIO", illegal, 0)
    begins = np.full(len(scheme.types), -1)
    begin = np.flatnonzero(scheme.parts[:-1] == _B)
    begins[scheme.type_of[begin]] = begin
    starts, _, types = _bounds(classes, offsets, scheme)
    lacking = np.flatnonzero(begins[types] < 0)
    if len(lacking):
        tag = labels[int(classes[starts[lacking[0]]])]
        raise DataError(
            f"the tags are IOB1, which is read as BIO, but the labels have {tag} without B{tag[1:]}: add it to task.labels"
        )
    converted = classes.copy()
    converted[starts] = begins[types]
    return Reading(converted, "IOB1", against, int((converted != classes).sum()))


def spans(classes: Ints, offsets: Ints, scheme: Scheme) -> Spans:
    """The entities of some rows.

    Args:
        classes: int64 [U] class indexes; -1 for a prediction that is no class, -100 for a word that is left out.
        offsets: int64 [N + 1], where each row's words begin, such as `Table.offsets`.

    Example:
        >>> scheme = scheme_of(["O", "B-person", "I-person"])
        >>> found = spans(np.array([1, 2, 0, 2]), np.array([0, 3, 4]), scheme)
        >>> [found.rows.tolist(), found.starts.tolist(), found.ends.tolist()]
        [[0, 1], [0, 0], [2, 1]]
    """
    starts, ends, types = _bounds(classes, offsets, scheme)
    rows = _row_of(starts, offsets)
    return Spans(rows, starts - offsets[rows], ends - offsets[rows], types)


def entity_counts(predicted: Ints, labels: Ints, offsets: Ints, scheme: Scheme, of: int | None = None) -> Ints:
    """int64 [N, 3]: how many entities of each row are predicted rightly (same words, same type), predicted, and labelled.

    Args:
        predicted, labels: int64 [U] class indexes; -1 is a prediction that is no class, -100 a word without a label.
        of: count one type only, an index in `scheme.types`.
    """
    found, hits, gold = _matched(predicted, labels, offsets, scheme)
    counted = [(found[0][hits], found[2][hits]), (found[0], found[2]), (gold[0], gold[2])]
    rows = [_row_of(starts if of is None else starts[types == of], offsets) for starts, types in counted]
    return np.stack([np.bincount(row, minlength=len(offsets) - 1) for row in rows], axis=1)


def type_counts(predicted: Ints, labels: Ints, offsets: Ints, scheme: Scheme) -> Ints:
    """int64 [T, 3]: as `entity_counts`, over all rows, for each type."""
    found, hits, gold = _matched(predicted, labels, offsets, scheme)
    size = len(scheme.types)
    return np.stack(
        [np.bincount(types, minlength=size)[:size] for types in (found[2][hits], found[2], gold[2])], axis=1
    )


def _matched(
    predicted: Ints, labels: Ints, offsets: Ints, scheme: Scheme
) -> tuple[tuple[Ints, Ints, Ints], Bools, tuple[Ints, Ints, Ints]]:
    """The predicted entities, which of them are labelled too, and the labelled ones."""
    found = _bounds(np.where(labels == _NONE, _NONE, predicted), offsets, scheme)
    gold = _bounds(labels, offsets, scheme)
    end_at, type_at = np.full(len(labels), -1), np.full(len(labels), -1)
    end_at[gold[0]], type_at[gold[0]] = gold[1], gold[2]
    starts, ends, types = found
    return found, (end_at[starts] == ends) & (type_at[starts] == types), gold


def _bounds(classes: Ints, offsets: Ints, scheme: Scheme) -> tuple[Ints, Ints, Ints]:
    """(first word, word after the last, type) of each entity, int64 [S] each; words are counted over all rows."""
    part, kind = _parts(classes, scheme)
    before, kind_before = _before(part, offsets, _O), _before(kind, offsets, -1)
    inside = part != _O
    begins = inside & (np.isin(part, (_B, _S)) | np.isin(before, (_O, _E, _S)) | (kind != kind_before))
    ends = inside & np.append(begins[1:] | ~inside[1:], True)[: len(inside)]  # the next word begins one, or is in none
    starts = np.flatnonzero(begins)
    return starts, np.flatnonzero(ends) + 1, kind[starts]


def _parts(classes: Ints, scheme: Scheme) -> tuple[Ints, Ints]:
    """[U] each: what each word is in its entity, and the entity's type."""
    outside = classes == _NONE
    known = np.where(outside, -1, classes)
    return np.where(outside, _O, scheme.parts[known]), np.where(outside, -1, scheme.type_of[known])


def _before(values: Ints, offsets: Ints, at_start: int) -> Ints:
    """[U]: of each word the value of the one before it in its row."""
    before = np.roll(values, 1)
    before[offsets[:-1]] = at_start
    return before


def _illegal(classes: Ints, offsets: Ints, scheme: Scheme) -> Ints:
    """Places of the tags that break the scheme; what stands beside a word without a label is not judged."""
    part, kind = _parts(classes, scheme)
    before, kind_before = _before(part, offsets, _O), _before(kind, offsets, -1)
    open_before, continues = np.isin(before, (_B, _I)), np.isin(part, (_I, _E))
    wrong = continues & (~open_before | (kind != kind_before))
    judged = (classes != _NONE) & (_before(classes, offsets, 0) != _NONE)
    if scheme.name != "BIO":  # an entity must end: with E- or L-, S- or U-
        wrong |= open_before & ~continues
        last = offsets[1:] - 1
        wrong[last] |= np.isin(part[last], (_B, _I))
    return np.flatnonzero(wrong & judged)


def _illegal_iob1(classes: Ints, offsets: Ints, scheme: Scheme) -> Ints:
    """Places of B- tags that do not follow an entity of their type."""
    part, kind = _parts(classes, scheme)
    wrong = (part == _B) & (_before(kind, offsets, -1) != kind)
    return np.flatnonzero(wrong & (_before(classes, offsets, 0) != _NONE))


def _row_of(words: Ints, offsets: Ints) -> Ints:
    return np.searchsorted(offsets, words, side="right").astype(np.int64) - 1


def _parsed(tag: str) -> tuple[str, str] | None:
    """`B-person` → ("B", "person"); None for O and for what is no tag of a scheme."""
    found = _TAG.fullmatch(tag)
    return (found[1], found[2] or _UNNAMED) if found else None


def _scheme_name(labels: Sequence[str]) -> str | None:
    """BIO, BIOES or BILOU; None where the labels are not tags of one of them."""
    tags = [tag for tag in map(_parsed, labels) if tag is not None]
    if not tags or misfit(labels) is not None:
        return None
    if any(label in _MEANS for label in labels) and not {"O", "B"} <= set(labels):
        return None  # single letters are no tags of entities, unless they are B and O
    letters = {letter for letter, _ in tags}
    return next((name for name, known in _LETTERS.items() if letters <= set(known)), None)
