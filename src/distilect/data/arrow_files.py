"""Parquet files, `datasets` folders and hub data sets: Arrow tables that may carry names of classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distilect.data.source import Rows, Source, listed
from distilect.errors import DataError

VALIDATION = ("validation", "dev", "valid", "val", "validation_matched")
SPLITS = {"train": ("train",), "dev": VALIDATION}  # which split of a data set plays which role
BLOCK = 1 << 16  # rows that are read at a time


def parquet_file(path: Path) -> Source:
    """A Parquet file.

    Raises:
        DataError: the file is damaged or not Parquet.
    """
    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {_first_line(error)}") from None

    def tables(columns: list[str]) -> Iterator[pa.Table]:
        # pre_buffer, the default, would load the whole file and hold it until the end.
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=BLOCK, columns=columns):
                yield pa.Table.from_batches([batch])

    return _arrow_source(path.name, metadata.schema.to_arrow_schema(), tables, metadata.num_rows, (path,))


def datasets_folder(path: Path, role: str, split: str | None) -> Source:
    """A folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote; memory-mapped.

    Raises:
        DataError: the folder is damaged, or has no split for this role.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # a damaged file may raise anything from ArrowInvalid to KeyError
        raise DataError(f"{path} is damaged: {_first_line(error)}") from None
    if isinstance(loaded, dict):
        chosen = choose_split(list(loaded), role, split, str(path))
        return _from_datasets(f"{path.name}[{chosen}]", loaded[chosen])
    if split is not None:
        raise DataError(f"{path} has no splits: remove [{split}]")
    return _from_datasets(path.name, loaded)


def hub_dataset(name: str, config: str | None, role: str, split: str | None) -> Source:
    """A data set of the Hugging Face hub.

    Raises:
        DataError: the data set cannot be loaded from the hub.
    """
    import datasets

    try:
        chosen = choose_split(datasets.get_dataset_split_names(name, config), role, split, name)
        loaded = datasets.load_dataset(name, config, split=chosen)
    except DataError:
        raise
    except Exception as error:  # the hub client raises anything from ConnectionError to ValueError
        raise DataError(
            f"no file or folder {name!r}, and no data set of that name could be loaded from the hub: {_first_line(error)}"
        ) from None
    return _from_datasets(f"{name}[{chosen}]", loaded)


def is_datasets_folder(path: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def validation_split(path: Path) -> str | None:
    """The validation split of a `datasets` folder with several splits; None if there is none."""
    try:
        splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    except (OSError, ValueError, KeyError, TypeError):  # opening the folder reports the damage
        return None
    return next((split for split in VALIDATION if split in splits), None)


def choose_split(splits: Sequence[str], role: str, split: str | None, name: str) -> str:
    """The split named in `name[split]`, otherwise the usual one for the role, otherwise the only one."""
    if split is not None and split in splits:
        return split
    if split is None:
        for usual in SPLITS.get(role, ()):
            if usual in splits:
                return usual
        if len(splits) == 1:
            return splits[0]
    wanted = f"split {split!r}" if split else f"split that is clearly meant for {role!r}"
    raise DataError(f"{name} has no {wanted}; its splits: {listed(splits)}. Write it as {name}[SPLIT]")


def _from_datasets(label: str, dataset: Any) -> Source:
    def tables(columns: list[str]) -> Iterable[pa.Table]:
        return dataset.select_columns(columns).with_format("arrow").iter(BLOCK)  # type: ignore[no-any-return]

    files = tuple(Path(file["filename"]) for file in dataset.cache_files)
    return _arrow_source(label, dataset.features.arrow_schema, tables, len(dataset), files)


def _arrow_source(
    label: str,
    schema: pa.Schema,
    tables: Callable[[list[str]], Iterable[pa.Table]],
    num_rows: int,
    files: tuple[Path, ...],
) -> Source:
    class_names = _class_names(schema)

    def load(columns: Sequence[str], limit: int | None) -> Iterator[Rows]:
        start, stop = 0, num_rows if limit is None else min(limit, num_rows)
        try:
            for table in tables(list(columns)):
                table = table.slice(0, stop - start)
                if len(table):
                    yield Rows(table, label, np.arange(start, start + len(table)) + 1, class_names=class_names)
                start += len(table)
                if start >= stop:
                    return
                pa.default_memory_pool().release_unused()  # otherwise the pool keeps the memory of every block
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{label} cannot be read: {_first_line(error)}") from None

    return Source(label, list(schema.names), load, num_rows, files)


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """`ClassLabel` names of columns and of lists, which `datasets` keeps in the metadata of a schema."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        inner = {n: k[0] if isinstance(k, list) else k.get("feature", k) for n, k in features.items()}
        labels = {name: kind for name, kind in inner.items() if kind.get("_type") == "ClassLabel"}
        return {name: [str(label) for label in kind["names"]] for name, kind in labels.items() if kind["names"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
