"""Ways to weigh four kinds of knowledge, in small worlds that are trained for real: a training takes half a second, so many worlds can be.

    python -m benchmarks.kinds_world --worlds 8

A world has random labels by a random network, 15 % of them wrong; a teacher of two hidden layers that has seen four times the student's rows; and
a student of one, cut from it. The selectors are distilect's own. A search trains by each of the fifteen subsets and one half for all, on a
quarter of the rows, and the validation loss chooses: four trainings. The actor-critic costs two, and credit none.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import write_result
from distilect.selection import KindGradients, Look, LossWeights, SelectionContext
from distilect.selection.akskd import ActorCriticWeights
from distilect.selection.alignment_kinds import AlignedKinds
from distilect.selection.draws import draw_rows
from distilect.selection.static import AllOnes, FixedWeights, RandomSoft
from distilect.signals import fit_calibration
from distilect.tasks import Task

KINDS = ("labels", "response", "feature", "relation")
GRID = [one for one in itertools.product((1.0, 0.0), repeat=4) if any(one)] + [(0.5, 1.0, 0.5, 0.5)]
TASK = Task("world", "classification", ("0", "1"), ("accuracy",), 1)
WIDTH, INPUTS, HELD, TESTED = 48, 20, 200, 3000
EPOCHS, BATCH, RATE, TEMPERATURE = 8, 32, 2e-3, 4.0


class Net(nn.Module):
    """Logits and what the output layer reads."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise((INPUTS, *widths)))
        self.out = nn.Linear(widths[-1], 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.out(x), x


class World:
    """Rows, teacher and kinds of knowledge of one seed."""

    def __init__(self, seed: int, rows: int = 480) -> None:
        self.draws = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        truth = Net(12, 12)
        for p in truth.parameters():
            p.data = torch.randn(p.shape, generator=self.draws) * (1.5 if p.ndim == 1 else 2.0 / math.sqrt(p.shape[1]))
        x = torch.randn(4 * rows + HELD + TESTED, INPUTS, generator=self.draws)
        with torch.no_grad():
            margin = truth(x)[0] @ torch.tensor([-1.0, 1.0])
        y = (margin > margin.median()).long() ^ (torch.rand(len(x), generator=self.draws) < 0.15)
        seen, held, tested = (slice(4 * rows), slice(4 * rows, 4 * rows + HELD), slice(-TESTED, None))
        self.teacher = self.taught(x[seen], y[seen])
        self.x, self.y, self.held, self.tested = x[:rows], y[:rows], (x[held], y[held]), (x[tested], y[tested])
        with torch.no_grad():
            self.said, self.features = self.teacher(self.x)

    def taught(self, x: Tensor, y: Tensor) -> Net:
        net = Net(WIDTH, WIDTH)
        optimizer = torch.optim.Adam(net.parameters(), 2e-3, weight_decay=1e-4)
        for _ in range(12):
            for rows in torch.randperm(len(x), generator=self.draws).split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(net(x[rows])[0], y[rows]).backward()
                optimizer.step()
        return net

    def student(self) -> Net:
        net = Net(WIDTH)
        net.hidden[0].load_state_dict(self.teacher.hidden[0].state_dict())
        net.out.load_state_dict(self.teacher.out.state_dict())
        return net

    def losses(self, student: Net, rows: Tensor) -> Tensor:
        """[4]: mean over rows of each kind."""
        logits, features = student(self.x[rows])
        softened, said = ((z / TEMPERATURE).log_softmax(-1) for z in (logits, self.said[rows]))
        own, theirs = (F.normalize(h, dim=1) for h in (features, self.features[rows]))
        return torch.stack(
            [
                F.cross_entropy(logits, self.y[rows]),
                TEMPERATURE**2 * F.kl_div(softened, said, reduction="batchmean", log_target=True),
                F.mse_loss(features, self.features[rows]),
                F.mse_loss(own @ own.T, theirs @ theirs.T),
            ]
        )

    def score(self, student: Net) -> float:
        with torch.no_grad():
            return float((student(self.tested[0])[0].argmax(1) == self.tested[1]).float().mean())


@dataclass
class WorldProbe:
    """`selection.Probe` of a training in a world; a row's identity is its number."""

    world: World
    student: Net
    keys: Tensor
    calibrated: bool
    progress: float = 0.0
    step_losses: tuple[Tensor, Tensor] | None = None
    looks: list[int] = field(default_factory=list)

    def look(self, keys: Tensor) -> Look:
        with torch.no_grad():
            own = self.student(self.world.x[keys])[1].mean(0)
            return Look(own, self.world.features[keys].mean(0), self.world.losses(self.student, keys))

    def validation(self, limit: int | None = None) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self.student(self.world.held[0])[0], self.world.held[1]

    def kind_gradients(self, keys: Tensor, limit: int) -> KindGradients:
        self.looks.append(len(keys))
        weights = list(self.student.parameters())

        def gradient(loss: Tensor) -> Tensor:
            found = torch.autograd.grad(loss, weights, retain_graph=True, materialize_grads=True)
            return torch.cat([g.flatten() for g in found]).double()

        kinds = torch.stack([gradient(loss) for loss in self.world.losses(self.student, keys)])
        rows = draw_rows(torch.arange(HELD), limit, 0, len(self.looks), "look")
        logits, labels = self.student(self.world.held[0][rows])[0], self.world.held[1][rows]
        if self.calibrated:
            logits = fit_calibration(TASK, logits.detach().numpy(), labels.numpy())(logits)
        target = gradient(F.cross_entropy(logits, labels))
        return KindGradients(kinds @ kinds.T, kinds @ target, float(target.norm()))


def train(world: World, selector: LossWeights, seed: int, share: float = 1.0, calibrated: bool = True) -> Net:
    """A student whose kinds the selector weighs, on a share of the rows that is drawn by seed."""
    draws = torch.Generator().manual_seed(seed)
    student, rows = world.student(), torch.randperm(len(world.x), generator=draws)[: round(share * len(world.x))]
    probe: Any = WorldProbe(world, student, rows.sort().values, calibrated)  # what these selectors ask for
    optimizer = torch.optim.Adam(student.parameters(), RATE)
    batches = [b for _ in range(EPOCHS) for b in rows[torch.randperm(len(rows), generator=draws)].split(BATCH)]
    selector.begin_epoch(probe, 0)
    for step, batch in enumerate(batches):
        view: Any = SimpleNamespace(student=torch.zeros(1), seed=seed, step=step)
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / len(batches))
        losses = world.losses(student, batch)
        optimizer.zero_grad()
        (selector.decide(view) @ losses).backward()
        optimizer.step()
        probe.progress = (step + 1) / len(batches)
        probe.step_losses = losses.detach().double() * len(batch), torch.full((4,), float(len(batch))).double()
        selector.learn(probe)
    return student


