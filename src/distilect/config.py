"""The configuration, defined once: YAML files, command-line overrides, documentation and errors come from these models.

A field's description is its documentation. An unknown key is an error that names the nearest known key.
"""

from __future__ import annotations

import difflib
import os
import re
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from distilect.errors import ConfigError

_UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|sec|s)", re.IGNORECASE)

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
if typing.TYPE_CHECKING:
    Options = dict[str, Any]
    Grid = dict[str, list[Any]]
else:
    Grid = dict[str, list[JsonValue]]
    Options = dict[str, JsonValue]  # plain values only, so that a written config reads back as the same run


class Part(BaseModel):
    """Base of all parts of the configuration: frozen; unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, coerce_numbers_to_str=True
    )


class TaskConfig(Part):
    """The task. Everything can be inferred from the training table."""

    kind: Literal["auto", "classification", "regression", "multi-label", "tokens", "causal-lm"] = Field(
        "auto",
        description="auto: inferred from the labels; multi-label: a row has any number of them, as lists, as texts with "
        "`data.label_delimiter`, or in a column per label; tokens: each word has a tag (named entities, part of speech); causal-lm: a "
        "language model continues prompts (columns prompt and completion, or messages) or plain text; never inferred",
    )
    labels: list[str] | None = Field(
        None,
        description="label names in the order of the student's outputs; default: those of train, sorted; of entity tags O first, then "
        "all tags of each type",
    )
    metrics: list[str] | None = Field(
        None,
        description="the first one chooses checkpoints. Classification: accuracy, macro_f1, weighted_f1, matthews, and of one class, "
        "as `f1(spam)`, f1, precision, recall, auc, average_precision. Regression: pearson, spearman, neg_mse. Multi-label: micro_f1, macro_f1, map, "
        "subset_accuracy. Tokens: entity_f1, entity_precision, entity_recall, each also of one type, as `entity_f1(person)`, macro_entity_f1, "
        "accuracy, macro_f1, weighted_f1, matthews. Causal-lm: accuracy (of tokens), perplexity, which cannot be the first. Default: "
        "inferred; two "
        "classes have accuracy and f1, and macro_f1 where one class has more than twice the rows of the other",
    )
    positive: str | None = Field(
        None,
        description="the class that f1, precision, recall, auc and average_precision are of; default: of two, the second",
    )


class AugmentConfig(Part):
    """Changed copies of the rows of train, added to `extra`; the teachers label them. Words that are tagged as entities stay as they are."""

    times: int = Field(20, ge=1, description="copies per row; a copy that equals a row or another copy is left out")
    method: Literal["neighbours", "mlm"] = Field(
        "neighbours",
        description="words are replaced by similar ones (neighbours), or filled in by a masked language model (mlm)",
    )
    seed: int = Field(0, description="seed of every draw")
    model: str | None = Field(None, description="checkpoint that proposes the words; default: the student's backbone")
    labels: bool = Field(False, description="copies keep their row's label")


class DataConfig(Part):
    """The rows."""

    train: str | None = Field(
        None,
        description="file (.csv .tsv .txt .jsonl .json .parquet .conll), folder or pattern of such files, `datasets` folder or hub id",
    )
    dev: str | None = Field(None, description="labelled file that scores are reported on; no choice uses it")
    glue: str | None = Field(
        None, description="folder of a GLUE task in the official TSV form; sets train, dev and the columns"
    )
    extra: str | None = Field(
        None, description="file of unlabelled rows; on them the student learns from the teachers' outputs only"
    )
    validation: str | None = Field(
        None, description="labelled file for rewards, early stopping and checkpoint choice; default: a part of train"
    )
    validation_size: float = Field(
        0.1,
        ge=0.0,
        description="share (below 1) or number (from 1) of the rows of train that become the validation split; ignored with `validation`",
    )
    text: str | list[str] | None = Field(
        None,
        description="one or two text columns; default: inferred from their names. Of words: a column of lists, in CoNLL files a number from 0. "
        "Of causal-lm: two columns, the prompt and its completion; or one of messages (lists of role and content), or of plain text",
    )
    label: str | list[str] | None = Field(
        None,
        description="label column; default: inferred from its name. Several columns: multi-label, a column of 0 and 1 for each label. In "
        "CoNLL files a number from 0, or from the end (-1); default: the last",
    )
    label_delimiter: str | None = Field(
        None,
        description="what stands between two labels in the label column, `\\t` for a tab: multi-label; an empty field has none",
    )
    delimiter: str | None = Field(
        None, description="character between the fields of CSV, TSV and TXT files, `\\t` for a tab; default: detected"
    )
    quoting: bool | None = Field(
        None,
        description="whether double quotes delimit the fields of such files; default: yes for CSV, detected for TSV and TXT",
    )
    max_train_rows: int | None = Field(None, ge=1, description="use only the first rows of train")
    name: str | None = Field(None, description="configuration name on the hub, if train is a hub id")
    cache: str | None = Field(
        None, description="folder for memory-mapped files, for a train table larger than memory (Parquet or `datasets`)"
    )
    augment: AugmentConfig | None = Field(None, description="adds changed copies of the rows of train")

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        value = "\t" if value == "\\t" else value
        if value is not None and (len(value) != 1 or value in '"\r\n'):
            raise ValueError("expected one character other than a quote or a line end, in quotes such as '|' or '\\t'")
        return value

    @field_validator("label_delimiter")
    @classmethod
    def _signs(cls, value: str | None) -> str | None:
        if value == "":
            raise ValueError("expected what stands between two labels, in quotes such as '|'")
        return "\t" if value == "\\t" else value

    @field_validator("label")
    @classmethod
    def _one_or_several(cls, value: str | list[str] | None) -> str | list[str] | None:
        if value == []:
            raise ValueError("expected one column or more")
        return value[0] if isinstance(value, list) and len(value) == 1 else value


class FinetuneConfig(Part):
    """How a checkpoint is fine-tuned, as a teacher or by the `finetune` command."""

    init: str = Field(
        description="checkpoint folder, hub id, or `package:PACKAGE/FOLDER`; `[layers=…]` keeps some of its layers"
    )
    epochs: Positive = Field(3.0, description="passes over the training rows")
    learning_rate: Positive = Field(5e-5, description="the highest one, after the warm-up")
    batch_size: int = Field(32, ge=1, description="rows per optimiser step")
    seed: int = Field(0, description="seed of data order, dropout and new weights")
    dropout: Fraction | None = Field(None, description="dropout while it is fine-tuned; default: that of its config")
    folds: int | None = Field(
        None,
        ge=2,
        description="of a teacher: so many copies are fine-tuned too, each without one part of the rows; on each row selectors judge the "
        "teacher by the copy that has not seen it, and the student learns from the teacher itself (`signals.learn_from`). Takes so many times as long",
    )


class TeacherConfig(Part):
    """One teacher: a fine-tuned checkpoint, a table of its outputs, a checkpoint that is fine-tuned first, or a model behind an API."""

    name: str | None = Field(None, description="in logs and reports; default: the last part of the path")
    path: str | None = Field(None, description="fine-tuned checkpoint: folder or hub id")
    table: str | None = Field(
        None, description="file of outputs that were made elsewhere; joined with the rows by text"
    )
    outputs: Literal["logits", "probabilities", "log_probabilities", "scores"] = Field(
        "probabilities", description="what the numbers of `table` are"
    )
    finetune: FinetuneConfig | None = Field(
        None, description="the teacher is fine-tuned first, on the run's training rows"
    )
    endpoint: str | None = Field(
        None,
        description="address of an OpenAI-compatible server, such as http://localhost:8000/v1; the rows are asked there",
    )
    model: str | None = Field(None, description="of `endpoint`: the name of its model")
    prompt: str | None = Field(
        None,
        description="of `endpoint`: text file with {text}, {labels}, and {text_2} of pairs; default: a plain question, but a regression needs one",
    )
    samples: int = Field(
        8, ge=1, description="of `endpoint`: answers per row, where it gives no log-probabilities of the labels"
    )
    concurrency: int = Field(8, ge=1, description="of `endpoint`: requests at a time")
    call_budget: int | None = Field(
        None, ge=1, description="of `endpoint`: most calls, those of the stored answers included"
    )
    token_budget: int | None = Field(
        None, ge=1, description="of `endpoint`: most tokens, those of the stored answers included"
    )
    key: str = Field(
        "OPENAI_API_KEY", description="of `endpoint`: environment variable that holds the key; never the key itself"
    )
    labels: list[str] | None = Field(
        None, description="label names in the order of its outputs, if its own config has none"
    )
    tokenizer: str | None = Field(None, description="folder or hub id; default: that of the checkpoint")
    max_length: int | None = Field(
        None, ge=2, description="in tokens; default: `train.max_length`, at most what the model allows"
    )
    words: Literal["first", "mean"] = Field(
        "first",
        description="of `path`, where words have tags: a word is read at its first token, or its logits and hidden states are the mean over its "
        "tokens, for a teacher that was trained on all of them; students are read at the first",
    )

    @model_validator(mode="after")
    def _one_source(self) -> TeacherConfig:
        given = [key for key in ("path", "table", "finetune", "endpoint") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"a teacher has exactly one of path, table, finetune, endpoint; got {given or 'none'}")
        if self.table is not None and self.tokenizer is not None:
            raise ValueError("a table of outputs needs no tokenizer")
        if self.words == "mean" and self.path is None:
            raise ValueError("words: mean needs path: no other teacher reads words at several tokens")
        own = ("model", "prompt", "samples", "concurrency", "call_budget", "token_budget", "key")
        without = ("labels", "tokenizer", "max_length") if self.endpoint is not None else own
        idle = [key for key in without if getattr(self, key) != type(self).model_fields[key].default]
        if idle:
            why = "does nothing with endpoint: say it in the prompt" if self.endpoint else "needs endpoint"
            raise ValueError(f"{', '.join(idle)} {why}")
        if self.endpoint is not None and self.model is None:
            raise ValueError("endpoint needs model, the name of a model there")
        return self

    @field_validator("endpoint")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        # whatever comes before @ or after ? may be a secret, and configs are written into folders
        if value is not None and not re.fullmatch(r"https?://[^@?#\s]+", value):
            raise ValueError("expected http://HOST/v1 or https://HOST/v1, without a user, a password or a query")
        return value

    @field_validator("key")
    @classmethod
    def _variable(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
            raise ValueError(
                "expected the name of an environment variable, such as OPENAI_API_KEY, never the key itself"
            )
        return value


class LoraConfig(Part):
    """Low-rank updates of a student's linear maps (Hu et al., 2021), by the package peft; the saved student has them merged in."""

    rank: int = Field(16, ge=1, description="of the update of each linear map")
    alpha: Positive | None = Field(None, description="updates are multiplied by alpha / rank; default: twice the rank")


