"""Every selector decides per word in a word table, and what holds for rows holds for words."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file

from distilect.config import TeacherConfig
from distilect.data import Table, encode
from distilect.data.on_disk import TableWriter
from distilect.errors import TeacherError
from distilect.evaluation import predict
from distilect.models import CallableTeacher, TableTeacher, load_teacher
from distilect.selection import Passes, PlannedRows, actor_critic, akskd, normalised_entropy
from distilect.signals import LiveSignals, SignalStore, prepare_signals
from distilect.training import DistillationTrainer
from tests.presets import LEARNED, each_preset, slow
from tests.tiny import SENTENCES, tiny_roberta
from tests.training.helpers import EAGER, TAGS, Bench, weights, whole_and_resumed


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), words=True)


def trained(bench: Bench, method: Any, name: str, **settings: Any) -> DistillationTrainer:
    trainer = bench.trainer(method, name=name, **settings)
    with mock.patch.multiple(akskd, RANDOM=0.0), mock.patch.multiple(actor_critic, UPDATES=4):
        trainer.train()
    return trainer


def same(first: DistillationTrainer, second: DistillationTrainer, **tolerance: float) -> None:
    one, other = weights(first), weights(second)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], **(tolerance or {"rtol": 0, "atol": 0}), err_msg=name)


@pytest.mark.parametrize("name", each_preset(LEARNED))
def test_every_preset_trains(bench: Bench, name: str) -> None:
    trainer = bench.trainer({"name": name, **EAGER.get(name, {})}, name=f"preset-{name}")
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    assert all(np.isfinite(values).all() for values in after.values())
    assert any((before[key] != after[key]).any() for key in before)
    lines = {line["group"]: line for line in trainer.records.recorder.table().to_pylist() if line["epoch"] == 0}
    rows, words = lines["all"]["rows"], bench.table.num_units
    assert 0 < rows < words if name == "adaptive" else rows == words  # it plans a part of the sentences
    assert {"O", "B-thing", "I-thing"} <= set(lines)


@pytest.mark.parametrize(
    "rows", ["uncertainty", "uncertainty-skip", "uncertainty-plan", "random", "random-skip", "random-plan"]
)
def test_every_row_selector_chooses_words(bench: Bench, rows: str) -> None:
    trainer = trained(bench, {"name": "uniform", "rows": {"name": rows, "ratio": 0.4}}, f"rows-{rows}")
    assert all(np.isfinite(values).all() for values in weights(trainer).values())
    line = trainer.records.recorder.table().to_pylist()[0]
    if not rows.endswith("-plan"):
        assert line["rows"] == bench.table.num_units and 0.25 < line["asked"] < 0.6


@pytest.mark.parametrize("how", [None, "max"])
def test_rows_are_planned_by_the_mean_or_the_maximum_over_their_words(bench: Bench, how: str | None) -> None:
    method = {"name": "dynamic-data", "rows": {"name": "uncertainty-plan", "ratio": 0.25, "whole_rows": how}}
    trainer = bench.trainer(method, name=f"planned-{how}", epochs=1)
    logits = torch.from_numpy(trainer.predict_rows(trainer.rows.encoded))
    assert bench.table.units is not None
    words = normalised_entropy(logits).split(bench.table.units.sizes.tolist())
    scores = torch.stack([u.max() if how else u.mean() for u in words])
    selector = trainer.method.rows
    assert isinstance(selector, PlannedRows)
    selector.begin_epoch(trainer.probe, 0)
    planned = selector.plan(trainer.rows.row_keys.numpy(), 0, 0)
    assert len(planned) == 10
    assert set(planned.tolist()) == set(scores.argsort(descending=True)[:10].tolist())


@pytest.mark.parametrize("how", ["mean", "max"])
def test_whole_rows_are_chosen_in_the_step_and_before_it(bench: Bench, how: str) -> None:
    """One step has all rows: its choice is that of a sort over the rows of the table; without dropout passes are those of `predict_rows`."""
    for name in ("uncertainty", "uncertainty-skip"):
        rows = {"name": name, "ratio": 0.25, "whole_rows": how}
        trainer = bench.trainer(
            {"name": "dynamic-data", "rows": rows}, name=f"{name}-{how}", epochs=1, batch_size=40, dropout=0.0
        )
        batch = trainer.rows.batch(np.arange(40), inputs=False)
        logits = torch.from_numpy(trainer.predict_rows(trainer.rows.encoded))
        view = trainer.view_of(replace(batch, passes={Passes(): logits.unsqueeze(0)}), logits)
        chosen = trainer.method.rows.decide(view)
        assert bench.table.units is not None
        sizes = bench.table.units.sizes.tolist()
        scores = torch.stack([u.max() if how == "max" else u.mean() for u in normalised_entropy(logits).split(sizes)])
        best = set(scores.argsort(descending=True)[:10].tolist())
        assert [bool(own.all()) for own in chosen.split(sizes)] == [row in best for row in range(40)]
        assert chosen.sum() == sum(sizes[row] for row in best)
        if name == "uncertainty":
            assert trainer.method.rows.asked_share == pytest.approx(float(chosen.float().mean()))
        trainer.train()
        line = trainer.records.recorder.table().to_pylist()[0]
        trained = line["asked"] if name == "uncertainty" else line["trained"]
        assert trained == pytest.approx(float(chosen.float().mean()))


def test_a_row_leaves_the_step_only_when_none_of_its_words_is_chosen(bench: Bench) -> None:
    whole = trained(bench, "uniform", "whole", epochs=1)
    few = trained(bench, {"name": "uniform", "rows": {"name": "random-skip", "ratio": 0.05}}, "few", epochs=1)
    line = few.records.recorder.table().to_pylist()[0]
    assert line["trained"] == line["asked"] < 0.12  # words that were not chosen teach nothing
    assert few.counts.rows < whole.counts.rows  # and rows without any are not run
    assert few.counts.rows > line["asked"] * whole.counts.rows


@pytest.mark.parametrize("name", ["uniform", "best-single", "rlkd", "dynamic-data"])
def test_words_without_labels_learn_from_the_teachers(bench: Bench, name: str) -> None:
    whole = bench.table
    labels = whole.labels.copy()
    labels[whole.unit_index(range(20, 40))] = -100
    labels[3] = -100  # and a single word
    try:
        bench.table = Table(whole.texts, labels, whole.ids, units=whole.units)
        trainer = trained(bench, {"name": name, **EAGER.get(name, {})}, f"half-{name}")
    finally:
        bench.table = whole
    assert all(np.isfinite(values).all() for values in weights(trainer).values())


# ---- invariances ---------------------------------------------------------------------------------------------------

KINDS: dict[str, Any] = {
    "name": "uniform",
    "knowledge": {"labels": {}, "response": {}, "feature": {}, "relation": {"dim": 4}, "attention": {}},
}
SPLIT: dict[str, tuple[Any, dict[str, Any]]] = {
    "all kinds": (KINDS, {}),
    "rlkd": ({"name": "rlkd", "teachers": {"policy_updates": 4}}, {}),
    "dynamic-objective": ("dynamic-objective", {}),
    "skip": ({"name": "dynamic-data", "rows": {"name": "uncertainty-skip", "ratio": 0.3}}, {}),
    "akskd": ({"name": "akskd", "loss_weights": {"phases": 3}}, {}),
}


@pytest.mark.parametrize("name", ["all kinds", "rlkd", *slow("dynamic-objective", "skip", "akskd")])
def test_neither_the_token_budget_nor_accumulation_changes_the_training(bench: Bench, name: str) -> None:
    method, settings = SPLIT[name]
    settings = {"epochs": 1, "dropout": 0.0, **settings}  # masks belong to a batch
    whole = trained(bench, method, f"{name}-whole", **settings)
    for cut in ({"max_tokens": 24}, {"gradient_accumulation_steps": 2}):
        other = trained(bench, method, f"{name}-{next(iter(cut))}", **settings, **cut)
        same(whole, other, rtol=1e-3, atol=1e-3)


def test_the_loss_is_the_mean_over_the_labelled_words_of_the_step(bench: Bench) -> None:
    trainer = bench.trainer("finetune", name="mean", epochs=1, batch_size=40, dropout=0.0)
    logits = torch.from_numpy(trainer.predict_rows(trainer.rows.encoded))
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(bench.table.labels))
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("rows", [{}, {"name": "uncertainty-skip"}, {"name": "random-skip"}], ids=str)
def test_all_words_asked_is_kd_bit_for_bit(bench: Bench, rows: dict[str, Any]) -> None:
    """With dropout: a selector that looks at words must not draw from the training's random state."""
    every = {"name": "dynamic-data", "rows": {"ratio": 1.0, **rows}}
    same(*(trained(bench, spec, "ratio", epochs=1, final_weights="last") for spec in ("kd", every)))


