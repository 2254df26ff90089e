"""A method in stages: each is a method of its own with its training settings, and starts from the weights of the one before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distilect.config import MethodConfig, StageConfig, TrainConfig, parse_part
from distilect.errors import ConfigError, MethodError, did_you_mean
from distilect.knowledge import Layout
from distilect.selection.methods import get_preset

_NAME = re.compile(r"[\w+-]+")


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: of the stage; empty for a method without stages, which is a single one.
        extra: whether it is trained on `data.extra` too.
        share: of the run's length; 0 where the stage has one of its own.
    """

    name: str
    method: MethodConfig
    train: TrainConfig
    extra: bool = True
    share: float = 1.0


def has_stages(config: MethodConfig) -> bool:
    """Whether the method is a sequence of stages."""
    return config.stages is not None or get_preset(config.name).stages is not None


def likely_stages(config: MethodConfig, train: TrainConfig) -> list[Stage]:
    """The stages before any model is there: those for a teacher that gives everything. Finds what is misspelt.

    Raises:
        ConfigError, MethodError: as `stages_of`.
    """
    one: dict[str, Any] = {"teachers": ("any",), "teacher_layers": (1,), "teacher_widths": (1,)}
    return stages_of(config, train, Layout(False, 1, 1, **one, same_tokens=(True,), attention=(True,)))


def stages_of(config: MethodConfig, train: TrainConfig, layout: Layout, labelled: bool = True) -> list[Stage]:
    """The stages of a method for models of that layout, in order.

    A stage's method is merged with the one that has the stages. A stage without `share` has an equal part of what the others leave. Its
    `epochs` and `token_budget` are its share of the run's, unless it sets its own.

    Args:
        labelled: the validation split has labels of its own.

    Raises:
        ConfigError: a stage is not as `StageConfig` says, or the shares add up to more than 1.
        MethodError: no stage is left, or a part is set that belongs into a stage of the preset.
    """
    preset = get_preset(config.name)
    if not has_stages(config):
        return [Stage("", config, train)]
    own = config.model_dump(exclude_none=True, exclude={"stages"})
    if preset.stages is None:
        found = _merged({}, config.stages or {}, own)
    elif parts := own.keys() - {"name"}:
        key = sorted(parts)[0]
        raise MethodError(
            f"method {config.name!r} is a sequence of stages: set {key} in one of them, as method.stages.STAGE.method.{key}=…"
        )
    else:
        found = _merged(preset.stages(layout, labelled), config.stages or {}, {})
    if not found:
        raise MethodError(f"method {config.name!r}: no stage is left: name one as stages: {{outputs: {{method: kd}}}}")
    return [
        Stage(name, stage.method, _settings(name, stage, share, train), stage.data == "all", share)
        for (name, stage), share in zip(found.items(), _shares(found), strict=True)
    ]


def _merged(preset: Mapping[str, Any], given: Mapping[str, Any], method: Mapping[str, Any]) -> dict[str, StageConfig]:
    """The preset's stages with the config's changes in them; a stage that is new comes after them, and starts from `method`."""
    found: dict[str, Any] = {name: dict(stage) for name, stage in preset.items()}
    for name, changes in given.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"stages: got the name {name!r}, expected letters, digits, _, + and -: it becomes that of a folder"
            )
        if changes is False:
            if name not in found:
                raise MethodError(f"stages: there is no stage {name!r} to leave out.{did_you_mean(name, found)}")
            del found[name]
        elif isinstance(changes, Mapping):
            if not method and name not in found and "method" not in changes:
                raise MethodError(
                    f"stages: there is no stage {name!r} here ({', '.join(found)}): give it a method, or leave it out"
                )
            found[name] = _deep(found.get(name, {"method": method} if method else {}), changes)
        else:
            raise MethodError(
                f"stages: {name} is {changes!r}, expected its settings, such as {name}: {{method: kd}}, or {name}: false to leave it out"
            )
    parsed = {}
    for name, stage in found.items():
        try:
            parsed[name] = parse_part(StageConfig, stage)
        except ConfigError as error:
            raise ConfigError("\n".join(f"stages.{name}: {line}" for line in str(error).splitlines())) from None
        if has_stages(parsed[name].method):
            raise MethodError(
                f"stages.{name}: method {parsed[name].method.name!r} has stages: a stage has none of its own"
            )
    return parsed


def _deep(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with changes in it, mappings merged level by level. A method of another name replaces the stage's."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if key == "method":
            value = {"name": value} if isinstance(value, str) else value
            if isinstance(value, Mapping) and isinstance(old, Mapping):
                old = old if value.get("name", old.get("name")) == old.get("name") else None
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _deep(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _shares(stages: Mapping[str, StageConfig]) -> list[float]:
    """Each stage's share of the run's epochs and token budget; 0 for one with a length of its own."""
    shared = {
        name: stage.share for name, stage in stages.items() if not {"epochs", "token_budget"} & stage.train.keys()
    }
    given = sum(share or 0.0 for share in shared.values())
    equal = [name for name, share in shared.items() if share is None]
    if given > 1 + 1e-9 or (equal and given > 1 - 1e-9):
        raise ConfigError(
            f"stages: the shares add up to {given:g}"
            + (f" and leave nothing for {', '.join(equal)}: lower them" if equal else ", expected at most 1")
        )
    return [shared.get(name, 0.0) or ((1 - given) / len(equal) if name in equal else 0.0) for name in stages]


def _settings(name: str, stage: StageConfig, share: float, train: TrainConfig) -> TrainConfig:
    """The run's settings, cut to the stage's share, with its own in them."""
    values = train.model_dump()
    if share:
        values["epochs"] = train.epochs * share
        if train.token_budget is not None:
            values["token_budget"] = max(1, round(train.token_budget * share))
    elif "epochs" in stage.train:
        values["token_budget"] = None  # a length of its own, unless it is one in tokens
    try:
        return parse_part(TrainConfig, values | dict(stage.train))
    except ConfigError as error:
        raise ConfigError("\n".join(f"stages.{name}.train: {line}" for line in str(error).splitlines())) from None