class StudentConfig(Part):
    """The student: the model that is trained and shipped."""

    init: str = Field(
        description="a checkpoint or a teacher's name, as `NAME`, `NAME[layers=1,3,5]`, `NAME[layers=3]` or `NAME[fresh]` (its config with new weights; a folder needs none)"
    )
    tokenizer: str | None = Field(None, description="folder or hub id; default: that of `init`")
    max_length: int | None = Field(None, ge=2, description="in tokens; default: `train.max_length`")
    vocabulary: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None,
        description="tokens that it keeps: a number, the most frequent ones in train and extra first; or auto, all that these use. "
        "Those without which a text could become unknown stay too. Default: all",
    )
    lora: LoraConfig | None = Field(
        None,
        description="train low-rank updates of its linear maps and a classifier's head, not the model itself; `{}` for the defaults. Wants a "
        "higher `train.learning_rate`",
    )


class MethodConfig(Part):
    """The method: a preset and changes to it. Options of the four parts are merged with the preset's."""

    name: str = Field("kd", description="a preset; `distilect methods` lists them")
    alpha: Fraction | None = Field(None, description="weight of the response; labels weigh 1 - alpha")
    temperature: Positive | None = Field(
        None, description="temperature of teacher and student in the response; no effect in a regression"
    )
    rows: Options | str | None = Field(None, description="which rows ask the teachers, or are trained on")
    teachers: Options | str | None = Field(None, description="which teachers, with which weights")
    knowledge: Options | None = Field(
        None, description="kinds of knowledge and their options; added to the preset's, `KIND: false` removes one"
    )
    loss_weights: Options | str | None = Field(None, description="weights of the kinds of knowledge")
    stages: Options | None = Field(
        None,
        description="trained one after the other: name → StageConfig; merged with the preset's, `STAGE: false` removes one",
    )


