"""`distilect predict` and `distilect evaluate` for models that tag words."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import pipeline
from typer.testing import CliRunner

from distilect.cli import app
from distilect.errors import DistilectError
from distilect.pipeline import evaluate, prediction
from distilect.pipeline.prediction import predict_file
from distilect.tasks import scheme_of
from tests.pipeline.test_prediction import rows_of
from tests.presets import slow
from tests.tagging import TASK, Sentence, finished_tagger, sentences, taught, write_conll
from tests.tiny import tiny_bert, tiny_roberta

DEV = sentences(24, seed=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_tagger(tmp_path_factory.mktemp("tagging"))


def lines_of(path: Path, rows: list[Sentence], **more: Any) -> Path:
    lines = ({"id": number, "tokens": words, "tags": tags} for number, (words, tags) in enumerate(rows))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_words_get_tags_and_entities_in_the_order_of_the_file(
    run: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "BLOCK", 7)  # several blocks, the last one not full
    data, out = lines_of(tmp_path / "dev.jsonl", DEV), tmp_path / f"out{suffix}"
    predict_file(run / "student", data, out, precision="fp32")
    found = rows_of(out)
    assert [row["id"] for row in found] == list(range(24)) and [row["tags"] for row in found] == [t for _, t in DEV]
    tags = [row["prediction"] for row in found]
    assert (
        np.mean([a == b for own, (_, gold) in zip(tags, DEV, strict=True) for a, b in zip(own, gold, strict=True)])
        > 0.95
    )
    for row, (words, _) in zip(found, DEV, strict=True):
        assert len(row["probability"]) == len(words) and all(0.2 <= p <= 1 for p in row["probability"])
        for entity in row["entities"]:
            span = slice(entity["start"], entity["end"])
            assert entity["text"] == " ".join(words[span])
            assert {tag[2:] for tag in row["prediction"][span]} == {entity["type"]}
            assert entity["probability"] == pytest.approx(np.mean(row["probability"][span]), abs=1e-6)
        assert sum(e["end"] - e["start"] for e in row["entities"]) == sum(tag != "O" for tag in row["prediction"])


def test_predictions_score_as_evaluate_says(run: Path, tmp_path: Path) -> None:
    data = write_conll(tmp_path / "dev.conll", DEV)
    predict_file(run / "student", data, tmp_path / "out.jsonl", precision="fp32")
    found = evaluate(run / "student", data, precision="fp32")
    tags = [tag for row in rows_of(tmp_path / "out.jsonl") for tag in row["prediction"]]
    gold = [tag for _, row in DEV for tag in row]
    assert found["scores"]["accuracy"] == pytest.approx(np.mean([a == b for a, b in zip(tags, gold, strict=True)]))
    assert found["task"]["kind"] == "tokens" and found["rows"] == 24 and found["scores"]["entity_f1"] > 0.9
    assert set(found["types"]) == {"place", "thing"}
    assert sum(of["entities"] for of in found["types"].values()) == sum(tag.startswith("B-") for tag in gold)


def test_evaluate_prints_scores_and_types(run: Path, tmp_path: Path) -> None:
    data = write_conll(tmp_path / "dev.conll", DEV)
    said = CliRunner().invoke(app, ["evaluate", str(run / "student"), str(data), "--precision", "fp32"]).stdout
    of = evaluate(run / "student", data, precision="fp32")["types"]["place"]
    assert f"place            precision {of['precision']:.4f}, recall {of['recall']:.4f}" in said


def test_texts_are_split_into_words_and_entities_know_their_characters(run: Path, tmp_path: Path) -> None:
    texts = ["the piano, (long letter) — in the north!", "\u200b", "sea view"]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    said = predict_file(run / "student", tmp_path / "t.jsonl", tmp_path / "out.jsonl", precision="fp32")
    found = rows_of(tmp_path / "out.jsonl")
    assert found[0]["words"] == ["the", "piano", ",", "(", "long", "letter", ")", "—", "in", "the", "north", "!"]
    assert all(len(row["words"]) == len(row["prediction"]) == len(row["probability"]) for row in found)
    for row, text in zip(found, texts, strict=True):
        assert all(text[one["start"] : one["end"]] == one["text"] for one in row["entities"])
    assert found[2]["entities"][0] | {"probability": 0} == {
        "start": 0, "end": 8, "type": "place", "text": "sea view", "probability": 0
    }  # fmt: skip
    assert (found[1]["words"], found[1]["entities"]) == ([], []) and any(
        "1 of them have no words" in line for line in said
    )


def test_words_without_visible_characters_have_no_tag_and_keep_their_place(run: Path, tmp_path: Path) -> None:
    lines = [{"tokens": ["the", " ", "piano"]}, {"tokens": []}, {"tokens": ["long", "\u200b", "letter"]}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    predict_file(run / "student", tmp_path / "t.jsonl", tmp_path / "out.parquet", precision="fp32")
    first, empty, last = rows_of(tmp_path / "out.parquet")
    assert first["prediction"] == ["O", None, "B-thing"] and first["probability"][1] is None
    assert first["entities"][0]["start"] == 2 and first["entities"][0]["end"] == 3
    assert (empty["prediction"], empty["entities"]) == ([], [])
    assert (last["entities"][0]["start"], last["entities"][0]["end"], last["entities"][0]["text"]) == (
        0,
        3,
        "long letter",
    )


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_lists_are_json_where_a_file_holds_none(run: Path, tmp_path: Path, suffix: str) -> None:
    data = lines_of(tmp_path / "dev.jsonl", DEV[:3])
    predict_file(run / "student", data, tmp_path / f"out{suffix}", precision="fp32")
    predict_file(run / "student", data, tmp_path / "out.jsonl", precision="fp32")
    with (tmp_path / f"out{suffix}").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ","))
    for row, wanted in zip(found, rows_of(tmp_path / "out.jsonl"), strict=True):
        assert {key: json.loads(value) for key, value in row.items()} == wanted


def test_a_run_s_teachers_agree_on_a_share_of_the_words(run: Path, tmp_path: Path) -> None:
    data = write_conll(tmp_path / "dev.conll", DEV)
    predict_file(run, data, tmp_path / "out.jsonl", precision="fp32")
    for name in ("student", "../../a"):
        predict_file(
            (run / name).resolve(), data, tmp_path / f"{Path(name).name}.jsonl", precision="fp32", max_length=32
        )
    found, own, theirs = (rows_of(tmp_path / f"{name}.jsonl") for name in ("out", "student", "a"))
    shares = []
    for row, a, b in zip(found, own, theirs, strict=True):
        assert row["prediction"] == a["prediction"]
        shares.append(np.mean([x == y for x, y in zip(a["prediction"], b["prediction"], strict=True)]))
    assert [row["teachers_agree"] for row in found] == pytest.approx(shares) and min(shares) < 1


def test_a_sentence_longer_than_the_model_reads_is_read_in_windows_and_nothing_is_said_to_be_cut(
    run: Path, tmp_path: Path
) -> None:
    long = [word for words, _ in sentences(40, seed=5) for word in words]
    (tmp_path / "t.jsonl").write_text(json.dumps({"tokens": long}) + "\n")
    said = predict_file(run / "student", tmp_path / "t.jsonl", tmp_path / "out.jsonl", precision="fp32")
    assert len(rows_of(tmp_path / "out.jsonl")[0]["prediction"]) == len(long) > 100
    assert not any("cut" in line for line in said)


def test_tags_that_spell_no_entities_are_written_without_them(tmp_path: Path) -> None:
    tagger = tiny_bert(tmp_path / "pos", ["NOUN", "VERB", "X"], 1, words=True)
    data = lines_of(tmp_path / "t.jsonl", [(["the", "film"], ["X", "NOUN"])])
    predict_file(tagger, data, tmp_path / "out.jsonl", precision="fp32")
    assert set(rows_of(tmp_path / "out.jsonl")[0]) == {"id", "tokens", "tags", "prediction", "probability"}
    assert "types" not in evaluate(tagger, data, precision="fp32")


def test_a_column_that_would_be_written_twice_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"tokens": ["a"], "entities": []}) + "\n")
    with pytest.raises(DistilectError, match="has a column 'entities' already"):
        predict_file(run / "student", tmp_path / "t.jsonl", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


# with byte-level BPE transformers guesses where words begin ("fallback heuristic"), and is wrong where a space is a token of its own
@pytest.mark.parametrize(
    ("family", "strategy"), [(tiny_bert, "simple"), *slow((tiny_bert, "first"), (tiny_roberta, "simple"))]
)
def test_a_pipeline_of_transformers_finds_the_same_entities(tmp_path: Path, family: Any, strategy: str) -> None:
    """In texts that fit into one window and whose words stand between spaces, as in training."""
    student = taught(tmp_path / "student", family, steps=40)
    texts = [" ".join(words) for words, _ in sentences(12, seed=2)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    predict_file(student, tmp_path / "t.jsonl", tmp_path / "out.jsonl", precision="fp32")
    theirs = pipeline("token-classification", model=student, aggregation_strategy=strategy, device="cpu")(texts)
    scheme = scheme_of(TASK.labels)
    assert scheme is not None
    for text, row, found in zip(texts, rows_of(tmp_path / "out.jsonl"), theirs, strict=True):
        ours = [(one["start"], one["end"], one["type"]) for one in row["entities"]]
        if strategy == "first":
            assert ours == [(one["start"], one["end"], one["entity_group"]) for one in found], text
        else:  # it may cut a word in two where its tokens differ: every first token of ours has its type
            for start, _, kind in ours:
                assert any(one["start"] <= start < one["end"] and one["entity_group"] == kind for one in found), text
    assert sum(len(row["entities"]) for row in rows_of(tmp_path / "out.jsonl")) > 3


def test_parquet_keeps_the_types_of_lists(run: Path, tmp_path: Path) -> None:
    predict_file(run / "student", lines_of(tmp_path / "t.jsonl", DEV[:2]), tmp_path / "out.parquet", precision="fp32")
    fields = {field.name: str(field.type) for field in pq.read_schema(tmp_path / "out.parquet")}
    assert "start: int64" in fields["entities"] and "probability: float" in fields["entities"]
