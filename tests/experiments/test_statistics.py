"""Means, ranks and tests of a comparison against closed forms and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from distilect.evaluation import holm
from distilect.experiments.statistics import PairedTests, cost_of, groups, pareto
from distilect.tasks import Task
from tests.evaluation.reference import paired_bootstrap
from tests.experiments.made import LABELS, Made, predicted


def test_means_shares_and_ranks() -> None:
    made = Made()
    for seed in (0, 1):
        for method, one, two in (("a", 0.8, 0.6), ("b", 0.7, 0.6), ("c", 0.9, 0.5)):
            made.add(method, one + 0.01 * seed, task="one", seed=seed, teacher=0.9)
            made.add(method, two, task="two", seed=seed, teacher=0.75)
    group = groups(made.results)[0]
    assert group.mean("one", "a") == pytest.approx(0.805)
    assert group.average("a") == pytest.approx((0.805 + 0.6) / 2)
    assert group.average_by_seed("a") == pytest.approx([0.7, 0.705])
    assert group.kept("a", {}) == pytest.approx((0.805 / 0.9 + 0.6 / 0.75) / 2)
    expected = np.mean([stats.rankdata([-0.805, -0.705, -0.905]), stats.rankdata([-0.6, -0.6, -0.5])], axis=0)
    assert list(group.ranks().values()) == pytest.approx(expected)


def test_a_method_that_lacks_a_task_has_no_average_and_no_rank() -> None:
    made = Made().add("a", 0.8).add("a", 0.7, task="two").add("b", 0.9)
    group = groups(made.results)[0]
    assert group.complete == ["a"] and group.average("b") is None and group.kept("b", {}) is None
    assert list(group.ranks()) == ["a"]
    found = {c.method: c for c in PairedTests(made.predictions, 200).against(group, "a")}
    assert found["b"].average is None and set(found["b"].tasks) == {"one"}


def test_scenarios_and_students_are_groups_of_their_own() -> None:
    made = Made().add("a", 0.8).add("a", 0.7, scenario="noisy")
    assert [(g.scenario, g.student) for g in groups(made.results)] == [("ordinary", "s"), ("noisy", "s")]


def test_shares_above_chance_are_of_what_the_teacher_scores_above_one_prediction_for_all_rows() -> None:
    """MRPC: 91 % of the teacher's score was 19 to 43 % of what it has above the majority class."""
    made = Made().add("a", 0.6, teacher=0.9).add("a", 0.8, task="two", teacher=0.8)
    group, tests = groups(made.results)[0], PairedTests(made.predictions, 100)
    chances = tests.chances(group)
    assert {task: chance.score for task, chance in chances.items()} == {"one": 0.5, "two": 0.5}
    assert group.kept("a", chances) == pytest.approx((0.6 / 0.9 + 1) / 2)
    assert group.kept("a", chances, above=True) == pytest.approx((0.1 / 0.4 + 1) / 2)
    assert PairedTests({}, 100).chances(group) == {}


def test_a_task_whose_teacher_is_at_chance_is_in_no_share() -> None:
    made = Made().add("a", 0.72, teacher=0.8).add("a", 0.6, task="rte", teacher=0.54).add("b", 0.7, teacher=0.8)
    group = groups(made.results)[0]
    chances = PairedTests(made.predictions, 100).chances(group)
    assert group.at_chance(chances) == ["rte"] and chances["rte"].limit == pytest.approx(0.5 + 1.645 * 0.5 / 200**0.5)
    assert group.kept("a", chances) == pytest.approx(0.9)
    assert group.kept("a", chances, above=True) == pytest.approx(0.22 / 0.3)
    assert group.kept("b", chances) is None  # not on all tasks
    alone = group.only(["a"])
    alone.tasks = ["rte"]
    assert alone.kept("a", chances) is None


