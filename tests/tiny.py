"""Tiny random checkpoints with tokenizers of their own, made in a fraction of a second; for all tests.

Each `tiny_*` function saves model and tokenizer into `folder` and returns it as a string.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AlbertConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    MPNetConfig,
    MPNetTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
    XLMRobertaTokenizer,
    XLNetConfig,
)

SENTENCES = (
    "the film was a joy from the first scene to the last",
    "a dull story, badly told and far too long",
    "the weather is fine in the north and cold in the south",
    "she plays the piano while he reads a long letter",
    "nobody knows why the train was late again this morning",
    "good food, friendly people and a view of the sea",
    "it is not bad, but it is not good either",
    "the players scored three times in the second half",
    "prices rose by 12 percent over the last year",
    "a small model learns from a large teacher",
)


@cache
def _wordpiece() -> str:
    # the vocabulary is written by hand: the trainer's order differs from process to process
    words = sorted({word for sentence in SENTENCES for word in sentence.replace(",", "").split()})
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = (
        special
        + list(letters)
        + list(",.?!")
        + ["##" + letter for letter in letters]
        + [w for w in words if len(w) > 1]
    )
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer.to_str()


@cache
def _byte_bpe() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer.to_str()


def wordpiece_tokenizer(max_length: int = 64) -> PreTrainedTokenizerFast:
    """A BERT-like WordPiece tokenizer: [CLS] first, [PAD] = 0, token type ids."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_wordpiece()),
        model_max_length=max_length,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def bpe_tokenizer(max_length: int = 64) -> PreTrainedTokenizerFast:
    """A RoBERTa-like byte-level BPE tokenizer: <s> first, <pad> = 1, no token type ids."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_byte_bpe()),
        model_max_length=max_length,
        unk_token="<unk>",
        pad_token="<pad>",
        cls_token="<s>",
        sep_token="</s>",
        bos_token="<s>",
        eos_token="</s>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )


@cache
def _unigram() -> tuple[tuple[str, float], ...]:
    """(piece, score): letters, parts of words, words; a longer piece is more likely than its letters."""
    words = Counter(word for sentence in SENTENCES for word in sentence.replace(",", " ,").split())
    parts = Counter(word[i : i + n] for word in words for n in (2, 3) for i in range(len(word) - n + 1))
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    letters = [(letter, -11.0) for letter in "▁abcdefghijklmnopqrstuvwxyz0123456789,.?!"]
    longer = [(part, -9.0 - 0.001 * i) for i, part in enumerate(sorted(p for p, n in parts.items() if n > 1))]
    whole = [(f"▁{word}", -6.0 - 0.001 * i) for i, word in enumerate(sorted(words)) if word != ","]
    return (*special, *letters, *longer, *whole, ("<mask>", 0.0))


def unigram_tokenizer(max_length: int = 64) -> PreTrainedTokenizerFast:
    """XLM-R's: Unigram, <s> first, <pad> = 1, <mask> last."""
    return XLMRobertaTokenizer(vocab=list(_unigram()), model_max_length=max_length)


def mpnet_tokenizer(max_length: int = 64) -> PreTrainedTokenizerFast:
    """MPNet's: WordPiece with <s> first, <pad> = 1 and <mask> last."""
    pieces = [*("<s>", "<pad>", "</s>", "<unk>"), *json.loads(_wordpiece())["model"]["vocab"], "<mask>"]
    return MPNetTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, model_max_length=max_length)


def xlnet_tokenizer(max_length: int = 64) -> PreTrainedTokenizerFast:
    """An XLNet-like tokenizer: <sep> <cls> at the END, padding on the LEFT."""
    tokenizer = Tokenizer.from_str(_wordpiece())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP] [CLS]:2", pair="$A [SEP] $B:1 [SEP]:1 [CLS]:2", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        padding_side="left",
        pad_token_type_id=3,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def gpt2_tokenizer(max_length: int = 64) -> PreTrainedTokenizerFast:
    """A GPT-2-like byte-level BPE tokenizer: no classification token; pads with </s>."""
    tokenizer = Tokenizer.from_str(_byte_bpe())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="</s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )


def save(
    folder: str | Path,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerFast,
    labels: Sequence[str] | int,
    seed: int,
    words: bool = False,
) -> str:
    """Save a random model of `config` with head `labels` (names; or a count: generic LABEL_i; 1 = regression); `words`: for each token."""
    names = [f"LABEL_{i}" for i in range(labels)] if isinstance(labels, int) else list(labels)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = "regression" if len(names) == 1 else config.problem_type
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loader = AutoModelForTokenClassification if words else AutoModelForSequenceClassification
        model = loader.from_config(config).float()
        with torch.no_grad():  # the default initialisation is so small that all rows would look alike
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def tiny_bert(
    folder: str | Path,
    labels: Sequence[str] | int = 2,
    seed: int = 0,
    *,
    layers: int = 2,
    hidden: int = 16,
    words: bool = False,
    **more: Any,
) -> str:
    """BERT with a WordPiece tokenizer."""
    config = BertConfig(
        vocab_size=200,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        **more,
    )
    return save(folder, config, wordpiece_tokenizer(), labels, seed, words)


