"""The supervised rival of RL-KD: a classifier that is told, on labelled rows, which teacher was the best one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from torch import Tensor

from distilect.selection.base import TeacherSelector
from distilect.selection.rlkd import StateBuilder
from distilect.selection.static import teacher_losses
from distilect.selection.view import Encoder, SelectionContext, StepView

_FOLDS = 3
_STRENGTHS = [0.1, 1.0, 10.0, 100.0, 1000.0]  # inverse regularisation; the state's blocks have unit size


class GateTeachers(TeacherSelector):
    """w_k = p(teacher k is the best one | state): logistic regression, fitted once on the labelled rows of train.

    The state is RL-KD's, all teachers' blocks jointly, without the label block (which would name the answer). The best teacher
    of a row is the one with the least cross-entropy (squared error in regression); ties go to the first. The strength of the
    regularisation is chosen by cross-validation on the same rows. Ours, not from a paper.

    Args:
        encoder, pooling, scale: as in `reinforced`; encoder: null for none.
        features: `teacher_entropy` or nothing: what depends on the student does not exist yet.
        limit: at most so many labelled rows.
        hard: all weight to the most probable teacher.
    """

    name = "gate"
    narrows = False

    def __init__(
        self,
        encoder: str | None = "backbone",
        pooling: Literal["cls", "mean"] = "cls",
        scale: Literal["standardise", "layernorm", "none"] = "standardise",
        features: Sequence[str] = (),
        limit: int = 4096,
        hard: bool = False,
    ) -> None:
        if encoder == "student" or set(features) - {"teacher_entropy"}:
            raise ValueError(
                "the gate is fitted before the student learns: expected a frozen encoder, features: [teacher_entropy]"
            )
        if pooling not in ("cls", "mean"):
            raise ValueError(f"pooling is {pooling!r}, expected 'cls' or 'mean'")
        if limit < 1:
            raise ValueError(f"limit is {limit}, expected 1 or more")
        self.encoder = None if encoder is None else Encoder(encoder, pooling)
        self.builder = StateBuilder("joint", scale, features, encoder)
        self.limit, self.hard = limit, hard
        self.model: Any = None

    def setup(self, context: SelectionContext) -> None:
        self.builder.fit(context.sample(self.limit))
        sample = context.sample(self.limit, labelled=True)
        if not len(sample.rows):
            raise ValueError("needs labelled rows to be fitted on: expected labels in train")
        view = StepView(
            rows=sample.rows,
            labels=sample.labels,
            student=sample.teachers[:, 0],
            pooled=None,
            teachers=sample.teachers,
            progress=0.0,
            epoch=0,
            step=0,
            seed=context.seed,
            vectors=sample.vectors,
        )
        best = teacher_losses(view).argmin(1).numpy()
        self.model = _fitted(self._state(view), best)

    def keeps(self) -> list[int] | None:
        return None

    def _state(self, view: StepView) -> np.ndarray:
        """float32 [B, D]: the joint state, which is the same for every teacher."""
        nothing = torch.zeros(len(view.keys), dtype=torch.bool, device=view.keys.device)
        return self.builder(view, nothing)[:, 0].cpu().numpy()

    def weights(self, view: StepView) -> Tensor:
        assert view.teachers is not None
        weights = np.zeros(view.teachers.shape[:2], dtype=np.float32)
        if isinstance(self.model, int):
            weights[:, self.model] = 1.0
        else:
            weights[:, self.model.classes_] = self.model.predict_proba(self._state(view))
        found = torch.from_numpy(weights).to(view.student.device)
        if self.hard:
            found = torch.nn.functional.one_hot(found.argmax(1), found.shape[1]).float()
        return found


def _fitted(state: np.ndarray, best: np.ndarray) -> Any:
    """A classifier of `best` int64 [N], or the only teacher that is ever best."""
    counts = np.bincount(best)
    if (counts > 0).sum() == 1:
        return int(best[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if counts[counts > 0].min() < _FOLDS:  # too few rows of some teacher to hold some out
            return LogisticRegression(C=10.0, max_iter=300).fit(state, best)
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
        search = GridSearchCV(LogisticRegression(max_iter=300), {"C": _STRENGTHS}, scoring="neg_log_loss", cv=folds)
        return search.fit(state, best).best_estimator_