class StageConfig(Part):
    """A stage of a method: what it copies, for how long, from which rows. It starts from the weights that the stage before it gave."""

    method: MethodConfig = Field(
        description="merged with the run's method; another name replaces it, a string is a preset. Without stages of its own"
    )
    train: Options = Field({}, description="settings that replace those of `train` in this stage")
    share: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        None,
        description="of `train.epochs` and of `train.token_budget`, unless the stage sets its own; default: what the "
        "other stages leave, in equal parts",
    )
    data: Literal["all", "train"] = Field("all", description="all: train and `data.extra`; train: without `data.extra`")

    @field_validator("method", mode="before")
    @classmethod
    def _method_from_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("method")
    @classmethod
    def _no_stages_within(cls, value: MethodConfig) -> MethodConfig:
        if value.stages is not None:
            raise ValueError("a stage has no stages of its own: list them one after the other")
        return value


class TrainConfig(Part):
    """How the student is trained. Keys with a counterpart in `transformers.TrainingArguments` have its name."""

    epochs: Positive = Field(3.0, description="passes over the training rows")
    token_budget: int | None = Field(
        None,
        ge=1,
        description="training ends after this many student tokens in place of `epochs`; those of selectors' passes count",
    )
    batch_size: int = Field(32, ge=1, description="rows per optimiser step, over all ranks and accumulation steps")
    gradient_accumulation_steps: int = Field(
        1, ge=1, description="parts that the rows of a step are run in; the loss is the same"
    )
    max_tokens: int = Field(
        8192, ge=16, description="padded tokens run at once; larger batches are split, the loss is the same"
    )
    learning_rate: Positive = Field(5e-5, description="the highest one, after the warm-up")
    warmup_ratio: Fraction = Field(0.1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0.0, description="of AdamW")
    lr_scheduler_type: str = Field("linear", description="linear, cosine, constant, …")
    max_grad_norm: float = Field(1.0, ge=0.0, description="gradients are clipped to this norm; 0: not at all")
    max_length: int = Field(128, ge=2, description="in tokens, for all models without their own max_length")
    precision: Precision = Field("auto", description="auto: bf16 if the processor supports it")
    group_by_length: bool = Field(True, description="batches have rows of similar length, with less padding")
    final_weights: Literal["best", "lowest-loss", "last", "average"] = Field(
        "best",
        description="those of the best score or of the lowest loss on the validation split; the last ones; or the mean over the last fifth of "
        "the steps (Izmailov et al., 2018)",
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, description="training ends after this many evaluations without a better score"
    )
    evaluations: int = Field(
        1, ge=1, description="evaluations on the validation split per epoch, with a checkpoint each"
    )
    resumable: bool = Field(
        True,
        description="false: checkpoints hold weights only and a stopped training starts anew; faster for short trainings",
    )
    logging_steps: int = Field(10, ge=1, description="optimiser steps between two lines of history")
    dropout: Fraction | None = Field(0.0, description="dropout of the student; null: that of its config")
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(ge=0.0)]] | None = Field(
        None,
        description="weights of the classes in label knowledge, by label (others: 1); balanced: inversely to their rows in train",
    )
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of a gold label that is spread evenly over the classes"
    )

    @model_validator(mode="after")
    def _average_of_a_whole_schedule(self) -> TrainConfig:
        if self.final_weights == "average" and self.early_stopping_patience is not None:
            raise ValueError(
                "final_weights: average is made at the end of the schedule: leave out early_stopping_patience, or use best"
            )
        return self


