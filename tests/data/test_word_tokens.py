"""Where the words of a row stand among a model's tokens, whatever the tokenizer and however long the row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilect.data import Table, encode
from distilect.errors import DataError
from distilect.models import per_unit
from tests.tiny import (
    SENTENCES,
    bpe_tokenizer,
    gpt2_tokenizer,
    mpnet_tokenizer,
    unigram_tokenizer,
    wordpiece_tokenizer,
    xlnet_tokenizer,
)

TOKENIZERS = {
    "WordPiece": wordpiece_tokenizer,
    "byte-level BPE": bpe_tokenizer,
    "without special tokens": gpt2_tokenizer,
    "Unigram": unigram_tokenizer,
    "MPNet": mpnet_tokenizer,
    "padded on the left": xlnet_tokenizer,
}
WORDS = " ".join(SENTENCES).replace(",", "").split()
rows_of_words = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30), min_size=1, max_size=5)


def read_at_words(table: Table, tokenizer: Any, max_length: int, rows: Any = None) -> list[list[str]]:
    """The text of the token that each word is read at, as the model gets it."""
    encoded = encode(table, tokenizer, max_length)
    inputs = encoded.collate(np.arange(len(table)) if rows is None else rows)
    ids, words = inputs["input_ids"], inputs["words"]
    assert ids.shape[1] <= max_length and inputs["attention_mask"].shape == ids.shape
    found = []
    for places in words:
        own = places[places >= 0]
        assert inputs["attention_mask"].flatten()[own].all()
        tokens = tokenizer.convert_ids_to_tokens(ids.flatten()[own].tolist())
        found.append([token.lstrip("\u0120\u2581") for token in tokens])
    return found


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=20, deadline=None)
@given(rows=rows_of_words)
def test_each_word_is_read_at_its_first_token(name: str, rows: list[list[str]]) -> None:
    tokenizer = TOKENIZERS[name]()
    for max_length in (64, 12):  # in the second most rows are read in windows
        for words, tokens in zip(rows, read_at_words(Table.from_words(rows), tokenizer, max_length), strict=True):
            assert len(tokens) == len(words)
            for word, token in zip(words, tokens, strict=True):
                assert word.startswith(token) if token else word == ""


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=5, deadline=None)
@given(rows=rows_of_words)
def test_the_tokens_that_a_word_is_the_mean_of_are_the_whole_word(name: str, rows: list[list[str]]) -> None:
    tokenizer, table = TOKENIZERS[name](), Table.from_words(rows)
    for max_length in (64, 12):
        first = encode(table, tokenizer, max_length).collate(np.arange(len(rows)))["words"]
        inputs = encode(table, tokenizer, max_length, mean=True).collate(np.arange(len(rows)))
        words, ids = inputs["words"], inputs["input_ids"].flatten()
        assert torch.equal(words[..., 0], first)
        for row, places in zip(rows, words, strict=True):
            for word, own in zip(row, places, strict=False):
                own = own[own >= 0]
                assert own.diff().eq(1).all() and inputs["attention_mask"].flatten()[own].all()
                read = tokenizer.decode(ids[own]).strip().replace(" ", "")
                assert read == word or (max_length == 12 and word.startswith(read)) or tokenizer.unk_token in read


@given(data=st.data())
def test_means_are_those_of_each_words_tokens(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=5), min_size=1, max_size=4))
    values, places = torch.randn(3, 20, 2), iter(torch.randperm(60).tolist())
    rows = [[[next(places) for _ in range(min(size, 3))] for size in row] for row in sizes]
    words = torch.full((len(rows), 5, 4), -1)
    for row, own in enumerate(rows):
        for word, tokens in enumerate(own):
            words[row, word, : len(tokens)] = torch.tensor(tokens)
    expected = torch.stack([values.flatten(0, 1)[tokens].mean(0) for row in rows for tokens in row])
    torch.testing.assert_close(per_unit(values, words), expected)


def test_a_long_row_is_read_in_windows_where_each_word_has_most_context() -> None:
    tokenizer = wordpiece_tokenizer()
    words = [WORDS[i % len(WORDS)] for i in range(100)]
    table = Table.from_words([["the"], words, ["a", "film"]])
    encoded = encode(table, tokenizer, 16)
    assert encoded.words is not None
    windows = encoded.words.windows.sizes
    assert windows[0] == windows[2] == 1 and windows[1] > 6
    assert encoded.truncated == 1
    assert encoded.report("student", "training") == [
        "student: 1 of 3 training rows are longer than 16 tokens: read in windows"
    ]
    inputs = encoded.collate([0, 1, 2])
    assert inputs["input_ids"].shape == (windows.sum(), 16)
    places = inputs["words"][1] % 16
    # within the row no word is read at the edge of a window: a quarter of its tokens are shared with the next
    assert (places[3:-3] >= 2).all() and (places[3:-3] <= 13).all()
    sequences = inputs["words"][1] // 16
    assert (sequences.diff() >= 0).all() and len(sequences.unique()) == windows[1]


def test_words_without_a_token_are_read_at_their_neighbour_and_reported() -> None:
    table = Table.from_words([["the", "\u200b", "film"], ["\u200b", "a"]])
    encoded = encode(table, wordpiece_tokenizer(), 32)
    assert encoded.words is not None
    without = encoded.words.without_tokens
    read = read_at_words(table, wordpiece_tokenizer(), 32)
    assert [len(row) for row in read] == [3, 2]
    if without:  # as the tokenizer normalises it away
        assert read == [["the", "the", "film"], ["a", "a"]]
        assert (
            encoded.report("student", "training")[-1]
            == f"student: {without} words of training have no token of their own"
        )


def test_rows_are_taken_with_their_words() -> None:
    rows = [["the"], WORDS[:40], ["a", "film"], WORDS[5:9]]
    table, tokenizer = Table.from_words(rows), wordpiece_tokenizer()
    whole = encode(table, tokenizer, 16, mean=True)
    for index in ([3, 1], [1, 1, 0], [2]):
        taken, direct = whole.take(index), encode(table.take(index), tokenizer, 16, mean=True)
        order = np.arange(len(index))
        for name, values in direct.collate(order).items():
            assert torch.equal(taken.collate(order)[name], values)
            assert torch.equal(whole.collate(index)[name], values)


def test_a_tokenizer_that_does_not_say_where_its_tokens_stand_is_refused() -> None:
    class Slow:
        is_fast, name_or_path, model_input_names = False, "some/model", ["input_ids"]

    with pytest.raises(DataError, match="some/model does not say which characters"):
        encode(Table.from_words([["a"]]), Slow(), 16)


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8), data=st.data())
def test_units_are_found_from_rows_and_rows_from_units(sizes: list[int], data: st.DataObject) -> None:
    table = Table.from_words([["w"] * size for size in sizes])
    rows = data.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=6))
    units = table.unit_index(rows)
    assert units.tolist() == [sum(sizes[:row]) + place for row in rows for place in range(sizes[row])]
    if len(units):
        found, places = table.locate(units)
        assert found.tolist() == sorted(set(rows))
        assert table.unit_index(found)[places].tolist() == units.tolist()


def test_equal_rows_have_units_of_equal_keys_and_all_others_differ() -> None:
    table = Table.from_words([["a", "b", "a"], ["a", "b", "a"], ["a", "b"]])
    keys = table.unit_keys()
    assert keys[:3].tolist() == keys[3:6].tolist()
    assert len(set(keys.tolist())) == 5
