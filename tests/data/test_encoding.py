"""Stored tokens equal the tokenizer's own, for every kind of tokenizer and whatever rows are asked for together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from distilect.data import Encoded, Table, encode
from distilect.data import encoding as module
from tests.tiny import SENTENCES, bpe_tokenizer, gpt2_tokenizer, wordpiece_tokenizer, xlnet_tokenizer

TOKENIZERS = [wordpiece_tokenizer, bpe_tokenizer, xlnet_tokenizer, gpt2_tokenizer]
SINGLES = [*SENTENCES, "a", SENTENCES[0] * 6]
PAIRS = [(SENTENCES[i], SENTENCES[(i * 7 + 3) % 10] * (1 + i % 4)) for i in range(10)]


def own_inputs(tokenizer: Any, texts: list, max_length: int) -> dict[str, torch.Tensor]:
    """The tokenizer's own padded batch."""
    columns = [texts] if isinstance(texts[0], str) else [list(column) for column in zip(*texts, strict=True)]
    batch = tokenizer(*columns, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
    return dict(batch)


@pytest.mark.parametrize("make", TOKENIZERS)
@pytest.mark.parametrize("texts", [SINGLES, PAIRS], ids=["single", "pairs"])
@pytest.mark.parametrize("max_length", [12, 64])
def test_a_batch_equals_that_of_the_tokenizer(make: Callable[[], Any], texts: list, max_length: int) -> None:
    tokenizer = make()
    encoded = encode(Table.from_texts(texts), tokenizer, max_length)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    for rows in ([0], [3, 1, 4], list(range(len(texts)))[::-1]):
        inputs, own = encoded.collate(rows), own_inputs(tokenizer, [texts[i] for i in rows], max_length)
        assert set(inputs) == {"input_ids", "attention_mask"} | ({"token_type_ids"} & set(tokenizer.model_input_names))
        for name, values in inputs.items():
            assert values.dtype == torch.int64
            assert torch.equal(values, own[name]), name
        assert encoded.lengths[rows].tolist() == own["attention_mask"].sum(1).tolist()


def test_rows_that_are_cut_are_counted() -> None:
    encoded = encode(Table.from_texts(["a", SENTENCES[0], SENTENCES[1], "b"]), wordpiece_tokenizer(), 8)
    assert encoded.truncated == 2
    assert encoded.lengths.tolist() == [3, 8, 8, 3]
    assert encoded.lengths.dtype == np.int32 and len(encoded) == 4


def test_a_row_does_not_depend_on_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    table, tokenizer = Table.from_texts(SINGLES * 3), wordpiece_tokenizer()
    whole = encode(table, tokenizer, 16)
    monkeypatch.setattr(module, "CHUNK", 5)
    monkeypatch.setattr(module, "LARGE", 7)  # with the progress bar
    blocks = encode(table, tokenizer, 16)
    assert blocks.truncated == whole.truncated
    rows = range(len(table))
    assert all(
        torch.equal(a, b) for a, b in zip(whole.collate(rows).values(), blocks.collate(rows).values(), strict=True)
    )


def test_the_padding_side_is_the_tokenizers() -> None:
    tokenizer = wordpiece_tokenizer()
    tokenizer.padding_side = "left"
    mask = encode(Table.from_texts(["a", SENTENCES[0]]), tokenizer, 32).collate([0, 1])["attention_mask"]
    assert mask[0, -3:].tolist() == [1, 1, 1] and mask[0, :-3].sum() == 0


def test_a_tokenizer_without_pad_and_end_tokens_pads_with_0() -> None:
    tokenizer = wordpiece_tokenizer()
    tokenizer.pad_token = None
    assert tokenizer.pad_token_id is None and tokenizer.eos_token_id is None
    inputs = encode(Table.from_texts(["a", SENTENCES[0]]), tokenizer, 32).collate([0, 1])
    assert inputs["input_ids"][0, 3:].tolist() == [0] * (inputs["input_ids"].shape[1] - 3)


def test_empty_tables_and_empty_batches_are_no_fault() -> None:
    assert len(encode(Table.from_texts([]), wordpiece_tokenizer(), 8)) == 0
    assert encode(Table.from_texts(["a"]), wordpiece_tokenizer(), 8).collate([])["input_ids"].shape == (0, 0)


def test_tokenising_warns_of_no_long_rows(caplog: pytest.LogCaptureFixture) -> None:
    # rows are first tokenised whole, of which transformers would warn though they are cut later
    encode(Table.from_texts([SENTENCES[0] * 20]), wordpiece_tokenizer(16), 16)
    assert not caplog.records


def test_collating_32_rows_takes_less_than_a_millisecond() -> None:
    lengths = np.random.default_rng(0).integers(5, 128, 10_000).astype(np.int32)
    flat = np.ones(lengths.sum(), np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    columns = {"input_ids": flat, "token_type_ids": flat}
    encoded = Encoded(columns, lengths, offsets, padding=dict.fromkeys(columns, 0))
    rows = np.random.default_rng(1).integers(0, 10_000, 32)
    times = []
    for _ in range(50):
        start = time.perf_counter()
        encoded.collate(rows)
        times.append(time.perf_counter() - start)
    assert min(times) < 1e-3
