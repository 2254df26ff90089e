"""The grid of a paper's recipe as commands, one line each; then the choice among the finished runs.

    python recipes/papers/grid.py RECIPE GRID [KEY=VALUE …]            # prints the commands; `| sh` runs them
    python recipes/papers/grid.py --best RECIPE GRID [KEY=VALUE …]     # the best cell of each method

RECIPE is a config such as recipes/papers/rlkd-mrpc.yaml; its grids are beside it in rlkd-grid.yaml, which holds JSON (YAML too),
so that nothing but Python is needed here. GRID is one of:

    teachers   fine-tunes each of the four models at each learning rate. Put the chosen rates into the commands of the other
               grids: teachers.0.finetune.learning_rate=5.0e-5 …
    students   learning rate × T × alpha, RL-KD (reward 2) and all baselines
    rewards    the same for RL-KD with reward 1, and with reward 3 at each gamma

Further KEY=VALUE go into every command; `name=NAME` and `output=FOLDER` also say what the runs are called and where they are.
The choice looks at rows held out of train (`student.validation` in metrics.json); dev is reported beside it, never chosen on.
Teachers and their signals are made once and shared by all runs of an output folder; a command whose run is finished is refused,
and one that was stopped goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OUTPUT = "runs/papers"  # of the recipes


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--best", action="store_true", help="choose among the finished runs of the grid")
    parser.add_argument("recipe", type=Path, metavar="RECIPE")
    parser.add_argument("grid", metavar="GRID")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_args(arguments)
    try:
        found = best(given.recipe, given.grid, given.overrides) if given.best else None
        lines = found or [shlex.join(command) for command in commands(given.recipe, given.grid, given.overrides)]
    except ValueError as error:
        parser.error(str(error))
    print("\n".join(lines))


def commands(recipe: Path, grid: str, overrides: list[str]) -> Iterator[list[str]]:
    """`distilect run RECIPE key=value …` for each cell."""
    for name, settings in cells(recipe, grid, overrides).items():
        extra = [text for text in overrides if not text.startswith("name=")]
        yield ["distilect", "run", str(recipe), *settings, *extra, f"name={name}"]


def cells(recipe: Path, grid: str, overrides: list[str]) -> dict[str, list[str]]:
    """Name of the run → its settings, the last axis running fastest.

    Raises:
        ValueError: the recipe has no grids, or none of that name.
    """
    family = recipe.stem.partition("-")[0]
    file = recipe.with_name(f"{family}-grid.yaml")
    if not recipe.is_file() or not file.is_file():
        raise ValueError(f"expected a recipe and its grids at {recipe} and {file}")
    # numbers stay as they are written: YAML reads 1.0e-5 as a number, but Python's 1e-05 as a word
    known = json.loads(file.read_text(encoding="utf-8"), parse_float=str, parse_int=str)
    if grid not in known["grids"]:
        raise ValueError(f"no grid is called {grid!r}; {file.name} has {', '.join(known['grids'])}")
    fixed, axes = known["grids"][grid]["set"], [known["axes"][axis] for axis in known["grids"][grid]["axes"]]
    name = _given("name", overrides) or recipe.stem
    found = {}
    for labels in itertools.product(*axes):
        settings = {key: value for axis, label in zip(axes, labels, strict=True) for key, value in axis[label].items()}
        found["-".join([name, grid, *labels])] = _settings(settings, fixed)
    return found


def best(recipe: Path, grid: str, overrides: list[str]) -> list[str]:
    """For each method, the finished run with the highest held-out score; a line each.

    Raises:
        ValueError: no run of the grid is finished.
    """
    output = Path(_given("output", overrides) or OUTPUT)
    names = cells(recipe, grid, overrides)
    chosen: dict[str, tuple[float, str]] = {}
    finished = 0
    for name in names:
        for file in sorted(output.glob(f"{name}*/metrics.json")):
            method = file.parent.name.removeprefix(name)
            metrics = json.loads(file.read_text(encoding="utf-8"))
            primary, student = metrics["primary"], metrics["student"]
            validation, dev = student["validation"][primary], student["scores"].get(primary, float("nan"))
            finished += 1
            if method not in chosen or validation > chosen[method][0]:
                line = f"{primary} {validation:.4f} held out, {dev:.4f} dev  {file.parent}"
                chosen[method] = validation, f"{metrics['method']:<14} {line}"
    if not chosen:
        raise ValueError(f"no run of the grid {grid!r} is finished in {output}")
    return [f"{finished} finished runs of {len(names)} cells", *(line for _, line in chosen.values())]


def _settings(settings: dict[str, Any], fixed: dict[str, Any]) -> list[str]:
    """`key=value` of all; what lies below a key that the grid fixes as a whole is left out."""
    kept = {k: v for k, v in settings.items() if not any(k.startswith(f"{f}.") for f in fixed)}
    return [f"{key}={_text(value)}" for pattern, value in (kept | fixed).items() for key in _keys(pattern)]


def _keys(pattern: str) -> list[str]:
    """`baselines.1-3.alpha` → baselines.1.alpha, baselines.2.alpha, baselines.3.alpha."""
    span = re.search(r"\.(\d+)-(\d+)\.", pattern)
    if span is None:
        return [pattern]
    first, last = int(span[1]), int(span[2])
    return [f"{pattern[: span.start()]}.{n}.{pattern[span.end() :]}" for n in range(first, last + 1)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _given(key: str, overrides: list[str]) -> str | None:
    values = [text.partition("=")[2] for text in overrides if text.startswith(f"{key}=")]
    return values[-1] if values else None


if __name__ == "__main__":
    main()
