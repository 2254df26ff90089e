from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distilect.evaluation import bytes_on_disk, flops_per_token, measure_speed, parameters, ratio_to
from tests import tiny

TEXTS = [("the film was a joy",), ("a dull story, badly told and far too long",), ("good food",)]


def loaded(folder: str) -> tuple[nn.Module, Any, int]:
    return (AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), 32)


def test_parameters_count_tied_tables_once_and_leave_embeddings_out() -> None:
    model = nn.Module()
    model.words, model.head, model.layer = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False), nn.Linear(4, 4)
    model.head.weight = model.words.weight
    assert parameters(model) == (40 + 20, 20)


def test_layers_cost_the_same_parameters_whatever_the_vocabulary(tmp_path: Path) -> None:
    model, _, _ = loaded(tiny.tiny_bert(tmp_path, hidden=16))
    tables = (200 + 64 + 2) * 16
    assert parameters(model).total - parameters(model).without_embeddings == tables


def test_bytes_are_of_weights_config_and_tokenizer_only(tmp_path: Path) -> None:
    files = {"model.safetensors": 100, "config.json": 10, "tokenizer.json": 5, "README.md": 1000, "optimizer.pt": 1000}
    for name, size in files.items():
        (tmp_path / name).write_bytes(b"x" * size)
    assert bytes_on_disk(tmp_path) == 115
    assert bytes_on_disk(tmp_path / "absent") == 0


def test_bytes_of_a_saved_checkpoint_are_at_least_its_weights(tmp_path: Path) -> None:
    model, _, _ = loaded(tiny.tiny_bert(tmp_path))
    assert bytes_on_disk(tmp_path) > 4 * parameters(model).total


def test_flops_are_two_per_parameter_and_attention_grows_with_length(tmp_path: Path) -> None:
    model, _, _ = loaded(tiny.tiny_bert(tmp_path, hidden=16, layers=2))
    base = 2 * parameters(model).without_embeddings
    assert flops_per_token(model, 0) == base
    assert flops_per_token(model, 50) - base == 4 * 2 * 16 * 50


def test_shared_layers_are_counted_as_often_as_they_run(tmp_path: Path) -> None:
    """An ALBERT is small, not fast: it must not look cheaper than it is."""
    two, _, _ = loaded(tiny.tiny_albert(tmp_path / "2", layers=2))
    four, _, _ = loaded(tiny.tiny_albert(tmp_path / "4", layers=4))
    assert flops_per_token(four) == 2 * flops_per_token(two)


@pytest.mark.parametrize(
    "make", [tiny.tiny_bert, tiny.tiny_roberta, tiny.tiny_distilbert, tiny.tiny_xlnet, tiny.tiny_gpt2]
)
def test_every_family_can_be_timed(tmp_path: Path, make: Any) -> None:
    speed = measure_speed({"m": loaded(make(tmp_path))}, TEXTS, repeats=4)["m"]
    assert 0 < speed.latency_ms_p50 <= speed.latency_ms_p95
    assert speed.rows_per_second > 0
    assert set(speed.to_dict()) == {"latency_ms", "rows_per_second"}


def test_pairs_can_be_timed(tmp_path: Path) -> None:
    assert (
        measure_speed({"m": loaded(tiny.tiny_bert(tmp_path))}, [("a film", "a story")], repeats=2)["m"].rows_per_second
        > 0
    )


class Recorder(nn.Module):
    """A model that writes its name, its batch size and the mode it was in."""

    def __init__(self, name: str, calls: list[Any], seconds: float = 0.0) -> None:
        super().__init__()
        self.name, self.calls, self.seconds = name, calls, seconds
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: torch.Tensor, **_: Any) -> None:
        self.calls.append((self.name, len(input_ids), self.training))
        time.sleep(self.seconds)


def test_models_take_turns_in_eval_mode_and_are_put_back() -> None:
    calls: list[Any] = []
    tokenizer = tiny.wordpiece_tokenizer()
    models = {name: (Recorder(name, calls).train(), tokenizer, 16) for name in "abc"}
    measure_speed(models, TEXTS, repeats=10)
    rounds = [calls[start : start + 3] for start in range(0, len(calls), 3)]
    assert all(sorted(name for name, _, _ in turn) == ["a", "b", "c"] for turn in rounds)
    assert {turn[0][0] for turn in rounds} == {"a", "b", "c"}
    assert not any(training for _, _, training in calls)
    assert {size for _, size, _ in calls} == {1, 32}
    assert all(model.training for model, _, _ in models.values())


def test_a_model_that_takes_longer_is_measured_as_slower() -> None:
    tokenizer = tiny.wordpiece_tokenizer()
    models = {
        name: (Recorder(name, [], seconds), tokenizer, 16) for name, seconds in (("fast", 0.002), ("slow", 0.012))
    }
    speeds = measure_speed(models, TEXTS, repeats=7)
    assert ratio_to(speeds["slow"].latency_ms_p50, speeds["fast"].latency_ms_p50) > 2
    assert ratio_to(speeds["fast"].rows_per_second, speeds["slow"].rows_per_second) > 2


def test_timing_without_texts_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one text"):
        measure_speed({}, [])


@pytest.mark.parametrize(("value", "reference"), [(None, 1.0), (1.0, None), (1.0, 0.0), (float("nan"), 1.0)])
def test_a_ratio_with_an_unknown_part_is_unknown(value: float | None, reference: float | None) -> None:
    assert ratio_to(value, reference) is None


def test_a_ratio_is_a_ratio() -> None:
    assert ratio_to(1.0, 4.0) == 0.25
