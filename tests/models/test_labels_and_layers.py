"""Label spaces and layers: matched by name and evenly spaced, or refused with both sides shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilect.errors import StudentError, TeacherError
from distilect.models import align_labels, even_layer_map, even_layers


def test_labels_are_matched_by_name_not_by_position() -> None:
    assert align_labels(["pos", "neg", "mid"], ["neg", "mid", "pos"]) == [1, 2, 0]


def test_case_and_space_around_a_name_do_not_matter() -> None:
    assert align_labels(["POSITIVE ", "negative"], ["Negative", "positive"]) == [1, 0]


def test_generic_names_fit_numbered_labels_only() -> None:
    assert align_labels(["LABEL_0", "LABEL_1"], ["1", "0"]) == [1, 0]
    with pytest.raises(TeacherError, match=r"give their names in order with labels: on 'a'"):
        align_labels(["LABEL_0", "LABEL_1"], ["neg", "pos"], "a")


@pytest.mark.parametrize(
    "theirs", [["neg", "good"], ["neg"], ["neg", "pos", "mid"], ["neg", "neg"], ["LABEL_0", "LABEL_1", "LABEL_2"]]
)
def test_other_label_sets_are_refused_and_both_maps_printed(theirs: list[str]) -> None:
    with pytest.raises(TeacherError) as refused:
        align_labels(theirs, ["neg", "pos"], "a")
    message = str(refused.value)
    assert "{" + ", ".join(f"{i}={label}" for i, label in enumerate(theirs)) + "}" in message
    assert "{0=neg, 1=pos}" in message


@pytest.mark.parametrize(
    ("take", "depth", "kept"),
    [(3, 6, [1, 3, 5]), (2, 6, [2, 5]), (6, 12, [1, 3, 5, 7, 9, 11]), (4, 6, [1, 2, 4, 5]), (1, 7, [6])],
)
def test_layers_are_taken_evenly_spaced_and_end_with_the_last(take: int, depth: int, kept: list[int]) -> None:
    assert even_layers(take, depth) == kept


@given(st.integers(1, 40), st.integers(1, 40))
def test_any_two_depths_can_be_mapped_last_to_last_and_never_to_the_embeddings(student: int, teacher: int) -> None:
    mapped = even_layer_map(student, teacher)
    assert len(mapped) == student
    assert mapped[-1] == teacher
    assert min(mapped) >= 1
    gaps = {b - a for a, b in zip([0, *mapped], mapped, strict=False)}
    assert max(gaps) - min(gaps) <= 1
    if student <= teacher:
        assert mapped == [layer + 1 for layer in even_layers(student, teacher)]


@pytest.mark.parametrize("take", [0, 7, -1])
def test_more_layers_than_there_are_is_an_error(take: int) -> None:
    with pytest.raises(StudentError, match=f"cannot take {take} layers of a model with 6"):
        even_layers(take, 6)
