"""Students: a checkpoint, some layers of one, or its architecture with fresh weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from distilect.config import LoraConfig, StudentConfig
from distilect.data import Encoded, Table, encode
from distilect.errors import StudentError, TeacherError, did_you_mean
from distilect.models.adapters import add_adapters
from distilect.models.checkpoints import check_checkpoint, load_pretrained, resolve_path
from distilect.models.classifiers import (
    is_binary,
    label_names,
    load,
    loader_of,
    output_layer,
    output_order,
    split_binary_head,
)
from distilect.models.labels import are_generic
from distilect.models.language import check_language_model
from distilect.models.layers import core_config, cut_layers, depth_of, even_layers
from distilect.models.precision import default_device
from distilect.models.tokenizers import fit_tokenizer, load_tokenizer, usable_length
from distilect.models.vocabulary import Vocabulary, with_vocabulary
from distilect.tasks import PROBLEM_TYPES, Task

_SPEC = re.compile(r"(?P<name>[^\[\]]+)(\[\s*((?P<fresh>fresh)|layers=(?P<layers>[\d\s,]+))?\s*\])?")


@dataclass
class Student:
    """The model that is trained and shipped.

    Attributes:
        model: an `AutoModelForSequenceClassification`, for words an `AutoModelForTokenClassification`, with the task's labels, or an
            `AutoModelForCausalLM`; fp32, on the default device.
        tokenizer: its own.
        max_length: in tokens.
        source: where it came from: path, layers.
        report: lines for the user.
        vocabulary: the tokens that it keeps; None: all.
    """

    model: Any
    tokenizer: Any
    max_length: int
    source: dict[str, Any]
    report: list[str] = field(default_factory=list)
    vocabulary: Vocabulary | None = None

    @property
    def num_layers(self) -> int:
        return depth_of(self.model)

    @property
    def hidden_size(self) -> int:
        return int(core_config(self.model).hidden_size)

    def encode(self, table: Table) -> Encoded:
        """The table as the student's own tokens."""
        return encode(table, self.tokenizer, self.max_length)

    def with_vocabulary(self, vocabulary: Vocabulary) -> Student:
        """The same student with these tokens only."""
        return replace(
            self,
            model=with_vocabulary(self.model, vocabulary, f"student {self.source['init']!r}"),
            tokenizer=vocabulary.tokenizer,
            source={**self.source, "vocabulary": vocabulary.summary},
            report=[*self.report, *vocabulary.report()],
            vocabulary=vocabulary,
        )

    def with_adapters(self, spec: LoraConfig, seed: int) -> Student:
        """The same student, of which low-rank adapters alone are trained, and a classifier's head; the model is changed in place.

        Raises:
            StudentError: peft is not installed.
        """
        whole = sum(parameter.numel() for parameter in self.model.parameters())
        trained = add_adapters(self.model, spec, seed)
        about = {"rank": spec.rank, "alpha": spec.alpha, "parameters": trained}
        line = f"student: adapters of rank {spec.rank} are trained, {trained:,} parameters beside {whole:,}"
        return replace(self, source={**self.source, "lora": about}, report=[*self.report, line])


def build_student(
    spec: StudentConfig, task: Task, teachers: Mapping[str, str], seed: int, *, max_length: int = 128
) -> Student:
    """The student as it is before training.

    Args:
        spec: `NAME`, `NAME[layers=1,3,5]` (0-based), `NAME[layers=3]` (a count, evenly spaced) or `NAME[fresh]`; NAME is a
            teacher's name, a folder, a hub id, or `package:…`.
        teachers: name → checkpoint.
        seed: of everything that is initialised at random.

    Its vocabulary is whole: `Student.with_vocabulary` takes a part of it, once the texts are known.

    A checkpoint that was fine-tuned for the same labels keeps its head, in the task's order; otherwise the head is new.

    Raises:
        StudentError: no such checkpoint, or layers out of range.
    """
    name, layers, fresh = parse_spec(spec.init)
    path = teachers.get(name) or resolve_path(name)
    check_checkpoint(path, StudentError, weights=not fresh)
    report: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = _fresh(path, task) if fresh else _pretrained(path, task, report)
        except StudentError as error:  # a short name that is no hub id may have been meant for a teacher
            raise StudentError(f"{error}{'' if '/' in path else did_you_mean(name, teachers)}") from None
        kept = even_layers(layers, depth_of(model)) if isinstance(layers, int) else layers
        if kept is not None:
            model = cut_layers(model, kept)
    _label(model.config, task)
    if task.kind == "causal-lm":
        check_language_model(model, [], f"student {spec.init!r}", StudentError)
    tokenizer = load_tokenizer(resolve_path(spec.tokenizer) if spec.tokenizer else path, StudentError)
    model = model.float().to(default_device())
    longest = fit_tokenizer(model, tokenizer, f"student {spec.init!r}", StudentError, own=True)
    length = usable_length(spec.max_length or max_length, tokenizer, longest)
    source = {"init": spec.init, "path": path, "layers": kept, "fresh": fresh}
    return Student(model, tokenizer, length, source, report)