def test_equal_weights_of_the_teachers_are_uniform_bit_for_bit(bench: Bench) -> None:
    kept = {"name": "weighted", "teachers": {"values": [0.5, 0.5]}}
    same(*(trained(bench, spec, "equal", epochs=1, final_weights="last") for spec in ("uniform", kept)))


def test_words_are_predicted_the_same_in_any_batch(bench: Bench) -> None:
    student = bench.student()
    encoded = encode(bench.table, student.tokenizer, 32)
    one, many = (predict(student.model, encoded, max_tokens=most, precision="fp32") for most in (1, 4096))
    np.testing.assert_allclose(one, many, atol=1e-5)
    order = np.arange(len(bench.table))[::-1].copy()
    reversed_ = predict(student.model, encoded, rows=order, precision="fp32")
    np.testing.assert_allclose(reversed_, many[bench.table.unit_index(order)], atol=1e-5)


def test_rows_that_are_read_in_windows_train(bench: Bench) -> None:
    words = " ".join(SENTENCES).replace(",", "").split()
    whole = bench.table
    try:
        bench.table = Table.concat([whole, Table.from_words([words], [[i % 3 for i in range(len(words))]])])
        trainer = trained(bench, KINDS, "windows", epochs=1, dropout=0.0)
        assert trainer.rows.encoded.truncated == 1
        loose = trained(bench, KINDS, "windows-cut", epochs=1, dropout=0.0, max_tokens=24)
    finally:
        bench.table = whole
    same(trainer, loose, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["rlkd", *slow("dynamic-teacher", "akskd")])
