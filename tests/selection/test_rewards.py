"""What learning selectors are rewarded with: closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distilect.knowledge.response import response_kl, response_mse
from distilect.selection.rewards import Moments, correctness
from distilect.selection.rlkd import reward_1, reward_2, reward_3
from distilect.training.state import load_state, save_state


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- the three rewards ---------------------------------------------------------------------------------------------


def two_rows():
    """Students and teachers by their probabilities: two rows, two teachers, two classes, labels 1 and 0."""
    student = torch.tensor([[0.5, 0.5], [0.8, 0.2]]).log()
    teachers = torch.tensor([[[0.5, 0.5], [0.25, 0.75]], [[0.8, 0.2], [0.8, 0.2]]]).log()
    return student, torch.tensor([1, 0]), teachers


def response(student, teachers):
    return response_kl(student, teachers, 1.0)


def test_reward_1_is_the_log_probability_of_the_label():
    student, labels, _ = two_rows()
    torch.testing.assert_close(reward_1(student, labels), torch.tensor([np.log(0.5), np.log(0.8)]).float())


def test_reward_2_takes_the_mean_distance_to_all_teachers_or_to_the_selected_ones():
    student, labels, teachers = two_rows()
    gap = 0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)  # of the second teacher on the first row
    over_pool = torch.tensor([np.log(0.5) - gap / 2, np.log(0.8)]).float()
    torch.testing.assert_close(reward_2(student, labels, teachers, response), over_pool)
    second_and_both = torch.tensor([[False, True], [True, True]])
    over_selected = torch.tensor([np.log(0.5) - gap, np.log(0.8)]).float()
    torch.testing.assert_close(reward_2(student, labels, teachers, response, second_and_both), over_selected)


def test_reward_2_in_regression_is_made_of_squared_errors():
    student, labels = torch.tensor([[1.0]]), torch.tensor([3.0])
    teachers = torch.tensor([[[2.0], [4.0]]])
    assert reward_2(student, labels, teachers, response_mse).tolist() == [-4.0 - (1.0 + 9.0) / 2]


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_reward_3_mixes_the_rows_own_reward_with_the_validation_score(gamma):
    own = torch.tensor([-1.0, -3.0])
    torch.testing.assert_close(reward_3(own, 0.75, gamma), gamma * own + (1 - gamma) * 0.75)


# ---- the validation score -------------------------------------------------------------------------------------------


def test_correctness_is_the_accuracy_on_rows_with_a_label():
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 9.0]])
    assert correctness(logits, torch.tensor([0, 0, 0, 1])) == 0.75
    assert correctness(logits, torch.tensor([0, -100, -100, -100])) == 1.0
    assert correctness(logits, torch.full((4,), -100)) == 0.0
    assert correctness(logits[:0], torch.zeros(0, dtype=torch.int64)) == 0.0


def test_correctness_in_regression_is_r_squared():
    gold = torch.tensor([1.0, 2.0, 3.0, torch.nan])
    assert correctness(torch.tensor([[1.0], [2.0], [3.0], [7.0]]), gold) == 1.0
    assert correctness(torch.tensor([[2.0], [2.0], [2.0], [7.0]]), gold) == 0.0
    assert correctness(torch.tensor([[1.0], [2.0], [4.0], [7.0]]), gold) == pytest.approx(0.5)
    assert correctness(torch.tensor([[3.0], [2.0], [1.0], [7.0]]), gold) == pytest.approx(-3.0)


@pytest.mark.parametrize("gold", [[], [torch.nan, torch.nan], [2.0, 2.0]])
def test_correctness_in_regression_is_0_where_r_squared_does_not_exist(gold):
    assert correctness(torch.ones(len(gold), 1), torch.tensor(gold)) == 0.0


# ---- moments -------------------------------------------------------------------------------------------------------


def test_moments_within_the_window_are_those_of_all_values_however_they_came():
    values, moments = randn(500) * 3 - 7, Moments(window=2000)
    for part in values.split(37):
        moments.add(part)
    assert moments.mean == pytest.approx(float(values.double().mean()), rel=1e-12)
    assert moments.std == pytest.approx(float(values.double().std(unbiased=False)), rel=1e-9)


def test_old_values_are_forgotten_behind_the_window():
    moments = Moments(window=100)
    moments.add(torch.full((1000,), -50.0))
    for _ in range(100):
        moments.add(torch.full((10,), 2.0))
    assert moments.mean == pytest.approx(2.0, abs=2e-3) and moments.std < 0.5


def test_moments_of_a_constant_have_no_deviation_and_nothing_changes_nothing():
    moments = Moments()
    for _ in range(3):
        moments.add(torch.full((7,), -2.3))
        moments.add(torch.zeros(0))
    assert moments.mean == float(torch.tensor(-2.3)) and moments.std == 0.0


def test_moments_go_on_where_they_were_saved(tmp_path):
    whole, again = Moments(), Moments()
    whole.add(randn(30))
    save_state(whole.state_dict(), tmp_path / "state")
    again.load_state_dict(load_state(tmp_path / "state"))
    for moments in (whole, again):
        moments.add(randn(3000, seed=1))
    assert whole.state_dict() == again.state_dict()