class TokenSignalConfig(Part):
    """What is kept of a language model's outputs at each token: that of the gold token, its entropy, and those of some others."""

    keep: Literal["top", "samples"] = Field(
        "top",
        description="top: the likeliest others and the mass of the rest; samples: the likeliest other, and unbiased draws from the rest",
    )
    count: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="how many others (default 10), or draws (default 16): at most 50 bytes a token with up to 262,144 different tokens",
    )


class SignalConfig(Part):
    """Teacher outputs, and the store that keeps them."""

    store: str = Field("signals", description="folder in `output`; shared by runs, keyed by content")
    live: bool = Field(False, description="run the teachers in every step; nothing is stored")
    disk_budget_gb: Positive = Field(
        20.0, description="limit of the store; outputs that would not fit are computed live"
    )
    precision: Precision = Field(
        "auto", description="precision of the teachers; auto: bf16 if the processor supports it"
    )
    max_tokens: int = Field(16384, ge=16, description="padded tokens per batch of the teachers")
    tokens: TokenSignalConfig = Field(TokenSignalConfig(), description="of language models")
    calibrate: Literal["auto"] | bool = Field(
        "auto",
        description="bring each teacher's outputs to one scale by a temperature (in a regression by a line) that is fitted on the validation "
        "split; auto: with two or more teachers, unless the mean of their outputs then scores worse there",
    )
    learn_from: Literal["teacher", "out-of-fold"] = Field(
        "teacher",
        description="whose logits the student learns from where a teacher has copies in folds (`finetune.folds`). out-of-fold: on each row those "
        "by which selectors judge, of the copy that has not seen it; hidden states stay the teacher's",
    )

    def calibrates(self, teachers: int) -> bool:
        """Whether the outputs of a pool of so many teachers are calibrated."""
        return teachers > 1 if self.calibrate == "auto" else self.calibrate