def tiny_roberta(
    folder: str | Path,
    labels: Sequence[str] | int = 2,
    seed: int = 0,
    *,
    layers: int = 2,
    hidden: int = 16,
    words: bool = False,
    **more: Any,
) -> str:
    """RoBERTa with a byte-level BPE tokenizer."""
    config = RobertaConfig(
        vocab_size=320,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=66,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        **more,
    )
    return save(folder, config, bpe_tokenizer(), labels, seed, words)


def tiny_xlm_roberta(folder: str | Path, labels: Sequence[str] | int = 2, seed: int = 0, *, layers: int = 2) -> str:
    """XLM-RoBERTa with a Unigram tokenizer."""
    tokenizer = unigram_tokenizer()
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=66,
        type_vocab_size=1,
    )
    return save(folder, config, tokenizer, labels, seed)


def tiny_mpnet(folder: str | Path, labels: Sequence[str] | int = 2, seed: int = 0, *, layers: int = 2) -> str:
    """MPNet: relative positions, and a pad token that is not the first."""
    tokenizer = mpnet_tokenizer()
    config = MPNetConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=66,
    )
    return save(folder, config, tokenizer, labels, seed)


def tiny_distilbert(
    folder: str | Path,
    labels: Sequence[str] | int = 2,
    seed: int = 0,
    *,
    layers: int = 2,
    hidden: int = 16,
    **more: Any,
) -> str:
    """DistilBERT: takes no token type ids, calls its sizes dim and n_layers."""
    config = DistilBertConfig(
        vocab_size=200,
        dim=hidden,
        n_layers=layers,
        n_heads=2,
        hidden_dim=2 * hidden,
        max_position_embeddings=64,
        **more,
    )
    tokenizer = wordpiece_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return save(folder, config, tokenizer, labels, seed)


def tiny_albert(
    folder: str | Path,
    labels: Sequence[str] | int = 2,
    seed: int = 0,
    *,
    layers: int = 2,
    hidden: int = 16,
    **more: Any,
) -> str:
    """ALBERT: all layers share one set of weights."""
    config = AlbertConfig(
        vocab_size=200,
        embedding_size=8,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        **more,
    )
    return save(folder, config, wordpiece_tokenizer(), labels, seed)


def tiny_electra(
    folder: str | Path,
    labels: Sequence[str] | int = 2,
    seed: int = 0,
    *,
    layers: int = 2,
    hidden: int = 16,
    **more: Any,
) -> str:
    """ELECTRA with embeddings narrower than its layers."""
    config = ElectraConfig(
        vocab_size=200,
        embedding_size=8,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        **more,
    )
    return save(folder, config, wordpiece_tokenizer(), labels, seed)


def tiny_xlnet(
    folder: str | Path,
    labels: Sequence[str] | int = 2,
    seed: int = 0,
    *,
    layers: int = 2,
    hidden: int = 16,
    **more: Any,
) -> str:
    """XLNet: classification token at the end, padding on the left."""
    config = XLNetConfig(vocab_size=200, d_model=hidden, n_layer=layers, n_head=2, d_inner=2 * hidden, **more)
    return save(folder, config, xlnet_tokenizer(), labels, seed)


def tiny_gpt2(
    folder: str | Path,
    labels: Sequence[str] | int = 2,
    seed: int = 0,
    *,
    layers: int = 2,
    hidden: int = 16,
    **more: Any,
) -> str:
    """GPT-2: a decoder; reads the last token that is no padding."""
    config = GPT2Config(
        vocab_size=320,
        n_embd=hidden,
        n_layer=layers,
        n_head=2,
        n_positions=64,
        bos_token_id=2,
        eos_token_id=2,
        pad_token_id=2,
        **more,
    )
    return save(folder, config, gpt2_tokenizer(), labels, seed)


def llama_tokenizer(max_length: int = 64) -> PreTrainedTokenizerFast:
    """A Llama-like byte-level BPE tokenizer: <s> first, nothing at the end, and a chat template."""
    tokenizer = Tokenizer.from_str(_byte_bpe())
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    found = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )
    found.chat_template = (
        "<s>{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return found


def tiny_llama(
    folder: str | Path,
    seed: int = 0,
    *,
    layers: int = 2,
    hidden: int = 32,
    tied: bool = False,
    length: int = 64,
    **more: Any,
) -> str:
    """Llama: a language model."""
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=length,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
        **more,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).float()
        with torch.no_grad():  # the default initialisation is so small that all tokens would be alike
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    llama_tokenizer(length).save_pretrained(folder)
    return str(folder)


FAMILIES: dict[str, Callable[..., str]] = {
    "bert": tiny_bert,
    "roberta": tiny_roberta,
    "distilbert": tiny_distilbert,
    "albert": tiny_albert,
    "electra": tiny_electra,
    "xlnet": tiny_xlnet,
    "gpt2": tiny_gpt2,
}
