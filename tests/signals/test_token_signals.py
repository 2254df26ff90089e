"""A language model's outputs at a token in some 50 bytes: what is exact, what is estimated, and several teachers on one axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForMaskedLM

from distilect.config import TeacherConfig, TokenSignalConfig
from distilect.errors import TeacherError
from distilect.models import Teacher, load_teacher
from distilect.signals import LiveSignals, SignalStore, prepare_signals
from distilect.signals.token_signals import TokenFormat, on_one_axis
from tests.language import TASK, toy_tokens
from tests.tiny import tiny_bert, tiny_gpt2, tiny_llama

TOP, SAMPLES = TokenSignalConfig(), TokenSignalConfig(keep="samples")
KEYS = torch.arange(64) * 7919


def model(units: int = 64, vocabulary: int = 300, seed: int = 0) -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    """States, an output layer, gold tokens."""
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(8, vocabulary, bias=False)
    head.weight.data = torch.randn(vocabulary, 8, generator=generator)
    return torch.randn(units, 8, generator=generator), head, torch.randint(vocabulary, (units,), generator=generator)


@torch.no_grad()
def packed(config: TokenSignalConfig, units: int = 64, vocabulary: int = 300, seed: int = 0) -> Any:
    states, head, gold = model(units, vocabulary)
    kept = TokenFormat(config, vocabulary, seed)
    bytes_ = kept.pack(states, head, gold, KEYS[:units])
    return kept, bytes_, kept.unpack(bytes_, gold), head(states).log_softmax(-1), gold


@pytest.mark.parametrize("config", [TOP, SAMPLES], ids=["top", "samples"])
@pytest.mark.parametrize("vocabulary", [32_000, 49_152, 151_936, 262_144])
def test_a_token_takes_fifty_bytes_at_most(config: TokenSignalConfig, vocabulary: int) -> None:
    kept = TokenFormat(config, vocabulary)
    assert 35 < kept.width <= 50
    states = torch.zeros(2, 1)
    found = kept.pack(states, nn.Linear(1, vocabulary), torch.tensor([0, vocabulary - 1]), KEYS[:2])
    assert found.shape == (2, kept.width) and found.dtype == np.uint8


@pytest.mark.parametrize("config", [TOP, SAMPLES], ids=["top", "samples"])
def test_gold_the_likeliest_other_and_the_entropy_are_exact(config: TokenSignalConfig) -> None:
    _, _, found, log_p, gold = packed(config)
    of_gold = log_p.gather(1, gold[:, None])[:, 0]
    others = log_p.scatter(1, gold[:, None], -torch.inf)
    scores = found.scores()
    torch.testing.assert_close(scores[:, 0], of_gold, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scores[:, 1], others.amax(1), rtol=1e-3, atol=1e-3)
    assert torch.equal(scores[:, 3].long(), log_p.argmax(1))
    torch.testing.assert_close(found.entropy, torch.special.entr(log_p.exp()).sum(1), rtol=1e-3, atol=1e-3)
    assert torch.equal(found.sparse.ids[:, 0], gold)
    mass = torch.cat([found.sparse.log_probs, found.sparse.rest[:, None]], 1).exp().sum(1)
    torch.testing.assert_close(mass, torch.ones(64), rtol=2e-3, atol=2e-3)


def test_the_next_likeliest_tokens_are_kept_with_the_mass_of_the_rest() -> None:
    kept, _, found, log_p, gold = packed(TOP)
    values, ids = log_p.scatter(1, gold[:, None], -torch.inf).topk(kept.top)
    assert torch.equal(found.sparse.ids[:, 1:], ids)
    torch.testing.assert_close(found.sparse.log_probs[:, 1:], values, rtol=1e-3, atol=1e-3)


def test_samples_are_unbiased_beside_the_exact_tokens() -> None:
    """The mean over seeds of every token's estimate is its probability; so is the cross-entropy of any student."""
    total, count = torch.zeros(64, 300), 300
    for seed in range(count):
        _, _, found, log_p, _ = packed(SAMPLES, seed=seed)
        ids, values = found.sparse.ids, found.sparse.log_probs.exp()
        total.scatter_add_(1, ids.clamp_min(0), torch.where(ids < 0, torch.zeros_like(values), values))
    mean, p = total / count, log_p.exp()
    # 16 draws of the rest's mass: a standard error of sqrt(p / (16 · 300)) at most
    error = (mean - p).abs() / (p / (16 * count)).sqrt().clamp_min(2e-4)
    assert float(error.max()) < 5.5
    student = torch.randn(300, generator=torch.Generator().manual_seed(5)).log_softmax(0)
    torch.testing.assert_close((mean * student).sum(1), (p * student).sum(1), rtol=0.02, atol=0.02)


def test_draws_depend_on_the_token_not_on_its_batch() -> None:
    states, head, gold = model()
    kept = TokenFormat(SAMPLES, 300)
    with torch.no_grad():
        whole = kept.pack(states, head, gold, KEYS)
        part = kept.pack(states[40:50], head, gold[40:50], KEYS[40:50])
    np.testing.assert_array_equal(whole[40:50], part)