def seconds_of(budget: str) -> float:
    """`30min`, `1h30min`, `90s` in seconds.

    Raises:
        ValueError: it is no time, or none at all.
    """
    total = sum(float(count) * _UNITS[unit.lower()] for count, unit in _TIME.findall(budget))
    if _TIME.sub("", budget).strip() or not total:
        raise ValueError("expected a time such as 30min, 2h or 1h30min; a budget of tokens is train.token_budget")
    return total


class GenerationConfig(Part):
    """Completions that a language model and its teachers write for prompts of dev, to be compared with the true ones."""

    rows: int = Field(
        0,
        ge=0,
        description="of dev, a random sample; 0: none. Each new token is a pass of the model, for up to 16 rows at a time",
    )
    max_new_tokens: int = Field(
        256, ge=1, description="of a completion, at most; prompt and completion have up to `train.max_length` together"
    )
    answer_after: str | None = Field(
        None, min_length=1, description="what stands before the final answer, such as ####: answers are compared too"
    )


class SearchConfig(Part):
    """Settings that the validation split chooses before the run, by successive halving."""

    budget: str = Field(description="time for the search, such as 30min or 2h")
    tune: Grid | None = Field(
        None,
        description="settings to try, such as train.learning_rate: [5.0e-5, 1.0e-4], alpha: [0.5, 0.9] or student: [A[layers=3], B]; "
        "default: the learning rate times 0.5, 1, 2 and 4",
    )

    @field_validator("budget")
    @classmethod
    def _time(cls, value: str) -> str:
        seconds_of(value)
        return value

    @field_validator("tune")
    @classmethod
    def _values(cls, value: dict[str, list[Any]] | None) -> dict[str, list[Any]] | None:
        for key, values in (value or {}).items():
            if not values:
                raise ValueError(f"{key} lists no value to try")
        return value


def from_strings(value: Any, key: str) -> Any:
    """The list `value` with each string s replaced by `{key: s}`."""
    return [{key: v} if isinstance(v, str) else v for v in value] if isinstance(value, list) else value


def with_backbone(raw: Any) -> Any:
    """The raw config with its `backbone` in the place of that word: where teachers and students start from.

    Raises:
        ValueError: one is named, but nothing starts from it.
    """
    model = raw.get("backbone") if isinstance(raw, Mapping) else None
    if not isinstance(model, str):
        return raw
    found = _replace_backbone({key: value for key, value in raw.items() if key != "backbone"}, model)
    if found == {key: value for key, value in raw.items() if key != "backbone"}:
        raise ValueError(f"no teacher or student starts from `backbone`, so {model} would not be used")
    return found


