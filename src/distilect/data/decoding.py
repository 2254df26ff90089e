"""Text files as they come: compressed or not, in UTF-8 or in the encoding that a byte order mark names."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import re
import shlex
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from distilect.errors import DataError

COMPRESSED = (".gz", ".bz2", ".xz", ".zip")
_MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "zip": re.compile(rb"PK(\x03\x04|\x05\x06)"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
}
_OPEN: dict[str | None, Callable[[IO[bytes]], Any]] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
_ENCODINGS = {  # by byte order mark; that of UTF-16 begins that of UTF-32
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_ASCII_IN = {  # which of the first bytes are 0, for ASCII letters
    (False, True, False, True): "UTF-16LE",
    (True, False, True, False): "UTF-16BE",
    (False, True, True, True): "UTF-32LE",
    (True, True, True, False): "UTF-32BE",
}
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


def suffix_of(path: Path) -> str:
    """What a file holds, as its suffix in lower case: `.csv` for `train.csv.gz`, and for a ZIP file of one `train.csv`.

    Raises:
        DataError: a damaged ZIP file, or one of several files.
    """
    suffix = path.suffix.lower()
    if suffix == ".zip":
        with _readable(path), zipfile.ZipFile(path) as archive:
            member = Path(_member(archive, path).filename).suffix.lower()
        return member or Path(path.stem).suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def is_compressed(path: Path) -> bool:
    """Whether a file is compressed, by its first bytes."""
    with _readable(path), path.open("rb") as file:
        return _compression(file) is not None


@contextmanager
def open_text(path: Path, newline: str) -> Iterator[io.TextIOWrapper]:
    """A file's text without byte order mark, decompressed and decoded as it is read.

    Args:
        newline: as of `open`. With "", a lone carriage return also ends a line.

    Raises:
        DataError: while reading too: a damaged file, or bytes that the encoding does not have.
    """
    limit = csv.field_size_limit(2**31 - 1)  # texts may be longer than the module's default of 128 KB
    try:
        with _readable(path):
            encoding = _encoding(path)
            with _open_bytes(path) as file, io.TextIOWrapper(file, encoding=encoding, newline=newline) as text:
                yield text
    except UnicodeDecodeError:
        raise DataError(_undecodable(path, encoding)) from None
    finally:
        csv.field_size_limit(limit)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        if type(error) in (PermissionError, FileNotFoundError) or not _is_damaged_archive(path):
            raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
        raise DataError(f"{path} is damaged and cannot be decompressed: {error}. Copy or download it again") from None


def _is_damaged_archive(path: Path) -> bool:
    """Whether it was decompressing that failed."""
    with path.open("rb") as file:
        return path.suffix.lower() in COMPRESSED or _compression(file) is not None


def _compression(file: IO[bytes]) -> str | None:
    """By the first bytes: names lie, after a download for example."""
    start = file.read(10)
    file.seek(0)
    return next((name for name, mark in _MAGIC.items() if mark.match(start)), None)


@contextmanager
def _open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """A file's content, decompressed as it is read."""
    with ExitStack() as stack:
        file: Any = stack.enter_context(path.open("rb"))
        compression = _compression(file)
        if compression in _OPEN:
            file = stack.enter_context(_OPEN[compression](file))
        elif compression == "zip":
            archive = stack.enter_context(zipfile.ZipFile(file))
            try:
                file = stack.enter_context(archive.open(_member(archive, path)))
            except (RuntimeError, NotImplementedError) as error:  # a password, or a method that Python lacks
                raise DataError(f"{path} cannot be decompressed: {error}. Unpack it and give the file in it") from None
        elif compression == "zstd":
            raise DataError(
                f"{path} is compressed with Zstandard, which cannot be read: unpack it (unzstd {path.name})"
            )
        yield file


def _member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    """The only file in a ZIP file; what macOS adds does not count."""
    members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
    if len(members) != 1:
        names = ", ".join(m.filename for m in members[:5]) or "none"
        raise DataError(f"{path} holds {len(members)} files ({names}), expected one. Unpack it and give one of them")
    return members[0]


def _encoding(path: Path) -> str:
    with _open_bytes(path) as file:
        start = file.read(4)
    for mark, name in _ENCODINGS.items():
        if start.startswith(mark):
            return name
    zeros = tuple(byte == 0 for byte in start)
    if zeros in _ASCII_IN:
        name = _ASCII_IN[zeros]
        raise DataError(f"{path.name} seems to be {name} without a byte order mark. {_remedy(path, name)}")
    return "utf-8"


def _undecodable(path: Path, encoding: str) -> str:
    """The message for bytes that are not UTF-8, with the line of the first and a command that recodes the file."""
    if not encoding.startswith("utf-8"):
        return (
            f"{path.name} has a byte order mark of {encoding.upper()}, but is not {encoding.upper()}. Save it as UTF-8"
        )
    place, western = "", True
    with _open_bytes(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                found = f", line {number}: byte 0x{line[error.start]:02x} at position {error.start + 1}"
                place = place or found
                western &= _is_windows_1252(line)
    return f"{path.name}{place} is not UTF-8. {_remedy(path, 'WINDOWS-1252' if western else 'ENCODING')}"


def _remedy(path: Path, encoding: str) -> str:
    unpack = "" if not is_compressed(path) else "Unpack it. "
    name = path.name if not unpack else Path(path.stem).name
    new = f"{Path(name).stem}-utf8{Path(name).suffix}"
    command = f"iconv -f {encoding} -t UTF-8 {shlex.quote(name)} > {shlex.quote(new)}"
    guess = " if it is Western European" if encoding == "WINDOWS-1252" else ""
    return f"{unpack}Save the file as UTF-8, by a command{guess}: {command}"


def _is_windows_1252(line: bytes) -> bool:
    try:
        line.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return True
