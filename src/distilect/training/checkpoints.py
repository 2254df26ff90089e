"""Which checkpoints can be trusted: each holds the hashes of its files, written last."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from distilect.files import atomic_write, file_digest

logger = logging.getLogger(__name__)

COMPLETE_FILE = "complete.json"  # written last: a checkpoint without it was cut short and is never read
_TRAINER_STATE = "trainer_state.json"


def finish_checkpoint(folder: Path, step: int) -> None:
    """Record the hash of every file, about a second per gigabyte: from now on the checkpoint counts."""
    found = {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    found.pop(COMPLETE_FILE, None)
    atomic_write(folder / COMPLETE_FILE, json.dumps({"step": step, "files": found}), sync=True)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; ones that were cut short or damaged are removed, those that need one of them too."""
    complete = []
    for checkpoint in folder.glob("checkpoint-*"):
        if is_complete(checkpoint):
            complete.append(checkpoint)
        else:
            shutil.rmtree(checkpoint, ignore_errors=True)
    names = {checkpoint.name for checkpoint in complete}
    for checkpoint in list(complete):
        best = _best_of(checkpoint)
        if best is not None and best not in names:
            logger.warning(
                "%s needs the weights of %s, which are damaged: training goes on without both", checkpoint, best
            )
            complete.remove(checkpoint)
            shutil.rmtree(checkpoint, ignore_errors=True)
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def is_complete(checkpoint: Path) -> bool:
    """Whether every file is as it was written."""
    try:
        files: dict[str, Any] = json.loads((checkpoint / COMPLETE_FILE).read_text(encoding="utf-8"))["files"]
        return bool(files) and all(file_digest(checkpoint / name) == expected for name, expected in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _best_of(checkpoint: Path) -> str | None:
    """The checkpoint whose weights it would end with."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        best = json.loads((checkpoint / _TRAINER_STATE).read_text(encoding="utf-8")).get("best_model_checkpoint")
        return Path(best).name if best else None
    return None