def test_a_resumed_training_is_the_whole_one(bench: Bench, tmp_path: Path, name: str) -> None:
    def build(folder: Path, *callbacks: Any) -> DistillationTrainer:
        method = {"name": name, **EAGER.get(name, {})}
        return bench.trainer(method, name=str(folder), callbacks=list(callbacks))

    whole, resumed = whole_and_resumed(build, tmp_path, 4)
    same(whole, resumed[0])


@pytest.mark.parametrize("name", ["rlkd", "dynamic-data"])
def test_a_table_larger_than_memory_trains_as_one_in_memory(bench: Bench, tmp_path: Path, name: str) -> None:
    """Bit for bit, and resumed too: selectors see the same keys, whatever file they are in."""
    method: dict[str, Any] = {"name": name, **EAGER.get(name, {})}
    if name == "dynamic-data":
        method["rows"] = {"name": "uncertainty-plan", "ratio": 0.5}
    plain, whole = trained(bench, method, f"memory-{name}"), bench.table
    writer = TableWriter(tmp_path / "table", 1, np.int64, words=True)
    for start in range(0, len(whole), 16):
        writer.add(whole.take(np.arange(start, min(start + 16, len(whole)))))

    def build(folder: Path, *callbacks: Any) -> DistillationTrainer:
        return bench.trainer(method, name=str(folder), callbacks=list(callbacks))

    try:
        bench.table = writer.finish()
        first, resumed = whole_and_resumed(build, tmp_path, 4)
    finally:
        bench.table = whole
    assert isinstance(first.rows.encoded.columns["input_ids"], np.memmap)
    same(plain, first)
    same(plain, resumed[0])


# ---- teachers ------------------------------------------------------------------------------------------------------


def test_a_teacher_with_another_tokenizer_gives_knowledge_per_word(bench: Bench, tmp_path: Path) -> None:
    other = tiny_roberta(tmp_path / "roberta", list(TAGS.labels)[::-1], seed=3, layers=4, words=True)
    teachers = bench.teachers
    try:
        bench.teachers = [load_teacher(TeacherConfig(name="r", path=other), TAGS, precision="fp32", max_length=32)]
        trainer = trained(bench, KINDS, "roberta", epochs=1)
    finally:
        bench.teachers = teachers
    assert bench.teachers is teachers and all(np.isfinite(v).all() for v in weights(trainer).values())


def test_a_teacher_may_read_a_word_as_the_mean_of_its_tokens(bench: Bench, tmp_path: Path) -> None:
    path = tiny_roberta(tmp_path / "roberta", list(TAGS.labels)[::-1], seed=3, layers=2, words=True)

    def teacher(task: Any = TAGS, **options: Any) -> Any:
        spec = TeacherConfig(name="r", path=path, **options)
        return load_teacher(spec, task, precision="fp32", max_length=32)

    first, mean = teacher(), teacher(words="mean")
    assert teacher(words="first").fingerprint == first.fingerprint != mean.fingerprint
    table = bench.table.take([5, 9])
    texts = [" ".join(words) for words in table.words([0, 1])]
    encoded = first.tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        outputs = first.model(**encoded, output_hidden_states=True)
    spans = [
        (row, encoded.char_to_token(row, word.start()), encoded.char_to_token(row, word.end() - 1) + 1)
        for row, text in enumerate(texts)
        for word in re.finditer("[^ ]+", text)
    ]
    assert any(end - start > 1 for _, start, end in spans)
    logits, hidden = (
        torch.stack([values[row, start:end].mean(0) for row, start, end in spans])
        for values in (outputs.logits[..., first.order], outputs.hidden_states[1])
    )
    found = LiveSignals([mean]).fetch(table, np.array([0, 1]), [["hidden.1", "cls.1"]])
    torch.testing.assert_close(found.logits[:, 0], logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.fields[0]["cls.1"], hidden, rtol=1e-4, atol=1e-5)
    with pytest.raises(TeacherError, match="words: mean, but the task is of kind classification: remove words"):
        teacher(replace(TAGS, kind="classification", metrics=("accuracy",)), words="mean")
    with pytest.raises(ValidationError, match="needs path"):
        TeacherConfig(table="t.jsonl", words="mean")


