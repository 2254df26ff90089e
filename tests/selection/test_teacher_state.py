"""RL-KD's state: its parts, their scale, and what is hidden."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distilect.knowledge.labels import label_loss
from distilect.selection import StepView, TrainingSample, normalised_entropy
from distilect.selection.teacher_state import StateBuilder, whole
from distilect.training.state import load_state, save_state
from tests.selection.views import make_view

NOTHING, ALL = torch.zeros(12, dtype=torch.bool), torch.ones(12, dtype=torch.bool)


def fitted(view: StepView, encoder: str | None = "backbone", **options: bool) -> StateBuilder:
    builder = StateBuilder(encoder, **options)
    assert view.teachers is not None
    builder.fit(TrainingSample(view.keys, view.labels, view.teachers, view.vectors))
    return builder


def state_of(builder: StateBuilder, view: StepView, visible: Tensor) -> Tensor:
    """float32 [B, K, D]."""
    return whole(*builder(view, visible))


def raw(view: StepView) -> Tensor:
    """The state before it is scaled to mean 0 and deviation 1."""
    return state_of(StateBuilder("backbone"), view, ALL)


def test_the_state_is_the_rows_vector_then_each_teachers_probabilities_loss_and_whether_it_is_seen():
    view = make_view()
    state = raw(view)
    assert state.shape == (12, 3, 5 + 4 + 1 + 1)
    torch.testing.assert_close(state[:, :, :5], view.vectors.unsqueeze(1).expand(12, 3, 5) / 5**0.5)
    torch.testing.assert_close(state[:, :, 5:9], view.teachers.softmax(-1) / 4**0.5)
    for k in range(3):
        torch.testing.assert_close(state[:, k, 9], label_loss(view.teachers[:, k], view.labels))
    assert (state[:, :, 10] == 1).all()


def test_the_hidden_label_block_is_empty_and_marked():
    view = make_view()
    seen, hidden = (state_of(fitted(view), view, visible) for visible in (ALL, NOTHING))
    assert not hidden[:, :, 9:].any() and seen[:, :, 9].any()
    torch.testing.assert_close(seen[:, :, :9], hidden[:, :, :9])


def test_blocks_are_standardised_and_have_unit_size_whatever_their_width():
    view = make_view(4000)
    state = state_of(fitted(view), view, torch.ones(4000, dtype=torch.bool))
    for block in (state[:, 0, :5], state[:, 0, 5:9], state[:, 0, 9:10]):
        assert float(block.mean()) == pytest.approx(0.0, abs=0.02)
        assert float((block**2).sum(1).mean()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("block", ["vectors", "teachers"])
@pytest.mark.parametrize("regression", [False, True])
def test_a_block_that_is_a_thousand_times_larger_gives_the_same_state(block, regression):
    """PAPERS 1.3: unscaled, one block swamps the others."""
    view = make_view(regression=regression)
    if block == "teachers" and not regression:
        pytest.skip("probabilities have their scale")
    loud = replace(view, **{block: 1000 * getattr(view, block)})
    states = [state_of(fitted(v), v, NOTHING) for v in (view, loud)]
    torch.testing.assert_close(states[0], states[1], atol=1e-4, rtol=0)


def test_an_outlier_does_not_decide_alone():
    view = make_view()
    builder = fitted(view)
    vectors = view.vectors.clone()
    vectors[0] = 1e6
    state = state_of(builder, replace(view, vectors=vectors), ALL)
    assert float(state[0, 0, :5].abs().max()) == pytest.approx(4 / 5**0.5)


@pytest.mark.parametrize("joint", [False, True])
def test_certain_teachers_give_no_nan(joint):
    """A cross-entropy of 10,000, and a teacher that rules the label out."""
    view = make_view()
    for worst in (-1e4, -torch.inf):
        teachers = torch.full_like(view.teachers, worst)
        teachers[:, :, 0] = 0.0
        extreme = replace(view, teachers=teachers, student=1e4 * view.student)
        for fit_on in (view, extreme):
            state = state_of(fitted(fit_on, joint=joint, entropy=True), extreme, ALL)
            assert torch.isfinite(state).all() and float(state.abs().max()) < 100


def test_in_regression_the_state_holds_scores_and_squared_errors_of_any_size():
    view = make_view(regression=True)
    view = replace(view, teachers=50 * view.teachers)  # squared errors of thousands
    state = raw(view)
    torch.testing.assert_close(state[:, :, 5:6], view.teachers)
    torch.testing.assert_close(state[:, :, 6], (view.teachers.squeeze(-1) - view.labels.unsqueeze(1)) ** 2)


def test_the_joint_state_holds_all_teachers_and_is_the_same_for_each():
    view = make_view()
    single, joint = (state_of(fitted(view, joint=joint), view, ALL) for joint in (False, True))
    assert joint.shape == (12, 3, 5 + 3 * 6)
    assert torch.equal(joint[:, 0], joint[:, 2])
    torch.testing.assert_close(joint[:, 0, 5:], single[:, :, 5:].flatten(1))


def test_what_all_teachers_share_is_given_once():
    view = make_view()
    for joint, widths in ((False, (5, 6)), (True, (5 + 3 * 6, 0))):
        common, own = fitted(view, joint=joint)(view, ALL)
        assert (common.shape, own.shape) == ((12, widths[0]), (12, 3, widths[1]))


def test_the_entropy_of_teachers_is_in_the_state_where_it_is_wanted():
    view = make_view()
    state = state_of(fitted(view, entropy=True), view, ALL)
    torch.testing.assert_close(state[:, :, -1], normalised_entropy(view.teachers))
    scores = make_view(regression=True)
    given, mean = scores.teachers.squeeze(-1), scores.teachers.squeeze(-1).mean(1, keepdim=True)
    state = state_of(fitted(scores, entropy=True), scores, ALL)
    torch.testing.assert_close(state[:, :, -1], torch.log1p((given - mean) ** 2))


def test_the_vector_is_the_chosen_encoders_whatever_else_the_view_holds():
    """Another selector of the method may have asked for the student's vector, or for a frozen encoder's."""
    view = make_view()
    frozen = state_of(fitted(view), view, ALL)
    assert torch.equal(frozen, state_of(fitted(view), replace(view, pooled=None), ALL))
    own = state_of(fitted(view, "student"), view, ALL)
    assert own.shape == (12, 3, 6 + 6)
    assert torch.equal(own, state_of(fitted(view, "student"), replace(view, vectors=None), ALL))
    torch.testing.assert_close((own[:, 0, :6] ** 2).sum(1), torch.ones(12), atol=1e-3, rtol=0)
    bare = state_of(fitted(view, None), view, ALL)
    assert bare.shape == (12, 3, 6) and torch.equal(bare, frozen[:, :, 5:])


def test_a_state_is_rebuilt_from_what_was_saved(tmp_path):
    view = make_view()
    builder, again = fitted(view), StateBuilder("backbone")
    save_state(builder.moments, tmp_path / "state")
    again.moments = load_state(tmp_path / "state")
    assert torch.equal(state_of(builder, view, ALL), state_of(again, view, ALL))
