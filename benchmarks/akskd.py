"""AKSKD: its two findings, its rivals at equal compute, and the headline.

    python -m benchmarks.akskd subsets  --data mrpc cola --data-dir PATH/TO/glue      # all 15 subsets of the four kinds; per third
    python -m benchmarks.akskd against  --data mrpc cola --data-dir PATH/TO/glue      # every rival, and a search at equal compute
    python -m benchmarks.akskd against  --part ablations --data mrpc cola --data-dir PATH/TO/glue
    python -m benchmarks.akskd against  --part remedies  --data mrpc cola --data-dir PATH/TO/glue
    python -m benchmarks.akskd headline --data-dir PATH/TO/glue                        # 3 of 6 layers: what keeps 98.5 %?
    python -m benchmarks.akskd headline --part more --data-dir PATH/TO/glue

One line per student in benchmarks/results/akskd/EXPERIMENT-DATA.jsonl; a stopped command goes on where it was, and several may run
at once. Each line above is sized for about an hour of two processes with one thread each. `python -m benchmarks.akskd_summary`
writes docs/results/akskd.md. Choices, rewards and checkpoints see rows held out of train only; dev is reported.

The lines `akskd-calibrated`, `search-calibrated`, `akskd-virtual`, `akskd-online-virtual` and `akskd-as-transcribed` are of options that did
not pay and were removed; commit 6d59c84 has them, and the sizes of the reward and the replay that `akskd-no-phases` had.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from benchmarks.common import RESULTS, made
from benchmarks.lab import Results, run_all, train_student
from benchmarks.tasks import BACKBONE, GLUE, draw, whole_task, whole_teacher, write_table
from distilect.config import MethodConfig, RunConfig, parse_config
from distilect.data import encode, load_data
from distilect.pipeline.assembly import training_rows
from distilect.pipeline.work import Workbench
from distilect.selection import Episodes
from distilect.selection.akskd import REWARD_ROWS, STATE_ROWS, ActorCriticWeights, validation_loss
from distilect.training import DistillationTrainer
from distilect.training.checkpoints import COMPLETE_FILE
from distilect.training.episodes import episode_rows

KINDS = ("labels", "response", "feature", "relation")
SUBSETS = [s for size in (1, 2, 3, 4) for s in itertools.combinations(KINDS, size)]
# rows of train at most (the first ones), tokens, epochs and learning rate of students
TASKS: dict[str, tuple[int | None, int, int, float]] = {
    "mrpc": (2000, 96, 3, 2e-4),
    "cola": (4000, 40, 3, 1e-4),
    "rte": (None, 96, 3, 1e-4),
    "sts-b": (4000, 64, 3, 1e-4),
    "sst-2": (3000, 40, 3, 1e-4),
}
PAIRED = ("mrpc", "rte", "sts-b")
OWN_REST, OTHERS = 6000, 6000  # texts without labels, at most
Job = dict[str, Any] | Callable[[Workbench, Path, int], dict[str, Any]]


# ---- tasks ---------------------------------------------------------------------------------------------------------


def task(data: str, data_dir: str, work: Path, rows: int | None) -> dict[str, Any]:
    """A config of the task with one six-layer teacher; a tenth of train is held out by text, the same for all seeds."""
    limit, length, epochs, rate = TASKS[data]
    train = {"epochs": epochs, "batch_size": 32, "learning_rate": rate, "max_length": length, "logging_steps": 20}
    config = whole_task(data, data_dir, work, min(rows or 10**9, limit or 10**9), train).config
    with waiting(work / "teacher.lock"):
        teacher = whole_teacher(work, "six", config, BACKBONE, 1, 1e-4, 3)
    return {**config, "teachers": [{"name": "six", "path": str(teacher)}]}


def unlabelled(data: str, data_dir: str, work: Path) -> Path:
    """Texts of the task's form for teachers to label: its own rows beyond the limit, and `OTHERS` of other tasks.

    Texts of its own dev set are left out.
    """
    path = work / "unlabelled.csv"
    if path.exists():
        return path
    own, dev = _texts(data, data_dir)
    kept = set(own[: TASKS[data][0]]) | set(dev)
    rest = own[TASKS[data][0] or len(own) :][:OWN_REST]
    others = [t for d in TASKS if d != data and (d in PAIRED) == (data in PAIRED) for t in _texts(d, data_dir)[0]]
    others = sorted(others, key=lambda text: draw("\0".join(text), "others"))[:OTHERS]
    rows = [list(text) for text in dict.fromkeys([*rest, *others]) if text not in kept]
    return write_table(path, ["text_a", "text_b"][: len(own[0])], rows)


def _texts(data: str, data_dir: str) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Of the whole train table, and of dev."""
    plain = parse_config({"data": {"glue": GLUE[data], "validation_size": 0}, "data_dir": data_dir, "student": "x"})
    loaded = load_data(plain.data, plain.task, 0, Path(data_dir))
    assert loaded.dev is not None
    train, dev = ([tuple(t) for t in table.text(np.arange(len(table)))] for table in (loaded.train, loaded.dev))
    return train, dev


