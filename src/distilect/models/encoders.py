"""Frozen encoders: one vector per row, for selectors that look at the text itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from distilect.errors import MethodError
from distilect.models.checkpoints import check_checkpoint, fingerprint_parts, load_pretrained, resolve_path
from distilect.models.precision import autocast, default_device, resolve_precision
from distilect.models.students import usable_length
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
        self.device = default_device()
        self.precision = resolve_precision(precision, self.device)
        config = load_pretrained(AutoConfig, self.path, MethodError)
        model, loaded = load_pretrained(
            AutoModel, self.path, MethodError, use_safetensors=True, output_loading_info=True
        )
        # transformers would fill them with random numbers; BERT's pooler stands behind what we read
        missing = sorted(key for key in loaded["missing_keys"] if not key.startswith("pooler."))
        if missing:
            raise MethodError(
                f"encoder {path}: {self.path} lacks {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}: give another "
                "encoder"
            )
        self._model = [model.float().to(self.device).eval().requires_grad_(False)]
        self.tokenizer = load_pretrained(AutoTokenizer, self.path, MethodError)
        self.pooling = pooling
        self.max_length = usable_length(max_length, self.tokenizer, config)
        self.order = list(range(self.hidden_size))
        self.parts = {
            **fingerprint_parts(self.path, config),
            "max_length": self.max_length,
            "precision": self.precision,
            "pooling": pooling,
        }

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
