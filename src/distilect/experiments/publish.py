"""Tables and page of a comparison, from its results and predictions alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilect.errors import RunError
from distilect.experiments.config import CompareConfig
from distilect.experiments.jobs import failed_trials
from distilect.experiments.render import latex, markdown
from distilect.experiments.results import (
    PREDICTIONS,
    RESULTS,
    Result,
    Results,
    labels_key,
    offsets_key,
    prediction_key,
    read_predictions,
    write_predictions,
)
from distilect.experiments.tables import sections
from distilect.experiments.trials import Plan
from distilect.files import atomic_write
from distilect.report import build_comparison


@dataclass(frozen=True)
class Published:
    """The files that were written.

    Attributes:
        results: how many results are in them; `expected`: how many trials the comparison has.
        stale: results of other settings than the config's: left out of a comparison's own pages, shown on published ones.
    """

    page: Path
    tables: Path
    latex: Path
    results: int
    expected: int
    stale: int


def publish(config: CompareConfig, *, docs: Path | None = None, source: Path | None = None) -> Published | None:
    """Write `comparison.html`, `comparison.md` and `comparison.tex`; None where there is no result yet.

    Args:
        docs: also write the three there as NAME.html, .md and .tex, with the results (NAME.jsonl) and NAME.predictions.parquet,
            from which the same can be made again.
        source: folder with such results, in place of the comparison's own. They are shown whatever the config's settings have
            become since.

    Raises:
        RunError: `source` holds no results.
    """
    plan = Plan(config)
    if source is None:
        done = Results(config.folder / RESULTS).done()
        results = [done[key] for trial in plan.trials if (key := (trial.key, trial.settings)) in done]
        files = sorted((config.folder / PREDICTIONS).glob("*.parquet"))
        failed = failed_trials(config)
        targets = [(config.folder, "comparison")]
        stale = len(done) - len(results)
    else:
        published = {result["trial"]: result for result in _published(config, source)}
        results = [published[trial.key] for trial in plan.trials if trial.key in published]
        files = [_published_predictions(config, source)]
        failed = {}
        targets = [] if docs else [(source, config.name)]
        stale = sum(published[t.key]["settings"] != t.settings for t in plan.trials if t.key in published)
    if not results:
        return None
    predictions = read_predictions(files)
    found = sections(
        results, predictions, baseline=plan.baseline, contenders=config.contenders, resamples=config.resamples
    )
    missing = {key: error for key, error in failed.items() if key not in {result["trial"] for result in results}}
    intro = _intro(config, len(results), len(plan.trials), missing)
    if docs is not None:
        targets.append((docs, config.name))
        _keep(docs, config.name, results, predictions)
    for folder, stem in targets:
        atomic_write(folder / f"{stem}.md", markdown(config.name, intro, found))
        atomic_write(folder / f"{stem}.tex", latex(found))
        page = build_comparison(config.name, intro, found, folder / f"{stem}.html")
    return Published(page, page.with_suffix(".md"), page.with_suffix(".tex"), len(results), len(plan.trials), stale)


def take_results(plan: Plan, source: Path) -> int:
    """Go on from what `docs` kept, made here or on another machine: its results of the present settings count as done.

    Returns:
        how many were taken that the comparison did not have yet.

    Raises:
        RunError: `source` holds no results of this comparison, or its predictions are damaged.
    """
    config = plan.config
    own = Results(config.folder / RESULTS)
    have = own.done()
    wanted = {(trial.key, trial.settings) for trial in plan.trials} - have.keys()
    new = [result for result in _published(config, source) if (result["trial"], result["settings"]) in wanted]
    if new:
        # predictions first: a result without them would count as done and be missing in every test
        read = read_predictions([_published_predictions(config, source)])
        write_predictions(config.folder / PREDICTIONS / f"taken-{len(have)}.parquet", read)
        for result in new:
            own.add(result)
    return len(new)


def _published(config: CompareConfig, source: Path) -> list[Result]:
    path = source / f"{config.name}.jsonl"
    if not path.exists():
        raise RunError(f"no results at {path}: expected what --docs wrote")
    return Results(path).read()


def _published_predictions(config: CompareConfig, source: Path) -> Path:
    return source / f"{config.name}.predictions.parquet"


def _keep(folder: Path, name: str, results: Sequence[Result], predictions: Mapping[str, Any]) -> None:
    """Results and predictions in one file each, small enough to commit."""
    atomic_write(folder / f"{name}.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in results))
    wanted = {prediction_key(r) for r in results}
    for name_of in (labels_key, offsets_key):
        wanted |= {name_of(f"{r['scenario']}.{r['task_name']}", r["dev_fingerprint"]) for r in results}
    kept = {key: value for key, value in predictions.items() if key in wanted}
    write_predictions(folder / f"{name}.predictions.parquet", kept)


def _intro(config: CompareConfig, results: int, expected: int, failed: Mapping[str, str]) -> list[str]:
    budget = "Every method trains for the same epochs."
    if config.equal_tokens:
        budget = (
            "Equal budgets: every method gets as many student tokens as its epochs over all rows; looks, stages and searches "
            "are in them."
        )
    state = f"{results} of {expected} students are done." if results < expected else f"{expected} students."
    found = [f"Written by `distilect compare` from the results of the comparison `{config.name}`. {state} {budget}"]
    if config.note:
        found.append(config.note)
    if failed:
        shown = "; ".join(f"{key}: {error}" for key, error in list(failed.items())[:10])
        found.append(f"Failed, and missing here: {shown}{' …' if len(failed) > 10 else ''}")
    return found
