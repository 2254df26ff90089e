"""Frozen encoders: a vector per row for selectors whose state includes the text, hidden states for a student without a task."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import AutoConfig, AutoModel

from distilect.errors import MethodError
from distilect.models.checkpoints import check_checkpoint, load_pretrained, resolve_path
from distilect.models.classifiers import load
from distilect.models.teachers import CheckpointTeacher, pool_tokens
from distilect.models.words import per_unit


class EncoderTeacher(CheckpointTeacher):
    """A checkpoint without a head whose "logits" are the pooled last layer; all else is as of any teacher.

    Args:
        path: a folder, hub id or `package:…`; a classification head in it is left out.
        pooling: `cls` or `mean`.
    """

    def __init__(self, path: str, *, pooling: str = "cls", max_length: int = 128, precision: str = "auto") -> None:
        self.path = resolve_path(path)
        self.name = f"encoder {path}"
        check_checkpoint(self.path, MethodError)
        loaded = load(AutoModel, self.path, MethodError, load_pretrained(AutoConfig, self.path, MethodError))
        self._keep(loaded, max_length, precision, MethodError, "give another encoder", unread=("pooler.",))
        self.pooling = self.parts["pooling"] = pooling
        self.order = list(range(self.hidden_size))

    def _logits(self, outputs: Any, mask: Tensor, cls: Tensor) -> Tensor:
        """float32 [B, H]: the last layer at the classification token, or its mean over real tokens."""
        return pool_tokens(self.pooling, outputs.last_hidden_state.float(), mask, cls)

    def _word_logits(self, outputs: Any, words: Tensor) -> Tensor:
        """float32 [U, H]: the last layer at each word."""
        return per_unit(outputs.last_hidden_state.float(), words)