def outputs(words: list[str]) -> list[list[float]]:
    """Logits that depend on the word alone."""
    return [[float(len(word)), float(ord(word[0]) % 5), float("e" in word)] for word in words]


def test_tables_and_functions_give_outputs_per_word(bench: Bench, tmp_path: Path) -> None:
    rows = bench.table.words(range(len(bench.table)))
    lines = []
    for words in rows:  # a blank word is left out, as from every table of words
        columns = zip(*([*outputs(words), [9.0, 9.0, 9.0]]), strict=True)
        lines.append({"words": [*words, " "], **dict(zip(TAGS.labels, map(list, columns), strict=True))})
    file = tmp_path / "outputs.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    table = TableTeacher("table", file, TAGS, "logits")
    function = CallableTeacher("function", lambda rows: (np.array(outputs(words)) for words in rows), TAGS)
    order = np.array([5, 0, 39])
    expected = np.array([values for row in order for values in outputs(rows[row])])
    for teacher in (table, function):
        found = prepare_signals([teacher], bench.table, SignalStore(tmp_path / "store"), [[]]).source
        assert found is not None
        np.testing.assert_array_equal(found.fetch(bench.table, order, [[]]).logits[:, 0], expected)


def test_outputs_that_do_not_fit_the_words_are_refused(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "short.jsonl"
    file.write_text(json.dumps({"words": ["a", "film"], "O": [1.0, 2.0], "B-thing": [0.0], "I-thing": [0.0, 0.0]}))
    with pytest.raises(TeacherError, match=r"row 1: 1 numbers in 'B-thing' for 2 words|line 1: 1 numbers"):
        TableTeacher("short", file, TAGS)
    short = CallableTeacher("short", lambda rows: [np.zeros((1, 3)) for _ in rows], TAGS)
    with pytest.raises(TeacherError, match="returned 1 lines for"):
        short.outputs_for(bench.table, np.array([0]))


def test_signals_of_words_are_stored_in_half_precision_and_found_again(bench: Bench, tmp_path: Path) -> None:
    store = SignalStore(tmp_path)
    fields = [["cls.4", "hidden.2"], []]
    first = prepare_signals(bench.teachers, bench.table, store, fields)
    assert first.forwards == 2 * len({*map(tuple, bench.table.ids.tolist())})
    shards = [load_file(path)["value"].dtype for path in tmp_path.glob("*/words.*/shard-*")]
    assert len(shards) == 4 and set(shards) == {np.dtype(np.float16)}
    again = prepare_signals(bench.teachers, bench.table, SignalStore(tmp_path), fields)
    assert again.forwards == 0 and again.source is not None and first.source is not None
    rows = np.array([7, 2])
    live = LiveSignals(bench.teachers).fetch(bench.table, rows, fields)
    for source in (first.source, again.source):
        found = source.fetch(bench.table, rows, fields)
        torch.testing.assert_close(found.logits, live.logits, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(found.fields[0]["cls.4"], live.fields[0]["cls.4"], rtol=2e-3, atol=2e-3)
        assert found.fields[0]["hidden.2"].shape == live.fields[0]["hidden.2"].shape
        assert found.logits.shape == (len(bench.table.unit_index(rows)), 2, 3)


def test_the_sample_shows_words_in_their_sentence(bench: Bench, tmp_path: Path) -> None:
    trainer = trained(bench, "best-single", "recorded", epochs=1)
    trainer.records.sample.write(tmp_path / "rows.parquet", bench.table, TAGS.labels)
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    texts = bench.table.words(range(len(bench.table)))
    flat = [word for words in texts for word in words]
    assert len(rows) > 100
    for row in rows:
        assert f"[[{flat[row['row']]}]]" in row["text"]
        assert row["label"] == TAGS.labels[bench.table.labels[row["row"]]]
        assert row["right/t0"] in (0.0, 1.0, None)
