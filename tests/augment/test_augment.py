"""Changed copies of rows: what is changed, that it repeats, and that the rows themselves stay as they are."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from distilect.augment import METHODS, augment, augment_file, load_lexicon
from distilect.augment.lexicon import in_the_case_of
from distilect.augment.methods import crossover, delete, partners, swap
from distilect.augment.pieces import Draws, Pieces, Vocabulary, Words, cut
from distilect.data import Table, open_source, row_keys
from distilect.errors import DataError
from tests.tiny import SENTENCES, tiny_bert, tiny_gpt2, wordpiece_tokenizer

TEXTS = ("a dull story, badly told", "The weather is fine in the NORTH", "nobody knows why", "good", "", "…!")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_bert(tmp_path_factory.mktemp("model") / "bert")


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT with a masked-LM head."""
    folder = tmp_path_factory.mktemp("masked") / "bert"
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(vocab_size=200, max_position_embeddings=64, **sizes)).save_pretrained(folder)
    wordpiece_tokenizer().save_pretrained(folder)
    return str(folder)


def table(rows: int = 60, pairs: bool = False) -> Table:
    rng = np.random.default_rng(0)
    words = " ".join(SENTENCES).replace(",", "").split()
    one, two = ([" ".join(rng.choice(words, size=int(rng.integers(4, 12)))) for _ in range(rows)] for _ in "ab")
    return Table.from_texts(list(zip(one, two, strict=True)) if pairs else one, rng.integers(0, 2, rows))


def texts(made: Any) -> list[tuple[str, ...]]:
    return made.table.text(np.arange(len(made.table)))


def pieces_of(*given: str) -> tuple[Pieces, Vocabulary, Words]:
    vocabulary = Vocabulary()
    pieces = cut(given, vocabulary)
    return pieces, vocabulary, Words.among(pieces, vocabulary.where(str.isalnum)[pieces.ids])


def keys(count: int) -> np.ndarray:
    return row_keys(Table.from_texts([f"row {i}" for i in range(count)]).ids)


# ---- pieces --------------------------------------------------------------------------------------------------------


def test_pieces_joined_are_the_texts():
    pieces, vocabulary, words = pieces_of(*TEXTS)
    assert pieces.join(vocabulary).to_pylist() == list(TEXTS)
    assert words.counts.tolist() == [5, 7, 3, 1, 0, 0]
    kept = pieces.keep(np.arange(len(pieces.ids)) > 0)
    assert kept.join(vocabulary).to_pylist() == ["dull story, badly told", *TEXTS[1:]]


def test_draws_are_of_the_row_and_of_nothing_else():
    pieces, _, words = pieces_of("a b c d", "e f", "g h i")
    rows = keys(3)
    whole = Draws(rows, 5, 1, 0)
    values, by_row = whole.words(words), whole.rows()
    order = [2, 0, 1]
    turned, _, turned_words = pieces_of("g h i", "a b c d", "e f")
    again = Draws(rows[order], 5, 1, 0)
    assert again.words(turned_words).tolist() == [*values[6:], *values[:4], *values[4:6]]
    assert again.rows().tolist() == by_row[order].tolist()
    assert len(turned.ids) == len(pieces.ids)
    for other in ((6, 1, 0), (5, 2, 0), (5, 1, 1)):
        assert (Draws(rows, *other).words(words) != values).all()
    many = Draws(keys(4000), 0).rows()
    assert many.min() >= 0 and many.max() < 1 and abs(many.mean() - 0.5) < 0.03


# ---- kinds of change -----------------------------------------------------------------------------------------------


def test_swap_exchanges_words_and_nothing_else():
    pieces, vocabulary, words = pieces_of(*TEXTS)
    for seed in range(5):
        found = swap(pieces, words, Draws(keys(6), seed), 0.1).join(vocabulary).to_pylist()
        for before, after in zip(TEXTS, found, strict=True):
            assert sorted(before) == sorted(after)
            moved = [a != b for a, b in zip(before.split(), after.split(), strict=True)]
            assert sum(moved) == (2 if len(before.split()) > 1 else 0)


def test_delete_leaves_out_words_with_their_space_but_never_all():
    pieces, vocabulary, words = pieces_of(*TEXTS)
    is_space = vocabulary.where(str.isspace)
    for seed in range(20):
        for share in (0.1, 0.6, 1.0):
            found = delete(pieces, words, is_space, Draws(keys(6), seed), share).join(vocabulary).to_pylist()
            assert found[3:] == ["good", "", "…!"]
            for before, after in zip(TEXTS[:3], found[:3], strict=True):
                assert "  " not in after and 1 <= len(after.split()) < len(before.split())
                left = iter(before.replace(",", " ,").split())
                assert all(word in left for word in after.replace(",", " ,").split())  # in their order


