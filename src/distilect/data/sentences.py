"""Rows for a model that tags words: lists of words as they are, and texts, which are split into words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from distilect.config import TaskConfig
from distilect.data.columns import choose_columns, text_columns
from distilect.data.label_sets import is_list
from distilect.data.readers import open_source
from distilect.data.source import Rows, Source
from distilect.data.table import Table
from distilect.data.tag_columns import ANY_TASK, TagColumn, choose_word_columns, is_word_table
from distilect.errors import DataError
from distilect.progress import console

_INNER = r"[\p{L}\p{M}\p{N}_" + "\u200c\u200d]"  # marks and joiners are parts of letters in many scripts
# A run of letters and digits with single hyphens and dots inside it; any other visible character is a word of its own. The script that
# an export writes beside its files has the same (`export/entities.py`).
WORD = rf"[\p{{L}}\p{{N}}_]{_INNER}*(?:[-.][\p{{L}}\p{{N}}_]{_INNER}*)*|[^\s\p{{Cc}}\p{{Cf}}]\p{{M}}*"


@dataclass(frozen=True, eq=False)
class Sentences:
    """Some rows as words.

    Attributes:
        table: the rows that have words, without tags.
        kept: int64 [N], which of the rows as they were read these are.
        sizes: int64, the words of every row as it was read, those without visible characters too.
        places: int64 [U], where each word of the table stands among them.
        texts, bounds: where the rows are texts, all of them, and int64 [U, 2], the characters at which each word begins and ends.
    """

    table: Table
    kept: NDArray[np.int64]
    sizes: NDArray[np.int64]
    places: NDArray[np.int64]
    texts: list[str] | None = None
    bounds: NDArray[np.int64] | None = None


def open_sentences(
    spec: str, *, text: str | Sequence[str] | None = None, usual: Sequence[str] = (), data_dir: Path = Path(".")
) -> tuple[Source, str, bool]:
    """A table for a model that tags words; the column to read; and whether it holds lists of words, or texts.

    Lists of words are CoNLL files by their suffix (`.conll`, `.conllu`, `.bio`, `.iob`) and columns of lists.

    Args:
        usual: the column to read if the table has it and `text` is not given.

    Raises:
        DataError: no such file or column, or several columns of text.
    """
    source = open_source(spec, data_dir, role="dev")
    for note in source.notes:
        console.print(note, markup=False, soft_wrap=True)
    known = usual if set(usual) <= set(source.columns) else ()
    names = (text,) if isinstance(text, str) else tuple(text or known)
    only = names[0] if len(names) == 1 else None
    if len(names) < 2 and is_word_table(source, only, None, TaskConfig()):
        return source, choose_word_columns(source, only, None, labelled=False).texts[0], True
    try:
        columns = choose_columns(source, names or None, None, labelled=False).texts
    except DataError as error:
        if not {path.suffix for path in source.files} & {".tsv", ".txt"}:
            raise
        raise DataError(f"{error}. If it is a CoNLL file, give it a name that ends in .conll") from None
    if len(columns) > 1:
        raise DataError(
            f"{source.label}: text in {' + '.join(columns)}, but a model that tags words reads one text per row: name it with --text"
        )
    kind = source.read(columns, 1).table.schema.field(columns[0]).type
    return source, columns[0], is_list(kind)


def read_sentences(rows: Rows, column: str, lists: bool) -> Sentences:
    """Some rows of a source as words.

    Args:
        column, lists: as `open_sentences` gives them.

    Raises:
        DataError: the column does not hold lists of words or texts, or a row has no text.
    """
    if lists:
        words = TagColumn(rows, column, None)
        return Sentences(words.table(ANY_TASK, "unlabelled", ""), words.kept, words.sizes, words.places)
    texts: list[str] = text_columns(rows, [column])[0].to_pylist()
    found = [words_of(text) for text in texts]
    sizes = np.array([len(row) for row in found], dtype=np.int64)
    table = Table.from_words([[word for word, _ in row] for row in found if row])
    places = np.arange(len(table.labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    bounds = np.array([span for row in found for _, span in row], dtype=np.int64).reshape(-1, 2)
    return Sentences(table, np.flatnonzero(sizes), sizes, places, texts, bounds)


def words_of(text: str) -> list[tuple[str, tuple[int, int]]]:
    """The words of a text and where each begins and ends, in characters.

    A word is a run of letters and digits, with single hyphens and dots inside it; any other visible character is one of its own.

    Example:
        >>> [word for word, _ in words_of("Jean-Luc's (U.S.) 3.5!")]
        ['Jean-Luc', "'", 's', '(', 'U.S', '.', ')', '3.5', '!']
    """
    return _splitter().pre_tokenize_str(text)


@lru_cache(maxsize=1)
def _splitter() -> Split:
    return Split(Regex(WORD), behavior="removed", invert=True)