@contextmanager
def waiting(lock: Path) -> Iterator[None]:
    """One process at a time; the others wait."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run_each(config: dict[str, Any], jobs: dict[str, Job], results: Results, work: Path, seed: int, **key: Any) -> None:
    """`run_all` with this seed's config."""
    run_all(parse_config({**config, "seed": seed}), jobs, results, work, seed, **key)


def fixed(*weights: float) -> dict[str, Any]:
    """All four kinds with these weights, brought to one size: the rivals differ from AKSKD in the choice alone."""
    named = dict(zip(KINDS, weights, strict=True))
    return {"name": "akskd", "loss_weights": {"name": "fixed", "balance": "labels", "weights": named}}


def subset(kinds: tuple[str, ...]) -> dict[str, Any]:
    return fixed(*(float(kind in kinds) for kind in KINDS))


# ---- 3. the paper's two findings -------------------------------------------------------------------------------------


def subsets(data: str, config: dict[str, Any], work: Path, out: Path, seeds: list[int]) -> None:
    """All 15 subsets over a whole training; then, from the same student at the beginning of each third, over that third alone."""
    whole, thirds = (Results(out / f"{name}-{data}.jsonl") for name in ("subsets", "thirds"))
    for seed in seeds:
        run_each(config, {"+".join(s): subset(s) for s in SUBSETS}, whole, work, seed)
        reference = work / "reference" / str(seed)
        with waiting(work / f"reference-{seed}.lock"):
            if not all((reference / f"third-{third}").exists() for third in (1, 2)):
                keep_thirds(config, reference, seed)
        for third in range(3):
            jobs: dict[str, Job] = {"+".join(s): a_third(s, third, reference) for s in SUBSETS}
            run_each(config, jobs, thirds, work, seed, third=third)


def trainer_of(
    bench: Workbench,
    method: dict[str, Any],
    folder: Path,
    seed: int,
    *,
    callbacks: Any = (),
    share: float = 1.0,
    saves: bool = False,
) -> DistillationTrainer:
    """A trainer of three epochs, on a share of the rows; not yet run."""
    spec = MethodConfig.model_validate(method)
    train = bench.config.train.model_copy(update={"load_best_model_at_end": False})
    config: RunConfig = bench.config.model_copy(update={"seed": seed, "method": spec, "train": train})
    bench = replace(bench, config=config)
    student = bench.new_student()
    built, prepared = bench.prepare(spec, student)
    rows = training_rows(student, bench.data.train, bench.data.validation, bench.data.task)
    if share < 1:
        rows = rows.take(episode_rows(rows, Episodes(1, share), train, seed, 0))
    folder.mkdir(parents=True, exist_ok=True)
    trainer = DistillationTrainer(
        student.model,
        rows,
        built,
        prepared.source,
        train,
        folder / "checkpoints",
        seed,
        callbacks=list(callbacks),
        saves=saves,
    )
    trainer.student_tokens = (student.tokenizer, student.max_length)  # type: ignore[attr-defined]
    return trainer