def test_crossover_is_a_head_with_the_tail_of_the_partner():
    one, two = "a1 a2 a3 a4 a5 a6 a7 a8", "b1, b2 b3 b4"
    pieces, vocabulary, words = pieces_of(one, two, "")
    for seed in range(10):
        draws = Draws(keys(3), seed)
        found = crossover(pieces, words, np.array([1, 0, 1]), draws).join(vocabulary).to_pylist()
        first = found[0].split()
        heads, tails = [w for w in first if w[0] == "a"], [w for w in first if w[0] == "b"]
        assert (
            first == heads + tails and " ".join(heads) == one[: len(" ".join(heads))] and two.endswith(" ".join(tails))
        )
        assert 2 <= len(heads) <= 6 and 1 <= len(tails) <= 3
        assert two.endswith(found[2])  # nothing of its own


def test_partners_are_near_and_never_the_row_itself():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 50)
    vectors = (np.eye(4)[groups] + 0.1 * rng.normal(size=(200, 4))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = partners(vectors, 200, Draws(keys(200), 0))
    assert (groups[found] == groups).mean() > 0.95 and (found != np.arange(200)).all()
    blind = partners(None, 200, Draws(keys(200), 0))
    assert (blind != np.arange(200)).all() and (groups[blind] == groups).mean() < 0.5
    assert partners(None, 1, Draws(keys(1), 0)).tolist() == [0]


def test_neighbours_are_the_nearest_whole_words_of_the_embedding(model):
    lexicon = load_lexicon(model)
    assert {"film", "weather", "teacher"} <= set(lexicon.words)
    assert not {"##a", "[CLS]", "a", "."} & set(lexicon.words)
    place = lexicon.words.index("film")
    cosines = lexicon.vectors @ lexicon.vectors[place]
    cosines[place] = -2
    assert lexicon.neighbours(np.array([place]))[0].tolist() == cosines.topk(15).indices.tolist()


def test_function_words_and_words_of_several_tokens_are_left_alone(model):
    lexicon = load_lexicon(model)
    found = lexicon.places(["film", "Film", "not", "the", "zyxwv", ",", "12", "good"])
    assert (found >= 0).tolist() == [True, True, False, False, False, False, False, True]
    assert found[0] == found[1] == lexicon.words.index("film")


def test_a_word_is_replaced_by_one_of_its_neighbours_in_its_own_case(model):
    lexicon = load_lexicon(model)
    source = Table.from_texts(["The Film was a joy, the WEATHER was fine"])
    made = augment(source, 50, model=model)
    for (text,) in texts(made):
        words = text.replace(",", " ,").split()
        assert [words[i] for i in (0, 2, 3, 5, 6, 8)] == ["The", "was", "a", ",", "the", "was"]
        for place, original in ((1, "film"), (4, "joy"), (7, "weather"), (9, "fine")):
            near = lexicon.neighbours(np.array([lexicon.words.index(original)]))[0]
            assert words[place].lower() in {original, *(lexicon.words[n] for n in near)}
        assert words[1][0].isupper() and words[7].isupper() and words[9].islower()
        assert text != "The Film was a joy, the WEATHER was fine"  # one word at least


def test_the_case_of_a_word_is_kept():
    assert [in_the_case_of("movie", like) for like in ("Film", "FILM", "film", "I")] == [
        "Movie",
        "MOVIE",
        "movie",
        "Movie",
    ]


def test_a_masked_model_fills_words_in_and_never_with_the_same_word(masked):
    source = table(20)
    made = augment(source, 3, kinds=["mlm"], model=masked)
    assert len(made.table) > 50
    known = set(load_lexicon(masked).words)
    for (new,), row in zip(texts(made), made.source, strict=True):
        before, after = source.text([row])[0][0].split(), new.split()
        changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
        assert changed and all(b in known for _, b in changed)


def test_a_masked_word_has_the_words_around_it_before_it(masked):
    """The likeliest words are those of the model for the masked text, not for another row of the batch."""
    from distilect.augment.masked import MaskedFiller

    source = Table.from_texts(["the film was long", "she plays the piano while he reads a letter"])
    filler = MaskedFiller(masked)
    vocabulary = Vocabulary()
    pieces = cut(source.texts[0].to_pylist(), vocabulary)
    words = Words.among(pieces, np.array([piece in ("film", "piano") for piece in vocabulary.pieces])[pieces.ids])
    found = filler.fill(source.texts[0].to_pylist(), pieces, words, vocabulary, Draws(keys(2), 0), 1.0)
    reference = AutoModelForMaskedLM.from_pretrained(masked).eval()
    for text, word, new in zip(
        source.texts[0].to_pylist(), ("film", "piano"), found.join(vocabulary).to_pylist(), strict=True
    ):
        inputs = filler.tokenizer(text.replace(word, "[MASK]"), return_tensors="pt")
        place = int((inputs["input_ids"][0] == filler.tokenizer.mask_token_id).nonzero())
        with torch.no_grad():
            logits = reference(**inputs).logits[0, place, torch.from_numpy(filler.ids)]
        logits[filler.words.index(word)] = -torch.inf
        likeliest = {filler.words[i] for i in logits.topk(16).indices.tolist()}  # bf16 may swap the last two
        assert new.split()[text.split().index(word)] in likeliest


def test_a_checkpoint_without_a_masked_head_is_refused(model):
    with pytest.raises(DataError, match="has no masked-LM head: give one that has, or use method neighbours"):
        augment(table(5), 1, kinds=["mlm"], model=model)


def test_a_tokenizer_without_words_is_refused(tmp_path):
    with pytest.raises(DataError, match="of its tokens are words"):
        load_lexicon(tiny_gpt2(tmp_path / "gpt2"))


# ---- tables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("pairs", [False, True])
def test_copies_are_new_unlabelled_rows_and_the_rows_stay_as_they_are(kind, pairs, masked):
    source = table(pairs=pairs)
    before = source.fingerprint()
    made = augment(source, 3, kinds=[kind], model=masked)
    assert source.fingerprint() == before and made.table.num_texts == source.num_texts
    assert not made.table.has_label.any()
    old, new = set(source.text(np.arange(60))), texts(made)
    assert len(set(new)) == len(new) and not old & set(new)
    assert len(new) + made.dropped == 180 and len(new) > 120


@pytest.mark.parametrize("kind", ["neighbours", "swap", "delete", "mlm"])
def test_a_rows_copies_depend_on_neither_the_other_rows_nor_their_order(kind, masked):
    source, order = table(), np.random.default_rng(1).permutation(60)[:25]
    whole = augment(source, 4, kinds=[kind], model=masked, seed=3)
    some = augment(source.take(order), 2, kinds=[kind], model=masked, seed=3)
    assert set(texts(some)) <= set(texts(whole))
    assert texts(augment(source, 4, kinds=[kind], model=masked, seed=3)) == texts(whole)
    other = set(texts(augment(source, 4, kinds=[kind], model=masked, seed=4)))
    assert len(other & set(texts(whole))) < 0.6 * len(other)


def test_kinds_are_taken_in_turn(model):
    both = augment(table(), 2, kinds=["swap", "neighbours"], model=model)
    swapped = texts(augment(table(), 1, kinds=["swap"]))
    assert texts(both)[: len(swapped)] == swapped and len(both.table) > len(swapped) + 50
    for (new,), row in zip(texts(both), both.source, strict=True):
        same_words = sorted(new.split()) == sorted(table().text([row])[0][0].split())
        assert same_words == ((new,) in swapped)


def test_of_a_pair_one_text_or_both_are_changed():
    source = table(200, pairs=True)
    made = augment(source, 1, kinds=["swap"])
    kinds = {(False, True): 0, (True, False): 0, (True, True): 0}
    for new, row in zip(texts(made), made.source, strict=True):
        kinds[tuple(a != b for a, b in zip(new, source.text([row])[0], strict=True))] += 1
    assert all(40 < count < 95 for count in kinds.values())


def test_recombined_pairs_keep_each_text_in_its_column(model):
    source = table(50, pairs=True)
    first, second = (set(column.to_pylist()) for column in source.texts)
    made = augment(source, 2, kinds=["recombine"], model=model)
    own = 0
    for (one, two), row in zip(texts(made), made.source, strict=True):
        assert one in first and two in second
        mine = source.text([row])[0]
        assert (one == mine[0]) != (two == mine[1])
        own += one == mine[0]
    assert 20 < own < 80


def test_labels_are_kept_where_they_are_asked_for():
    source = table()
    made = augment(source, 2, kinds=["delete"], keep_labels=True)
    assert made.table.labels.tolist() == source.labels[made.source].tolist()


def test_rows_that_must_not_be_made_are_not():
    source = Table.from_texts(["fine film", "good story"])
    all_of_them = texts(augment(source, 1, kinds=["swap"]))
    assert set(all_of_them) == {("film fine",), ("story good",)}
    held = Table.from_texts(["film fine"])
    assert texts(augment(source, 3, kinds=["swap"], exclude=[held])) == [("story good",)]


def test_regression_scores_become_unknown():
    source = Table.from_texts(["a fine film", "a dull story"], [0.5, 1.5])
    made = augment(source, 2, kinds=["delete"])
    assert made.table.labels.dtype == np.float32 and np.isnan(made.table.labels).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"times": 0}, "times is 0"),
        ({"kinds": []}, "no method was given"),
        ({"kinds": ["neighbors"]}, "Did you mean 'neighbours'"),
        ({"kinds": ["swap", "neighbours"]}, "method neighbours needs a model"),
        ({"kinds": ["mlm"]}, "method mlm needs a model"),
        ({"kinds": ["swap"], "probability": 0.0}, "probability is 0.0"),
        ({"kinds": ["neighbours"], "model": "/nowhere/at/all"}, "no checkpoint at /nowhere/at/all"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(options, message):
    with pytest.raises(DataError, match=message):
        augment(table(3), **{"times": 1, **options})


def test_texts_that_are_too_short_to_change_are_told():
    with pytest.raises(DataError, match="none of 4 changed rows is new: the texts are too short for swap"):
        augment(Table.from_texts(["one", "two"]), 2, kinds=["swap"])


# ---- files ---------------------------------------------------------------------------------------------------------


def write_train(folder: Path) -> Path:
    file = folder / "train.csv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("review", "label"))
        for i, sentence in enumerate(SENTENCES):
            writer.writerow((sentence + ' and "more"', ("bad", "good")[i % 2]))
    return file


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("labelled", [False, True])
def test_a_file_of_each_kind_is_read_back_as_it_was_made(tmp_path, suffix, labelled):
    train = write_train(tmp_path)
    before = train.read_bytes()
    output = tmp_path / "more" / f"more{suffix}"
    said = augment_file(
        str(train), output, 3, kinds=["swap", "delete"], text=["review"], keep_labels=labelled, label="label"
    )
    assert str(output) in said and train.read_bytes() == before
    assert not [file for file in output.parent.iterdir() if file != output]  # nothing temporary is left
    source = open_source(str(output))
    assert source.columns == (["review", "label"] if labelled else ["review"])
    rows = source.read(source.columns)
    made = augment(Table.from_texts([s + ' and "more"' for s in SENTENCES]), 3, kinds=["swap", "delete"])
    assert rows.table["review"].to_pylist() == [text for (text,) in texts(made)]
    if labelled:
        assert rows.table["label"].to_pylist() == [("bad", "good")[i % 2] for i in made.source]


def test_a_file_that_is_there_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    train, output = write_train(tmp_path), tmp_path / "more.jsonl"
    output.write_text("old\n", encoding="utf-8")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dumps", full)
    with pytest.raises(OSError):
        augment_file(str(train), output, 1, kinds=["swap"], text=["review"])
    assert output.read_text(encoding="utf-8") == "old\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["more.jsonl", "train.csv"]


def test_another_kind_of_file_is_refused_before_any_work(tmp_path):
    with pytest.raises(DataError, match=r"ends in one of \.csv \.tsv \.jsonl \.parquet"):
        augment_file("nowhere.csv", tmp_path / "more.txt")


def test_columns_of_all_kinds_of_labels_are_written(tmp_path):
    from distilect.data import write_columns

    columns = {"text": pa.array(["a\tb", 'say "x"', "line\nline"]), "score": pa.array([0.5, None, 2.0])}
    for suffix in (".csv", ".tsv", ".jsonl", ".parquet"):
        write_columns(tmp_path / f"file{suffix}", columns)
    assert pq.read_table(tmp_path / "file.parquet").to_pydict() == pa.table(columns).to_pydict()
    lines = (tmp_path / "file.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == columns["text"].to_pylist()
    for suffix in (".csv", ".tsv"):
        rows = open_source(str(tmp_path / f"file{suffix}")).read(["text"])
        assert rows.table["text"].to_pylist() == columns["text"].to_pylist()
