"""From outputs per token to outputs per word: a word is read at its first token (as transformers' own examples do)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def split_words(inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None]:
    """What a model reads, and where the words stand in it, int64 [B, W] (`data.Encoded.collate`); None in a table of texts."""
    rest = dict(inputs)
    return rest, rest.pop("words", None)


def at_words(values: Tensor, words: Tensor) -> Tensor:
    """[S, T, …] → [B, W, …]: the values of each word; those after a row's last word are some token's."""
    return values.flatten(0, 1)[words.clamp_min(0)]


def per_unit(values: Tensor, words: Tensor | None) -> Tensor:
    """[S, T, …] → [U, …]: the values of all words, row by row; as they are in a table of texts, [B, …]."""
    return values if words is None else values.flatten(0, 1)[words[words >= 0]]
