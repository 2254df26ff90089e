"""CSV, TSV and JSONL: line by line, so that every fault is named with its line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from distilect.data.source import Rows, check_columns
from distilect.data.table import CHUNK, to_strings
from distilect.errors import DataError

Record = tuple[int, list[str]]  # the line on which it starts, its fields
SNIFFED = 1000  # JSONL lines whose keys are taken as the columns of the file
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


class DelimitedFile:
    """A CSV or TSV file with a header line (or `columns` in its place).

    Args:
        quoting: whether double quotes delimit fields; then a field may hold delimiters, quotes and newlines.
    """

    def __init__(self, path: Path, delimiter: str, quoting: bool, columns: Sequence[str] | None = None) -> None:
        self.label = path.name
        self._path, self._delimiter, self._quoting, self._headless = (path, delimiter, quoting, columns is not None)
        with _reading(path, quoting) as lines:
            first = next(self._records(lines), None)
        if first is None:
            raise DataError(f"{path} is empty: expected a header line and rows below it")
        self.columns = list(columns) if columns is not None else [name.strip() for name in first[1]]
        repeated = {name for name in self.columns if name and self.columns.count(name) > 1}
        if repeated:
            raise DataError(f"{path.name}: column {min(repeated)!r} stands in the header twice: rename one of them")

    def read(self, columns: Sequence[str], limit: int | None = None) -> Rows:
        check_columns(columns, self.columns, self.label)
        places = [self.columns.index(name) for name in columns]
        arrays: list[list[pa.Array]] = [[] for _ in columns]
        numbers = [np.empty(0, np.int64)]
        with _reading(self._path, self._quoting) as lines:
            records = islice(self._records(lines), 0 if self._headless else 1, None)
            checked = self._same_width(islice(records, limit))
            while block := list(islice(checked, CHUNK)):
                numbers.append(np.fromiter((line for line, _ in block), np.int64))
                for place, parts in zip(places, arrays, strict=True):
                    parts.append(to_strings([fields[place] for _, fields in block]))
        if not any(map(len, numbers)):
            raise DataError(f"{self._path} has a header but no rows")
        table = pa.table({n: pa.chunked_array(parts) for n, parts in zip(columns, arrays, strict=True)})
        return Rows(table, self.label, "line", np.concatenate(numbers))

    def _records(self, lines: Iterable[str]) -> Iterator[Record]:
        """Non-empty records with the line on which they start."""
        if not self._quoting:
            for number, line in enumerate(lines, 1):
                if text := _bare(line):
                    yield number, text.split(self._delimiter)
            return
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        start = 1
        try:
            for fields in reader:
                if fields:
                    yield start, fields
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{self.label}, line {start}: quotes do not match ({error}). "
                "A quoted field doubles the quotes inside it; for a file without quoting set data.quoting: false"
            ) from None

    def _same_width(self, records: Iterable[Record]) -> Iterator[Record]:
        for line, fields in records:
            if len(fields) != len(self.columns):
                raise DataError(
                    f"{self.label}, line {line}: {len(fields)} fields, expected {len(self.columns)} "
                    f"({_some(self.columns)}). {self._width_hint()}"
                )
            yield line, fields

    def _width_hint(self) -> str:
        if self._quoting:
            return "Put fields that hold the delimiter in double quotes"
        return "The file is read without quoting; if double quotes delimit fields set data.quoting: true"


class JsonLines:
    """One JSON object per line; its columns are the keys of the first thousand lines."""

    def __init__(self, path: Path) -> None:
        self.label = path.name
        self._path = path
        keys: dict[str, None] = {}
        with _reading(path, False) as lines:
            for _, values in islice(self._objects(lines), SNIFFED):
                keys.update(dict.fromkeys(values))
        if not keys:
            raise DataError(f"{path} is empty: expected one JSON object per line")
        self.columns = list(keys)

    def read(self, columns: Sequence[str], limit: int | None = None) -> Rows:
        check_columns(columns, self.columns, self.label)
        arrays: list[list[pa.Array]] = [[] for _ in columns]
        numbers = [np.empty(0, np.int64)]
        kinds: dict[str, str] = {}
        with _reading(self._path, False) as lines:
            objects = islice(self._objects(lines), limit)
            while block := list(islice(objects, CHUNK)):
                numbers.append(np.fromiter((line for line, _ in block), np.int64))
                for name, parts in zip(columns, arrays, strict=True):
                    parts.append(self._column(name, block, kinds))
        columned = {n: _join(parts) for n, parts in zip(columns, arrays, strict=True)}
        return Rows(pa.table(columned), self.label, "line", np.concatenate(numbers))

    def _objects(self, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                shown = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
                raise DataError(
                    f"{self.label}, line {number}: not JSON ({shown}): expected one object per line"
                ) from None
            if not isinstance(values, dict):
                raise DataError(
                    f"{self.label}, line {number}: got a JSON {_json_type(values)}, expected an object such as "
                    '{"text": "…", "label": "…"}'
                )
            yield number, values

    def _column(self, name: str, block: list[tuple[int, dict[str, Any]]], kinds: dict[str, str]) -> pa.Array:
        """The values of one key as one arrow array; `kinds` remembers its type over blocks."""
        for line, values in block:
            value = values.get(name)
            if value is None:
                continue
            kind = _json_type(value)
            known = kinds.setdefault(name, kind)
            if kind in ("list", "object") or kind != known:
                expected = "a string or a number" if kind == known else f"a {known} as in the rows before"
                raise DataError(f"{self.label}, line {line}: {name!r} is of type {kind}, expected {expected}")
        values_of = [values.get(name) for _, values in block]
        try:
            return self._typed(values_of, kinds.get(name))
        except DataError:
            for line, values in block:
                _encodable(values.get(name), f"{self.label}, line {line}")
            raise

    @staticmethod
    def _typed(values: list[Any], kind: str | None) -> pa.Array:
        if kind == "number":
            whole = all(value is None or (isinstance(value, int) and abs(value) < 2**63) for value in values)
            return pa.array(values if whole else [None if v is None else _float(v) for v in values])
        return to_strings(values) if kind == "string" else pa.array(values)


def detect_quoting(path: Path) -> bool:
    """Whether double quotes delimit the fields of a TSV file.

    Official GLUE files hold plain quotes (`" The foodservice pie …`), files written by pandas or `csv` hold delimiting
    ones. Where every line has as many fields as the header without any quoting, fields that open with a quote must
    all be closed and hold a doubled quote, which is why a writer would have quoted them. Otherwise the file is
    quoted when all of it can be read so.
    """
    width, consistent, opened, well_formed = 0, True, 0, True
    with _reading(path, False) as lines:
        for line in lines:
            fields = _bare(line).split("\t")
            if not width:
                if all(_QUOTED.fullmatch(field) for field in fields):
                    return True
                width = len(fields)
            consistent &= len(fields) == width or fields == [""]
            for field in fields if '"' in line else ():
                if field.startswith('"'):
                    opened += 1
                    well_formed &= bool(_QUOTED.fullmatch(field)) and '""' in field[1:-1]
    if not opened:
        return False
    return well_formed if consistent else _reads_quoted(path)


def csv_delimiter(path: Path) -> str:
    """A comma; or the semicolon or tab of a header that has no comma."""
    with _reading(path, False) as lines:
        header = next(lines, "")
    return next((mark for mark in ",;\t" if mark in header), ",")


def _reads_quoted(path: Path) -> bool:
    try:
        file = DelimitedFile(path, "\t", True)
        with _reading(path, True) as lines:
            return all(len(fields) == len(file.columns) for _, fields in file._records(lines))
    except DataError:
        return False


@contextmanager
def _reading(path: Path, quoting: bool) -> Iterator[Iterator[str]]:
    """The lines of a UTF-8 file, a byte order mark skipped; with `quoting` a bare carriage return ends a line too."""
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
    """The line without its end, be it of Unix or Windows."""
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


def _encodable(value: Any, where: str) -> None:
    try:
        to_strings([value])
    except DataError:
        raise DataError(f"{where}: the text holds a lone surrogate (\\ud800 to \\udfff), which is no text") from None


def _json_type(value: Any) -> str:
    names = {str: "string", bool: "boolean", int: "number", float: "number", list: "list", dict: "object"}
    return names.get(type(value), "null")


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _join(parts: list[pa.Array]) -> pa.ChunkedArray:
    """Blocks of one column; a block of nothing but nulls, or of integers among floats, takes the others' type."""
    tables = [pa.table({"x": part}) for part in parts]
    return pa.concat_tables(tables, promote_options="permissive")["x"]


def _some(names: Sequence[str], limit: int = 10) -> str:
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
