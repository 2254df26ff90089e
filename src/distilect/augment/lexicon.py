"""What a pre-trained model knows of words by themselves: which are its tokens, and which of them are near each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from distilect.augment.pieces import Vocabulary
from distilect.errors import DataError
from distilect.models import resolve_path
from distilect.models.checkpoints import check_checkpoint, load_pretrained

NEIGHBOURS = 15  # as TinyBERT
_CHUNK = 1024  # words whose similarities with the whole vocabulary are held at once: 1024 × 30,000 × 4 bytes


@dataclass(frozen=True)
class Lexicon:
    """The whole words among a tokenizer's tokens and their static embeddings.

    Attributes:
        tokenizer: the model's.
        words: the tokens that are a word of letters by themselves.
        ids: int64 [n], their token numbers.
        vectors: float32 [n, H], their rows of the embedding matrix, of length 1.
    """

    tokenizer: Any
    words: tuple[str, ...]
    ids: NDArray[np.int64]
    vectors: Tensor

    def places(self, pieces: Sequence[str]) -> NDArray[np.int64]:
        """int64 [m]: where each piece stands among `words`; -1 for one that is none of them. See `changeable`."""
        return changeable(self.tokenizer, self.ids, pieces)

    def neighbours(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [m, 15]: the nearest other words by cosine; `places` int64 [m] among `words`."""
        count = min(NEIGHBOURS, len(self.words) - 1)
        found = [np.empty((0, count), np.int64)]
        for start in range(0, len(places), _CHUNK):
            some = torch.from_numpy(places[start : start + _CHUNK])
            similar = self.vectors[some] @ self.vectors.T
            similar[torch.arange(len(some)), some] = -torch.inf  # not itself
            found.append(similar.topk(count, dim=1).indices.numpy())
        return np.concatenate(found)


def load_lexicon(path: str) -> Lexicon:
    """The lexicon of a checkpoint.

    Raises:
        DataError: it cannot be loaded, or hardly any of its tokens are words (byte-level or character models).
    """
    folder = resolve_path(path)
    check_checkpoint(folder, DataError)
    tokenizer = load_pretrained(AutoTokenizer, folder, DataError)
    model = load_pretrained(AutoModel, folder, DataError, use_safetensors=True)
    matrix = model.get_input_embeddings().weight.detach().float()
    words, ids = whole_words(tokenizer, len(matrix))
    if len(words) <= NEIGHBOURS:
        raise DataError(
            f"{path}: only {len(words)} of its tokens are words, which cannot stand for each other: give a model with a word-piece "
            "vocabulary"
        )
    return Lexicon(tokenizer, words, ids, torch.nn.functional.normalize(matrix[torch.from_numpy(ids)], dim=1))


def whole_words(tokenizer: Any, size: int) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Words of two letters or more that the tokenizer makes into exactly one token, and their token numbers."""
    special = set(tokenizer.all_special_ids)
    numbers = [n for n in range(min(size, len(tokenizer))) if n not in special]
    texts = [text.strip() for text in tokenizer.batch_decode([[n] for n in numbers])]
    kept = [(t, n) for t, n in zip(texts, numbers, strict=True) if len(t) > 1 and t.isalpha()]
    tokens = single_tokens(tokenizer, [text for text, _ in kept])
    pairs = [(t, n) for (t, n), token in zip(kept, tokens, strict=True) if n == token]
    return tuple(t for t, _ in pairs), np.array([n for _, n in pairs], dtype=np.int64)


def single_tokens(tokenizer: Any, words: Sequence[str]) -> NDArray[np.int64]:
    """int64 [m]: the token of each word inside a text; -1 where it has several, or none."""
    if not words:
        return np.empty(0, np.int64)
    # byte-level and sentence-piece vocabularies tell words inside a text by the space before them
    rows = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    return np.array([row[0] if len(row) == 1 and row[0] != unknown else -1 for row in rows], dtype=np.int64)


def in_the_case_of(word: str, like: str) -> str:
    """`word` written as `like` is: all capitals, a capital first, or as it stands."""
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def stand_ins(vocabulary: Vocabulary, lexicon: Lexicon) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """What may stand for each piece.

    Returns:
        bool [V]: whether anything may; int64 [V, 15]: pieces, which are added to the vocabulary where it lacks them. V counts the
        pieces that were there before.
    """
    before = list(vocabulary.pieces)
    places = lexicon.places(before)
    able = places >= 0
    near = lexicon.neighbours(places[able])
    table = np.zeros((len(before), near.shape[1]), dtype=np.int64)
    for piece, row in zip(np.flatnonzero(able), near.tolist(), strict=True):
        table[piece] = [vocabulary.add(in_the_case_of(lexicon.words[n], before[piece])) for n in row]
    return able, table


def changeable(tokenizer: Any, ids: NDArray[np.int64], pieces: Sequence[str]) -> NDArray[np.int64]:
    """int64 [m]: where the token of each piece stands among `ids`; -1 for a piece that is none of these tokens or carries grammar.

    English function words (scikit-learn's list, "not" and "no" among them) are left alone, as TinyBERT does.
    """
    found = np.full(len(pieces), -1, dtype=np.int64)
    some = [i for i, piece in enumerate(pieces) if _may_change(piece)]
    if some and len(ids):
        tokens = single_tokens(tokenizer, [pieces[i] for i in some])
        order = np.argsort(ids)
        near = order[np.clip(np.searchsorted(ids[order], tokens), 0, len(order) - 1)]
        known = ids[near] == tokens
        found[np.array(some)[known]] = near[known]
    return found


def _may_change(piece: str) -> bool:
    return len(piece) > 1 and piece.isalpha() and piece.lower() not in ENGLISH_STOP_WORDS
