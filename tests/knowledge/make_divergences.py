"""Writes divergences.json: values and gradients of the divergences as TRL, Liger-Kernel, DistiLLM and ToDi define them.

TRL 1.16.0 and liger-kernel 0.8.5 are imported (their wheels, unpacked, on PYTHONPATH are enough); of DistiLLM (commit d47e77f) and ToDi
(commit 45f1f8b), which are no packages, the two files below are loaded from clones.

python -m tests.knowledge.make_divergences DISTILLM_CLONE TODI_CLONE
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

FILE = Path(__file__).with_name("divergences.json")
TOKENS, CLASSES, TEMPERATURE = 4, 7, 2.0
Loss = Callable[[Tensor, Tensor], Tensor]  # of softened logits, student's first; the sum over tokens


def losses(distillm: Path, todi: Path) -> dict[str, tuple[str, float, Loss]]:
    """By source: our name of the divergence, its mixture, their function."""
    from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDFunction
    from trl.experimental.gkd import GKDTrainer

    def trl(beta: float) -> Loss:
        return lambda z, t: GKDTrainer.generalized_jsd_loss(z, t, beta=beta, reduction="sum")

    def liger(beta: float) -> Loss:
        return lambda z, t: LigerFusedLinearJSDFunction.distillation_loss_fn(z, t, beta=beta)

    sys.path.insert(0, str(distillm / "distillm"))
    sys.path.insert(0, str(todi / "code"))
    skewed = importlib.import_module("losses")
    various: Any = importlib.import_module("criterions.various_divergence").VariousDivergence
    batch = {"label": torch.zeros(TOKENS, dtype=torch.int64)}
    ones = SimpleNamespace(kd_temp=1.0, tea_temp=1.0, padding_id=-100)

    def skew(loss: Any, lam: float, entropy: bool) -> Loss:
        """Theirs is the mean over tokens, and of the forward one without the teacher's entropy, a constant."""
        constant = (lambda t: (t.softmax(-1) * t.log_softmax(-1)).sum()) if entropy else (lambda t: 0.0)
        return lambda z, t: loss(z, t, batch, lam) * TOKENS + constant(t)

    return {
        "trl beta 0": ("kl", 0.0, trl(0.0)),
        "trl beta 1": ("reverse-kl", 0.0, trl(1.0)),
        "trl beta 0.5": ("js", 0.5, trl(0.5)),
        "trl beta 0.2": ("js", 0.2, trl(0.2)),
        "liger beta 0": ("kl", 0.0, liger(0)),
        "liger beta 1": ("reverse-kl", 0.0, liger(1)),
        "liger beta 0.2": ("js", 0.2, liger(0.2)),
        "distillm skewed forward": ("skew-kl", 0.1, skew(skewed.skewed_forward_kl, 0.1, entropy=True)),
        "distillm skewed reverse": ("skew-reverse-kl", 0.3, skew(skewed.skewed_reverse_kl, 0.3, entropy=False)),
        "todi": ("todi", 0.0, lambda z, t: various.compute_ToDi(ones, z, t, batch["label"])),
    }


def main(distillm: Path, todi: Path) -> None:
    torch.manual_seed(0)
    student, teacher = 2 * torch.randn(2, TOKENS, CLASSES)
    found = {}
    for source, (distance, mixture, loss) in losses(distillm, todi).items():
        z = student.clone().requires_grad_()
        value = loss(z / TEMPERATURE, teacher / TEMPERATURE)
        value.backward()
        assert z.grad is not None
        found[source] = {"distance": distance, "mixture": mixture, "loss": value.item(), "gradient": z.grad.tolist()}
    content = {"temperature": TEMPERATURE, "student": student.tolist(), "teacher": teacher.tolist(), "found": found}
    FILE.write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