class _KeepThirds(TrainerCallback):
    """Copies of the checkpoints at the ends of the first and the second third."""

    def __init__(self, reference: Path) -> None:
        self.reference = reference

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        third = round(3 * state.global_step / state.max_steps)
        found = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if third < 3:
            temporary = self.reference / "copy.tmp"
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(found, temporary / found.name)
            temporary.rename(self.reference / f"third-{third}")


def keep_thirds(config: dict[str, Any], reference: Path, seed: int) -> None:
    """The training that all thirds branch from: all four kinds, weight 1. Three epochs: a third is an epoch."""
    shutil.rmtree(reference, ignore_errors=True)
    bench = Workbench.open(parse_config({**config, "seed": seed}), {})
    trainer = trainer_of(bench, fixed(1, 1, 1, 1), reference, seed, callbacks=[_KeepThirds(reference)], saves=True)
    trainer.train()
    shutil.rmtree(reference / "checkpoints", ignore_errors=True)


class _StopAt(TrainerCallback):
    def __init__(self, share: float) -> None:
        self.share = share

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step >= round(self.share * state.max_steps)


def a_third(kinds: tuple[str, ...], third: int, reference: Path) -> Callable[[Workbench, Path, int], dict[str, Any]]:
    """A job: one third of the training with this subset, from where the reference was; the held-out loss before and after."""

    def job(bench: Workbench, folder: Path, seed: int) -> dict[str, Any]:
        started = time.perf_counter()
        trainer = trainer_of(bench, subset(kinds), folder, seed, callbacks=[_StopAt((third + 1) / 3)])
        if third:
            checkpoint = next((reference / f"third-{third}").glob("checkpoint-*"))
            assert (checkpoint / COMPLETE_FILE).exists()
            trainer._load_weights(str(checkpoint))
            before = validation_loss(trainer.probe, 10_000)
            trainer.load_extra_state(checkpoint)
            trainer.train(resume_from_checkpoint=str(checkpoint))
        else:
            before = validation_loss(trainer.probe, 10_000)
            trainer.train()
        return {
            **measured(bench, trainer),
            "validation_loss_before": round(before, 5),
            "wall_seconds": seconds(started),
        }

    return job


def measured(bench: Workbench, trainer: DistillationTrainer) -> dict[str, Any]:
    """Scores on dev and on held-out rows, and the held-out loss, of a trainer's student as it is."""
    rows, dev = trainer.rows, bench.data.dev
    assert dev is not None
    tokenizer, length = trainer.student_tokens  # type: ignore[attr-defined]
    score = bench.data.task.score
    return {
        "scores": _rounded(score(trainer.predict_rows(encode(dev, tokenizer, length)), dev.labels)),
        "validation": _rounded(score(trainer.predict_rows(rows.validation_encoded), rows.validation.labels)),
        "validation_loss": round(validation_loss(trainer.probe, 10_000), 5),
        "rows": {"train": len(rows.table), "dev": len(dev), "validation": len(rows.validation)},
        "made": made(),
    }


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in scores.items()}


def seconds(started: float) -> float:
    return round(time.perf_counter() - started, 1)


# ---- 4. against ------------------------------------------------------------------------------------------------------

POINTS = [tuple(float(kind in s) for kind in KINDS) for s in SUBSETS] + [(0.25, 1.0, 1.0, 1.0)]


def units(options: ActorCriticWeights.Options, rows: int, reward: int, epochs: float) -> float:
    """What stage A costs, in rows that are trained on; a pass without gradient counts a third."""
    assert isinstance(options.phases, int)
    looks = options.phases * STATE_ROWS + (options.phases + 1) * min(REWARD_ROWS, reward)
    return options.episodes * (options.share * rows * epochs + looks / 3)


