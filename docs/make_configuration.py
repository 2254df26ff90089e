"""Writes docs/configuration.md from the one definition of every option: python docs/make_configuration.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distilect import config
from distilect.experiments import config as experiments
from distilect.options import expected
from distilect.selection.methods import METHOD_PARTS

RUN_PARTS = (
    config.RunConfig,
    config.TaskConfig,
    config.DataConfig,
    config.AugmentConfig,
    config.TeacherConfig,
    config.FinetuneConfig,
    config.StudentConfig,
    config.LoraConfig,
    config.MethodConfig,
    config.StageConfig,
    config.TrainConfig,
    config.SearchConfig,
    config.SignalConfig,
    config.TokenSignalConfig,
    config.GenerationConfig,
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
TITLES = {
    "rows": "Row selectors",
    "teachers": "Teacher selectors",
    "loss_weights": "Loss weights",
    "knowledge": "Kinds of knowledge",
}


def page() -> str:
    """One table per part: key, what it may be, default, meaning."""
    lines = [
        "# Configuration",
        "",
        "Every key of a config file. `distilect run CONFIG key.sub=value` sets one for a run, `--dry-run` prints all of them.",
        "The parts of a method (selectors and kinds of knowledge) follow MethodConfig; `distilect methods NAME` prints those of one",
        "method. The parts from CompareConfig on are those of `distilect compare`.",
        "",
        "An editor completes and checks these keys: write `distilect schema run > run.schema.json` and put",
        "`# yaml-language-server: $schema=run.schema.json` into the first line of a config.",
        "",
        "`python docs/make_configuration.py` makes this page from the code.",
    ]
    for part in PARTS:
        lines += ["", f"## {part.__name__}", "", _summary(part), *_table(part)]
        if part is config.MethodConfig:
            lines += _method_parts()
    return "\n".join(lines) + "\n"


def _method_parts() -> list[str]:
    lines = []
    for key, classes in METHOD_PARTS.items():
        lines += ["", f"### {TITLES[key]}", "", f"`method.{key}`: what is given is merged with the preset's options."]
        for name, cls in classes.items():
            lines += ["", f"#### `{name}`", "", _summary(cls)]
            if cls.Options.model_fields:
                lines += _table(cls.Options)
    return lines


def _summary(cls: Any) -> str:
    """The first paragraph of a docstring."""
    return " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split())


def _table(part: type[config.Part]) -> list[str]:
    lines = ["", "| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in part.model_fields.items():
        default = "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
        cells = [f"`{name}`", _value(field), default, field.description or ""]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return lines


def _value(field: Any) -> str:
    if isinstance(field.annotation, type) and issubclass(field.annotation, config.Part):
        return field.annotation.__name__
    return expected(field.annotation, field.metadata)


def _default(value: Any) -> str:
    if isinstance(value, config.Part):
        return f"see {type(value).__name__}"
    return "none" if value is None else f"`{value!r}`"


if __name__ == "__main__":
    target = Path(__file__).parent / "configuration.md"
    target.write_text(page(), encoding="utf-8")
    print(target)
