"""Files that are written whole or not at all, and one writer at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from distilect.errors import DistilectError, why_unwritable
from distilect.progress import console


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place once the block ends without an error; else it is removed.

    Example:
        >>> with atomic(Path("rows.parquet")) as temporary:              # doctest: +SKIP
        ...     pq.write_table(table, temporary)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: Path, content: str | bytes, *, sync: bool = False) -> None:
    """Write a whole file, text as UTF-8.

    Args:
        sync: return only once it is on the disk: a file that says that others are complete.
    """
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits; about 1 GB per second."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def locked(path: Path, error: type[DistilectError], busy: str, *, wait: bool, what: str = "") -> Iterator[None]:
    """Hold the lock file at `path`; the kernel gives it back when its holder dies.

    The file is made where it is missing, and left there: removing it would race.

    Args:
        busy: the message when another process holds it: printed once when waiting, raised otherwise.
        what: is written there, for messages.

    Raises:
        error: held by another process, without `wait`; or the file cannot be made.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise error(busy) from None
            console.print(f"waiting: {busy}")
            lock.acquire()
    except OSError as fault:
        raise error(f"cannot write {what}to {path.parent}: {why_unwritable(fault)}") from None
    try:
        yield
    finally:
        lock.release()
