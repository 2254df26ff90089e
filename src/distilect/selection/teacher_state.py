"""RL-KD's state: what its policy, and the gate, see of a row and of its teachers; and decisions that wait with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distilect.knowledge.labels import binary_cross_entropies, label_loss
from distilect.knowledge.response import response_kl
from distilect.selection.buffers import Observations
from distilect.selection.static import teacher_logits
from distilect.selection.view import StepView, TrainingSample, normalised_entropy
from distilect.tasks import has_label, of_candidates

STATISTICS_ROWS = 4096  # of train, for the mean and standard deviation of each number
LIMIT = 4.0  # standard deviations; a cross-entropy of 20 must not decide alone
LARGEST_LOSS = 50.0  # the cross-entropy of a teacher that rules the label out is infinite


class StateBuilder:
    """F(s_ik) = [R(x_i); P_k(·|x_i); L_k(x_i)]. Of a language model, whose classes differ from token to token, P_k is its largest
    probability and its entropy (`predictions`), and the state also holds the student's entropy, its distance from teacher k, and how
    far within its row's completions the token stands.

    R is the row's vector from an encoder, P_k the teacher's prediction, L_k its loss on the gold label; in a multi-label task both
    are per label. L_k is 0 where the label is
    hidden or unknown; one more number says whether it is visible. Each block is standardised per number, cut at 4 standard
    deviations and divided by the square root of its width (reconstruction: the paper reports no scaling; unscaled, 768 numbers of R
    swamp the C + 1 others).

    Args:
        encoder: `student`: R is the current student's vector; None: there is no R; any other name: a frozen encoder's vector. Of a
            language model, whose frozen encoder would have a vector for every token, there is no R but the student's.
        joint: every teacher's state holds the blocks of all teachers.
        entropy: the state also holds the entropy of P_k (ours).
        student: of a language model, the state also holds what the student says, and where the token stands.
    """

    def __init__(
        self, encoder: str | None, *, joint: bool = False, entropy: bool = False, student: bool = True
    ) -> None:
        self.encoder, self.joint, self.entropy, self.student = encoder, joint, entropy, student
        self.moments: dict[str, Tensor] = {}  # mean and standard deviation of each number, [2, …] per block

    def fit(self, sample: TrainingSample) -> None:
        """Measure the mean and standard deviation of each number on rows of train."""
        blocks = {"teacher": state_outputs(sample.teachers, sample.labels)}
        known = has_label(sample.labels)
        if known.any():
            blocks["loss"] = losses(sample.teachers[known], sample.labels[known])
        if sample.vectors is not None and self.encoder not in (None, "student"):
            blocks["vector"] = sample.vectors
        self.moments = {name: torch.stack([x.mean(0), x.std(0, unbiased=False)]) for name, x in blocks.items()}

    def __call__(self, view: StepView, visible: Tensor) -> tuple[Tensor, Tensor]:
        """The state in two parts, which `whole` puts together.

        Args:
            visible: bool [B], where the policy may see the loss.

        Returns:
            float32 [B, c], the numbers that all teachers share, and float32 [B, K, D - c], each teacher's own.
        """
        teachers = teacher_logits(view)
        loss = self._scaled("loss", losses(teachers, view.labels))  # [B, K, 1], multi-label [B, K, C]
        shown = visible[:, None, None].to(loss).expand(*loss.shape[:2], 1)
        blocks = [self._scaled("teacher", state_outputs(teachers, view.labels)), loss * shown, shown]
        if self.entropy:
            blocks.append(entropies(teachers, view.multi_label, view.tokens))
        if self.student and view.tokens:
            blocks.append(beside_student(view.student, teachers))
            assert view.position is not None
            blocks.append((2 * view.position - 1)[:, None, None].expand(*loss.shape[:2], 1))
        own, vector = torch.cat(blocks, dim=-1), self._vector(view)
        if self.joint:
            return torch.cat([vector, own.flatten(1)], dim=-1), own[:, :, :0]
        return vector, own

    def _vector(self, view: StepView) -> Tensor:
        """R, float32 [B, d]."""
        if self.encoder is None or (view.tokens and self.encoder != "student"):
            return view.student.new_zeros(len(view.student), 0)
        if self.encoder == "student":  # its vectors change as it learns: each is normalised by itself
            assert view.pooled is not None
            return F.layer_norm(view.pooled.float(), view.pooled.shape[-1:]) / view.pooled.shape[-1] ** 0.5
        assert view.vectors is not None
        return self._scaled("vector", view.vectors)

    def _scaled(self, name: str, values: Tensor) -> Tensor:
        if name in self.moments:  # the loss has none where no row of train has a label
            mean, std = self.moments[name].to(values)
            values = ((values - mean) / std.clamp_min(1e-6)).clamp(-LIMIT, LIMIT)
        return values / values.shape[-1] ** 0.5


def whole(common: Tensor, own: Tensor) -> Tensor:
    """float32 [B, K, D]: a state from its two parts."""
    return torch.cat([common.unsqueeze(1).expand(-1, own.shape[1], -1), own], dim=-1)


# ---- the blocks, in classification and in regression ---------------------------------------------------------------


def predictions(teachers: Tensor, multi_label: bool = False) -> Tensor:
    """float32 [B, K, C]: probabilities; scores in regression."""
    if multi_label:
        return torch.sigmoid(teachers)
    return teachers if teachers.shape[-1] == 1 else teachers.softmax(-1)


def losses(teachers: Tensor, labels: Tensor) -> Tensor:
    """float32 [B, K, 1]: each teacher's cross-entropy, at most 50, or squared error in regression; 0 without a label.

    Multi-label: float32 [B, K, C], the binary cross-entropy of each label.
    """
    batch, count, classes = teachers.shape
    repeated = labels.repeat_interleave(count, dim=0)
    if labels.ndim == 2:
        found = binary_cross_entropies(teachers.reshape(-1, classes), repeated)
        return found.reshape(batch, count, classes).clamp_max(LARGEST_LOSS)
    found = label_loss(teachers.reshape(-1, classes), repeated).reshape(batch, count, 1)
    return found if classes == 1 else found.clamp_max(LARGEST_LOSS)


def state_outputs(teachers: Tensor, labels: Tensor) -> Tensor:
    """float32 [B, K, C]: `predictions`; of a language model [B, K, 2]: the largest probability of a token, and the entropy."""
    if not of_candidates(labels):
        return predictions(teachers, labels.ndim == 2)
    largest = teachers.softmax(-1)[..., :-1].amax(-1)
    return torch.stack([largest, normalised_entropy(teachers, tokens=True)], dim=-1)


def beside_student(student: Tensor, teachers: Tensor) -> Tensor:
    """float32 [B, K, 2] of a language model: the student's entropy, and log(1 + KL(teacher ‖ student)), which is at most 4."""
    unsure = normalised_entropy(student, tokens=True).unsqueeze(1).expand(teachers.shape[:2])
    distance = torch.log1p(response_kl(student, teachers, 1.0).clamp_min(0)).clamp_max(LIMIT)
    return torch.stack([unsure, distance], dim=-1)


