"""Students: a checkpoint, some layers of one, or its architecture with fresh weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from distilect.config import StudentConfig
from distilect.errors import StudentError, TeacherError, did_you_mean
from distilect.models.checkpoints import check_checkpoint, load_pretrained, resolve_path
from distilect.models.labels import MULTI_LABEL, align_labels, is_multi_label
from distilect.models.layers import cut_layers, even_layers
from distilect.models.precision import default_device
from distilect.tasks import Task

_PROBLEM_TYPES = {
    "classification": "single_label_classification",
    "regression": "regression",
    "multi-label": MULTI_LABEL,
}
_SPEC = re.compile(r"(?P<name>[^\[\]]+)(\[\s*((?P<fresh>fresh)|layers=(?P<layers>[\d\s,]+))?\s*\])?")


@dataclass
class Student:
    """The model that is trained and shipped.

    Attributes:
        model: an `AutoModelForSequenceClassification` with the task's labels, fp32, on the default device.
        tokenizer: its own.
        max_length: in tokens.
        source: where it came from: path, layers.
    """

    model: Any
    tokenizer: Any
    max_length: int
    source: dict[str, Any]

    @property
    def num_layers(self) -> int:
        return int(self.model.config.num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        return int(self.model.config.hidden_size)


def build_student(
    spec: StudentConfig, task: Task, teachers: Mapping[str, str], seed: int, *, max_length: int = 128
) -> Student:
    """The student as it is before training.

    Args:
        spec: `NAME`, `NAME[layers=1,3,5]` (0-based), `NAME[layers=3]` (a count, evenly spaced) or `NAME[fresh]`; NAME is a
            teacher's name, a folder, a hub id, or `package:…`.
        teachers: name → checkpoint.
        seed: of everything that is initialised at random.

    A checkpoint that was fine-tuned for the same labels keeps its head, in the task's order; otherwise the head is new.

    Raises:
        StudentError: no such checkpoint, or layers out of range.
    """
    name, layers, fresh = parse_spec(spec.init)
    path = teachers.get(name) or resolve_path(name)
    check_checkpoint(path, StudentError)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = _fresh(path, task) if fresh else _pretrained(path, task)
        except StudentError as error:  # a short name that is no hub id may have been meant for a teacher
            raise StudentError(f"{error}{'' if '/' in path else did_you_mean(name, teachers)}") from None
    kept = even_layers(layers, model.config.num_hidden_layers) if isinstance(layers, int) else layers
    if kept is not None:
        cut_layers(model, kept)
        _check_cut(model)
    _label(model.config, task)
    tokenizer = load_pretrained(AutoTokenizer, resolve_path(spec.tokenizer) if spec.tokenizer else path, StudentError)
    _pad_token(tokenizer, model)
    if len(tokenizer) > model.config.vocab_size:
        raise StudentError(
            f"student {spec.init!r}: its tokenizer has {len(tokenizer):,} tokens, the model knows {model.config.vocab_size:,}: "
            "use the tokenizer that the model was trained with"
        )
    length = usable_length(spec.max_length or max_length, tokenizer, model.config)
    source = {"init": spec.init, "path": path, "layers": kept, "fresh": fresh}
    return Student(model.float().to(default_device()), tokenizer, length, source)


def parse_spec(text: str) -> tuple[str, list[int] | int | None, bool]:
    """(name, layers, fresh) of a student's description; layers: indexes, a count, or None for all.

    Raises:
        StudentError: it cannot be read.
    """
    found = _SPEC.fullmatch(text.strip())
    try:
        if not found:
            raise ValueError
        name, fresh, listed = found["name"].strip(), found["fresh"] is not None, found["layers"]
        if listed is None:
            return name, None, fresh
        if "," not in listed:
            return name, int(listed), False
        return name, [int(part) for part in listed.strip().removesuffix(",").split(",")], False
    except ValueError:  # the text, or a part of the list, is no number
        expected = "expected NAME, NAME[layers=1,3,5], NAME[layers=3] or NAME[fresh]"
        raise StudentError(f"student {text!r}: {expected}") from None


def usable_length(wanted: int, tokenizer: Any, config: Any) -> int:
    """`wanted` tokens, or fewer where tokenizer or position embeddings end before."""
    limits = [wanted]
    if isinstance(getattr(tokenizer, "model_max_length", None), int) and tokenizer.model_max_length < 1 << 20:
        limits.append(tokenizer.model_max_length)
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        # these count positions from pad_token_id + 1, so that many rows of the table are no positions
        offset = (config.pad_token_id or 0) + 1 if config.model_type in ROBERTA_POSITIONS else 0
        limits.append(positions - offset)
    return min(limits)


# transformers computes the offset inside each model's embeddings; a config has no entry for it
ROBERTA_POSITIONS = {
    "camembert",
    "data2vec-text",
    "esm",
    "longformer",
    "mpnet",
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
}


def _check_cut(model: Any) -> None:
    """Refuse a cut that the config cannot express: the saved student would not be the trained one.

    Raises:
        StudentError: a model made from the config has other weights.
    """
    with torch.device("meta"):
        again = AutoModelForSequenceClassification.from_config(model.config)
    ours, theirs = ({k: v.shape for k, v in m.state_dict().items()} for m in (model, again))
    if ours != theirs:
        raise StudentError(
            f"{type(model).__name__} cannot be cut to these layers: a model with its configuration has other weights; "
            "keep layer 0 if it is a special one ([layers=0,…]), or take the whole checkpoint"
        )


def _fresh(path: str, task: Task) -> Any:
    config = load_pretrained(AutoConfig, path, StudentError)
    _label(config, task)
    return AutoModelForSequenceClassification.from_config(config)


def _pretrained(path: str, task: Task) -> Any:
    """The whole model; its head is kept, in the task's order, if it was made for the task's labels; else it is new."""
    config = load_pretrained(AutoConfig, path, StudentError)
    outputs, order = config.num_labels, _known_order(path, config, task)
    if order is None:
        _label(config, task)
    options = {"use_safetensors": True, "ignore_mismatched_sizes": True}
    model = load_pretrained(AutoModelForSequenceClassification, path, StudentError, config=config, **options)
    with torch.no_grad():
        if order is not None and order != list(range(len(order))):
            for parameter in _head(model).parameters():
                parameter.copy_(parameter[order].clone())
        if order is None and outputs == task.num_outputs:  # transformers has kept a head that was made for other labels
            head = _head(model)
            nn.init.normal_(
                head.weight, std=getattr(model.config, "initializer_range", None) or 0.02
            )  # as transformers
            if head.bias is not None:
                nn.init.zeros_(head.bias)
    return model


def _known_order(path: str, config: Any, task: Task) -> list[int] | None:
    """The order that brings the checkpoint's outputs into the task's; None where it has no head for these labels."""
    if not any("ForSequenceClassification" in str(name) for name in config.architectures or ()):
        return None
    if task.kind == "regression":
        return [0] if config.num_labels == 1 else None
    if is_multi_label(config) != (task.kind == "multi-label"):
        return None
    try:
        return align_labels([config.id2label[i] for i in range(config.num_labels)], task.labels, path)
    except TeacherError:
        return None


def _head(model: Any) -> nn.Linear:
    """The output layer: the last linear map with one output per label."""
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == model.config.num_labels]
    if not heads:
        raise StudentError(
            f"{type(model).__name__} has no linear output layer that could be fitted to the task's labels"
        )
    return heads[-1]


def _label(config: Any, task: Task) -> None:
    """Write the task into a config, so that the saved checkpoint names its labels."""
    names = list(task.labels) or ["score"]
    config.id2label = dict(enumerate(names))
    config.label2id = {label: index for index, label in enumerate(names)}
    config.num_labels = len(names)
    if getattr(config, "thresholds", None) is not None:
        config.thresholds = None  # those of another model
    config.problem_type = _PROBLEM_TYPES[task.kind]


def _pad_token(tokenizer: Any, model: Any) -> None:
    """Decoders often have no padding token; their classification heads need to know one."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
