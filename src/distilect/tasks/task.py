"""What is learned: a label space or a score, and the metrics that judge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from distilect.errors import ConfigError, DataError, did_you_mean
from distilect.tasks.label_names import same_label_key
from distilect.tasks.metrics import (
    CLASSIFICATION,
    ENTITY,
    MACRO_ENTITY,
    MULTI_LABEL,
    OF_A_CLASS,
    RANKING,
    REGRESSION,
    TOKEN,
    entity_f1,
    entity_precision,
    entity_recall,
    macro_entity_f1,
)
from distilect.tasks.tags import Scheme, entity_counts, misfit, scheme_of, type_counts
from distilect.tasks.thresholds import choose_thresholds, margins

Kind = Literal["classification", "regression", "multi-label", "tokens", "causal-lm"]
KINDS: tuple[Kind, ...] = ("classification", "regression", "multi-label", "tokens", "causal-lm")

PROBLEM_TYPES: dict[
    Kind, str
] = {  # as transformers' configs call them; they have no word for tokens and language models
    "classification": "single_label_classification",
    "regression": "regression",
    "multi-label": "multi_label_classification",
}
NO_LABEL = -100  # the class index of a row without a label; regression uses NaN
# What is kept of a language model's output at a token, of which there are too many: the log-probability of the token that stands there, of
# the likeliest other one, and of all others together; and the likeliest token of all.
TOKEN_OUTPUTS = ("gold", "other", "rest", "token")
_FITTING: dict[Kind, tuple[str, ...]] = {
    "classification": (*CLASSIFICATION, *OF_A_CLASS, *RANKING),
    "regression": (*REGRESSION,),
    "multi-label": (*MULTI_LABEL,),
    "tokens": (*ENTITY, MACRO_ENTITY, *CLASSIFICATION),
    "causal-lm": (*TOKEN,),
}


def has_label(labels: Any) -> Any:
    """Which rows have a label, bool [N], of numpy or of torch.

    Args:
        labels: class indexes (int [N]), scores (float [N]), or a 0 or 1 per label (int8 [N, C], multi-label).
    """
    if labels.ndim == 2:
        return labels[:, 0] != NO_LABEL
    floating = labels.dtype.kind == "f" if isinstance(labels, np.ndarray) else labels.is_floating_point()
    return labels == labels if floating else labels != NO_LABEL  # NaN differs from itself


def of_candidates(labels: Any) -> bool:
    """Whether these are the labels of a language model's tokens, int32: 0 where there is one, as class 0 is the token itself."""
    return str(labels.dtype).endswith("int32")


