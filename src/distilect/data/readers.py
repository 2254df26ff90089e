"""Open what the user named: a file, by its suffix; several files; a `datasets` folder; or a hub id."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distilect.data.arrow_files import datasets_folder, hub_dataset, is_datasets_folder, parquet_file
from distilect.data.conll import WORD_SUFFIXES, conll_file
from distilect.data.decoding import COMPRESSED
from distilect.data.dialect import detect_dialect
from distilect.data.shards import folder_files, joined, matching_files, one_kind
from distilect.data.source import Source
from distilect.data.text_files import delimited_file, json_file
from distilect.errors import DataError, did_you_mean

DELIMITED = (".csv", ".tsv", ".txt")
JSON = (".jsonl", ".ndjson", ".json")
SUFFIXES = (".csv", ".tsv", *JSON, ".txt", ".parquet", *WORD_SUFFIXES)
_SPLIT = re.compile(r"(.+)\[([\w.-]+)\]")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def open_source(
    spec: str,
    data_dir: Path = Path("."),
    *,
    role: str = "train",
    delimiter: str | None = None,
    quoting: bool | None = None,
    name: str | None = None,
    words: bool = False,
) -> Source:
    """Open what `spec` names.

    Args:
        spec: a file (.csv .tsv .txt .jsonl .json .conll, also compressed; .parquet), a folder or pattern (`train-*.csv`) of such files,
            a `datasets` folder or a hub id; folders and hub ids also as `NAME[SPLIT]`. Relative paths start at `data_dir`.
        role: "train", "dev", "validation" or "extra": selects the split of a data set that has several.
        delimiter: between the fields of CSV, TSV and TXT files; None: detected.
        quoting: whether double quotes delimit such fields; None: CSV yes, TSV and TXT detected.
        name: hub config name.
        words: the rows are lists of words, so TSV and TXT files are in CoNLL's form.

    Raises:
        DataError: nothing is there, or it cannot be read.
    """
    path, base, split = locate(spec, data_dir)
    if path.is_dir():
        if is_datasets_folder(path):
            return datasets_folder(path, role, split)
        if (path / "train.tsv").is_file():
            raise DataError(f"{path} looks like a GLUE folder: give it as data.glue, not as data.{role}")
        files, ignored = folder_files(path, SUFFIXES, role, split)
        label = path.resolve().name
        return _open_files(files, f"{label}[{split}]" if split else label, delimiter, quoting, words, ignored)
    if path.is_file():
        return _open_files([path], path.name, delimiter, quoting, words)
    if path.exists():
        raise DataError(f"{path} is neither a file nor a folder")
    if files := matching_files(spec, data_dir):
        return _open_files(files, path.name, delimiter, quoting, words, "")
    if any(mark in spec for mark in "*?"):
        raise DataError(f"no file matches {path}. Relative paths start at data_dir")
    if path.suffix.lower() in (*SUFFIXES, *COMPRESSED) or not _HUB_ID.fullmatch(base):
        raise DataError(f"no file {path}.{_near(path)}")
    return hub_dataset(base, name, role, split)


def locate(spec: str, data_dir: Path) -> tuple[Path, str, str | None]:
    """(path, name without split, split) of `NAME` or `NAME[SPLIT]`."""
    path = data_dir / Path(spec).expanduser()
    match = _SPLIT.fullmatch(spec)
    if match is None or path.exists():
        return path, spec, None
    base = data_dir / Path(match[1]).expanduser()
    if not base.exists() and matching_files(spec, data_dir):  # `part-[0-9]` is a pattern
        return path, spec, None
    return base, match[1], match[2]


def _open_files(
    paths: Sequence[Path],
    label: str,
    delimiter: str | None,
    quoting: bool | None,
    words: bool,
    ignored: str | None = None,
) -> Source:
    """One table in one file or several.

    Args:
        ignored: words about files that are not read; None: `paths` is the one file that was named.
    """
    for path in paths:
        if not path.stat().st_size:
            raise DataError(f"{path} is empty: expected rows")
    suffix = one_kind(paths, label)
    notes: tuple[str, ...] = ()
    if suffix in WORD_SUFFIXES or (words and suffix in (".tsv", ".txt")):
        if quoting is not None:
            raise DataError(f"{label}: data.quoting is set, but CoNLL files have no quotes: remove it")
        sources = [conll_file(path, delimiter) for path in paths]
        notes = sources[0].notes
    elif suffix in DELIMITED:
        dialect = detect_dialect(paths, suffix, delimiter, quoting)
        sources = [delimited_file(path, dialect.delimiter, dialect.quoting) for path in paths]
        notes = dialect.notes
    elif suffix in JSON:
        sources = [json_file(path) for path in paths]
    elif suffix == ".parquet":
        sources = [_parquet(path) for path in paths]
    else:
        raise DataError(_unknown(paths[0]))
    if ignored is None:
        return replace(sources[0], notes=tuple(f"{label}: {note}" for note in notes))
    several = (
        f"{len(paths):,} files, {paths[0].name} to {paths[-1].name}" if len(paths) > 1 else f"1 file, {paths[0].name}"
    )
    return replace(
        joined(label, sources, same_columns=suffix not in JSON),
        notes=tuple(f"{label}: {note}" for note in (several + ignored, *notes)),
    )


def _parquet(path: Path) -> Source:
    if path.suffix.lower() in COMPRESSED:
        raise DataError(f"{path}: Parquet files are compressed inside and not read from archives: unpack it")
    return parquet_file(path)


def _unknown(path: Path) -> str:
    known = f"expected one of {' '.join(SUFFIXES)}, or a `datasets` folder"
    if path.suffix.lower() in COMPRESSED:
        return f"{path}: its name does not say what was compressed; {known}: rename it, such as {path.stem}.csv{path.suffix}"
    if path.suffix.lower() in (".xlsx", ".xls", ".ods"):
        return f"{path}: unknown kind of file; {known}. Save the sheet as CSV UTF-8"
    return f"{path}: unknown kind of file; {known}"


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist either; relative paths start at data_dir"
    return did_you_mean(path.name, (entry.name for entry in path.parent.iterdir()))
