"""The folder of a run: claimed before any work, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from distilect import ranks
from distilect.config import RunConfig, dump_config, load_config
from distilect.errors import ConfigError, RunError, why_unwritable
from distilect.files import atomic_write, locked
from distilect.models import Student, quiet
from distilect.pipeline.inputs import FOLDER as INPUTS
from distilect.progress import console
from distilect.selection import artefact, has_stages
from distilect.training import episodes_begun

SEARCH = "search"  # of the output folder: what searches found
STAGES = "stages"  # of a run's folder, while it is trained in stages
OVERWRITE = "overwrite=True (--overwrite on the command line)"


def plan_folders(config: RunConfig) -> list[tuple[Path, RunConfig]]:
    """(folder, config) for the method and for each baseline; repeated names get a number."""
    store = Path(config.signals.store).parts[0]
    plans, seen = [], {"teachers", INPUTS, SEARCH, store}
    if config.name in seen:
        raise ConfigError(f"name: {config.name!r} is kept for the folder of that name beside the runs: choose another")
    for number, method in enumerate((config.method, *config.baselines)):
        name = config.name if number == 0 else f"{config.name}-{method.name}"
        while name in seen:
            name = f"{name}-{number}"
        seen.add(name)
        single = config.model_copy(update={"name": name, "method": method, "baselines": []})
        plans.append((Path(config.output) / name, single))
    return plans


def check_free(folder: Path, config: RunConfig, overwrite: bool) -> None:
    """Refuse a folder that a run may not use; nothing in it is touched.

    It may be empty, hold an unfinished run of the same configuration, which goes on, a run with fewer epochs, which goes on too, or an
    earlier run that may be overwritten.

    Raises:
        RunError: it holds something else, or cannot be made.
    """
    recorded = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file, expected a folder for the run: choose another name or output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {why_unwritable(error)}; choose another output=") from None
    # A claim that was killed leaves the temporary file of its config.yaml.
    if all(path.name.startswith(".config.yaml.") for path in folder.iterdir()):
        return
    if not recorded.exists():
        raise RunError(f"output folder {folder} is not empty and holds no run: choose another name= or output=")
    if overwrite or fewer_epochs(folder, config) is not None:
        return
    if (folder / "metrics.json").exists():
        if has_stages(config.method) or config.budget:  # their lengths are divided anew, or planned
            raise RunError(f"output folder {folder} holds a finished run: use {OVERWRITE}, or another name=")
        raise RunError(
            f"output folder {folder} holds a finished run: give it more train.epochs to go on, use {OVERWRITE}, or another name="
        )
    # Only training is worth keeping: a run that stopped before it (at a missing file, say) may change its settings.
    if _begun(folder) and not _of_run(recorded, config):
        raise RunError(
            f"output folder {folder} holds an unfinished run with other settings: use {OVERWRITE}, or another name= "
            f"(to go on with it: distilect run {recorded})"
        )


def _of_run(recorded: Path, config: RunConfig) -> bool:
    """Whether a folder's config is this one, apart from how teachers behind an API are reached."""
    if recorded.read_text(encoding="utf-8") == dump_config(config):
        return True
    with contextlib.suppress(ConfigError):
        return _without_reach(load_config(recorded)) == _without_reach(config)
    return False


def _without_reach(config: RunConfig) -> RunConfig:
    """The server, the rate and the budget of a teacher change no answer: a run goes on with others."""
    reach = {"endpoint": "", "concurrency": 1, "call_budget": None, "token_budget": None, "key": ""}
    teachers = [teacher.model_copy(update=reach) if teacher.endpoint else teacher for teacher in config.teachers]
    return config.model_copy(update={"teachers": teachers})


def _begun(folder: Path) -> bool:
    """Whether anything was trained there."""
    stages = list((folder / STAGES).glob("*"))
    kept = [path for place in [folder, *stages] for path in (place / "checkpoints").glob("checkpoint-*")]
    finished = [path for stage in stages for path in stage.glob("stage.json")]
    learned = [*folder.glob(f"{artefact.FOLDER}*"), *(place for place in stages if episodes_begun(place))]
    return bool(kept or finished or learned) or episodes_begun(folder)


def fewer_epochs(folder: Path, config: RunConfig) -> float | None:
    """The epochs of the run in the folder, if it can go on to those of `config` and differs in nothing else; otherwise None."""
    recorded = folder / "config.yaml"
    if not config.train.resumable or not any((folder / "checkpoints").glob("checkpoint-*")) or not recorded.exists():
        return None
    with contextlib.suppress(ConfigError):
        earlier = load_config(recorded)
        longer = earlier.train.model_copy(update={"epochs": config.train.epochs})
        same = dump_config(earlier.model_copy(update={"train": longer})) == dump_config(config)
        return earlier.train.epochs if same and earlier.train.epochs < config.train.epochs else None
    return None


@contextmanager
def owned(folders: Sequence[Path]) -> Iterator[None]:
    """Hold these run folders against other commands; their lock files stand beside them.

    Raises:
        RunError: another process works in one of them, or nothing can be written there.
    """
    with ExitStack() as locks:
        for folder in folders if ranks.is_main() else ():
            busy = f"another process is working in {folder}: wait for it, or choose another name="
            locks.enter_context(locked(folder.parent / f".{folder.name}.lock", RunError, busy, wait=False))
        yield


def claim(folder: Path, config: RunConfig, overwrite: bool) -> None:
    """Take the folder, now that everything before training has worked; an earlier run is removed only here.

    Raises:
        RunError: see `check_free`; or it cannot be written.
    """
    check_free(folder, config, overwrite)
    try:
        if overwrite:
            # Emptied by way of another name: cut off half-way, it would be a folder of files without a run.
            old = folder.with_name(f".{folder.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
            folder.mkdir()
            shutil.rmtree(old, ignore_errors=True)
        elif (epochs := fewer_epochs(folder, config)) is not None:
            console.print(
                f"going on from {epochs:g} to {config.train.epochs:g} epochs: the learning rate continues on the schedule of the longer training"
            )
            (folder / "metrics.json").unlink(missing_ok=True)  # first: from here on it is an unfinished run
        atomic_write(folder / "config.yaml", dump_config(config))
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {why_unwritable(error)}; choose another output=") from None


def save_student(student: Student, folder: Path) -> None:
    """A plain Hugging Face checkpoint with its tokenizer, which names the length in tokens; whole or not at all."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    student.tokenizer.model_max_length = student.max_length
    # transformers saves the padding side that the tokenizer was loaded with
    student.tokenizer.init_kwargs["padding_side"] = student.tokenizer.padding_side
    with quiet():
        student.model.save_pretrained(temporary)
        student.tokenizer.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
