"""Relations: FSP matrices against explicit loops, row similarities against their closed form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from distilect.errors import MethodError
from distilect.knowledge import build_knowledge
from distilect.knowledge.relation import Relation, Similarity, _random_basis, fsp_matrix, row_similarity
from tests.knowledge.making import agreeing, layout, no_labels, randn, student_outputs, teacher_signals

LENGTHS = (5, 3, 1)
BASIS = [  # of width 8 and dim 3
    [-0.34732, -0.51184, -0.20017],
    [0.50616, -0.1653, -0.65536],
    [-0.39441, 0.09098, -0.68627],
    [-0.44464, 0.07307, -0.11943],
    [-0.05376, 0.08856, -0.01704],
    [0.39141, 0.50604, -0.20522],
    [0.25871, -0.42868, 0.04084],
    [0.21652, -0.49939, 0.03355],
]


def naive_fsp(lower, upper, length):
    """Three explicit loops, in float64: G[a, b] = Σ_t lower[t, a] · upper[t, b] / n."""
    width = lower.shape[-1]
    matrix = torch.zeros(width, width, dtype=torch.float64)
    for a in range(width):
        for b in range(width):
            for t in range(length):
                matrix[a, b] += lower[t, a].item() * upper[t, b].item() / length
    return matrix


def test_the_fsp_matrix_is_the_mean_outer_product_over_real_tokens():
    lower, upper = randn(3, 5, 4, seed=1), randn(3, 5, 4, seed=2)
    mask = torch.arange(5) < torch.tensor(LENGTHS).unsqueeze(1)
    for given in (mask, mask.float()):
        got = fsp_matrix(lower, upper, given)
        for row, length in enumerate(LENGTHS):
            torch.testing.assert_close(
                got[row].double(), naive_fsp(lower[row], upper[row], length), atol=1e-6, rtol=1e-5
            )


def test_relation_is_the_mean_squared_difference_of_neighbouring_matrices():
    student, teachers = student_outputs(LENGTHS), teacher_signals(LENGTHS)
    got = Relation(layout(), dim=None)(student, teachers, no_labels(3))
    fields = teachers.fields[0]
    for row, n in enumerate(LENGTHS):
        terms = []
        for (s, t), (s2, t2) in (((1, 2), (2, 4)), ((2, 4), (3, 6))):
            ours = naive_fsp(student.hidden[s][row], student.hidden[s2][row], n)
            theirs = naive_fsp(fields[f"hidden.{t}"][row], fields[f"hidden.{t2}"][row], n)
            terms.append(((ours - theirs) ** 2).mean())
        assert got[row, 0].item() == pytest.approx(float(sum(terms)) / 2, rel=1e-4)


def test_the_random_basis_is_the_same_in_every_process_and_version():
    """Sizes of kinds, learned selectors and resumed runs belong to one basis. Columns are compared up to their sign."""
    torch.manual_seed(1)  # whatever was drawn before
    got = _random_basis(8, 3)
    torch.testing.assert_close(got.T @ got, torch.eye(3), atol=1e-5, rtol=0)
    expected = torch.tensor(BASIS)
    torch.testing.assert_close(got * (got[0] * expected[0]).sign(), expected, atol=1e-4, rtol=0)
    assert not torch.equal(_random_basis(8, 2), got[:, :2]) and not torch.equal(_random_basis(9, 3)[:8], got)


def test_a_projected_relation_is_the_relation_of_projected_states():
    student, teachers = student_outputs(LENGTHS), teacher_signals(LENGTHS)
    basis = _random_basis(8, 3)
    small = replace(student, hidden=tuple(h @ basis for h in student.hidden))
    fields = [{n: v @ basis for n, v in teachers.fields[0].items()}]
    expected = Relation(layout((3, 3), [(6, 3)]), dim=None)(small, replace(teachers, fields=fields), no_labels(3))
    torch.testing.assert_close(
        Relation(layout(), dim=3)(student, teachers, no_labels(3)), expected, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("padding", [{"left": True}, {"padded": 11}, {"left": True, "padded": 9}])
def test_padding_never_changes_a_relation(padding):
    teachers = teacher_signals(LENGTHS)
    for kind in (Relation(layout(), dim=4), Similarity(layout())):
        plain = kind(student_outputs(LENGTHS, junk=0.0), teachers, no_labels(3))
        torch.testing.assert_close(kind(student_outputs(LENGTHS, **padding), teachers, no_labels(3)), plain)


def test_a_relation_of_one_row_does_not_depend_on_the_other_rows():
    kind, everyone = Relation(layout()), teacher_signals(LENGTHS)
    student = student_outputs(LENGTHS)
    rows = torch.tensor([2, 0])
    fields = [{n: v[rows] for n, v in everyone.fields[0].items()}]
    some = kind(student.take(rows), replace(everyone, logits=everyone.logits[rows], fields=fields), no_labels(2))
    torch.testing.assert_close(some, kind(student, everyone, no_labels(3))[rows])


@pytest.mark.parametrize(
    "make", [lambda: Relation(layout()), lambda: Relation(layout(), dim=3), lambda: Similarity(layout())]
)
def test_a_student_equal_to_its_teacher_has_loss_zero_and_gradient_zero(make):
    kind, student = make(), student_outputs(LENGTHS)
    signals = agreeing(student, [(1, 2), (2, 4), (3, 6)])
    got = kind(student, signals, no_labels(3))
    gradients = torch.autograd.grad(got.sum(), student.hidden[1:], allow_unused=True)
    assert got.abs().max() < 1e-10
    assert all(g is None or g.abs().max() < 1e-5 for g in gradients)


def test_a_row_without_a_real_token_gives_no_nan():
    student, teachers = student_outputs((4, 0), junk=0.0), teacher_signals((4, 0))
    for kind in (Relation(layout()), Similarity(layout())):
        got = kind(student, teachers, no_labels(2))
        gradients = torch.autograd.grad(got.sum(), student.hidden[3])
        assert torch.isfinite(got).all() and torch.isfinite(gradients[0]).all()


def test_the_random_basis_is_orthonormal_and_the_same_in_every_model():
    basis = _random_basis(32, 8)
    torch.testing.assert_close(basis.T @ basis, torch.eye(8), atol=1e-5, rtol=0)
    torch.manual_seed(123)
    assert torch.equal(basis, _random_basis(32, 8))
    assert torch.equal(_random_basis(6, 8), torch.eye(6)) and torch.equal(_random_basis(6, None), torch.eye(6))


def test_building_a_relation_does_not_disturb_the_global_random_state():
    before = torch.get_rng_state()
    _random_basis(16, 4)
    assert torch.equal(before, torch.get_rng_state())


def test_projections_and_bases_follow_each_teachers_width():
    kind = Relation(layout((3, 8), [(6, 8), (6, 12)]), dim=5)
    assert [name for name, _ in kind.named_parameters()] == ["projections.maps.1.weight"]
    assert "basis_0" not in kind.state_dict()  # a fixed map is made again, not shipped in checkpoints
    student, teachers = student_outputs(LENGTHS), teacher_signals(LENGTHS, [(6, 8), (6, 12)])
    got = kind(student, teachers, no_labels(3))
    got.sum().backward()
    assert got.shape == (3, 2) and kind.projections.maps[1].weight.grad.any()


@pytest.mark.parametrize("dim", [0, -3])
def test_a_dim_that_would_leave_an_empty_matrix_is_refused(dim):
    with pytest.raises(MethodError, match="dim is"):
        build_knowledge({"relation": {"dim": dim}}, layout())


def test_one_mapped_layer_has_no_neighbour():
    with pytest.raises(MethodError, match="at least two mapped layers"):
        build_knowledge({"relation": {}}, layout((1, 8), [(6, 8)]))


def test_row_similarity_is_the_cosine_of_every_pair():
    pooled = randn(4, 6, seed=5)
    got = row_similarity(pooled)
    for i in range(4):
        for j in range(4):
            assert float(got[i, j]) == pytest.approx(
                float(torch.cosine_similarity(pooled[i], pooled[j], dim=0)), abs=1e-6
            )


def test_similarity_is_the_mean_squared_difference_of_a_rows_cosines():
    student, teachers = student_outputs(LENGTHS), teacher_signals(LENGTHS)
    got = Similarity(layout())(student, teachers, no_labels(3))
    ours, theirs = student.at_cls(3).detach(), teachers.fields[0]["cls.6"]
    for i in range(3):
        terms = [
            float(
                torch.cosine_similarity(ours[i], ours[j], dim=0) - torch.cosine_similarity(theirs[i], theirs[j], dim=0)
            )
            ** 2
            for j in range(3)
        ]
        assert got[i, 0].item() == pytest.approx(sum(terms) / 3, rel=1e-4, abs=1e-7)


def test_similarity_needs_no_projection_between_widths():
    kind = Similarity(layout((3, 8), [(6, 20)]))
    assert list(kind.parameters()) == [] and list(kind.teacher_fields(0)) == ["cls.6"]
    got = kind(student_outputs(LENGTHS), teacher_signals(LENGTHS, [(6, 20)]), no_labels(3))
    assert got.shape == (3, 1) and (got > 0).all()


def test_similarity_of_zero_vectors_gives_no_nan():
    student, teachers = student_outputs(LENGTHS), teacher_signals(LENGTHS)
    student = replace(student, hidden=tuple(torch.zeros_like(h).requires_grad_() for h in student.hidden))
    got = Similarity(layout())(student, teachers, no_labels(3))
    (gradient,) = torch.autograd.grad(got.sum(), student.hidden[3])
    assert torch.isfinite(got).all() and torch.isfinite(gradient).all()
