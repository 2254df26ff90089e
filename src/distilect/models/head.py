"""What a classifier's output layer reads, kept while the model runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distilect.errors import MethodError
from distilect.models.classifiers import output_layer
from distilect.models.words import per_unit


class HeadReader:
    """Input and output of the output layer in the last pass."""

    def __init__(self) -> None:
        self.read: Tensor | None = None  # [B, H] or [B, T, H]
        self.said: Tensor | None = None  # [B, C] or [B, T, C]

    def hook(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.read, self.said = inputs[0].detach(), output.detach()

    def features(self, logits: Tensor, *, check: bool, words: Tensor | None = None) -> Tensor:
        """float32 [B, H]: what the layer read of each row. A decoder's layer reads every token: of these the one whose outputs are the
        row's logits.

        Args:
            logits: [B, C], as the model gave them; of words [U, C].
            words: int64 [B, W], of a word table.
            check: that they are the layer's outputs; waits for the device.

        Raises:
            MethodError: they are not, so that the output layer alone does not say how a step changes them.
        """
        read, said = self.read, self.said
        if words is not None and read is not None and said is not None:
            read, said = per_unit(read, words), per_unit(said, words)
        elif read is not None and said is not None and said.ndim == 3:
            token = (said - logits.unsqueeze(1)).abs().sum(-1).nan_to_num(0.0).argmin(1)  # [B]
            rows = torch.arange(len(token), device=token.device)
            read, said = read[rows, token], said[rows, token]
        same = read is not None and said is not None and read.ndim == 2 and said.shape == logits.shape
        if not same or (check and not torch.equal(said.nan_to_num(), logits.nan_to_num())):  # type: ignore[union-attr]
            raise MethodError(
                "the student's logits are not the outputs of its last linear layer, so what that layer reads gives no exact kernel: "
                "set encoder: backbone"
            )
        assert read is not None
        return read.float()


@contextmanager
def head_reader(model: Any) -> Iterator[HeadReader]:
    """Yields a reader that a forward pass inside fills.

    Raises:
        MethodError: the model has no linear output layer.
    """
    reader = HeadReader()
    handle = output_layer(model, MethodError).register_forward_hook(reader.hook)
    try:
        yield reader
    finally:
        handle.remove()
