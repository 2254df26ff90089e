"""Sparse outputs: exact where they claim to be, unbiased where they are drawn, small on disk."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from distilect.signals.sparse import (
    SparseOutputs,
    candidates,
    draw,
    on_candidates,
    pack_draws,
    pack_top,
    top,
    unpack_draws,
    unpack_top,
)

TOP, DRAWS = 11, 22  # with 18 bits for an id at most 50 bytes a unit


def randn(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def keys(count: int, start: int = 0) -> Tensor:
    return torch.arange(start, start + count) * 0x9E3779B97F4A7C1


def dense(outputs: SparseOutputs, vocabulary: int) -> Tensor:
    """float64 [U, V]: probabilities, the rest shared equally."""
    found = torch.zeros(len(outputs.ids), vocabulary, dtype=torch.float64)
    for unit, (ids, values, rest) in enumerate(zip(outputs.ids, outputs.log_probs, outputs.rest, strict=True)):
        used = ids >= 0
        found[unit] = rest.double().exp() / max(1, vocabulary - int(used.sum()))
        found[unit, ids[used]] = values[used].double().exp()
    return found


def shares_of(drawn: SparseOutputs, vocabulary: int) -> Tensor:
    """float64 [U, V]."""
    found = torch.zeros(len(drawn.ids), vocabulary, dtype=torch.float64)
    return found.scatter_add(1, drawn.ids.clamp_min(0), drawn.log_probs.double().exp())


def test_top_keeps_the_likeliest_tokens_and_the_mass_of_all_others() -> None:
    logits = randn(5, 40)
    probabilities = logits.double().softmax(-1)
    found = top(logits, 6)
    assert (found.ids == logits.argsort(dim=1, descending=True)[:, :6]).all()
    torch.testing.assert_close(found.log_probs, probabilities.gather(1, found.ids).log().float())
    rest = 1 - probabilities.gather(1, found.ids).sum(1)
    torch.testing.assert_close(found.rest.double(), rest.log(), rtol=0, atol=1e-5)


def test_a_tiny_rest_is_exact() -> None:
    """1 - sum would be 0 in float32."""
    logits = torch.tensor([[30.0, 0.0, 0.0, 0.0]])
    assert float(top(logits, 1).rest) == pytest.approx(math.log(3) - 30, abs=1e-5)


def test_top_of_a_vocabulary_smaller_than_k_names_every_token() -> None:
    found = top(torch.tensor([[1.0, 2.0, -torch.inf]]), 5)
    assert found.ids.tolist() == [[1, 0, -1, -1, -1]] and found.rest.tolist() == [-torch.inf]
    assert (found.log_probs[:, 2:] == -torch.inf).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_expected_cross_entropy_and_gradient_of_draws_are_the_teacher_s(seed: int) -> None:
    units, n = 20_000, 4
    teacher, log_q = randn(1, 50, seed=seed, scale=2.0), randn(50, seed=seed + 9).log_softmax(-1).double()
    p = teacher.double().softmax(-1)[0]
    shares = shares_of(draw(teacher.expand(units, -1), keys(units), seed, n), 50)
    estimates = -shares @ log_q
    assert abs(estimates.mean() + p @ log_q) < 4 * estimates.std() / math.sqrt(units)
    # the gradient by the student's logits is q - shares: unbiased if every token's share is
    error = (p * (1 - p) / (n * units)).sqrt()
    assert ((shares.mean(0) - p).abs() < 4.5 * error).all()


def test_a_part_of_the_distribution_per_draw_varies_less_than_independent_draws() -> None:
    teacher, log_q = randn(1, 50, seed=3, scale=2.0), randn(50, seed=4).log_softmax(-1).double()
    p = teacher.double().softmax(-1)[0]
    ours = shares_of(draw(teacher.expand(5000, -1), keys(5000), 0, n=8), 50) @ log_q
    independent = (p @ log_q**2 - (p @ log_q) ** 2) / 8
    assert ours.var() < 0.8 * independent


def test_draws_depend_on_the_key_and_the_seed_and_on_nothing_else() -> None:
    logits = randn(6, 30, seed=5, scale=1.0)
    whole = draw(logits, keys(6), 1, DRAWS)
    order = torch.tensor([4, 1, 5])
    part = draw(logits[order], keys(6)[order], 1, DRAWS)
    assert torch.equal(part.ids, whole.ids[order]) and torch.equal(part.log_probs, whole.log_probs[order])
    same = logits[:1].expand(6, -1)
    assert len({tuple(ids.tolist()) for ids in draw(same, keys(6), 1, DRAWS).ids}) > 1
    assert not torch.equal(draw(logits, keys(6), 2, DRAWS).ids, whole.ids)


def test_draws_are_distinct_shares_that_sum_to_one_and_never_impossible_tokens() -> None:
    logits = randn(20, 12, seed=6)
    logits[:, ::3] = -torch.inf
    found = draw(logits, keys(20), 0, DRAWS)
    assert found.ids.shape == (20, DRAWS) and (found.rest == -torch.inf).all()
    assert ((found.ids < 0) == (found.log_probs == -torch.inf)).all()
    torch.testing.assert_close(found.log_probs.exp().sum(1), torch.ones(20))
    for ids in found.ids:
        used = ids[ids >= 0].tolist()
        assert used == sorted(set(used)) and not any(i % 3 == 0 for i in used)


@pytest.mark.parametrize("vocabulary", [2, 7, 300, 49_152, 150_000])
def test_packing_keeps_ids_and_counts_and_log_probabilities_to_half_precision(vocabulary: int) -> None:
    logits = randn(9, vocabulary, seed=7)
    logits[0, -1] = 50.0  # the last id, and a rest near 0
    named, drawn = top(logits, TOP), draw(logits, keys(9), 3, DRAWS)
    again, counts = (
        unpack_top(pack_top(named, vocabulary), vocabulary, TOP),
        unpack_draws(pack_draws(drawn, vocabulary), vocabulary, DRAWS),
    )
    assert torch.equal(again.ids, named.ids)
    torch.testing.assert_close(again.log_probs, named.log_probs, rtol=2**-11, atol=2**-24)
    torch.testing.assert_close(again.rest, named.rest, rtol=2**-11, atol=2**-24)
    for mine, theirs in ((counts.ids, drawn.ids), (counts.log_probs, drawn.log_probs), (counts.rest, drawn.rest)):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(("vocabulary", "of_top", "of_draws"), [(49_152, 46, 44), (150_000, 49, 50)])
def test_a_unit_takes_at_most_fifty_bytes(vocabulary: int, of_top: int, of_draws: int) -> None:
    ids = torch.arange(max(TOP, DRAWS)).expand(4, -1)
    packed = pack_top(SparseOutputs(ids[:, :TOP], -ids[:, :TOP].float(), torch.zeros(4)), vocabulary)
    assert packed.dtype == np.uint8 and packed.shape == (4, of_top)
    every = SparseOutputs(ids[:, :DRAWS], torch.full((4, DRAWS), -math.log(DRAWS)), torch.full((4,), -torch.inf))
    assert pack_draws(every, vocabulary).shape == (4, of_draws)


def test_candidates_are_the_gold_token_and_those_that_a_teacher_named_each_once() -> None:
    nothing = torch.zeros(3, 3)
    one = SparseOutputs(torch.tensor([[5, 2, -1], [4, 1, 0], [7, -1, -1]]), nothing, nothing[:, 0])
    two = SparseOutputs(torch.tensor([[2, 9], [1, 4], [-1, -1]]), nothing[:, :2], nothing[:, 0])
    found = candidates(torch.tensor([5, 3, 7]), [one, two])
    assert found.tolist() == [[5, 2, 9, -1], [3, 0, 1, 4], [7, -1, -1, -1]]
    assert candidates(torch.tensor([5, 3]), []).tolist() == [[5], [3]]


def test_probabilities_on_candidates_are_those_of_a_dense_distribution() -> None:
    vocabulary, labels = 30, torch.tensor([3, 0, 29, 11])
    teachers = [top(randn(4, vocabulary, seed=8), 4), draw(randn(4, vocabulary, seed=9), keys(4), 0, n=6)]
    ids = candidates(labels, teachers)
    for teacher in teachers:
        found, whole = on_candidates(teacher, ids, vocabulary), dense(teacher, vocabulary)
        assert found.shape == (4, ids.shape[1] + 1) and found.dtype == torch.float32
        for unit in range(4):
            used = ids[unit][ids[unit] >= 0]
            rest = whole[unit].sum() - whole[unit, used].sum()
            expected = torch.cat([whole[unit, used], rest.clamp_min(0).unsqueeze(0)])
            kept = torch.cat([ids[unit] >= 0, torch.tensor([True])])
            torch.testing.assert_close(found[unit, kept].exp().double(), expected, rtol=1e-5, atol=1e-6)
            assert (found[unit, ~kept] == -torch.inf).all()


def test_probabilities_sum_to_one_after_half_precision_and_where_all_tokens_are_candidates() -> None:
    logits = randn(5, 6, seed=10)
    for teacher, vocabulary in ((unpack_top(pack_top(top(logits, 3), 6), 6, 3), 6), (top(logits, 8), 6)):
        everything = candidates(torch.zeros(5, dtype=torch.int64), [top(logits, 8)])
        found = on_candidates(teacher, everything, vocabulary)
        torch.testing.assert_close(found.exp().sum(1), torch.ones(5))
        assert (found[:, -1] == -torch.inf).all()  # no other token is left
