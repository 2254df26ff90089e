"""Vocabulary trimming: a model keeps the tokens that some texts use, and those without which a text could become unknown.

Most of a small student is the table of its tokens. Rows of it that no text asks for cost memory and nothing else.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from distilect.data import Encoded, Table, encode
from distilect.errors import StudentError
from distilect.models.checkpoints import load_pretrained, quiet
from distilect.models.layers import core_config, row_of_tokens
from distilect.models.token_kinds import TokenKind, token_kind

VOCABULARY_DIGEST = "vocabulary_digest"  # of a trimmed model's config: which tokens its rows are of
_BLOCK = 1 << 22  # tokens that are counted at a time
_CONFIG_IDS = ("_token_id", "_token_ids", "_token_index")  # ends of the names by which configs know tokens


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens that a model keeps.

    Attributes:
        kept: int64 [n], ascending: token i is token kept[i] of the whole tokenizer.
        rows: so many of them have a row in the model's table of embeddings.
        tokenizer: the one of these tokens.
        whole: the one before.
        needed: how many tokens stay whatever the texts are.
        changed: share of the texts' tokens that are cut into others now.
        unknown: shares of the texts' tokens that are unknown, before and after.
        notes: lines for the user.
    """

    kept: NDArray[np.int64]
    rows: int
    tokenizer: Any
    whole: Any
    needed: int
    changed: float
    unknown: tuple[float, float]
    notes: list[str]

    @property
    def digest(self) -> str:
        """16 hex digits over the tokens, in order."""
        tokens = json.dumps(self.tokenizer.convert_ids_to_tokens(list(range(len(self.kept)))))
        return hashlib.sha256(tokens.encode()).hexdigest()[:16]

    @property
    def summary(self) -> dict[str, Any]:
        """Of `metrics.json`."""
        names = ("needed", "changed", "unknown")
        return {"tokens": len(self.kept), "of": len(self.whole), **{name: getattr(self, name) for name in names}}

    def report(self) -> list[str]:
        """Lines for the user."""
        needed = f"{self.needed:,} of them for texts with other words"
        lines = [f"vocabulary: {len(self.kept):,} of {len(self.whole):,} tokens stay, {needed}"]
        if self.changed:
            lines.append(f"vocabulary: {100 * self.changed:.2f} % of the texts' tokens are cut into smaller ones")
        return [*lines, *self.notes]


def find_vocabulary(
    model: Any, tokenizer: Any, tables: Sequence[Table], size: int | None, max_length: int, who: str
) -> Vocabulary:
    """The tokens that a model has to keep for these texts.

    Args:
        size: so many tokens, the texts' most frequent first and then in the tokenizer's order; those that any text needs stay
            even where they are more. None: the tokens that the texts use, and those.
        max_length: in tokens; what comes after them is not read.
        who: for messages.

    Raises:
        StudentError: the tokenizer or the model cannot be trimmed.
    """
    kind = token_kind(tokenizer, who, StudentError)
    rows = len(_embeddings(model, who))
    before = [encode(table, tokenizer, max_length, "counting tokens") for table in tables]
    counts = _count(before, tokenizer)
    always = _special_ids(kind, tokenizer, model, rows) | {kind.ids[token] for token in kind.needed()}
    kept = np.array(sorted(_choose(kind, counts, always, size)), dtype=np.int64)
    trimmed = _with_tokens(tokenizer, kind, kept, model.config, who)
    after = [encode(table, trimmed, max_length, "counting tokens") for table in tables]
    left_out = counts.copy()
    left_out[kept[kept < len(counts)]] = 0
    if not left_out.any() and not all(_same_tokens(*pair, kept) for pair in zip(before, after, strict=True)):
        raise StudentError(f"{who}: {type(tokenizer).__name__} cuts texts otherwise when its vocabulary is trimmed")
    notes = []
    if size is not None and len(always) > size:
        notes.append(f"vocabulary: {size:,} tokens were asked for, any text needs {len(always):,}")
    if odd := sorted(kind.unspelled()):
        notes.append(
            f"vocabulary: {len(odd):,} tokens have characters that are no tokens ({', '.join(odd[:3])}, …): they stay, "
            "but words with such characters may become unknown"
        )
    return Vocabulary(
        kept=kept,
        rows=int((kept < rows).sum()),
        tokenizer=trimmed,
        whole=tokenizer,
        needed=len(always),
        changed=float(left_out.sum() / max(1, counts.sum())),
        unknown=(_unknown(before), _unknown(after)),
        notes=notes,
    )


