"""One attempt each: a fault is put in, and what came of it is compared with the run that nothing happened to."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.harness import Ended, forked
from tests.faults.places import PLACES, Place, Scene

FULL = ("disk is full", "No space left")


class Trial:
    """Everything that happens at one place; the undisturbed run is made once."""

    def __init__(self, scene: Scene, place: Place, folder: Path) -> None:
        self.scene, self.place, self.folder = scene, place, folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.output = folder / "out"  # one path for all: a recorded config names it

    def work(self) -> Any:
        return self.place.work(self.scene.config(self.place, self.output))

    def run(self, **fault: Any) -> Ended:
        return forked(self.work, self.folder / "log", **fault)

    @cached_property
    def undisturbed(self) -> tuple[dict[str, str], float]:
        """What the job gives, and its processor time."""
        self.scene.start(self.place, self.output)
        ended = self.run()
        assert ended.code == 0, ended.said
        return self.place.result(self.output), ended.cpu

    def again(self) -> str:
        """Run to the end; "" where the result is that of the undisturbed run, else what is wrong."""
        ended = self.run()
        if ended.code != 0 and "holds a finished run" not in ended.said:  # the fault came too late to matter
            return f"the rerun failed: {ended.said.strip()[-300:]}"
        found, expected = self.place.result(self.output), self.undisturbed[0]
        wrong = [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]
        left = [str(p) for p in self.output.rglob("*.tmp") if not p.name.startswith(".")]
        if wrong:
            return f"differs after the rerun: {', '.join(wrong[:5])}"
        return f"left behind: {left}" if left and self.place.name != "score" else ""

    # ---- faults ----------------------------------------------------------------------------------------------------

    def kill(self, draw: random.Random) -> dict[str, Any]:
        """kill -9 at a random moment, sometimes twice in a row; then a rerun."""
        cpu = self.undisturbed[1]
        self.scene.start(self.place, self.output)
        moments = [round(draw.uniform(0.0, cpu), 3) for _ in range(draw.choice((1, 1, 2)))]
        codes = [self.run(at=moment).code for moment in moments]
        return {"moments": moments, "codes": codes, "wrong": self.again()}

    def preempt(self, draw: random.Random) -> dict[str, Any]:
        """SIGTERM at a random moment: an end within 10 s, by itself, and a rerun that goes on."""
        cpu = self.undisturbed[1]
        self.scene.start(self.place, self.output)
        moment = round(draw.uniform(0.0, cpu), 3)
        ended = self.run(at=moment, sign=signal.SIGTERM)
        wrong = "" if ended.code in (0, 143, -15) else f"ended with {ended.code}: {ended.said.strip()[-200:]}"
        slow = f"took {ended.cpu_after:.1f} s to end" if ended.cpu_after > 10 else ""
        saved = bool(list(self.output.rglob("complete.json")))
        return {
            "moments": [moment],
            "codes": [ended.code],
            "seconds": round(ended.after, 2),
            "cpu_seconds": round(ended.cpu_after, 2),
            "checkpoint": saved,
            "wrong": wrong or slow or self.again(),
        }

    def full_disk(self, draw: random.Random) -> dict[str, Any]:
        """A disk too small for the job: told in a line; with more room the rerun goes on to the same end."""
        self.undisturbed  # noqa: B018 - before the output is a disk of its own
        needed = _size(self.undisturbed_output) // 1024
        self.scene.start(self.place, self.output)
        room = _size(self.output) // 1024 + 64 + draw.randrange(max(1, needed - _size(self.output) // 1024))
        with small_disk(self.output, room) as resize:
            ended = self.run()
            told = "" if ended.code == 0 or "disk is full" in ended.said else f"said: {ended.said.strip()[-200:]}"
            resize(16 * needed + 4096)
            wrong = told or self.again()
        return {"kilobytes": room, "codes": [ended.code], "wrong": wrong}

    def read_only(self, draw: random.Random) -> dict[str, Any]:
        """An output that cannot be written: told in a line, before any work."""
        self.undisturbed  # noqa: B018
        self.scene.start(self.place, self.output)
        with small_disk(self.output, 64 * 1024) as remount:
            remount(None)
            ended = self.run()
            words = ("cannot write", "no permission", "Read-only")
            told = ended.code == 1 and any(word in ended.said for word in words)
            remount(64 * 1024)
            wrong = "" if told else f"ended with {ended.code}: {ended.said.strip()[-200:]}"
            return {"codes": [ended.code], "wrong": wrong or self.again()}

    def two_at_once(self, draw: random.Random) -> dict[str, Any]:
        """The same command twice at a time: the second waits or refuses, the result is that of one."""
        cpu = self.undisturbed[1]
        self.scene.start(self.place, self.output)
        found: list[Ended] = []
        first = threading.Thread(target=lambda: found.append(self.run()))
        first.start()
        threading.Event().wait(draw.uniform(0.0, cpu))
        second = forked(self.work, self.folder / "log-2")
        first.join()
        refused = "another process is working" in second.said or "holds a finished run" in second.said
        waited = second.code == 0
        fair = found[0].code == 0 or "another process is working" in found[0].said
        wrong = "" if fair and (refused or waited) else f"{found[0].said[-200:]} / {second.said[-200:]}"
        found_result = self.place.result(self.output)
        if not wrong and found_result != self.undisturbed[0]:
            wrong = "the result differs"
        return {"codes": [found[0].code, second.code], "wrong": wrong}

    @property
    def undisturbed_output(self) -> Path:
        """A copy of the finished output, for its size."""
        kept = self.folder / "finished"
        if not kept.exists():
            self.undisturbed  # noqa: B018
            self.scene.start(self.place, self.output)
            assert self.run().code == 0
            shutil.copytree(self.output, kept)
        return kept


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def can_mount(folder: Path) -> bool:
    """Whether this user may mount a small disk (root may)."""
    folder.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], capture_output=True).returncode:
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Any]:
    """`folder`, with its content, on a disk of that size; gives a function that sets another size, or read-only (None)."""
    kept = folder.with_name(folder.name + "-content")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)], check=True)

    def remount(size: int | None) -> None:
        how = "remount,ro" if size is None else f"remount,rw,size={size}k"
        subprocess.run(["mount", "-o", how, str(folder)], check=True)

    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        yield remount
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(kept, ignore_errors=True)


# ---- flipped bytes -------------------------------------------------------------------------------------------------


def flips(root: Path, pattern: str, count: int, draw: random.Random) -> Iterator[tuple[Path, int]]:
    """Flip one bit at so many random positions of the files, one after the other; each is mended before the next."""
    paths = [path for path in sorted(root.rglob(pattern)) if path.is_file() and path.stat().st_size]
    weights = [path.stat().st_size for path in paths]
    for _ in range(count):
        path = draw.choices(paths, weights=[w**0.5 for w in weights])[0]  # small files count too
        content = path.read_bytes()
        place = draw.randrange(len(content))
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        stat = path.stat()
        path.write_bytes(bytes(changed))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a disk forgets: nothing tells of it
        yield path, place
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def flipped_store(scene: Scene, folder: Path, count: int, draw: random.Random) -> dict[str, Any]:
    """Bytes of a store, opened at once and (as a large one is) through its index on disk."""
    from safetensors.numpy import load_file

    from distilect.errors import SignalError
    from distilect.signals import FieldStore, store

    place = PLACES["score"]
    output = folder / "flip-store"
    scene.start(place, output)
    ended = forked(lambda: place.work(scene.config(place, output)), folder / "log")
    assert ended.code == 0, ended.said
    field = next(output.rglob("logits"))
    before = FieldStore(field, [])
    before.refresh()
    ids = np.concatenate([load_file(path)["ids"] for path in field.glob("*.safetensors")])
    values = np.asarray(before.get(ids))
    tried = {"detected": 0, "harmless": 0, "wrong": 0}
    eager = store._SMALL
    try:
        for large in (False, True):
            store._SMALL = 0 if large else eager
            FieldStore(field, []).refresh()  # makes the index, while all is well
            for number in range(count // 2):
                chosen = "index-*.bin" if large and number % 2 else "*.safetensors"
                for path, _ in flips(field, chosen, 1, draw):
                    tried[_read_flipped(field, ids, values, SignalError)] += 1
                    damaged = path.with_name(path.name + ".damaged")
                    if damaged.exists():
                        os.replace(damaged, path)
                FieldStore(field, []).refresh()
    finally:
        store._SMALL = eager
    return {**tried, "positions": sum(tried.values())}


def _read_flipped(field: Path, ids: Any, values: Any, error: type[Exception]) -> str:
    from distilect.signals import FieldStore

    warnings: list[str] = []
    try:
        opened = FieldStore(field, warnings)
        opened.refresh()
        there = ~opened.lacks(ids)
        same = np.array_equal(np.asarray(opened.get(ids[there])), values[there])
    except error:
        return "detected"
    if not same:
        return "wrong"
    return "harmless" if there.all() and not warnings else "detected"


def flipped_checkpoint(scene: Scene, folder: Path, count: int, draw: random.Random) -> dict[str, Any]:
    """Bytes of a run's newest checkpoint, selectors' state included: taken for whole only where nothing differs."""
    from distilect.training.checkpoints import COMPLETE_FILE, is_complete

    place = PLACES["train rlkd"]
    output = folder / "flip-run"
    scene.start(place, output)
    ended = forked(lambda: place.work(scene.config(place, output)), folder / "log")
    assert ended.code == 0, ended.said
    checkpoint = next(output.rglob("checkpoint-*"))
    content = json.loads((checkpoint / COMPLETE_FILE).read_text(encoding="utf-8"))
    tried = {"detected": 0, "harmless": 0, "wrong": 0}
    for path, _ in flips(checkpoint, "*", count, draw):
        if not is_complete(checkpoint):
            tried["detected"] += 1
            continue
        now = json.loads((checkpoint / COMPLETE_FILE).read_text(encoding="utf-8"))
        tried["harmless" if path.name == COMPLETE_FILE and now["files"] == content["files"] else "wrong"] += 1
    return {**tried, "positions": sum(tried.values())}


def flipped_selector(scene: Scene, folder: Path, count: int, draw: random.Random) -> dict[str, Any]:
    """Bytes of a learned selection module: refused, or read as it was."""
    import torch

    from distilect.selection import artefact

    place = PLACES["train akskd"]
    output = folder / "flip-selector"
    scene.start(place, output)
    ended = forked(lambda: place.work(scene.config(place, output)), folder / "log")
    assert ended.code == 0, ended.said
    selector = output / "toy" / artefact.FOLDER
    about, tensors = artefact.read(selector)
    tried = {"detected": 0, "harmless": 0, "wrong": 0}
    for _ in flips(selector, "*", count, draw):
        try:
            now, found = artefact.read(selector)
        except ValueError:
            tried["detected"] += 1
            continue
        same = now == about and all(torch.equal(found[name], value) for name, value in tensors.items())
        tried["harmless" if same else "wrong"] += 1
    return {**tried, "positions": sum(tried.values())}
