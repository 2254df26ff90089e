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

from distilect.augment import augment, augment_file
from distilect.augment.augment import METHODS
from distilect.augment.masked import MaskedFiller
from distilect.augment.neighbours import Neighbours, in_the_case_of
from distilect.augment.pieces import Pieces, Vocabulary, choose_words, random_state, row_draws
from distilect.config import DataConfig, TaskConfig, parse_config
from distilect.data import Table, load_data, open_source, row_keys
from distilect.errors import DataError
from distilect.pipeline.work import enlarged
from tests.tagging import sentences, table_of, write_conll
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


def pieces_of(*given: str) -> tuple[Pieces, Vocabulary, np.ndarray]:
    vocabulary = Vocabulary()
    pieces = Pieces.cut(given, vocabulary)
    return pieces, vocabulary, np.array([piece.isalnum() for piece in vocabulary.pieces])


def keys(count: int) -> np.ndarray:
    return row_keys(Table.from_texts([f"row {i}" for i in range(count)]).ids)


# ---- pieces --------------------------------------------------------------------------------------------------------


def test_pieces_joined_are_the_texts():
    pieces, vocabulary, _ = pieces_of(*TEXTS)
    assert pieces.join(pieces.ids, vocabulary).to_pylist() == list(TEXTS)


def test_the_chosen_words_depend_on_the_row_and_on_nothing_else():
    pieces, _, able = pieces_of("a b c d", "e f", "g h i")
    rows = keys(3)
    whole = choose_words(pieces, able, random_state(rows, 5, 1, 0), 1.0)
    order = [2, 0, 1]
    turned_pieces, _, turned_able = pieces_of("g h i", "a b c d", "e f")
    turned = choose_words(turned_pieces, turned_able, random_state(rows[order], 5, 1, 0), 1.0)
    assert turned.draws.tolist() == [*whole.draws[6:], *whole.draws[:4], *whole.draws[4:6]]
    by_row = row_draws(random_state(rows, 5, 1, 0))
    assert row_draws(random_state(rows[order], 5, 1, 0)).tolist() == by_row[order].tolist()
    for other in ((6, 1, 0), (5, 2, 0), (5, 1, 1)):
        assert (choose_words(pieces, able, random_state(rows, *other), 1.0).draws != whole.draws).all()
    many = row_draws(random_state(keys(4000), 0))
    assert many.min() >= 0 and many.max() < 1 and abs(many.mean() - 0.5) < 0.03


def test_each_word_is_chosen_with_its_share_and_one_per_text_at_least():
    pieces, _, able = pieces_of(*["a b c d e f g h i j"] * 400, "…!", "", "word")
    state = random_state(keys(403), 0)
    for share in (0.3, 0.0):
        counts = np.bincount(choose_words(pieces, able, state, share).rows, minlength=403)
        assert counts[:400].min() >= 1 and counts[400:].tolist() == [0, 0, 1]
        assert abs(counts[:400].mean() - max(1, 10 * share)) < 0.3


# ---- ways to change words --------------------------------------------------------------------------------------------


def test_neighbours_are_the_nearest_whole_words_of_the_embedding(model):
    near = Neighbours(model, Vocabulary())
    words = near.tokens.words
    assert {"film", "weather", "teacher"} <= set(words)
    assert not {"##a", "[CLS]", "a", "."} & set(words)
    place = words.index("film")
    cosines = near.vectors @ near.vectors[place]
    cosines[place] = -2
    assert near.nearest(np.array([place]))[0].tolist() == cosines.topk(15).indices.tolist()


def test_function_words_and_words_of_several_tokens_are_left_alone(model):
    tokens = Neighbours(model, Vocabulary()).tokens
    found = tokens.find(["film", "Film", "not", "the", "zyxwv", ",", "12", "good"])
    assert (found >= 0).tolist() == [True, True, False, False, False, False, False, True]
    assert found[0] == found[1] == tokens.words.index("film")


