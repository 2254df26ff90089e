"""CoNLL files: a word per line with its tags beside it, an empty line between sentences.

Fields are parted by tabs, or by spaces where the first line of a word has no tab. Lines that begin a document (`-DOCSTART-`) and comments (`# …` before the first
word of a sentence) are passed over; in CoNLL-U so are the ranges of joined words (`1-2`) and empty nodes (`1.1`), which are no words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from distilect.data.decoding import open_text, suffix_of
from distilect.data.source import Rows, Source
from distilect.data.table import CHUNK
from distilect.errors import DataError

WORD_SUFFIXES = (".conll", ".conllu", ".bio", ".iob")
_DOCUMENT = ("-DOCSTART-", "#begin document", "#end document")  # of CoNLL-2003, of CoNLL-2011 and 2012
_UNIVERSAL_WIDTH = 10  # columns of CoNLL-U: a number, the word, its lemma, its part of speech, …
_NO_WORD = re.compile(r"\d+[-.]\d+")
_FIRST = re.compile(r"1(-\d+)?")

Sentence = tuple[int, list[list[str]]]  # the line of its first word, the fields of each word


@dataclass(frozen=True)
class _Shape:
    """How the lines of a file look.

    Args:
        delimiter: between two fields; None: spaces.
        width: fields per line.
        line: the one that told.
        universal: the file is CoNLL-U.
    """

    delimiter: str | None
    width: int
    line: int
    universal: bool


def conll_file(path: Path, delimiter: str | None = None) -> Source:
    """A CoNLL file as lists of words and of tags; its columns are called by their numbers, "0", "1", ….

    Args:
        delimiter: between fields; None: told by the first line.

    Raises:
        DataError: no words; while reading, a line with another number of fields.
    """
    shape = _shape_of(path, delimiter)
    names = [str(number) for number in range(shape.width)]
    words = ("1", "3") if shape.universal else tuple(dict.fromkeys((names[0], names[-1])))
    parted = "spaces" if shape.delimiter is None else {"\t": "tabs"}.get(shape.delimiter, repr(shape.delimiter))
    kind = "CoNLL-U" if shape.universal else "CoNLL"
    notes = (f"{kind}, {shape.width} columns between {parted}" if shape.width > 1 else f"{kind}, 1 column",)

    def load(wanted: Sequence[str], limit: int | None) -> Iterator[Rows]:
        sentences = islice(_sentences(path, shape), limit)
        while block := list(islice(sentences, CHUNK)):
            offsets = pa.array(np.cumsum([0, *(len(words) for _, words in block)]))
            flat = list(zip(*(fields for _, words in block for fields in words), strict=True))  # a tuple per column
            arrays = {
                name: pa.LargeListArray.from_arrays(offsets, pa.array(flat[int(name)], pa.large_string()))
                for name in wanted
            }
            yield Rows(pa.table(arrays), path.name, np.array([line for line, _ in block]), "line")

    return Source(path.name, names, load, files=(path,), notes=notes, words=words)


def _shape_of(path: Path, delimiter: str | None) -> _Shape:
    """The shape by the first line of a word; a word that begins with "#" tells only where no other does."""
    marked: _Shape | None = None
    with open_text(path, "\n") as lines:
        for number, line in enumerate(lines, 1):
            if _is_between(line):
                continue
            parted = delimiter or ("\t" if "\t" in line else None)
            fields = _fields(line, parted)
            universal = len(fields) == _UNIVERSAL_WIDTH and bool(_FIRST.fullmatch(fields[0]))
            shape = _Shape(parted, len(fields), number, universal or suffix_of(path) == ".conllu")
            if not line.startswith("#"):
                return _checked(path, shape)
            marked = marked or shape
    if marked is None:
        raise DataError(f"{path} has no words: expected a word per line, and an empty line between sentences")
    return _checked(path, marked)


def _checked(path: Path, shape: _Shape) -> _Shape:
    if shape.universal and shape.width != _UNIVERSAL_WIDTH:
        raise DataError(
            f"{path.name}, line {shape.line}: {shape.width} fields, expected the {_UNIVERSAL_WIDTH} of CoNLL-U. Call other files .conll"
        )
    return shape


def _sentences(path: Path, shape: _Shape) -> Iterator[Sentence]:
    first, words = 0, list[list[str]]()
    with open_text(path, "\n") as lines:
        for number, line in enumerate(lines, 1):
            if _is_between(line):
                if words:
                    yield first, words
                words = []
                continue
            fields = _fields(line, shape.delimiter)
            if line[0] == "#" and _is_comment(line, len(fields), bool(words), shape):
                continue
            if shape.universal and _NO_WORD.fullmatch(fields[0]):
                continue
            if len(fields) != shape.width:
                raise DataError(
                    f"{path.name}, line {number}: {len(fields)} fields, expected {shape.width} as in line {shape.line}: a word and its "
                    "tags on each line, an empty line between sentences"
                )
            first = first if words else number
            words.append(fields)
    if words:
        yield first, words


def _is_between(line: str) -> bool:
    """Whether a line ends a sentence: it is blank, or begins or ends a document."""
    return not line.strip() or line.startswith(_DOCUMENT)


def _is_comment(line: str, fields: int, inside: bool, shape: _Shape) -> bool:
    """Whether a line that begins with "#" is a comment, not that word: it stands before a sentence, and has another number of fields."""
    if shape.universal:
        return True
    return line.startswith(("# ", "#\n", "#\r")) and not inside and fields != shape.width


def _fields(line: str, delimiter: str | None) -> list[str]:
    line = line.removesuffix("\n").removesuffix("\r")
    return line.split(delimiter) if delimiter is not None else re.split(" +", line.strip(" "))
