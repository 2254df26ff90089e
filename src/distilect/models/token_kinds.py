"""What a tokenizer needs besides the tokens that are used, so that any text is still cut into known tokens.

- WordPiece takes the longest piece again and again. Where a piece is left out, smaller ones take its place, in the end single characters.
- BPE joins neighbours, from characters or bytes upwards. A token is reached only through the tokens that it is joined from.
- Unigram takes the most likely pieces. Where one is left out, others make up its text, in the end single characters.

Tokens of a text that all stay are still the tokens of this text: the pieces that win against all others win against some of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from distilect.errors import DistilectError

_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))


class TokenKind:
    """The vocabulary of a fast tokenizer, in the JSON form of the `tokenizers` library.

    Attributes:
        raw: the whole tokenizer.
        model: the part of it that holds the vocabulary.
        ids: token → id.
        special: added tokens and the unknown token; no text is cut into them.
    """

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.raw: dict[str, Any] = json.loads(backend.to_str())
        self.model: dict[str, Any] = self.raw["model"]
        vocabulary = self.model["vocab"]
        listed = isinstance(vocabulary, list)  # Unigram: [token, score], by id
        self.ids: dict[str, int] = {entry[0]: i for i, entry in enumerate(vocabulary)} if listed else vocabulary
        self.special = {str(token["content"]) for token in self.raw["added_tokens"]} | {self.model.get("unk_token")}

    def needed(self) -> set[str]:
        """Tokens that have to stay whatever the text is."""
        raise NotImplementedError

    def parts(self, token: str) -> set[str]:
        """A token and those that it is reached through."""
        return {token}

    def unspelled(self) -> set[str]:
        """Tokens that no smaller ones could stand for."""
        return set()

    def cut(self, place: Mapping[int, int]) -> dict[str, Any]:
        """The model with these tokens: id → new id."""
        return {**self.model, "vocab": {token: place[i] for token, i in self.ids.items() if i in place}}


class _Spelled(TokenKind):
    """A kind that falls back to single characters."""

    def characters(self, token: str) -> list[str]:
        """The smallest pieces of a token."""
        raise NotImplementedError

    def occurs(self, token: str) -> bool:
        """Whether any text can be cut into this token."""
        return True

    def needed(self) -> set[str]:
        single = {token for token in self.ids if len(self.characters(token)) < 2 and self.occurs(token)}
        return single | self.unspelled()

    def unspelled(self) -> set[str]:
        ordinary = self.ids.keys() - self.special
        lacking = {token for token in ordinary if not self.ids.keys() >= set(self.characters(token))}
        return {token for token in lacking if self.occurs(token)}


class WordPiece(_Spelled):
    """BERT's tokenizer: a word is cut into its longest known pieces, from the left."""

    def __init__(self, backend: Any) -> None:
        super().__init__(backend)
        self.prefix: str = self.model["continuing_subword_prefix"]
        normalizer = self.raw["normalizer"] or {"type": "BertNormalizer"}
        # both look at one character at a time, so that what they do to one is known
        self.plain = (normalizer["type"], (self.raw["pre_tokenizer"] or {}).get("type")) == (
            "BertNormalizer",
            "BertPreTokenizer",
        )

    def characters(self, token: str) -> list[str]:
        inside = token.startswith(self.prefix)
        text = token.removeprefix(self.prefix)
        return [char if place == 0 and not inside else self.prefix + char for place, char in enumerate(text)]

    def occurs(self, token: str) -> bool:
        """Not inside a word: punctuation, Chinese characters; not at all: capitals and accents that are removed."""
        if not self.plain:
            return True
        word = "a" + token.removeprefix(self.prefix) if token.startswith(self.prefix) else token
        normal = self.backend.normalizer.normalize_str(word) if self.backend.normalizer else word
        return bool([piece for piece, _ in self.backend.pre_tokenizer.pre_tokenize_str(normal)] == [word])


class Unigram(_Spelled):
    """SentencePiece's unigram model: a text is cut into the likeliest sequence of pieces."""

    def __init__(self, backend: Any) -> None:
        super().__init__(backend)
        self.bytes = bool(self.model.get("byte_fallback")) and self.ids.keys() >= _BYTES

    def characters(self, token: str) -> list[str]:
        return list(token)

    def needed(self) -> set[str]:
        entries = self.model["vocab"]
        unknown = self.model.get("unk_id")
        lowest = min(entries, key=lambda entry: entry[1])[0]  # the score of what is unknown is counted from it
        always = {lowest} | ({entries[unknown][0]} if unknown is not None else set())
        return always | (set(_BYTES) if self.bytes else super().needed())

    def unspelled(self) -> set[str]:
        return set() if self.bytes else super().unspelled()

    def cut(self, place: Mapping[int, int]) -> dict[str, Any]:
        entries = [entry for i, entry in enumerate(self.model["vocab"]) if i in place]
        unknown = self.model.get("unk_id")
        return {**self.model, "vocab": entries, "unk_id": None if unknown is None else place[unknown]}


class BPE(TokenKind):
    """Byte-pair encoding: neighbouring pieces are merged, the most frequent pairs first."""

    def __init__(self, backend: Any) -> None:
        super().__init__(backend)
        self.ranks = {(left, right): rank for rank, (left, right) in enumerate(self.model["merges"])}
        self.suffix: str = self.model.get("end_of_word_suffix") or ""
        self.bytes = bool(self.model.get("byte_fallback")) and self.ids.keys() >= _BYTES

    def needed(self) -> set[str]:
        if self.bytes:
            return set(_BYTES)
        return {token for token in self.ids if len(token.removesuffix(self.suffix)) < 2}

    def parts(self, token: str) -> set[str]:
        """All tokens that its characters are joined to on the way, by the merge of the lowest rank each time."""
        symbols = list(token.removesuffix(self.suffix))
        if self.suffix and token.endswith(self.suffix) and symbols:
            symbols[-1] += self.suffix
        seen = {token, *symbols}
        while len(symbols) > 1:
            rank, place = min((self.ranks.get(pair, math.inf), i) for i, pair in enumerate(pairwise(symbols)))
            if rank == math.inf:
                break
            symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
            seen.add(symbols[place])
        return seen & self.ids.keys()

    def cut(self, place: Mapping[int, int]) -> dict[str, Any]:
        cut = super().cut(place)
        merges = [[left, right] for left, right in self.ranks if {left, right, left + right} <= cut["vocab"].keys()]
        return {**cut, "merges": merges}


def token_kind(tokenizer: Any, who: str, error: type[DistilectError]) -> TokenKind:
    """The vocabulary of a transformers tokenizer.

    Raises:
        error: it is no fast one, or of a kind whose tokens have no parts.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        raise error(
            f"{who}: its vocabulary cannot be trimmed: {type(tokenizer).__name__} is no fast tokenizer (tokenizer.json)"
        )
    kind = type(backend.model).__name__
    known: dict[str, type[TokenKind]] = {"WordPiece": WordPiece, "BPE": BPE, "Unigram": Unigram}
    marked = kind == "BPE" and backend.model.continuing_subword_prefix
    if kind not in known or marked:
        raise error(
            f"{who}: its vocabulary cannot be trimmed: its tokenizer is a {kind}, expected WordPiece, BPE or Unigram"
        )
    return known[kind](backend)
