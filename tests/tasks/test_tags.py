"""Tag schemes are told apart and checked; spans and their counts are those of seqeval."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from distilect.errors import DataError
from distilect.tasks import Scheme, Task, entity_counts, scheme_of, spans, type_counts
from distilect.tasks.metrics import entity_f1, entity_precision, entity_recall, macro_entity_f1
from distilect.tasks.tags import closed, misfit, read_tags

BIO = ("O", "B-per", "I-per", "B-loc", "I-loc")
BIOES = ("O", *(f"{letter}-{kind}" for kind in ("per", "loc") for letter in "BIES"))
PLAIN = ("NOUN", "VERB", "X")


def flat(rows: list[list[str]], labels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(class indexes [U], offsets [N + 1]); "-" is a word without a label, "?" a prediction that is no class."""
    known = {tag: i for i, tag in enumerate(labels)} | {"-": -100, "?": -1}
    classes = np.array([known[tag] for row in rows for tag in row], np.int64)
    return classes, np.cumsum([0, *map(len, rows)])


def scheme(labels: tuple[str, ...]) -> Scheme:
    found = scheme_of(labels)
    assert found is not None
    return found


def found_in(rows: list[list[str]], labels: tuple[str, ...]) -> list[tuple[int, int, int, str]]:
    classes, offsets = flat(rows, labels)
    rows_of, starts, ends, types = spans(classes, offsets, scheme(labels))
    names = [scheme(labels).types[kind] for kind in types]
    return list(zip(rows_of.tolist(), starts.tolist(), ends.tolist(), names, strict=True))


def pairs(labels: tuple[str, ...]):
    """Rows of (predicted tag, gold tag), any tag after any other."""
    tag = st.sampled_from(labels)
    return st.lists(st.lists(st.tuples(tag, tag), min_size=1, max_size=9), min_size=1, max_size=6)


both_schemes = st.one_of(st.tuples(st.just(BIO), pairs(BIO)), st.tuples(st.just(BIOES), pairs(BIOES)))


@given(both_schemes)
def test_spans_are_those_of_seqeval(case) -> None:
    labels, rows = case
    gold = [[tag for _, tag in row] for row in rows]
    ours = [(row, kind, start, end - 1) for row, start, end, kind in found_in(gold, labels)]
    assert ours == [(number, *entity) for number, row in enumerate(gold) for entity in get_entities(row)]


@given(both_schemes)
@settings(max_examples=200)
def test_precision_recall_and_f1_are_those_of_seqeval(case) -> None:
    labels, rows = case
    said, gold = ([[pair[i] for pair in row] for row in rows] for i in (0, 1))
    predicted, offsets = flat(said, labels)
    truth, _ = flat(gold, labels)
    counts = entity_counts(predicted, truth, offsets, scheme(labels))
    by_type = type_counts(predicted, truth, offsets, scheme(labels))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scores without any entity
        for ours, theirs in (
            (entity_precision(counts), precision_score(gold, said)),
            (entity_recall(counts), recall_score(gold, said)),
            (entity_f1(counts), f1_score(gold, said)),
        ):
            assert ours == pytest.approx(theirs, abs=1e-12)
        if by_type.any():
            assert macro_entity_f1(by_type) == pytest.approx(f1_score(gold, said, average="macro"), abs=1e-12)
            each = f1_score(gold, said, average=None)
            assert [entity_f1(row) for row in by_type if row.any()] == pytest.approx(list(each), abs=1e-12)
    assert by_type.sum(axis=0).tolist() == counts.sum(axis=0).tolist()


@given(both_schemes)
def test_counts_of_a_sentence_do_not_depend_on_its_neighbours(case) -> None:
    labels, rows = case
    said, gold = ([[pair[i] for pair in row] for row in rows] for i in (0, 1))
    together = entity_counts(flat(said, labels)[0], *flat(gold, labels), scheme(labels))
    alone = [
        entity_counts(flat([a], labels)[0], *flat([b], labels), scheme(labels))[0]
        for a, b in zip(said, gold, strict=True)
    ]
    assert together.tolist() == [row.tolist() for row in alone]


def test_counts_of_one_type_sum_to_all() -> None:
    said = [["B-per", "I-per", "B-loc"], ["O", "B-loc"]]
    gold = [["B-per", "I-per", "O"], ["B-per", "B-loc"]]
    args = flat(said, BIO)[0], *flat(gold, BIO), scheme(BIO)
    each = [entity_counts(*args, of=kind) for kind in range(2)]
    assert entity_counts(*args).tolist() == [[1, 2, 1], [1, 1, 2]]
    assert (each[0] + each[1]).tolist() == entity_counts(*args).tolist()