def test_a_word_is_replaced_by_one_of_its_neighbours_in_its_own_case(model):
    near = Neighbours(model, Vocabulary())
    source = Table.from_texts(["The Film was a joy, the WEATHER was fine"])
    made = augment(source, 50, model=model)
    for (text,) in texts(made):
        words = text.replace(",", " ,").split()
        assert [words[i] for i in (0, 2, 3, 5, 6, 8)] == ["The", "was", "a", ",", "the", "was"]
        for place, original in ((1, "film"), (4, "joy"), (7, "weather"), (9, "fine")):
            found = near.nearest(np.array([near.tokens.words.index(original)]))[0]
            assert words[place].lower() in {original, *(near.tokens.words[n] for n in found)}
        assert words[1][0].isupper() and words[7].isupper() and words[9].islower()
        assert text != "The Film was a joy, the WEATHER was fine"  # one word at least


def test_a_masked_model_fills_words_in_and_never_with_the_same_word(masked):
    source = table(20)
    made = augment(source, 3, method="mlm", model=masked)
    assert len(made.table) > 50
    known = set(MaskedFiller(masked, Vocabulary()).tokens.words)
    for (new,), row in zip(texts(made), made.source, strict=True):
        before, after = source.text([row])[0][0].split(), new.split()
        changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
        assert changed and all(b in known for _, b in changed)


def test_a_masked_word_has_the_words_around_it_before_it(masked):
    """The likeliest words are those of the model for the masked text, not for another row of the batch."""
    given = ["the film was long", "she plays the piano while he reads a letter"]
    vocabulary = Vocabulary()
    pieces = Pieces.cut(given, vocabulary)
    filler = MaskedFiller(masked, vocabulary)
    able = np.array([piece in ("film", "piano") for piece in vocabulary.pieces])
    chosen = choose_words(pieces, able, random_state(keys(2), 0), 1.0)
    found = pieces.join(filler.replace(given, pieces, chosen, lambda rows: None), vocabulary).to_pylist()
    reference = AutoModelForMaskedLM.from_pretrained(masked).eval()
    for text, word, new in zip(given, ("film", "piano"), found, strict=True):
        inputs = filler.tokenizer(text.replace(word, "[MASK]"), return_tensors="pt")
        place = int((inputs["input_ids"][0] == filler.tokenizer.mask_token_id).nonzero())
        with torch.no_grad():
            logits = reference(**inputs).logits[0, place, torch.from_numpy(filler.tokens.ids)]
        logits[filler.tokens.words.index(word)] = -torch.inf
        likeliest = {filler.tokens.words[i] for i in logits.topk(16).indices.tolist()}  # bf16 may swap the last two
        assert new.split()[text.split().index(word)] in likeliest


def test_the_case_of_a_word_is_kept():
    assert [in_the_case_of("movie", like) for like in ("Film", "FILM", "film", "I")] == [
        "Movie",
        "MOVIE",
        "movie",
        "Movie",
    ]


def test_a_checkpoint_without_a_masked_head_is_refused(model):
    with pytest.raises(DataError, match="has no masked-LM head: give one that has, or use method neighbours"):
        augment(table(5), 1, method="mlm", model=model)


def test_a_tokenizer_without_words_is_refused(tmp_path):
    with pytest.raises(DataError, match="of its tokens are words"):
        augment(table(5), 1, model=tiny_gpt2(tmp_path / "gpt2"))


# ---- tables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pairs", [False, True])
def test_copies_are_new_unlabelled_rows_and_the_rows_stay_as_they_are(method, pairs, masked):
    source = table(pairs=pairs)
    before = source.fingerprint()
    made = augment(source, 3, method=method, model=masked)
    assert source.fingerprint() == before and made.table.num_texts == source.num_texts
    assert not made.table.has_label.any()
    old, new = set(source.text(np.arange(60))), texts(made)
    assert len(set(new)) == len(new) and not old & set(new)
    assert len(new) + made.dropped == 180 and len(new) > 120


