"""What answers say of labels: closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distilect.models.label_answers import (
    Position,
    of_alternatives,
    of_numbers,
    of_samples,
    of_sets,
    of_whole_labels,
    plain,
)


def at(token: str, **alternatives: float) -> Position:
    """A place; `_` stands for a space."""
    found = {name.replace("_", " ").encode(): math.log(p) for name, p in alternatives.items()}
    return Position(token.encode(), found)


def chances(logits: np.ndarray | None) -> list[float]:
    assert logits is not None and logits.dtype == np.float32
    return np.exp(logits.astype(float)).round(4).tolist()


def test_spellings_of_a_token_count_for_one_label_and_the_rest_is_normalised() -> None:
    found = of_alternatives(["yes", "no"], [at("yes", yes=0.7, no=0.2, Yes=0.05)])
    assert chances(found) == [round(0.75 / 0.95, 4), round(0.2 / 0.95, 4)]


def test_labels_of_several_tokens_are_followed_to_where_they_differ() -> None:
    places = [at("very", very=0.8, neutral=0.15), at(" good", _good=0.6, _bad=0.4)]
    found = of_alternatives(["very good", "very bad", "neutral"], places)
    assert chances(found) == [round(p / 0.95, 4) for p in (0.48, 0.32, 0.15)]


def test_a_token_that_two_labels_begin_with_is_shared_among_them() -> None:
    found = of_alternatives(["very good", "very bad", "neutral"], [at("neutral", neutral=0.6, very=0.3)])
    assert chances(found) == [round(p / 0.9, 4) for p in (0.15, 0.15, 0.6)]


def test_a_label_that_is_the_beginning_of_another_one_ends_where_the_answer_ends() -> None:
    labels = ["good", "good enough"]
    assert chances(of_alternatives(labels, [at("good", good=0.9)])) == [1.0, 0.0]
    stopped = [at("good", good=0.9), Position(b".", {b".": math.log(0.7), b" enough": math.log(0.3)})]
    assert chances(of_alternatives(labels, stopped)) == [0.7, 0.3]


def test_a_letter_in_two_tokens_is_put_together() -> None:
    letters = "很好".encode()
    first = Position(letters[:2], {letters[:2]: math.log(0.6), "不".encode(): math.log(0.3)})
    found = of_alternatives(["很好", "不好"], [first, Position(letters[2:], {letters[2:]: 0.0})])
    assert chances(found) == [round(2 / 3, 4), round(1 / 3, 4)]


def test_an_answer_without_any_label_is_none() -> None:
    assert of_alternatives(["yes", "no"], [at("I", I=0.99, perhaps=0.01)]) is None


def test_an_answer_that_prefers_to_say_something_else_is_none() -> None:
    """Of "The text is …" the only label among the likeliest tokens would be certain, by a probability of 0.07."""
    assert of_alternatives(["positive", "negative"], [at("The", The=0.5, Positive=0.07)]) is None
    assert of_alternatives(["positive", "negative"], [at("The", The=0.4, Positive=0.3, negative=0.25)]) is not None


def test_whole_labels_are_scored_by_all_of_their_tokens_and_the_line_end() -> None:
    """Without the line's end "x" would be as likely as everything that begins with it."""
    tokens = [["p", "q", " x", "\n"], ["p", "q", " x", " y", "\n"]]
    logprobs = [[None, -5.0, -1.0, -0.2], [None, -5.1, -1.0, -1.8, -0.1]]  # the prompt's differ by noise
    found = of_whole_labels(tokens, logprobs)
    assert found[0] - found[1] == pytest.approx(-0.2 + 1.9)
    assert np.exp(found).sum() == pytest.approx(1)


def test_tokens_that_are_not_those_of_prompt_and_label_are_refused() -> None:
    for tokens in ([["x"], ["y"]], [["p", "x"], ["p"]], [["p"], ["p"]]):
        with pytest.raises(ValueError, match="not those of prompt and label"):
            of_whole_labels(tokens, [[None, -1.0][: len(one)] for one in tokens])


def test_samples_are_counted_with_one_more_spread_evenly() -> None:
    found, off = of_samples(["a", "b"], ["A.", "a", "perhaps", '<think>b?</think>\n"b"\nas I said'])
    assert chances(found) == [round(2.5 / 4, 4), round(1.5 / 4, 4)] and off == 1
    assert of_samples(["a", "b"], ["perhaps"]) == (None, 1)


def test_sets_have_a_label_per_line_or_commas_or_none() -> None:
    found, off = of_sets(["a", "b", "c"], ["a\nb", "- a", "none", "a, c", "what", ""])
    assert off == 2 and found is not None
    assert (1 / (1 + np.exp(-found))).tolist() == pytest.approx([3.5 / 5, 1.5 / 5, 1.5 / 5])
    assert of_sets(["a"], ["?"]) == (None, 1)


def test_numbers_are_averaged() -> None:
    found, off = of_numbers(["3.5 of 5", "about four", "-1e1", "<think>7</think> 4"])
    assert off == 1 and found is not None and found.tolist() == pytest.approx([-2.5 / 3])
    assert of_numbers(["none"]) == (None, 1)


def test_case_quotes_and_a_final_stop_do_not_count() -> None:
    assert {plain(text) for text in ("Yes", " **yes** ", '"yes".', "yes:")} == {"yes"}
    assert plain("C++") != plain("C")