def _replace_backbone(node: Any, model: str, key: str = "") -> Any:
    if isinstance(node, Mapping):
        return {name: _replace_backbone(value, model, name) for name, value in node.items()}
    if isinstance(node, list):
        return [_replace_backbone(value, model, key) for value in node]
    if key in ("init", "student", "students") and isinstance(node, str):
        return re.sub(r"^backbone(?=\[|$)", lambda _: model, node)
    return node


class RunConfig(Part):
    """A run, as `distilect run FILE key=value …` reads it."""

    name: str = Field("run", description="name of the run and of its folder", pattern=r"^[^/\\\x00]+$")
    data_dir: str = Field(".", description="folder that relative data paths start from")
    task: TaskConfig = Field(TaskConfig(), description="what is learned")
    data: DataConfig = Field(description="where the rows come from")
    backbone: str | None = Field(
        None, description="pre-trained model: in the `init` of teachers and student the word `backbone` stands for it"
    )
    teachers: list[TeacherConfig] = Field(default_factory=list, description="see TeacherConfig; a string is a path")
    student: StudentConfig = Field(description="the model that is trained; a string is its `init`")
    method: MethodConfig = Field(MethodConfig(), description="how it learns; a string is a preset")
    baselines: list[MethodConfig] = Field(
        default_factory=list, description="further methods, each trained in its own folder beside the run's"
    )
    train: TrainConfig = Field(TrainConfig(), description="how the student is trained")
    signals: SignalConfig = Field(SignalConfig(), description="where teacher outputs are stored")
    generation: GenerationConfig = Field(
        GenerationConfig(), description="of language models: completions of dev rows, written and scored after training"
    )
    budget: str | None = Field(
        None,
        description="time for the whole run, such as 30min or 2h: the student is trained for as many epochs as fit, in place of "
        "`train.epochs`, at most 100 in a stage; a search is not counted, nor what the student writes in `generation`",
    )
    search: SearchConfig | None = Field(None, description="choose settings on the validation split first")
    seed: int = Field(0, description="seed of data order, dropout, new weights and every draw")
    output: str = Field("runs", description="folder that holds the run's folder")

    _backbone = model_validator(mode="before")(staticmethod(with_backbone))

    @field_validator("budget")
    @classmethod
    def _time(cls, value: str | None) -> str | None:
        if value is not None:
            seconds_of(value)
        return value

    @field_validator("name")
    @classmethod
    def _name_of_a_folder(cls, value: str) -> str:
        # "..": the run's folder would be the folder of all runs.
        if value in (".", ".."):
            raise ValueError("expected the name of a folder")
        return value

    @field_validator("student", mode="before")
    @classmethod
    def _student_from_string(cls, value: Any) -> Any:
        return {"init": value} if isinstance(value, str) else value

    @field_validator("method", mode="before")
    @classmethod
    def _method_from_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("baselines", mode="before")
    @classmethod
    def _methods_from_strings(cls, value: Any) -> Any:
        return from_strings(value, "name")

    @field_validator("teachers", mode="before")
    @classmethod
    def _teachers_from_strings(cls, value: Any) -> Any:
        return from_strings(value, "path")


class _Whole(int):
    """A whole number of a config file. Where text is expected it is the text that was written, such as `007`."""

    written: str

    def __str__(self) -> str:
        return self.written


class _Decimal(float):
    """As `_Whole`, such as `1.10`."""

    written: str

    def __str__(self) -> str:
        return self.written


class _Loader(yaml.SafeLoader):
    """YAML whose numbers remember how they were written. Dates stay text, as no option is a date. A key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} is given twice, in line {line} again"
                )
            seen.add(key.value if key.value != "<<" and isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)

    def _whole(self, node: yaml.ScalarNode) -> _Whole:
        value = _Whole(self.construct_yaml_int(node))
        value.written = node.value
        return value

    def _decimal(self, node: yaml.ScalarNode) -> _Decimal:
        value = _Decimal(self.construct_yaml_float(node))
        value.written = node.value
        return value

    def _text(self, node: yaml.ScalarNode) -> str:
        return str(self.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader._whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader._decimal)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader._text)


def load_config(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a YAML file and apply `key.sub=value` overrides.

    Raises:
        ConfigError: the file is missing or no YAML mapping, or a key or value does not fit; one line per fault.
    """
    return parse_config(read_yaml(path, overrides))