@pytest.mark.parametrize("method", METHODS)
def test_a_rows_copies_depend_on_neither_the_other_rows_nor_their_order(method, masked):
    source, order = table(), np.random.default_rng(1).permutation(60)[:25]
    whole = augment(source, 4, method=method, model=masked, seed=3)
    some = augment(source.take(order), 2, method=method, model=masked, seed=3)
    assert set(texts(some)) <= set(texts(whole))
    assert texts(augment(source, 4, method=method, model=masked, seed=3)) == texts(whole)
    other = set(texts(augment(source, 4, method=method, model=masked, seed=4)))
    assert len(other & set(texts(whole))) < 0.6 * len(other)


def test_of_a_pair_one_text_or_both_are_changed(model):
    source = table(200, pairs=True)
    made = augment(source, 1, model=model)
    kinds = {(False, True): 0, (True, False): 0, (True, True): 0}
    for new, row in zip(texts(made), made.source, strict=True):
        kinds[tuple(a != b for a, b in zip(new, source.text([row])[0], strict=True))] += 1
    assert all(40 < count < 95 for count in kinds.values())


def test_labels_are_kept_where_they_are_asked_for(model):
    source = table()
    made = augment(source, 2, model=model, keep_labels=True)
    assert made.table.labels.tolist() == source.labels[made.source].tolist()


def test_rows_that_must_not_be_made_are_not(model):
    source = table(20)
    everything = augment(source, 2, model=model).table
    rest = augment(source, 2, model=model, exclude=[everything.take(range(5))])
    assert texts(rest) == everything.text(range(5, len(everything)))


def test_regression_scores_become_unknown(model):
    source = Table.from_texts(["a fine film", "a dull story"], [0.5, 1.5])
    made = augment(source, 2, model=model)
    assert made.table.labels.dtype == np.float32 and np.isnan(made.table.labels).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"times": 0}, "times is 0"),
        ({"method": "neighbors"}, "Did you mean 'neighbours'"),
        ({}, "method neighbours needs a model"),
        ({"method": "mlm"}, "method mlm needs a model"),
        ({"model": "/nowhere/at/all"}, "no checkpoint at /nowhere/at/all"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(options, message):
    with pytest.raises(DataError, match=message):
        augment(table(3), **{"times": 1, **options})


def test_texts_without_a_word_that_can_be_replaced_are_an_error(model):
    with pytest.raises(DataError, match="none of 4 changed rows is new: the texts have no word that neighbours can"):
        augment(Table.from_texts(["not", "…!"]), 2, model=model)


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
def test_a_file_of_each_kind_is_read_back_as_it_was_made(tmp_path, suffix, labelled, model):
    train = write_train(tmp_path)
    before = train.read_bytes()
    output = tmp_path / "more" / f"more{suffix}"
    line = augment_file(str(train), output, 3, model=model, text=["review"], keep_labels=labelled, label="label")
    assert str(output) in line and train.read_bytes() == before
    assert not [file for file in output.parent.iterdir() if file != output]  # nothing temporary is left
    source = open_source(str(output))
    assert source.columns == (["review", "label"] if labelled else ["review"])
    rows = source.read(source.columns)
    made = augment(Table.from_texts([s + ' and "more"' for s in SENTENCES]), 3, model=model)
    assert rows.table["review"].to_pylist() == [text for (text,) in texts(made)]
    if labelled:
        assert rows.table["label"].to_pylist() == [("bad", "good")[i % 2] for i in made.source]


def test_a_file_that_is_there_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch, model):
    train, output = write_train(tmp_path), tmp_path / "more.jsonl"
    output.write_text("old\n", encoding="utf-8")

    real = json.dumps

    def full(value: Any, **options: Any) -> str:
        if "review" in value:
            raise OSError(28, "No space left on device")
        return real(value, **options)

    monkeypatch.setattr(json, "dumps", full)
    with pytest.raises(OSError):
        augment_file(str(train), output, 1, model=model, text=["review"])
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


# ---- words ---------------------------------------------------------------------------------------------------------

