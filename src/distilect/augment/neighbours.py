"""Words that are tokens of a pre-trained model, and their replacement by near ones of its static embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from transformers import AutoModel

from distilect.augment.pieces import Chosen, Ints, Pieces, Vocabulary
from distilect.errors import DataError
from distilect.models import resolve_path
from distilect.models.checkpoints import check_checkpoint, load_pretrained
from distilect.models.tokenizers import load_tokenizer

CANDIDATES = 15  # replacements of a word, as in TinyBERT
_CHUNK = 1024  # words whose similarities with the whole vocabulary are held at once: 1024 × 30,000 × 4 bytes


class WordTokens:
    """The tokens that are whole words: of two letters or more, and made into exactly that token by the tokenizer.

    Attributes:
        words: the words, [n].
        ids: int64 [n], their token numbers, ascending.

    Args:
        size: rows of the model's embedding matrix.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        self.tokenizer = tokenizer
        special = set(tokenizer.all_special_ids)
        numbers = [n for n in range(min(size, len(tokenizer))) if n not in special]
        texts = [text.strip() for text in tokenizer.batch_decode([[n] for n in numbers])]
        kept = [(text, n) for text, n in zip(texts, numbers, strict=True) if len(text) > 1 and text.isalpha()]
        tokens = self._single([text for text, _ in kept])
        pairs = [(text, n) for (text, n), token in zip(kept, tokens, strict=True) if n == token]
        self.words = [text for text, _ in pairs]
        self.ids = np.array([n for _, n in pairs], dtype=np.int64)

    def find(self, pieces: Sequence[str]) -> Ints:
        """int64 [m]: the number of each piece among `words`; -1 for a piece that is not replaced.

        English function words (scikit-learn's list, "not" and "no" among them) are not replaced, as in TinyBERT.
        """
        found = np.full(len(pieces), -1, dtype=np.int64)
        some = [i for i, p in enumerate(pieces) if len(p) > 1 and p.isalpha() and p.lower() not in ENGLISH_STOP_WORDS]
        if some and len(self.ids):
            tokens = self._single([pieces[i] for i in some])
            near = np.minimum(np.searchsorted(self.ids, tokens), len(self.ids) - 1)
            found[some] = np.where(self.ids[near] == tokens, near, -1)
        return found

    def _single(self, words: Sequence[str]) -> Ints:
        """int64 [m]: the token of each word inside a text; -1 where it has several, or none."""
        if not words:
            return np.empty(0, np.int64)
        # byte-level and sentence-piece vocabularies mark words inside a text by the space before them
        rows = self.tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
        unknown = self.tokenizer.unk_token_id
        return np.array([row[0] if len(row) == 1 and row[0] != unknown else -1 for row in rows], dtype=np.int64)


class Neighbours:
    """Replaces a word by one of the 15 nearest words (cosine) of a model's token embeddings. TinyBERT uses GloVe.

    Attributes:
        able: bool [V], the pieces that can be replaced.

    Raises:
        DataError: the checkpoint cannot be loaded, or hardly any of its tokens are words (byte-level or character models).
    """

    share = 0.4  # of the words that are replaced, as in TinyBERT

    def __init__(self, path: str, vocabulary: Vocabulary) -> None:
        folder = resolve_path(path)
        check_checkpoint(folder, DataError)
        tokenizer = load_tokenizer(folder, DataError)
        model = load_pretrained(AutoModel, folder, DataError, use_safetensors=True)
        matrix = model.get_input_embeddings().weight.detach().float()
        self.tokens = WordTokens(tokenizer, len(matrix))
        if len(self.tokens.words) <= CANDIDATES:
            raise DataError(
                f"{path}: only {len(self.tokens.words)} of its tokens are words, which cannot stand for each other: give a "
                "model with a word-piece vocabulary"
            )
        self.vectors = torch.nn.functional.normalize(matrix[torch.from_numpy(self.tokens.ids)], dim=1)  # [n, H]
        before = list(vocabulary.pieces)
        numbers = self.tokens.find(before)
        self.able: NDArray[np.bool_] = numbers >= 0
        self._replacements = np.zeros((len(before), CANDIDATES), dtype=np.int64)  # [V, 15] pieces
        near = self.nearest(numbers[self.able]).tolist()
        for piece, row in zip(np.flatnonzero(self.able), near, strict=True):
            words = [in_the_case_of(self.tokens.words[n], before[piece]) for n in row]
            self._replacements[piece] = [vocabulary.add(word) for word in words]

    def nearest(self, numbers: Ints) -> Ints:
        """int64 [m, 15]: the nearest other words, nearest first; `numbers` int64 [m] among `tokens.words`."""
        found = [np.empty((0, CANDIDATES), np.int64)]
        for start in range(0, len(numbers), _CHUNK):
            some = torch.from_numpy(numbers[start : start + _CHUNK])
            similar = self.vectors[some] @ self.vectors.T
            similar[torch.arange(len(some)), some] = -torch.inf  # not the word itself
            found.append(similar.topk(CANDIDATES, dim=1).indices.numpy())
        return np.concatenate(found)

    def replace(self, texts: Sequence[str], pieces: Pieces, chosen: Chosen, advance: Callable[[int], object]) -> Ints:
        """int64 [T]: the pieces of all texts, with the chosen words replaced."""
        ids = pieces.ids.copy()
        which = (chosen.draws * CANDIDATES).astype(np.int64)
        ids[chosen.places] = self._replacements[ids[chosen.places], which]
        advance(len(texts))
        return ids


def in_the_case_of(word: str, like: str) -> str:
    """`word` written as `like` is: all capitals, a capital first, or as it stands."""
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word
