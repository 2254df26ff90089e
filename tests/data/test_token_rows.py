"""Rows for language models: what is learned of prompts with completions, chats and texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from distilect.config import DataConfig, TaskConfig
from distilect.data import Data, Table, encode, load_data, load_token_data, open_source
from distilect.data.token_rows import choose_token_columns
from distilect.errors import ConfigError, DataError
from tests.language import TASK, pairs, read, reader
from tests.tiny import llama_tokenizer, wordpiece_tokenizer

TEXTS = TaskConfig(kind="causal-lm")


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(train: str, limit: int = 64, task: TaskConfig = TEXTS, **more: Any) -> Data:
    return load_token_data(DataConfig(train=train, **({"validation_size": 0} | more)), task, 0, reader(limit))


def learned(table: Table, row: int) -> tuple[list[int], list[int]]:
    """A row's tokens, and those of them that are to be learned."""
    assert table.tokens is not None and table.units is not None
    ids = table.tokens.ids[table.tokens.rows.of([row])]
    return ids.tolist(), ids[table.tokens.places[table.units.of([row])]].tolist()


def test_the_completion_and_the_end_are_learned_from_the_prompt() -> None:
    tokenizer = llama_tokenizer()
    rows = [{"prompt": "the film was", "completion": " a joy"}, {"prompt": "", "completion": "dull"}]
    table = read(rows, ("prompt", "completion")).table
    ids, units = learned(table, 0)
    prompt = tokenizer("the film was")["input_ids"]  # as it is when a model is asked to continue it
    completion = tokenizer(" a joy", add_special_tokens=False)["input_ids"]
    assert ids == [*prompt, *completion, 2] and units == [*completion, 2] and prompt[0] == 0
    assert table.words([0])[0] == [tokenizer.decode([token]) for token in completion] + [""]
    assert table.text([0, 1]) == [("the film was a joy",), ("dull",)]
    assert learned(table, 1)[1] == [*tokenizer("dull", add_special_tokens=False)["input_ids"], 2]
    assert table.labels.dtype == np.int32 and not table.labels.any()


def test_all_of_a_plain_text_is_learned_but_its_first_token() -> None:
    table = read([{"text": "a dull story"}], ("text",)).table
    ids, units = learned(table, 0)
    assert ids[0] == 0 and units == ids[1:] and ids[-1] == 2


def test_every_answer_of_a_chat_is_learned_through_the_template() -> None:
    chat = [("user", "is it good"), ("assistant", "it is not bad"), ("user", "why"), ("assistant", "a joy")]
    row = {"messages": [{"role": role, "content": text} for role, text in chat]}
    table = read([row], ("messages",), 64).table
    tokenizer = llama_tokenizer()
    assert table.text([0]) == [(tokenizer.apply_chat_template(row["messages"], tokenize=False),)]
    ids, units = learned(table, 0)
    assert tokenizer.decode(units) == "it is not bad</s>a joy</s>"
    assert ids.count(0) == 1  # the template's own first token, no second one
    assert tokenizer.decode(ids) == table.text([0])[0][0]


def test_inputs_are_shifted_by_one() -> None:
    table = read(pairs(6), ("prompt", "completion")).table
    encoded = encode(table, llama_tokenizer(), 32)
    inputs = encoded.collate([4, 1])
    words = inputs["words"][inputs["words"] >= 0]
    expected = [token for row in (4, 1) for token in learned(table, row)[1]]
    assert inputs["input_ids"].flatten()[words + 1].tolist() == expected
    assert table.tokens is not None and table.units is not None
    assert table.tokens.gold_of(table.units, np.array([4, 1])).tolist() == expected
    assert (inputs["attention_mask"].flatten()[words] == 1).all()


def test_cut_rows_and_lost_rows_are_reported(tmp_path: Path) -> None:
    rows = [
        {"prompt": "the film was a joy from the first", "completion": " scene"},
        {"prompt": "good", "completion": " food, friendly people and a view of the sea"},
        {"prompt": "good", "completion": " food"},
    ]
    length = len(llama_tokenizer()(rows[0]["prompt"])["input_ids"])
    data = load(write(tmp_path / "train.jsonl", rows), limit=length)
    assert len(data.train) == 2
    text = "\n".join(data.report)
    assert f"1 rows are cut at {length} tokens" in text and "1 rows are left out" in text
    with pytest.raises(DataError, match="no row has a token to be learned within 4 tokens"):
        load(write(tmp_path / "long.jsonl", rows[:1]), limit=4)


