"""Atomic writes, checksums and locks of files."""

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
    """Yield a temporary path beside `path`. It replaces `path` if the block ends without an error, and is removed otherwise.

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
        sync: wait until the file is on disk. For files that mark others as complete.
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
    """Hold a lock on the file at `path`; the kernel releases it if its holder dies.

    The file is created if missing and never removed, because removing it would race.

    Args:
        busy: message if another process holds the lock: printed once if `wait`, raised otherwise.
        what: what is written there, for messages.

    Raises:
        error: another process holds the lock and `wait` is false, or the file cannot be created.
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
