"""Parameters beside the student: projections of the kinds of knowledge. They are trained with it and never shipped in it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from distilect import ranks
from distilect.knowledge import Knowledge
from distilect.training.distributed import average_gradients, start_equal


class Projections:
    """The trainable parameters of the kinds of knowledge, outside the model that the Trainer wraps.

    They are one more group of the Trainer's optimiser; beside a sharded student (FSDP), whose optimiser knows the sharded
    parameters only, they have an optimiser of their own.
    """

    def __init__(self, knowledge: list[Knowledge], device: torch.device) -> None:
        self.modules = nn.ModuleList(knowledge).to(device)
        self.parameters = [p for p in self.modules.parameters() if p.requires_grad]
        self.optimizer: torch.optim.Optimizer | None = None
        self._loaded: dict[str, Any] | None = None  # of that optimiser in a checkpoint

    def start(self) -> None:
        """Before training: on every rank as on the first."""
        if self.parameters and ranks.world() > 1:
            start_equal(self.parameters)

    def join(self, optimizer: torch.optim.Optimizer, *, sharded: bool) -> None:
        """Be optimised with the student."""
        if not self.parameters:
            return
        if not sharded:
            optimizer.add_param_group({"params": self.parameters, "weight_decay": 0.0})
        elif self.optimizer is None:
            self.optimizer = torch.optim.AdamW(self.parameters, weight_decay=0.0)
            if self._loaded is not None:
                self.optimizer.load_state_dict(self._loaded)

    def begin_step(self, progress: float) -> None:
        """Forget the gradients of the step before; the kinds of knowledge learn how far training is."""
        for kind in self.modules:
            kind.begin_step(progress)  # type: ignore[operator]
        for parameter in self.parameters:
            parameter.grad = None

    def step(self, max_grad_norm: float, learning_rate: float) -> None:
        """Average over ranks and clip the gradients; step the own optimiser, where there is one."""
        if not self.parameters:
            return
        if ranks.world() > 1:
            average_gradients(self.parameters)
        if max_grad_norm:
            nn.utils.clip_grad_norm_(self.parameters, max_grad_norm)
        if self.optimizer is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        own = None if self.optimizer is None else self.optimizer.state_dict()
        return {"modules": dict(self.modules.state_dict()), "optimizer": own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.modules.load_state_dict(state["modules"])
        self._loaded = state["optimizer"]