def test_identity_is_of_the_texts_and_where_the_completion_begins() -> None:
    one = read([{"prompt": "a dull", "completion": " story"}], ("prompt", "completion")).table
    other = read([{"prompt": "a", "completion": " dull story"}], ("prompt", "completion")).table
    assert one.text([0]) == other.text([0]) and not np.array_equal(one.ids, other.ids)
    assert one.fingerprint() != other.fingerprint()
    twice = read(pairs(4) + pairs(4), ("prompt", "completion")).table
    np.testing.assert_array_equal(twice.ids[:4], twice.ids[4:])
    keys = twice.unit_keys()
    np.testing.assert_array_equal(keys[: len(keys) // 2], keys[len(keys) // 2 :])
    assert len(np.unique(keys)) == len(keys) // 2


def test_taking_and_joining_rows_keeps_their_tokens() -> None:
    table = read(pairs(8), ("prompt", "completion")).table
    joined = Table.concat([table.take([5, 2]), table.take([7]).without_labels()])
    assert [learned(joined, row) for row in range(3)] == [learned(table, row) for row in (5, 2, 7)]
    assert joined.words([0, 1, 2]) == table.words([5, 2, 7])
    assert joined.num_labelled == 2


@pytest.mark.parametrize("form", ["jsonl", "parquet", "datasets", "csv"])
def test_every_form_gives_the_same_rows(tmp_path: Path, form: str) -> None:
    rows = pairs(12)
    path = tmp_path / f"train.{form}"
    if form == "jsonl":
        write(path, rows)
    elif form == "parquet":
        Dataset.from_list(rows).to_parquet(str(path))
    elif form == "csv":
        Dataset.from_list(rows).to_csv(str(path))
    else:
        Dataset.from_list(rows).save_to_disk(str(path))
    found = load(str(path)).train
    assert found.fingerprint() == read(rows, ("prompt", "completion"), 64).table.fingerprint()


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_chats_in_files(tmp_path: Path, form: str) -> None:
    chat = [{"role": "user", "content": "why"}, {"role": "assistant", "content": "a joy"}]
    path = tmp_path / f"train.{form}"
    rows = [{"messages": [*chat], "id": number} for number in range(3)]
    if form == "jsonl":
        rows[1]["messages"] = [{**chat[0], "name": "x"}, chat[1]]  # other keys of a message are not read
        write(path, rows)
    else:
        Dataset.from_list(rows).to_parquet(str(path))
    data = load(str(path))
    assert "text messages" in "\n".join(data.report)
    assert len({*map(tuple, data.train.ids.tolist())}) == 1 and "".join(data.train.words([0])[0]) == "a joy</s>"


def test_the_split_and_the_other_tables(tmp_path: Path) -> None:
    train, dev = write(tmp_path / "train.jsonl", pairs(20)), write(tmp_path / "dev.jsonl", pairs(3))
    extra = write(tmp_path / "extra.jsonl", pairs(4, seed=5))
    data = load(train, dev=dev, extra=extra, validation_size=5)
    assert (len(data.train), len(data.validation), data.task.kind) == (15, 5, TASK.kind)
    assert data.extra is not None and data.extra.num_labelled == 0 and data.distillation.num_labelled == 15
    assert "dev: 3 of 3 rows have a text that train has too" in data.report or any("dev:" in r for r in data.report)
    again = load(train, dev=dev, extra=extra, validation_size=5)
    assert again.train.fingerprint() == data.train.fingerprint()


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "qa.jsonl", [{"question": "why", "answer": "a joy"}]))
    with pytest.raises(
        DataError, match=r"expected columns prompt and completion, messages, or text; its columns: question, answer"
    ):
        choose_token_columns(source, None)
    assert choose_token_columns(source, ["question", "answer"]).texts == ("question", "answer")
    with pytest.raises(DataError, match="no column 'questions'"):
        choose_token_columns(source, ["questions", "answer"])


BAD_CHATS: dict[str, Any] = {
    "no answer": ([{"role": "user", "content": "why"}], "no message has the role assistant"),
    "no list": ([], "expected a list of messages"),
}


@pytest.mark.parametrize("name", BAD_CHATS)
def test_chats_without_answers_are_refused(name: str) -> None:
    chat, message = BAD_CHATS[name]
    good = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(DataError, match=f"row 2: {message}"):
        read([{"messages": good}, {"messages": chat}], ("messages",))


def test_a_template_that_changes_earlier_turns_is_refused() -> None:
    tokenizer = llama_tokenizer()
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    chat = [{"role": role, "content": "a"} for role in ("user", "assistant", "user", "assistant")]
    with pytest.raises(DataError, match="changes earlier turns"):
        reader(tokenizer=tokenizer)._chat("row 1", chat)


def test_chats_need_a_template(tmp_path: Path) -> None:
    tokenizer = llama_tokenizer()
    tokenizer.chat_template = None
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = write(tmp_path / "chat.jsonl", [{"messages": chat}])
    with pytest.raises(DataError, match="has no chat template"):
        load_token_data(DataConfig(train=path, validation_size=0), TEXTS, 0, reader(tokenizer=tokenizer))


@pytest.mark.parametrize("key", ["label", "label_delimiter", "cache", "glue"])
def test_settings_of_other_tasks_are_refused(tmp_path: Path, key: str) -> None:
    path = write(tmp_path / "train.jsonl", pairs(4))
    with pytest.raises(DataError, match=rf"data\.{key} is set, but task.kind is causal-lm"):
        load(path, **{key: "x"})


@pytest.mark.parametrize("settings", [{"labels": ["a", "b"]}, {"positive": "a"}, {"metrics": ["macro_f1"]}])
def test_labels_and_metrics_of_classes_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    path = write(tmp_path / "train.jsonl", pairs(4))
    with pytest.raises(ConfigError, match="causal-lm"):
        load(path, task=TaskConfig(kind="causal-lm", **settings))


def test_another_vocabulary_is_refused() -> None:
    table = read(pairs(2), ("prompt", "completion")).table
    with pytest.raises(DataError, match="another vocabulary"):
        encode(table, wordpiece_tokenizer(), 32)


def test_rows_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="load_token_data"):
        load_data(DataConfig(train=write(tmp_path / "train.jsonl", pairs(4))), TEXTS, 0)
