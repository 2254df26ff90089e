"""What a model costs: parameters, bytes, time per row, floating-point operations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from distilect.data.encoding import encode
from distilect.data.table import Table
from distilect.evaluation.modes import eval_mode
from distilect.models.precision import autocast

Inputs = dict[str, Tensor]
_SHIPPED = (  # weights, config, tokenizer
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "modules.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "*.model"),
)


class Parameters(NamedTuple):
    """Counts of parameters; shared (tied) ones count once."""

    total: int
    without_embeddings: int


@dataclass(frozen=True)
class Speed:
    """Time of the forward pass alone; texts were tokenised before.

    `latency_ms_*` are over rows run one by one (the first batch size), `rows_per_second` is the median over
    batches of the second. On a shared machine only ratios between models measured together mean anything.
    """

    latency_ms_p50: float
    latency_ms_p95: float
    rows_per_second: float

    def to_dict(self) -> dict[str, Any]:
        """The shape that `metrics.json` holds: latency_ms {p50, p95} and rows_per_second."""
        latency = {"p50": round(self.latency_ms_p50, 4), "p95": round(self.latency_ms_p95, 4)}
        return {"latency_ms": latency, "rows_per_second": round(self.rows_per_second, 2)}


def parameters(model: nn.Module) -> Parameters:
    """Parameters in all, and without the tables of `nn.Embedding` (which cost memory but hardly any time)."""
    sizes = {id(p): p.numel() for p in model.parameters()}
    tables = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)}
    total = sum(sizes.values())
    return Parameters(total, total - sum(tables.values()))


def bytes_on_disk(folder: str | Path) -> int:
    """Size of what a checkpoint folder ships: weights, config and tokenizer; 0 without any of them."""
    root = Path(folder)
    files = {file for pattern in _SHIPPED for file in root.glob(pattern)}
    return sum(file.stat().st_size for file in files if file.is_file())


def flops_per_token(model: nn.Module, length: int = 128) -> float:
    """Floating-point operations of one forward pass per token of a row of `length` tokens; an estimate.

    2 per parameter outside the embeddings (multiplied, added), and 4 * hidden * length per layer for the two
    attention products. Pooler and head, which run once per row, are counted as if they ran on each token.
    """
    config: Any = getattr(model, "config", None)
    layers, hidden = _integer(config, "num_hidden_layers"), _integer(config, "hidden_size")
    # A config with `num_hidden_groups` (ALBERT) runs each group's parameters several times over.
    groups = _integer(config, "num_hidden_groups")
    repeats = layers / groups if groups else 1.0
    return 2.0 * repeats * parameters(model).without_embeddings + 4.0 * layers * hidden * length


def measure_speed(
    models: Mapping[str, tuple[nn.Module, Any, int]],
    texts: Sequence[tuple[str, ...]],
    *,
    precision: str = "fp32",
    repeats: int = 100,
    batch_sizes: tuple[int, int] = (1, 32),
) -> dict[str, Speed]:
    """Time all models on the same texts, round robin after a warm-up: a disturbance hits all of them alike.

    Args:
        models: name -> (model, tokenizer, maximum length in tokens)
        texts: rows of one or two strings; row r is used in round r, then they start over
        repeats: measured rounds with one row; the larger batches get an eighth of it, at least 3
    Raises:
        ValueError: there are no texts.
    """
    if not texts:
        raise ValueError("measure_speed needs at least one text")
    single, many = batch_sizes
    rows = _times(models, texts, single, repeats, precision)
    batches = _times(models, texts, many, max(3, repeats // 8), precision)
    return {
        name: Speed(
            latency_ms_p50=1000.0 * float(np.median(rows[name])) / single,
            latency_ms_p95=1000.0 * float(np.quantile(rows[name], 0.95)) / single,
            rows_per_second=many / float(np.median(batches[name])),
        )
        for name in models
    }


def ratio_to(value: float | None, reference: float | None) -> float | None:
    """`value / reference`, or None where one of them is unknown or the reference is 0."""
    if value is None or reference is None or not math.isfinite(value) or not math.isfinite(reference) or reference == 0:
        return None
    return value / reference


def take_turns(
    models: Mapping[str, tuple[Callable[[Inputs], Any], Sequence[Inputs]]], rounds: int
) -> dict[str, list[float]]:
    """Seconds per batch and model: `rounds` measured ones after two that are thrown away.

    All models run one batch in each round, and each goes first in turn: a disturbance hits all of them alike, and none always finds
    the caches cold.

    Args:
        models: name -> (runs one batch, its batches); after the last batch they start over
    """
    names = list(models)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(-2, rounds):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            run, batches = models[name]
            start = time.perf_counter()
            run(batches[max(index, 0) % len(batches)])
            if index >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _times(
    models: Mapping[str, tuple[nn.Module, Any, int]],
    texts: Sequence[tuple[str, ...]],
    batch_size: int,
    rounds: int,
    precision: str,
) -> dict[str, list[float]]:
    """Seconds per forward pass and model."""

    def runner(model: nn.Module) -> Callable[[Inputs], None]:
        device = next(model.parameters()).device

        def run(batch: Inputs) -> None:
            with autocast(precision, device):
                model(**batch)
            # Kernels are queued on a GPU: time without waiting would be the time of queueing.
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return run

    jobs = {name: (runner(m[0]), _tokenised(*m, texts, batch_size, rounds)) for name, m in models.items()}
    with eval_mode(*(model for model, _, _ in models.values())), torch.inference_mode():
        return take_turns(jobs, rounds)


def _tokenised(
    model: nn.Module, tokenizer: Any, max_length: int, texts: Sequence[tuple[str, ...]], batch_size: int, rounds: int
) -> list[dict[str, Tensor]]:
    """As many batches as there are rounds or different rows, each of `batch_size` rows, on its device."""
    device = next(model.parameters()).device
    count = min(rounds, math.ceil(len(texts) / batch_size))
    rows = np.arange(count * batch_size) % len(texts)
    table = Table.from_texts([row[0] if len(row) == 1 else (row[0], row[1]) for row in texts[: len(rows)]])
    encoded = encode(table, tokenizer, max_length)
    return [
        {key: value.to(device) for key, value in encoded.collate(batch).items()}
        for batch in rows.reshape(count, batch_size)
    ]


def _integer(config: Any, name: str) -> int:
    value = getattr(config, name, None)
    return int(value) if isinstance(value, int) else 0
