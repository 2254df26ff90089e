"""Frozen encoders: one vector per row, for selectors whose state includes the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from distilect.errors import MethodError
from distilect.models.checkpoints import check_checkpoint, load_pretrained, resolve_path
from distilect.models.classifiers import load
from distilect.models.precision import autocast
from distilect.models.teachers import CheckpointTeacher, classification_positions, pool_tokens


class EncoderTeacher(CheckpointTeacher):
    """A checkpoint without a head whose "logits" are the pooled last layer: scored once and stored like any teacher's.

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

    def can(self, field: str) -> bool:
        return field == "logits"

    @torch.no_grad()
    def forward(self, inputs: Mapping[str, Tensor], fields: Sequence[str]) -> dict[str, Tensor]:
        """`logits`: float32 [B, H], the last layer at the classification token or its mean over real tokens."""
        inputs = {key: value.to(self.device) for key, value in inputs.items()}
        mask = inputs["attention_mask"].bool()
        with autocast(self.precision, self.device):
            hidden = self.model(**inputs).last_hidden_state.float()
        cls = classification_positions(inputs["input_ids"], mask, self.tokenizer.cls_token_id)
        return {"logits": pool_tokens(self.pooling, hidden, mask, cls)}
