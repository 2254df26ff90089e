"""How the fields of a CSV, TSV or TXT file are separated and quoted, told from the file itself.

`csv.Sniffer` guesses from letter frequencies and is often wrong on texts. Here the header says which delimiters come into question,
and the one that divides the first lines into as many fields as the header wins.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from distilect.data.columns import USUAL
from distilect.data.decoding import open_text
from distilect.errors import DataError

SAMPLE = 500  # lines that the delimiter is told from
ONE_COLUMN = "\x1f"  # ASCII's unit separator, which texts do not have
_COMMON = "\t|;,"  # the rarer in texts, the earlier
_PROSE = " _-.'\"?!()[]{}"  # in names of columns, or once in every sentence
_WHOLE_FIELD = re.compile(r'"(?:[^"]|"")*"')
_EXCEL = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)


@dataclass(frozen=True)
class Dialect:
    """How a file is divided into fields.

    Args:
        quoting: whether double quotes delimit fields; then a field may hold delimiters, quotes and newlines.
        notes: what was detected and is not usual, for the user.
    """

    delimiter: str
    quoting: bool
    notes: tuple[str, ...] = ()


def detect_dialect(
    paths: Sequence[Path], suffix: str, delimiter: str | None = None, quoting: bool | None = None
) -> Dialect:
    """The dialect of files that belong together.

    Args:
        suffix: .csv, whose quotes delimit fields and whose usual delimiter is a comma; .tsv or .txt, usually a tab.
        delimiter, quoting: as the user gave them; None: detected, the delimiter from the first file.
    """
    usual, csv_quotes = ("," if suffix == ".csv" else "\t"), (True if suffix == ".csv" else None)
    notes = []
    if delimiter is None:
        delimiter = _detect_delimiter(paths[0], usual, csv_quotes if quoting is None else quoting)
        if delimiter == ONE_COLUMN:
            notes.append("one column, commas are part of the texts")
        elif delimiter != usual:
            notes.append(f"fields are separated by {_shown(delimiter)}")
    if quoting is None:
        quoting = csv_quotes
    if quoting is None:
        quoting = _quotes_delimit(paths, delimiter)
        if quoting is not None:
            notes.append(
                "double quotes around fields are removed (data.quoting: false keeps them)"
                if quoting
                else "double quotes are part of the texts (data.quoting: true takes them for marks around fields)"
            )
    return Dialect(delimiter, bool(quoting), tuple(notes))


# ---- delimiter ---------------------------------------------------------------------------------------------------


def _detect_delimiter(path: Path, usual: str, quoting: bool | None) -> str:
    """The delimiter that Excel's line `sep=` names, otherwise the one that fits the header and the first lines best.

    Args:
        usual: taken where none fits.
        quoting: None: not known yet.

    Returns:
        `ONE_COLUMN` for a CSV file of one column that has commas in its texts without quotes around them.
    """
    with open_text(path, "" if quoting else "\n") as text:
        first = text.readline()
        named = _EXCEL.fullmatch(first)
        return named[1] if named else _best_delimiter([first, *islice(text, SAMPLE - 1)], usual, quoting)


def _best_delimiter(sample: Sequence[str], usual: str, quoting: bool | None) -> str:
    lines = [line for line in sample if line.strip("\r\n")]
    header = lines[0].rstrip("\r\n") if lines else ""
    ways = (True, False) if quoting is None else (quoting,)
    cut = len(sample) == SAMPLE
    fits = {mark: max(_fit(lines, mark, way, cut) for way in ways) for mark in _candidates(header)}
    good = [mark for mark, fit in fits.items() if fit[0] >= (0.5 if mark in _COMMON else 1.0)]
    if good:
        return max(good, key=lambda mark: (*fits[mark], -_COMMON.find(mark) if mark in _COMMON else -len(_COMMON)))
    if usual == "\t":
        return usual
    if not any(mark in header for mark in _COMMON):
        return ONE_COLUMN if _has_prose_commas(lines[1:], quoting is not False) else usual
    # No line has as many fields as the header: the message about the first one will name the usual delimiter.
    return next(mark for mark in (usual, *",;\t|") if mark in header)


def _has_prose_commas(lines: Sequence[str], quoting: bool) -> bool:
    """Whether there are commas, but not as between two fields of every line below a header that lacks a name."""
    counts = {len(fields) for fields in _split(lines, ",", quoting) if fields}
    return len(counts) > 1 or (counts != {1} and bool(counts) and any(", " in line for line in lines))


def _candidates(header: str) -> list[str]:
    return [
        mark
        for mark in dict.fromkeys(header)
        if mark not in _PROSE + "\0"
        and (mark in _COMMON or unicodedata.category(mark) in ("Cc", "Po", "Sm", "Sc", "So", "Sk"))
    ]


def _fit(lines: Sequence[str], delimiter: str, quoting: bool, cut: bool) -> tuple[float, int, int]:
    """(share of records with as many fields as the header, usual names in the header, its fields); 0 for one field."""
    try:
        records = [fields for fields in _split(lines, delimiter, quoting) if fields]
    except csv.Error:
        return 0.0, 0, 0
    header = records[0] if records else []
    rows = records[1:-1] if quoting and cut else records[1:]  # the last record may go on below
    if len(header) < 2:
        return 0.0, 0, 0
    share = sum(len(fields) == len(header) for fields in rows) / len(rows) if rows else 1.0
    return share, sum(name.strip().lower() in USUAL for name in header), len(header)


def _split(lines: Sequence[str], delimiter: str, quoting: bool) -> Iterator[list[str]]:
    if quoting:
        return csv.reader(lines, delimiter=delimiter)
    return (line.rstrip("\r\n").split(delimiter) for line in lines)


def _shown(mark: str) -> str:
    return {"\t": "tabs", " ": "spaces"}.get(mark, repr(mark))


# ---- quoting -----------------------------------------------------------------------------------------------------


def _quotes_delimit(paths: Sequence[Path], delimiter: str) -> bool | None:
    """Whether double quotes delimit fields, or belong to the texts; None if there are none.

    Official GLUE files contain literal quotes (`" The foodservice pie …`). pandas, `csv` and Excel write delimiting ones, around
    those fields only that need them. A name in the header with quotes around it settles it. Otherwise, if every line has as many
    fields as the header when quotes are ignored, the files count as quoted only if each field that opens with a quote also
    closes with one and has a reason to be quoted. A doubled quote or a carriage return is one. A comma or semicolon, for which
    Excel quotes, is one if no field without quotes around it holds that mark or a quote. If some lines have more or fewer
    fields, files count as quoted if all of them can be parsed with quoting.
    """
    seen = _Quotes(delimiter)
    for path in paths:
        with delimited_lines(path, False) as (_, text_lines):
            lines = (bare for line in text_lines if (bare := line.removesuffix("\n").removesuffix("\r")))
            if seen.quoted_name(next(lines, "")):
                return True
            for line in lines:
                seen.add(line)
    if not seen.any:
        return None
    if seen.consistent:
        return seen.delimit()
    return seen.opened and all(_parses(path, delimiter) for path in paths)


class _Quotes:
    """What the quotes in some files look like."""

    def __init__(self, delimiter: str) -> None:
        self.delimiter = delimiter
        self.marks = [mark for mark in ",;" if mark != delimiter]
        self.width = 0
        self.any = self.opened = False  # quotes anywhere; at the beginning of a field
        self.consistent = True  # every line has as many fields as the header when quotes are ignored
        self.whole = True  # each field that opens with a quote closes with one
        self.reasons: set[frozenset[str]] = set()  # marks in fields that have no other reason to be quoted
        self.bare: set[str] = set()  # marks in fields that are not quoted

    def quoted_name(self, line: str) -> bool:
        """Whether a name in a file's header is quoted."""
        fields = line.split(self.delimiter)
        self.width = len(fields)
        self.add(line)
        return any(_WHOLE_FIELD.fullmatch(field) for field in fields)

    def add(self, line: str) -> None:
        fields = line.split(self.delimiter)
        self.consistent &= len(fields) == self.width
        if '"' not in line:
            self.bare.update(mark for mark in self.marks if mark in line)
            return
        self.any = True
        for field in fields:
            marks = {mark for mark in self.marks if mark in field}
            if not field.startswith('"'):
                self.bare |= marks | ({'"'} if '"' in field else set())
                continue
            self.opened = True
            self.whole &= bool(_WHOLE_FIELD.fullmatch(field))
            if '""' not in field[1:-1] and "\r" not in field:
                self.reasons.add(frozenset(marks))

    def delimit(self) -> bool:
        """Whether the fields that open with a quote are those that a writer would have had to quote."""
        if not self.opened or not self.whole:
            return False
        return not self.reasons or ('"' not in self.bare and all(marks - self.bare for marks in self.reasons))


def _parses(path: Path, delimiter: str) -> bool:
    """Whether a file has equally many fields in all records when quotes delimit them."""
    try:
        with delimited_lines(path, True) as (_, lines):
            return len({len(fields) for fields in csv.reader(lines, delimiter=delimiter, strict=True) if fields}) == 1
    except (csv.Error, DataError):
        return False


@contextmanager
def delimited_lines(path: Path, quoting: bool) -> Iterator[tuple[int, Iterator[str]]]:
    """(number of the first line, lines) of a file, without the line `sep=;` that Excel reads a delimiter from."""
    with open_text(path, "" if quoting else "\n") as text:
        first = text.readline()
        if _EXCEL.fullmatch(first):
            yield 2, iter(text)
        else:
            yield 1, _chain(first, text)


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
        yield from rest
