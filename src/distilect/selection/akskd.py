"""AKSKD: an actor-critic picks which kinds of knowledge the student copies.

Wang et al., Improved Knowledge Distillation for Pre-trained Language Models via Knowledge Selection, Findings of EMNLP 2022, arXiv
2302.00444. The file follows the paper: state, action, actor and critic, their learning, reward, phases and exploration, then the two
stages. No code of it was released and parts of the text could not be read; what is marked "reconstruction" is our reading of it,
"ours" is not in the paper, and each such choice is an option.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from distilect.knowledge.labels import label_loss
from distilect.selection import artefact
from distilect.selection.balance import Balance
from distilect.selection.base import Episodes, Selector
from distilect.selection.buffers import Averages
from distilect.selection.draws import draw_rows
from distilect.selection.view import Look, Probe, Pull, SelectionContext, StepView

# ---- state ---------------------------------------------------------------------------------------------------------

STATE = ("student", "teacher", "progress", "losses")


def observation(look: Look, progress: float, parts: Sequence[str]) -> Tensor:
    """What the selection module is told, float32 [D]: the parts of the state, one after the other.

    `student` and `teacher`: [CLS] of the last layer, mean over rows, normalised to mean 0 and variance 1 (reconstruction: nothing is
    said of scaling, and models differ in theirs). `progress`: share of training that is done. `losses`: logarithms of the kinds'
    losses, 0 where a kind does not speak.
    """
    found = {
        "student": F.layer_norm(look.student, look.student.shape),
        "teacher": F.layer_norm(look.teachers, look.teachers.shape) if len(look.teachers) else look.teachers,
        "progress": torch.tensor([progress]),
        "losses": look.losses.clamp_min(1e-6).log().nan_to_num(0.0),
    }
    return torch.cat([found[part].float() for part in parts])


def mlp(*sizes: int) -> nn.Sequential:
    """Linear maps with ReLU between them: `len(sizes) - 1` layers."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


# ---- action, actor, critic -----------------------------------------------------------------------------------------


class SelectionModule(nn.Module):
    """The Knowledge Selection Module: N_fea of student and teacher, the actor μ and the critic Q.

    Args:
        widths: part of the state → how many numbers it has, in the order of an observation.
        kinds: M.
        hidden, width: of the 2-layer MLPs: D → hidden → width (reconstruction: 128, 64); `hidden` also of actor and critic.

    [CLS] vectors go through an MLP each, other parts of the state as they are. The actor's last layer starts near 0: every kind
    starts at about one half.
    """

    def __init__(self, widths: Mapping[str, int], kinds: int, hidden: int = 128, width: int = 64) -> None:
        super().__init__()
        self.widths = dict(widths)
        vectors = [part for part in self.widths if part in ("student", "teacher")]
        self.features = nn.ModuleDict({part: mlp(self.widths[part], hidden, width) for part in vectors})
        size = sum(width if part in self.features else count for part, count in self.widths.items())
        self.actor = mlp(size, hidden, hidden, kinds)
        self.critic = mlp(size + kinds, hidden, hidden, 1)
        with torch.no_grad():
            last = self.actor[-1]
            assert isinstance(last, nn.Linear)
            last.weight.mul_(0.1)
            last.bias.zero_()

    def state(self, observations: Tensor) -> Tensor:
        """[n, D] → s, [n, S]."""
        parts = observations.split(list(self.widths.values()), dim=-1)
        named = zip(self.widths, parts, strict=True)
        return torch.cat([self.features[n](p) if n in self.features else p for n, p in named], dim=-1)

    def act(self, state: Tensor) -> Tensor:
        """μ(s): [n, S] → [n, M] in (0, 1)."""
        return torch.sigmoid(self.actor(state))

    def value(self, state: Tensor, actions: Tensor) -> Tensor:
        """Q(s, a): [n]."""
        found: Tensor = self.critic(torch.cat([state, actions], dim=-1)).squeeze(-1)
        return found


def harden(soft: Tensor, threshold: float) -> Tensor:
    """1 where the actor's output exceeds λ, else 0; [..., M].

    Where nothing does, the largest one is on: a phase without any loss would waste its steps (reconstruction).
    """
    chosen = soft > threshold
    largest = F.one_hot(soft.argmax(-1), soft.shape[-1]).bool()
    return torch.where(chosen.any(-1, keepdim=True), chosen, largest).to(soft)


