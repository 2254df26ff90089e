"""How long a comparison will take, and how much disk: from its own lines where there are some, else from a few timed steps."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from distilect.config import RunConfig
from distilect.data import Data, Encoded, encode
from distilect.experiments.compare import missing
from distilect.experiments.config import CompareConfig
from distilect.experiments.grid import Cell, Grid
from distilect.experiments.ground import choices, read_ground
from distilect.experiments.jobs import grounds_of
from distilect.experiments.records import RESULTS, Line, Results
from distilect.experiments.scenarios import for_teacher
from distilect.models import autocast, default_device, parse_spec, quiet, resolve_path, resolve_precision
from distilect.models.checkpoints import load_pretrained
from distilect.pipeline.metrics import machine
from distilect.pipeline.teachers import named_teachers, teacher_folder
from distilect.report.words import duration, megabytes
from distilect.selection import asks_teachers, get_preset

OVERHEAD_SECONDS = 10.0  # of a cell beside its training: building, scoring on dev, files; until lines say better
STEPS = 2  # timed ones, after one that is thrown away
TRAINING_COPIES = (
    1 + 2 * 3
)  # a student and two checkpoints of weights and two moments of Adam, 4 bytes per parameter each


@dataclass
class Estimate:
    """What is still to be done, in seconds of all workers together and bytes.

    Attributes:
        basis: where seconds per token come from, a line per source.
        grounds: (scenario · task, open cells, seconds).
    """

    cells: int
    open_cells: int
    teachers: int = 0
    teacher_seconds: float = 0.0
    scoring_seconds: float = 0.0
    cell_seconds: float = 0.0
    disk: float = 0.0
    free: float = 0.0
    workers: int = 1
    basis: list[str] = field(default_factory=list)
    grounds: list[tuple[str, int, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Wall time, if nothing else runs and the workers do not slow each other down."""
        return (self.teacher_seconds + self.scoring_seconds + self.cell_seconds) / self.workers

    def text(self) -> list[str]:
        """For the terminal."""
        lines = [f"{self.cells} cells, {self.cells - self.open_cells} done, {self.open_cells} to run"]
        lines += [f"  {name}: {count} cells, {duration(seconds)}" for name, count, seconds in self.grounds]
        lines += [
            f"teachers to fine-tune: {self.teachers}, {duration(self.teacher_seconds)}; their signals: {duration(self.scoring_seconds)}",
            f"about {duration(self.seconds)} with {self.workers} worker(s); each source of this says what it is good for:",
            *(f"  {line}" for line in dict.fromkeys(self.basis)),
            f"disk at most about {megabytes(self.disk)} MB, free {megabytes(self.free)} MB"
            + (": NOT ENOUGH" if self.disk > self.free else ""),
        ]
        return lines


def estimate(config: CompareConfig, only: Sequence[str] = ()) -> Estimate:
    """What `compare` would still have to do; reads the tables, loads no teacher, trains nothing.

    Raises:
        DistilectError: as `compare`, before any work.
    """
    grid = Grid(config)
    cells = grid.only(only)
    todo = missing(grid, cells)
    found = Estimate(len(cells), len(todo), workers=config.workers)
    rates = _Rates(config, Results(config.folder / RESULTS).lines(), found.basis)
    made: set[Path] = set()
    for ground in grounds_of(todo):
        of_ground = [cell for cell in todo if cell.ground == ground]
        _ground(grid, ground, of_ground, rates, found, made)
    where = next(p for p in (config.folder, *config.folder.resolve().parents) if p.exists())
    found.free = float(shutil.disk_usage(where).free)
    return found