TAGGED = sentences(30)


@pytest.mark.parametrize("method", METHODS)
def test_copies_of_tagged_words_have_a_word_for_each_and_keep_the_entities(method, masked):
    words = table_of(TAGGED)
    stays = words.labels != 0
    made = augment(words, 3, method=method, model=masked, keep_labels=True, stays=stays)
    assert len(made.table) > 60 and made.table.of_words
    before, after = words.words(made.source), made.table.words(range(len(made.table)))
    assert [len(row) for row in after] == [len(row) for row in before] == made.table.units.sizes.tolist()
    assert (made.table.labels == words.labels[words.unit_index(made.source)]).all()
    assert (made.table.ids == Table.from_words(after).ids).all()
    same = np.array([a == b for rows in zip(before, after, strict=True) for a, b in zip(*rows, strict=True)])
    assert same[made.table.labels != 0].all() and not same[made.table.labels == 0].all()
    alone = augment(words.take([7]), 3, method=method, model=masked, stays=stays[words.unit_index([7])])
    assert alone.table.num_labelled_units == 0
    assert alone.table.words(range(len(alone.table))) == [after[i] for i in np.flatnonzero(made.source == 7)]
    free = augment(words, 3, method=method, model=masked)
    flat = [
        [w for row in rows for w in row]
        for rows in (words.words(free.source), free.table.words(range(len(free.table))))
    ]
    assert any(a != b for a, b, fixed in zip(*flat, stays[words.unit_index(free.source)], strict=True) if fixed)


@pytest.mark.parametrize("kind", ["conll", "parquet"])
def test_files_of_tagged_words_are_enlarged(tmp_path, kind, masked):
    rows, tags = [words for words, _ in TAGGED], [tags for _, tags in TAGGED]
    train = write_conll(tmp_path / "train.conll", TAGGED)
    if kind == "parquet":
        train = tmp_path / "train.parquet"
        pq.write_table(pa.table({"id": range(len(rows)), "words": rows, "ner_tags": tags}), train)
    names = {"conll": ("tokens", "tags"), "parquet": ("words", "ner_tags")}[kind]
    for labelled, suffix in ((True, ".parquet"), (False, ".jsonl")):
        output = tmp_path / f"more{suffix}"
        augment_file(str(train), output, 2, model=masked, keep_labels=labelled)
        source = open_source(str(output))
        assert source.columns == list(names[: 1 + labelled])
        found = source.read(source.columns).table.to_pydict()
        made = augment(table_of(TAGGED), 2, model=masked, stays=table_of(TAGGED).labels != 0)
        assert found[names[0]] == made.table.words(range(len(made.table)))
        if labelled:
            assert found[names[1]] == [tags[row] for row in made.source]
        data = load_data(DataConfig(train=str(train), extra=str(output)), TaskConfig(), 0)
        assert data.extra is not None and len(data.extra) == len(made.table)
    with pytest.raises(DataError, match=r"lists of words: expected a file that ends in \.jsonl or \.parquet"):
        augment_file(str(train), tmp_path / "more.csv", 2, model=masked)


def test_a_run_enlarges_its_tagged_words_around_their_entities(tmp_path, masked):
    train = write_conll(tmp_path / "train.conll", TAGGED)
    config = parse_config(
        {
            "data": {
                "train": str(train),
                "validation_size": 0.2,
                "augment": {"times": 2, "labels": True, "model": masked},
            },
            "student": masked,
        }
    )
    data = load_data(config.data, config.task, 0)
    more = enlarged(data, config).extra
    assert more is not None and len(more) > len(data.train)
    assert {data.task.labels[label] for label in more.labels} == {tag for _, tags in TAGGED for tag in tags}
    kept = {tuple(w for w, t in zip(*row, strict=True) if t != "O") for row in TAGGED}
    for row, words in enumerate(more.words(range(len(more)))):
        labels = more.labels[more.unit_index([row])]
        assert tuple(word for word, label in zip(words, labels, strict=True) if label) in kept
