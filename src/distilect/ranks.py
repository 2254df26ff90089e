"""Several processes of one job (`torchrun`, `accelerate launch`): this process's rank, and collectives.

All collectives are built on `gather`. Its messages are safetensors bytes, which carry names, shapes and types: no pickle is read, and
ranks need not agree on them beforehand. They go over the CPU (gloo), apart from the gradients.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import ParamSpec

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

P = ParamSpec("P")

_PATIENCE = timedelta(days=7)  # ranks may wait days for others that score; the launcher ends all if one dies


def start() -> None:
    """Join the other processes, if a launcher started several. Call it before anything that depends on the rank."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1 or dist.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "false").lower() not in ("1", "true"):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=_PATIENCE)
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is rank 0, which writes files and prints."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if world() > 1:
        gather({})


def on_main(work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call `work` on rank 0; all ranks wait until it is done."""
    if is_main():
        work(*args, **kwargs)
    barrier()


def gather(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors of every rank, in rank order, on the CPU. All ranks must call it; names and shapes may differ between them."""
    if world() == 1:
        return [dict(tensors)]
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    mine = torch.frombuffer(bytearray(save(plain)), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world())]
    dist.all_gather(sizes, torch.tensor([len(mine)]))
    longest = int(max(sizes))
    parts = [torch.empty(longest, dtype=torch.uint8) for _ in range(world())]
    dist.all_gather(parts, torch.nn.functional.pad(mine, (0, longest - len(mine))))
    return [load(part[: int(size)].numpy().tobytes()) for part, size in zip(parts, sizes, strict=True)]


def total(value: float) -> float:
    """The sum over all ranks."""
    if world() == 1:
        return value
    return float(sum(float(one["v"]) for one in gather({"v": torch.tensor(value, dtype=torch.float64)})))


def from_main(value: int) -> int:
    """Rank 0's value, on all ranks."""
    return value if world() == 1 else int(gather({"v": torch.tensor(value)})[0]["v"])


def any_of(flag: bool) -> bool:
    """Whether `flag` is true on any rank."""
    return total(float(flag)) > 0