def test_one_seed_and_one_task_is_the_plain_paired_bootstrap() -> None:
    made = Made().add("a", 0.80).add("base", 0.74)
    found = PairedTests(made.predictions, 4000).against(groups(made.results)[0], "base")[0].tasks["one"]
    plain = paired_bootstrap(
        lambda o, y: float((o == y).mean()), predicted(0.80), predicted(0.74), LABELS, resamples=4000, seed=1
    )
    error = math.sqrt(0.06 * 0.94 / 200)  # 6 % of the rows are won, none is lost
    assert found.difference == pytest.approx(0.06) == plain.difference
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.006)
    assert (found.low, found.high) == pytest.approx((0.06 - 1.96 * error, 0.06 + 1.96 * error), abs=0.006)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(0.06 / error), rel=0.5)
    assert abs(found.p_value - plain.p_value) < 0.001


def test_words_are_resampled_by_sentence_and_scored_as_entities() -> None:
    """Against a loop that draws sentences and calls the metric."""
    task = Task("one", "tokens", ("O", "B-a", "I-a"), ("entity_f1",), 1)
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 9, 60))])
    labels = rng.choice(3, size=offsets[-1], p=(0.6, 0.25, 0.15))
    labels[::17] = -100
    answers = {m: np.where(rng.random(len(labels)) < share, labels, 0) for m, share in (("a", 0.9), ("base", 0.7))}
    made = Made().add("a", 0.8).add("base", 0.7)
    made.predictions |= {
        "labels ordinary.one dev": labels.astype(float),
        "offsets ordinary.one dev": offsets.astype(float),
    }
    outputs = {}
    for result in made.results:
        predicted_classes = np.maximum(answers[result["method"]], 0)
        outputs[result["method"]] = np.eye(3)[predicted_classes]
        made.predictions[f"{result['trial']} x"] = predicted_classes.astype(float)
        score = task.score(outputs[result["method"]], labels, offsets=offsets)
        result |= {"task": task.to_dict(), "primary": "entity_f1"}
        result["student"]["scores"] = score
    tests, group = PairedTests(made.predictions, 3000), groups(made.results)[0]
    found = tests.against(group, "base")[0].tasks["one"]
    gaps = []
    for _ in range(600):
        rows = rng.integers(0, 60, 60)
        words = np.concatenate([np.arange(offsets[row], offsets[row + 1]) for row in rows])
        ends = np.concatenate([[0], np.cumsum(np.diff(offsets)[rows])])
        own, base = (task.score(outputs[m][words], labels[words], offsets=ends)["entity_f1"] for m in ("a", "base"))
        gaps.append(own - base)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(np.std(gaps), rel=0.12)
    chance = tests.chances(group)["one"]
    best = max(
        task.score(np.tile(np.eye(3)[c], (len(labels), 1)), labels, offsets=offsets)["entity_f1"] for c in range(3)
    )
    assert chance.score == pytest.approx(best)
    assert chance.limit == pytest.approx(best + 1.645 * math.sqrt(best * (1 - best) / 60))


def test_the_spread_between_seeds_is_in_the_interval() -> None:
    made, shares = Made(), [0.70, 0.78, 0.86, 0.74, 0.82]
    for seed, share in enumerate(shares):
        made.add("a", share, seed=seed).add("base", 0.70, seed=seed)
    found = PairedTests(made.predictions, 4000).against(groups(made.results)[0], "base")[0].tasks["one"]
    differences = np.array(shares) - 0.70
    both = np.minimum.outer(differences, differences)  # rows that two seeds win: the wins of one are among the other's
    covariance = (both - np.outer(differences, differences)) / 200
    rows = covariance.sum() / 25
    half = math.sqrt(stats.t.isf(0.025, 4) ** 2 * stats.sem(differences) ** 2 + 1.96**2 * rows)
    assert found.difference == pytest.approx(differences.mean())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.03)


