"""Rows for language models: prompts with completions, chats, or plain texts, as the tokens of one tokenizer.

A row is cut into segments, each to be learned or only to be read. Every segment is tokenised by itself, as a prompt is when a model is
asked to continue it; the tokens to be learned are the units of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distilect.data.columns import Columns, is_string, text_columns
from distilect.data.label_sets import is_list
from distilect.data.source import Rows, Source, check_columns, listed
from distilect.data.table import Table, row_identity, to_strings
from distilect.data.tokens import Tokens, vocabulary_hash
from distilect.data.units import Units
from distilect.errors import DataError
from distilect.progress import track

CHUNK = 1000  # rows per tokenizer call
LARGE = 20_000  # rows from which on tokenising takes long enough for a progress bar
PAIR, CHAT, PLAIN = ("prompt", "completion"), "messages", "text"  # usual names of columns
Segments = list[tuple[str, bool]]  # a row's texts, and whether each is to be learned


@dataclass(frozen=True)
class TokenReader:
    """How texts become tokens: the same for student and teachers.

    Args:
        tokenizer: a fast one of transformers.
        limit: rows are cut at so many tokens.
        pad: the token that pads a row.
    """

    tokenizer: Any
    limit: int
    pad: int

    def __post_init__(self) -> None:
        if not getattr(self.tokenizer, "is_fast", False):
            raise DataError(
                f"the tokenizer of {self.name} does not say which characters its tokens stand for: take a checkpoint with a fast tokenizer "
                "(tokenizer.json)"
            )

    @property
    def name(self) -> str:
        return getattr(self.tokenizer, "name_or_path", "") or type(self.tokenizer).__name__

    @property
    def first(self) -> list[int]:
        """The token that the tokenizer puts before every text, if it does."""
        start, found = self.tokenizer.bos_token_id, self.tokenizer("a")["input_ids"]
        return [start] if start is not None and found[:1] == [start] else []

    def read(self, rows: Rows, columns: Columns, role: str) -> TokenTable:
        """The rows as a table, in their order.

        Raises:
            DataError: a row has nothing to learn, or a chat that cannot be written as text; names it.
        """
        chat = len(columns.texts) == 1 and is_list(rows.table[columns.texts[0]].type)
        texts = self._chats(rows, columns.texts[0]) if chat else _texts(rows, columns.texts)
        end = self.tokenizer.eos_token_id
        found = _Found([] if chat else self.first, [end] if end is not None and not chat else [])
        blocks = range(0, len(texts), CHUNK)
        for start in track(blocks, f"tokenising {role}") if len(texts) >= LARGE else blocks:
            self._add(texts[start : start + CHUNK], found)
        if not found.places:
            raise DataError(
                f"{rows.label}: no row has a token to be learned within {self.limit} tokens: set a larger train.max_length"
            )
        return TokenTable(found.table(self), found.cut, found.gone)

    def _add(self, texts: list[Segments], found: _Found) -> None:
        """Tokenise some rows."""
        flat = [text for row in texts for text, _ in row]
        made = self.tokenizer(flat, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        pieces = iter(zip(made["input_ids"], made["offset_mapping"], strict=True))
        for row in texts:
            found.add(row, [next(pieces) for _ in row], self.limit)

    def _chats(self, rows: Rows, column: str) -> list[Segments]:
        """Each chat through the tokenizer's template; what the assistant says is to be learned."""
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise DataError(
                f"{rows.label}: column {column!r} holds messages, but the tokenizer of {self.name} has no chat template: take one that has, "
                "or write the chats as columns prompt and completion"
            )
        chats = [_messages(rows, row, chat) for row, chat in enumerate(rows.table[column].to_pylist())]
        return [self._chat(rows.where(row), chat) for row, chat in enumerate(chats)]

    def _chat(self, where: str, chat: list[dict[str, str]]) -> Segments:
        found: Segments = []
        done = ""
        for turn, message in enumerate(chat):
            if message["role"] != "assistant":
                continue
            for until, learned in ((chat[:turn], False), (chat[: turn + 1], True)):
                text = self.tokenizer.apply_chat_template(until, tokenize=False, add_generation_prompt=not learned)
                if not text.startswith(done):
                    raise DataError(
                        f"{where}: the chat template of {self.name} changes earlier turns when later ones follow, so they cannot all be "
                        "learned: split the chat into rows with one answer each"
                    )
                found.append((text[len(done) :], learned))
                done = text
        if not found:
            raise DataError(f"{where}: no message has the role assistant, so there is nothing to learn: remove the row")
        return found


