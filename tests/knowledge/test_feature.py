"""Hidden states of mapped layers: padding never enters, widths may differ, nothing is divided by nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from distilect.errors import MethodError
from distilect.knowledge import build_knowledge
from distilect.knowledge.feature import Feature, masked_mse
from distilect.models import even_layer_map
from tests.knowledge.making import agreeing, layout, no_labels, randn, student_outputs, teacher_signals

TOKENS = ("all", "cls", "mean")
LENGTHS = (5, 3, 1)


def pairs_of(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    return Feature(layout((student_layers, 8), [(teacher_layers, 8)])).pairs[0]


def naive_mse(student, teacher, length):
    """Explicit loops over tokens and width of one row."""
    total, count = 0.0, 0
    for t in range(length):
        for h in range(student.shape[-1]):
            total += (student[t, h].item() - teacher[t, h].item()) ** 2
            count += 1
    return total / count


def test_all_tokens_is_the_mean_over_real_tokens_width_and_layers():
    student, teachers = student_outputs(LENGTHS), teacher_signals(LENGTHS)
    got = Feature(layout())(student, teachers, no_labels(3))
    for row, length in enumerate(LENGTHS):
        terms = [
            naive_mse(student.hidden[s][row], teachers.fields[0][f"hidden.{t}"][row], length)
            for s, t in ((1, 2), (2, 4), (3, 6))
        ]
        assert got[row, 0].item() == pytest.approx(sum(terms) / 3, rel=1e-5)


def test_embeddings_are_one_more_pair_of_layers():
    student, teachers = student_outputs(LENGTHS), teacher_signals(LENGTHS)
    embeddings = randn(3, 5, 8, seed=77) * student.token_mask().unsqueeze(-1)
    fields = [{**teachers.fields[0], "hidden.0": embeddings}]
    kind = Feature(layout(), embeddings=True)
    assert kind.teacher_fields(0) == ["hidden.0", "hidden.2", "hidden.4", "hidden.6"]
    got = kind(student, replace(teachers, fields=fields), no_labels(3))
    without = Feature(layout())(student, teachers, no_labels(3))
    for row, length in enumerate(LENGTHS):
        own = naive_mse(student.hidden[0][row], embeddings[row], length)
        assert got[row, 0].item() == pytest.approx((own + 3 * without[row, 0].item()) / 4, rel=1e-5)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("padding", [{"left": True}, {"padded": 11}, {"left": True, "padded": 9}, {"junk": -77.0}])
def test_padding_never_changes_a_value_or_a_gradient(tokens, normalize, padding):
    kind, teachers = Feature(layout(), tokens=tokens, normalize=normalize), teacher_signals(LENGTHS)
    plain, padded = student_outputs(LENGTHS, junk=0.0), student_outputs(LENGTHS, **padding)
    one, other = (kind(outputs, teachers, no_labels(3)) for outputs in (plain, padded))
    torch.testing.assert_close(one, other)
    for layer in range(1, 4):
        (ours,) = torch.autograd.grad(one.sum(), plain.hidden[layer], retain_graph=True)
        (theirs,) = torch.autograd.grad(other.sum(), padded.hidden[layer], retain_graph=True)
        torch.testing.assert_close(ours[plain.mask], theirs[padded.mask])
        assert not theirs[~padded.mask].any()


@pytest.mark.parametrize("padded", [5, 8])
def test_teachers_may_be_padded_further_than_the_student(padded):
    student = student_outputs(LENGTHS, padded=6)
    got = Feature(layout())(student, teacher_signals(LENGTHS, padded=padded), no_labels(3))
    torch.testing.assert_close(got, Feature(layout())(student_outputs(LENGTHS), teacher_signals(LENGTHS), no_labels(3)))


@pytest.mark.parametrize("tokens", TOKENS)
def test_a_row_without_a_real_token_gives_no_nan(tokens):
    student, teachers = student_outputs((4, 0)), teacher_signals((4, 0))
    student = replace(
        student, hidden=tuple((h.detach() * student.mask.unsqueeze(-1)).requires_grad_() for h in student.hidden)
    )
    got = Feature(layout(), tokens=tokens, normalize=True)(student, teachers, no_labels(2))
    gradients = torch.autograd.grad(got.sum(), student.hidden[1:])
    assert torch.isfinite(got).all() and all(torch.isfinite(g).all() for g in gradients)
    if tokens == "all":
        assert got[1, 0] == 0 and not gradients[0][1].any()


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("normalize", [False, True])
def test_a_student_equal_to_its_teacher_has_loss_zero_and_gradient_zero(tokens, normalize):
    kind, student = Feature(layout(), tokens=tokens, normalize=normalize), student_outputs(LENGTHS)
    got = kind(student, agreeing(student, kind.pairs[0]), no_labels(3))
    gradients = torch.autograd.grad(got.sum(), student.hidden[1:])
    assert torch.equal(got, torch.zeros(3, 1))
    assert not any(g.any() for g in gradients)


@pytest.mark.parametrize("tokens", TOKENS)
def test_normalisation_is_over_the_width_so_that_a_tokens_length_does_not_count(tokens):
    """Over the sequence, scaling one token would change all others."""
    kind, teachers = Feature(layout(), tokens=tokens, normalize=True), teacher_signals(LENGTHS)
    student = student_outputs(LENGTHS)
    scale = torch.rand(3, 5, 1, generator=torch.Generator().manual_seed(0)) + 0.5
    if tokens == "mean":
        scale = scale[:, :1]  # of a mean, only the whole row's scale drops out
    scaled = replace(student, hidden=tuple(h * scale for h in student.hidden))
    torch.testing.assert_close(
        kind(student, teachers, no_labels(3)), kind(scaled, teachers, no_labels(3)), rtol=1e-4, atol=1e-5
    )


def test_the_normalised_distance_is_two_less_twice_the_cosine_whatever_the_width():
    for width in (8, 64):
        student, teachers = student_outputs(LENGTHS, width=width), teacher_signals(LENGTHS, [(3, width)])
        got = Feature(layout((3, width), [(3, width)]), tokens="cls", normalize=True)(student, teachers, no_labels(3))[
            :, 0
        ]
        cosines = [torch.cosine_similarity(student.at_cls(j), teachers.fields[0][f"cls.{j}"], dim=1) for j in (1, 2, 3)]
        torch.testing.assert_close(got, torch.stack([2 - 2 * c for c in cosines]).mean(0))


@pytest.mark.parametrize("side", ["student", "teacher", "both"])
def test_zero_vectors_give_no_nan_when_normalised(side):
    student, teachers = student_outputs(LENGTHS), teacher_signals(LENGTHS)
    if side != "teacher":
        student = replace(student, hidden=tuple(torch.zeros_like(h).requires_grad_() for h in student.hidden))
    if side != "student":
        teachers = replace(teachers, fields=[{n: torch.zeros_like(v) for n, v in teachers.fields[0].items()}])
    for tokens in TOKENS:
        got = Feature(layout(), tokens=tokens, normalize=True)(student, teachers, no_labels(3))
        gradients = torch.autograd.grad(got.sum(), student.hidden[1:])
        assert torch.isfinite(got).all() and all(torch.isfinite(g).all() for g in gradients)


def test_masked_mse_of_nothing_is_zero_with_a_graph():
    states = randn(2, 3, 4).requires_grad_()
    loss = masked_mse(states, torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool))
    assert loss.tolist() == [0.0, 0.0] and loss.requires_grad


@pytest.mark.parametrize(("student", "teacher"), [(3, 12), (4, 6), (5, 12), (3, 7), (1, 5), (6, 6), (2, 24), (5, 3)])
def test_the_last_layers_are_paired_and_the_embeddings_never_without_exact_divisibility(student, teacher):
    pairs = pairs_of(student, teacher)
    assert [s for s, _ in pairs] == list(range(1, student + 1))
    targets = [t for _, t in pairs]
    assert targets == list(even_layer_map(student, teacher))
    assert targets[-1] == teacher and min(targets) >= 1
    assert targets == sorted(targets)
    if student <= teacher:
        assert len(set(targets)) == student
        gaps = [b - a for a, b in zip([0, *targets], targets, strict=False)]
        assert max(gaps) - min(gaps) <= 1  # evenly spaced


def test_own_pairs_of_layers_are_used_and_asked_for():
    kind = Feature(layout(), tokens="cls", layers=[[1, 6], [3, 1]])
    assert list(kind.teacher_fields(0)) == ["cls.6", "cls.1"]
    student, teachers = student_outputs(LENGTHS), teacher_signals(LENGTHS)
    expected = [((student.at_cls(s) - teachers.fields[0][f"cls.{t}"]) ** 2).mean(1) for s, t in ((1, 6), (3, 1))]
    torch.testing.assert_close(kind(student, teachers, no_labels(3))[:, 0], (expected[0] + expected[1]) / 2)


@pytest.mark.parametrize("layers", [[[0, 1]], [[4, 1]], [[1, 7]], [[1, 0]], [], [[1]], [[1, 2, 3]]])
def test_layers_that_do_not_exist_are_refused_before_training(layers):
    with pytest.raises(MethodError, match="layers"):
        build_knowledge({"feature": {"layers": layers}}, layout())


@pytest.mark.parametrize("kind", ["feature", "relation", "similarity"])
def test_a_table_teacher_has_no_hidden_states_to_copy(kind):
    with pytest.raises(MethodError, match="'teacher-1' gives outputs only"):
        build_knowledge({kind: {}}, layout(teachers=[(6, 8), (0, 0)]))


@pytest.mark.parametrize(("kind", "remedy"), [("feature", "tokens: cls"), ("relation", "similarity")])
def test_other_tokens_cannot_be_compared_token_by_token(kind, remedy):
    with pytest.raises(MethodError, match=f"teacher 'teacher-0' has another tokenizer.*{remedy}"):
        build_knowledge({kind: {}}, layout(same_tokens=False))


def test_pooled_features_work_across_tokenizers():
    for tokens in ("cls", "mean"):
        student, teachers = student_outputs((5, 3, 1)), teacher_signals((2, 7, 4))
        assert torch.isfinite(Feature(layout(same_tokens=False), tokens=tokens)(student, teachers, no_labels(3))).all()


def test_projections_exist_only_where_widths_differ_and_are_trained():
    kind = Feature(layout((3, 8), [(6, 8), (6, 12), (4, 5)]))
    assert {name: tuple(p.shape) for name, p in kind.named_parameters()} == {
        "projections.maps.1.weight": (12, 8),
        "projections.maps.2.weight": (5, 8),
    }
    student, teachers = student_outputs(LENGTHS), teacher_signals(LENGTHS, [(6, 8), (6, 12), (4, 5)])
    got = kind(student, teachers, no_labels(3))
    assert got.shape == (3, 3)
    got.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in kind.parameters())
    assert list(Feature(layout((3, 8), [(6, 8)])).parameters()) == []


def test_a_trained_projection_finds_a_teacher_that_is_a_linear_map_of_the_student():
    torch.manual_seed(0)
    kind = Feature(layout((1, 4), [(1, 6)]), tokens="cls")
    truth = randn(6, 4, seed=3)
    student = student_outputs((2,) * 40, layers=1, width=4)
    teachers = teacher_signals((2,) * 40, [(1, 6)])
    teachers = replace(teachers, fields=[{"cls.1": (student.at_cls(1) @ truth.T).detach()}])
    optimizer = torch.optim.Adam(kind.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss = kind(student, teachers, no_labels(40)).mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-4
    torch.testing.assert_close(kind.projections.maps[0].weight.detach(), truth, atol=0.02, rtol=0.02)


def test_stored_half_precision_states_are_compared_in_float32():
    student, teachers = student_outputs(LENGTHS), teacher_signals(LENGTHS)
    half = replace(teachers, fields=[{n: v.half() for n, v in teachers.fields[0].items()}])
    got = Feature(layout())(student, half, no_labels(3))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, Feature(layout())(student, teachers, no_labels(3)), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("options", [{"tokens": "CLS"}, {"token": "cls"}])
def test_misspelt_options_are_refused(options):
    with pytest.raises(MethodError, match="tokens"):
        build_knowledge({"feature": options}, layout())


def test_each_teacher_is_compared_with_its_own_states_only():
    kind = Feature(layout(teachers=[(6, 8), (3, 8)]), tokens="cls")
    student, teachers = student_outputs(LENGTHS), teacher_signals(LENGTHS, [(6, 8), (3, 8)])
    got = kind(student, teachers, no_labels(3))
    changed = replace(teachers, fields=[teachers.fields[0], {n: v + 1 for n, v in teachers.fields[1].items()}])
    other = kind(student, changed, no_labels(3))
    assert torch.equal(got[:, 0], other[:, 0]) and not torch.isclose(got[:, 1], other[:, 1]).any()