def test_a_prediction_that_is_no_class_is_always_wrong() -> None:
    truth, offsets = flat([["O", "B-per", "I-per"]], BIO)
    for said in (["?", "B-per", "I-per"], ["O", "?", "I-per"], ["O", "B-per", "?"]):
        counts = entity_counts(flat([said], BIO)[0], truth, offsets, scheme(BIO))
        assert entity_f1(counts) < 1
        assert counts[0, 1] > counts[0, 0]


def test_a_word_without_a_label_ends_an_entity_on_both_sides() -> None:
    gold = [["B-per", "-", "O"], ["O", "-", "B-loc"]]
    truth, offsets = flat(gold, BIO)
    for said, expected in (
        ([["B-per", "I-per", "O"], ["O", "B-loc", "B-loc"]], [[1, 1, 1], [1, 1, 1]]),
        ([["B-per", "I-per", "I-per"], ["O", "O", "O"]], [[1, 2, 1], [0, 0, 1]]),
    ):
        assert entity_counts(flat(said, BIO)[0], truth, offsets, scheme(BIO)).tolist() == expected


def test_bilou_means_what_bioes_means() -> None:
    bilou = tuple(label.replace("E-", "L-").replace("S-", "U-") for label in BIOES)
    classes, offsets = flat([["B-per", "I-per", "E-per", "S-loc", "O"], ["S-per", "B-loc", "E-loc"]], BIOES)
    ours, theirs = spans(classes, offsets, scheme(bilou)), spans(classes, offsets, scheme(BIOES))
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
    assert scheme(bilou).name == "BILOU"


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (BIO, "BIO"),
        (BIOES, "BIOES"),
        (("O", "I-per"), "BIO"),
        (("O", "B", "I"), "BIO"),
        (("O", "B-a-b", "I-a-b"), "BIO"),
        (("O", "E-per"), "BIOES"),
        (PLAIN, None),
        (("O", "B-per", "I-"), None),
        (("O", "B-per", "MISC"), None),
        (("O", "E-per", "L-per"), None),
        (("B", "S", "N"), None),
        (("S", "I", "O"), None),
        (("O",), None),
    ],
)
def test_a_scheme_is_told_by_its_tags(labels: tuple[str, ...], name: str | None) -> None:
    found = scheme_of(labels)
    assert (found.name if found else None) == name


def test_the_tag_that_fits_no_scheme_is_named() -> None:
    assert misfit(("O", "B-per", "MISC")) == "MISC"
    assert misfit(BIO) is None


def test_a_label_set_is_closed() -> None:
    assert closed(["O", "B-b", "B-a", "I-a"]) == ("O", "B-a", "I-a", "B-b", "I-b")
    assert closed(["S-a"]) == ("O", "B-a", "I-a", "E-a", "S-a")
    assert closed(["I-a", "I-b"]) == ("O", "B-a", "I-a", "B-b", "I-b")
    assert closed(["O", "B"]) == ("O", "B", "I")
    assert closed(PLAIN) is None


@given(both_schemes)
def test_a_closed_label_set_has_every_tag_once_and_is_of_the_same_scheme(case) -> None:
    tags = {tag for row in case[1] for _, tag in row}
    whole = closed(tags)
    if tags == {"O"}:
        assert whole is None
        return
    assert whole is not None
    assert tags <= set(whole)
    assert len(set(whole)) == len(whole)
    assert closed(whole) == whole
    assert scheme(whole).types == tuple(sorted({tag[2:] for tag in tags - {"O"}}))


def legal(rows, kind: str) -> list[list[str]]:
    """Tags of the spans that a row's numbers lay out: (type, length, gap after it)."""
    tagged = []
    for row in rows:
        tags: list[str] = []
        for name, length, gap in row:
            previous = tags[-1][2:] if tags else ""
            first = "B" if kind == "BIO" or previous == name else "I"
            tags += [f"{first}-{name}", *[f"I-{name}"] * (length - 1), *["O"] * gap]
        tagged.append(tags)
    return tagged