def read_yaml(path: str | Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """The plain values of a config file with `key.sub=value` overrides.

    Raises:
        ConfigError: as `load_config`.
    """
    file = Path(path)
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"no config file at {file}") from None
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{file}: expected a mapping of settings, got {type(raw).__name__}")
    apply_overrides(raw, overrides or [])
    return raw


def parse_config(raw: dict[str, Any]) -> RunConfig:
    """A checked `RunConfig` from plain values.

    Raises:
        ConfigError: names each bad key with the nearest known one, and each bad value with what was expected.
    """
    return parse_part(RunConfig, raw)


P = TypeVar("P", bound=Part)


def parse_part(part: type[P], raw: dict[str, Any]) -> P:
    """As `parse_config`, for any part of a configuration or for `CompareConfig`."""
    try:
        return part.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error.errors(), part))) from None


def dump_config(config: Part) -> str:
    """`config` as YAML that reads back to an equal value."""
    values = config.model_dump(mode="json")
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    # Unescaped, U+0085 and U+2028 would be read back as line ends; such a text is escaped as a whole.
    return text if yaml.safe_load(text) == values else yaml.safe_dump(values, sort_keys=False)


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """`apply_override` for each of them.

    Raises:
        ConfigError: a key is given twice; or as `apply_override`.
    """
    keys = [override.partition("=")[0] for override in overrides]
    for number, override in enumerate(overrides):
        if keys[number] in keys[:number]:
            raise ConfigError(f"override {override!r}: {keys[number]} is given twice")
        apply_override(raw, override)


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set `a.b=value` in the nested mapping `raw`; the value is read as YAML, a delimiter such as `|` as itself."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        hint = ". For several files give a folder, or a pattern in quotes" if os.path.isfile(override) else ""
        raise ConfigError(f"override {override!r}: expected key=value, such as train.epochs=5{hint}")
    try:
        value = text if key.endswith("delimiter") and _is_mark(text) else yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"override {override!r}: the value is not YAML; put quotes around a text") from None
    set_value(raw, key.split("."), value, override)


def set_value(raw: dict[str, Any], keys: Sequence[str], value: Any, override: str) -> None:
    """Set `raw[a][b] = value`; short forms on the path become mappings. `override`: the user's text, for messages."""
    *parents, last = keys
    node: Any = raw
    for depth, parent in enumerate(parents, start=1):
        node = _descend(node, parent, parents[:depth], override)
    node[_slot(node, last, override)] = value