def checkpoint_depth(path: str) -> int:
    """The number of a checkpoint's layers, from its config alone.

    Raises:
        StudentError: it has no config, or one that does not say.
    """
    depth = depth_of(SimpleNamespace(config=load_pretrained(AutoConfig, path, StudentError)))
    if not depth:
        raise StudentError(f"the config of {path} does not say how many layers it has: name the student")
    return depth


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


def _fresh(path: str, task: Task) -> Any:
    config = load_pretrained(AutoConfig, path, StudentError)
    _label(config, task)
    return loader_of(task).from_config(config)


def _pretrained(path: str, task: Task, report: list[str]) -> Any:
    """The whole model; its head is kept, in the task's order, if it was made for the task's labels; else it is new."""
    config = load_pretrained(AutoConfig, path, StudentError)
    if task.kind == "causal-lm":
        language_model = load(loader_of(task), path, StudentError, config)
        check_language_model(language_model.model, language_model.missing, path, StudentError)
        return language_model.model
    head = "ForTokenClassification" if task.kind == "tokens" else "ForSequenceClassification"
    headed = any(head in str(name) for name in config.architectures or ())
    own, outputs = label_names(config), config.num_labels
    order = _known_order(path, config, own, task) if headed else None
    if order is None:
        _label(config, task)
    loaded = load(loader_of(task), path, StudentError, config)
    model, whole = loaded.model, headed and loaded.has_head
    if order is None and whole and are_generic(own):  # its config did not say how many outputs the head has
        order = _known_order(path, model.config, [f"LABEL_{i}" for i in range(task.num_outputs)], task)
    if order is not None and whole:
        if is_binary(model.config, task):
            split_binary_head(model)
        _reorder(output_layer(model, StudentError), order)
    elif order is None and (whole or outputs == task.num_outputs):  # transformers has kept a head made for other labels
        _initialise(model)
    if headed and (order is None or not whole):
        had = f"{loaded.width or outputs} output(s): {', '.join(own[:8])}{', …' if len(own) > 8 else ''}"
        report.append(
            f"the head of {path} ({had}) is replaced by a new one for {', '.join(task.labels[:8]) or 'scores'}"
        )
    return model


def _known_order(path: str, config: Any, own: list[str], task: Task) -> list[int] | None:
    """The order that brings the checkpoint's outputs into the task's; None where its head was made for other labels."""
    try:
        return output_order(path, config, own, task)
    except TeacherError:
        return None


@torch.no_grad()
def _reorder(head: nn.Linear, order: list[int]) -> None:
    if order != list(range(len(order))):
        for parameter in head.parameters():
            parameter.copy_(parameter[order].clone())


def _initialise(model: Any) -> None:
    """A new output layer, drawn as transformers does."""
    head = output_layer(model, StudentError)
    nn.init.normal_(head.weight, std=getattr(model.config, "initializer_range", None) or 0.02)
    if head.bias is not None:
        nn.init.zeros_(head.bias)


def _label(config: Any, task: Task) -> None:
    """Write the task into a config, so that the saved checkpoint names its labels; a language model has none."""
    if task.kind == "causal-lm":
        return
    names = list(task.labels) or ["score"]
    config.id2label = dict(enumerate(names))
    config.label2id = {label: index for index, label in enumerate(names)}
    config.num_labels = len(names)
    if getattr(config, "thresholds", None) is not None:
        config.thresholds = None  # those of another model
    config.problem_type = PROBLEM_TYPES.get(task.kind)
