"""From outputs per token to outputs per word: a word is read at its first token (as transformers' own examples do), or as the mean of its
tokens.

The mean is that of logits, and of hidden states, not of probabilities. The output layer is linear, so the mean of the logits is what it says of
the mean hidden state: outputs and hidden states follow one rule. It also commutes with a temperature, be it that of the loss or that of a
calibration. Among probabilities it is the geometric mean: a class that one token rules out is ruled out for the word. (transformers'
`aggregation_strategy="average"` takes the arithmetic mean of probabilities.)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor


def split_words(inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None]:
    """What a model reads, and where the words stand in it, int64 [B, W] or [B, W, M] (`data.Encoded.collate`); None in a table of texts."""
    rest = dict(inputs)
    return rest, rest.pop("words", None)


def at_words(values: Tensor, words: Tensor) -> Tensor:
    """[S, T, …] → [B, W, …]: the values at each word's first token, `words` int64 [B, W]; those after a row's last word are some token's."""
    return values.flatten(0, 1)[words.clamp_min(0)]


def per_unit(values: Tensor, words: Tensor | None) -> Tensor:
    """[S, T, …] → [U, …]: the values of all words, row by row; as they are in a table of texts, [B, …].

    Args:
        words: int64 [B, W], the token that each word is read at; or [B, W, M], the tokens that it is the mean of, values then being [S, T, H].
    """
    if words is None:
        return values
    flat = values.flatten(0, 1)
    if words.ndim == 2:
        return flat[words[words >= 0]]
    inside = (words >= 0).flatten(0, 1)
    sizes = inside.sum(1)
    sizes = sizes[sizes > 0]  # [U]
    # sums of each word's own tokens in their order: the same bits on any device, and no tensor [U, M, H]
    return F.embedding_bag(words.flatten(0, 1)[inside], flat, sizes.cumsum(0) - sizes, mode="mean")
