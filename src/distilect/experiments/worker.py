"""A worker process of a comparison: python -m distilect.experiments.worker CONFIG, jobs on stdin, outcomes on stdout."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from distilect.experiments.engines import serve


def main() -> None:
    """Work until stdin ends, or the process that started this one is gone."""
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not get between the outcomes
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the comparison ends its workers itself
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    serve(Path(sys.argv[1]), source, target)


def _leave_with(parent: int) -> None:
    """A comparison that was killed must not go on in the background: its locks would stay held."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    main()
