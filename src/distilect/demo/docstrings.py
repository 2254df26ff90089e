"""The built-in data set: docstrings of Python's own standard library, classified by chapter.

The text is on every machine. The interpreter's source files are read with `ast`: no module is imported, nothing is downloaded, and
no source text is part of this project. Collecting needs the standard library only.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import json
import platform
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from distilect.errors import DataError

# Chapters of the library reference, joined to 12 classes of comparable size. A name is a top-level module or
# package; modules that are not listed (removed since 3.10, platform scripts, helpers of many) are left out.
CHAPTERS: dict[str, str] = {
    "text": (
        "codecs difflib encodings gettext locale re rlcompleter shlex sre_compile sre_constants "
        "sre_parse string stringprep textwrap struct cmd"
    ),
    "data types": (
        "_collections_abc _pydatetime _strptime _weakrefset array bisect calendar collections "
        "copy datetime enum graphlib heapq pprint reprlib types weakref zoneinfo"
    ),
    "numbers and functions": ("_pydecimal _pylong decimal fractions functools numbers operator random statistics"),
    "files": (
        "_pyio filecmp fileinput fnmatch genericpath glob io linecache nturl2path ntpath os "
        "pathlib posixpath shutil stat tempfile"
    ),
    "formats and storage": (
        "_compat_pickle _compression bz2 configparser copyreg csv dbm gzip hashlib hmac lzma "
        "netrc pickle plistlib secrets shelve sqlite3 tarfile tomllib zipfile"
    ),
    "operating system": (
        "argparse colorsys ctypes curses errno getopt getpass logging optparse platform pty sched tty"
    ),
    "concurrency": (
        "_threading_local asyncio concurrent contextvars multiprocessing queue selectors signal "
        "socket ssl subprocess threading"
    ),
    "internet data": "_markupbase base64 email html json mailbox mimetypes quopri xml",
    "internet protocols": (
        "ftplib http imaplib ipaddress poplib smtplib socketserver urllib uuid webbrowser wsgiref xmlrpc"
    ),
    "graphical interfaces": "idlelib tkinter turtle turtledemo",
    "development tools": (
        "bdb cProfile doctest ensurepip pdb profile pstats pydoc timeit trace tracemalloc typing unittest venv zipapp"
    ),
    "runtime and language": (
        "__future__ _py_abc _sitebuiltins abc ast code codeop compileall contextlib dataclasses "
        "dis importlib inspect keyword modulefinder opcode pickletools pkgutil py_compile pyclbr "
        "runpy site symtable sysconfig tabnanny token tokenize traceback warnings zipimport"
    ),
}
LABELS = tuple(CHAPTERS)
_LABEL_OF = {module: label for label, modules in CHAPTERS.items() for module in modules.split()}
_SKIPPED_FOLDERS = {"__pycache__", "idle_test", "site-packages", "test", "tests"}
_MIN_WORDS, _MAX_WORDS = 4, 60
_MIN_CLASS_ROWS = 20
TRAIN, DEV = "train.csv", "dev.csv"


@dataclass(frozen=True)
class DocstringData:
    """Where the data set was written, and what is in it.

    Attributes:
        counts: rows per class, train and dev together.
        lines_to_print: what was built.
    """

    train_path: Path
    dev_path: Path
    counts: dict[str, int]
    lines_to_print: list[str]


def build_docstrings(folder: str | Path, seed: int = 0, dev_size: float = 0.15) -> DocstringData:
    """Write `train.csv`, `dev.csv` (columns text, label) and `docstrings.json` (their origin) into `folder`.

    Which split a row is in depends on its text and the seed only: another Python version moves no row.

    Raises:
        DataError: `dev_size` is not inside (0, 1), or this interpreter lacks its source files.
    """
    from distilect.files import atomic_write

    if not 0.0 < dev_size < 1.0:
        raise DataError(f"dev_size must lie between 0 and 1, got {dev_size}")
    rows = collect()
    # Some distributions package tkinter and others separately: their classes may be too small to learn.
    sizes = Counter(label for _, label in rows)
    rows = [row for row in rows if sizes[row[1]] >= _MIN_CLASS_ROWS]
    rows.sort(key=lambda row: (_draw(row[0], seed, "order"), row[0]))  # shuffled: the first rows are a fair sample
    counts = {label: sum(row[1] == label for row in rows) for label in LABELS}
    splits = {
        TRAIN: [row for row in rows if _draw(row[0], seed, "split") >= dev_size],
        DEV: [row for row in rows if _draw(row[0], seed, "split") < dev_size],
    }
    target, digests = Path(folder), {}
    for name, part in splits.items():
        content = to_csv(part)
        atomic_write(target / name, content)
        digests[name] = hashlib.sha256(content).hexdigest()
    python, train, dev = platform.python_version(), len(splits[TRAIN]), len(splits[DEV])
    origin = {
        "python": python,
        "seed": seed,
        "dev_size": dev_size,
        "rows": {"train": train, "dev": dev},
        "counts": counts,
        "sha256": digests,
    }
    atomic_write(target / "docstrings.json", json.dumps(origin, indent=1) + "\n")
    width = max(map(len, counts))
    lines = [f"{len(rows):,} docstrings of Python {python}'s standard library: {train:,} train, {dev:,} dev"]
    lines += [f"  {label:<{width}} {count:>5,}" for label, count in counts.items() if count]
    absent = [label for label, count in counts.items() if not count]
    if absent:
        lines.append(f"not installed here, left out: {', '.join(absent)}")
    return DocstringData(target / TRAIN, target / DEV, counts, lines)


@cache
def collect(library: str | Path | None = None) -> list[tuple[str, str]]:
    """All (text, label) rows of the library in folder `library` (default: this Python), in order of files; read once per process.

    A text that occurs in two chapters is left out: no classifier could tell which one is meant.

    Raises:
        DataError: the folder holds hardly any documented source, e.g. because only compiled files are there.
    """
    root = Path(library if library is not None else sysconfig.get_path("stdlib"))
    labels: dict[str, set[str]] = {}
    for path, label in _source_files(root):
        for text in _paragraphs(path):
            labels.setdefault(text, set()).add(label)
    rows = [(text, next(iter(found))) for text, found in labels.items() if len(found) == 1]
    if len(rows) < 1000:
        raise DataError(
            f"found only {len(rows)} docstrings in {root}: this Python seems to lack its source files;"
            " use an interpreter with the full standard library (python.org, pyenv, uv, conda)"
        )
    return rows


def _source_files(root: Path) -> Iterator[tuple[Path, str]]:
    """Source files of listed modules with their class, sorted by path: the same order on every disk."""
    files = ((path.relative_to(root), path) for path in root.rglob("*.py"))
    for relative, path in sorted(files, key=lambda pair: pair[0].as_posix()):
        label = _LABEL_OF.get(relative.parts[0].removesuffix(".py"))
        if label is not None and not _SKIPPED_FOLDERS.intersection(relative.parts):
            yield path, label


def _paragraphs(path: Path) -> Iterator[str]:
    """First paragraphs, white space collapsed, of the docstrings in one file that have 4–60 words."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old files
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):  # unreadable files tell nothing about the chapter
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            paragraph = re.split(r"\n\s*\n", (ast.get_docstring(node) or "").strip())[0]
            words = paragraph.split()
            if _MIN_WORDS <= len(words) <= _MAX_WORDS and ">>>" not in words:
                yield " ".join(words)


def _draw(text: str, seed: int, purpose: str) -> float:
    """A number in [0, 1) that depends on text, seed and purpose only."""
    digest = hashlib.blake2b(f"{seed}\0{purpose}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def to_csv(rows: list[tuple[str, str]]) -> bytes:
    """Rows of text and label as a CSV file."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("text", "label"))
    writer.writerows(rows)
    return buffer.getvalue().encode("utf-8", "replace")
