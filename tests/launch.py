"""Several processes as `torchrun` would start them, without its agent and without importing everything once more: as forks.

torch allows a fork of a process that has trained on the CPU; with one thread no pool of threads is lost in it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ranked(rank: int, world: int, port: int) -> dict[str, str]:
    """What a launcher sets for one rank on this machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }


def environment() -> dict[str, str]:
    """For a process of its own."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    plain = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DISTILECT_QUIET": "1"}
    return os.environ | plain


def fork(work: Callable[[], Any], log: Path, variables: dict[str, str] | None = None) -> int:
    """Run `work` in a child with its output in `log`; the child's number. Its exit code is what `work` returns, 0 for None."""
    child = os.fork()
    if child:
        return child
    code: Any = 1
    try:  # never returns: the parent's tests are no affair of the child's
        os.environ.update(variables or {})
        with log.open("w", encoding="utf-8") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
            sys.stdout = sys.stderr = file
            try:
                import torch

                torch.set_num_threads(1)
                code = work() or 0
            except BaseException:
                traceback.print_exc()
            file.flush()
    finally:
        os._exit(code)


def start_ranks(world: int, work: Callable[[], Any], folder: Path) -> list[int]:
    """`work` once per rank; output in `folder/rank-N.log`."""
    port = free_port()
    return [fork(work, folder / f"rank-{rank}.log", ranked(rank, world, port)) for rank in range(world)]


def wait(children: list[int]) -> list[int]:
    """Exit codes, -9 for kill -9; when one has failed the others are ended, as a launcher does. The test's own timeout ends all."""
    codes: dict[int, int] = {}
    try:
        while len(codes) < len(children) and not any(codes.values()):
            for child in set(children) - set(codes):
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    codes[child] = os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
    finally:
        for child in set(children) - set(codes):
            os.kill(child, signal.SIGKILL)
            codes[child] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return [codes[child] for child in children]


def run_ranks(world: int, work: Callable[[], Any], folder: Path) -> list[str]:
    """Run to the end; the outputs.

    Raises:
        AssertionError: a rank failed; with its output.
    """
    codes = wait(start_ranks(world, work, folder))
    said = [(folder / f"rank-{rank}.log").read_text(encoding="utf-8") for rank in range(world)]
    for rank, code in enumerate(codes):
        assert code == 0, f"rank {rank} ended with {code}:\n" + "\n".join(s[-3000:] for s in said)
    return said
