"""Faults put into scoring and training, and what came of them: docs/results/faults.json and faults.md.

    python -m benchmarks.faults --attempts 50 [--places score "train rlkd"] [--kinds kill preempt] [--folder /tmp/faults]

Resumable: attempts that stand in the result file are not made again. Each is seeded by its place, kind and number.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.common import made

RESULTS = Path(__file__).parents[1] / "docs" / "results"
KINDS = {
    "kill": "kill -9 at a random moment (one time in three again during the rerun)",
    "preempt": "SIGTERM at a random moment: ended by itself within 10 s",
    "full_disk": "disk full at a random size, then more room",
    "read_only": "output read-only",
    "two_at_once": "the same command twice at a time",
}
RARE = {"read_only": 2, "two_at_once": 5, "full_disk": 10}  # attempts at most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--attempts", type=int, default=50)
    parser.add_argument("--flips", type=int, default=500, help="positions over store, index and checkpoint")
    parser.add_argument("--places", nargs="*")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "distilect-faults")
    parser.add_argument("--output", type=Path, default=RESULTS / "faults.json")
    asked = parser.parse_args()
    os.environ.setdefault("DISTILECT_QUIET", "1")

    from tests.faults.attempts import Trial, can_mount, flipped_checkpoint, flipped_selector, flipped_store
    from tests.faults.harness import warm_up
    from tests.faults.places import PLACES, Scene

    warm_up()
    asked.folder.mkdir(parents=True, exist_ok=True)
    scene = Scene(asked.folder)
    found = load(asked.output)
    mounts = can_mount(asked.folder / "disk")
    for number, (name, place) in enumerate(PLACES.items()):
        if asked.places and name not in asked.places:
            continue
        trial = Trial(scene, place, asked.folder / f"trial-{number}")
        for kind in asked.kinds:
            if kind in ("full_disk", "read_only") and not mounts:
                continue
            for attempt in range(min(asked.attempts, RARE.get(kind, asked.attempts))):
                if any((r["place"], r["kind"], r["attempt"]) == (name, kind, attempt) for r in found["attempts"]):
                    continue
                draw = random.Random(f"{name} {kind} {attempt}")
                result = getattr(trial, kind)(draw)
                found["attempts"].append({"place": name, "kind": kind, "attempt": attempt, **result})
                write(found, asked.output)
                print(name, kind, attempt, result["wrong"] or "survived", flush=True)
    if asked.flips and not asked.places:
        kinds = {"store": flipped_store, "checkpoint": flipped_checkpoint, "selector": flipped_selector}
        for name, flipped in kinds.items():
            if found["flips"].get(name, {}).get("positions", 0) < asked.flips // 3:
                count = 2 * (asked.flips // 6 + 1)
                found["flips"][name] = flipped(scene, asked.folder, count, random.Random(name))
                write(found, asked.output)
    page(found, asked.output.with_suffix(".md"))


def load(path: Path) -> dict[str, Any]:
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    return {"command": "python -m benchmarks.faults", "attempts": [], "flips": {}}


def write(found: dict[str, Any], path: Path) -> None:
    found["made"] = made()
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def page(found: dict[str, Any], path: Path) -> None:
    """The table of attempts and survivals."""
    groups: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for result in found["attempts"]:
        groups[result["kind"], result["place"]].append(result)
    lines = [
        "# Faults: attempts and survivals",
        "",
        f"Made by `{found['command']}` (raw results, machine and versions in `{path.stem}.json`). An attempt is survived if",
        "the disturbed run ends as it should, and the same job, run again, ends with the same bytes as an undisturbed run: the store's shards, or a",
        "run's weights, history, selections and scores.",
        "",
        "| fault | place | attempts | survived | hit before the job ended |",
        "|---|---|---|---|---|",
    ]
    for (kind, place), results in sorted(groups.items(), key=lambda item: (list(KINDS).index(item[0][0]), item[0][1])):
        fine = sum(not result["wrong"] for result in results)
        hit = sum(any(code != 0 for code in result["codes"]) for result in results)
        lines.append(f"| {KINDS[kind]} | {place} | {len(results)} | {fine} | {hit} |")
    lines += ["", "| flipped bits in | positions | detected | harmless | wrong numbers |", "|---|---|---|---|---|"]
    for name, tried in found["flips"].items():
        lines.append(
            f"| {name} | {tried['positions']} | {tried['detected']} | {tried['harmless']} | {tried['wrong']} |"
        )
    failed = [result for result in found["attempts"] if result["wrong"]]
    lines += ["", *(f"- failed: {r['kind']} {r['place']} {r['attempt']}: {r['wrong']}" for r in failed)]
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
