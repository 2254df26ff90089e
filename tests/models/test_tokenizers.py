"""A checkpoint's tokenizer is its own and fits its model: what is missing or does not fit is told, and padding changes nothing."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import processors
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from distilect.config import StudentConfig, TeacherConfig
from distilect.data import Table, encode
from distilect.errors import DataError, DistilectError, StudentError, TeacherError
from distilect.evaluation import predict
from distilect.models import CheckpointTeacher, EncoderTeacher, build_student, load_teacher
from distilect.models.tokenizers import load_tokenizer, usable_length
from distilect.signals import LiveSignals
from distilect.tasks import Task
from tests.presets import slow
from tests.tiny import (
    FAMILIES,
    SENTENCES,
    bpe_tokenizer,
    gpt2_tokenizer,
    save,
    tiny_bert,
    tiny_distilbert,
    tiny_gpt2,
    tiny_roberta,
    wordpiece_tokenizer,
)

TASK = Task("toy", "classification", ("no", "yes"), ("accuracy",), 1)
TABLE = Table.from_texts([*SENTENCES, "a", "the sea"])


def teacher(path: str, **options: Any) -> CheckpointTeacher:
    found = load_teacher(TeacherConfig(name="a", path=path, **options), TASK, precision="fp32", max_length=64)
    assert isinstance(found, CheckpointTeacher)
    return found


def without_tokenizer(path: str) -> str:
    for file in Path(path).iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()
    return path


def change_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def together_and_alone(model: CheckpointTeacher, table: Table = TABLE) -> tuple[np.ndarray, np.ndarray]:
    encoded = model.encode(table)
    together = predict(model.model, encoded, precision="fp32")
    alone = [predict(model.model, encoded, rows=np.array([i]), precision="fp32") for i in range(len(table))]
    return together, np.concatenate(alone)


# ---- missing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_checkpoint_without_tokenizer_is_refused_as_teacher_student_and_encoder(family: str, tmp_path: Path) -> None:
    path = without_tokenizer(FAMILIES[family](tmp_path / "bare", TASK.labels))
    with pytest.raises(TeacherError, match=r"no tokenizer in .*bare: copy its files there .* or set tokenizer:"):
        teacher(path)
    with pytest.raises(StudentError, match="no tokenizer in"):
        build_student(StudentConfig(init=path), TASK, {}, 0)
    with pytest.raises(DistilectError, match="no tokenizer in"):
        EncoderTeacher(path)


@pytest.mark.parametrize(
    "kind",
    [
        "Albert",
        "Camembert",
        "DebertaV2",
        "Electra",
        "MPNet",
        "Mistral",
        "T5",
        "XLMRoberta",
        "XLM",
        "XLNet",
        "Qwen2",
        "Llama",
    ],
)
@pytest.mark.parametrize("settings", [False, True], ids=["nothing", "tokenizer_config.json"])
def test_no_family_gets_a_tokenizer_that_is_made_up(kind: str, settings: bool, tmp_path: Path) -> None:
    getattr(transformers, f"{kind}Config")().save_pretrained(tmp_path)
    if settings:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64}))
    with pytest.raises(TeacherError, match="no tokenizer in|cannot load"):
        load_tokenizer(str(tmp_path), TeacherError)


def test_a_vocabulary_without_its_merges_is_refused(tmp_path: Path) -> None:
    path = Path(tiny_roberta(tmp_path, TASK.labels))
    model = json.loads((path / "tokenizer.json").read_text())["model"]
    without_tokenizer(str(path))
    (path / "vocab.json").write_text(json.dumps(model["vocab"]))
    with pytest.raises(TeacherError, match=r"lacks merges\.txt: copy it there"):
        teacher(str(path))
    pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")
    assert teacher(str(path)).tokenizer.tokenize("the film") != []


def test_a_plain_word_list_is_a_tokenizer(tmp_path: Path) -> None:
    path = Path(tiny_bert(tmp_path, TASK.labels))
    words = json.loads((path / "tokenizer.json").read_text())["model"]["vocab"]
    expected = teacher(str(path)).encode(TABLE).columns["input_ids"]
    without_tokenizer(str(path))
    (path / "vocab.txt").write_text("\n".join(sorted(words, key=words.__getitem__)) + "\n")
    assert (teacher(str(path)).encode(TABLE).columns["input_ids"] == expected).all()


@pytest.mark.parametrize("kind", ["ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer"])
def test_tokenizers_of_bytes_and_characters_need_no_vocabulary(kind: str, tmp_path: Path) -> None:
    getattr(transformers, kind)().save_pretrained(tmp_path)
    config = {"ByT5Tokenizer": "T5Config", "CanineTokenizer": "CanineConfig", "PerceiverTokenizer": "PerceiverConfig"}[
        kind
    ]
    getattr(transformers, config)().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path), TeacherError)
    assert len(tokenizer("the film")["input_ids"]) > 7


def sentencepiece_model(folder: Path) -> Path:
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    (folder / "text.txt").write_text("\n".join(SENTENCES * 5))
    trainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "spm"),
        vocab_size=90,
        hard_vocab_limit=False,
        control_symbols="[CLS],[SEP],[MASK]",
        minloglevel=2,
        pad_id=-1,
    )
    return folder / "spm.model"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("XLMRoberta", "sentencepiece.bpe.model"),
        ("Camembert", "sentencepiece.bpe.model"),
        ("Albert", "spiece.model"),
        ("DebertaV2", "spm.model"),
        ("T5", "spiece.model"),
    ],
)
def test_a_folder_with_a_sentencepiece_model_alone_is_read(kind: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    getattr(transformers, f"{kind}Config")().save_pretrained(folder)
    shutil.copy(sentencepiece_model(tmp_path), folder / name)
    tokenizer = load_tokenizer(str(folder), TeacherError)
    ids = tokenizer("the film was a joy")["input_ids"]
    assert len(ids) > 4 and ids.count(tokenizer.unk_token_id) == 0


def test_without_the_package_a_sentencepiece_model_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(without_tokenizer(tiny_bert(tmp_path, TASK.labels)))
    (path / "spiece.model").write_bytes(b"\n")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sentencepiece" else find(name))
    with pytest.raises(TeacherError, match="SentencePiece model: pip install sentencepiece"):
        teacher(str(path))


# ---- from elsewhere ------------------------------------------------------------------------------------------------


def test_a_teacher_may_take_its_tokenizer_from_another_folder(tmp_path: Path) -> None:
    whole = teacher(tiny_bert(tmp_path / "whole", TASK.labels))
    bare = without_tokenizer(str(shutil.copytree(tmp_path / "whole", tmp_path / "bare")))
    found = teacher(bare, tokenizer=str(tmp_path / "whole"))
    rows = np.arange(len(TABLE))
    mine, theirs = (LiveSignals([t]).fetch(TABLE, rows, [[]]).logits for t in (found, whole))
    torch.testing.assert_close(mine, theirs)
    change_json(tmp_path / "whole" / "tokenizer.json", truncation=None, padding=None, version="1.0", normalizer=None)
    assert teacher(bare, tokenizer=str(tmp_path / "whole")).fingerprint != found.fingerprint


def test_a_table_of_outputs_has_no_tokenizer() -> None:
    with pytest.raises(ValueError, match="needs no tokenizer"):
        TeacherConfig(table="llm.csv", tokenizer="x")


# ---- that does not fit ---------------------------------------------------------------------------------------------


def test_a_vocabulary_larger_than_the_embeddings_is_refused_for_teachers_too(tmp_path: Path) -> None:
    path = tiny_bert(tmp_path / "model", TASK.labels)
    bpe_tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(TeacherError, match="its tokenizer has 320 tokens, the model knows 200"):
        teacher(path, tokenizer=str(tmp_path / "other"))


def test_added_tokens_beyond_the_embeddings_are_no_fault(tmp_path: Path) -> None:
    path = tiny_bert(tmp_path, TASK.labels)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<image{i}>" for i in range(120)]})
    tokenizer.save_pretrained(path)
    together, alone = together_and_alone(teacher(path))
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_tokenizer_that_knows_hardly_a_word_is_refused_where_a_table_is_read() -> None:
    texts = ["愛は全てに勝つ" + "真実" * i for i in range(30)]
    with pytest.raises(DataError, match=r"turns 100 % of the text into '\[UNK\]': use the tokenizer"):
        encode(Table.from_texts(texts), wordpiece_tokenizer(), 32)


def test_a_tokenizer_that_makes_nothing_of_the_texts_is_refused() -> None:
    tokenizer = gpt2_tokenizer()
    empty = PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer.backend_tokenizer)(type(tokenizer.backend_tokenizer.model)())
    )
    with pytest.raises(DataError, match="makes no tokens of 60 of 60 texts"):
        encode(Table.from_texts([f"text {i}" for i in range(60)]), empty, 32)


def test_some_unknown_tokens_are_reported_and_few_texts_are_not_judged() -> None:
    encoded = encode(Table.from_texts([*SENTENCES * 3, "愛 は 全 て に 勝 つ"]), wordpiece_tokenizer(), 32)
    assert 0.01 < encoded.unknown < 0.5
    (line,) = encoded.report("student", "dev")
    assert line.startswith("student: ") and line.endswith("% of the tokens of dev are unknown to its tokenizer")
    assert encode(Table.from_texts(["愛"]), wordpiece_tokenizer(), 32).report("student", "dev") == [
        "student: 100.0 % of the tokens of dev are unknown to its tokenizer"
    ]


def test_a_table_on_disk_remembers_what_was_cut_and_unknown(tmp_path: Path) -> None:
    texts = [*SENTENCES * 3, "愛 は 全 て に 勝 つ"]
    table = Table.from_texts(texts)
    mapped = replace(table, folder=tmp_path)
    for _ in range(2):  # tokenised, and read again
        found, expected = encode(mapped, wordpiece_tokenizer(), 8), encode(table, wordpiece_tokenizer(), 8)
        assert found.truncated == expected.truncated > 0
        assert found.unknown == expected.unknown > 0


# ---- padding -------------------------------------------------------------------------------------------------------

LLAMA = {
    "vocab_size": 320,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def tiny_llama(folder: Path, pad: int | None, tokenizer: Any) -> str:
    config = transformers.LlamaConfig(**LLAMA, pad_token_id=pad, bos_token_id=0, eos_token_id=2)
    return save(folder, config, tokenizer, TASK.labels, 0)


def own_logits(path: str, max_length: int = 64) -> np.ndarray:
    """What transformers says of each row alone."""
    model = AutoModelForSequenceClassification.from_pretrained(path).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    rows = [
        tokenizer(text, return_tensors="pt", truncation=True, max_length=max_length)
        for (text,) in TABLE.text(range(len(TABLE)))
    ]
    with torch.no_grad():
        return np.concatenate([model(input_ids=row["input_ids"]).logits.numpy() for row in rows])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pad", [None, 1, 70, *slow(0, 2, 3, -1)], ids=str)
@pytest.mark.parametrize("kind", ["ends", "plain", "no-pad", *slow("eos-pads")])
def test_a_decoders_rows_do_not_depend_on_the_rows_beside_them(
    kind: str, pad: int | None, side: str, tmp_path: Path
) -> None:
    tokenizer = bpe_tokenizer()
    if kind != "ends":  # texts end with words, without </s>
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if kind == "eos-pads":
        tokenizer.pad_token = tokenizer.eos_token
    if kind == "no-pad":
        tokenizer.pad_token = None
    tokenizer.padding_side = side
    path = tiny_llama(tmp_path / "llama", pad, tokenizer)
    together, alone = together_and_alone(teacher(path))
    np.testing.assert_allclose(together, alone, atol=1e-5)
    if pad != -1:
        np.testing.assert_allclose(together, own_logits(path), atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_no_familys_rows_depend_on_the_padding_side_of_the_tokenizer(family: str, side: str, tmp_path: Path) -> None:
    path = FAMILIES[family](tmp_path / family, TASK.labels)
    change_json(Path(path) / "tokenizer_config.json", padding_side=side)
    together, alone = together_and_alone(teacher(path))
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda f: tiny_llama(f, 70, bpe_tokenizer()),
        lambda f: tiny_llama(f, 2, bpe_tokenizer()),
        lambda f: tiny_gpt2(f, TASK.labels),
    ],
)
def test_a_students_rows_are_the_same_for_whoever_loads_its_folder(make: Callable[[Path], str], tmp_path: Path) -> None:
    student = build_student(StudentConfig(init=make(tmp_path / "a")), TASK, {}, 0, max_length=32)
    encoded = student.encode(TABLE)
    expected = predict(student.model, encoded, precision="fp32")
    student.model.save_pretrained(tmp_path / "s")
    student.tokenizer.save_pretrained(tmp_path / "s")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "s").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "s")
    with torch.no_grad():
        batch = tokenizer(
            [text for (text,) in TABLE.text(range(len(TABLE)))],
            padding=True,
            return_tensors="pt",
            truncation=True,
            max_length=32,
        )
        found = model(**batch).logits.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_model_that_always_reads_padding_is_refused(tmp_path: Path) -> None:
    config = transformers.FNetConfig(
        vocab_size=200,
        hidden_size=16,
        num_hidden_layers=2,
        intermediate_size=32,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    with pytest.raises(
        TeacherError, match="FNetForSequenceClassification reads padding: .* take a checkpoint of another family"
    ):
        teacher(save(tmp_path, config, wordpiece_tokenizer(), TASK.labels, 0))


# ---- token types ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny_roberta, tiny_distilbert, lambda *a: tiny_bert(*a, type_vocab_size=1)])
def test_token_types_are_left_out_where_the_model_has_one(make: Any, tmp_path: Path) -> None:
    path = make(tmp_path, TASK.labels)
    tokenizer = wordpiece_tokenizer()
    tokenizer.save_pretrained(path)
    pairs = Table.from_texts([("the film was a joy", "a dull story"), ("a", "the sea")])
    found = teacher(path)
    assert "token_type_ids" not in found.encode(pairs).columns
    together, alone = together_and_alone(found, pairs)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    student = build_student(StudentConfig(init=path), TASK, {}, 0)
    student.tokenizer.save_pretrained(tmp_path / "saved")
    assert "token_type_ids" not in AutoTokenizer.from_pretrained(tmp_path / "saved")("a", "b")


def test_more_token_types_than_the_model_knows_are_refused(tmp_path: Path) -> None:
    from tests.tiny import xlnet_tokenizer

    path = tiny_bert(tmp_path, TASK.labels)
    xlnet_tokenizer().save_pretrained(path)
    with pytest.raises(TeacherError, match="token types up to 2, the model knows 2"):
        teacher(path)


# ---- length --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "more", "longest"),
    [
        ("Bert", {}, 64),
        ("Roberta", {"pad_token_id": 1}, 62),
        ("Roberta", {"pad_token_id": 5}, 58),
        ("Camembert", {"pad_token_id": 1}, 62),
        ("XLMRobertaXL", {"pad_token_id": 1}, 62),
        ("RobertaPreLayerNorm", {"pad_token_id": 1}, 62),
        ("Xmod", {"pad_token_id": 1, "languages": ["en_XX"], "default_language": "en_XX"}, 62),
        ("Data2VecText", {"pad_token_id": 1}, 62),
        ("IBert", {"pad_token_id": 1}, 62),
        (
            "Lilt",
            {"pad_token_id": 1, "channel_shrink_ratio": 2, "max_2d_position_embeddings": 64, "hidden_size": 24},
            62,
        ),
        ("Longformer", {"pad_token_id": 1, "attention_window": 8}, 62),
        ("MPNet", {"pad_token_id": 1}, 62),
        ("Luke", {"pad_token_id": 1, "entity_vocab_size": 10}, 62),
        ("Nystromformer", {"pad_token_id": 1}, None),
        ("OPT", {"ffn_dim": 32, "word_embed_proj_dim": 16}, 64),
        ("Llama", {}, 64),
    ],
)
def test_the_longest_row_is_that_of_the_models_own_table_of_positions(
    kind: str, more: dict[str, Any], longest: int | None, tmp_path: Path
) -> None:
    sizes = {
        "vocab_size": 200,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    config = getattr(transformers, f"{kind}Config")(**(sizes | {"max_position_embeddings": 64} | more))
    tokenizer = wordpiece_tokenizer(10**30)
    path = save(tmp_path, config, tokenizer, TASK.labels, 0)
    try:
        found = load_teacher(TeacherConfig(path=path), TASK, precision="fp32", max_length=500)
    except TeacherError as refused:
        assert longest is None and "reads padding" in str(refused)
        return
    assert found.max_length == longest  # type: ignore[attr-defined]
    long = Table.from_texts(["the film was a joy " * 40])
    assert np.isfinite(predict(found.model, found.encode(long), precision="fp32")).all()  # type: ignore[attr-defined]


def test_without_a_wish_the_length_is_the_checkpoints_own() -> None:
    tokenizer = wordpiece_tokenizer(40)
    assert usable_length(None, tokenizer, 64) == 40
    assert usable_length(None, tokenizer, 32) == 32
    assert usable_length(60, tokenizer, 64) == 60  # wished for, and the model has places for it
    assert usable_length(100, tokenizer, 64) == 64
    tokenizer.model_max_length = 10**30
    assert usable_length(None, tokenizer, 64) == 64
    assert usable_length(None, tokenizer, None) == 512
