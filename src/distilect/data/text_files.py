"""CSV, TSV and JSONL files, read line by line so that every error names its line.

The modules `csv` and `json` parse them. pandas (which `datasets` uses) and pyarrow are faster, but they pad or drop fields of ragged
rows, rename repeated columns, repair quotes or turn texts into dates, numbers and nulls, and their errors do not name a line.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from distilect.data.source import Rows, Source, listed
from distilect.data.table import CHUNK, to_strings
from distilect.errors import DataError

Record = tuple[int, list[str]]  # the line on which a record starts, its fields
Object = tuple[int, dict[str, Any]]
SNIFFED = 1000  # JSONL lines whose keys become the columns of the file
_WHOLE_FIELD = re.compile(r'"(?:[^"]|"")*"')
_TYPES = {str: "string", bool: "boolean", int: "number", float: "number", list: "list", dict: "object"}


# ---- delimited ---------------------------------------------------------------------------------------------------


def delimited_file(path: Path, delimiter: str, quoting: bool, columns: Sequence[str] | None = None) -> Source:
    """A CSV or TSV file with a header line; with `columns`, without one.

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

    return Source(path.name, names, load)


def detect_quoting(path: Path) -> bool:
    """Whether double quotes delimit the fields of a TSV file.

    Official GLUE files contain literal quotes (`" The foodservice pie …`); pandas and `csv` write delimiting ones. If every
    line has as many fields as the header when quotes are ignored, the file counts as quoted only if each field that opens with
    a quote also closes with one and contains a doubled quote, the only reason that a writer would have had to quote it.
    Otherwise it counts as quoted if all of it can be parsed with quoting.
    """
    width, consistent, opened, well_formed = 0, True, 0, True
    with _lines(path, False) as lines:
        for line in lines:
            fields = _bare(line).split("\t")
            if not width:
                if all(_WHOLE_FIELD.fullmatch(field) for field in fields):
                    return True
                width = len(fields)
            consistent &= len(fields) == width or fields == [""]
            for field in fields if '"' in line else ():
                if field.startswith('"'):
                    opened += 1
                    well_formed &= bool(_WHOLE_FIELD.fullmatch(field)) and '""' in field[1:-1]
    if not opened:
        return False
    if consistent:
        return well_formed
    try:
        return len({len(fields) for _, fields in _records(path, "\t", True)}) == 1
    except DataError:
        return False


def csv_delimiter(path: Path) -> str:
    """A comma, unless the header has none but a semicolon or a tab."""
    with _lines(path, False) as lines:
        header = next(lines, "")
    return next((mark for mark in ",;\t" if mark in header), ",")


def _records(path: Path, delimiter: str, quoting: bool, columns: Sequence[str] | None = None) -> Iterator[Record]:
    """Non-empty records with the line on which they start. With `columns`, another number of fields is an error."""
    with _lines(path, quoting) as lines:
        for line, fields in (_quoted if quoting else _plain)(path, lines, delimiter):
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


def _plain(path: Path, lines: Iterator[str], delimiter: str) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        if text := _bare(line):
            yield number, text.split(delimiter)


def _quoted(path: Path, lines: Iterator[str], delimiter: str) -> Iterator[Record]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    start = 1
    try:
        for fields in reader:
            if fields:
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path.name}, line {start}: quotes do not match ({error}). "
            "A quoted field doubles the quotes inside it; for a file without quoting set data.quoting: false"
        ) from None


# ---- JSON --------------------------------------------------------------------------------------------------------


def json_lines(path: Path) -> Source:
    """One JSON object per line; its columns are the keys of the first thousand lines."""
    names = list(dict.fromkeys(key for _, values in islice(_objects(path), SNIFFED) for key in values))
    if not names:
        raise DataError(f"{path} is empty: expected one JSON object per line")

    def load(wanted: Sequence[str], limit: int | None) -> Iterator[Rows]:
        kinds: dict[str, str] = {}  # type of each column, set by its first value
        objects = islice(_objects(path), limit)
        while block := list(islice(objects, CHUNK)):
            arrays = {name: _json_column(path, name, block, kinds) for name in wanted}
            yield Rows(pa.table(arrays), path.name, np.array([line for line, _ in block]), "line")

    return Source(path.name, names, load)


def _objects(path: Path) -> Iterator[Object]:
    with _lines(path, False) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                shown = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
                raise DataError(
                    f"{path.name}, line {number}: not JSON ({shown}): expected one object per line"
                ) from None
            if not isinstance(values, dict):
                raise DataError(
                    f"{path.name}, line {number}: got a JSON {_TYPES.get(type(values), 'null')}, expected an object "
                    'such as {"text": "…", "label": "…"}'
                )
            yield number, values


def _json_column(path: Path, name: str, block: list[Object], kinds: dict[str, str]) -> pa.Array:
    """The values of one key as an Arrow array; refuses values of different types."""
    values = [found.get(name) for _, found in block]
    for (line, _), value in zip(block, values, strict=True):
        if value is None:
            continue
        kind = _TYPES[type(value)]
        known = kinds.setdefault(name, kind)
        plain = kind != "object" and (kind != "list" or all(type(item) in (str, int) for item in value))
        if not plain or kind != known:
            expected = "a string, a number, or a list of strings or integers"
            expected = expected if kind == known else f"a {known} as in the rows before"
            shown = "list of other values" if kind == "list" and kind == known else kind
            raise DataError(f"{path.name}, line {line}: {name!r} is of type {shown}, expected {expected}")
    if kinds.get(name) == "string":
        return to_strings(values, lambda row: f"{path.name}, line {block[row][0]}")
    if kinds.get(name) == "list":
        lists = [None if value is None else [str(item) for item in value] for value in values]
        return pa.array(lists, pa.large_list(pa.large_string()))
    fits = all(value is None or (isinstance(value, int) and abs(value) < 2**63) for value in values)
    if kinds.get(name) == "number" and not fits:
        return pa.array([None if value is None else _float(value) for value in values])
    return pa.array(values)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")


# ---- lines -------------------------------------------------------------------------------------------------------


@contextmanager
def _lines(path: Path, quoting: bool) -> Iterator[Iterator[str]]:
    """The lines of a UTF-8 file without byte order mark. With `quoting`, a lone carriage return also ends a line."""
    limit = csv.field_size_limit(2**31 - 1)  # texts may be longer than the module's default of 128 KB
    try:
        with path.open(encoding="utf-8-sig", newline="" if quoting else "\n") as lines:
            yield iter(lines)
    except UnicodeDecodeError:
        raise DataError(_undecodable(path)) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    finally:
        csv.field_size_limit(limit)


def _bare(line: str) -> str:
    """The line without its Unix or Windows line ending."""
    return line.removesuffix("\n").removesuffix("\r")


def _undecodable(path: Path) -> str:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                bad = f"byte 0x{line[error.start]:02x} at position {error.start + 1}"
                return f"{path.name}, line {number}: {bad} is not UTF-8. Save the file as UTF-8 (iconv -t UTF-8)"
    return f"{path.name} is not UTF-8. Save the file as UTF-8 (iconv -t UTF-8)"