laid_out = st.lists(
    st.lists(st.tuples(st.sampled_from(["per", "loc"]), st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=5),
    min_size=1,
    max_size=5,
)


@given(laid_out)
def test_iob1_becomes_the_bio_of_the_same_entities(rows) -> None:
    bio, iob1 = legal(rows, "BIO"), legal(rows, "IOB1")
    classes, offsets = flat(iob1, BIO)
    reading = read_tags(classes, offsets, BIO, scheme(BIO))
    assert reading.classes.tolist() == flat(bio, BIO)[0].tolist()
    assert not len(reading.illegal)
    assert reading.scheme == ("BIO" if iob1 == bio else "IOB1")
    assert reading.changed == (classes != reading.classes).sum()
    again = read_tags(reading.classes, offsets, BIO, scheme(BIO))
    assert (again.scheme, again.changed) == ("BIO", 0)


def test_illegal_tags_are_counted_and_kept() -> None:
    rows = [["B-per", "I-loc", "O"], ["I-per", "O", "B-loc"], ["B-loc", "O", "B-per"]]
    classes, offsets = flat(rows, BIO)
    reading = read_tags(classes, offsets, BIO, scheme(BIO))
    assert (reading.scheme, reading.illegal.tolist()) == ("BIO", [1, 3])
    assert reading.classes is classes


@pytest.mark.parametrize(
    ("row", "illegal"),
    [
        (["B-per", "E-per", "S-loc", "O"], []),
        (["B-per", "I-per", "E-per", "B-loc", "E-loc"], []),
        (["B-per", "O", "O"], [1]),
        (["O", "B-per"], [1]),
        (["I-per", "E-per"], [0]),
        (["B-per", "E-loc"], [1]),
        (["S-per", "E-per"], [1]),
        (["B-per", "-", "E-per"], []),
        (["O", "E-per", "B-loc", "S-loc"], [1, 3]),
    ],
)
def test_illegal_tags_of_bioes(row: list[str], illegal: list[int]) -> None:
    classes, offsets = flat([row], BIOES)
    reading = read_tags(classes, offsets, BIOES, scheme(BIOES))
    assert (reading.scheme, reading.illegal.tolist()) == ("BIOES", illegal)


def test_iob1_needs_the_begin_tag_among_the_labels() -> None:
    labels = ("O", "I-per")
    classes, offsets = flat([["I-per", "I-per", "O"]], labels)
    with pytest.raises(DataError, match="labels have I-per without B-per: add it to task.labels"):
        read_tags(classes, offsets, labels, scheme(labels))


def test_a_task_scores_entities_and_words() -> None:
    task = Task("t", "tokens", BIO, ("entity_f1", "entity_precision(per)", "macro_entity_f1", "accuracy"), 1)
    truth, offsets = flat([["B-per", "I-per", "O"], ["B-loc", "-", "O"]], BIO)
    said = flat([["B-per", "O", "O"], ["B-loc", "B-per", "O"]], BIO)[0]
    scores = task.score(np.eye(5)[said], truth, offsets=offsets)
    assert list(scores) == list(task.metrics)
    assert scores == {"entity_f1": 0.5, "entity_precision(per)": 0.0, "macro_entity_f1": 0.5, "accuracy": 0.8}
    assert task.entity_counts(np.eye(5)[said], truth, offsets).tolist() == [[0, 1, 1], [1, 1, 1]]
    assert task.entity_counts(np.eye(5)[said], truth, offsets, of="loc").tolist() == [[0, 0, 0], [1, 1, 1]]


def test_scores_of_entities_need_offsets_that_fit() -> None:
    task = Task("t", "tokens", BIO, ("entity_f1",), 1)
    logits, labels = np.zeros((3, 5)), np.zeros(3, np.int64)
    with pytest.raises(ValueError, match="pass offsets=table.offsets"):
        task.score(logits, labels)
    with pytest.raises(DataError, match="3 labels, but rows of 4 words"):
        task.score(logits, labels, offsets=np.array([0, 4]))
    words = Task("t", "tokens", PLAIN, ("accuracy", "macro_f1"), 1)
    assert words.score(np.eye(3), np.arange(3)) == {"accuracy": 1.0, "macro_f1": 1.0}
    with pytest.raises(ValueError, match="no tags of entities"):
        words.entity_counts(np.eye(3), np.arange(3), np.array([0, 3]))


def test_a_row_of_nan_counts_as_wrong() -> None:
    task = Task("t", "tokens", BIO, ("entity_f1", "accuracy"), 1)
    truth, offsets = flat([["B-per", "O"]], BIO)
    logits = np.eye(5)[truth]
    logits[1, 0] = np.nan
    assert task.score(logits, truth, offsets=offsets) == {"entity_f1": pytest.approx(2 / 3), "accuracy": 0.5}


def test_the_loss_is_the_mean_over_labelled_words() -> None:
    task = Task("t", "tokens", BIO, ("accuracy",), 1)
    assert task.loss(np.zeros((3, 5)), np.array([0, -100, 1])) == pytest.approx(np.log(5))
