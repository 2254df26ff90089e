"""The `transformers.Trainer`'s own arguments and learning rate, from ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainingArguments, get_scheduler

from distilect.config import TrainConfig
from distilect.errors import ConfigError, RunError
from distilect.models import default_device, resolve_precision
from distilect.tasks import Task


def training_arguments(
    config: TrainConfig, task: Task, steps: int, output: Path, seed: int, *, evaluates: bool, saves: bool
) -> TrainingArguments:
    """The Trainer's arguments.

    Args:
        steps: optimiser steps per epoch.
        evaluates: on the validation split; there is one.
        saves: writes checkpoints.
    """
    device = default_device()
    precision = resolve_precision(config.precision, device)
    total = max(1, math.ceil(steps * config.epochs))
    if config.token_budget is not None:  # it stops by tokens; a step trains on one at least
        total = max(1, config.token_budget)
    when = "epoch" if config.evaluations == 1 else "steps"
    interval = max(1, steps // config.evaluations)
    return TrainingArguments(
        output_dir=str(output),
        max_steps=total,
        per_device_train_batch_size=max(1, config.batch_size // config.gradient_accumulation_steps),
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=math.ceil(config.warmup_ratio * total),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=device.type == "cpu",
        seed=seed,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy=when if evaluates else "no",
        eval_steps=interval,
        save_strategy=when if saves else "no",
        save_steps=interval,
        save_only_model=not config.resumable,
        load_best_model_at_end=config.final_weights in ("best", "lowest-loss") and evaluates,
        metric_for_best_model=f"eval_{criterion(config, task)}",
        greater_is_better=config.final_weights != "lowest-loss",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,  # a batch goes to the device by itself
        average_tokens_across_devices=False,
    )


def criterion(config: TrainConfig, task: Task) -> str:
    """What an evaluation is judged by: `loss`, the lower the better, or a metric."""
    return "loss" if config.final_weights == "lowest-loss" else task.primary


def scheduler_by_progress(config: TrainConfig, optimizer: Any, progress: Callable[[], float]) -> Any:
    """A learning rate that is a function of `progress` in [0, 1], in the shape that `lr_scheduler_type` has over steps.

    Raises:
        ConfigError: that scheduler is no function of the step alone.
    """
    fine = 100_000  # steps that the shape is read at
    warmup = math.ceil(config.warmup_ratio * fine)
    shape = get_scheduler(config.lr_scheduler_type, optimizer, num_warmup_steps=warmup, num_training_steps=fine)
    if not isinstance(shape, LambdaLR):
        raise ConfigError(
            f"train.lr_scheduler_type: {config.lr_scheduler_type!r} cannot follow train.token_budget: use linear, cosine or constant"
        )
    # all groups have the same shape; plain functions are left out of the scheduler's state
    return LambdaLR(optimizer, lambda _: shape.lr_lambdas[0](int(progress() * fine)))


def refuse_data_parallel(gpus: int) -> None:
    """One process with several GPUs would be wrapped in `nn.DataParallel`, which loses hidden states.

    Raises:
        RunError: there are several.
    """
    if gpus > 1:
        raise RunError(
            f"this process sees {gpus} GPUs and would split batches by nn.DataParallel, which is not supported: "
            "set CUDA_VISIBLE_DEVICES=0, or start one process per GPU with accelerate launch"
        )


def refuse_sharded(language_model: bool, adapters: bool) -> None:
    """A language model is run without its output layer, which is then used in parts; FSDP gathers weights within a model's own pass only.

    Raises:
        ConfigError: a language model or one with adapters is sharded.
    """
    if adapters:
        raise ConfigError(
            "student.lora trains adapters alone, which sharded weights (FSDP) do not allow: train with DDP"
        )
    if language_model:
        raise ConfigError(
            "a language model's output layer is used in parts, which sharded weights (FSDP) do not allow: train with DDP"
        )
