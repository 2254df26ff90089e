"""Low-rank adapters: what is trained, kept and shipped."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from distilect.config import LoraConfig
from distilect.errors import RunError
from distilect.models import has_adapters, load_adapters, merge_adapters, save_adapters
from distilect.models.adapters import add_adapters
from tests.tiny import tiny_bert, tiny_gpt2, tiny_llama

peft = pytest.importorskip("peft")
MODELS: dict[str, tuple[Callable[..., str], Any, set[str]]] = {
    "bert": (tiny_bert, AutoModelForSequenceClassification, {"classifier.weight", "classifier.bias"}),
    "gpt2": (tiny_gpt2, AutoModelForSequenceClassification, {"score.weight"}),
    "llama": (tiny_llama, AutoModelForCausalLM, set()),
}


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=torch.arange(5, 15)[None]).logits
    return logits


@pytest.mark.parametrize("name", MODELS)
def test_adapters_alone_learn_and_a_plain_model_is_left(name: str, tmp_path: Path) -> None:
    make, loader, head = MODELS[name]
    model = loader.from_pretrained(make(tmp_path / "model")).float()
    before, fresh = outputs(model), copy.deepcopy(model)
    original = {key: value.clone() for key, value in model.state_dict().items()}
    trained = add_adapters(model, LoraConfig(rank=4), 0)
    torch.testing.assert_close(outputs(model), before)  # an update is 0 at first
    learns = {key for key, p in model.named_parameters() if p.requires_grad}
    assert {key for key in learns if "lora_" not in key} == head
    assert trained == sum(p.numel() for p in model.parameters() if p.requires_grad)

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.5)
    for _ in range(3):
        model(input_ids=torch.arange(5, 15)[None]).logits[..., 0].sum().backward()
        optimizer.step()
    learned = outputs(model)
    assert not torch.allclose(learned, before, atol=1e-3)

    save_adapters(model, tmp_path / "saved")
    again = copy.deepcopy(fresh)
    add_adapters(again, LoraConfig(rank=4), 1)
    load_adapters(again, tmp_path / "saved")
    torch.testing.assert_close(outputs(again), learned, rtol=0, atol=0)
    with torch.no_grad():
        next(fresh.base_model.parameters()).add_(1e-3)
    add_adapters(fresh, LoraConfig(rank=4), 0)
    with pytest.raises(RunError, match="adapters of another model.*changed since"):
        load_adapters(fresh, tmp_path / "saved")

    assert merge_adapters(model) is model and not has_adapters(model)
    torch.testing.assert_close(outputs(model), learned, rtol=1e-4, atol=1e-4)
    state = model.state_dict()
    assert set(state) == set(original) and all(p.requires_grad for p in model.parameters())
    assert any("lora" in key for key in learns) and not any("lora" in key for key in state)
    embeddings = next(key for key in original if "embed" in key or "wte" in key)
    torch.testing.assert_close(state[embeddings], original[embeddings], rtol=0, atol=0)
