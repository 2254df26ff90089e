"""A whole job: `run` opens what the methods of a config share, and makes a student by each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from distilect import ranks
from distilect.config import RunConfig
from distilect.pipeline.advise import advice_on
from distilect.pipeline.budget import Deadline
from distilect.pipeline.folders import check_free, owned, plan_folders
from distilect.pipeline.job import RunResult, distil
from distilect.pipeline.metrics import score_text
from distilect.pipeline.search import searched
from distilect.pipeline.teachers import Outputs
from distilect.pipeline.work import Workbench
from distilect.progress import console
from distilect.selection import asks_teachers, likely_stages


def run(
    config: RunConfig, *, overwrite: bool = False, functions: Mapping[str, Outputs] | None = None
) -> list[RunResult]:
    """Do all that `config` asks for: data, teachers, signals, the method's student and one for each baseline.

    A run that was stopped goes on from its last checkpoint, and a finished one for more epochs where the config differs in nothing
    else; teachers and signals that exist are reused. With several processes
    (`torchrun`, `accelerate launch`) all of them call this and train the student jointly; rank 0 writes.

    Args:
        overwrite: replace earlier runs with these names; each is kept until its successor is about to be trained.
        functions: further teachers, name → function.

    Raises:
        DistilectError: before anything is trained, where possible.
    """
    deadline = Deadline.of(config.budget, time.perf_counter()) if config.budget else None
    plans = plan_folders(config)
    for _, single in plans:
        likely_stages(single.method, single.train)  # a misspelt method must not wait for the ones before it
    ranks.start()
    with owned([folder for folder, _ in plans]):
        if ranks.is_main():
            for folder, single in plans:
                check_free(folder, single, overwrite)
        bench = Workbench.open(config, functions)  # data and teachers
        several = len(bench.teachers) > 1 and bench.data.task.kind != "causal-lm"  # of which nothing is known to advise
        if several and any(asks_teachers(single.method) for _, single in plans):
            for line in advice_on(bench).words:
                console.print(line, markup=False)
        results = []
        for number, (folder, single) in enumerate(plans):
            asked = None
            if single.search is not None:
                began = time.perf_counter()
                asked, single = single, searched(single, bench)
                if deadline is not None:
                    deadline = replace(deadline, end=deadline.end + time.perf_counter() - began)
            own = None if deadline is None else replace(deadline, students=len(plans) - number)
            results.append(distil(bench, folder, single, overwrite, deadline=own, asked=asked))
            student = results[-1].metrics["student"]
            shown = score_text(student["scores"] or student["validation"])
            console.print(f"[green]done[/green] {single.name}: {shown} → {folder}")
        return results
