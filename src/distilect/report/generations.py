"""What student and teachers wrote for some prompts, beside the true completions (`generations.jsonl`)."""

from __future__ import annotations

import json
from typing import Any

from distilect.evaluation import matches
from distilect.report.files import RunFiles, mapping
from distilect.report.shell import Cell, DataTable

_ROWS = 24  # that are shown
_PROMPT, _COMPLETION = 600, 1200  # characters


def generations(run: RunFiles) -> dict[str, Any] | None:
    """A table with a row per prompt, where a completion that matches the true one (by its final answer, where these are marked) begins with ✓;
    the mark of final answers; and of which models completions were cut.

    None where nothing was written, or the file is damaged.
    """
    try:
        text = (run.folder / "generations.jsonl").read_text(encoding="utf-8")
        lines = [mapping(json.loads(line)) for line in text.splitlines()[:_ROWS]]
    except (OSError, ValueError):
        return None
    models = [name for name in (lines[0] if lines else ()) if name.startswith("teacher/")]
    if not lines or "student" not in lines[0]:
        return None
    models.append("student")
    about = mapping(run.metrics.get("generation"))
    marker = str(about["answer_after"]) if about.get("answer_after") else None
    cut = mapping(about.get("unfinished"))
    titles = ["prompt", "true completion", *(name.replace("/", " ") for name in models)]
    body = [_cells(line, models, marker) for line in lines]
    return {
        "table": DataTable("generations", titles, body, wide=range(len(titles))),
        "marker": marker,
        "unfinished": ", ".join(f"{cut[name]} of {name.replace('/', ' ')}" for name in models if cut.get(name)),
    }


def _cells(line: dict[str, Any], models: list[str], marker: str | None) -> list[Cell]:
    prompt, true = str(line.get("prompt")), str(line.get("completion"))
    shown = prompt if len(prompt) <= _PROMPT else f"… {prompt[-_PROMPT:]}"
    found = [Cell(shown.strip()), Cell(_cut(true))]
    for name in models:
        said = str(line.get(name))
        right = matches(true, said, marker)
        found.append(Cell(f"✓ {_cut(said)}" if right else _cut(said), mark="good" if right else ""))
    return found


def _cut(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _COMPLETION else f"{text[: _COMPLETION - 1]}…"