def _ground(
    grid: Grid, ground: tuple[str, str], cells: Sequence[Cell], rates: _Rates, found: Estimate, made: set[Path]
) -> None:
    """Add one ground's share."""
    config, scenario, task, clean = read_ground(grid, *ground)
    parts = grid.parts(scenario, task)
    student = shape_of(cells[0].student.init, config)
    encoded = _tokens(clean, student, config)
    tokens = int(encoded.lengths.sum())
    length = max(1, round(tokens / max(len(encoded), 1)))
    for name, spec in named_teachers(config).items():
        if spec.table is not None:
            continue
        shape = shape_of(name, config)
        found.scoring_seconds += tokens * rates.calibrated(shape, length) / 3
        found.disk += _signal_bytes(cells, shape, len(encoded), clean.task.num_outputs)
        if spec.finetune is None:
            continue
        learns = getattr(spec, "learns", None)
        if learns is not None and learns.part is not None:  # which rows that are may take an encoder to say
            pattern = Path(config.output) / "teachers"
            exists, share = (any(pattern.glob(f"{name}-*/distilect-teacher.json")), 1 / (parts.count if parts else 1))
            folder = pattern / f"{ground} {name}"
        else:
            data = for_teacher(clean, learns, None, grid.config.split_seed)
            folder = teacher_folder(name, spec.finetune, data, config)
            exists, share = (folder / "distilect-teacher.json").exists(), 1.0
        if not exists and folder not in made:
            made.add(folder)
            found.teachers += 1
            found.teacher_seconds += share * tokens * spec.finetune.epochs * rates.calibrated(shape, length)
            found.disk += 4 * shape.parameters
    seconds = sum(_cell_seconds(cell, tokens, length, config, rates) for cell in cells)
    found.cell_seconds += seconds
    found.grounds.append((" · ".join(ground), len(cells), seconds))
    dev = len(clean.dev) if clean.dev is not None else 0
    kept = 4 * student.parameters if grid.config.keep_students else 2 * dev + 4096
    found.disk += len(cells) * kept
    if len(found.grounds) == 1:
        found.disk += grid.config.workers * TRAINING_COPIES * 4 * student.parameters


def _cell_seconds(cell: Cell, tokens: int, length: int, config: RunConfig, rates: _Rates) -> float:
    """Training, search (its share of one seed) and what is around it."""
    used: float = tokens * (cell.train.epochs if cell.train.token_budget is None else 1.0)
    if not asks_teachers(cell.method):
        used *= cell.scenario.labelled  # rows that only teachers can label are none of its business
    trainings = 1.0
    if cell.method.tune:
        trainings += len(choices(cell.method)) / max(1, len(cell.method.seeds or [0]))
    return trainings * (used * rates.of(cell, shape_of(cell.student.init, config), length) + rates.overhead)


def _signal_bytes(cells: Sequence[Cell], shape: Shape, rows: int, outputs: int) -> float:
    """Logits of every row, and one vector per layer where a method copies hidden states."""
    kinds = {kind for cell in cells for kind in (cell.method.knowledge or get_preset(cell.method.name).knowledge)}
    vectors = shape.layers if kinds - {"labels", "response"} else 0
    return rows * (16 + 4 * outputs + 2 * shape.hidden * vectors)


# ---- how long a token takes ------------------------------------------------------------------------------------------


class _Rates:
    """Seconds per student token: of the same method and task where a line made here says so, else of the task, else timed now."""

    def __init__(self, config: CompareConfig, lines: Sequence[Line], basis: list[str]) -> None:
        self.config, self.basis = config, basis
        self.known: dict[tuple[str, ...], list[float]] = {}
        around = []
        here = _kind(machine())
        for line in lines:
            if _kind(line["machine"]) != here:
                continue
            cost = line["cost"]
            nominal = float(cost.get("tokens") or 0)
            if not nominal:
                continue
            rate = float(cost["train_seconds"]) / nominal
            for key in (
                (line["task_name"], line["student_name"], line["method"]),
                (line["task_name"], line["student_name"]),
            ):
                self.known.setdefault(key, []).append(rate)
            around.append(
                float(line.get("cell_seconds", 0))
                - float(cost["train_seconds"])
                - float(cost.get("tuning_seconds") or 0)
            )
        self.overhead = float(np.clip(np.median(around), 1.0, 120.0)) if around else OVERHEAD_SECONDS

    def of(self, cell: Cell, shape: Shape, length: int) -> float:
        for key in ((cell.task.name, cell.student.init, cell.label), (cell.task.name, cell.student.init)):
            if key in self.known:
                self.basis.append(f"finished cells of {cell.task.name}")
                return float(np.median(self.known[key]))
        return self.calibrated(shape, length)

    def calibrated(self, shape: Shape, length: int) -> float:
        length = min(512, 2 ** math.ceil(math.log2(length)))  # a token costs nearly the same in rows of similar length
        workers = self.config.workers
        threads = self.config.threads or (1 if workers > 1 else torch.get_num_threads())
        seconds = timed_steps(shape, length, self.config.train.batch_size, self.config.train.precision, threads)
        self.basis.append(
            f"{STEPS} timed steps of {self.config.train.batch_size} rows × {length} tokens, {shape.layers} layers, {threads} thread(s): "
            f"{1 / seconds:,.0f} tokens/s; selectors' own passes are not in it"
        )
        return seconds


