"""`distilect trim`: a finished checkpoint with the tokens that some texts use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoModel, PreTrainedModel

from distilect.config import RunConfig, load_config
from distilect.data import Table, load_data
from distilect.errors import ConfigError, StudentError
from distilect.evaluation import bytes_on_disk, parameters
from distilect.models import Student, check_checkpoint, find_vocabulary, load_pretrained, resolve_path
from distilect.models.classifiers import load
from distilect.models.tokenizers import load_tokenizer, usable_length
from distilect.pipeline.folders import save_student
from distilect.pipeline.inputs import table_path
from distilect.pipeline.pretrain import all_texts
from distilect.pipeline.work import enlarged
from distilect.progress import console


def trim(
    model: str | Path,
    texts: Sequence[Any] = (),
    *,
    output: str | Path,
    size: int | None = None,
    text: Sequence[str] | None = None,
    data_dir: str | Path = ".",
) -> dict[str, Any]:
    """Write a checkpoint with a part of another one's vocabulary; on texts of these tokens its outputs are the same.

    Args:
        model: a classifier or an encoder: folder, hub id, or `package:…`; or the folder of a run, which means its student.
        texts: tables, as `train` of `distill`; none with a run: the texts that its student learned from.
        output: a new folder.
        size: so many tokens, the most frequent ones first; default: those that the texts use. Those without which a text could
            become unknown stay too.
        text: one or two text columns; default: inferred from their names.

    Returns:
        tokens, parameters and bytes, each before and after; needed: tokens that any text needs; changed: share of the texts' tokens
        that are cut into others; unknown: shares of them that are unknown, before and after; report: lines for the user.

    Raises:
        DistilectError: something cannot be read, or the model cannot be trimmed.
    """
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StudentError(f"{folder} exists already: choose another output folder")
    run = Path(model) if (Path(model) / "metrics.json").is_file() else None
    path = str(run / "student") if run else resolve_path(str(model))
    whole = _load(path)
    tables = _tables(texts, run, folder.parent, text, Path(data_dir))
    console.print(f"text: {sum(map(len, tables)):,} texts")
    vocabulary = find_vocabulary(whole.model, whole.tokenizer, tables, size, whole.max_length, path)
    trimmed = whole.with_vocabulary(vocabulary)
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_student(trimmed, folder)
    return {
        **vocabulary.summary,
        "tokens": [len(vocabulary.whole), len(vocabulary.kept)],
        "parameters": [parameters(each.model).total for each in (whole, trimmed)],
        "bytes": [bytes_on_disk(path), bytes_on_disk(folder)],
        "report": vocabulary.notes,
    }


def _load(path: str) -> Student:
    """A checkpoint as it is, whatever its head.

    Raises:
        StudentError: it cannot be loaded, or lacks weights.
    """
    check_checkpoint(path, StudentError)
    config = load_pretrained(AutoConfig, path, StudentError)
    name = str((config.architectures or ["none"])[0])
    loader = getattr(transformers, name, None)
    if not (isinstance(loader, type) and issubclass(loader, PreTrainedModel)):
        raise StudentError(f"{path}: its config.json names a class that transformers does not have: {name}")
    loaded = load(loader, path, StudentError, config)
    # an encoder that is named after its pre-training, whose head is gone
    if loaded.missing and loaded.model.get_output_embeddings() is not None:
        loaded = load(AutoModel, path, StudentError, config)
        name = type(loaded.model).__name__
    if loaded.missing or loaded.width is not None:
        lacking = ", ".join(loaded.missing[:2]) or "a head with as many outputs as its config names"
        raise StudentError(f"{path} lacks weights of a {name} ({lacking}): load it and save it whole first")
    tokenizer = load_tokenizer(path, StudentError)
    length = usable_length(None, tokenizer, None)
    return Student(loaded.model, tokenizer, length, {"init": path})


def _tables(
    texts: Sequence[Any], run: Path | None, folder: Path, text: Sequence[str] | None, data_dir: Path
) -> list[Table]:
    """The tables that were given, or those of the run."""
    if texts:
        files = [str(table_path(given, f"text-{number}", folder)) for number, given in enumerate(texts, start=1)]
        return [all_texts(files, text, data_dir)]
    if run is None or "task" not in json.loads((run / "metrics.json").read_text(encoding="utf-8")):  # of `pretrain`
        raise ConfigError("no text: give one table of texts or more, or the folder of a run with a task")
    config: RunConfig = load_config(run / "config.yaml")
    if config.task.kind == "causal-lm":
        raise ConfigError("a language model says every token of its own: its vocabulary is not trimmed")
    data = load_data(config.data, config.task, config.seed, Path(config.data_dir), str(run / "student"))
    if config.data.augment is not None:
        data = enlarged(data, config)
    return [data.train, *([data.extra] if data.extra is not None else [])]