def with_vocabulary(model: Any, vocabulary: Vocabulary, who: str) -> Any:
    """The model with the rows of these tokens; its outputs on texts of them are the same.

    It is made anew from its config, so that whatever else knows a token by its number is right.

    Raises:
        StudentError: something besides the embeddings has a row for every token, such as the head of a language model.
    """
    table = _embeddings(model, who)
    kept = torch.from_numpy(vocabulary.kept[: vocabulary.rows]).to(table.device)
    config = _with_ids(copy.deepcopy(model.config), vocabulary)
    state = {
        name: value[kept] if value.data_ptr() == table.data_ptr() else value
        for name, value in model.state_dict().items()
    }
    try:
        with torch.random.fork_rng(devices=[]):
            again = type(model)._from_config(config, dtype=table.dtype).to(table.device)
        again.load_state_dict(state)
    except RuntimeError:  # sizes that do not fit
        raise StudentError(
            f"{who}: the vocabulary of a {type(model).__name__} cannot be trimmed: another part of it has a row for every token"
        ) from None
    if not _same_outputs(model, again, kept):
        raise StudentError(
            f"{who}: the vocabulary of a {type(model).__name__} cannot be trimmed: not only its embeddings depend on the numbers of tokens"
        )
    return again.train(model.training)


# ---- which tokens ----------------------------------------------------------------------------------------------------


def _count(texts: Sequence[Encoded], tokenizer: Any) -> NDArray[np.int64]:
    """How often each token occurs, int64 [ids]; special ones, which the tokenizer adds, not at all."""
    counts = np.zeros(max(tokenizer.get_vocab().values()) + 1, np.int64)
    for encoded in texts:
        for ids in _blocks(encoded):
            counts += np.bincount(ids, minlength=len(counts))
    counts[[index for index in tokenizer.all_special_ids if index != tokenizer.unk_token_id]] = 0
    return counts


def _unknown(texts: Sequence[Encoded]) -> float:
    """Share of the tokens that are unknown."""
    sizes = [len(encoded.columns["input_ids"]) for encoded in texts]
    shares = (encoded.unknown * size for encoded, size in zip(texts, sizes, strict=True))
    return float(sum(shares) / max(1, sum(sizes)))


def _choose(kind: TokenKind, counts: NDArray[np.int64], always: set[int], size: int | None) -> set[int]:
    """Ids of the tokens that stay."""
    kept, tokens = set(always), {index: token for token, index in kind.ids.items()}
    most = math.inf if size is None else size
    for index in np.argsort(-counts, kind="stable").tolist():
        if len(kept) >= most or (size is None and not counts[index]):
            break
        new = {kind.ids[part] for part in kind.parts(tokens[index])} - kept if index in tokens else set()
        if len(kept) + len(new) <= most:
            kept |= new
    return kept


def _special_ids(kind: TokenKind, tokenizer: Any, model: Any, rows: int) -> set[int]:
    """Tokens that are known by name: to the tokenizer, to what it puts around a text, to the model's config."""
    raw = kind.raw
    found = {int(token["id"]) for token in raw["added_tokens"]} | set(tokenizer.all_special_ids)
    found |= {kind.ids[token] for token in kind.special & kind.ids.keys()}
    found |= {raw["padding"]["pad_id"]} if raw["padding"] else set()

    def note(index: int) -> int:
        found.add(index)
        return index

    _renumbered(raw["post_processor"], note)
    for config in _configs(model.config):
        for value in _ids_of(config).values():
            found |= {i for i in (value if isinstance(value, list) else [value]) if 0 <= i < rows}
    return found


def _same_tokens(before: Encoded, after: Encoded, kept: NDArray[np.int64]) -> bool:
    """Whether a table has the tokens that it had, row by row: knowledge may be compared token by token."""
    pairs = zip(_blocks(before), _blocks(after), strict=True)
    return np.array_equal(before.lengths, after.lengths) and all(
        np.array_equal(ours, kept[theirs]) for ours, theirs in pairs
    )


def _blocks(encoded: Encoded) -> Iterator[NDArray[np.int32]]:
    """Parts of all its tokens, which may be mapped and larger than memory."""
    ids = encoded.columns["input_ids"]
    for start in range(0, len(ids), _BLOCK):
        yield ids[start : start + _BLOCK]


# ---- the tokenizer ---------------------------------------------------------------------------------------------------