def _kind(described: Mapping[str, Any]) -> list[Any]:
    """What seconds depend on: those of another kind of machine, a GPU say, tell nothing of this one."""
    return [described.get(name) for name in ("device", "gpu", "cores")]


@dataclass(frozen=True)
class Shape:
    """What a model costs, before it exists."""

    path: str
    layers: int
    hidden: int
    parameters: int


def shape_of(spec: str, config: RunConfig) -> Shape:
    """The shape of a student or teacher, from the config of the checkpoint that it comes from."""
    name, layers, _ = parse_spec(spec)
    teachers = named_teachers(config)
    if name in teachers:
        teacher = teachers[name]
        base = shape_of(teacher.finetune.init if teacher.finetune else str(teacher.path), config)
    else:
        base = _shape(resolve_path(name))
    if layers is None:
        return base
    kept = layers if isinstance(layers, int) else len(layers)
    per_layer = _layer_parameters(base.path)
    return Shape(base.path, kept, base.hidden, base.parameters - (base.layers - kept) * per_layer)


@lru_cache(maxsize=64)
def _shape(path: str) -> Shape:
    config = load_pretrained(AutoConfig, path)
    layers, hidden = int(config.num_hidden_layers), int(config.hidden_size)
    return Shape(path, layers, hidden, int(config.vocab_size) * hidden + layers * _layer_parameters(path))


@lru_cache(maxsize=64)
def _layer_parameters(path: str) -> int:
    """Four square matrices and two of the feed-forward part."""
    config = load_pretrained(AutoConfig, path)
    hidden = int(config.hidden_size)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", None) or 4 * hidden
    return 4 * hidden * hidden + 2 * hidden * int(inner)


@lru_cache(maxsize=64)
def timed_steps(shape: Shape, length: int, batch: int, precision: str, threads: int) -> float:
    """Seconds per token of a training step of a model of that shape with random weights; takes a few seconds."""
    device = default_device()
    config = load_pretrained(AutoConfig, shape.path)
    config.num_hidden_layers = shape.layers
    # one thread's own time: other work on the machine is not in it
    clock = time.process_time if device.type == "cpu" and threads == 1 else time.perf_counter
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            model: Any = AutoModelForSequenceClassification.from_config(config).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        longest = min(length, int(getattr(config, "max_position_embeddings", length) or length) - 2)
        ids = torch.full((batch, max(1, longest)), 5, device=device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        times = []
        for _ in range(STEPS + 1):
            started = clock()
            with autocast(resolve_precision(precision, device), device):
                loss = model(**inputs).logits.float().logsumexp(1).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(clock() - started)
    finally:
        torch.set_num_threads(before)
    return min(times[1:]) / (batch * ids.shape[1])


def _tokens(clean: Data, student: Shape, config: RunConfig) -> Encoded:
    """The rows that students see, as the backbone's tokenizer cuts them."""
    tokenizer = load_pretrained(AutoTokenizer, student.path)
    limit = getattr(tokenizer, "model_max_length", None)
    length = min(config.train.max_length, limit if isinstance(limit, int) and limit < 1 << 20 else math.inf)
    return encode(clean.distillation, tokenizer, int(length))
