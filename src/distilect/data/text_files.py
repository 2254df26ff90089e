"""CSV, TSV, TXT and JSON files, read row by row so that every error names its line or row.

The modules `csv` and `json` parse them. pandas (which `datasets` uses) and pyarrow are faster, but they pad or drop fields of ragged
rows, rename repeated columns, repair quotes or turn texts into dates, numbers and nulls, and their errors do not name a line.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from distilect.data.decoding import open_text
from distilect.data.dialect import delimited_lines
from distilect.data.source import Rows, Source, listed
from distilect.data.table import CHUNK, to_strings
from distilect.errors import DataError

Record = tuple[int, list[str]]  # the line on which a record starts, its fields
Object = tuple[int, dict[str, Any]]  # the line, or in an array the row, of an object
SNIFFED = 1000  # JSON objects whose keys become the columns of the file
_PART = 1 << 20  # characters of an array that are read at a time
_ESCAPE = 12  # length of an escaped character outside the basic plane, the longest that the end of a part can cut
_SPACE = re.compile(r"[ \t\r\n]*")
_MESSAGE = pa.struct(
    [("role", pa.large_string()), ("content", pa.large_string())]
)  # of a chat; other keys are not read
_TYPES = {str: "string", bool: "boolean", int: "number", float: "number", list: "list", dict: "object"}


# ---- delimited ---------------------------------------------------------------------------------------------------


def delimited_file(path: Path, delimiter: str, quoting: bool, columns: Sequence[str] | None = None) -> Source:
    """A CSV, TSV or TXT file with a header line; with `columns`, without one.

    Args:
        quoting: whether double quotes delimit fields; then a field may hold delimiters, quotes and newlines.
    """
    first = next(_records(path, delimiter, quoting), None)
    if first is None:
        raise DataError(f"{path} is empty: expected a header line and rows below it")
    names = list(columns) if columns is not None else [name.strip() for name in first[1]]
    repeated = {name for name in names if name and names.count(name) > 1}
    if repeated:
        raise DataError(f"{path.name}: column {min(repeated)!r} occurs twice in the header: rename one of them")

    def load(wanted: Sequence[str], limit: int | None) -> Iterator[Rows]:
        places = {name: names.index(name) for name in wanted}
        rows = islice(_records(path, delimiter, quoting, names), 0 if columns is not None else 1, None)
        rows = islice(rows, limit)
        while block := list(islice(rows, CHUNK)):
            arrays = {name: to_strings([fields[place] for _, fields in block]) for name, place in places.items()}
            yield Rows(pa.table(arrays), path.name, np.array([line for line, _ in block]), "line")

    return Source(path.name, names, load, files=(path,))


def _records(path: Path, delimiter: str, quoting: bool, columns: Sequence[str] | None = None) -> Iterator[Record]:
    """Non-empty records with the line on which they start. With `columns`, another number of fields is an error."""
    with delimited_lines(path, quoting) as (start, lines):
        for line, fields in (_quoted if quoting else _plain)(path, lines, delimiter, start):
            if columns is not None and len(fields) != len(columns):
                hint = (
                    "Put fields that hold the delimiter in double quotes"
                    if quoting
                    else "The file is read without quoting; if double quotes delimit fields set data.quoting: true"
                )
                raise DataError(
                    f"{path.name}, line {line}: {len(fields)} fields, expected {len(columns)} "
                    f"({listed(columns, 10)}). {hint}"
                )
            yield line, fields


def _plain(path: Path, lines: Iterator[str], delimiter: str, start: int) -> Iterator[Record]:
    for number, line in enumerate(lines, start):
        if text := line.removesuffix("\n").removesuffix("\r"):
            yield number, text.split(delimiter)


def _quoted(path: Path, lines: Iterator[str], delimiter: str, start: int) -> Iterator[Record]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    line = start
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = start + reader.line_num
    except csv.Error as error:
        raise DataError(
            f"{path.name}, line {line}: quotes do not match ({error}). "
            "A quoted field doubles the quotes inside it; for a file without quoting set data.quoting: false"
        ) from None


# ---- JSON --------------------------------------------------------------------------------------------------------


def json_file(path: Path) -> Source:
    """One JSON object per line, or one array of objects; its columns are the keys of the first thousand objects."""
    unit = "row" if _is_array(path) else "line"
    names = list(dict.fromkeys(key for _, values in islice(_objects(path, unit), SNIFFED) for key in values))
    if not names:
        raise DataError(f"{path} is empty: expected JSON objects, one per line or in an array")

    def load(wanted: Sequence[str], limit: int | None) -> Iterator[Rows]:
        kinds: dict[str, str] = {}  # type of each column, set by its first value
        objects = islice(_objects(path, unit), limit)
        while block := list(islice(objects, CHUNK)):
            arrays = {name: _json_column(path, name, block, kinds, unit) for name in wanted}
            yield Rows(pa.table(arrays), path.name, np.array([number for number, _ in block]), unit)

    return Source(path.name, names, load, files=(path,))


def _is_array(path: Path) -> bool:
    with open_text(path, "\n") as text:  # an array may be one long line
        part = " "
        while part and not part.strip():
            part = text.read(4096)
        return part.lstrip().startswith("[")


def _objects(path: Path, unit: str) -> Iterator[Object]:
    with open_text(path, "\n") as text:
        for number, values in (_elements if unit == "row" else _values)(path, text):
            if not isinstance(values, dict):
                raise DataError(
                    f"{path.name}, {unit} {number}: got a JSON {_TYPES.get(type(values), 'null')}, expected an object "
                    'such as {"text": "…", "label": "…"}'
                )
            yield number, values


def _values(path: Path, text: io.TextIOWrapper) -> Iterator[tuple[int, Any]]:
    """The value on each line."""
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            shown = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(f"{path.name}, line {number}: not JSON ({shown}): expected one object per line") from None


def _elements(path: Path, text: io.TextIOWrapper) -> Iterator[tuple[int, Any]]:
    """The elements of one array with their numbers, from 1."""
    part, row = _Parts(text), 1
    try:
        part.skip()  # the bracket
        while part.peek() != "]":
            yield row, part.value()
            row += 1
            if part.peek() != ",":
                break
            part.skip()
    except (ValueError, RecursionError) as error:
        place, shown = (error.pos, error.msg) if isinstance(error, json.JSONDecodeError) else (part.place, str(error))
        line = part.line_of(place)
        raise DataError(
            f"{path.name}, line {line}: not JSON ({shown}, row {row}): expected an array of objects"
        ) from None
    closed = part.peek() == "]"
    part.skip()
    if not closed or part.peek():
        shown = "text after the array" if closed else "expected a comma or the end of the array"
        raise DataError(f"{path.name}, line {part.line_of(part.place)}: not JSON ({shown}, row {row})")


class _Parts:
    """JSON text that is read in parts, and a place in it."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self.text, self.decode = text, json.JSONDecoder().raw_decode
        self.buffer, self.place, self.line = "", 0, 1  # line: on which the buffer begins

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            self.place = _SPACE.match(self.buffer, self.place).end()  # type: ignore[union-attr]
            if self.place < len(self.buffer) or not self._more():
                return self.buffer[self.place : self.place + 1]

    def skip(self) -> None:
        """Pass over the next character that is not white space."""
        mark = self.peek()  # moves the place
        self.place += len(mark)

    def value(self) -> Any:
        """Pass over the next value.

        Raises:
            ValueError, RecursionError: it is not JSON, or nested too deeply.
        """
        self.peek()
        while True:
            try:
                value, self.place = self.decode(self.buffer, self.place)
                return value
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated string") or error.pos > len(self.buffer) - _ESCAPE
                if not is_cut or not self._more():
                    raise

    def line_of(self, place: int) -> int:
        return self.line + self.buffer.count("\n", 0, place)

    def _more(self) -> bool:
        self.line = self.line_of(self.place)
        rest = self.buffer[self.place :]
        part = self.text.read(max(_PART, len(rest)))  # an object longer than a part: twice as much each time
        self.buffer, self.place = rest + part, 0
        return bool(part)