def test_a_certain_teacher_has_nothing_left_to_draw_from() -> None:
    head = nn.Linear(1, 50, bias=True)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(-1e9)
        head.bias[7] = 0.0
        for config in (TOP, SAMPLES):
            kept = TokenFormat(config, 50)
            gold = torch.tensor([7, 3])
            found = kept.unpack(kept.pack(torch.zeros(2, 1), head, gold, KEYS[:2]), gold)
            _, logits = on_one_axis([found])
            p = logits[:, 0].softmax(-1)
            assert (
                torch.isfinite(p).all()
                and float(p[0, 0]) == pytest.approx(1.0)
                and float(p[1, 0]) == pytest.approx(0.0)
            )


def test_several_teachers_share_an_axis_of_the_same_width_whatever_the_units() -> None:
    first, second = (
        packed(TOP)[2],
        TokenFormat(SAMPLES, 300).unpack(
            TokenFormat(SAMPLES, 300).pack(model()[0].detach() * 2, model()[1], model()[2], KEYS), model()[2]
        ),
    )
    ids, logits = on_one_axis([first, second])
    assert ids.shape == (64, 1 + 10 + 17) and logits.shape == (64, 2, 29)
    assert torch.equal(ids[:, 0], model()[2])
    p = logits.softmax(-1)
    torch.testing.assert_close(p.sum(-1), torch.ones(64, 2))
    assert (p[:, :, :-1].masked_select((ids < 0).unsqueeze(1).expand(-1, 2, -1)) == 0).all()
    log_p = packed(TOP)[3]
    named = (ids[:, :, None] == first.sparse.ids[:, None, :]).any(
        -1
    )  # what the first teacher named is exact on the axis
    exact = log_p.gather(1, ids.clamp_min(0))
    torch.testing.assert_close(p[:, 0, :-1][named], exact.exp()[named], rtol=5e-3, atol=1e-4)


# ---- through the store ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[Teacher]:
    folder = tmp_path_factory.mktemp("teachers")
    paths = [tiny_llama(folder / f"t{seed}", seed) for seed in (1, 2)]
    return [load(path, f"t{n}", config) for n, (path, config) in enumerate(zip(paths, (TOP, SAMPLES), strict=True))]


def load(path: str, name: str = "t", tokens: TokenSignalConfig = TOP, length: int = 32) -> Teacher:
    spec = TeacherConfig(name=name, path=path)
    return load_teacher(spec, TASK, precision="fp32", max_length=length, tokens=tokens)


def test_stored_outputs_are_the_live_ones_and_are_found_again(teachers: list[Teacher], tmp_path: Path) -> None:
    table, rows = toy_tokens(20), np.array([7, 2, 13])
    first = prepare_signals(teachers, table, SignalStore(tmp_path), [["cls.2"], []])
    assert first.forwards == 40 and first.source is not None
    again = prepare_signals(teachers, table, SignalStore(tmp_path), [["cls.2"], []])
    assert again.forwards == 0 and again.source is not None
    live = LiveSignals(teachers).fetch(table, rows, [["cls.2"], []])
    for source in (first.source, again.source):
        found = source.fetch(table, rows, [["cls.2"], []])
        torch.testing.assert_close(found.logits, live.logits, rtol=2e-3, atol=2e-3)
        assert found.candidates is not None and torch.equal(found.candidates, live.candidates)
        torch.testing.assert_close(found.fields[0]["cls.2"], live.fields[0]["cls.2"], rtol=2e-3, atol=2e-3)
    size = sum(path.stat().st_size for path in tmp_path.glob("*/words.logits/shard-*"))
    assert size < 2 * 50 * table.num_units + 2 * 4000


def test_another_setting_is_another_signal(teachers: list[Teacher]) -> None:
    path = str(getattr(teachers[0], "path", ""))
    prints = {load(path, "t", tokens).fingerprint for tokens in (TOP, SAMPLES, TokenSignalConfig(count=4))}
    assert len(prints) == 3


def test_a_teacher_that_is_no_language_model_or_reads_too_little_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TeacherError, match="reads 64 tokens at most, the rows have up to 100: set train.max_length: 64"
    ):
        load(tiny_llama(tmp_path / "llama"), length=100)
    with pytest.raises(TeacherError, match="lacks cls.predictions.*it is no language model"):
        load(tiny_bert(tmp_path / "bert"))
    with pytest.raises(TeacherError, match="is a GPT2ForSequenceClassification: it is no language model"):
        load(tiny_gpt2(tmp_path / "gpt2"))
    masked = tiny_bert(tmp_path / "masked")
    AutoModelForMaskedLM.from_pretrained(masked).save_pretrained(masked)
    with pytest.raises(TeacherError, match="reads the tokens that follow"):
        load(masked)
