"""Outputs on candidate tokens: those of the whole vocabulary's softmax, with its gradient, in a chunk's memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilect.models.token_outputs import token_outputs
from tests.memory import growth

UNITS, WIDTH, VOCABULARY = 11, 8, 40


def made(seed: int = 0, bias: bool = True) -> tuple[Tensor, nn.Linear, Tensor]:
    torch.manual_seed(seed)
    head = nn.Linear(WIDTH, VOCABULARY, bias=bias)
    ids = torch.stack([torch.randperm(VOCABULARY)[:5] for _ in range(UNITS)])
    ids[3, 2:] = -1
    ids[7, 4] = -1
    return torch.randn(UNITS, WIDTH, requires_grad=True), head, ids


def plain(hidden: Tensor, head: nn.Linear, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    log_probs = head(hidden).double().log_softmax(1)
    rows = []
    for row, here in zip(log_probs, ids, strict=True):
        used = here[here >= 0]
        other = torch.ones(VOCABULARY, dtype=torch.bool)
        other[used] = False
        named = F.pad(row[used], (0, len(here) - len(used)), value=-torch.inf)
        rows.append(torch.cat([named, row[other].logsumexp(0, keepdim=True)]))
    return torch.stack(rows), torch.special.entr(log_probs.exp()).sum(1), log_probs.argmax(1)


@pytest.mark.parametrize("chunk", [None, 1, 4, UNITS])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_the_whole_logits(chunk: int | None, bias: bool) -> None:
    hidden, head, ids = made(bias=bias)
    inputs = [hidden, *head.parameters()]
    weights = torch.randn(UNITS, ids.shape[1] + 1)
    expected, entropy, best = plain(hidden, head, ids)
    found = token_outputs(hidden, head, ids, chunk)
    torch.testing.assert_close(found[0].double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1].double(), entropy, rtol=0, atol=1e-5)
    assert torch.equal(found[2], best) and not found[1].requires_grad
    losses = [(x.masked_fill(x == -torch.inf, 0.0) * weights).sum() for x in (expected, found[0])]
    for want, got in zip(*(torch.autograd.grad(loss, inputs) for loss in losses), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=2e-6)


def test_the_first_candidate_s_cross_entropy_is_that_of_the_vocabulary() -> None:
    hidden, head, ids = made(1)
    expected = F.cross_entropy(head(hidden), ids[:, 0])
    found = F.cross_entropy(token_outputs(hidden, head, ids)[0], torch.zeros(UNITS, dtype=torch.int64))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    inputs = [hidden, *head.parameters()]
    for want, got in zip(*(torch.autograd.grad(loss, inputs) for loss in (expected, found)), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("lead", "loss"), [(60.0, 60 - 1.313262), (200.0, 87.33655)])
def test_others_of_hardly_any_probability_keep_a_finite_value_and_a_gradient(lead: float, loss: float) -> None:
    """Exact to the smallest float32 number, where 1 - p would have been 0 from 1e-8 on."""
    head = nn.Linear(1, 3, bias=False)
    head.weight.data = torch.tensor([[lead], [0.0], [1.0]])
    hidden = torch.ones(1, 1, requires_grad=True)
    log_probs, _, _ = token_outputs(hidden, head, torch.tensor([[0]]))
    assert log_probs[0, 1].item() == pytest.approx(-loss, abs=1e-4)
    log_probs[0, 1].backward()
    exact = {60.0: 0.7310586 - 60, 200.0: -200.0}[
        lead
    ]  # below that number others have no gradient, the candidate keeps its own
    assert hidden.grad is not None and hidden.grad.item() == pytest.approx(exact, rel=1e-4)


def test_no_other_token_is_impossible_and_gives_no_nan() -> None:
    hidden, head, _ = made(2)
    ids = torch.arange(VOCABULARY).expand(UNITS, -1)
    log_probs, _, _ = token_outputs(hidden, head, ids)
    assert (log_probs[:, -1] == -torch.inf).all()
    F.cross_entropy(log_probs, torch.zeros(UNITS, dtype=torch.int64)).backward()
    expected = torch.autograd.grad(F.cross_entropy(head(hidden), ids[:, 0]), hidden)[0]
    torch.testing.assert_close(hidden.grad, expected, rtol=0, atol=1e-6)


def test_under_autocast_the_head_is_multiplied_in_bfloat16_and_outputs_are_float32() -> None:
    hidden, head, ids = made(3)
    with torch.autocast("cpu", torch.bfloat16):
        expected = head(hidden).float().log_softmax(1).gather(1, ids[:, :1])
        log_probs, _, _ = token_outputs(hidden, head, ids)
    torch.testing.assert_close(log_probs[:, :1], expected, rtol=0, atol=1e-6)
    inputs = [hidden, *head.parameters()]
    for want, got in zip(*(torch.autograd.grad(x.sum(), inputs) for x in (expected, log_probs[:, :1])), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)


@pytest.mark.slow
def test_a_step_on_a_large_vocabulary_needs_no_more_memory_than_one_on_plain_logits(tmp_path: Path) -> None:
    """V = 150,000: 400 positions, 12 candidates; 1.3 times is what the student's own step may grow to."""
    units, width, vocabulary = 400, 64, 150_000
    head = nn.Linear(width, vocabulary, bias=False)
    hidden, ids = torch.randn(units, width, requires_grad=True), torch.arange(12).expand(units, -1)
    teachers = torch.randn(units, 13).softmax(1)

    def usual() -> None:
        F.cross_entropy(head(hidden), ids[:, 0]).backward()

    def ours() -> None:
        log_probs, _, _ = token_outputs(hidden, head, ids)
        (
            F.cross_entropy(log_probs, torch.zeros(units, dtype=torch.int64)) - (teachers * log_probs).sum(1).mean()
        ).backward()

    assert growth(ours, tmp_path / "ours") <= 1.3 * growth(usual, tmp_path / "usual")
