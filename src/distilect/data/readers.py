"""Open what the user named: a file, by its suffix; a `datasets` folder; or a hub id."""

from __future__ import annotations

import re
from pathlib import Path

from distilect.data.arrow_files import datasets_folder, hub_dataset, is_datasets_folder, parquet_file
from distilect.data.source import Source
from distilect.data.text_files import csv_delimiter, delimited_file, detect_quoting, json_lines
from distilect.errors import DataError, did_you_mean

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_SPLIT = re.compile(r"(.+)\[([\w.-]+)\]")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def open_source(
    spec: str, data_dir: Path = Path("."), *, role: str = "train", quoting: bool | None = None, name: str | None = None
) -> Source:
    """Open what `spec` names.

    Args:
        spec: a file (.csv .tsv .jsonl .parquet), a `datasets` folder or a hub id, the last two also as `NAME[SPLIT]`;
            relative paths start at `data_dir`.
        role: "train", "dev", "validation" or "extra": selects the split of a data set that has several.
        quoting: whether double quotes delimit CSV/TSV fields; None: CSV yes, TSV detected.
        name: hub config name.

    Raises:
        DataError: nothing is there, or it cannot be read.
    """
    path, base, split = locate(spec, data_dir)
    if path.is_dir():
        if is_datasets_folder(path):
            return datasets_folder(path, role, split)
        if (path / "train.tsv").is_file():
            raise DataError(f"{path} looks like a GLUE folder: give it as data.glue, not as data.{role}")
        raise DataError(f"{path} is a folder, but not one that `datasets` saved (save_to_disk): give a file in it")
    if path.is_file():
        return _open_file(path, quoting)
    if path.exists():
        raise DataError(f"{path} is neither a file nor a folder")
    if path.suffix.lower() in SUFFIXES or not _HUB_ID.fullmatch(base):
        raise DataError(f"no file {path}.{_near(path)}")
    return hub_dataset(base, name, role, split)


def locate(spec: str, data_dir: Path) -> tuple[Path, str, str | None]:
    """(path, name without split, split) of `NAME` or `NAME[SPLIT]`."""
    path = data_dir / Path(spec).expanduser()
    match = _SPLIT.fullmatch(spec)
    if match is None or path.exists():
        return path, spec, None
    return data_dir / Path(match[1]).expanduser(), match[1], match[2]


def _open_file(path: Path, quoting: bool | None) -> Source:
    if not path.stat().st_size:
        raise DataError(f"{path} is empty: expected rows")
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return delimited_file(path, csv_delimiter(path), quoting is not False)
    if suffix == ".tsv":
        return delimited_file(path, "\t", detect_quoting(path) if quoting is None else quoting)
    if suffix in (".jsonl", ".ndjson", ".json"):
        return json_lines(path)
    if suffix == ".parquet":
        return parquet_file(path)
    raise DataError(f"{path}: unknown kind of file; expected one of {' '.join(SUFFIXES)}, or a `datasets` folder")


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist either; relative paths start at data_dir"
    return did_you_mean(path.name, (entry.name for entry in path.parent.iterdir()))