def set_values(raw: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Settings as keyword arguments: nested, or dotted with `__`; `data={"text": "review"}` adds to `data`, it does not replace it."""
    for key, value in settings.items():
        parts = {(part,): inner for part, inner in value.items()} if isinstance(value, Mapping) else {(): value}
        for part, inner in parts.items():
            set_value(raw, [*key.split("__"), *part], inner, f"{key}={value!r}")


def _is_mark(text: str) -> bool:
    """Signs alone, that YAML has another use for, such as `|`, `,` or a tab; but `~` is null."""
    if len(text) == 1:
        return not text.isalnum() and text != "~"
    return bool(text) and not any(sign.isalnum() or sign in ("'", '"', "\\") for sign in text)


# What is not shown in messages: somebody may have put a key there.
_SECRET = (("key",), ("endpoint",))

# Where a plain word stands for a mapping with one key; `*` is an index.
_SHORT_FORMS = {
    ("method",): "name",
    ("method", "rows"): "name",
    ("method", "teachers"): "name",
    ("method", "loss_weights"): "name",
    ("baselines", "*"): "name",
    ("student",): "init",
    ("teachers", "*"): "path",
}


def _descend(node: Any, key: str, path: list[str], override: str) -> Any:
    """The mapping or list below `key`; a short form such as `method: kd` becomes `method: {name: kd}`."""
    slot = _slot(node, key, override)
    child = node.get(slot) if isinstance(node, dict) else node[slot]
    short = _SHORT_FORMS.get(tuple("*" if part.isdecimal() else part for part in path))
    if isinstance(child, str) and short:
        child = node[slot] = {short: child}
    if child is None:
        child = node[slot] = {}
    if not isinstance(child, dict | list):
        raise ConfigError(f"override {override!r}: {'.'.join(path)} holds a single value, it has no parts")
    return child


def _slot(node: dict[str, Any] | list[Any], key: str, override: str) -> Any:
    """`key` as a key of a mapping, or as a valid index of a list."""
    if isinstance(node, dict):
        return key
    if not key.isdecimal() or len(key) > 9 or int(key) >= len(node):
        has = f"0 to {len(node) - 1}" if node else "none, it is empty"
        raise ConfigError(f"override {override!r}: {key!r} is no index of that list; it has {has}")
    return int(key)


def _explain(faults: Sequence[Any], root: type[Part]) -> list[str]:
    """One line per wrong place: where, what was wrong, what was expected."""
    places: dict[tuple[Any, ...], list[Any]] = {}
    for fault in faults:
        # pydantic tries each type of a union and reports each one separately.
        own = fault["type"] in ("extra_forbidden", "invalid_key", "missing")
        place = fault["loc"] if own else _place(fault["loc"], root)
        if _is_misread_text(fault) and isinstance(place[-1], int):
            place = place[:-1]  # one line for a whole list
        places.setdefault(place, []).append(fault)
    return [_explain_place(place, found, root) for place, found in places.items()]


def _explain_place(place: tuple[Any, ...], faults: Sequence[Any], root: type[Part]) -> str:
    where, fault = ".".join(str(part) for part in place) or "config", faults[0]
    if fault["type"] in ("extra_forbidden", "invalid_key"):
        known = sorted(_fields_at(place[:-1], root))
        near = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        return f"unknown key {where!r}: {hint}"
    if fault["type"] == "missing":
        return f"{where!r} is missing"
    if misread := [each for each in faults if _is_misread_text(each)]:
        got = ", ".join({None: "null", True: "true", False: "false"}[each["input"]] for each in misread)
        last = misread[0]["loc"][-1]
        example = "['no', 'yes']" if isinstance(last, int) else "{'no': …}" if last == "[key]" else "'no'"
        return (
            f"{where!r}: got {got}, expected text. YAML has a meaning of its own for no, off, yes, on, true, false and null: "
            f'put quotes around them, as in {place[-1]}: {example} or on the command line "{where}={example}"'
        )
    messages = dict.fromkeys(each["msg"].removeprefix("Value error, ") for each in faults)
    got = "" if place[-1:] in _SECRET else f", got {_short(fault['input'])}"
    return f"{where!r}: {' or '.join(messages)}{got}"


def _is_misread_text(fault: Any) -> bool:
    return fault["type"] == "string_type" and (fault["input"] is None or isinstance(fault["input"], bool))


def _short(value: Any) -> str:
    # reprlib: a mapping of a thousand keys must not be written out first.
    text = reprlib.repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _place(location: tuple[Any, ...], root: type[Part]) -> tuple[Any, ...]:
    """`location` cut after the config's own field; below it pydantic names types, not keys."""
    part: Any = root
    for depth, key in enumerate(location):
        if isinstance(key, int):
            continue
        if part is None or key not in part.model_fields:
            return location[:depth]
        part = _part_type(part.model_fields[key].annotation)
    return location


def _fields_at(location: tuple[Any, ...], root: type[Part]) -> list[str]:
    """Field names of the config part at `location`."""
    part: Any = root
    for key in location:
        if isinstance(key, int):
            continue
        part = _part_type(part.model_fields[key].annotation)
    return list(part.model_fields)


def _part_type(annotation: Any) -> Any:
    """The `Part` class inside an annotation such as `list[X]` or `X | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    if typing.get_origin(annotation) in (list, typing.Union, types.UnionType):
        for inner in typing.get_args(annotation):
            found = _part_type(inner)
            if found is not None:
                return found
    return None
