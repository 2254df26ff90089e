"""Label spaces aligned by name: every model's outputs are brought into the task's order."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from distilect.errors import TeacherError
from distilect.tasks import PROBLEM_TYPES
from distilect.tasks.label_names import same_label_key

_GENERIC = re.compile(r"label_(\d+)", re.IGNORECASE)


def is_multi_label(config: Any) -> bool:
    """Whether a checkpoint's outputs are a sigmoid for each label."""
    return getattr(config, "problem_type", None) == PROBLEM_TYPES["multi-label"]


def align_labels(model_labels: Sequence[str], task_labels: Sequence[str], name: str = "teacher") -> list[int]:
    """Where each of the task's labels stands among the model's outputs: `logits[:, order]` is in the task's order.

    Names are compared without regard to case, spaces and ways to write a character. Generic names (LABEL_0, LABEL_1, …) are the
    numbers 0, 1, … on either side; anything else would be a guess.

    Raises:
        TeacherError: the two sets differ; prints both.
    """
    for plain in (_plain, lambda label: _plain(label).casefold()):  # labels may differ in case alone
        ours, theirs = [plain(label) for label in task_labels], [plain(label) for label in model_labels]
        if len(set(theirs)) == len(theirs) and sorted(ours) == sorted(theirs):
            return [theirs.index(label) for label in ours]
    raise TeacherError(
        f"{name!r} and the task have different labels; the model: {_shown(model_labels)}; the task: {_shown(task_labels)}: "
        + _remedy(model_labels, task_labels, name)
    )


def are_generic(labels: Sequence[str]) -> bool:
    """Whether all labels are of the form LABEL_0."""
    return all(_GENERIC.fullmatch(label.strip()) for label in labels)


def _remedy(theirs: Sequence[str], ours: Sequence[str], name: str) -> str:
    if len(theirs) != len(ours):
        return "use a model with these labels, or map the data's labels to the model's"
    given = f"give their names in order with labels: on {name!r}"
    if are_generic(theirs):
        return given
    numbers = [str(index) for index in range(len(ours))]
    if len(ours) <= 20 and sorted(map(_plain, ours)) == sorted(
        numbers
    ):  # a table of numbers may stand for names in order
        return (
            f"if 0 is {theirs[0]}, set task.labels={_yaml(theirs)}; else set labels: on {name!r} to the numbers in the order of its "
            f"outputs, such as labels: {json.dumps(numbers)}"
        )
    return f"if they mean the same, give the task's names in the order of the model's outputs with labels: on {name!r}"


def _yaml(names: Sequence[str]) -> str:
    """A list as it may stand on the command line, without spaces where it needs none."""
    simple = all(re.fullmatch(r"[^\W\d]\w*", name) for name in names)
    return f"[{','.join(names)}]" if simple else f"'{json.dumps(list(names), ensure_ascii=False)}'"


def _plain(label: str) -> str:
    label = same_label_key(str(label))
    generic = _GENERIC.fullmatch(label)
    return generic.group(1) if generic else label


def _shown(labels: Sequence[str]) -> str:
    shown = ", ".join(f"{index}={label}" for index, label in enumerate(labels[:20]))
    return "{" + shown + (f", … {len(labels)} in all" if len(labels) > 20 else "") + "}"