def search(bench: Workbench, folder: Path, seed: int) -> dict[str, Any]:
    """16 fixed weight vectors, each in a short training, for what AKSKD's stage A costs; then a whole training with the best.

    The best one has the lowest loss on the rows that also give AKSKD its rewards.
    """
    started = time.perf_counter()
    rows, reward, epochs = len(bench.data.train), len(bench.data.validation), bench.config.train.epochs
    per_point = units(ActorCriticWeights.Options(), rows, reward, epochs) / len(POINTS)
    share = (per_point - (min(REWARD_ROWS, reward) + 64) / 3) / (rows * epochs)
    tried = []
    for number, point in enumerate(POINTS):
        trainer = trainer_of(
            bench, fixed(*point), folder / "points", seed + 1 + number, share=min(1.0, max(share, 1e-6))
        )
        trainer.train()
        tried.append(
            {
                "weights": point,
                "validation_loss": round(validation_loss(trainer.probe, REWARD_ROWS), 5),
                "rows": trainer.counts.rows,
            }
        )
    shutil.rmtree(folder / "points", ignore_errors=True)
    best = min(tried, key=lambda one: one["validation_loss"])  # type: ignore[arg-type,return-value]
    spent = seconds(started)
    line = train_student(bench, fixed(*best["weights"]), folder, seed)  # type: ignore[misc]
    cost = {"rows": sum(one["rows"] for one in tried), "seconds": spent, "share": round(share, 4)}  # type: ignore[misc]
    return {**line, "tried": tried, "best": best["weights"], "stage_a": cost, "wall_seconds": seconds(started)}


def akskd(preset: str = "akskd", **options: Any) -> dict[str, Any]:
    hard = {"action": "hard"} if preset == "akskd-hard" else {}
    return {"name": preset, "loss_weights": {"name": "actor-critic", **hard, **options}}


MAIN: dict[str, Job] = {
    "finetune": {"name": "finetune"},
    "kd": {"name": "kd"},
    "pkd": {"name": "pkd"},
    "dynamic-objective": {"name": "dynamic-objective"},
    "all-ones": {"name": "all-ones"},
    "random-soft": {"name": "random-soft"},
    "random-hard": {"name": "random-hard"},
    "akskd": akskd(),
    "akskd-hard": akskd("akskd-hard"),
    "search": search,
}
ABLATIONS: dict[str, Job] = {
    "akskd-no-phases": akskd(phases="step"),  # an action and a reward per step
    "akskd-no-exploration": akskd(exploration=0.0),
}
REMEDIES: dict[str, Job] = {
    "akskd-5-phases": akskd(phases=5),
    "akskd-state": akskd(state=["student", "teacher", "progress", "losses"]),
}
PARTS = {"main": MAIN, "ablations": ABLATIONS, "remedies": REMEDIES}


def against(
    data: str, config: dict[str, Any], work: Path, out: Path, seeds: list[int], part: str, chosen: list[str]
) -> None:
    """Every method with each seed; in the remedies also the selection module of the first seed, reused by the others."""
    results = Results(out / f"against-{data}.jsonl")
    jobs = {name: job for name, job in PARTS[part].items() if not chosen or name in chosen}
    for seed in seeds:
        run_each(config, jobs, results, work, seed)
        learned = work / "students" / f"akskd-{seeds[0]}"
        if part == "remedies" and seed != seeds[0] and (learned / "selector").exists():
            run_each(config, {"akskd-reused": akskd(selector=str(learned))}, results, work, seed)


# ---- 5. the headline ---------------------------------------------------------------------------------------------------

_TWO: dict[str, Any] = {"labels": {}, "response": {}}
_THREE = {**_TWO, "feature": {}}
_ALL = {**_THREE, "relation": {}, "attention": {}, "pooled": {}}


def balanced(kinds: dict[str, Any]) -> dict[str, Any]:
    return {"name": "akskd", "knowledge": kinds, "loss_weights": {"name": "fixed", "balance": "labels"}}


