"""A frozen encoder says of each row one vector, once."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from distilect.data import Table
from distilect.errors import MethodError
from distilect.models import EncoderTeacher
from distilect.signals import LiveSignals, SignalStore, prepare_signals
from tests.tiny import FAMILIES, tiny_bert

TEXTS = ["a dull story", "good food, friendly people and a view of the sea", "the film was a joy"]
TABLE = Table.from_texts(TEXTS)


def encoder(path: str, **options: object) -> EncoderTeacher:
    return EncoderTeacher(path, precision="fp32", **options)  # type: ignore[arg-type]


def vectors(teacher: EncoderTeacher, table: Table = TABLE) -> torch.Tensor:
    """[N, H]."""
    return LiveSignals([teacher]).fetch(table, np.arange(len(table)), [[]]).logits[:, 0]


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_vector_is_the_last_layer_at_the_classification_token_or_its_mean_without_padding(
    tmp_path: Path, pooling: str
) -> None:
    path = tiny_bert(tmp_path, ["no", "yes"])
    model, tokenizer = AutoModel.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    alone = []
    for text in TEXTS:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        alone.append(hidden[0] if pooling == "cls" else hidden.mean(0))
    found = vectors(encoder(path, pooling=pooling))
    torch.testing.assert_close(found, torch.stack(alone), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_architecture_gives_vectors_of_its_width(tmp_path: Path, family: str) -> None:
    for pooling in ("cls", "mean"):
        found = vectors(encoder(FAMILIES[family](tmp_path / family, ["no", "yes"]), pooling=pooling))
        assert found.shape == (3, 16) and torch.isfinite(found).all()
        assert float((found[0] - found[1]).abs().max()) > 1e-3  # rows differ


def test_the_encoder_is_frozen_and_off_every_module_tree(tmp_path: Path) -> None:
    teacher = encoder(tiny_bert(tmp_path, 2))
    holder = torch.nn.Module()
    holder.encoder = teacher  # type: ignore[assignment]
    holder.train()
    assert not list(holder.parameters()) and not any(m.training for m in teacher.model.modules())
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert not vectors(teacher).requires_grad
    assert teacher.can("logits") and teacher.can("hidden.2") and not teacher.can("hidden.9")


def test_a_vector_does_not_depend_on_the_other_rows(tmp_path: Path) -> None:
    teacher = encoder(tiny_bert(tmp_path, 2))
    alone = torch.cat([vectors(teacher, Table.from_texts([text])) for text in TEXTS])
    torch.testing.assert_close(vectors(teacher), alone, atol=1e-5, rtol=1e-4)


def test_vectors_are_computed_once_and_kept_apart_by_pooling_and_length(tmp_path: Path) -> None:
    path, store = tiny_bert(tmp_path / "model", 2), SignalStore(tmp_path / "store")
    kinds = [{}, {"pooling": "mean"}, {"max_length": 4}]
    assert len({encoder(path, **options).fingerprint for options in kinds}) == 3
    for scored in (3, 0):  # the second time all of them come from the store
        for options in kinds:
            prepared = prepare_signals([encoder(path, **options)], TABLE, store, [[]])
            assert (prepared.forwards, prepared.reused) == (scored, 3 - scored)
            said = prepared.source.fetch(TABLE, np.arange(3), [[]]).logits[:, 0]  # type: ignore[union-attr]
            torch.testing.assert_close(said, vectors(encoder(path, **options)))


def test_a_teacher_and_an_encoder_of_one_checkpoint_are_stored_apart(tmp_path: Path) -> None:
    from distilect.config import TeacherConfig
    from distilect.models import load_teacher
    from distilect.tasks import Task

    path = tiny_bert(tmp_path, ["no", "yes"])
    task = Task("toy", "classification", ("no", "yes"), ("accuracy",), 1)
    teacher = load_teacher(TeacherConfig(name="a", path=path), task, precision="fp32", max_length=128)
    assert teacher.fingerprint != encoder(path).fingerprint


def test_a_folder_that_is_no_checkpoint_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="no checkpoint at /nowhere/model"):
        encoder("/nowhere/model")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MethodError, match=r"no model\.safetensors"):
        encoder(str(tmp_path))


def test_missing_weights_are_not_filled_with_random_numbers(tmp_path: Path) -> None:
    whole = tiny_bert(tmp_path / "whole", 2)
    for part, message in (("encoder.layer.1", "lacks encoder.layer.1"), ("pooler", "")):
        folder = tmp_path / part
        shutil.copytree(whole, folder)
        kept = {k: v for k, v in load_file(folder / "model.safetensors").items() if part not in k}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        if message:
            with pytest.raises(MethodError, match=message):
                encoder(str(folder))
        else:  # BERT's pooler stands behind what is read
            assert torch.equal(vectors(encoder(str(folder))), vectors(encoder(whole)))
