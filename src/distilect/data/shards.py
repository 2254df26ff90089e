"""Tables in several files: which files of a folder or pattern belong together, and their rows as one source."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from distilect.data.arrow_files import choose_split
from distilect.data.decoding import suffix_of
from distilect.data.source import Rows, Source, listed
from distilect.errors import DataError

_SPLIT = re.compile(r"(train|validation|valid|val|dev|test)(?![a-z])", re.IGNORECASE)


def matching_files(pattern: str, data_dir: Path) -> list[Path]:
    """The files that match a pattern such as `data/train-*.parquet`, sorted by name; `**` also stands for folders in folders."""
    expanded = str(Path(pattern).expanduser())
    if not glob.has_magic(expanded):
        return []
    found = (data_dir / name for name in glob.glob(expanded, root_dir=data_dir, recursive=True))
    return sorted(path for path in found if path.is_file())


def folder_files(folder: Path, suffixes: Sequence[str], role: str, split: str | None) -> tuple[list[Path], str]:
    """The tables in a folder that belong to a role, sorted by name; and a line about the others.

    Where names begin with train, validation or test, only the files of the role's split are taken.

    Raises:
        DataError: no tables, or no split for this role.
    """
    entries = sorted(entry for entry in folder.iterdir() if entry.is_file() and entry.name[0] not in "._")
    tables = [entry for entry in entries if suffix_of(entry) in suffixes]
    if not tables:
        raise DataError(
            f"{folder} is a folder without tables ({' '.join(suffixes)}), and not one that `datasets` saved (save_to_disk): "
            "give a file, or a folder that holds some"
        )
    splits: dict[str, list[Path]] = {}
    for path in tables:
        found = _SPLIT.match(path.name)
        splits.setdefault(found[1].lower() if found else "", []).append(path)
    chosen = tables
    if split is not None or len(splits) > 1:
        chosen = splits[choose_split([name for name in splits if name], role, split, str(folder))]
    ignored = [entry.name for entry in entries if entry not in chosen]
    return chosen, f"; not read: {listed(ignored, 5)}" if ignored else ""


def one_kind(paths: Sequence[Path], label: str) -> str:
    """The kind of all files, as `suffix_of`.

    Raises:
        DataError: there are several, which may be the same rows in two formats.
    """
    kinds = {"".join(dict.fromkeys([suffix_of(path), path.suffix.lower()])): path for path in paths}
    if len(kinds) > 1:
        raise DataError(
            f"{label} holds files of different kinds ({listed(sorted(kinds))}), which may be the same rows twice. "
            f"Give a pattern for one of them, such as {next(iter(kinds.values())).parent}/*{next(iter(kinds))}"
        )
    return suffix_of(paths[0])


def joined(label: str, sources: Sequence[Source], *, same_columns: bool) -> Source:
    """The rows of several sources, one after the other.

    Args:
        same_columns: all must have the same columns; otherwise a column may be missing in some, as a key in JSON objects.

    Raises:
        DataError: they do not; while reading, if their `ClassLabel` names differ.
    """
    columns = list(dict.fromkeys(name for source in sources for name in source.columns))
    for source in sources if same_columns else ():
        if odd := set(sources[0].columns) ^ set(source.columns):
            raise DataError(
                f"{label}: {source.label} has other columns ({listed(source.columns)}) than {sources[0].label} "
                f"({listed(sources[0].columns)}): the difference is {listed(sorted(odd))}. Use files with the same columns"
            )

    def load(wanted: Sequence[str], limit: int | None) -> Iterator[Rows]:
        classes, left = None, limit
        for source in sources:
            for rows in source.load(wanted, left):
                found = {name: names for name, names in rows.class_names.items() if name in wanted}
                classes = found if classes is None else classes
                if found != classes:
                    raise DataError(f"{label}: {rows.label} numbers its classes in another way than {sources[0].label}")
                yield rows
                left = None if left is None else left - len(rows)
            if left == 0:
                return

    sizes = [source.num_rows for source in sources]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    files = tuple(file for source in sources for file in source.files)
    return Source(label, columns, load, total, files, words=sources[0].words)
