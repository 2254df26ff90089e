"""A student's outputs on dev, kept small: what paired tests between runs are computed from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distilect.data import Table
from distilect.errors import RunError

PREDICTIONS = "predictions.parquet"


def write_predictions(path: Path, table: Table, logits: NDArray[np.float32]) -> None:
    """Columns `id_high`, `id_low` (a row's identity), `label`, `output_0`, …; whole or not at all.

    Args:
        logits: float32 [N, C], in the task's label order.
    """
    columns: dict[str, Any] = {
        "id_high": table.ids[:, 0],
        "id_low": table.ids[:, 1],
        "label": np.asarray(table.labels),
    }
    columns |= {f"output_{c}": logits[:, c] for c in range(logits.shape[1])}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), temporary, compression="zstd")
    os.replace(temporary, path)


def read_predictions(path: Path) -> tuple[NDArray[np.uint64], NDArray[Any], NDArray[np.float32]]:
    """(ids uint64 [N, 2], labels [N], outputs float32 [N, C]) as they were written.

    Raises:
        RunError: no such file, or not one of these.
    """
    try:
        table = pq.read_table(path)
        ids = np.stack([table[name].to_numpy() for name in ("id_high", "id_low")], axis=1)
        outputs = [name for name in table.column_names if name.startswith("output_")]
        values = np.stack([table[name].to_numpy() for name in outputs], axis=1)
        return ids, table["label"].to_numpy(), values
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise RunError(f"cannot read predictions from {path}: {' '.join(str(error).split())[:120]}") from None
