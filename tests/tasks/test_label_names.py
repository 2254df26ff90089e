"""Spellings that look the same name the same label; others do not."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilect.errors import ConfigError
from distilect.tasks import Task
from distilect.tasks.label_names import join_spellings, match_labels, same_label_key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("a b", "a\u00a0b"),
        ("a b", "a  b"),
        ("a b", "\u2003a\u202f\u3000b "),
        ("a", "\ufeffa"),
        ("ab", "a\u200bb"),
        ("ab", "a\u00adb"),
        ("\u2764", "\u2764\ufe0f"),
        ("a b", "a \u200b b"),
    ],
)
def test_spellings_that_look_the_same_have_one_key(one: str, other: str) -> None:
    assert same_label_key(one) == same_label_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("a", "A"), ("1", "\u00b9"), ("ab", "a b"), ("e", "\u00e9"), ("1", "1.0"), ("-1", "1")]
)
def test_labels_that_look_different_have_two_keys(one: str, other: str) -> None:
    assert same_label_key(one) != same_label_key(other)


@given(st.text(), st.sampled_from(["NFC", "NFD"]))
def test_a_key_is_its_own_key_and_that_of_every_normal_form(name: str, form: str) -> None:
    key = same_label_key(name)
    assert same_label_key(key) == key == same_label_key(unicodedata.normalize(form, name))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "labels", "match"),
    [
        (["b", "x", "a\u00a0b"], ["a b", "b"], {"b": "b", "a\u00a0b": "a b"}),
        (["true", "false"], ["False", "True"], {"true": "True", "false": "False"}),
        (["TRUE"], ["true", "false"], {"TRUE": "true"}),
        (["1", "0"], ["False", "True"], {"1": "True", "0": "False"}),
        (["True", "False"], ["0", "1"], {"True": "1", "False": "0"}),
        (["1", "0"], ["True", "False"], {}),  # 0 may be the index of True
        (["1", "0"], ["yes", "no"], {}),
        (["true", "0"], ["False", "True"], {}),
        (["true"], ["True", "False", "None"], {}),
        (["Yes"], ["yes", "no"], {}),
    ],
)
def test_names_are_matched_with_labels(names: list[str], labels: list[str], match: dict[str, str]) -> None:
    assert match_labels(names, labels) == match


def test_spellings_are_joined_into_the_plain_one_and_booleans_whatever_their_case() -> None:
    assert join_spellings(["a", "b  c", "b c", "d  e"]) == {"b  c": "b c", "b c": "b c"}
    assert join_spellings(["True", "False"]) == {}
    assert join_spellings(["True", "TRUE", "False"]) == {"True": "true", "TRUE": "true", "False": "false"}
    assert join_spellings(["True", "true", "maybe"]) == {}
    assert join_spellings(["\u200b", "a"]) == {"\u200b": ""}


def test_a_task_refuses_two_labels_that_look_the_same() -> None:
    with pytest.raises(ConfigError, match="label names must differ"):
        Task("t", "classification", ("a b", "a\u00a0b"), ("accuracy",), 1)
