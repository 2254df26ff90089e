"""Jobs as child processes that can be killed at a chosen moment of their own time, and run again.

A child is a fork of a process that has imported everything: it begins with the work at once, and a moment drawn from the work's
processor time means the same on a busy machine as on an idle one.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.launch import fork

_TICK = 0.002
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        code: exit code; -9 for kill -9.
        said: its output.
        cpu: processor time that it took, in seconds.
        after: wall time from the signal to its end, where one was sent; `cpu_after` its processor time in it.
    """

    code: int
    said: str
    cpu: float
    after: float = 0.0
    cpu_after: float = 0.0


def warm_up() -> None:
    """Import all that the work needs, with one thread, so that a fork is whole."""
    import torch

    torch.set_num_threads(1)
    import distilect.experiments
    import distilect.pipeline
    import distilect.report
    import distilect.training.trainer  # noqa: F401


def forked(work: Callable[[], Any], log: Path, *, at: float | None = None, sign: int = signal.SIGKILL) -> Ended:
    """Run `work` in a child, and send it a signal once it has used so much processor time (`at`, in seconds)."""
    child = fork(lambda: as_command(work), log)
    before, sent = 0.0, 0.0
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            ended = time.perf_counter()
            code = os.waitstatus_to_exitcode(status)
            text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            cpu = used.ru_utime + used.ru_stime
            return Ended(code, text, cpu, ended - sent if sent else 0.0, cpu - before if sent else 0.0)
        before = before if sent else max(before, _cpu(child))
        if at is not None and not sent and before >= at:
            sent = time.perf_counter()
            os.kill(child, sign)
        time.sleep(_TICK)


def as_command(work: Callable[[], Any]) -> int:
    """The exit code and the messages of the command line, whose errors and signals this has."""
    from distilect.cli.app import _terminated
    from distilect.cli.verbs import explain
    from distilect.errors import Terminated

    signal.signal(signal.SIGTERM, _terminated)
    try:
        work()
        return 0
    except KeyboardInterrupt as stop:
        print("stopped")
        return 143 if isinstance(stop, Terminated) else 130
    except Exception as error:
        print(explain(error))
        return 1


def _cpu(pid: int) -> float:
    """Seconds of processor time so far, in hundredths."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    except OSError:
        return 0.0
