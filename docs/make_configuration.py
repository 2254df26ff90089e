"""Writes docs/configuration.md from the one definition of the configuration: python docs/make_configuration.py"""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any

from distilect import config
from distilect.experiments import config as experiments

RUN_PARTS = (
    config.RunConfig,
    config.TaskConfig,
    config.DataConfig,
    config.AugmentConfig,
    config.TeacherConfig,
    config.FinetuneConfig,
    config.StudentConfig,
    config.MethodConfig,
    config.TrainConfig,
    config.SignalConfig,
)
COMPARISON_PARTS = (
    experiments.CompareConfig,
    experiments.ComparisonTaskConfig,
    experiments.ComparedMethodConfig,
    experiments.PoolTeacherConfig,
    experiments.LearnsConfig,
    experiments.ScenarioConfig,
    experiments.PartsConfig,
    experiments.RayConfig,
)
PARTS = RUN_PARTS + COMPARISON_PARTS


def page() -> str:
    """One table per part: key, type, default, meaning."""
    lines = [
        "# Configuration",
        "",
        "Every key of a config file. `distilect run CONFIG key.sub=value` sets one for a run, `--dry-run` prints all of them.",
        "The parts from CompareConfig on are those of `distilect compare`.",
        "Made by `python docs/make_configuration.py` from `src/distilect/config.py` and `src/distilect/experiments/config.py`.",
    ]
    for part in PARTS:
        lines += ["", f"## {part.__name__}", "", (part.__doc__ or "").split("\n")[0], ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        for name, field in part.model_fields.items():
            default = "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
            meaning = (field.description or "").replace("|", "\\|")
            lines.append(f"| `{name}` | {_type(field.annotation)} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    if isinstance(value, config.Part):
        return f"see {type(value).__name__}"
    return "none" if value is None else f"`{value!r}`"


def _type(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
    text = re.sub(r"typing\.|distilect\.(experiments\.)?config\.", "", text)
    text = re.sub(r"Annotated\[(\w+), .*?\)\]", r"\1", text).replace("NoneType", "None")
    return text.replace("|", "\\|")


if __name__ == "__main__":
    target = Path(__file__).parent / "configuration.md"
    target.write_text(page(), encoding="utf-8")
    print(target)
