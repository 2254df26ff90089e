"""AKSKD: an actor-critic weighs the kinds of knowledge that the student copies.

Wang et al., Improved Knowledge Distillation for Pre-trained Language Models via Knowledge Selection, Findings of EMNLP 2022, arXiv
2302.00444. The file follows the paper: state, reward, exploration, and the selector with its phases and its two stages; the actor, the
critic and their update are in `actor_critic.py`. No code was released and parts of the text could not be read:
[R] marks our reconstruction, "ours" is not in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distilect.config import Part
from distilect.knowledge.labels import label_loss
from distilect.options import Count, Ratio, ZeroOrMore
from distilect.selection import artefact
from distilect.selection.actor_critic import ActorCritic, SelectionModule, Transitions, harden
from distilect.selection.balance import Balance, BalanceMode
from distilect.selection.base import Episodes, EpisodicSelector, LossWeights, Needs
from distilect.selection.buffers import Averages, Buffer
from distilect.selection.draws import draw_rows
from distilect.selection.view import Look, Probe, SelectionContext, StepView
from distilect.tasks import has_label

STATE_ROWS = 32  # of train, that a state is a mean over: as many as a batch [R]
REWARD_ROWS = 512  # of the validation split, at most [R]
NOISE = 0.3  # standard deviation of the noise on actions; it falls to a fifth over the episodes [R]
RANDOM = 0.2  # share of the episodes, at their start, with random actions [R]; two at least: rewards are compared between episodes

# ---- state ---------------------------------------------------------------------------------------------------------

STATE = ("student", "teacher", "progress", "losses")


def observation(look: Look, progress: float, parts: Sequence[str]) -> Tensor:
    """What the selection module sees, float32 [D]: the parts of the state, one after the other.

    The paper's parts are `student` and `teacher`: [CLS] of the last layer, mean over rows, normalised to mean 0 and variance 1 [R].
    Ours are `progress`, the share of training that is done, and `losses`, logarithms of the kinds' losses (0 where there is none).
    """
    found = {
        "student": F.layer_norm(look.student, look.student.shape),
        "teacher": F.layer_norm(look.teachers, look.teachers.shape) if len(look.teachers) else look.teachers,
        "progress": torch.tensor([progress]),
        "losses": look.losses.clamp_min(1e-6).log().nan_to_num(0.0),
    }
    return torch.cat([found[part].float() for part in parts])


# ---- reward and exploration ----------------------------------------------------------------------------------------


def validation_loss(probe: Probe, limit: int) -> float:
    """Mean label loss (cross-entropy, say) on labelled rows of the validation split."""
    logits, labels = probe.validation(limit)
    known = has_label(labels)
    return float(label_loss(logits[known], labels[known]).mean())


def soft_novelty(action: Tensor, previous: Tensor | None) -> float:
    """The exploration reward of soft actions before its factor η: 1 - cos(a_p, a_{p-1}), 0 in a first phase [R]."""
    return 0.0 if previous is None else 1.0 - float(F.cosine_similarity(action, previous, dim=0, eps=1e-8))


def hard_novelty(action: Tensor, earlier: Iterable[Tensor]) -> float:
    """That of hard actions: 1 / √(how often the subset was chosen, this time included) [R].

    Args:
        earlier: all actions before, [n, M] each.
    """
    return 1 / math.sqrt(1 + sum(int((actions == action).all(1).sum()) for actions in earlier))


# ---- the selector --------------------------------------------------------------------------------------------------


class ActorCriticWeights(LossWeights, EpisodicSelector):
    """AKSKD's loss weights: the actor's action, times factors that bring the kinds to one size (`Balance`).

    Training is cut into phases. Each has one action, chosen from the state at its beginning and rewarded at its end by the fall of the
    validation loss. Stage A learns over episodes, short trainings of throw-away students. Stage B, the run itself, decides without
    noise, reward or learning.
    """

    name = "actor-critic"

    class Options(Part):
        """Of `loss_weights: {name: actor-critic, …}`."""

        action: Literal["soft", "hard"] = Field(
            "soft", description="soft: a weight in [0, 1] for each kind; hard: 0 or 1"
        )
        state: list[Literal["student", "teacher", "progress", "losses"]] = Field(
            ["student", "teacher"],
            min_length=1,
            description="what the selector sees: [CLS] vectors of student and teacher (the paper's), progress and losses (ours)",
        )
        phases: Count | Literal["step"] = Field(
            10,
            description="per training, of equal length; step: every optimiser step is a phase, the paper before its refinement",
        )
        exploration: ZeroOrMore = Field(
            0.1, description="η of the exploration reward, which falls to 0 over the episodes; 0: none"
        )
        balance: BalanceMode = Field(
            "labels", description="how losses are brought to one size (see `Balance`); none: they are not"
        )
        episodes: Annotated[int, Field(ge=2, strict=True)] = Field(
            8,
            description="of stage A, at least 2, as rewards are compared between them; it costs about episodes × share trainings",
        )
        share: Ratio = Field(
            0.25, description="of the rows of train that an episode is trained on, drawn anew for each"
        )
        selector: str | None = Field(
            None,
            description="folder of a selection module, or of the run that learned it: no stage A, the module decides",
        )

    options: Options
    episode: int
    decisions: int  # phases of this training that have begun
    phase: int  # the running one's number
    action: Tensor | None  # its action, in the module's order of kinds; None before the first phase
    observation: Tensor  # what was seen at its beginning
    loss_before: float  # the validation loss then
    bonus: float  # its exploration reward

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.options.selector is not None:
            self.options = artefact.as_learned(self.options, Path(self.options.selector))
        self.parts = tuple(part for part in STATE if part in self.options.state)
        self.hard = self.options.action == "hard"
        self.needs = Needs(teacher_cls="teacher" in self.parts, step_losses=self.options.balance != "none")
        self.learning = self.options.selector is None
        self.memory = Buffer(Transitions)  # of all episodes
        self.averages = Averages()

    def setup(self, context: SelectionContext) -> None:
        if len(context.kinds) < 2:
            raise ValueError(f"weighs kinds of knowledge, but the method copies {', '.join(context.kinds)} only")
        if self.learning and context.validation_labels is not None and not len(context.validation_labels):
            raise ValueError("learns from a validation split: set data.validation_size or data.validation")
        self.kinds, self.seed = context.kinds, context.seed
        self.balance = Balance(self.options.balance, context.kinds)
        widths = {
            "student": context.student_width,
            "teacher": sum(context.teacher_widths),
            "progress": 1,
            "losses": len(context.kinds),
        }
        self.widths: dict[str, int] = {part: widths[part] for part in self.parts}
        if self.options.selector is None:
            self._build(context.kinds)
            least = 1 if self.options.phases == "step" else self.options.phases
            self.episodes = Episodes(self.options.episodes, self.options.share, least)
        else:
            self._load(Path(self.options.selector))
        if "teacher" in self.parts and not all(context.teacher_widths or (0,)):
            raise ValueError(
                "sees the teachers' last layer, but one of them gives outputs only: set state: [student, progress, losses]"
            )
        self.begin_episode(0)

    def _build(self, order: tuple[str, ...]) -> None:
        """The selection module for these kinds in this order; its random start depends on the seed alone."""
        self.order = order
        self.outward = torch.tensor([order.index(kind) for kind in self.kinds])  # the module's order → the method's
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.learner = ActorCritic(SelectionModule(self.widths, len(order)), hard=self.hard)

    # ---- phases: state → action → reward → update ------------------------------------------------------------------

    def decide(self, view: StepView) -> Tensor:
        """float32 [M]: the phase's action times the factors of size."""
        action = torch.ones(len(self.kinds)) if self.action is None else self.action[self.outward]
        return (action * self.balance.factors()).to(view.student.device)

    def begin_epoch(self, probe: Probe, epoch: int) -> None:
        if self.action is None:  # else: a later epoch, or a run resumed within this one
            if self.learning:
                self.loss_before = validation_loss(probe, REWARD_ROWS)
            self._begin_phase(self._observe(probe), probe.progress)

    def learn(self, probe: Probe) -> None:
        """At the end of a phase: measure its reward, learn from all phases so far, and begin the next one."""
        self.balance.add(probe.step_losses)
        over = probe.progress >= 1
        if not over and self._number(probe.progress) == self.phase:
            return
        following = None if over else self._observe(probe)
        if self.learning:
            after = validation_loss(probe, REWARD_ROWS)
            reward, self.loss_before = torch.tensor(self.loss_before - after), after
            self._remember(reward, following)
            # the actor follows a critic that has seen random actions in every phase; before, it would follow the critic's random start
            learned = self.learner.replay(
                self.memory.join(), self.seed, acting=self._random_episodes <= self.episode + over
            )
            self._note(reward, after, learned)
        if following is not None:
            self._begin_phase(following, probe.progress)

    def _note(self, reward: Tensor, after: float, learned: tuple[float, float] | None) -> None:
        """Log the phase that is over and what was learned from it, and write it into the journal."""
        self.averages.add("reward/mean", reward)
        self.averages.add("reward/exploration", torch.tensor(self.bonus))
        for name, value in zip(("critic/loss", "critic/q"), learned or (), strict=False):
            self.averages.add(name, torch.tensor(value))
        loss, promised = learned or (None, None)
        self.journal.append(
            {
                "episode": self.episode,
                "phase": self.phase,
                "action": {kind: round(value, 4) for kind, value in self._named_action().items()},
                "reward": float(reward),
                "exploration": self.bonus,
                "validation_loss": after,
                "critic_loss": loss,
                "q": promised,
            }
        )

    def _number(self, progress: float) -> int:
        """Of the phase at that point of the training; the nudge keeps k/P in phase k whatever its rounding."""
        phases = self.options.phases
        return self.decisions if phases == "step" else int(progress * phases + 1e-9)

    def _observe(self, probe: Probe) -> Tensor:
        """Float32 [D], from rows that are drawn for each phase: accumulation and ranks change nothing."""
        number = self.episode * 1_000_003 + self.decisions
        look = probe.look(draw_rows(probe.keys, STATE_ROWS, self.seed, number, "look"))
        if self.balance.on and self.balance.means is None:
            self.balance.start(look.losses)
        return observation(replace(look, losses=look.losses[self.outward.argsort()]), probe.progress, self.parts)

    def _begin_phase(self, observed: Tensor, progress: float) -> None:
        """Choose the action of the phase that begins, and note what its novelty is worth."""
        previous, self.action = self.action, self._choose(observed, progress)
        self.phase, self.observation = self._number(progress), observed
        self.decisions += 1
        factor = self.options.exploration * (1 - self._done(progress)) if self.learning else 0.0
        if not factor:
            self.bonus = 0.0
        elif self.hard:
            self.bonus = factor * hard_novelty(self.action, (part.actions for part in self.memory.parts))
        else:
            self.bonus = factor * soft_novelty(self.action, previous)

    def _choose(self, observed: Tensor, progress: float) -> Tensor:
        """float32 [M] in [0, 1]: the actor's action; with noise, or at random, while learning."""
        action = self.learner.soft(observed[None])[0]
        if self.learning:
            rng = np.random.default_rng([self.seed % 2**64, self.episode, self.decisions])
            done = self._done(progress)
            uniform = torch.from_numpy(rng.random(len(action))).float()
            noise = NOISE * (1 - 0.8 * done) * torch.from_numpy(rng.normal(size=len(action))).float()
            action = uniform if self.episode < self._random_episodes else (action + noise).clamp(0, 1)
        return harden(action) if self.hard else action

    @property
    def _random_episodes(self) -> int:
        return max(2, math.ceil(RANDOM * self.options.episodes))

    def _done(self, progress: float) -> float:
        """Share of the episodes that is over."""
        return (self.episode + progress) / self.options.episodes

    def _remember(self, reward: Tensor, following: Tensor | None) -> None:
        """The phase that is over, and the state after it; None after the last one."""
        assert self.action is not None
        after = torch.zeros_like(self.observation) if following is None else following
        self.memory.add(
            Transitions(
                before=self.observation[None],
                actions=self.action[None],
                rewards=reward[None],
                bonus=torch.tensor([self.bonus]),
                after=after[None],
                last=torch.tensor([following is None]),
                phases=torch.tensor([self.phase]),
            )
        )

    # ---- the two stages --------------------------------------------------------------------------------------------

    def begin_episode(self, number: int) -> None:
        self.episode, self.decisions, self.phase = number, 0, -1
        self.action, self.observation = None, torch.zeros(0)
        self.loss_before, self.bonus, self.journal = math.nan, 0.0, []
        self.balance.reset()

    def freeze(self) -> None:
        self.begin_episode(0)
        self.learning, self.episodes = False, None
        self.memory.clear()

    def save(self, folder: Path, about: Mapping[str, Any]) -> str:
        described = {
            "action": self.options.action,
            "state": list(self.parts),
            "phases": self.options.phases,
            "kinds": list(self.order),
            "widths": self.widths,
            "about": dict(about),
        }
        return artefact.write(folder, described, self.learner.module.state_dict())

    def adopt(self, folder: Path) -> None:
        self._load(folder)
        self.freeze()

    def _load(self, folder: Path) -> None:
        """Use a learned selection module.

        Raises:
            ValueError: it is missing or damaged, or was learned for other kinds or widths.
        """
        described, weights = artefact.read(folder)
        artefact.check_fit(described, folder, self.kinds, self.widths)
        self._build(tuple(described["kinds"]))
        self.learner.module.load_state_dict(weights)

    def origin(self) -> dict[str, Any]:
        path = str(self.options.selector)
        return {"selector": path, "fingerprint": artefact.fingerprint(Path(path)), "learned": "before"}

    # ---- health and state ------------------------------------------------------------------------------------------

    def _named_action(self) -> dict[str, float]:
        return {} if self.action is None else dict(zip(self.order, self.action.tolist(), strict=True))

    def health(self) -> dict[str, float]:
        """actor/a_KIND (the phase's action), balance/KIND (factors of size); while learning critic/loss, critic/q, reward/mean,
        reward/exploration."""
        found = self.averages.pop() | {f"actor/a_{kind}": value for kind, value in self._named_action().items()}
        if self.balance.on:
            factors = zip(self.kinds, self.balance.factors().tolist(), strict=True)
            found |= {f"balance/{kind}": value for kind, value in factors}
        return found

    def state_dict(self) -> dict[str, Any]:
        return {
            "learner": self.learner.state_dict(),
            "memory": self.memory.state_dict(),
            "balance": self.balance.state_dict(),
            "averages": self.averages.state_dict(),
            "tensors": {"action": self.action, "observation": self.observation},
            "numbers": [self.phase, self.decisions, self.episode],
            "reward": [self.loss_before, self.bonus],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        self.memory.load_state_dict(state["memory"])
        self.balance.load_state_dict(state["balance"])
        self.averages.load_state_dict(state["averages"])
        self.action, self.observation = state["tensors"]["action"], state["tensors"]["observation"]
        self.phase, self.decisions, self.episode = (int(n) for n in state["numbers"])
        self.loss_before, self.bonus = (float(n) for n in state["reward"])
