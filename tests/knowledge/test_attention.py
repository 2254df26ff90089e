"""Attention relations against explicit loops, pooled vectors against their closed form, and where queries, keys and values come from."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import MPNetConfig, MPNetForSequenceClassification

from distilect.config import TeacherConfig
from distilect.data import Table
from distilect.errors import MethodError
from distilect.knowledge import StudentOutputs, build_knowledge
from distilect.knowledge.attention import PARTS, Attention
from distilect.knowledge.pooled import Pooled
from distilect.models import attention_maps, captured, keeps_attention, load_teacher
from distilect.signals import LiveSignals, SignalStore, TeacherSignals, prepare_signals
from distilect.tasks import Task
from tests.knowledge.making import agreeing, layout, no_labels, randn, student_outputs, teacher_signals
from tests.tiny import FAMILIES, tiny_bert

LENGTHS = (5, 3, 1)
TASK = Task("toy", "classification", ("neg", "pos"), ("accuracy",), 1)


def outputs(left: bool = False, padded: int | None = None, width: int = 8) -> StudentOutputs:
    """Queries, keys and values of layer 3 that depend on (row, token) alone; junk on padding."""
    made = student_outputs(LENGTHS, left=left, padded=padded)
    attention = {}
    for number, part in enumerate(PARTS):
        values = torch.full((3, made.mask.shape[1], width), 1e6)
        values[made.mask] = torch.cat([randn(n, width, seed=100 * number + row) for row, n in enumerate(LENGTHS)])
        attention[f"{part}.3"] = values
    return replace(made, attention=attention)


def signals(width: int = 8, seed: int = 7) -> TeacherSignals:
    plain = teacher_signals(LENGTHS)
    fields = {f"{part}.6": torch.zeros(3, 5, width) for part in PARTS}
    for number, values in enumerate(fields.values()):
        for row, n in enumerate(LENGTHS):
            values[row, :n] = randn(n, width, seed=seed + 31 * number + row)
    return replace(plain, fields=[fields])


def test_mpnet_keeps_its_attention_apart():
    config = MPNetConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32
    )
    model = MPNetForSequenceClassification(config).eval()
    assert keeps_attention(model)
    with captured(model, [1, 3]) as found:
        model(torch.randint(4, 50, (2, 7)))
    assert {name: tuple(values.shape) for name, values in found.items()} == {
        f"{part}.{layer}": (2, 7, 16) for part in PARTS for layer in (1, 3)
    }


def naive(student: torch.Tensor, teacher: torch.Tensor, heads: int) -> float:
    """One row without padding: for every head and query, KL over keys, in float64."""
    total, n = 0.0, len(student)
    for h in range(heads):
        logs = []
        for values in (teacher, student):
            d = values.shape[1] // heads
            part = values[:, h * d : (h + 1) * d].double()
            logs.append((part @ part.T / math.sqrt(d)).log_softmax(-1))
        total += float((logs[0].exp() * (logs[0] - logs[1])).sum()) / n
    return total / heads


@pytest.mark.parametrize(("heads", "width"), [(2, 8), (1, 8), (2, 12)])
def test_attention_is_the_kl_of_relations_per_head_whatever_the_teachers_width(heads: int, width: int) -> None:
    student, teachers = outputs(), signals(width)
    found = Attention(layout(teachers=[(6, width)]), heads=heads)(student, teachers, no_labels(3))
    for row, n in enumerate(LENGTHS):
        terms = [
            naive(student.attention[f"{p}.3"][row, :n].detach(), teachers.fields[0][f"{p}.6"][row, :n], heads)
            for p in PARTS
        ]
        assert found[row, 0].item() == pytest.approx(sum(terms) / 3, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("padding", [{"left": True}, {"padded": 11}, {"left": True, "padded": 9}])
def test_padding_never_enters_attention(padding: dict) -> None:
    kind = Attention(layout(), heads=2)
    expected = kind(outputs(), signals(), no_labels(3))
    torch.testing.assert_close(kind(outputs(**padding), signals(), no_labels(3)), expected)


def test_a_student_that_relates_tokens_as_its_teacher_loses_nothing_and_learns_nothing() -> None:
    student = outputs()
    for values in student.attention.values():
        values.requires_grad_()
    said = {f"{part}.6": student.attention[f"{part}.3"].detach() for part in PARTS}
    found = Attention(layout(), heads=2)(student, TeacherSignals(torch.zeros(3, 1, 4), [said]), no_labels(3))
    assert found.abs().max() < 1e-6
    found.sum().backward()
    assert all(v.grad is not None and v.grad.abs().max() < 1e-5 for v in student.attention.values())


def test_relation_heads_have_sixteen_numbers_where_that_divides_both_widths() -> None:
    assert Attention(layout((3, 768), [(12, 768)])).heads == 48  # MiniLMv2's
    assert Attention(layout((3, 384), [(12, 1024)])).heads == 16
    assert Attention(layout((3, 8))).heads == 1
    with pytest.raises(MethodError, match="heads is 3, expected a number that divides"):
        build_knowledge({"attention": {"heads": 3}}, layout())
    with pytest.raises(MethodError, match="another tokenizer"):
        build_knowledge({"attention": {}}, layout(same_tokens=False))


def test_layers_can_be_named_and_are_asked_for() -> None:
    kind = Attention(layout(), layer=[2, 5])
    assert list(kind.teacher_fields(0)) == ["query.5", "key.5", "value.5"] and list(kind.attention_layers()) == [2]
    assert list(Attention(layout()).attention_layers()) == [3] and not kind.needs_hidden()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pooled_is_one_minus_the_cosine_of_the_last_layers(pooling: str) -> None:
    student, teachers = student_outputs(LENGTHS), teacher_signals(LENGTHS)
    found = Pooled(layout(), pooling=pooling)(student, teachers, no_labels(3))[:, 0]  # type: ignore[arg-type]
    ours = student.at_cls(3) if pooling == "cls" else student.mean(3)
    theirs = teachers.fields[0][f"{pooling}.6"]
    expected = 1 - (ours * theirs).sum(1) / (ours.norm(dim=1) * theirs.norm(dim=1))
    torch.testing.assert_close(found, expected)
    same = Pooled(layout(), pooling=pooling)(student, agreeing(student, [(3, 6)]), no_labels(3))  # type: ignore[arg-type]
    assert same.abs().max() < 1e-6


def test_pooled_projects_where_widths_differ() -> None:
    kind = Pooled(layout(teachers=[(6, 12)]))
    found = kind(student_outputs(LENGTHS), teacher_signals(LENGTHS, [(6, 12)]), no_labels(3))
    assert found.shape == (3, 1) and [p.shape for p in kind.parameters()] == [(12, 8)]


# ---- where queries, keys and values come from ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_captured_values_are_those_of_the_layer_and_no_hook_stays(tmp_path: Path, family: str) -> None:
    teacher = load_teacher(
        TeacherConfig(name="a", path=FAMILIES[family](tmp_path, TASK.labels, layers=3)), TASK, precision="fp32"
    )
    model = teacher.model  # type: ignore[attr-defined]
    inputs = teacher.tokenizer(["a dull story", "good food"], padding=True, return_tensors="pt")  # type: ignore[attr-defined]
    with torch.no_grad():
        model(**inputs, output_hidden_states=True)  # transformers adds hooks of its own, which stay
    hooks = [len(module._forward_hooks) for module in model.modules()]
    with captured(model, [2]) as said, torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states
    assert set(said) == {"query.2", "key.2", "value.2"}
    for part, module in attention_maps(model, 2).items():
        with torch.no_grad():
            torch.testing.assert_close(said[f"{part}.2"], module(hidden[1]))
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


@pytest.mark.parametrize("family", ["albert", "xlnet", "gpt2"])
def test_models_that_keep_them_otherwise_are_refused_in_a_line(tmp_path: Path, family: str) -> None:
    teacher = load_teacher(
        TeacherConfig(name="a", path=FAMILIES[family](tmp_path, TASK.labels)), TASK, precision="fp32"
    )
    with pytest.raises(MethodError, match="leave out attention knowledge"):
        attention_maps(teacher.model, 1)  # type: ignore[attr-defined]
    assert not teacher.can("query.1") and teacher.can("hidden.1")


def test_stored_queries_are_the_live_ones(tmp_path: Path) -> None:
    """Token fields of any name come back without padding, as hidden states do."""
    teacher = load_teacher(TeacherConfig(name="a", path=tiny_bert(tmp_path / "t", TASK.labels)), TASK, precision="fp32")
    table = Table.from_texts(["a dull story", "good", "the film was a joy from the first scene"], [0, 1, 1])
    rows, fields = np.array([2, 0, 1]), [["query.2", "value.1"]]
    source = prepare_signals([teacher], table, SignalStore(tmp_path / "signals"), fields).source
    assert source is not None
    stored, live = source.fetch(table, rows, fields), LiveSignals([teacher]).fetch(table, rows, fields)
    for name in fields[0]:
        torch.testing.assert_close(stored.fields[0][name], live.fields[0][name], atol=2e-3, rtol=2e-3)
