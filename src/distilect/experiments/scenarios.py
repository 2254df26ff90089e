"""What a scenario does to the rows: parts for specialists, wrong labels, hidden labels.

Every draw is a function of (a seed, the row's text, a purpose). The order of the rows, the machine and the number of workers
change nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect.config import RunConfig
from distilect.data import Data, Table, hold_out
from distilect.errors import ConfigError, DataError
from distilect.experiments.config import LearnsConfig, PartsConfig, ScenarioConfig
from distilect.models import EncoderTeacher
from distilect.pipeline.teachers import backbone_path
from distilect.signals import SignalStore, prepare_signals
from distilect.tasks import Task

Parts = Callable[[Table], NDArray[np.int64]]  # table [N] → part of each row, int64 [N]


def derived_seed(seed: int, purpose: str) -> int:
    """A seed for one purpose: noise and hidden labels of the same seed are independent."""
    digest = hashlib.blake2b(f"{purpose}\0{seed}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


# ---- labels ----------------------------------------------------------------------------------------------------------


def with_noise(table: Table, share: float, task: Task, seed: int, purpose: str) -> Table:
    """The table with wrong labels on a share of its labelled rows; equal texts get the same fate.

    A wrong label is another class, drawn evenly; in a regression it is the score mirrored in the middle of those that occur.
    """
    known = np.flatnonzero(table.has_label)
    if share <= 0 or not len(known):
        return table
    if task.kind in ("multi-label", "tokens", "causal-lm"):
        raise ConfigError(
            f"task {task.name!r} is of kind {task.kind}, for which label noise is not defined: set it to 0"
        )
    salted = derived_seed(seed, purpose)
    rows = known
    if share < 1:
        _, hit = hold_out(table.take(known), share, salted)
        rows = known[hit]
    rows = rows[np.lexsort((table.ids[rows, 1], table.ids[rows, 0]))]  # by identity, whatever the table's order
    labels = table.labels.copy()
    if task.kind == "regression":
        scores = table.labels[table.has_label]
        labels[rows] = scores.min() + scores.max() - labels[rows]
    else:
        classes = len(task.labels)
        labels[rows] = (labels[rows] + np.random.default_rng(salted).integers(1, classes, len(rows))) % classes
    return replace(table, labels=labels)


def with_types(table: Table, types: Sequence[str], task: Task) -> Table:
    """A table of words in which entities of other types are not annotated: their words are `O`.

    Raises:
        ConfigError: the task has no tags of these types.
    """
    known = {label.partition("-")[2] for label in task.labels if "-" in label} if task.kind == "tokens" else set()
    for name in types:
        if name not in known:
            there = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"learns: types: task {task.name!r} has no entities of type {name!r}; its types: {there}")
    others = [i for i, label in enumerate(task.labels) if "-" in label and label.partition("-")[2] not in types]
    return replace(table, labels=np.where(np.isin(table.labels, others), task.labels.index("O"), table.labels))


def with_few_labels(data: Data, share: float, seed: int) -> Data:
    """Data in which a share of train's labels is known; the other rows stay as text that teachers can label.

    The same share of the validation split keeps its labels and its use; the rest of it becomes text too.
    """
    if share >= 1:
        return data
    salted = derived_seed(seed, "labelled")
    hidden, known = hold_out(data.train, share, salted)
    rest, held = np.empty(0, np.int64), np.arange(len(data.validation))
    if len(data.validation) > 1:
        rest, held = hold_out(data.validation, share, salted)
    text = [data.train.take(hidden).without_labels(), data.validation.take(rest).without_labels()]
    extra = Table.concat([*text, *([data.extra] if data.extra is not None else [])])
    return replace(data, train=data.train.take(known), validation=data.validation.take(held), extra=extra)


def for_student(clean: Data, scenario: ScenarioConfig, seed: int) -> Data:
    """The rows as a student with this seed sees them; dev is never touched."""
    data = with_few_labels(clean, scenario.labelled, seed)
    train, validation = (
        with_noise(table, scenario.label_noise, data.task, seed, f"noise {role}")
        for role, table in (("train", data.train), ("validation", data.validation))
    )
    return replace(data, train=train, validation=validation)


def for_teacher(clean: Data, learns: LearnsConfig | None, parts: Parts | None, seed: int) -> Data:
    """The rows as a teacher that is fine-tuned here sees them, the validation split included.

    Raises:
        ConfigError: it learns from a part, but the scenario has none of that number.
        DataError: the part has no rows.
    """
    if learns is None:
        return clean
    tables = {"train": clean.train, "validation": clean.validation}
    if learns.part is not None:
        if parts is None:
            raise ConfigError("a teacher learns from a part, but its scenario sets no parts:")
        tables = {role: table.take(np.flatnonzero(parts(table) == learns.part)) for role, table in tables.items()}
        if not len(tables["train"]):
            raise DataError(f"part {learns.part} of train has no rows: set fewer parts, or divide by something else")
    for role, table in tables.items():
        tables[role] = with_noise(table, learns.noise, clean.task, seed, f"teacher noise {role}")
        if learns.types is not None:
            tables[role] = with_types(tables[role], learns.types, clean.task)
    return replace(clean, train=tables["train"], validation=tables["validation"])


def experts_of(parts: Parts, learned: Mapping[str, LearnsConfig | None], clean: Data) -> dict[int, str]:
    """Key of a row, word or token → name of the teacher that was fine-tuned on the row's part, for the oracle.

    Args:
        learned: by name of teacher.
    """
    names = {learns.part: name for name, learns in learned.items() if learns is not None and learns.part is not None}
    found: dict[int, str] = {}
    for table in (clean.train, clean.validation):
        parts_found = parts(table) if table.units is None else parts(table)[table.units.owners]
        pairs = zip(table.unit_keys().tolist(), parts_found.tolist(), strict=True)
        found.update((key, names[part]) for key, part in pairs if part in names)
    return found


def truth_of(clean: Data) -> dict[int, Any]:
    """Key of a row or word → true label, or its list of 0 and 1, for the oracle."""
    found: dict[int, Any] = {}
    for table in (clean.train, clean.validation):
        found.update(zip(table.unit_keys().tolist(), table.labels.tolist(), strict=True))
    return found


# ---- parts -----------------------------------------------------------------------------------------------------------


def parts_of(spec: PartsConfig, clean: Data, config: RunConfig) -> Parts:
    """A function table → part of each of its rows; a part is a property of the row, not of its place in the table.

    Raises:
        ConfigError: a task without enough classes is to be divided by class.
    """
    return _by_class(spec, clean.task) if spec.by == "class" else _by_cluster(spec, clean, config)


def _by_class(spec: PartsConfig, task: Task) -> Parts:
    """Classes in the task's order, dealt out in turn."""
    if task.kind != "classification" or len(task.labels) < spec.count:
        has = f"has {len(task.labels)} classes" if task.kind == "classification" else f"is a {task.kind} task"
        raise ConfigError(f"parts by class: task {task.name!r} {has}, expected {spec.count} or more: use by: cluster")
    return lambda table: table.labels.astype(np.int64) % spec.count


def _by_cluster(spec: PartsConfig, clean: Data, config: RunConfig) -> Parts:
    """k-means of the student's pre-trained model's mean vectors, of unit length; fitted on train in the order of identities."""
    from sklearn.cluster import KMeans

    signals = config.signals
    encoder = EncoderTeacher(
        backbone_path(config), pooling="mean", max_length=config.train.max_length, precision=signals.precision
    )
    store = SignalStore(Path(config.output) / signals.store)

    def vectors(table: Table) -> NDArray[np.float32]:
        if table.units is not None:  # the vector is the row's
            table = Table.from_texts([" ".join(texts) for texts in table.text(range(len(table)))])
        source = prepare_signals([encoder], table, store, [[]], max_tokens=signals.max_tokens).source
        assert source is not None
        found = source.fetch(table, np.arange(len(table)), [[]]).logits[:, 0].float().cpu().numpy()
        return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12))

    unique = clean.train.take(np.unique(clean.train.ids, axis=0, return_index=True)[1])  # ascending identities
    fitted: Any = KMeans(spec.count, n_init=10, random_state=0).fit(vectors(unique))
    return lambda table: fitted.predict(vectors(table)).astype(np.int64) if len(table) else np.empty(0, np.int64)
