"""The same global batch on one and on two ranks (gloo, CPU): what would silently go wrong without these."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.launch import run_ranks
from tests.training.helpers import Bench
from tests.training.several import ROWS, main, methods, narrow_student

Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """One process, rank 0 of two, rank 1 of two: all methods in one start."""
    folder = tmp_path_factory.mktemp("ranks")
    narrow_student(Bench(folder, rows=ROWS))
    main(folder, [])
    run_ranks(2, lambda: main(folder, []), folder)
    return [json.loads((folder / f"out-{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")]


@pytest.mark.parametrize("name", methods())
def test_two_ranks_train_as_one(trained: list[Found], name: str) -> None:
    """PITFALLS 5, 30 and invariance 1: same selections, losses within fp32 rounding, gradients really synchronised."""
    one, first, second = (found[name] for found in trained)
    assert first["losses"] == pytest.approx(one["losses"], rel=2e-4, abs=1e-5)
    assert first["scores"] == pytest.approx(one["scores"])
    assert first["weights"] == pytest.approx(one["weights"], rel=1e-3, abs=2e-3)
    assert first["weights"] == second["weights"] and first["beside"] == second["beside"]
    assert first["beside"] == pytest.approx(one["beside"], abs=2e-3)
    assert len(first["selection"]) == len(one["selection"]) > 0
    for line, other in zip(first["selection"], one["selection"], strict=True):
        assert line == pytest.approx(other, abs=2e-4)
    for key in ("probed", "asked", "trained"):
        assert first[key] == one[key]


@pytest.mark.parametrize("name", methods())
def test_selectors_are_the_same_on_both_ranks_and_their_health_is_that_of_all_rows(
    trained: list[Found], name: str
) -> None:
    one, first, second = (found[name] for found in trained)
    assert first["states"] == second["states"]
    for line, other in zip(first["health"], one["health"], strict=True):
        assert line.keys() == other.keys()
        assert line == pytest.approx(other, rel=1e-2, abs=2e-3)
