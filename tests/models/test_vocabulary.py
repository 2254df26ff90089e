"""A trimmed vocabulary: what stays is equal bit for bit, and no text becomes unknown."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from distilect.config import StudentConfig, TeacherConfig
from distilect.data import Table
from distilect.errors import RunError, StudentError
from distilect.models import Vocabulary, build_student, find_vocabulary, load_teacher, same_tokens, with_vocabulary
from distilect.models.token_kinds import token_kind
from distilect.tasks import Task
from distilect.training.weights import load_weights
from tests.tiny import (
    FAMILIES,
    SENTENCES,
    bpe_tokenizer,
    mpnet_tokenizer,
    tiny_bert,
    tiny_gpt2,
    tiny_mpnet,
    tiny_roberta,
    tiny_xlm_roberta,
    unigram_tokenizer,
    wordpiece_tokenizer,
)

TASK = Task("toy", "classification", ("no", "yes"), ("accuracy",), 1)
USED, OTHERS = SENTENCES[:5], SENTENCES[5:]
ALL = FAMILIES | {"mpnet": tiny_mpnet, "xlm-roberta": tiny_xlm_roberta}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 ,.?!ABÉ—~日"  # the last ones have no token in some of them


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """BPE whose unknown characters become bytes."""
    words = dict.fromkeys(word for sentence in SENTENCES for word in sentence.replace(",", "").split())
    pieces = [
        *("<unk>", "<s>", "</s>"),
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"abcdefghijklmnopqrstuvwxyz",
    ]
    merges = []
    for word in words:
        for end in range(1, len(word) + 1):  # from left to right: ▁t, ▁th, ▁the
            piece, left = f"▁{word[:end]}", f"▁{word[: end - 1]}"
            if word.isalpha() and piece not in pieces:
                merges.append((left, word[end - 1]))
                pieces.append(piece)
    model = models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "WordPiece": wordpiece_tokenizer,
    "WordPiece of MPNet": mpnet_tokenizer,
    "byte-level BPE": bpe_tokenizer,
    "BPE with bytes": llama_tokenizer,
    "Unigram": unigram_tokenizer,
}


def model_of(tokenizer: Any) -> Any:
    sizes = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
    return BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), pad_token_id=0, **sizes)).eval()


@cache
def trimmed(kind: str, size: int | None = None) -> Vocabulary:
    tokenizer = TOKENIZERS[kind]()
    return find_vocabulary(model_of(tokenizer), tokenizer, [Table.from_texts(USED)], size, 64, kind)


def tokens(tokenizer: Any, text: str) -> list[str]:
    found: list[str] = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    return found


# ---- equal bit for bit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ALL)
def test_outputs_on_texts_whose_tokens_all_stay_are_equal(family: str, tmp_path: Path) -> None:
    """Bit for bit on most processors; on some a matrix product depends on where the weights lie in memory."""
    path = ALL[family](tmp_path / "whole", TASK.labels)
    student = build_student(StudentConfig(init=path), TASK, {}, 0, max_length=48)
    found = find_vocabulary(student.model, student.tokenizer, [Table.from_texts(USED)], None, 48, family)
    small = student.with_vocabulary(found)
    small.model.save_pretrained(tmp_path / "small")
    small.tokenizer.save_pretrained(tmp_path / "small")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small", use_safetensors=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "small")
    assert len(tokenizer) == len(found.kept) < len(student.tokenizer)
    assert model.get_input_embeddings().weight.shape[0] == model.config.vocab_size == len(found.kept)
    for texts in ([USED[0]], list(USED), [USED[0], USED[0][:9]]):
        ours, theirs = (one(texts, padding=True, return_tensors="pt") for one in (student.tokenizer, tokenizer))
        assert found.kept[theirs["input_ids"].numpy()].tolist() == ours["input_ids"].tolist()
        with torch.no_grad():
            torch.testing.assert_close(model(**theirs).logits, student.model.eval()(**ours).logits, rtol=0, atol=1e-6)
    pair = [one("the film", "a dull story") for one in (student.tokenizer, tokenizer)]
    assert found.kept[pair[1]["input_ids"]].tolist() == pair[0]["input_ids"]


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(words=st.lists(st.sampled_from(sorted({w for s in SENTENCES for w in s.split()})), max_size=6))
@settings(max_examples=60)
def test_a_text_whose_tokens_all_stay_is_cut_as_before(kind: str, words: list[str]) -> None:
    for size in (None, 300):
        found = trimmed(kind, size)
        before = tokens(found.whole, " ".join(words))
        if set(before) <= found.tokenizer.get_vocab().keys():
            assert tokens(found.tokenizer, " ".join(words)) == before


# ---- nothing becomes unknown -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=st.text(st.sampled_from(LETTERS), max_size=40) | st.sampled_from(OTHERS))
@settings(max_examples=100)
def test_no_text_gets_a_new_unknown_token(kind: str, text: str) -> None:
    for size in (None, 1):  # 1: only what any text needs
        found = trimmed(kind, size)
        unknown = found.whole.unk_token
        assert tokens(found.tokenizer, text).count(unknown) <= tokens(found.whole, text).count(unknown)


@st.composite
def wordpiece_vocabularies(draw: Any) -> tuple[list[str], list[str]]:
    """Words and pieces over four letters, each of which is a piece at the start and inside; and the texts to keep."""
    part = st.text("abcd", min_size=2, max_size=5)
    pieces = [*"abcd", *(f"##{letter}" for letter in "abcd")]
    pieces += draw(st.lists(part | part.map(lambda text: f"##{text}"), max_size=12, unique=True))
    return pieces, draw(st.lists(st.text("abcd ", min_size=1, max_size=12), min_size=1, max_size=3))


@given(made=wordpiece_vocabularies(), text=st.text("abcd ", max_size=20), size=st.integers(1, 20) | st.none())
@settings(max_examples=25)
def test_nor_with_any_other_words_and_pieces(made: tuple[list[str], list[str]], text: str, size: int | None) -> None:
    pieces, used = made
    vocabulary = {piece: i for i, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")
    found = find_vocabulary(model_of(tokenizer), tokenizer, [Table.from_texts(used)], size, 64, "w")
    assert "[UNK]" not in tokens(found.tokenizer, text)
    if size is None:
        assert [tokens(found.tokenizer, one) for one in used] == [tokens(tokenizer, one) for one in used]


def test_a_token_of_bpe_can_still_be_reached() -> None:
    found = trimmed("byte-level BPE")
    decode = found.whole.backend_tokenizer.decoder.decode
    for token in found.tokenizer.get_vocab().keys() - set(found.whole.all_special_tokens):
        text = decode([token])
        before = found.whole.tokenize(text)
        if before == [token]:
            assert found.tokenizer.tokenize(text) == before, token
    assert {"Ġthe", "Ġt"} <= found.tokenizer.get_vocab().keys()


def test_characters_that_are_no_tokens_are_told(tmp_path: Path) -> None:
    pieces = ["[PAD]", "[UNK]", *"ab", "##a", "##b", "ac", "ab"]  # no ##c
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")
    found = find_vocabulary(model_of(tokenizer), tokenizer, [Table.from_texts(["a b"])], 1, 64, "w")
    assert "1 tokens have characters that are no tokens (ac, …): they stay" in found.report()[-1]
    assert tokens(found.tokenizer, "ac ab") == ["ac", "a", "##b"]


@pytest.mark.parametrize(
    ("pre_tokenizer", "stays"), [(pre_tokenizers.BertPreTokenizer(), False), (pre_tokenizers.WhitespaceSplit(), True)]
)
def test_pieces_that_no_text_can_have_are_left_out(pre_tokenizer: Any, stays: bool) -> None:
    pieces = ["[PAD]", "[UNK]", "a", "##a", "!", "##!"]
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")
    found = find_vocabulary(model_of(tokenizer), tokenizer, [Table.from_texts(["a"])], None, 64, "w")
    assert ("##!" in found.tokenizer.get_vocab()) is stays
    assert "[UNK]" not in tokens(found.tokenizer, "aa! !a")


# ---- how many, and which ---------------------------------------------------------------------------------------------


def test_a_number_takes_the_most_frequent_tokens_and_then_the_tokenizers_first() -> None:
    needed = trimmed("WordPiece", 1).needed
    text = ["the the the film film", "joy"]
    whole = wordpiece_tokenizer()
    find = lambda size: find_vocabulary(model_of(whole), whole, [Table.from_texts(text)], size, 64, "w")  # noqa: E731
    kept = [set(find(needed + extra).tokenizer.get_vocab()) for extra in range(5)]
    added = [later - earlier for earlier, later in pairwise(kept)]
    order = sorted(whole.get_vocab().keys() - kept[0] - {"the", "film", "joy"}, key=whole.get_vocab().__getitem__)
    assert added == [{"the"}, {"film"}, {"joy"}, {order[0]}]
    assert find(needed).changed == pytest.approx(1.0)
    assert find(needed + 1).changed == pytest.approx(3 / 6)
    assert set(find(None).tokenizer.get_vocab()) == kept[3]
    assert len(find(10_000).kept) == len(whole)


def test_fewer_than_any_text_needs_is_told() -> None:
    found = trimmed("WordPiece", 1)
    assert len(found.kept) == found.needed
    assert found.report()[-1] == f"vocabulary: 1 tokens were asked for, any text needs {found.needed}"
    assert trimmed("WordPiece").report() == [
        f"vocabulary: {len(trimmed('WordPiece').kept)} of 150 tokens stay, {found.needed} of them for texts with other words"
    ]


def test_numbers_of_tokens_are_right_wherever_they_stand(tmp_path: Path) -> None:
    path = tiny_gpt2(tmp_path / "whole", TASK.labels)
    file = Path(path) / "tokenizer.json"
    raw = json.loads(file.read_text())
    raw["model"]["vocab"]["Ġ</s>"] = 320  # an added token at the end, which moves to the front
    raw["added_tokens"].append({**raw["added_tokens"][0], "id": 320, "content": "Ġ</s>"})
    file.write_text(json.dumps(raw))
    config = json.loads((Path(path) / "config.json").read_text())
    (Path(path) / "config.json").write_text(json.dumps(config | {"mask_token_id": 300, "eos_token_id": [2, 299]}))
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path)
    found = find_vocabulary(model, tokenizer, [Table.from_texts(["a"])], 1, 64, "g")
    small = with_vocabulary(model, found, "g")
    assert found.kept[small.config.mask_token_id] == 300
    assert found.kept[small.config.eos_token_id].tolist() == [2, 299]
    assert small.config.vocab_size == found.rows == len(found.kept) - 1  # the added one had no row
    assert found.tokenizer("a</s>")["input_ids"][-1] == found.tokenizer.eos_token_id == 2


# ---- refused ---------------------------------------------------------------------------------------------------------


def test_a_head_that_predicts_tokens_is_refused() -> None:
    model = BertForMaskedLM(model_of(wordpiece_tokenizer()).config)
    with pytest.raises(StudentError, match="BertForMaskedLM cannot be trimmed: its head predicts tokens"):
        find_vocabulary(model, wordpiece_tokenizer(), [Table.from_texts(USED)], None, 64, "w")


def test_a_model_that_knows_tokens_by_their_numbers_is_refused() -> None:
    class Odd(BertForSequenceClassification):
        def forward(self, input_ids: Any, **more: Any) -> Any:
            found = super().forward(input_ids, **more)
            found["logits"] = found["logits"] + input_ids.float().mean()
            return found

    model = Odd(model_of(wordpiece_tokenizer()).config).eval()
    with pytest.raises(StudentError, match="Odd cannot be trimmed: not only its embeddings depend on the numbers"):
        with_vocabulary(model, trimmed("WordPiece"), "w")
    model = model_of(wordpiece_tokenizer())
    model.register_buffer("by_token", torch.zeros(150))
    with pytest.raises(StudentError, match="cannot be trimmed: another part of it has a row for every token"):
        with_vocabulary(model, trimmed("WordPiece"), "w")


def test_other_tokenizers_are_refused() -> None:
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]")))
    with pytest.raises(StudentError, match="its tokenizer is a WordLevel, expected WordPiece, BPE or Unigram"):
        token_kind(words, "w", StudentError)
    with pytest.raises(StudentError, match="object is no fast tokenizer"):
        token_kind(object(), "w", StudentError)


# ---- students --------------------------------------------------------------------------------------------------------


def test_a_students_tokens_are_its_teachers_while_none_of_the_texts_is_left_out(tmp_path: Path) -> None:
    path = tiny_roberta(tmp_path, TASK.labels)
    student = build_student(StudentConfig(init=path), TASK, {}, 0, max_length=24)
    teacher: Any = load_teacher(TeacherConfig(path=path), TASK, precision="fp32", max_length=24)
    find = lambda size: find_vocabulary(student.model, student.tokenizer, [Table.from_texts(USED)], size, 24, "r")  # noqa: E731
    assert same_tokens(student.with_vocabulary(find(None)), teacher)
    other = student.with_vocabulary(find(1))
    assert not same_tokens(other, teacher)
    assert other.source["vocabulary"]["of"] == len(teacher.tokenizer)
    assert other.model.config.vocabulary_digest != student.with_vocabulary(find(None)).model.config.vocabulary_digest


def test_weights_of_other_tokens_are_never_loaded(tmp_path: Path) -> None:
    student = build_student(StudentConfig(init=tiny_bert(tmp_path / "t", TASK.labels)), TASK, {}, 0, max_length=24)
    one, two = (
        student.with_vocabulary(
            find_vocabulary(student.model, student.tokenizer, [Table.from_texts([text])], None, 24, "b")
        )
        for text in ("a good film", "a good view")
    )
    assert len(one.vocabulary.kept) == len(two.vocabulary.kept)  # type: ignore[union-attr]
    one.model.save_pretrained(tmp_path / "checkpoint")
    load_weights(one.model, tmp_path / "checkpoint", sharded=False)
    for model in (two.model, student.model):
        with pytest.raises(RunError, match="has other tokens than the student has now: the texts of train or extra"):
            load_weights(model, tmp_path / "checkpoint", sharded=False)


def test_a_model_in_training_stays_so_and_nothing_is_drawn(tmp_path: Path) -> None:
    model = model_of(wordpiece_tokenizer())
    state = torch.random.get_rng_state()
    assert with_vocabulary(model.train(), trimmed("WordPiece"), "w").training
    assert not with_vocabulary(model.eval(), trimmed("WordPiece"), "w").training
    assert torch.equal(state, torch.random.get_rng_state())
