"""Parquet files, `datasets` folders and hub data sets: arrow tables that may carry names of classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distilect.data.source import Rows, check_columns, listed
from distilect.errors import DataError

VALIDATION = ("validation", "dev", "valid", "val", "validation_matched")
_TOGETHER = 1 << 16  # rows that are streamed at a time
SPLITS = {"train": ("train",), "dev": VALIDATION}  # which split of a data set plays which role


class ArrowSource:
    """Columns of an arrow table that `load` reads when asked."""

    def __init__(
        self,
        label: str,
        schema: pa.Schema,
        load: Callable[[Sequence[str], int | None], pa.Table],
        class_names: dict[str, list[str]],
        stream: Callable[[Sequence[str]], Iterator[pa.RecordBatch]] | None = None,
        num_rows: int = 0,
    ) -> None:
        self.label = label
        self.columns = list(schema.names)
        self.num_rows = num_rows
        self._load, self._class_names, self._stream = load, class_names, stream

    def blocks(self, columns: Sequence[str]) -> Iterator[Rows] | None:
        """The rows some ten thousand at a time, without ever holding all of them; None where only `read` can."""
        if self._stream is None:
            return None
        check_columns(columns, self.columns, self.label)
        return self._blocks(columns, self._stream)

    def _blocks(
        self, columns: Sequence[str], stream: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
    ) -> Iterator[Rows]:
        start = 0
        try:
            for batch in stream(columns):
                if len(batch):
                    label = f"{self.label} (from row {start + 1:,})" if start else self.label
                    yield Rows(pa.Table.from_batches([batch]), label, class_names=self._class_names)
                    start += len(batch)
                    pa.default_memory_pool().release_unused()  # else it keeps what every block needed
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.label} cannot be read: {_first_line(error)}") from None

    def read(self, columns: Sequence[str], limit: int | None = None) -> Rows:
        check_columns(columns, self.columns, self.label)
        try:
            table = self._load(columns, limit)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.label} cannot be read: {_first_line(error)}") from None
        if not table.num_rows:
            raise DataError(f"{self.label} has columns but no rows")
        return Rows(table, self.label, class_names=self._class_names)


def _opened(path: Path) -> pq.ParquetFile:
    """For reading forward. Buffered ahead, as is the default, the whole file would come into memory and stay there to its end."""
    return pq.ParquetFile(path, pre_buffer=False)


def parquet_file(path: Path) -> ArrowSource:
    """A Parquet file.

    Raises:
        DataError: the file is damaged or no Parquet.
    """
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable Parquet file: {_first_line(error)}") from None

    def load(columns: Sequence[str], limit: int | None) -> pa.Table:
        if limit is None:
            return pq.read_table(path, columns=list(columns))
        batches: list[pa.RecordBatch] = []
        with _opened(path) as file:
            for batch in file.iter_batches(columns=list(columns)):
                batches.append(batch)
                if sum(map(len, batches)) >= limit:
                    break
        empty = pa.schema([schema.field(name) for name in columns]).empty_table()
        return pa.Table.from_batches(batches).slice(0, limit) if batches else empty

    def stream(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with _opened(path) as file:
            yield from file.iter_batches(batch_size=_TOGETHER, columns=list(columns))

    rows = pq.read_metadata(path).num_rows
    return ArrowSource(path.name, schema, load, _names_in_schema(schema), stream, rows)


def datasets_folder(path: Path, role: str, split: str | None) -> ArrowSource:
    """A folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote; read without `datasets`.

    Raises:
        DataError: no such folder, or no split for this role.
    """
    label = path.name
    if (path / "dataset_dict.json").is_file():
        splits = _json(path / "dataset_dict.json").get("splits", [])
        chosen = choose_split(splits, role, split, str(path))
        path, label = path / chosen, f"{label}[{chosen}]"
    elif split is not None:
        raise DataError(f"{path} has no splits: leave [{split}] away")
    state = _json(path / "state.json")
    files = [path / Path(entry["filename"]).name for entry in state.get("_data_files", [])]
    features = _json(path / "dataset_info.json").get("features") or {}
    try:
        parts = [_mapped(file) for file in files]
        table = pa.concat_tables(parts)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged: {_first_line(error)}") from None
    return _from_table(label, table, _names_in_features(features))


def hub_dataset(name: str, config: str | None, role: str, split: str | None) -> ArrowSource:
    """A data set of the Hugging Face hub, through the `datasets` package.

    Raises:
        DataError: `datasets` is missing, or the hub does not give the data set.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"no file or folder {name!r}. To load it from the hub install `datasets` (pip install datasets)"
        ) from None
    try:
        chosen = choose_split(datasets.get_dataset_split_names(name, config), role, split, name)
        loaded: Any = datasets.load_dataset(name, config, split=chosen)
        table = loaded.with_format("arrow")[:]
    except DataError:
        raise
    except Exception as error:  # the hub client raises anything from ConnectionError to ValueError
        raise DataError(
            f"no file or folder {name!r}, and the hub did not give a data set of that name: {_first_line(error)}"
        ) from None
    names = {key: list(kind.names) for key, kind in loaded.features.items() if hasattr(kind, "names")}
    return _from_table(f"{name}[{chosen}]", table, names)


def splits_of(path: Path) -> list[str]:
    """Split names of a `datasets` folder; [] for anything else."""
    file = path / "dataset_dict.json"
    return list(_json(file).get("splits", [])) if file.is_file() else []


def is_datasets_folder(path: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def choose_split(splits: Sequence[str], role: str, split: str | None, name: str) -> str:
    """The split that `name[split]` asks for, else the usual one for the role, else the only one."""
    if split is not None and split in splits:
        return split
    if split is None:
        for usual in SPLITS.get(role, ()):
            if usual in splits:
                return usual
        if len(splits) == 1:
            return splits[0]
    wanted = f"split {split!r}" if split else f"split that is surely meant for {role!r}"
    raise DataError(f"{name} has no {wanted}; its splits: {listed(splits)}. Write it as {name}[SPLIT]")


def _from_table(label: str, table: pa.Table, class_names: dict[str, list[str]]) -> ArrowSource:
    return ArrowSource(
        label,
        table.schema,
        lambda columns, limit: table.select(columns).slice(0, limit),
        class_names,
        lambda columns: iter(table.select(columns).to_batches(max_chunksize=_TOGETHER)),
        table.num_rows,
    )


def _mapped(file: Path) -> pa.Table:
    """A memory-mapped arrow stream: only the columns that are used come into memory."""
    return pa.ipc.open_stream(pa.memory_map(str(file))).read_all()


def _names_in_schema(schema: pa.Schema) -> dict[str, list[str]]:
    """`ClassLabel` names that `datasets` leaves in the metadata of Parquet files."""
    try:
        stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return _names_in_features(stored["info"]["features"])
    except (ValueError, KeyError, TypeError):
        return {}


def _names_in_features(features: Any) -> dict[str, list[str]]:
    labels = {
        key: kind for key, kind in features.items() if isinstance(kind, dict) and kind.get("_type") == "ClassLabel"
    }
    return {key: [str(name) for name in kind["names"]] for key, kind in labels.items() if kind.get("names")}


def _json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {_first_line(error)}") from None
    if not isinstance(values, dict):
        raise DataError(f"{file}: expected a JSON object")
    return values


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
