"""Words filled in by a masked language model, as TinyBERT enlarges its data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForMaskedLM, AutoTokenizer

from distilect.augment.lexicon import NEIGHBOURS, changeable, in_the_case_of, whole_words
from distilect.augment.methods import some_words
from distilect.augment.pieces import Draws, Pieces, Vocabulary, Words
from distilect.data import scoring_batches
from distilect.errors import DataError
from distilect.models import autocast, default_device, resolve_path, resolve_precision
from distilect.models.checkpoints import check_checkpoint, load_pretrained
from distilect.models.students import usable_length


class MaskedFiller:
    """A checkpoint with a masked-LM head; a forward pass per text and copy.

    Args:
        path: folder, hub id or `package:…`.
        max_tokens: padded tokens per batch.

    Raises:
        DataError: it cannot be loaded, or has no such head (transformers would make a random one).
    """

    def __init__(self, path: str, max_length: int = 128, max_tokens: int = 8192) -> None:
        folder = resolve_path(path)
        check_checkpoint(folder, DataError)
        self.tokenizer = load_pretrained(AutoTokenizer, folder, DataError)
        model, loaded = load_pretrained(
            AutoModelForMaskedLM, folder, DataError, use_safetensors=True, output_loading_info=True
        )
        if loaded["missing_keys"] or self.tokenizer.mask_token_id is None:
            raise DataError(f"{path} has no masked-LM head: give one that has, or use method neighbours")
        if not self.tokenizer.is_fast:
            raise DataError(f"{path}: its tokenizer does not say where tokens stand in the text: give another")
        self.device = default_device()
        self.model = model.float().to(self.device).eval()
        self.precision = resolve_precision("auto", self.device)
        self.max_length = usable_length(max_length, self.tokenizer, model.config)
        self.max_tokens = max_tokens
        self.words, self.ids = whole_words(self.tokenizer, model.config.vocab_size)
        self.allowed = torch.from_numpy(self.ids).to(self.device)
        self.place = {int(token): place for place, token in enumerate(self.ids)}

    def maskable(self, pieces: Sequence[str]) -> NDArray[np.bool_]:
        """bool [m]: the pieces that are single tokens and carry meaning."""
        return changeable(self.tokenizer, self.ids, pieces) >= 0

    def fill(
        self,
        texts: Sequence[str],
        pieces: Pieces,
        words: Words,
        vocabulary: Vocabulary,
        draws: Draws,
        probability: float,
        advance: Callable[[int], object] = lambda rows: None,
    ) -> Pieces:
        """Mask words, each with `probability`, one at least, and put one of the 15 likeliest words in their places.

        A word that lies behind the model's maximum length stays.
        """
        chosen = np.flatnonzero(some_words(words, draws, probability))
        which, places = draws.words(words)[chosen], words.places[chosen]
        first = np.searchsorted(words.rows[chosen], np.arange(len(texts) + 1))
        begins, ends = (spans[places] for spans in _spans(pieces, vocabulary))
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_length, return_token_type_ids=False)
        ids = pieces.ids.copy()
        for batch in scoring_batches([len(tokens) for tokens in encoded["input_ids"]], self.max_tokens):
            inputs, at = self._masked(encoded, batch, first, begins, ends)
            for (_, _, m, _), row in zip(at.tolist(), self._likeliest(inputs, at), strict=True):
                word = self.words[row[int(which[m] * len(row))]]
                ids[places[m]] = vocabulary.add(in_the_case_of(word, vocabulary.pieces[ids[places[m]]]))
            advance(len(batch))
        return Pieces(ids, pieces.offsets)

    def _masked(
        self, encoded: Any, batch: np.ndarray, first: np.ndarray, begins: np.ndarray, ends: np.ndarray
    ) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        """Inputs [b, T] with masks, and where those stand: int64 [m, 4] of row, token, number among the chosen words, old token."""
        at, token_ids = [], []
        for number, row in enumerate(batch.tolist()):
            tokens = list(encoded["input_ids"][row])
            for m in range(first[row], first[row + 1]):
                token = encoded.char_to_token(row, int(begins[m]))
                if token is None or token != encoded.char_to_token(row, int(ends[m]) - 1):
                    continue  # cut off, or two tokens here (at the start of a text, say)
                at.append((number, token, m, tokens[token]))
                tokens[token] = self.tokenizer.mask_token_id
            token_ids.append(tokens)
        padded = self.tokenizer.pad({"input_ids": token_ids}, return_tensors="pt")
        return dict(padded), np.array(at, dtype=np.int64).reshape(-1, 4)

    @torch.inference_mode()
    def _likeliest(self, inputs: dict[str, torch.Tensor], at: np.ndarray) -> list[list[int]]:
        """For each mask the numbers of the likeliest words, best first; never the one that stood there."""
        if not len(at):
            return []
        inputs = {key: value.to(self.device) for key, value in inputs.items()}
        with autocast(self.precision, self.device):
            logits = self.model(**inputs).logits
        rows, tokens = torch.from_numpy(at[:, :2].T.copy()).to(self.device)
        allowed = logits[rows, tokens].float()[:, self.allowed]  # [m, words]
        for m, token in enumerate(at[:, 3].tolist()):
            if token in self.place:
                allowed[m, self.place[token]] = -torch.inf
        return allowed.topk(min(NEIGHBOURS, allowed.shape[1] - 1), dim=1).indices.tolist()


def _spans(pieces: Pieces, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """int64 [T] each: the characters of its text at which each piece begins and ends."""
    sizes = np.array([len(piece) for piece in vocabulary.pieces], dtype=np.int64)[pieces.ids]
    ends = np.cumsum(sizes)
    before = np.concatenate([[0], ends])[pieces.offsets[:-1]]  # [N], all characters of the texts before
    return ends - sizes - before[pieces.rows], ends - before[pieces.rows]
