"""Memory that a piece of work needs: what the kernel cannot drop and read again from a file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.launch import fork, wait


def growth(work: Callable[[], Any], folder: Path, after: Callable[[], Any] | None = None) -> float:
    """Megabytes of anonymous memory that `work` adds at its peak, in a process of its own.

    With `after`, what it adds to the peak of `after`, which runs before it in that process: what the allocator holds free in the parent,
    some megabytes more or less, is used up by then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "peak"

    def watched() -> None:
        peak, done = [_anonymous()], threading.Event()

        def watch() -> None:
            while not done.wait(0.003):
                peak[0] = max(peak[0], _anonymous())

        thread = threading.Thread(target=watch)
        thread.start()
        if after is not None:
            after()
        start = peak[0]
        work()
        done.set()
        thread.join()
        out.write_text(str(max(peak[0], _anonymous()) - start), encoding="utf-8")

    assert wait([fork(watched, folder / "log")]) == [0], (folder / "log").read_text(encoding="utf-8")[-3000:]
    return float(out.read_text(encoding="utf-8")) / 1024


def _anonymous() -> int:
    """Kilobytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])