def set_up(selector: LossWeights, world: World, seed: int) -> LossWeights:
    selector.setup(
        SelectionContext(
            teachers=("teacher",),
            kinds=KINDS,
            seed=seed,
            student_width=WIDTH,
            teacher_widths=(WIDTH,),
            validation_labels=world.held[1].numpy(),
        )
    )
    return selector


def fixed(world: World, weights: tuple[float, ...], seed: int) -> LossWeights:
    named = dict(zip(KINDS, weights, strict=True))
    return set_up(FixedWeights(weights=named, balance="labels"), world, seed)


def searched(world: World, seed: int) -> tuple[float, ...]:
    """The point of the grid with the least validation loss after a training on a quarter of the rows."""

    def loss(n: int) -> float:
        student = train(world, fixed(world, GRID[n], seed), 100 * seed + n, share=0.25)
        with torch.no_grad():
            return float(F.cross_entropy(student(world.held[0])[0], world.held[1]))

    return GRID[min(range(len(GRID)), key=loss)]


def actor(world: World, seed: int) -> LossWeights:
    """After its stage A."""
    selector = set_up(ActorCriticWeights(), world, seed)
    assert isinstance(selector, ActorCriticWeights) and selector.episodes is not None
    for number in range(selector.episodes.count):
        selector.begin_episode(number)
        train(world, selector, 1000 * seed + number, share=selector.episodes.share)
    selector.freeze()
    return selector


def scores(world: World, seed: int) -> dict[str, float]:
    """Accuracy of the student of each way."""
    chosen: dict[str, LossWeights] = {
        "labels alone": fixed(world, (1.0, 0.0, 0.0, 0.0), seed),
        "all-ones": set_up(AllOnes(balance="labels"), world, seed),
        "random-soft": set_up(RandomSoft(balance="labels"), world, seed),
        "search": fixed(world, searched(world, seed), seed),
        "akskd": actor(world, seed),
        "credit": set_up(AlignedKinds(), world, seed),
    }
    found = {name: world.score(train(world, selector, seed)) for name, selector in chosen.items()}
    plain = train(world, set_up(AlignedKinds(), world, seed), seed, calibrated=False)
    return found | {"credit, not calibrated": world.score(plain)}


def summary(found: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Way → mean accuracy, and its difference from the search over worlds, in points."""
    table = {name: np.array([one[name] for one in found]) for name in found[0]}
    lines = {}
    for name, values in table.items():
        against = 100 * (values - table["search"])
        error = against.std(ddof=1) / math.sqrt(len(against))
        lines[name] = {
            "accuracy": round(100 * float(values.mean()), 2),
            "minus_search": round(float(against.mean()), 2),
            "standard_error": round(float(error), 2),
        }
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for seed in range(given.worlds):
        started = time.process_time()
        found.append(scores(World(seed), seed))
        print(seed, f"{time.process_time() - started:.0f} s", found[-1], flush=True)
        if len(found) > 1:
            write_result("kinds_world", {"worlds": len(found), "summary": summary(found), "scores": found})


if __name__ == "__main__":
    main()