@dataclass(frozen=True)
class Task:
    """A task as data, teachers, student and report see it.

    Args:
        name: used in logs and reports.
        kind: classification; regression with one output; multi-label, in which a row has any number of the labels; tokens, in which
            each word of a row has a tag; or causal-lm, in which each token of a text follows from those before it.
        labels: label names in the order of the outputs; () for regression and causal-lm.
        metrics: the first one is the primary; higher is better for all of them but perplexity, which is never the first. A metric of
            one class names it:
            `f1(spam)`. Of two classes, `f1` alone becomes that of the second one. `entity_f1(person)` is of one type of entities.
        num_texts: 1, or 2 for pairs.

    Raises:
        ConfigError: labels or metrics that do not fit the kind of task.

    Example:
        >>> task = Task("demo", "classification", ("no", "yes"), ("accuracy",), 1)
        >>> task.score(np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 1]))
        {'accuracy': 1.0}
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    num_texts: int

    def __post_init__(self) -> None:
        _check_labels(self.kind, self.labels)
        object.__setattr__(self, "metrics", tuple(_named(name, self.kind, self.labels) for name in self.metrics))
        if not self.metrics:
            raise ConfigError(f"a task has at least one metric: {', '.join(_FITTING[self.kind])}")
        if self.primary == "perplexity":
            raise ConfigError(
                "task.metrics begins with perplexity, the lower the better: begin with accuracy, and set train.final_weights: lowest-loss "
                "to choose checkpoints by perplexity"
            )
        if self.num_texts not in (1, 2):
            raise ConfigError(f"a task has one text or two per row, got {self.num_texts}")
        if self.kind == "tokens" and self.num_texts != 1:
            raise ConfigError(f"a tokens task has one list of words per row, got {self.num_texts}")

    @property
    def num_outputs(self) -> int:
        """Number of classes; 1 for regression; the numbers of `TOKEN_OUTPUTS` for causal-lm."""
        return len(TOKEN_OUTPUTS) if self.kind == "causal-lm" else len(self.labels) or 1

    @property
    def classes(self) -> bool:
        """Whether a unit has one label out of several, so that its outputs go through a softmax: classification and tokens."""
        return self.kind in ("classification", "tokens")

    @property
    def scheme(self) -> Scheme | None:
        """The scheme of a tokens task's tags; None where they are none, as in part of speech."""
        return scheme_of(self.labels) if self.kind == "tokens" else None

    @property
    def of_units(self) -> Task:
        """The same for units that stand alone, as a sample of words does: entities cannot be scored there, words are, by macro_f1."""
        if self.kind != "tokens" or not _of_entities(self.primary):
            return self
        return replace(self, metrics=("macro_f1", "accuracy"))

    @property
    def primary(self) -> str:
        """The metric that chooses checkpoints."""
        return self.metrics[0]

    def score(
        self,
        logits: NDArray[Any],
        labels: NDArray[Any],
        thresholds: Sequence[float] | None = None,
        offsets: NDArray[np.int64] | None = None,
    ) -> dict[str, float]:
        """The task's metrics on the labelled rows, or words.

        Args:
            logits: [N, C]; [N, 1] or [N] for regression; [U, C] for tokens; [U, 4] for causal-lm (`TOKEN_OUTPUTS`). A row of NaN counts
                as wrong.
            labels: [N] class indexes, -100 for rows without a label; scores, NaN for rows without one; or int8 [N, C] of 0
                and 1, -100 for rows without labels. For tokens [U] class indexes; for causal-lm int32 [U], 0 or -100.
            thresholds: of a multi-label task, C probabilities above which a label is predicted; default: 1/2.
            offsets: of a tokens task, int64 [N + 1], where each row's words begin (`Table.offsets`); metrics of entities need them.

        Raises:
            DataError: no row is labelled, or the shapes do not fit.
            ValueError: metrics of entities without offsets.
        """
        if len(logits) != len(labels):
            raise DataError(f"{len(logits)} predictions for {len(labels)} labels: expected one per row")
        kept = has_label(np.asarray(labels))
        if not kept.any():
            raise DataError(f"no row of {len(labels)} has a label: nothing to score on {self.name}")
        rows, truth = np.asarray(logits, dtype=np.float64)[kept], np.asarray(labels)[kept]
        if self.kind == "causal-lm":
            self._check_width(rows)
            return {name: TOKEN[name](rows[:, 0], rows[:, 1]) for name in self.metrics}
        if self.classes:
            self._check_width(rows)
            of_words = [name for name in self.metrics if not _of_entities(name)]
            found = {name: self._class_metric(name, rows, truth.astype(np.int64)) for name in of_words}
            if len(found) < len(self.metrics):
                found |= self._entity_metrics(np.asarray(logits), np.asarray(labels), offsets)
            return {name: found[name] for name in self.metrics}
        if self.kind == "multi-label":
            self._check_width(rows)
            above = wrong_where_nan(margins(rows, thresholds), truth == 1)
            return {name: MULTI_LABEL[name](above, truth == 1) for name in self.metrics}
        values = rows.reshape(len(rows), -1)
        if values.shape[1] != 1:
            raise DataError(f"{values.shape[1]} outputs per row: a regression task has 1")
        return {name: REGRESSION[name](values[:, 0], truth.astype(np.float64)) for name in self.metrics}

    def loss(self, logits: NDArray[Any], labels: NDArray[Any]) -> float:
        """Mean loss on the labelled rows: cross-entropy in nats (a mean over labels too in a multi-label task); squared error in a regression.

        Args:
            logits, labels: as in `score`.
        """
        kept = has_label(np.asarray(labels))
        rows, truth = np.asarray(logits, dtype=np.float64)[kept], np.asarray(labels)[kept]
        if self.kind == "causal-lm":
            return float(-np.mean(rows[:, 0]))
        if self.classes:
            return float(np.mean(logsumexp(rows, axis=1) - rows[np.arange(len(rows)), truth.astype(np.int64)]))
        if self.kind == "multi-label":
            return float(np.mean(np.logaddexp(0, rows) - rows * truth))
        return float(np.mean((rows.reshape(len(rows)) - truth) ** 2))

    def thresholds(self, logits: NDArray[Any], labels: NDArray[Any]) -> tuple[float, ...] | None:
        """The thresholds that suit a multi-label model best on these rows, which must not be those that it is reported on.

        Args:
            logits: [N, C]; labels: int8 [N, C].

        Returns:
            a probability per label; None for other kinds of task, and where no row is labelled.
        """
        if self.kind != "multi-label" or not len(labels):
            return None
        known = has_label(labels) & ~np.isnan(logits).any(axis=1)
        if not known.any():
            return None
        return tuple(choose_thresholds(np.asarray(logits, np.float64)[known], labels[known] == 1).tolist())

    def entity_counts(
        self, logits: NDArray[Any], labels: NDArray[Any], offsets: NDArray[np.int64] | None, of: str | None = None
    ) -> NDArray[np.int64]:
        """int64 [N, 3]: how many entities of each row are predicted rightly, predicted, and labelled; metrics of entities are made of these.

        Args:
            logits, labels, offsets: as in `score`.
            of: count one type only.

        Raises:
            ValueError: the tags are no scheme, or there are no offsets.
        """
        scheme, where = self._entities(labels, offsets)
        number = None if of is None else scheme.types.index(of)
        return entity_counts(self._classes(logits), np.asarray(labels, np.int64), where, scheme, number)

    def type_scores(
        self, logits: NDArray[Any], labels: NDArray[Any], offsets: NDArray[np.int64] | None
    ) -> dict[str, dict[str, float]]:
        """Scores of each type of entities (`type_scores`); empty where the labels are no tags of entities.

        Args:
            logits, labels, offsets: as in `score`.
        """
        if self.scheme is None:
            return {}
        scheme, where = self._entities(labels, offsets)
        return type_scores(self._classes(logits), np.asarray(labels, np.int64), where, scheme)

    def _entities(self, labels: NDArray[Any], offsets: NDArray[np.int64] | None) -> tuple[Scheme, NDArray[np.int64]]:
        if self.scheme is None:
            raise ValueError(f"the labels of {self.name} are no tags of entities (such as O, B-person, I-person)")
        if offsets is None:
            raise ValueError(
                "metrics of entities need to know where each row's words begin: pass offsets=table.offsets"
            )
        if int(offsets[-1]) != len(labels):
            raise DataError(f"{len(labels)} labels, but rows of {int(offsets[-1])} words: expected one per word")
        return self.scheme, offsets

    def _entity_metrics(
        self, logits: NDArray[Any], labels: NDArray[Any], offsets: NDArray[np.int64] | None
    ) -> dict[str, float]:
        """Those of the task's metrics that are of entities."""
        scheme, where = self._entities(labels, offsets)
        predicted, truth = self._classes(logits), labels.astype(np.int64)
        found, by_type = {}, type_counts(predicted, truth, where, scheme)
        overall = entity_counts(predicted, truth, where, scheme)
        for metric in filter(_of_entities, self.metrics):
            name, of = parse_metric(metric)
            if name == MACRO_ENTITY:
                found[metric] = macro_entity_f1(by_type)
            else:
                found[metric] = ENTITY[name](overall if of is None else by_type[scheme.types.index(of)])
        return found

    def _class_metric(self, metric: str, logits: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
        name, of = parse_metric(metric)
        if of is None:
            return CLASSIFICATION[name](self._classes(logits), truth)
        number = self.labels.index(of)
        if name in OF_A_CLASS:
            return OF_A_CLASS[name](self._classes(logits), truth, number)
        scores = class_margin(logits, number)[:, None]
        return RANKING[name](wrong_where_nan(scores, (truth == number)[:, None])[:, 0], truth == number)

    def _check_width(self, logits: NDArray[Any]) -> None:
        if logits.ndim != 2 or logits.shape[1] != self.num_outputs:
            raise DataError(f"logits of shape {logits.shape}: expected [rows, {self.num_outputs}] for {self.name}")

    def _classes(self, logits: NDArray[Any]) -> NDArray[np.int64]:
        """[N, C] → [N] class indexes; -1, which is no class, for a row with NaN."""
        broken = np.isnan(logits).any(axis=1)
        return np.where(broken, -1, np.where(np.isnan(logits), 0, logits).argmax(axis=1)).astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and YAML; `from_dict` gives an equal task."""
        return asdict(self) | {"labels": list(self.labels), "metrics": list(self.metrics)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Task:
        """The task that `to_dict` wrote.

        Raises:
            ConfigError: a key is missing or unknown.
        """
        expected = {field.name for field in fields(cls)}
        if set(values) != expected:
            raise ConfigError(f"a task has the keys {', '.join(sorted(expected))}; got {', '.join(sorted(values))}")
        return cls(**{**values, "labels": tuple(values["labels"]), "metrics": tuple(values["metrics"])})


def type_scores(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], offsets: NDArray[np.int64], scheme: Scheme
) -> dict[str, dict[str, float]]:
    """`precision`, `recall` and `f1` of each type of entities, and how many `entities` of it are labelled.

    Args:
        predicted, labels, offsets: as in `entity_counts`.
    """
    return {
        kind: {
            "precision": entity_precision(counts),
            "recall": entity_recall(counts),
            "f1": entity_f1(counts),
            "entities": int(counts[2]),
        }
        for kind, counts in zip(scheme.types, type_counts(predicted, labels, offsets, scheme), strict=True)
    }


def default_metrics(kind: Kind, num_labels: int, unbalanced: bool = False, entities: bool = False) -> tuple[str, ...]:
    """The metrics of a task that names none.

    Classification: accuracy and f1 for two classes, accuracy and macro_f1 for more. Two classes that are `unbalanced` have
    macro_f1 too, as accuracy and the F1 of the larger class are high for a model that knows nothing.

    Args:
        entities: the labels of a tokens task are a scheme of entities.
    """
    if kind == "causal-lm":
        return tuple(TOKEN)
    if kind == "tokens":
        return (*ENTITY, "accuracy") if entities else ("accuracy", "macro_f1")
    if kind == "regression":
        return ("pearson", "spearman")
    if kind == "multi-label":
        return tuple(MULTI_LABEL)
    if num_labels == 2:
        return ("accuracy", "f1", "macro_f1") if unbalanced else ("accuracy", "f1")
    return ("accuracy", "macro_f1")


def kind_of_metrics(metrics: tuple[str, ...]) -> Kind | None:
    """The kind of task that `metrics` belong to; None where there are none or the first one is unknown."""
    name = parse_metric(metrics[0])[0] if metrics else ""
    return next((kind for kind, fitting in _FITTING.items() if name in fitting), None)


def parse_metric(text: str) -> tuple[str, str | None]:
    """`f1(spam)` → ("f1", "spam"), `accuracy` → ("accuracy", None)."""
    name, bracket, rest = text.partition("(")
    return (name.strip(), rest[:-1]) if bracket and rest.endswith(")") else (text, None)


def class_margin(logits: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """float64 [N]: log p / (1 - p) of one class of [N, C] logits, within ±1e30."""
    from scipy.special import logsumexp

    others = logsumexp(np.delete(logits, number, axis=1), axis=1)
    return np.asarray(np.clip(logits[:, number] - others, -1e30, 1e30))


def named_metrics(metrics: Sequence[str], kind: Kind, labels: tuple[str, ...], positive: str | None) -> tuple[str, ...]:
    """`metrics` in which those of one class are of `positive`, where they name no class.

    Raises:
        ConfigError: there is no such class, or no metric that it would change.
    """
    if positive is None:
        return tuple(metrics)
    if kind != "classification":
        raise ConfigError(f"task.positive names a class, but task.kind is {kind}: remove it")
    if positive not in labels:
        hint = did_you_mean(positive, labels)
        raise ConfigError(f"task.positive is {positive!r}, expected one of the labels {', '.join(labels)}.{hint}")
    of_a_class = [name for name in metrics if name in OF_A_CLASS or name in RANKING]
    if not of_a_class:
        known = ", ".join((*OF_A_CLASS, *RANKING))
        raise ConfigError(
            f"task.positive is set, but task.metrics has none of one class ({known}): add one, or remove it"
        )
    return tuple(f"{name}({positive})" if name in of_a_class else name for name in metrics)


def _named(metric: str, kind: Kind, labels: tuple[str, ...]) -> str:
    """The metric under its full name, `f1(spam)` for `f1`.

    Raises:
        ConfigError: it is unknown, does not fit the kind of task, or names no class or a wrong one.
    """
    name, of = parse_metric(metric)
    fitting = _FITTING[kind]
    if not any(name in names for names in _FITTING.values()):
        hint = did_you_mean(name, fitting) or f" Known: {', '.join(fitting)}."
        raise ConfigError(f"unknown metric {metric!r}.{hint}")
    if name not in fitting:
        raise ConfigError(f"metric {metric!r} does not fit {kind}: use {', '.join(fitting)}")
    if _of_entities(name):
        return _named_entities(metric, name, of, labels)
    if kind != "classification" or name in CLASSIFICATION:
        if of is not None:
            raise ConfigError(f"metric {metric!r}: {name} is not of one class; write {name}")
        return name
    if of is None and len(labels) == 2:
        of = labels[1]
    if of is None:
        raise ConfigError(
            f"metric {name!r} is of one class, this task has {len(labels)}: write {name}({labels[0]}), or use 'macro_f1'"
        )
    if of not in labels:
        raise ConfigError(f"metric {metric!r}: no label is called {of!r}.{did_you_mean(of, labels)}")
    return f"{name}({of})"


def _of_entities(metric: str) -> bool:
    name = parse_metric(metric)[0]
    return name in ENTITY or name == MACRO_ENTITY


def _named_entities(metric: str, name: str, of: str | None, labels: tuple[str, ...]) -> str:
    scheme = scheme_of(labels)
    if scheme is None:
        odd = misfit(labels)
        why = f"{odd!r} is none" if odd is not None else f"{', '.join(labels[:5])} are of different schemes"
        raise ConfigError(
            f"metric {metric!r} needs tags of entities (such as O, B-person, I-person), but {why}: use accuracy and macro_f1"
        )
    if of is None:
        return name
    if name == MACRO_ENTITY:
        raise ConfigError(f"metric {metric!r}: {name} is not of one type; write {name}")
    if of not in scheme.types:
        hint = did_you_mean(of, scheme.types) or f" Types: {', '.join(scheme.types)}."
        raise ConfigError(f"metric {metric!r}: no type of entities is called {of!r}.{hint}")
    return f"{name}({of})"


def wrong_where_nan(values: NDArray[np.float64], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[N, C] margins; rows with a NaN are as wrong as can be in each of them."""
    broken = np.isnan(values).any(axis=1, keepdims=True)
    return np.where(broken, np.where(truth, -1e31, 1e31), values)


def _check_labels(kind: Kind, labels: tuple[str, ...]) -> None:
    if kind not in KINDS:
        raise ConfigError(f"task kind {kind!r}: expected {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    without = kind in ("regression", "causal-lm")
    if without and labels:
        raise ConfigError(f"a {kind} task has no label names, got {', '.join(labels)}")
    if not without and len(labels) < 2:
        hint = (
            "; a single label that rows have or not is a classification of two classes" if kind == "multi-label" else ""
        )
        raise ConfigError(f"{kind} needs two labels or more, got {', '.join(labels) or 'none'}{hint}")
    if len({same_label_key(label) for label in labels}) != len(labels):
        raise ConfigError(f"label names must differ in more than kinds of space, got {', '.join(labels)}")