@dataclass(frozen=True)
class TokenTable:
    """A table and what was lost on the way: rows that were cut, and rows of which nothing to be learned was left."""

    table: Table
    cut: int
    gone: int

    def report(self, role: str) -> list[str]:
        """Lines for the user."""
        tokens = self.table.tokens
        assert tokens is not None and self.table.units is not None
        lines = [f"{role}: {len(self.table.units):,} tokens to learn among {len(tokens.ids):,}"]
        if self.cut:
            lines.append(f"{role}: {self.cut:,} rows are cut at {tokens.limit} tokens (train.max_length)")
        if self.gone:
            lines.append(
                f"{role}: {self.gone:,} rows are left out: all that is to be learned was cut away, or they were empty"
            )
        return lines


@dataclass
class _Found:
    """Rows as flat lists, while they are read.

    Args:
        first, end: tokens before and after every row.
    """

    first: list[int]
    end: list[int]
    texts: list[str] = field(default_factory=list)
    identities: list[tuple[int, int]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    cut: int = 0
    gone: int = 0

    def add(self, row: Segments, pieces: Sequence[tuple[list[int], list[tuple[int, int]]]], limit: int) -> None:
        """One row, unless nothing to be learned is left of it."""
        ids, places, spans, begin = list(self.first), list[int](), list[tuple[int, int]](), 0
        for (text, learned), (tokens, offsets) in zip(row, pieces, strict=True):
            if learned:
                places += range(len(ids), len(ids) + len(tokens))
                spans += [(begin + start, begin + stop) for start, stop in offsets]
            ids += tokens
            begin += len(text)
        if self.end and ids:
            places.append(len(ids))
            spans.append((begin, begin))
            ids += self.end
        long = len(ids) > limit
        kept = [number for number, place in enumerate(places) if 0 < place < limit]
        if not kept or len(ids) <= len(self.first) + len(self.end):
            self.gone += 1
            return
        self.cut += long
        self.texts.append("".join(text for text, _ in row))
        self.identities.append(row_identity([text for text, _ in row]))
        self.ids += ids[:limit]
        self.lengths.append(min(len(ids), limit))
        self.places += [places[number] for number in kept]
        self.spans += [spans[number] for number in kept]
        self.sizes.append(len(kept))

    def table(self, reader: TokenReader) -> Table:
        units = Units.of_sizes(self.sizes)
        tokens = Tokens(
            np.array(self.ids, np.int32),
            Units.of_sizes(self.lengths),
            np.array(self.places, np.int32),
            np.array(self.spans, np.int32).reshape(-1, 2),
            reader.pad,
            reader.limit,
            vocabulary_hash(reader.tokenizer),
            len(reader.tokenizer),
        )
        ids = np.array(self.identities, dtype=np.uint64).reshape(-1, 2)
        labels = np.zeros(len(units), np.int32)
        return Table((to_strings(self.texts),), labels, ids, units=units, tokens=tokens)


def choose_token_columns(source: Source, text: str | Sequence[str] | None) -> Columns:
    """The columns of prompts and completions, of messages, or of plain texts.

    Raises:
        DataError: a column is missing, or none has a usual name.
    """
    given = (text,) if isinstance(text, str) else tuple(text or ())
    if text is not None and (len(given) not in (1, 2) or len(set(given)) != len(given)):
        raise DataError(f"data.text: expected prompt and completion, or one column, got {listed(given) or 'none'}")
    check_columns(given, source.columns, source.label)
    for usual in (PAIR, (CHAT,), (PLAIN,)):
        if given:
            break
        if set(usual) <= set(source.columns):
            return Columns(usual, None, inferred=True)
    if not given:
        raise DataError(
            f"{source.label}: expected columns prompt and completion, messages, or text; its columns: {listed(source.columns)}. "
            "Set data.text to [PROMPT, COMPLETION], or to the one column"
        )
    return Columns(given, None)


def _texts(rows: Rows, names: Sequence[str]) -> list[Segments]:
    if len(names) == 1:
        return [[("", False), (text, True)] for text in text_columns(rows, names)[0].to_pylist()]
    for name in names:
        if not is_string(rows.table[name].type):
            raise DataError(
                f"{rows.label}: column {name!r} holds {rows.table[name].type}, expected texts: set data.text"
            )
    columns = (column.to_pylist() for column in text_columns(rows, names))
    return [[(prompt, False), (completion, True)] for prompt, completion in zip(*columns, strict=True)]


def _messages(rows: Rows, row: int, chat: Any) -> list[dict[str, str]]:
    """Role and content of each message, checked."""
    found = [message for message in chat or [] if isinstance(message, dict)]
    good = [isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in found]
    if not found or not all(good) or len(found) != len(chat):
        raise DataError(
            f"{rows.where(row)}: expected a list of messages, each with a role and a content that are texts"
        )
    return [{"role": message["role"], "content": message["content"]} for message in found]