# ---- learning ------------------------------------------------------------------------------------------------------


@dataclass
class Transitions:
    """Decisions and what became of them; n rows each.

    Attributes:
        before, after: observations float32 [n, D]; `after` is 0 where nothing followed.
        actions: float32 [n, M].
        rewards: float32 [n], as they were measured; bonus: [n], for exploration.
        last: bool [n], no phase followed.
        phases, episodes: int64 [n].
    """

    before: Tensor
    actions: Tensor
    rewards: Tensor
    bonus: Tensor
    after: Tensor
    last: Tensor
    phases: Tensor
    episodes: Tensor

    def __len__(self) -> int:
        return len(self.rewards)

    def take(self, index: Tensor) -> Transitions:
        return Transitions(*(getattr(self, f.name)[index] for f in fields(self)))

    @staticmethod
    def join(parts: Sequence[Transitions]) -> Transitions:
        return Transitions(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Transitions)))

    def tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


class ActorCritic:
    """Deterministic policy gradient: critic by TD learning against a slowly following copy, actor by the critic's gradient.

    θ ← θ + η · ∂/∂θ mean Q(s, μ(s)); φ by the squared error to r + γ · Q'(s', μ(s')). The networks of the state learn with the
    critic (reconstruction). Optimisers: Adam (reconstruction).

    Args:
        action: `soft`, or `hard`: the critic sees 0 and 1, and the gradient passes the threshold as if it were not there
            (straight-through; reconstruction).
        target: `standard`: r + γ · Q'; `transcribed`: γ · r + Q', as the formula was handed down to us.
        tau: how far the copy moves towards the critic after each update.
    """

    def __init__(
        self,
        module: SelectionModule,
        *,
        action: str = "soft",
        threshold: float = 0.5,
        gamma: float = 0.9,
        target: str = "standard",
        tau: float = 0.01,
        critic_rate: float = 1e-3,
        actor_rate: float = 1e-4,
    ) -> None:
        self.module, self.copy = module, copy.deepcopy(module).requires_grad_(False)
        self.action, self.threshold = action, threshold
        self.gamma, self.target, self.tau = gamma, target, tau
        self.judging = [*module.features.parameters(), *module.critic.parameters()]
        self.acting = list(module.actor.parameters())
        self.slow: list[Tensor] = list(self.copy.parameters())
        self.fast: list[Tensor] = list(module.parameters())
        # fused: one call for all of these small tensors, or their bookkeeping would cost more than the arithmetic
        self.critic_optimizer = torch.optim.Adam(self.judging, lr=critic_rate, fused=True)
        self.actor_optimizer = torch.optim.Adam(self.acting, lr=actor_rate, fused=True)

    @torch.no_grad()
    def soft(self, observations: Tensor) -> Tensor:
        """μ(s) before any threshold: [n, D] → [n, M]."""
        return self.module.act(self.module.state(observations))

    def targets(self, batch: Transitions, rewards: Tensor) -> Tensor:
        """What the critic is to say; [n]. Nothing follows a last phase."""
        with torch.no_grad():
            actions = self._through(self.module.act(self.module.state(batch.after)))
            following = self.copy.value(self.copy.state(batch.after), actions) * ~batch.last
        if self.target == "transcribed":
            return self.gamma * rewards + following
        return rewards + self.gamma * following

    def update(self, batch: Transitions, rewards: Tensor) -> tuple[float, float]:
        """One step of both; `rewards` [n] as they are to be learned. Returns the critic's loss and mean Q(s, μ(s))."""
        with torch.enable_grad():
            said = self.module.value(self.module.state(batch.before), batch.actions)
            critic_loss = F.mse_loss(said, self.targets(batch, rewards))
            _descend(critic_loss, self.judging, self.critic_optimizer)

            state = self.module.state(batch.before).detach()
            promised = self.module.value(state, self._through(self.module.act(state))).mean()
            _descend(-promised, self.acting, self.actor_optimizer)
        with torch.no_grad():
            torch._foreach_lerp_(self.slow, self.fast, self.tau)
        return critic_loss.item(), promised.item()

    def _through(self, soft: Tensor) -> Tensor:
        """The action, with the gradient of μ."""
        if self.action == "soft":
            return soft
        return soft + (harden(soft, self.threshold) - soft).detach()

    def state_dict(self) -> dict[str, Any]:
        return {
            "module": dict(self.module.state_dict()),
            "copy": dict(self.copy.state_dict()),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)


