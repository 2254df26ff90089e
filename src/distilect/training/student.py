"""Forward passes of the student, for the step and for those who look at it between steps."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from distilect.knowledge import Knowledge, StudentOutputs
from distilect.models import (
    at_words,
    attention_maps,
    candidate_logits,
    captured,
    classification_positions,
    head_reader,
    is_language_model,
    output_head,
    per_unit,
    split_words,
    token_pass,
)


@dataclass
class StudentPass:
    """One forward pass, with what the kinds of knowledge need of it.

    Attributes:
        model: the student as it is, without any wrapper.
        cls_token_id: of its tokenizer; None where it has no classification token.
        attention_layers: whose queries, keys and values are kept.
    """

    model: Any
    cls_token_id: int | None
    attention_layers: tuple[int, ...]

    @classmethod
    def of(cls, model: Any, knowledge: list[Knowledge], cls_token_id: int | None) -> StudentPass:
        """Raises:
        MethodError: a kind of knowledge needs queries, keys and values, which the model does not keep apart.
        """
        layers = tuple(sorted({layer for kind in knowledge for layer in kind.attention_layers()}))
        for layer in layers:
            attention_maps(model, layer)
        return cls(model, cls_token_id, layers)

    def __call__(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        hidden: bool,
        features: bool = False,
        check: bool = False,
        candidates: Tensor | None = None,
    ) -> StudentOutputs:
        """Run `model`, the student or its wrapper.

        Args:
            hidden: with hidden states.
            features: with what the output layer reads.
            check: that the logits are its outputs (`HeadReader.features`).
            candidates: of a language model int64 [U, m], its classes (`TeacherSignals.candidates`); None: the gold token alone.
        """
        if is_language_model(self.model):
            return self._of_tokens(model, inputs, hidden, candidates)
        reading = head_reader(self.model) if features else nullcontext()
        read, words = split_words(inputs)
        with captured(self.model, self.attention_layers) as attention, reading as head:
            outputs = model(**read, output_hidden_states=hidden)
        logits, states = per_unit(outputs.logits, words), outputs.hidden_states if hidden else None
        found = StudentOutputs(
            logits=logits.float(),
            mask=inputs["attention_mask"].bool(),
            cls=classification_positions(inputs["input_ids"], inputs["attention_mask"], self.cls_token_id),
            hidden=states,
            attention=attention,
            features=None if head is None else head.features(logits, check=check, words=words),
        )
        return found if words is None else _of_words(found, words)

    def _of_tokens(
        self, model: nn.Module, inputs: Mapping[str, Tensor], hidden: bool, candidates: Tensor | None
    ) -> StudentOutputs:
        """A pass of a language model, read at its units."""
        read, words = split_words(inputs)
        assert words is not None
        with captured(self.model, self.attention_layers) as attention:
            passed = token_pass(model, read, words, self.model, hidden)
        wanted = passed.gold.unsqueeze(1) if candidates is None else candidates
        found = StudentOutputs(
            logits=candidate_logits(passed.states, output_head(self.model), wanted),
            mask=inputs["attention_mask"].bool(),
            cls=words[:, 0],
            hidden=passed.outputs.hidden_states if hidden else None,
            attention=attention,
        )
        return _of_words(found, words)


def _of_words(found: StudentOutputs, words: Tensor) -> StudentOutputs:
    """A pass over a word table, read at its words; `words` int64 [B, W]."""
    mask = words >= 0
    return replace(
        found,
        mask=mask,
        cls=mask.int().argmax(1),
        hidden=None if found.hidden is None else tuple(at_words(states, words) for states in found.hidden),
        attention={name: at_words(values, words) for name, values in found.attention.items()},
        places=mask.flatten().nonzero().squeeze(1),
    )
