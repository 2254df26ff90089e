"""A worker process of the local engine: `python -m distilect.experiments.worker CONFIG`, jobs on stdin, outcomes on stdout."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

from distilect.experiments.config import load_compare
from distilect.experiments.jobs import Job, Worker


def main() -> None:
    """Work until stdin ends, or until the process that started this one is gone."""
    outcomes = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints must not get between the outcomes
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the engine ends its workers itself
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    worker = Worker(load_compare(sys.argv[1]))
    for line in sys.stdin:
        print(worker.do(Job(**json.loads(line))).to_json(), file=outcomes, flush=True)


def _end_with(parent: int) -> None:
    """A comparison that was killed must not go on in the background: its locks would stay held."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    main()
