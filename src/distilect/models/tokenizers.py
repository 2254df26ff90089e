"""A checkpoint's tokenizer: loaded, or missed; and fitted to its model by running both on a few short rows."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import AutoTokenizer

from distilect.data import Encoded, Table, encode, pad_id
from distilect.errors import DistilectError
from distilect.models.checkpoints import load_pretrained
from distilect.models.layers import core_config

# Rows of different length, so that the shorter ones are padded.
_ROWS = ("a", "a good film", "the train was late again this morning, and nobody knows why")
_TOKENS = 16  # that they are cut to
_VOCABULARIES = ("*.model", "*.tiktoken", "vocab*", "tekken.json")  # files that tokenizers of several classes read
NO_LENGTH = 512  # tokens per row of a checkpoint that names no longest row


def load_tokenizer(path: str, error: type[DistilectError]) -> Any:
    """The tokenizer in a folder or under a hub id.

    Raises:
        error: there is none (transformers would make one of a few special tokens), or it cannot be read.
    """
    folder = Path(path)
    bare = folder.is_dir() and not (folder / "tokenizer.json").is_file()
    if bare and any(folder.glob("*.model")) and importlib.util.find_spec("sentencepiece") is None:
        # transformers would ask for tiktoken, which does not help
        raise error(f"the tokenizer in {path} is a SentencePiece model: pip install sentencepiece protobuf")
    if bare and (folder / "vocab.json").is_file() and not (folder / "merges.txt").is_file():
        raise error(f"the tokenizer in {path} lacks merges.txt: copy it there")
    tokenizer = load_pretrained(AutoTokenizer, path, error)
    names = type(tokenizer).vocab_files_names
    if not names:  # bytes or characters: there is no vocabulary
        return tokenizer
    found = any(file for pattern in (*names.values(), *_VOCABULARIES) for file in folder.glob(pattern))
    if (bare and not found) or not _has_words(tokenizer):
        raise error(
            f"no tokenizer in {path}: copy its files there (tokenizer.json, tokenizer_config.json), or set tokenizer: to a folder or "
            "hub id that has them"
        )
    return tokenizer


def _has_words(tokenizer: Any) -> bool:
    """Whether the vocabulary holds anything besides special tokens."""
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    return any(any(map(str.isalnum, token)) for token in tokenizer.get_vocab() if token not in special)


def fit_tokenizer(
    model: Any, tokenizer: Any, who: str, error: type[DistilectError], *, own: bool = False
) -> int | None:
    """Bring the tokenizer into the form that the model reads; returns the longest row that the model can take, in tokens.

    Token types that the model does not know are left out. Padding side and pad token become such that a row in a padded batch has the
    outputs of the same row alone, which is tried out: decoders look for the last token that is no padding, models with a table of
    positions count from the left, XLNet reads the last place. Where nothing else helps, the pad token's vector becomes 0.

    Args:
        tokenizer: changed in place.
        who: for messages.
        own: the model is the user's student, whose pad token may change with the tokenizer's.

    Raises:
        error: the vocabulary does not fit, the model cannot be run on text, or always reads padding.
    """
    known = _check_vocabulary(model, tokenizer, who, error)
    _choose_token_types(model, tokenizer, who, error)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            rows = encode(Table.from_texts(_ROWS), tokenizer, _TOKENS)
            alone, longest = _alone(model, rows)
            fitting = _fitting_padding(model, tokenizer, rows, alone, known, own)
            if own:
                _outputs(model.train(), rows.collate([0]))  # Reformer takes other lengths in training
    except Exception as fault:  # models of other inputs than text raise anything here
        reason = " ".join(str(fault).split())[:200]
        raise error(
            f"{who}: {type(model).__name__} cannot be run on text ({type(fault).__name__}: {reason}): take another checkpoint"
        ) from None
    finally:
        model.train(training)
    if fitting is None:
        raise error(
            f"{who}: {type(model).__name__} reads padding: the outputs of a row would depend on the rows beside it; "
            "take a checkpoint of another family"
        )
    pad, of_model, side = fitting
    core_config(model).pad_token_id = of_model
    tokenizer.padding_side = side
    if pad != tokenizer.pad_token_id:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    return longest


@torch.no_grad()
def longest_row(model: Any, tokenizer: Any) -> int | None:
    """The longest row that a model can take, in tokens; None where nothing limits it."""
    return _alone(model, encode(Table.from_texts(_ROWS), tokenizer, _TOKENS))[1]


def usable_length(wanted: int | None, tokenizer: Any, longest: int | None) -> int:
    """`wanted` tokens, at most what the model can take; None: the length that comes with the checkpoint.

    Args:
        longest: of `fit_tokenizer`.
    """
    if wanted is None:
        kept = getattr(tokenizer, "model_max_length", None)
        wanted = kept if isinstance(kept, int) and 1 < kept < 1 << 20 else longest or NO_LENGTH
    return min(wanted, longest or wanted)


def _check_vocabulary(model: Any, tokenizer: Any, who: str, error: type[DistilectError]) -> int | None:
    """Rows of the embedding matrix; None for a model of characters.

    A few added tokens may lie beyond it: Gemma's tokenizer has one for images, which its text models do not know.
    """
    try:
        known = int(model.get_input_embeddings().weight.shape[0])
    except (NotImplementedError, AttributeError):
        known = getattr(core_config(model), "vocab_size", None) or 0
    if not known:
        return None
    if len(tokenizer) > known:
        added = tokenizer.get_added_vocab()
        if any(index >= known for token, index in tokenizer.get_vocab().items() if token not in added):
            raise error(
                f"{who}: its tokenizer has {len(tokenizer):,} tokens, the model knows {known:,}: "
                "use the tokenizer that the model was trained with"
            )
    return known


def _choose_token_types(model: Any, tokenizer: Any, who: str, error: type[DistilectError]) -> None:
    """Leave token types out where the model has none, or one."""
    names = list(tokenizer.model_input_names)
    if "token_type_ids" not in names:
        return
    count = getattr(core_config(model), "type_vocab_size", None)
    if "token_type_ids" not in signature(model.forward).parameters or (count is not None and count < 2):
        tokenizer.model_input_names = [name for name in names if name != "token_type_ids"]
        return
    made = encode(Table.from_texts([_ROWS[1:]]), tokenizer, _TOKENS).columns["token_type_ids"]
    if count is not None and made.max() >= count:
        raise error(
            f"{who}: its tokenizer makes token types up to {made.max()}, the model knows {count}: "
            "use the tokenizer that the model was trained with"
        )


def _alone(model: Any, rows: Encoded) -> tuple[list[Tensor], int | None]:
    """The outputs of each row alone, and the longest row that the model can take."""
    outputs, longest = list[Tensor](), list[int]()
    for number, length in enumerate(rows.lengths.tolist()):
        with _Positions(model, length) as positions:
            outputs += _outputs(model, rows.collate([number]))
        longest += positions.longest
    limit = getattr(core_config(model), "max_position_embeddings", None)
    return outputs, min(longest, default=limit if isinstance(limit, int) and limit > 0 else None)


def _fitting_padding(
    model: Any, tokenizer: Any, rows: Encoded, alone: Sequence[Tensor], known: int | None, own: bool
) -> tuple[int, int, str] | None:
    """(pad token of the rows, pad token of the config, padding side): the first ones with which the rows keep their outputs."""
    config = core_config(model)
    kept, side = getattr(config, "pad_token_id", None), tokenizer.padding_side
    try:
        for each in (side, "left" if side == "right" else "right"):
            for pad, of_model in _paddings(tokenizer, kept, known, own):
                config.pad_token_id = of_model
                padded = replace(rows, padding={**rows.padding, "input_ids": pad}, left=each == "left")
                if _same(model, padded, alone):
                    return pad, of_model, each
    finally:
        config.pad_token_id = kept
    pad = tokenizer.pad_token_id
    if kept == pad and known is not None and not (rows.columns["input_ids"] == pad).any():
        vector = model.get_input_embeddings().weight[pad]
        before = vector.clone()
        vector.zero_()  # MobileBERT's tokens read their neighbours' vectors; at the end of a row alone these are zeros
        if _same(model, rows, alone):
            return pad, kept, side
        vector.copy_(before)
    return None


def _paddings(tokenizer: Any, kept: int | None, known: int | None, own: bool) -> Iterator[tuple[int, int]]:
    """(pad token of the rows, pad token of the config) to try.

    A config's pad token may be an ordinary one, at which a decoder's head stops reading. A teacher keeps it. A student gets
    another: in a saved tokenizer it would become a special token, and cut words in which it occurs.
    """
    special = [
        tokenizer.pad_token_id,
        tokenizer.eos_token_id,
        tokenizer.unk_token_id,
        *tokenizer.all_special_ids[:5],
        0,
    ]
    usable = [token for token in dict.fromkeys(special) if token is not None and (known is None or token < known)]
    first = pad_id(tokenizer)
    if kept is not None and kept >= 0:
        if first in usable:
            yield first, kept
        token = tokenizer.convert_ids_to_tokens(kept) if kept < len(tokenizer) else None
        if token is not None and (not own or token in tokenizer.all_special_tokens):
            yield kept, kept
    for token in usable:
        yield token, token


def _same(model: Any, padded: Encoded, alone: Sequence[Tensor]) -> bool:
    """Whether the rows have the same outputs together as alone, up to rounding."""
    try:
        together = _outputs(model, padded.collate(range(len(alone))))
    except (IndexError, RuntimeError, ValueError):
        return False
    noise = 1e-4 if alone[0].device.type == "cpu" else 2e-3  # a GPU may multiply in TF32
    return all(
        one.shape == other.shape and bool((one - other).abs().max() <= noise * one.abs().max() + 1e-6)
        for one, other in zip(alone, together, strict=True)
    )


def _outputs(model: Any, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Per row its logits, [C] or for each token [tokens, C]; of a model without head its last hidden states [tokens, H]."""
    device = next(model.parameters()).device
    outputs = model(**{name: values.to(device) for name, values in inputs.items()})
    values = outputs.logits if "logits" in outputs else outputs.last_hidden_state
    if values.ndim == 2:
        return list(values.float())
    mask = inputs["attention_mask"].bool().to(device)
    return [of_row[real] for of_row, real in zip(values.float(), mask, strict=True)]


class _Positions(TorchFunctionMode):
    """Notes the tables of positions that a row is looked up in: those that are read at consecutive places.

    Attributes:
        longest: per table, the longest row that it has places for; RoBERTa's relatives leave out the first ones.
    """

    def __init__(self, model: Any, length: int) -> None:
        super().__init__()
        self.length, self.longest = length, list[int]()
        try:
            self.words = model.get_input_embeddings()
        except (NotImplementedError, AttributeError):
            self.words = None

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.embedding:
            places, table = args[0], args[1]
            one_row = places.dim() == 1 or places.numel() == places.shape[-1]
            row = places.flatten()[: self.length]
            if one_row and len(row) == self.length > 1 and table is not getattr(self.words, "weight", None):
                first = int(row[0])
                if row.tolist() == list(range(first, first + self.length)):
                    self.longest.append(len(table) - first)
        return func(*args, **(kwargs or {}))
