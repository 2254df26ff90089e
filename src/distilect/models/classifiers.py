"""Checkpoints with a head, loaded with what their config leaves out: the width of the head, the second output of a binary one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from distilect.errors import DistilectError, TeacherError
from distilect.models.checkpoints import load_pretrained
from distilect.models.labels import align_labels, are_generic, is_multi_label
from distilect.tasks import Task


@dataclass(frozen=True)
class Loaded:
    """A checkpoint as transformers loads it.

    Attributes:
        missing: weights that the checkpoint lacks.
        width: outputs of the checkpoint's head where these are not as many as its config names; else None.
    """

    model: Any
    missing: list[str]
    width: int | None

    @property
    def has_head(self) -> bool:
        """Whether the head is the checkpoint's and not drawn at random."""
        return self.width is None and all(key.startswith(f"{self.model.base_model_prefix}.") for key in self.missing)


def loader_of(task: Task) -> Any:
    """The class of transformers that loads a model for a task."""
    special = {"tokens": AutoModelForTokenClassification, "causal-lm": AutoModelForCausalLM}
    return special.get(task.kind, AutoModelForSequenceClassification)


def load(loader: Any, path: str, error: type[DistilectError], config: Any) -> Loaded:
    """The model as `config` describes it; weights that do not fit are left at random.

    Raises:
        error: it cannot be loaded, or weights beside the head have another shape.
    """
    options = {"config": config, "use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
    model, info = load_pretrained(loader, path, error, **options)
    widths = set()
    for name, theirs, ours in sorted(info["mismatched_keys"]):  # a set: the message names the first by name
        if not ours or ours[0] != config.num_labels or theirs[1:] != ours[1:]:
            raise error(
                f"{path}: {name} has shape {list(theirs)}, its config.json says {list(ours)}: the two do not belong together"
            )
        widths.add(int(theirs[0]))
    return Loaded(model, sorted(info["missing_keys"]), widths.pop() if widths else None)


def load_classifier(
    path: str, error: type[DistilectError], task: Task, names: Sequence[str] | None = None
) -> tuple[Loaded, list[str]]:
    """A checkpoint for a task, and the names of its outputs.

    A head that is wider than the config's labels is taken as it is where the config names none, or where `names` names all.

    Raises:
        error: it cannot be loaded, or it is unknown what the outputs of its head are.
    """
    config = load_pretrained(AutoConfig, path, error)
    loaded = load(loader_of(task), path, error, config)
    own = label_names(config)
    if loaded.width is not None:
        if len(names or ()) != loaded.width and not are_generic(own):
            raise error(
                f"{path}: its head has {loaded.width} outputs, its config.json names {len(own)} ({', '.join(own)}): complete id2label "
                f"there, or give all {loaded.width} names in order with labels:"
            )
        config.num_labels = loaded.width
        loaded = load(loader_of(task), path, error, config)
        own = label_names(config)
    return loaded, own


def label_names(config: Any) -> list[str]:
    """The names of a model's outputs, in order; ids and names may be numbers in a config."""
    return [str(config.id2label.get(i, f"LABEL_{i}")) for i in range(config.num_labels)]


def output_order(
    who: str, config: Any, own: Sequence[str], task: Task, names: Sequence[str] | None = None
) -> list[int]:
    """Where the task's labels stand among a model's outputs; of a single logit among [0, logit], its outputs as two.

    Args:
        own: the names of the outputs in the config.
        names: the names that the user gives to them.

    Raises:
        TeacherError: they differ; prints both.
    """
    _check_kind(who, config, task)
    count = len(own)
    if task.kind == "regression":
        if count != 1:
            raise TeacherError(f"teacher {who!r} has {count} outputs, a regression task needs exactly 1")
        return [0]
    if count == 1:
        return _binary_order(who, config, own[0], task, names)
    if names and len(names) != count:
        raise TeacherError(f"teacher {who!r} has {count} outputs, but labels: names {len(names)}")
    return align_labels(names or own, task.labels, who)


def _check_kind(who: str, config: Any, task: Task) -> None:
    """Refuse a softmax where the task needs a sigmoid per label, and the other way round: the one cannot be read as the other.

    Raises:
        TeacherError: names both, and what to do.
    """
    kind, sigmoids = getattr(config, "problem_type", None), is_multi_label(config)
    if sigmoids and task.kind != "multi-label":
        raise TeacherError(
            f"{who!r} is a multi-label model (problem_type {kind}): a sigmoid for each label, no choice of one; the task is "
            f"{task.kind}: set task.kind: multi-label, or take a model of one label per text"
        )
    if not sigmoids and task.kind == "multi-label":
        raise TeacherError(
            f"{who!r} chooses one label per text (problem_type {kind}), the task is multi-label: take a model with problem_type "
            "multi_label_classification; if it was trained with a sigmoid for each label, write that into its config.json"
        )


def is_binary(config: Any, task: Task) -> bool:
    """Whether a model's one output is the logit of the second of two classes, as cross-encoders have it."""
    return (
        task.kind == "classification"
        and config.num_labels == 1
        and config.problem_type != "regression"
        and len(task.labels) == 2
    )


def _binary_order(who: str, config: Any, own: str, task: Task, names: Sequence[str] | None) -> list[int]:
    if not is_binary(config, task):
        raise TeacherError(
            f"teacher {who!r} has one output, a score; the task has {len(task.labels)} classes ({', '.join(task.labels[:8])}): "
            "if these are scores too, set task.kind=regression; else take a classifier"
        )
    if names is None:
        other = [label for label in task.labels if not _same(label, own)]
        names = ["0", "1"] if are_generic([own]) else [*other, own] if len(other) == 1 else []
    if len(names) == 2:
        try:
            return align_labels(names, task.labels, who)
        except TeacherError:
            pass
    raise TeacherError(
        f"teacher {who!r} has one output, the logit of one of two labels: name the other label and this one, in this order, with "
        f"labels: on {who!r}; the task's are {', '.join(task.labels)}"
    )


def _same(label: str, other: str) -> bool:
    try:
        return bool(align_labels([label], [other]) == [0])
    except TeacherError:
        return False


def split_binary_head(model: Any) -> None:
    """Make two outputs, [0, logit], of a head's single one; in place, config included."""
    head = output_layer(model, TeacherError)
    wide = nn.Linear(
        head.in_features, 2, bias=head.bias is not None, device=head.weight.device, dtype=head.weight.dtype
    )
    with torch.no_grad():
        for new, old in zip(wide.parameters(), head.parameters(), strict=True):
            new.zero_()
            new[1] = old[0]
            new.requires_grad_(old.requires_grad)
    parent, _, name = next(path for path, module in model.named_modules() if module is head).rpartition(".")
    setattr(model.get_submodule(parent), name, wide)
    model.config.num_labels = 2
    model.num_labels = 2


def output_layer(model: Any, error: type[DistilectError]) -> nn.Linear:
    """The last linear map with one output per label.

    Raises:
        error: the model has none.
    """
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == model.config.num_labels]
    if not heads:
        raise error(f"{type(model).__name__} has no linear output layer that could be fitted to the task's labels")
    return heads[-1]
