"""A table larger than memory, from its file into mapped ones: read forward once, some ten thousand rows at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distilect import ranks
from distilect.config import DataConfig
from distilect.data.columns import Columns
from distilect.data.on_disk import TableWriter, is_whole, open_table, whole_folder
from distilect.data.source import Rows, Source
from distilect.data.splits import validation_by_draw
from distilect.data.table import Table
from distilect.errors import DataError
from distilect.progress import track

_FORMAT = 1


def streamed_tables(
    source: Source, columns: Columns, config: DataConfig, seed: int, as_table: Callable[[Rows], Table]
) -> tuple[Table, Table]:
    """Train and the rows held out of it, mapped; made once for a file and its settings, by rank 0.

    Raises:
        DataError: the source cannot be streamed, or a row does not fit.
    """
    assert config.cache is not None and columns.label is not None
    names = [*columns.texts, columns.label]
    rows = int(getattr(source, "num_rows", 0))
    blocks = source.blocks(names) if hasattr(source, "blocks") else None
    if blocks is None:
        raise DataError(
            f"{source.label} cannot be streamed: expected Parquet or a `datasets` folder with data.cache, or leave that away"
        )
    folder = Path(config.cache) / _key(source, columns, config, rows, seed)
    if ranks.is_main() and not is_whole(folder / "train"):
        share = 0.0 if config.validation is not None else _share(config.validation_size, rows)
        limit = config.max_train_rows or rows
        with whole_folder(folder) as work:
            writers: list[TableWriter] = []
            done = 0
            for block in track(blocks, f"reading {source.label}", total=-(-rows // (1 << 16))):
                table = as_table(block)
                table = table.take(np.arange(limit - done)) if done + len(table) > limit else table
                writers = writers or [
                    TableWriter(work / name, table.num_texts, table.labels.dtype.kind == "f")
                    for name in ("held", "train")
                ]
                held = validation_by_draw(table.ids, share, seed)
                writers[0].add(table.take(np.flatnonzero(held)))
                writers[1].add(table.take(np.flatnonzero(~held)))
                done += len(table)
                if done >= limit:
                    break
            if not done:
                raise DataError(f"{source.label} has columns but no rows")
            for writer in writers:  # train last: its file says that both are whole
                writer.finish()
    ranks.barrier()
    return open_table(folder / "train"), open_table(folder / "held")


def _share(size: float, rows: int) -> float:
    return size if size < 1 else min(1.0, size / max(1, rows))


def _key(source: Source, columns: Columns, config: DataConfig, rows: int, seed: int) -> str:
    """A folder's name by all that its content depends on."""
    file = Path(config.train or "")
    stat = file.stat() if file.is_file() else None
    what: dict[str, Any] = {
        "format": _FORMAT,
        "train": str(file.resolve()),
        "rows": rows,
        "texts": columns.texts,
        "label": columns.label,
        "size": stat.st_size if stat else None,
        "time": stat.st_mtime_ns if stat else None,
        "seed": seed,
        "limit": config.max_train_rows,
        "validation": config.validation,
        "validation_size": config.validation_size,
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
    return f"{Path(source.label).stem}-{digest}"
