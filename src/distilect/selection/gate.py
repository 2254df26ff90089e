"""The supervised rival of RL-KD: a classifier of the best teacher, fitted on labelled rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from torch import Tensor

from distilect.config import Part
from distilect.selection.base import Needs, TeacherSelector
from distilect.selection.static import teacher_logits, teacher_losses
from distilect.selection.teacher_state import StateBuilder
from distilect.selection.view import Encoder, SelectionContext, StepView

LIMIT = 4096  # labelled rows, at most, that it is fitted on
FOLDS = 3
STRENGTHS = [0.1, 1.0, 10.0, 100.0, 1000.0]  # inverse regularisation; the state's blocks have unit size


class GateTeachers(TeacherSelector):
    """w_k = p(teacher k is the best one | state): logistic regression, fitted once on the labelled rows of train.

    The state is RL-KD's, of all teachers together, without the losses (which would name the answer). The best teacher of a row is
    the one with the least label loss (cross-entropy, say); ties go to the first. The strength of the regularisation
    is chosen by cross-validation on the same rows. Ours, not from a paper.
    """

    name = "gate"

    class Options(Part):
        """Of `teachers: {name: gate, …}`."""

        encoder: str | None = Field(
            "backbone",
            description="whose vector of the row is in the state: backbone (the pre-trained model that the student was cut from), a "
            "checkpoint, a teacher's name, or null for none",
        )
        pooling: Literal["cls", "mean"] = Field(
            "cls", description="the encoder's last layer at the classification token, or its mean over tokens"
        )

    options: Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        encoder = self.options.encoder
        if encoder == "student":
            raise ValueError(
                "encoder is 'student', but the gate is fitted before the student learns: expected a frozen encoder"
            )
        self.needs = Needs(encoder=None if encoder is None else Encoder(encoder, self.options.pooling), labels=True)
        self.builder = StateBuilder(encoder, joint=True, student=False)
        self.strengths = STRENGTHS
        self.model: Any = None  # a classifier, or the number of the only teacher that is ever the best

    def setup(self, context: SelectionContext) -> None:
        self.builder.fit(context.sample(LIMIT))
        sample = context.sample(LIMIT, labelled=True)
        if not len(sample.keys):
            raise ValueError("needs labelled rows to be fitted on: expected labels in train")
        view = sample.view(sample.teachers[:, 0], context.seed, epoch=0)  # the state holds nothing of the student
        self.model = _fitted(self._state(view), teacher_losses(view).argmin(1).numpy(), self.strengths)

    def decide(self, view: StepView) -> Tensor:
        weights = np.zeros(teacher_logits(view).shape[:2], dtype=np.float32)
        if isinstance(self.model, int):
            weights[:, self.model] = 1.0
        else:
            weights[:, self.model.classes_] = self.model.predict_proba(self._state(view))
        return torch.from_numpy(weights).to(view.student.device)

    def _state(self, view: StepView) -> np.ndarray:
        """float32 [B, D]."""
        nothing = torch.zeros(len(view.keys), dtype=torch.bool, device=view.keys.device)
        return self.builder(view, nothing)[0].cpu().numpy()


def _fitted(state: np.ndarray, best: np.ndarray, strengths: Sequence[float]) -> Any:
    """A classifier of `best` int64 [N], or the only teacher that is ever best; a single strength needs no cross-validation."""
    counts = np.bincount(best)
    if (counts > 0).sum() == 1:
        return int(best[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if counts[counts > 0].min() < FOLDS:  # too few rows of some teacher to hold some out
            return LogisticRegression(C=10.0, max_iter=300).fit(state, best)
        if len(strengths) == 1:
            return LogisticRegression(C=strengths[0], max_iter=300).fit(state, best)
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
        search = GridSearchCV(LogisticRegression(max_iter=300), {"C": strengths}, scoring="neg_log_loss", cv=folds)
        return search.fit(state, best).best_estimator_
