"""Words filled in by a masked language model, as TinyBERT enlarges its data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForMaskedLM

from distilect.augment.neighbours import CANDIDATES, WordTokens, in_the_case_of
from distilect.augment.pieces import Chosen, Ints, Pieces, Vocabulary
from distilect.data import scoring_batches
from distilect.errors import DataError
from distilect.models import autocast, default_device, resolve_path, resolve_precision
from distilect.models.checkpoints import check_checkpoint, load_pretrained
from distilect.models.tokenizers import load_tokenizer, longest_row, usable_length


class MaskedFiller:
    """Masks the chosen words of a text and puts one of the 15 likeliest words in each place; one forward pass per text and copy.

    Attributes:
        able: bool [V], the pieces that can be replaced.

    Raises:
        DataError: the checkpoint cannot be loaded, or has no masked-LM head (transformers would make a random one).
    """

    share = 0.15  # of the words that are replaced
    max_tokens = 8192  # padded tokens per batch

    def __init__(self, path: str, vocabulary: Vocabulary, max_length: int = 128) -> None:
        folder = resolve_path(path)
        check_checkpoint(folder, DataError)
        self.tokenizer = load_tokenizer(folder, DataError)
        model, loaded = load_pretrained(
            AutoModelForMaskedLM, folder, DataError, use_safetensors=True, output_loading_info=True
        )
        if loaded["missing_keys"] or self.tokenizer.mask_token_id is None:
            raise DataError(f"{path} has no masked-LM head: give one that has, or use method neighbours")
        if not self.tokenizer.is_fast:
            raise DataError(f"{path}: its tokenizer does not report where tokens stand in the text: give another")
        self.device = default_device()
        self.model = model.float().to(self.device).eval()
        self.precision = resolve_precision("auto", self.device)
        self.max_length = usable_length(max_length, self.tokenizer, longest_row(model, self.tokenizer))
        self.tokens = WordTokens(self.tokenizer, model.config.vocab_size)
        self.vocabulary = vocabulary
        self._number = self.tokens.find(vocabulary.pieces)  # [V], of each piece among the words
        self.able: NDArray[np.bool_] = self._number >= 0

    def replace(self, texts: Sequence[str], pieces: Pieces, chosen: Chosen, advance: Callable[[int], object]) -> Ints:
        """int64 [T]: the pieces of all texts, with the chosen words replaced. A word beyond the maximum length stays."""
        first = np.searchsorted(chosen.rows, np.arange(len(texts) + 1))  # [N + 1], each text's first chosen word
        begins, ends = (spans[chosen.places] for spans in _spans(pieces, self.vocabulary))
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_length, return_token_type_ids=False)
        ids = pieces.ids.copy()
        for batch in scoring_batches([len(tokens) for tokens in encoded["input_ids"]], self.max_tokens):
            at: list[tuple[int, int, int]] = []  # row of the batch, token, chosen word
            token_ids = []
            for number, row in enumerate(batch.tolist()):
                tokens = list(encoded["input_ids"][row])
                for word in range(first[row], first[row + 1]):
                    token = encoded.char_to_token(row, int(begins[word]))
                    if token is None or token != encoded.char_to_token(row, int(ends[word]) - 1):
                        continue  # cut off, or several tokens here (at the start of a text, say)
                    at.append((number, token, word))
                    tokens[token] = self.tokenizer.mask_token_id
                token_ids.append(tokens)
            if at:
                rows, places, words = np.array(at).T
                old = pieces.ids[chosen.places[words]]
                inputs = self.tokenizer.pad({"input_ids": token_ids}, return_tensors="pt")
                likeliest = self._likeliest(inputs, rows, places, self._number[old])
                which = (chosen.draws[words] * likeliest.shape[1]).astype(np.int64)
                for word, piece, new in zip(words, old, likeliest[np.arange(len(which)), which], strict=True):
                    cased = in_the_case_of(self.tokens.words[new], self.vocabulary.pieces[piece])
                    ids[chosen.places[word]] = self.vocabulary.add(cased)
            advance(len(batch))
        return ids

    @torch.inference_mode()
    def _likeliest(self, inputs: Any, rows: Ints, places: Ints, old: Ints) -> Ints:
        """int64 [m, 15]: numbers of the likeliest words at m masks, best first, without the word `old` that stood there."""
        inputs = {key: value.to(self.device) for key, value in inputs.items()}
        with autocast(self.precision, self.device):
            logits = self.model(**inputs).logits
        masked = logits[torch.from_numpy(rows), torch.from_numpy(places)]  # [m, vocabulary]
        words = masked.float()[:, torch.from_numpy(self.tokens.ids)]  # [m, words]
        words[torch.arange(len(words)), torch.from_numpy(old)] = -torch.inf
        best: Ints = words.topk(min(CANDIDATES, words.shape[1] - 1), dim=1).indices.cpu().numpy()
        return best


def _spans(pieces: Pieces, vocabulary: Vocabulary) -> tuple[Ints, Ints]:
    """int64 [T] each: the characters of its text at which each piece begins and ends."""
    sizes = np.array([len(piece) for piece in vocabulary.pieces], dtype=np.int64)[pieces.ids]
    ends = np.cumsum(sizes)
    before = np.concatenate([[0], ends])[pieces.offsets[:-1]][pieces.rows]  # all characters of the texts before
    return ends - sizes - before, ends - before
