"""Objects of a notebook as files of a run: tables and models that are given to `distill` in place of paths.

They are written once into `OUTPUT/inputs`, named by their content, so that the run's `config.yaml` reads them again like any file and
a repeated call goes on with the same ones.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distilect.errors import ConfigError, DataError, StudentError, TeacherError
from distilect.files import file_digest
from distilect.models import checkpoint_depth, checkpoint_fingerprint, parse_spec, quiet, resolve_path
from distilect.models.tokenizers import load_tokenizer

FOLDER = "inputs"


def table_path(given: Any, role: str, output: Path) -> str | None:
    """A table as the config names it.

    Args:
        given: a path, a hub id, a pandas `DataFrame`, a `datasets.Dataset`, an Arrow table, or None.
        role: `train`, `dev`, …; the name of the argument, for messages.

    Raises:
        DataError: it is something else, or its columns have no Arrow type.
    """
    if given is None or isinstance(given, str | os.PathLike):
        return None if given is None else os.fspath(given)
    table = _arrow(given, role)
    folder = output / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
        file = Path(temporary) / "table.parquet"
        pq.write_table(table, file)
        final = folder / f"{role}-{file_digest(file)[:12]}.parquet"
        os.replace(file, final)
    return str(final.resolve())


def _arrow(given: Any, role: str) -> pa.Table:
    kind = f"{type(given).__module__.partition('.')[0]}.{type(given).__name__}"
    try:
        if isinstance(given, pa.Table):
            return given
        if kind == "pandas.DataFrame":
            return pa.Table.from_pandas(given, preserve_index=False)
        if kind == "datasets.Dataset":  # its schema's metadata hold the names of classes
            table = given.with_format("arrow")[:]
            return table.replace_schema_metadata(given.features.arrow_schema.metadata)
    except (pa.ArrowException, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{role}: this {kind} cannot be written as a table: {reason}") from None
    if isinstance(given, Mapping):
        raise DataError(f"{role}: got a {kind} of {', '.join(map(str, list(given)[:5]))}: give one of its parts")
    raise DataError(f"{role}: got a {kind}, expected a path, a pandas DataFrame or a datasets.Dataset")


def is_model(given: Any) -> bool:
    """Whether this is a transformers model, a pair of a model and its tokenizer, or an object that has both (a pipeline)."""
    return _model_of(given)[0] is not None


def checkpoint_path(given: Any, output: Path) -> tuple[str, str]:
    """A model as a checkpoint in `OUTPUT/inputs`; (its name, its folder).

    Args:
        given: see `is_model`. The tokenizer of a model alone is that of the checkpoint which it was loaded from.

    Raises:
        TeacherError: it is no sequence classifier, or its tokenizer cannot be found.
    """
    model, tokenizer = _model_of(given)
    if "ForSequenceClassification" not in type(model).__name__:
        raise TeacherError(f"got a {type(model).__name__}, expected a model or a pipeline for text classification")
    source = str(getattr(model, "name_or_path", "") or "")
    name = Path(source).name or type(model).__name__.lower()
    if tokenizer is None:
        tokenizer = _tokenizer_of(name, source)
    folder = output / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary, quiet():
        saved = Path(temporary) / "model"
        model.save_pretrained(saved)
        tokenizer.save_pretrained(saved)
        final = folder / f"{name}-{checkpoint_fingerprint(str(saved))[:12]}"
        if not final.exists():
            shutil.move(saved, final)
    return name, str(final.resolve())


def student_name(given: Any, output: Path) -> str:
    """A student as the config names it: its description, or the folder of a model object."""
    if isinstance(given, str | os.PathLike):
        return os.fspath(given)
    if not is_model(given):
        raise StudentError(f"student: got a {type(given).__name__}, expected a path, a teacher's name or a model")
    return checkpoint_path(given, output)[1]


def smaller(teachers: Sequence[Mapping[str, Any]], layers: int | None) -> str:
    """A student of some layers of the first teacher that is a checkpoint, half of them where `layers` is None.

    Raises:
        ConfigError: no teacher has layers that a student could take.
    """
    for teacher in teachers:
        path = teacher.get("path")
        if path is None and isinstance(teacher.get("finetune"), Mapping):
            path = parse_spec(str(teacher["finetune"]["init"]))[0]
        if path is not None:
            depth = checkpoint_depth(resolve_path(str(path)))
            name = teacher.get("name") if "finetune" in teacher else teacher["path"]
            return f"{name}[layers={layers or max(1, depth // 2)}]"
    raise ConfigError(
        "no student is given, and no teacher is a checkpoint whose layers it could take: set student to a checkpoint"
    )


def teacher_settings(given: Any, output: Path) -> dict[str, Any]:
    """A teacher as `TeacherConfig` takes it: from a path, a mapping, a model, or a pipeline."""
    if isinstance(given, str | os.PathLike):
        return {"path": os.fspath(given)}
    if is_model(given):
        name, path = checkpoint_path(given, output)
        return {"name": name, "path": path}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"teachers: got a {type(given).__name__}, expected a path, a mapping, a model, a pipeline or a function"
        )
    source = given.get("path")
    return {**given, **({"path": teacher_settings(source, output)["path"]} if source is not None else {})}


def _model_of(given: Any) -> tuple[Any, Any]:
    """(model, tokenizer), either None where there is none.

    Raises:
        TeacherError: it is a PEFT model, which saves its adapter alone.
    """
    from transformers import PreTrainedModel

    if isinstance(given, PreTrainedModel):
        return given, None
    if hasattr(given, "merge_and_unload"):
        raise TeacherError(
            f"got a {type(given).__name__}: give the whole model with its tokenizer, (model.merge_and_unload(), tokenizer)"
        )
    pair = given if isinstance(given, tuple) and len(given) == 2 else (getattr(given, "model", None), None)
    model, tokenizer = pair[0], pair[1] or getattr(given, "tokenizer", None)
    return (model, tokenizer) if isinstance(model, PreTrainedModel) and tokenizer is not None else (None, None)


def _tokenizer_of(name: str, source: str) -> Any:
    remedy = f"give the two as a pair, (model, tokenizer), for {name}"
    if not source:
        raise TeacherError(f"a model that was not loaded from a checkpoint has no tokenizer: {remedy}")
    try:
        return load_tokenizer(resolve_path(source), TeacherError)
    except TeacherError as error:
        raise TeacherError(f"{error}; {remedy}") from None