def test_the_average_over_tasks_narrows_the_interval() -> None:
    made = Made()
    for task in ("one", "two", "three", "four"):
        for method, share in (("a", 0.80), ("base", 0.74)):
            made.add(method, share, task=task)
    found = PairedTests(made.predictions, 4000).against(groups(made.results)[0], "base")[0]
    assert found.average is not None
    width = {name: d.high - d.low for name, d in (("task", found.tasks["one"]), ("average", found.average))}
    assert width["average"] == pytest.approx(width["task"] / 2, rel=0.12)  # independent rows: 1 / sqrt(4)
    assert found.average.difference == pytest.approx(0.06)


def test_p_values_of_a_column_are_holm_s() -> None:
    made = Made().add("base", 0.70)
    for method, share in (("a", 0.72), ("b", 0.715), ("c", 0.72), ("d", 0.71)):
        made.add(method, share)
    group, tests = groups(made.results)[0], PairedTests(made.predictions, 2000)
    found = {c.method: c.tasks["one"].p_value for c in tests.against(group, "base")}
    raw = []
    for method in found:
        difference = tests.average(group, method, "base")
        assert difference is not None
        raw.append(difference.p_value)
    assert list(found.values()) == pytest.approx(holm(raw))
    assert min(found.values()) == pytest.approx(4 * min(raw))


def test_wins_ties_and_losses_are_counted_by_adjusted_p_and_by_score() -> None:
    made = Made()
    for task, share in (("clear", 0.9), ("close", 0.705), ("worse", 0.5), ("same", 0.7)):
        for seed in (0, 1):
            made.add("a", share, task=task, seed=seed).add("base", 0.7, task=task, seed=seed)
    found = PairedTests(made.predictions, 1000).against(groups(made.results)[0], "base")[0]
    assert (found.wins, found.ties, found.losses) == (1, 2, 1)
    assert (found.higher, found.equal, found.lower) == (4, 2, 2)


def test_pairs_put_the_better_one_first_and_swap_no_sign() -> None:
    made = Made().add("low", 0.6).add("high", 0.8).add("middle", 0.7)
    found = PairedTests(made.predictions, 500).pairs(groups(made.results)[0], ["low", "middle", "high"])
    assert [(a, b) for a, b, _ in found] == [("high", "middle"), ("high", "low"), ("middle", "low")]
    assert all(d.difference > 0 and d.p_value < 0.05 for _, _, d in found)


def test_without_predictions_or_on_other_rows_nothing_is_tested() -> None:
    made = Made().add("a", 0.8).add("base", 0.7)
    group = groups(made.results)[0]
    assert PairedTests({}, 200).against(group, "base")[0].tasks == {}
    made.results[0]["dev_fingerprint"] = "another"
    assert PairedTests(made.predictions, 200).against(group, "base")[0].tasks == {}


def test_costs_are_averaged_over_seeds_and_tasks() -> None:
    made = Made()
    for task, tokens in (("one", 1000), ("two", 3000)):
        for seed in (0, 1):
            made.add("a", 0.8, task=task, seed=seed, tokens=tokens + seed * 100, tuning_tokens=500)
    cost = cost_of(groups(made.results)[0], "a")
    assert cost is not None
    assert (cost.student_tokens, cost.tuning_tokens, cost.all_tokens) == (2050, 500, 2550)


def test_costs_are_of_the_seeds_that_all_methods_have() -> None:
    made = Made().add("a", 0.8, tokens=10).add("b", 0.8, tokens=20).add("b", 0.8, seed=1, tokens=900)
    group = groups(made.results)[0]
    assert [cost_of(group, m).student_tokens for m in ("a", "b")] == [10, 20]  # type: ignore[union-attr]
    apart = Made().add("a", 0.8, tokens=10).add("b", 0.8, seed=1, tokens=900).add("b", 0.8, seed=2, tokens=700)
    assert [cost_of(groups(apart.results)[0], m).student_tokens for m in ("a", "b")] == [10, 800]  # type: ignore[union-attr]


def test_the_pareto_front_by_hand() -> None:
    points = {"cheap": (1.0, 5.0), "good": (3.0, 9.0), "beaten": (3.5, 8.0), "same": (3.0, 7.0), "best": (9.0, 9.5)}
    assert pareto(points) == ["cheap", "good", "best"]
