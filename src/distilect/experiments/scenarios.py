"""What a scenario does to the rows: parts for specialists, wrong labels, hidden labels.

Every draw is a function of (a seed, the row's text, a purpose). The order of the rows, the machine and the number of workers
change nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect.config import RunConfig
from distilect.data import Data, Table, hold_out, read_texts, row_keys
from distilect.errors import ConfigError, DataError
from distilect.experiments.config import LearnsConfig, Noise, PartsConfig, ScenarioConfig
from distilect.models import EncoderTeacher
from distilect.pipeline.teachers import backbone_path
from distilect.signals import SignalStore, prepare_signals
from distilect.tasks import Task

Parts = Callable[[Table], NDArray[np.int64]]


def derived_seed(seed: int, purpose: str) -> int:
    """A seed for one purpose: noise and hidden labels of the same seed are independent."""
    digest = hashlib.blake2b(f"{purpose}\0{seed}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


# ---- labels ----------------------------------------------------------------------------------------------------------


def with_noise(table: Table, share: float, kind: Noise, task: Task, seed: int, purpose: str) -> Table:
    """The table with wrong labels on a share of its labelled rows; equal texts are hit together.

    Args:
        kind: `flip`: another class, drawn evenly (regression: mirrored in the middle of the scores that occur);
            `shuffle`: labels permuted among the rows that are hit.
    """
    known = np.flatnonzero(table.has_label)
    if share <= 0 or not len(known):
        return table
    salted = derived_seed(seed, purpose)
    rows = known
    if share < 1:
        _, hit = hold_out(table.take(known), share, salted)
        rows = known[hit]
    order = rows[np.lexsort((table.ids[rows, 1], table.ids[rows, 0]))]  # by identity, whatever the table's order
    labels = table.labels.copy()
    labels[order] = _wrong(table, order, kind, task, np.random.default_rng(salted))
    return replace(table, labels=labels)


def _wrong(table: Table, rows: NDArray[np.int64], kind: Noise, task: Task, rng: np.random.Generator) -> NDArray[Any]:
    """New labels for `rows`."""
    labels = table.labels[rows]
    if kind == "shuffle":
        return np.asarray(labels[rng.permutation(len(rows))])
    if task.kind == "regression":
        scores = table.labels[table.has_label]
        return np.asarray(scores.min() + scores.max() - labels)
    classes = len(task.labels)
    return np.asarray((labels + rng.integers(1, classes, len(rows))) % classes)


def with_few_labels(data: Data, share: float, seed: int) -> Data:
    """Data in which a share of train's labels is known; the other rows stay as text that teachers may speak on.

    Of the rows held out of train, the same share keeps its labels and its use; the rest becomes text too.
    """
    if share >= 1:
        return data
    salted = derived_seed(seed, "labelled")
    hidden, known = hold_out(data.train, share, salted)
    held, rest = np.arange(len(data.validation)), np.empty(0, np.int64)
    if len(data.validation) > 1:
        rest, held = hold_out(data.validation, share, salted)
    text = [data.train.take(hidden).without_labels(), data.validation.take(rest).without_labels()]
    extra = Table.concat([*text, *([data.extra] if data.extra is not None else [])])
    return replace(data, train=data.train.take(known), validation=data.validation.take(held), extra=extra)


def for_student(clean: Data, scenario: ScenarioConfig, seed: int) -> Data:
    """The rows as a student with this seed sees them; dev is never touched."""
    data = with_few_labels(clean, scenario.labelled, seed)
    train, validation = (
        with_noise(table, scenario.label_noise, scenario.noise_kind, data.task, seed, f"noise {role}")
        for role, table in (("train", data.train), ("validation", data.validation))
    )
    return replace(data, train=train, validation=validation)


def for_teacher(clean: Data, learns: LearnsConfig | None, parts: Parts | None, seed: int) -> Data:
    """The rows as a teacher that is fine-tuned here sees them, those for its checkpoint choice included.

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
        for role, table in tables.items():
            rows = np.flatnonzero(parts(table) == learns.part)
            if not len(rows) and role == "train":
                raise DataError(
                    f"part {learns.part} of train has no rows: set fewer parts, or divide by something else"
                )
            tables[role] = table.take(rows)
    for role, table in tables.items():
        purpose = f"teacher noise {role}"
        tables[role] = with_noise(table, learns.noise, learns.noise_kind, clean.task, seed, purpose)
    return replace(clean, train=tables["train"], validation=tables["validation"])


def truth_of(clean: Data) -> dict[int, float]:
    """Row key → true label, for the oracle."""
    found: dict[int, float] = {}
    for table in (clean.train, clean.validation):
        found.update(zip(row_keys(table.ids).tolist(), table.labels.tolist(), strict=True))
    return found


