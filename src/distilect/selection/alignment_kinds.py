"""Kinds of knowledge weighed by their credit: by how far a step along their gradients lowers the loss of validation rows.

Ours, a rival of AKSKD's actor-critic (`akskd.py`) without actor, critic or episodes. Let g_m be the gradient of kind m's mean loss by all of the
student's weights, and h that of the validation loss. A step -η Σ_m v_m g_m changes the validation loss by

    -η Σ_m v_m ⟨g_m, h⟩ + O(η²),

so ⟨g_m, h⟩ is the credit of kind m. Adam gives a step the same length whatever the loss's size; only the step's direction is chosen. The
weights with the steepest descent per length maximise cos(Σ_m v_m g_m, h) over v ≥ 0, which is what the non-negative least squares fit of h by
the g_m does: it also knows that two kinds which pull alike need not both be copied.

The validation loss is that of the calibrated outputs (`Probe.kind_gradients`): a response at a high temperature makes the student less sure of
itself, which the plain cross-entropy, AKSKD's reward, punishes although no answer changes.

Assumptions: the first order, so what a kind is worth many steps later does not count; a plain gradient stands for Adam's step; a few rows of train
and of the validation split stand for all.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from scipy.optimize import nnls
from torch import Tensor

from distilect.config import Part
from distilect.options import Count
from distilect.selection.balance import Balance
from distilect.selection.base import LossWeights, Needs
from distilect.selection.buffers import Averages
from distilect.selection.draws import draw_rows
from distilect.selection.view import KindGradients, Probe, SelectionContext, StepView

ROWS = 32  # of train, for the gradients of the kinds: as many as a batch
VALIDATION_ROWS = 64  # for that of the loss, at most
SMOOTHING = 0.8  # share of the weights before that a look keeps: a look at so few rows is noisy


def steepest(found: KindGradients, factors: Tensor) -> Tensor | None:
    """float32 [M], from 0 to 1, the largest one 1: argmax over a ≥ 0 of cos(Σ_m a_m f_m g_m, h).

    Args:
        factors: f, [M], of the kinds' losses.

    Returns:
        None where no kind's step lowers the validation loss.
    """
    f = factors.double()
    toward = f * found.toward
    if not bool((toward > 0).any()):
        return None
    gram = f.unsqueeze(1) * found.gram * f
    # ‖Σ a f g - h‖² = ‖Rᵀa - R⁻¹t‖² + a constant, with gram = R Rᵀ; the little on its diagonal is for kinds without a gradient
    root = torch.linalg.cholesky(gram + 1e-6 * gram.diagonal().mean() * torch.eye(len(f), dtype=gram.dtype))
    aim = torch.linalg.solve_triangular(root, toward.unsqueeze(1), upper=False)[:, 0]
    weights = torch.from_numpy(nnls(root.T.numpy(), aim.numpy())[0])
    return (weights / weights.max()).float()


class AlignedKinds(LossWeights):
    """v_m = a_m × factor of size (`Balance`), with the a of steepest descent on the validation loss, measured once per phase.

    a is a running mean over the phases. It starts from 1 for each kind (`all-ones`) where no kind helps at the first look.
    """

    name = "alignment-kinds"

    class Options(Part):
        """Of `loss_weights: {name: alignment-kinds, …}`."""

        phases: Count = Field(
            10,
            description="of equal length, per training; each begins with a look: a backward pass per kind over a few rows",
        )

    options: Options
    needs = Needs(step_losses=True)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.averages = Averages()
        self.phase = -1  # the running one's number
        self.action: Tensor | None = None  # a, float32 [M]

    def setup(self, context: SelectionContext) -> None:
        if len(context.kinds) < 2:
            raise ValueError(f"weighs kinds of knowledge, but the method copies {', '.join(context.kinds)} only")
        if context.validation_labels is not None and not len(context.validation_labels):
            raise ValueError("measures the loss of validation rows: set data.validation_size or data.validation")
        self.kinds, self.seed = context.kinds, context.seed
        self.balance = Balance("labels", context.kinds)

    def begin_epoch(self, probe: Probe, epoch: int) -> None:
        if self.phase < 0:  # else: a later epoch, or a run resumed within this one
            self.balance.begin(probe, self.seed)
            self._look(probe, 0)

    def learn(self, probe: Probe) -> None:
        self.balance.add(probe.step_losses)
        number = int(probe.progress * self.options.phases + 1e-9)  # k/P is in phase k whatever its rounding
        if probe.progress < 1 and number != self.phase:
            self._look(probe, number)

    def _look(self, probe: Probe, number: int) -> None:
        self.phase = number
        rows = draw_rows(probe.keys, ROWS, self.seed, number, "look")
        found = probe.kind_gradients(rows, VALIDATION_ROWS)
        lengths = (found.gram.diagonal().sqrt() * found.length).clamp_min(1e-30)
        for kind, cosine in zip(self.kinds, found.toward / lengths, strict=True):
            self.averages.add(f"credit/{kind}", cosine)
        steep = steepest(found, self.balance.factors())
        if steep is not None:
            self.action = steep if self.action is None else torch.lerp(steep, self.action, SMOOTHING)

    def decide(self, view: StepView) -> Tensor:
        """float32 [M]."""
        action = torch.ones(len(self.kinds)) if self.action is None else self.action
        return (action * self.balance.factors()).to(view.student.device)

    def health(self) -> dict[str, float]:
        """credit/KIND: cosine of the kind's gradient and the validation loss's, at the last look; balance/KIND; the weights are logged as
        knowledge/v_KIND."""
        factors = zip(self.kinds, self.balance.factors().tolist(), strict=True)
        return self.averages.pop() | {f"balance/{kind}": value for kind, value in factors}

    def state_dict(self) -> dict[str, Any]:
        return {
            "action": self.action,
            "phase": self.phase,
            "balance": self.balance.state_dict(),
            "averages": self.averages.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.action, self.phase = state["action"], int(state["phase"])
        self.balance.load_state_dict(state["balance"])
        self.averages.load_state_dict(state["averages"])