def entropies(teachers: Tensor, multi_label: bool = False, tokens: bool = False) -> Tensor:
    """float32 [B, K, 1]: in [0, 1]; in regression log(1 + squared distance from the mean of all teachers)."""
    if teachers.shape[-1] == 1:
        return torch.log1p((teachers - teachers.mean(1, keepdim=True)) ** 2)
    return normalised_entropy(teachers, multi_label, tokens).unsqueeze(-1)


# ---- decisions -----------------------------------------------------------------------------------------------------


@dataclass
class Decisions(Observations):
    """Rows on which the policy acted, and all that it takes to reward them and to learn from them.

    Attributes:
        keys: int64 [n]; labels: [n]; actions: bool [n, K].
        likeliest: bool [n, K], one-hot: the teacher that a row would have fallen back on when the policy acted.
        common, own: the state as `StateBuilder` gives it. A history of an epoch would otherwise hold each row's vector K times.
        student: logits [n, C] before the step; teachers: logits [n, K, C].
        reward: float32 [n], NaN until it is measured.
        credit: float32 [n, K], each teacher's credit, where the reward is the credit; else [n, 0].
    """

    keys: Tensor
    labels: Tensor
    common: Tensor
    own: Tensor
    actions: Tensor
    likeliest: Tensor
    student: Tensor
    teachers: Tensor
    reward: Tensor
    credit: Tensor

    @classmethod
    def of(cls, view: StepView, common: Tensor, own: Tensor, actions: Tensor, likeliest: Tensor) -> Decisions:
        """What was decided on the rows of a view."""
        waiting = torch.full((len(own),), torch.nan, device=own.device)
        student, teachers = view.student, teacher_logits(view)
        nothing = waiting.new_zeros(len(own), 0)
        return cls(view.keys, view.labels, common, own, actions, likeliest, student, teachers, waiting, nothing)

    @classmethod
    def join(cls, parts: Sequence[Decisions]) -> Decisions:  # type: ignore[override]
        """All of them in the order of row identities: however the batch was cut, the result is the same."""
        joined = super().join(parts)
        return joined.take(torch.argsort(joined.keys, stable=True))

    @property
    def state(self) -> Tensor:
        """float32 [n, K, D]."""
        return whole(self.common, self.own)
