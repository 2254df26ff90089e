"""Several processes as `torchrun` would start them: the same environment, without its agent (which takes seconds to import)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def environment(rank: int = 0, world: int = 1, port: int = 0, **more: str) -> dict[str, str]:
    """What a launcher sets for one rank on this machine; nothing of it for a single process."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    plain = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DISTILECT_QUIET": "1"}
    ranked = {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    return os.environ | plain | (ranked if world > 1 else {}) | more


def start_ranks(world: int, arguments: Sequence[str], **more: str) -> list[subprocess.Popen[str]]:
    """`python ARGUMENTS` once per rank."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *arguments], env=environment(rank, world, port, **more), cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in range(world)
    ]  # fmt: skip


def finish(processes: Sequence[subprocess.Popen[str]], timeout: float = 280) -> list[tuple[int, str]]:
    """(exit code, output) of each; all are ended when one has failed, as a launcher does."""
    found: list[Any] = []
    try:
        for process in processes:
            said = process.communicate(timeout=timeout)[0]
            found.append((process.returncode, said))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return found


def run_ranks(world: int, arguments: Sequence[str], **more: str) -> list[str]:
    """Run to the end; the outputs.

    Raises:
        AssertionError: a rank failed; with its output.
    """
    found = finish(start_ranks(world, arguments, **more))
    for rank, (code, said) in enumerate(found):
        assert code == 0, f"rank {rank} ended with {code}:\n{said[-4000:]}"
    return [said for _, said in found]
