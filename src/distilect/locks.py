"""One writer at a time, across processes: advisory locks that the kernel gives back when their holder dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from distilect.errors import DistilectError, why_unwritable
from distilect.progress import console


@contextmanager
def locked(
    path: Path, error: type[DistilectError], busy: str, *, wait: bool, what: str = ""
) -> Iterator[None]:
    """Hold the lock file at `path` (made where it is missing, and left there: removing it would race).

    Args:
        busy: what to say when another process holds it: told once when waiting, raised otherwise.
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
