"""Views on the student's states, and the registry of kinds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from distilect.errors import MethodError
from distilect.knowledge import KNOWLEDGE, build_knowledge
from tests.knowledge.making import layout, student_outputs

LENGTHS = (5, 3, 1)


def test_tokens_stand_first_in_their_order_whatever_side_is_padded():
    left, right = student_outputs(LENGTHS, left=True, padded=7), student_outputs(LENGTHS)
    assert torch.equal(left.token_mask()[:, :5], right.mask) and not left.token_mask()[:, 5:].any()
    for layer in range(4):
        assert torch.equal(left.tokens(layer)[left.token_mask()], right.tokens(layer)[right.token_mask()])


def test_pooled_states_are_of_the_right_token_on_either_side():
    left, right = student_outputs(LENGTHS, left=True, padded=7), student_outputs(LENGTHS)
    torch.testing.assert_close(left.at_cls(2), right.at_cls(2))
    torch.testing.assert_close(left.mean(2), right.mean(2))
    expected = torch.stack([right.hidden[2][i, :n].mean(0) for i, n in enumerate(LENGTHS)])
    torch.testing.assert_close(right.mean(2), expected)


def test_taking_rows_takes_them_in_every_part():
    student, rows = student_outputs(LENGTHS, left=True), torch.tensor([2, 0])
    some = student.take(rows)
    assert torch.equal(some.logits, student.logits[rows])
    assert torch.equal(some.at_cls(3), student.at_cls(3)[rows])
    assert torch.equal(some.tokens(1), student.tokens(1)[rows])


def test_hidden_states_that_nobody_asked_for_are_named_as_missing():
    with pytest.raises(RuntimeError, match="without hidden states"):
        replace(student_outputs(), hidden=None).at_cls(1)


def test_kinds_come_in_the_order_of_the_spec():
    """Weights of kinds are matched by position: any other order would weigh the wrong loss."""
    for order in (("labels", "response", "feature", "relation"), ("relation", "feature", "response", "labels")):
        assert [k.name for k in build_knowledge({name: {} for name in order}, layout())] == list(order)


def test_options_may_be_left_empty():
    kinds = build_knowledge({"labels": None, "response": {}}, layout())
    assert [k.name for k in kinds] == ["labels", "response"]


def test_an_unknown_kind_or_option_names_the_nearest():
    with pytest.raises(MethodError, match=r"no kind of knowledge is called 'respnse'.*Did you mean 'response'\?"):
        build_knowledge({"respnse": {}}, layout())
    with pytest.raises(MethodError, match=r"'response': unknown option 'temprature'.*Did you mean 'temperature'\?"):
        build_knowledge({"response": {"temprature": 2}}, layout())
    with pytest.raises(MethodError, match="unknown option 'layout'"):
        build_knowledge({"labels": {"layout": 1}}, layout())


def test_a_value_of_the_wrong_type_is_the_users_error():
    with pytest.raises(MethodError, match="kind of knowledge 'response'"):
        build_knowledge({"response": {"temperature": "hot"}}, layout())


def test_every_kind_says_what_it_is():
    for name, kind in KNOWLEDGE.items():
        assert kind.name == name and len(kind.summary) > 10 and kind.__doc__
        built = build_knowledge({name: {}}, layout())[0]
        looks_inside = built.needs_hidden() or bool(built.attention_layers())
        assert bool(built.teacher_fields(0)) == looks_inside
