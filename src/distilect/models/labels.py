"""Label spaces aligned by name: every model's outputs are brought into the task's order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from distilect.errors import TeacherError

MULTI_LABEL = "multi_label_classification"  # as `problem_type` of a config
_GENERIC = re.compile(r"label_(\d+)", re.IGNORECASE)


def is_multi_label(config: Any) -> bool:
    """Whether a checkpoint's outputs are a sigmoid for each label."""
    return getattr(config, "problem_type", None) == MULTI_LABEL


def align_labels(model_labels: Sequence[str], task_labels: Sequence[str], name: str = "teacher") -> list[int]:
    """Where each of the task's labels stands among the model's outputs: `logits[:, order]` is in the task's order.

    Names are compared without regard to case and surrounding space. A model with generic names (LABEL_0, LABEL_1, …) fits a task
    whose labels are the numbers 0, 1, …; anything else would be a guess.

    Raises:
        TeacherError: the two sets differ; prints both.
    """
    generic = [_GENERIC.fullmatch(label.strip()) for label in model_labels]
    theirs = [match.group(1) if match else label for match, label in zip(generic, model_labels, strict=True)]
    ours, theirs = [_plain(label) for label in task_labels], [_plain(label) for label in theirs]
    if len(set(theirs)) == len(theirs) and sorted(ours) == sorted(theirs):
        return [theirs.index(label) for label in ours]
    remedy = (
        f"give their names in order with labels: on {name!r}"
        if all(generic) and len(theirs) == len(ours)
        else "use a model with these labels, or map the data's labels to the model's"
    )
    raise TeacherError(
        f"{name!r} and the task have different labels; the model: {_shown(model_labels)}; the task: {_shown(task_labels)}: {remedy}"
    )


def _plain(label: str) -> str:
    return str(label).strip().casefold()


def _shown(labels: Sequence[str]) -> str:
    shown = ", ".join(f"{index}={label}" for index, label in enumerate(labels[:20]))
    return "{" + shown + (f", … {len(labels)} in all" if len(labels) > 20 else "") + "}"
