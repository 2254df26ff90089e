"""Faults, a few of each kind; `python -m benchmarks.faults` makes the table of many (docs/results/faults.md)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.attempts import Trial, can_mount, flipped_checkpoint, flipped_selector, flipped_store
from tests.faults.harness import warm_up
from tests.faults.places import PLACES, Scene
from tests.presets import slow


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    warm_up()
    return Scene(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def trials(scene: Scene) -> dict[str, Trial]:
    return {name: Trial(scene, place, scene.folder / f"trial-{n}") for n, (name, place) in enumerate(PLACES.items())}


QUICK = ("score", "train rlkd")


@pytest.mark.parametrize("name", QUICK)
def test_a_killed_job_ends_as_if_it_had_not_been(trials: dict[str, Trial], name: str) -> None:
    assert trials[name].kill(random.Random(3))["wrong"] == ""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", PLACES)
def test_a_job_killed_at_any_moment_ends_as_if_it_had_not_been(trials: dict[str, Trial], name: str, seed: int) -> None:
    assert trials[name].kill(random.Random(seed))["wrong"] == ""


def test_a_preempted_training_keeps_a_checkpoint_and_goes_on(trials: dict[str, Trial]) -> None:
    found = trials["train rlkd"].preempt(random.Random(1))
    assert found["wrong"] == ""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", PLACES)
def test_a_job_preempted_at_any_moment_ends_as_if_it_had_not_been(
    trials: dict[str, Trial], name: str, seed: int
) -> None:
    assert trials[name].preempt(random.Random(seed))["wrong"] == ""


@pytest.mark.parametrize("name", ["score", *slow("train rlkd")])
def test_a_full_disk_is_told_and_with_more_room_the_job_goes_on(
    trials: dict[str, Trial], name: str, tmp_path: Path
) -> None:
    if not can_mount(tmp_path / "disk"):
        pytest.skip("needs the right to mount a small disk (root)")
    assert trials[name].full_disk(random.Random(5))["wrong"] == ""


def test_an_output_that_cannot_be_written_is_told_in_a_line(trials: dict[str, Trial], tmp_path: Path) -> None:
    if not can_mount(tmp_path / "disk"):
        pytest.skip("needs the right to mount a small disk (root)")
    assert trials["train rlkd"].read_only(random.Random(0))["wrong"] == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_two_processes_on_one_folder_never_mix(trials: dict[str, Trial], name: str) -> None:
    assert trials[name].two_at_once(random.Random(0))["wrong"] == ""


def test_a_flipped_bit_in_a_store_is_found_or_harmless(scene: Scene, tmp_path: Path) -> None:
    found = flipped_store(scene, tmp_path, 40, random.Random(0))
    assert found["wrong"] == 0 and found["detected"] > 20


def test_a_flipped_bit_in_a_checkpoint_is_found_or_harmless(scene: Scene, tmp_path: Path) -> None:
    found = flipped_checkpoint(scene, tmp_path, 60, random.Random(0))
    assert found["wrong"] == 0 and found["detected"] > 40


def test_a_flipped_bit_in_a_selector_is_found_or_harmless(scene: Scene, tmp_path: Path) -> None:
    found = flipped_selector(scene, tmp_path, 60, random.Random(0))
    assert found["wrong"] == 0 and found["detected"] > 50