# ---- parts -----------------------------------------------------------------------------------------------------------


def parts_of(spec: PartsConfig, clean: Data, config: RunConfig) -> Parts:
    """A function table → part of each of its rows, int64 [N] in [0, count); a part is a property of the row, not of its place.

    Raises:
        ConfigError, DataError: they cannot be divided so.
    """
    makers: dict[str, Callable[[], Parts]] = {
        "class": lambda: _by_class(spec, clean.task),
        "length": lambda: _by_length(spec, clean),
        "cluster": lambda: _by_cluster(spec, clean, config),
        "column": lambda: _by_column(spec, clean, config),
    }
    return makers[spec.by]()


def _by_class(spec: PartsConfig, task: Task) -> Parts:
    """Classes in the task's order, dealt out in turn."""
    if task.kind == "regression" or len(task.labels) < spec.count:
        has = "is a regression" if task.kind == "regression" else f"has {len(task.labels)} classes"
        raise ConfigError(
            f"parts by class: task {task.name!r} {has}, expected {spec.count} or more: use by: cluster or length"
        )
    return lambda table: table.labels.astype(np.int64) % spec.count


def _by_length(spec: PartsConfig, clean: Data) -> Parts:
    """Equal shares of train by the number of words; equal lengths stay together."""
    edges = np.quantile(_words(clean.train), np.linspace(0, 1, spec.count + 1)[1:-1])
    return lambda table: np.searchsorted(edges, _words(table), side="left").astype(np.int64)


def _words(table: Table) -> NDArray[np.int64]:
    rows = table.text(np.arange(len(table)))
    return np.array([sum(len(text.split()) for text in row) for row in rows], dtype=np.int64)


def _by_cluster(spec: PartsConfig, clean: Data, config: RunConfig) -> Parts:
    """k-means of a frozen encoder's mean vectors, of unit length; fitted on train in the order of identities."""
    from sklearn.cluster import KMeans

    encoder = EncoderTeacher(
        spec.encoder or backbone_path(config),
        pooling="mean",
        max_length=config.train.max_length,
        precision=config.signals.precision,
    )
    store = SignalStore(Path(config.output) / config.signals.store)

    def vectors(table: Table) -> NDArray[np.float32]:
        source = prepare_signals([encoder], table, store, [[]], max_tokens=config.signals.max_tokens).source
        assert source is not None
        found = source.fetch(table, np.arange(len(table)), [[]]).logits[:, 0].float().cpu().numpy()
        return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12))

    unique = clean.train.take(np.unique(clean.train.ids, axis=0, return_index=True)[1])  # ascending identities
    fitted = KMeans(spec.count, n_init=10, random_state=0).fit(vectors(unique))
    return lambda table: fitted.predict(vectors(table)).astype(np.int64) if len(table) else np.empty(0, np.int64)


def _by_column(spec: PartsConfig, clean: Data, config: RunConfig) -> Parts:
    """Values of a column of the training table, most frequent first, each given to the part that has fewest rows so far."""
    if spec.column is None:
        raise ConfigError("parts by column: set parts.column to a column of the training table")
    value_of = _column_values(spec.column, config)
    counts: dict[str, int] = {}
    for value in value_of.values():
        counts[value] = counts.get(value, 0) + 1
    sizes, part_of = [0] * spec.count, {}
    for value in sorted(counts, key=lambda v: (-counts[v], v)):
        part = sizes.index(min(sizes))
        part_of[value] = part
        sizes[part] += counts[value]
    keys = {key: part_of[value] for key, value in value_of.items()}
    unknown = sum(int(key) not in keys for key in row_keys(clean.train.ids))
    if unknown:
        raise DataError(f"parts by column {spec.column!r}: {unknown} rows of train are not found in the table again")
    return lambda table: np.array([keys[int(key)] for key in row_keys(table.ids)], dtype=np.int64)


def _column_values(column: str, config: RunConfig) -> dict[int, str]:
    """Row key → value of a further column of the training table."""
    data, text, file = config.data, config.data.text, config.data.train
    if data.glue is not None:
        file = str(Path(data.glue) / "train.tsv")
        text = list(read_texts(data.glue, data_dir=Path(config.data_dir))[0])
    assert file is not None
    _, texts, values = read_texts(file, text=text, label=column, labelled=True, data_dir=Path(config.data_dir))
    assert values is not None
    keys = row_keys(Table.from_columns(texts).ids)
    return dict(zip(keys.tolist(), map(str, values.to_pylist()), strict=True))