def _descend(loss: Tensor, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """One step on these parameters; the others' gradients are not even computed."""
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    optimizer.step()


# ---- reward --------------------------------------------------------------------------------------------------------


def validation_loss(probe: Probe, limit: int, calibrated: bool = False) -> float:
    """Mean cross-entropy (squared error in regression) on labelled rows held out of train; never of dev.

    Args:
        calibrated: logits are divided by the temperature that suits these rows best (Guo et al., ICML 2017), so that knowledge
            which makes the student surer or less sure of the same answers neither gains nor loses. Ours; none in regression.
    """
    logits, labels = probe.validation(limit)
    known = ~labels.isnan() if labels.is_floating_point() else labels != -100
    logits, labels = logits[known], labels[known]
    if calibrated and not labels.is_floating_point() and len(labels):
        logits = logits * _best_scale(logits, labels)
    return float(label_loss(logits, labels).mean())


def _best_scale(logits: Tensor, labels: Tensor) -> float:
    """1/T with the least cross-entropy, within e^±5; the loss is convex in it."""

    def loss(log_scale: float) -> float:
        return float(F.cross_entropy(logits.double() * math.exp(log_scale), labels))

    return math.exp(float(minimize_scalar(loss, bounds=(-5.0, 5.0), method="bounded").x))


def virtual_reward(pull: Pull, weights: Tensor) -> Tensor:
    """How well the step that these weights ask for fits the held-out rows: the cosine of the two gradients; [n]. Ours.

    The first-order fall of the held-out loss under a step of fixed length along Σ_m w_m g_m, in units of the largest possible
    one. The length of a step is Adam's affair, so only the proportions of the weights count.

    Args:
        weights: [n, M], the kinds' weights in the loss.
    """
    weights = weights.double()
    lengths = ((weights @ pull.gram) * weights).sum(1).clamp_min(0).sqrt()
    reach = (weights @ pull.toward) / (lengths * pull.length).clamp_min(1e-12)
    return torch.where(lengths > 0, reach, torch.zeros_like(reach)).float()


# ---- exploration ---------------------------------------------------------------------------------------------------


def novelty(action: Tensor, previous: Tensor | None, seen: Counter[tuple[int, ...]], hard: bool) -> float:
    """The exploration reward before its factor η (formulas: reconstruction).

    Soft: 1 - cos(a_p, a_{p-1}), 0 in a first phase. Hard: 1 / √(how often the subset was chosen, this time included).
    """
    if hard:
        return 1 / math.sqrt(max(seen[_subset(action)], 1))
    return 0.0 if previous is None else 1.0 - float(F.cosine_similarity(action, previous, dim=0, eps=1e-8))


def _subset(action: Tensor) -> tuple[int, ...]:
    return tuple(int(a) for a in action.round())


# ---- the selector --------------------------------------------------------------------------------------------------


class ActorCriticWeights(Selector):
    """AKSKD's loss-weight selector: v_m = action_m × factor of size_m × weight_m.

    Training is cut into phases; each has one action, chosen from the state at its beginning and rewarded at its end by the fall of
    the cross-entropy on rows held out of train. Stage A learns over episodes: short trainings of throw-away students. Stage B, the
    run itself, decides without noise, reward or learning.

    Regression: squared error in place of cross-entropy.

    Args:
        action: `soft` (default) or `hard`.
        threshold: λ of hard actions (reconstruction: 0.5).
        state: parts of the state: student, teacher (the paper's), progress, losses.
        hidden, width: of the selection module.
        state_rows: rows of train that the [CLS] vectors are means over, drawn for each phase (reconstruction: as many as a batch; not a
            step's own rows, so that accumulation and ranks change nothing).
        balance, smoothing: see `balance.Balance`.
        weights: kind → factor beside the action; 1 where not named.
        phases: per training, of equal length (default, a reconstruction: 10); `step`: every optimiser step is one, as before the
            paper's refinement.
        learn: `episodes` (stage A, default), `online` (while distilling; no stage A), `off` (default with `selector`).
        selector: folder of a learned selection module, or of the run that it was learned in; with `learn: episodes` or `online`
            learning goes on from it, its experience included.
        episodes, share: of stage A: how many, on which share of the rows of train. It costs about episodes × share trainings.
        reward_rows: held-out rows of the reward (reconstruction: 512).
        measure: `phase`; or `calibrated`: the same, but the loss is that at the temperature which suits the held-out rows best
            (ours: a response at a high temperature makes the student less sure, which the cross-entropy punishes and no score
            does; in regression as `phase`); or `virtual`: at each phase's beginning the gradients of all kinds are compared with that of the held-out
            rows, which rewards any number of actions without trying them (ours; see `virtual_reward`; no later phase counts).
        virtual_actions: random actions that are rewarded per phase with `measure: virtual`.
        exploration: η, of the exploration reward; falls to 0 while learning (reconstruction: 0.1). 0 switches it off.
        noise: standard deviation of what is added to the actor's output while learning; falls to a fifth (reconstruction: 0.3).
        random: share of the learning in which actions are drawn at random (reconstruction: 0.2).
        gamma, target, tau, critic_rate, actor_rate: see `ActorCritic`.
        replay: learn from `all` transitions so far, or from those of this `episode` (reconstruction of the paper: on-policy).
        updates: of critic and actor after each phase; `batch_size`: transitions in each.
        normalise: rewards are divided by their standard deviation (`scale`), after the mean of their phase over episodes is taken
            off (`phase`): the first phase always gains most, whatever it copies. `none`. Both are ours.
    """

    name = "actor-critic"

    def __init__(
        self,
        action: Literal["soft", "hard"] | None = None,
        threshold: float | None = None,
        state: Sequence[str] | None = None,
        hidden: int = 128,
        width: int = 64,
        state_rows: int = 32,
        balance: Literal["labels", "unit", "none"] = "labels",
        smoothing: float = 0.95,
        weights: dict[str, float] | None = None,
        phases: int | Literal["step"] | None = None,
        learn: Literal["episodes", "online", "off"] | None = None,
        selector: str | None = None,
        episodes: int = 8,
        share: float = 0.25,
        reward_rows: int = 512,
        measure: Literal["phase", "calibrated", "virtual"] = "phase",
        virtual_actions: int = 32,
        exploration: float = 0.1,
        noise: float = 0.3,
        random: float = 0.2,
        gamma: float = 0.9,
        target: Literal["standard", "transcribed"] = "standard",
        tau: float = 0.01,
        critic_rate: float = 1e-3,
        actor_rate: float = 1e-4,
        replay: Literal["all", "episode"] = "all",
        updates: int = 20,
        batch_size: int = 32,
        normalise: Literal["phase", "scale", "none"] = "phase",
    ) -> None:
        given: dict[str, Any] = {"action": action, "threshold": threshold, "state": state, "phases": phases}
        self.design = _Design.of(given, hidden, width)
        learn = learn or ("off" if selector else "episodes")
        one_of("learn", learn, ("episodes", "online", "off"))
        one_of("measure", measure, ("phase", "calibrated", "virtual"))
        one_of("target", target, ("standard", "transcribed"))
        one_of("replay", replay, ("all", "episode"))
        one_of("normalise", normalise, ("phase", "scale", "none"))
        counts(
            hidden=hidden,
            width=width,
            state_rows=state_rows,
            episodes=episodes,
            reward_rows=reward_rows,
            virtual_actions=virtual_actions,
            updates=updates,
            batch_size=batch_size,
        )
        shares(share=share, random=random, gamma=gamma, tau=tau)
        above_zero(share=share, critic_rate=critic_rate, actor_rate=actor_rate)
        zero_or_more(exploration=exploration, noise=noise)
        if learn == "off" and selector is None:
            raise ValueError("learn: off needs a learned selection module: set selector: FOLDER")
        self.given = {name: value for name, value in given.items() if value is not None}
        self.learn, self.path, self.random = learn, selector, random
        self.balance, self.by_kind = Balance(balance, smoothing), dict(weights or {})
        self.state_rows, self.reward_rows = state_rows, reward_rows
        self.measure, self.virtual_actions = measure, virtual_actions
        self.exploration, self.noise = exploration, noise
        self.count, self.share = (episodes if learn == "episodes" else 1), share
        self.learner_options: dict[str, Any] = {
            "gamma": gamma,
            "target": target,
            "tau": tau,
            "critic_rate": critic_rate,
            "actor_rate": actor_rate,
        }
        self.replay, self.updates, self.batch_size, self.normalise = replay, updates, batch_size, normalise
        self.wants_losses = self.balance.on
        self.wants_teacher_cls = "teacher" in self.design.state
        if selector is not None:  # what it looks at is the artefact's affair
            self.wants_teacher_cls = "teacher" in artefact.described(Path(selector))["state"]
        self.memory: list[Transitions] = []
        self.averages = Averages()
        self.seen: Counter[tuple[int, ...]] = Counter()  # hard actions, over the whole learning
        self.journal: list[dict[str, Any]] = []  # of this episode, a line per phase
        self.episode, self.learned = 0, 0  # its number; updates so far
        self._forget()

    def _forget(self) -> None:
        """Another training begins."""
        self.phase, self.decisions = -1, 0
        self.action: Tensor | None = None  # of this phase, in the module's order of kinds
        self.observation: Tensor | None = None
        self.following: Tensor | None = None  # the observation after the phase; None: it was the last one
        self.previous: Tensor | None = None  # action of the phase before
        self.loss_before, self.bonus = math.nan, 0.0
        self.journal = []
        self.balance.reset()

    # ---- setting up ------------------------------------------------------------------------------------------------

    def setup(self, context: SelectionContext) -> None:
        self.kinds = self.balance.kinds = context.kinds
        self.seed = context.seed
        if len(context.kinds) < 2:
            raise ValueError(
                f"chooses between kinds of knowledge, but the method copies {', '.join(context.kinds)} only"
            )
        unknown = [kind for kind in self.by_kind if kind not in context.kinds]
        if unknown:
            raise ValueError(f"weights name {unknown}, but the method copies {list(context.kinds)}")
        no_rows = context.validation_labels is not None and not len(context.validation_labels)
        if self.learn != "off" and no_rows:
            raise ValueError("learns from rows held out of train: set data.validation_size or data.validation")
        self.factors = torch.tensor([float(self.by_kind.get(kind, 1.0)) for kind in context.kinds])
        self.widths = {
            "student": context.student_width,
            "teacher": sum(context.teacher_widths),
            "progress": 1,
            "losses": len(context.kinds),
        }
        if self.path is not None:
            self._load(Path(self.path))
        else:
            self._use(self.design, context.kinds)
        if "teacher" in self.design.state and not all(context.teacher_widths or (0,)):
            raise ValueError(
                "looks at the teachers' last layer, but one of them gives outputs only: set state: [student, progress, losses]"
            )
        self._plan_episodes()

    def _plan_episodes(self) -> None:
        phases = self.design.phases
        least = phases if isinstance(phases, int) else 1
        self.episodes = Episodes(self.count, self.share, least) if self.learn == "episodes" else None

    def _use(self, design: _Design, kinds: tuple[str, ...]) -> None:
        """Build the selection module; what is random in it depends on the seed alone."""
        self.design, self.module_kinds = design, kinds
        self.outward = torch.tensor([kinds.index(kind) for kind in self.kinds])  # the module's order → the method's
        self.inward = torch.argsort(self.outward)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            widths = {part: self.widths[part] for part in design.state}
            module = SelectionModule(widths, len(kinds), design.hidden, design.width)
        self.learner = ActorCritic(module, action=design.action, threshold=design.threshold, **self.learner_options)

    @property
    def learning(self) -> bool:
        return self.learn != "off"

    @property
    def hard(self) -> bool:
        return self.design.action == "hard"

    # ---- deciding --------------------------------------------------------------------------------------------------

    def weights(self, view: StepView) -> Tensor:
        """float32 [M]; all 1 before the first phase has begun."""
        action = torch.ones(len(self.kinds)) if self.action is None else self.action[self.outward]
        return (action * self.factors * self.balance.factors()).to(view.student.device)

    def begin_epoch(self, probe: Probe, epoch: int) -> None:
        if self.action is None:  # else: a later epoch, or a run resumed within this one
            if self.learning and self.measure != "virtual":
                self.loss_before = self._validation_loss(probe)
            self._begin_phase(probe, self._look(probe))

    def _validation_loss(self, probe: Probe) -> float:
        return validation_loss(probe, self.reward_rows, calibrated=self.measure == "calibrated")

    def _look(self, probe: Probe) -> Look:
        number = self.episode * 1_000_003 + self.decisions
        return probe.look(draw_rows(probe.keys, self.state_rows, self.seed, number, "look"))

    def _observe_state(self, look: Look, progress: float) -> Tensor:
        inner = Look(look.student, look.teachers, look.losses[self.inward])
        return observation(inner, progress, self.design.state)

    def _begin_phase(self, probe: Probe, look: Look) -> None:
        """Choose the action of the phase that begins."""
        if self.balance.on and self.balance.means is None:
            self.balance.start(look.losses)
        self.phase, self.previous = self._number(probe.progress), self.action
        self.observation = self._observe_state(look, probe.progress)
        if self.learning and self.measure == "virtual":
            self._imagine(probe)
        self.action = self._decide(self.observation, probe.progress)
        if self.hard and self.learning:
            self.seen[_subset(self.action)] += 1
        share = self.exploration * (1 - self._done(probe.progress)) if self.learning else 0.0
        self.bonus = share * novelty(self.action, self.previous, self.seen, self.hard) if share else 0.0
        self.decisions += 1

    def _number(self, progress: float) -> int:
        """Of the phase at that point of the training; the nudge keeps k/P in phase k whatever its rounding."""
        phases = self.design.phases
        return int(progress * phases + 1e-9) if isinstance(phases, int) else self.decisions

    def _done(self, progress: float) -> float:
        """Share of the learning that is over."""
        return (self.episode + progress) / self.count

    def _decide(self, observed: Tensor, progress: float) -> Tensor:
        """float32 [M] in [0, 1]: the actor's action; with noise, or at random, while learning."""
        soft = self.learner.soft(observed.unsqueeze(0))[0]
        if self.learning:
            rng = np.random.default_rng([self.seed % 2**64, self.episode, self.decisions])
            done = self._done(progress)
            draws = torch.from_numpy(rng.random(len(soft))).float()
            added = torch.from_numpy(rng.normal(size=len(soft))).float()
            soft = draws if done < self.random else soft + self.noise * (1 - 0.8 * done) * added
            soft = soft.clamp(0, 1)
        return harden(soft, self.design.threshold) if self.hard else soft

    # ---- reward, at the end of a phase -------------------------------------------------------------------------------

    def note_losses(self, sums: Tensor, counts: Tensor) -> None:
        self.balance.add(sums, counts)

    def after_step(self, probe: Probe) -> None:
        if self.action is None:
            return
        over = probe.progress >= 1
        if not over and self.design.phases != "step" and self._number(probe.progress) == self.phase:
            return
        look = None if over else self._look(probe)
        if self.learning and self.measure != "virtual":
            after = self._validation_loss(probe)
            reward, self.loss_before = self.loss_before - after, after
            self.following = None if look is None else self._observe_state(look, probe.progress)
            self.observe(torch.tensor(reward))
        if look is not None:
            self._begin_phase(probe, look)

    def observe(self, reward: Tensor) -> None:
        """The reward of the phase that is over, a single value: remember it, and learn."""
        assert self.action is not None and self.observation is not None
        after = torch.zeros_like(self.observation) if self.following is None else self.following
        self._remember(self.observation, self.action, reward, self.bonus, after, self.following is None)
        self.averages.add("reward/mean", reward)
        self.averages.add("reward/exploration", torch.tensor(self.bonus))
        loss, promised = self._learn()
        self.journal.append(
            {
                "episode": self.episode,
                "phase": self.phase,
                "action": dict(zip(self.module_kinds, [round(float(a), 4) for a in self.action], strict=True)),
                "reward": float(reward),
                "exploration": self.bonus,
                "validation_loss": self.loss_before,
                "critic_loss": loss,
                "q": promised,
            }
        )

    def _remember(
        self, before: Tensor, action: Tensor, reward: Tensor, bonus: float, after: Tensor, last: bool
    ) -> None:
        self.memory.append(
            Transitions(
                before[None],
                action[None],
                reward.float().reshape(1),
                torch.tensor([bonus]),
                after[None],
                torch.tensor([last]),
                torch.tensor([self.phase]),
                torch.tensor([self.episode]),
            )
        )

    def _imagine(self, probe: Probe) -> None:
        """Reward random actions by gradients alone, and learn from them. The size of each kind is part of its gradient's weight."""
        assert self.observation is not None
        number = self.episode * 1_000_003 + self.decisions
        pull = probe.pull(draw_rows(probe.keys, self.state_rows, self.seed, number, "look"), 4 * self.state_rows)
        rng = np.random.default_rng([self.seed % 2**64, self.episode, self.decisions, 1])
        actions = torch.from_numpy(rng.random((self.virtual_actions, len(self.kinds)))).float()
        if self.hard:
            actions = harden(actions, self.design.threshold)
        weights = actions[:, self.outward] * self.factors * self.balance.factors()
        rewards = virtual_reward(pull, weights)
        self.averages.add("reward/mean", rewards.sum(), len(rewards))
        self.phase = self._number(probe.progress)
        nothing = torch.zeros_like(self.observation)
        for action, reward in zip(actions, rewards, strict=True):
            self._remember(self.observation, action, reward, 0.0, nothing, True)
        loss, promised = self._learn()
        self.journal.append(
            {
                "episode": self.episode,
                "phase": self.phase,
                "reward": float(rewards.mean()),
                "best": float(rewards.max()),
                "critic_loss": loss,
                "q": promised,
            }
        )

    # ---- learning ----------------------------------------------------------------------------------------------------

    def _learn(self) -> tuple[float, float]:
        """Some updates from what is remembered; returns the last critic loss and Q."""
        self.memory = [Transitions.join(self.memory)]
        memory = self.memory[0]
        rewards = learned_rewards(memory, self.normalise) + memory.bonus
        usable = np.arange(len(memory))
        if self.replay == "episode":
            usable = (memory.episodes == self.episode).nonzero().squeeze(1).numpy()
        loss = promised = math.nan
        for _ in range(self.updates):
            rng = np.random.default_rng([self.seed % 2**64, self.learned, 2])
            index = torch.from_numpy(rng.choice(usable, size=min(self.batch_size, len(usable)), replace=False))
            loss, promised = self.learner.update(memory.take(index), rewards[index])
            self.learned += 1
        self.averages.add("critic/loss", torch.tensor(loss))
        self.averages.add("critic/q", torch.tensor(promised))
        return loss, promised

    # ---- the two stages ------------------------------------------------------------------------------------------------

    def begin_episode(self, number: int) -> None:
        self._forget()
        self.episode = number

    def freeze(self) -> None:
        """Stage B begins: no noise, no reward, no learning."""
        self._forget()
        self.learn, self.episodes, self.episode = "off", None, 0
        self.memory = []

    def origin(self) -> dict[str, Any]:
        if self.path is None:
            return {"selector": None, "learned": "while distilling"}
        how = "before" if self.learn == "off" else "before, and while distilling"
        return {"selector": self.path, "fingerprint": artefact.fingerprint(Path(self.path)), "learned": how}

    def save(self, folder: Path, about: Mapping[str, Any]) -> str:
        """The selection module and its experience as safetensors and JSON; returns its fingerprint.

        Args:
            about: what is said of how it was learned; plain values.
        """
        described = {
            "kinds": list(self.module_kinds),
            **self.design.to_dict(),
            "widths": {part: self.widths[part] for part in self.design.state},
            "about": dict(about),
        }
        tensors = {f"module.{name}": value for name, value in self.learner.module.state_dict().items()}
        if self.memory:
            memory = Transitions.join(self.memory)
            tensors |= {f"memory.{name}": value for name, value in memory.tensors().items()}
        return artefact.write(folder, described, tensors)

    def adopt(self, folder: Path) -> None:
        """Go on as `freeze`, with the selection module of this folder."""
        self._load(folder)
        self.freeze()

    def _load(self, path: Path) -> None:
        """Use a learned selection module.

        Raises:
            ValueError: it is missing or damaged, or was learned for other kinds, widths or options.
        """
        described, tensors = artefact.read(path)
        design = _Design.of(described, described["hidden"], described["width"])
        for name, value in self.given.items():
            if list(value) != list(described[name]) if name == "state" else value != described[name]:
                raise ValueError(
                    f"{name} is {value!r}, but {path} was learned with {described[name]!r}: leave {name} out"
                )
        kinds = tuple(described["kinds"])
        if set(kinds) != set(self.kinds):
            raise ValueError(
                f"{path} chooses among {', '.join(kinds)}, but the method copies {', '.join(self.kinds)}: copy the same kinds"
            )
        for part, width in described["widths"].items():
            if self.widths[part] != width:
                raise ValueError(
                    f"{path} was learned with {width} numbers per token of the {part}, here there are {self.widths[part]}: it fits models "
                    "of that width only, whatever their depth"
                )
        self._use(design, kinds)
        module = {n.removeprefix("module."): v for n, v in tensors.items() if n.startswith("module.")}
        self.learner.module.load_state_dict(module)
        self.learner.copy.load_state_dict(module)
        memory = {n.removeprefix("memory."): v for n, v in tensors.items() if n.startswith("memory.")}
        if memory:
            memory["episodes"] = torch.full_like(memory["episodes"], -1)  # of none of this run's episodes
            self.memory = [Transitions(**memory)]

    # ---- health and state ------------------------------------------------------------------------------------------------

    def health(self) -> dict[str, float]:
        """actor/a_KIND (the phase's action), balance/KIND (factors of size); while learning critic/loss, critic/q, reward/mean,
        reward/exploration."""
        found = self.averages.pop()
        if self.action is not None:
            found |= {f"actor/a_{k}": float(a) for k, a in zip(self.module_kinds, self.action, strict=True)}
        if self.balance.on:
            factors = zip(self.kinds, self.balance.factors().tolist(), strict=True)
            found |= {f"balance/{kind}": value for kind, value in factors}
        return found

    def state_dict(self) -> dict[str, Any]:
        memory = Transitions.join(self.memory).tensors() if self.memory else None
        return {
            "learner": self.learner.state_dict(),
            "memory": memory,
            "balance": self.balance.state_dict(),
            "averages": {"sums": dict(self.averages.sums), "counts": dict(self.averages.counts)},
            "seen": [[list(subset), count] for subset, count in self.seen.items()],
            "tensors": {"action": self.action, "observation": self.observation, "previous": self.previous},
            "numbers": [self.phase, self.decisions, self.episode, self.learned],
            "reward": [self.loss_before, self.bonus],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        self.memory = [] if state["memory"] is None else [Transitions(**state["memory"])]
        self.balance.load_state_dict(state["balance"])
        self.averages = Averages(**state["averages"])
        self.seen = Counter({tuple(subset): int(count) for subset, count in state["seen"]})
        for name, value in state["tensors"].items():
            setattr(self, name, value)
        self.phase, self.decisions, self.episode, self.learned = (int(n) for n in state["numbers"])
        self.loss_before, self.bonus = (float(n) for n in state["reward"])


def learned_rewards(memory: Transitions, normalise: str) -> Tensor:
    """float32 [n]: the measured rewards as the critic learns them; see `ActorCriticWeights.normalise`."""
    rewards = memory.rewards.double()
    if normalise == "none":
        return memory.rewards
    if normalise == "phase":
        for phase in memory.phases.unique():
            same = memory.phases == phase
            rewards = torch.where(same, rewards - rewards[same].mean(), rewards)
    return (rewards / rewards.std(unbiased=False).clamp_min(1e-8)).float()


@dataclass(frozen=True)
class _Design:
    """What a selection module is, wherever it is used: part of its artefact."""

    action: str
    threshold: float
    state: tuple[str, ...]
    phases: int | str
    hidden: int
    width: int

    @classmethod
    def of(cls, given: Mapping[str, Any], hidden: int, width: int) -> _Design:
        """From options or an artefact; None stands for the default.

        Raises:
            ValueError: a value that does not fit.
        """
        action = given["action"] or "soft"
        one_of("action", action, ("soft", "hard"))
        state = ("student", "teacher") if given["state"] is None else given["state"]
        if isinstance(state, str) or not state:
            raise ValueError(f"state is {state!r}, expected a list such as [student, teacher]")
        for part in state:
            one_of("state", part, STATE)
        phases = 10 if given["phases"] is None else given["phases"]
        if phases != "step" and (not isinstance(phases, int) or isinstance(phases, bool) or phases < 1):
            raise ValueError(f"phases is {phases!r}, expected a whole number from 1, or 'step' for one per step")
        threshold = 0.5 if given["threshold"] is None else float(given["threshold"])
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold is {threshold}, expected a number from 0 to less than 1")
        ordered = tuple(part for part in STATE if part in state)
        return cls(action, threshold, ordered, phases, hidden, width)

    def to_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"state": list(self.state)}