def _with_tokens(tokenizer: Any, kind: TokenKind, kept: NDArray[np.int64], config: Any, who: str) -> Any:
    """The tokenizer with these tokens only, as transformers loads it from its files.

    Raises:
        StudentError: what is loaded is another one.
    """
    place = {int(old): new for new, old in enumerate(kept)}
    raw = {**kind.raw, "model": kind.cut(place)}
    raw["added_tokens"] = [{**token, "id": place[token["id"]]} for token in raw["added_tokens"]]
    raw["post_processor"] = _renumbered(raw["post_processor"], place.__getitem__)
    if raw["padding"]:
        raw["padding"] = {**raw["padding"], "pad_id": place[raw["padding"]["pad_id"]]}
    with tempfile.TemporaryDirectory() as folder, quiet():
        config.save_pretrained(folder)  # which class it is may depend on the model's
        tokenizer.save_pretrained(folder)
        Path(folder, "tokenizer.json").write_text(json.dumps(raw, ensure_ascii=False), encoding="utf-8")
        trimmed = load_pretrained(AutoTokenizer, folder, StudentError)
    for name in ("padding_side", "model_input_names", "model_max_length", "name_or_path"):
        setattr(trimmed, name, getattr(tokenizer, name))
    expected = {token: place[index] for token, index in tokenizer.get_vocab().items() if index in place}
    frames = [(one(""), one("", "")) for one in (tokenizer, trimmed)]
    same = all(before["input_ids"] == kept[after["input_ids"]].tolist() for before, after in zip(*frames, strict=True))
    if trimmed.get_vocab() != expected or not same:
        raise StudentError(f"{who}: {type(tokenizer).__name__} cannot be saved with a part of its vocabulary")
    return trimmed


def _renumbered(part: Any, change: Callable[[int], int]) -> Any:
    """A post-processor's JSON with other ids: `ids: [101]` in templates, `cls: ["<s>", 0]` in RoBERTa's."""
    if isinstance(part, list):
        return [_renumbered(inner, change) for inner in part]
    if not isinstance(part, dict):
        return part
    found = {}
    for key, value in part.items():
        if key == "ids" and isinstance(value, list):
            found[key] = [change(index) for index in value]
        elif key in ("sep", "cls") and isinstance(value, list):
            found[key] = [value[0], change(value[1])]
        else:
            found[key] = _renumbered(value, change)
    return found


# ---- the model -------------------------------------------------------------------------------------------------------


def _embeddings(model: Any, who: str) -> Any:
    """The table of token embeddings, [V, E].

    Raises:
        StudentError: the model has none, or a head that needs a row for every token.
    """
    refused = f"{who}: the vocabulary of a {type(model).__name__} cannot be trimmed"
    try:
        head, table = model.get_output_embeddings(), model.get_input_embeddings().weight
    except (NotImplementedError, AttributeError):
        raise StudentError(f"{refused}: it has no table of token embeddings") from None
    if head is not None:
        raise StudentError(f"{refused}: its head predicts tokens; take a classifier or an encoder")
    return table


def _configs(config: Any) -> list[Any]:
    """A model's config, and the part of it that is of its text."""
    core = core_config(SimpleNamespace(config=config))
    return [config] if core is config else [config, core]


def _ids_of(config: Any) -> dict[str, Any]:
    """Entries of a config that are ids of tokens: a number or a list of them."""
    found = {name: value for name, value in vars(config).items() if name.endswith(_CONFIG_IDS)}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, int) or (isinstance(value, list) and all(isinstance(i, int) for i in value))
    }


def _with_ids(config: Any, vocabulary: Vocabulary) -> Any:
    """The config, changed in place: its tokens by their new numbers."""
    place = {int(old): new for new, old in enumerate(vocabulary.kept)}
    for each in _configs(config):
        for name, value in _ids_of(each).items():
            changed = [place.get(i, i) for i in value] if isinstance(value, list) else place.get(value, value)
            setattr(each, name, changed)
    _configs(config)[-1].vocab_size = vocabulary.rows
    setattr(config, VOCABULARY_DIGEST, vocabulary.digest)
    return config


@torch.no_grad()
def _same_outputs(model: Any, again: Any, kept: torch.Tensor) -> bool:
    """Whether the two models say the same of the same tokens."""
    row = {name: values.to(kept.device) for name, values in row_of_tokens(again).items()}
    training = model.training
    found = [model.eval()(**{**row, "input_ids": kept[row["input_ids"]]}), again.eval()(**row)]
    model.train(training)
    ours, theirs = (outputs.logits if "logits" in outputs else outputs.last_hidden_state for outputs in found)
    return torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5, equal_nan=True)
