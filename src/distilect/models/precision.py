"""In which numbers models run: fp32 weights, 16-bit arithmetic where the processor is built for it."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import torch

from distilect.config import Precision

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def default_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(precision: Precision | str, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """`auto` becomes bf16 where the device multiplies in it, fp32 elsewhere; anything else stays."""
    if precision != "auto":
        return precision  # type: ignore[return-value]
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bf16()
    return "bf16" if fast else "fp32"


def autocast(precision: Precision | str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast to `precision` on `device`; nothing for fp32."""
    resolved = resolve_precision(precision, device)
    if resolved == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[resolved])


def _cpu_has_bf16() -> bool:
    """avx512_bf16 or AMX. Without them bf16 is emulated, slower than fp32."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)