def steps_to_the_headline() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Name → changes of the config, method: each adds one part to the one before; then the parts of length alone."""
    plain: dict[str, Any] = {"student": f"{BACKBONE}[layers=1,3,5]"}
    init: dict[str, Any] = {}
    more, longer = {"augment": {"times": 2}}, {"epochs": 6}
    return {
        "pre-trained layers, labels": (plain, {"name": "finetune"}),
        "+ teacher's layers": (init, {"name": "finetune"}),
        "+ response": (init, {"name": "kd"}),
        "+ hidden states": (init, balanced(_THREE)),
        "+ relation, attention, pooled": (init, balanced(_ALL)),
        "hidden states + augmented rows": ({"data": more}, balanced(_THREE)),
        "hidden states + longer": ({"train": longer}, balanced(_THREE)),
        "hidden states + augmented rows + longer": ({"data": more, "train": longer}, balanced(_THREE)),
    }


def more_of_the_headline(rate: float, texts: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """What unlabelled text gives, where the student hears the teacher alone; then that recipe without one part each, and AKSKD."""
    plain, text = {"student": f"{BACKBONE}[layers=1,3,5]"}, {"data": {"extra": str(texts)}}
    fast, longer = {"learning_rate": 2 * rate}, {"epochs": 6}
    alone = {"name": "fixed", "balance": "labels", "weights": {"labels": 0.0}}
    teacher = {"name": "akskd", "knowledge": _THREE, "loss_weights": alone}
    return {
        "hidden states, no labels": ({}, teacher),
        "hidden states + text": (text, balanced(_THREE)),
        "hidden states, no labels + text": (text, teacher),
        "hidden states, no labels + text, double rate": ({**text, "train": fast}, teacher),
        "hidden states, no labels + text, double rate, longer": ({**text, "train": {**fast, **longer}}, teacher),
        "response, no labels + text, double rate": ({**text, "train": fast}, {"name": "kd", "alpha": 0.0}),
        "pre-trained layers, no labels + text, double rate": ({**plain, **text, "train": fast}, teacher),
        "akskd": ({}, akskd()),
    }


def headline(
    data: str, config: dict[str, Any], work: Path, out: Path, seeds: list[int], part: str, data_dir: str
) -> None:
    results = Results(out / f"headline-{data}.jsonl")
    variants = (
        steps_to_the_headline()
        if part == "main"
        else more_of_the_headline(TASKS[data][3], unlabelled(data, data_dir, work))
    )
    for seed in seeds:
        for name, (changes, method) in variants.items():
            changed = {
                **config,
                **changes,
                "data": {**config["data"], **changes.get("data", {})},
                "train": {**config["train"], **changes.get("train", {})},
            }
            run_each(changed, {name: method}, results, work, seed)


# ---- command line ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=["subsets", "against", "headline"])
    parser.add_argument("--data", nargs="+", choices=list(TASKS))
    parser.add_argument("--data-dir", default=".")
    parser.add_argument("--work", type=Path, default=Path("runs/akskd"))
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--part", default="main", choices=["main", "ablations", "remedies", "more"])
    parser.add_argument("--methods", nargs="+", default=[], help="of `against`, by name")
    parser.add_argument("--rows", type=int, help="rows of train at most: to try a command")
    given = parser.parse_args()
    everywhere = list(TASKS) if given.experiment == "headline" else ["mrpc", "cola"]
    for data in given.data or everywhere:
        work = given.work / (data if given.rows is None else f"{data}-{given.rows}")
        out = RESULTS / "akskd" if given.rows is None else work  # a try leaves no results
        config = task(data, given.data_dir, work, given.rows)
        if given.experiment == "subsets":
            subsets(data, config, work, out, given.seeds or [0, 1])
        elif given.experiment == "against":
            against(data, config, work, out, given.seeds or [0, 1, 2], given.part, given.methods)
        else:
            headline(data, config, work, out, given.seeds or [0], given.part, given.data_dir)


if __name__ == "__main__":
    main()