def _json_column(path: Path, name: str, block: list[Object], kinds: dict[str, str], unit: str) -> pa.Array:
    """The values of one key as an Arrow array; refuses values of different types."""
    values = [found.get(name) for _, found in block]
    for (number, _), value in zip(block, values, strict=True):
        if value is None:
            continue
        kind = _TYPES[type(value)]
        known = kinds.setdefault(name, kind)
        plain = kind != "object" and (kind != "list" or _is_plain(value))
        if not plain or kind != known:
            expected = "a string, a number, or a list of strings or numbers, or of messages (role and content)"
            expected = expected if kind == known else f"a {known} as in the rows before"
            shown = "list of other values" if kind == "list" and kind == known else kind
            raise DataError(f"{path.name}, {unit} {number}: {name!r} is of type {shown}, expected {expected}")
    if kinds.get(name) == "string":
        return to_strings(values, lambda row: f"{path.name}, {unit} {block[row][0]}")
    if kinds.get(name) == "list" and any(type(item) is dict for value in values if value for item in value):
        return pa.array(values, pa.large_list(_MESSAGE))
    if kinds.get(name) == "list" and any(type(item) is float for value in values if value for item in value):
        return pa.array(values, pa.large_list(pa.float64()))
    if kinds.get(name) == "list":
        lists = [None if value is None else [str(item) for item in value] for value in values]
        return pa.array(lists, pa.large_list(pa.large_string()))
    fits = all(value is None or (isinstance(value, int) and abs(value) < 2**63) for value in values)
    if kinds.get(name) == "number" and not fits:
        return pa.array([None if value is None else _float(value) for value in values])
    return pa.array(values)


def _is_plain(values: list[Any]) -> bool:
    """Strings, integers, or both; numbers, which may have decimals; or messages."""
    kinds = set(map(type, values))
    return kinds <= {str, int} or kinds <= {int, float} or (kinds == {dict} and all(map(_is_message, values)))


def _is_message(value: dict[str, Any]) -> bool:
    return all(isinstance(value.get(key), str) for key in ("role", "content"))


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")
