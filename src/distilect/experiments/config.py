"""The options of a comparison: tasks × scenarios × students × methods × seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from distilect.config import (
    DataConfig,
    Fraction,
    Grid,
    MethodConfig,
    Options,
    Part,
    SignalConfig,
    StudentConfig,
    TaskConfig,
    TeacherConfig,
    TrainConfig,
    from_strings,
    parse_part,
    read_yaml,
    with_backbone,
)
from distilect.errors import ConfigError


class LearnsConfig(Part):
    """Changes to the rows that a teacher is fine-tuned on."""

    part: int | None = Field(None, ge=0, description="number of the scenario's part that it is fine-tuned on")
    noise: Fraction = Field(
        0.0, description="share of its rows with a wrong label: another class, or in a regression the mirrored score"
    )
    types: list[str] | None = Field(
        None, description="of a task of named entities: the types that are annotated for it; all others are `O` there"
    )


class PoolTeacherConfig(TeacherConfig):
    """A teacher of the comparison's pool; fine-tuned once for all methods and seeds."""

    learns: LearnsConfig | None = Field(None, description="with `finetune`: on changed labels or a part of train")


class PartsConfig(Part):
    """How train is divided between specialists."""

    by: Literal["class", "cluster"] = Field(
        "cluster",
        description="class: labels dealt out in turn; cluster: k-means of the vectors of the student's pre-trained model",
    )
    count: int = Field(3, ge=2, description="parts")


Pool = Annotated[list[PoolTeacherConfig], BeforeValidator(lambda value: from_strings(value, "path"))]


class ScenarioConfig(Part):
    """What is done to the data and to the teachers. Draws depend on a seed and on a row's text only."""

    name: str = Field("ordinary", description="in results and tables", pattern=r"^[\w+-]+$")
    label_noise: Fraction = Field(
        0.0, description="share of the student's training labels that are wrong; drawn anew for each seed"
    )
    labelled: float = Field(
        1.0, gt=0.0, le=1.0, description="share of the rows whose label the student sees; the others stay as text"
    )
    parts: PartsConfig | None = Field(None, description="how train is divided for teachers with `learns.part`")
    teachers: Pool | None = Field(
        None, description="the pool of this scenario, in place of the task's or the comparison's"
    )


class ComparisonTaskConfig(Part):
    """One task of a comparison."""

    name: str = Field(description="in results and tables", pattern=r"^[\w+-]+$")
    data: DataConfig
    task: TaskConfig = TaskConfig()
    teachers: Pool | None = Field(None, description="its pool, in place of the comparison's")
    parts: PartsConfig | None = Field(None, description="how it is divided, in place of the scenario's `parts`")
    train: Options | None = Field(None, description="settings that replace the comparison's for this task")


class ComparedMethodConfig(MethodConfig):
    """One method of a comparison: a preset, or a mix of several presets' parts."""

    label: str | None = Field(
        None, description="its name in results and tables; a mix of several methods' parts gets `mix-` before it"
    )
    seeds: list[int] | None = Field(None, description="in place of the comparison's, for example more for contenders")
    tasks: list[str] | None = Field(None, description="only these tasks")
    train: Options | None = Field(None, description="settings that replace the task's for this method")
    tune: Grid | None = Field(
        None,
        description="settings to try, such as alpha: [0.2, 0.5, 0.9] or train.learning_rate: [1.0e-5, 5.0e-5]; the validation split "
        "chooses, with the first seed",
    )


class RayConfig(Part):
    """The Ray cluster of `engine: ray`; its nodes share a disk."""

    address: str | None = Field(
        None, description="HOST:PORT of its head; default: RAY_ADDRESS, else the cluster that runs on this machine"
    )
    gpus: float = Field(0.0, ge=0.0, description="of each worker; half a one lets two workers share it")


class CompareConfig(Part):
    """A whole comparison; `distilect compare FILE key=value …` reads this."""

    name: str = Field("comparison", description="of the comparison and its folder", pattern=r"^[\w+-]+$")
    note: str | None = Field(
        None, description="text at the head of its page, such as what is known to be wrong with its results"
    )
    output: str = Field("runs/compare", description="folder that holds teachers, signals and the comparison's folder")
    data_dir: str = Field(".", description="relative data paths start here")
    tasks: list[ComparisonTaskConfig] = Field(min_length=1)
    scenarios: list[ScenarioConfig] = Field(
        [], description="what is done to rows and teachers; default: nothing, called `ordinary`"
    )
    backbone: str | None = Field(
        None, description="pre-trained model: in the `init` of teachers and students the word `backbone` stands for it"
    )
    teachers: Pool = Field(default_factory=list)
    students: list[StudentConfig] = Field(min_length=1)
    methods: list[ComparedMethodConfig] = Field(min_length=1)
    seeds: list[int] = Field(
        [0, 1, 2], min_length=1, description="of data order, dropout and every draw of a student's training"
    )
    train: TrainConfig = TrainConfig()
    signals: SignalConfig = SignalConfig()
    equal_tokens: bool = Field(
        False,
        description="every method gets the student tokens of `epochs` over all rows; selectors' passes, stages and searches count",
    )
    baseline: str | None = Field(
        None, description="method that all others are tested against; default: `kd`, else the first"
    )
    contenders: list[str] = Field(
        default_factory=list,
        description="methods that are tested against each other, pair by pair, over all seeds that they have",
    )
    resamples: int = Field(2000, ge=100, description="of the rows of dev in each test")
    engine: str = Field(
        "local", description="what runs the trials: `local`, processes on this machine; `ray`, a Ray cluster"
    )
    ray: RayConfig = RayConfig()
    workers: int = Field(1, ge=1, description="trials that are run at once")
    threads: int | None = Field(
        None, ge=1, description="of each worker; default: 1 with several workers, else torch's choice"
    )

    _backbone = model_validator(mode="before")(staticmethod(with_backbone))

    @field_validator("name")
    @classmethod
    def _name_of_a_folder(cls, value: str) -> str:
        if value in (".", "..", "teachers", "signals", "locks"):
            raise ValueError("expected another name: this one is kept")
        return value

    @field_validator("scenarios")
    @classmethod
    def _ordinary(cls, value: list[ScenarioConfig]) -> list[ScenarioConfig]:
        return value or [ScenarioConfig()]

    @field_validator("methods", mode="before")
    @classmethod
    def _methods_from_strings(cls, value: Any) -> Any:
        return from_strings(value, "name")

    @field_validator("students", mode="before")
    @classmethod
    def _students_from_strings(cls, value: Any) -> Any:
        found = [value] if isinstance(value, str | dict) else value
        return from_strings(found, "init")

    @property
    def folder(self) -> Path:
        """The comparison's folder: results, locks, pages."""
        return Path(self.output) / self.name


def load_compare(path: str | Path, overrides: list[str] | None = None) -> CompareConfig:
    """Read the YAML file of a comparison and apply `key.sub=value` overrides.

    Raises:
        ConfigError: as `load_config`.
    """
    raw = read_yaml(path, overrides)
    if "tasks" not in raw and "data" in raw:
        raise ConfigError(
            f"{path} is the config of a run, not of a comparison: it has data: and no tasks:. Use: distilect run {path}"
        )
    return parse_part(CompareConfig, raw)
