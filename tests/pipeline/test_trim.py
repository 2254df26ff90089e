"""Students with a trimmed vocabulary: before training by `student.vocabulary`, after it by `trim`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BertForMaskedLM

from distilect.config import dump_config
from distilect.errors import ConfigError, RunError, StudentError
from distilect.pipeline import evaluate, run, trim
from distilect.pipeline.folders import check_free
from distilect.pipeline.prediction import predict_file
from distilect.pipeline.pretrain import pretrain
from distilect.pipeline.work import Workbench
from tests.pipeline.helpers import Job, write_table
from tests.tiny import SENTENCES, tiny_bert


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """With texts that use half of the teachers' words."""
    job = Job(tmp_path_factory.mktemp("job"))
    words = " ".join(SENTENCES[:5]).replace(",", "").split()
    for file, seed in ((job.train, 0), (job.dev, 1)):
        rng = np.random.default_rng(seed)
        labels = [line.rpartition(",")[2] for line in file.read_text().splitlines()[1:]]
        lines = (f"{' '.join(rng.choice(words, 8))} {'fine' if label == 'yes' else 'dull'},{label}" for label in labels)
        file.write_text("\n".join(["text,label", *lines]) + "\n")
    return job


def student(job: Job, vocabulary: Any, **more: Any) -> dict[str, Any]:
    return {"student": {"init": "a[layers=1,3]", "vocabulary": vocabulary, **more}}


def test_a_student_with_its_texts_vocabulary_is_trained_like_any_other(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = {"method": "keep", "teachers": job.teachers[:1]}
    whole = run(job.config(name="all", **keep))[0]
    found = run(job.config(name="auto", **keep, **student(job, "auto")))[0]
    printed = capsys.readouterr().err
    kept = found.metrics["student"]["source"]["vocabulary"]
    assert kept["tokens"] < kept["of"] == 150
    assert kept["changed"] == 0.0
    assert f"vocabulary: {kept['tokens']} of 150 tokens stay, {kept['needed']} of them" in " ".join(printed.split())
    assert "stage body (1 of 2): feature, attention from a" in " ".join(printed.split())
    model = AutoModelForSequenceClassification.from_pretrained(found.folder / "student")
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(found.folder / "student")) == kept["tokens"]
    again = evaluate(found.folder / "student", job.dev, max_length=32, precision="fp32")
    assert again["scores"] == found.metrics["student"]["scores"]
    outputs = [pq.read_table(one.folder / "predictions.parquet")["student"].to_pylist() for one in (whole, found)]
    np.testing.assert_allclose(
        *outputs, atol=1e-4
    )  # the same student: its tokens, hidden states and steps are the same
    assert f"{kept['tokens']} of 150 tokens" in (found.folder / "report.html").read_text()
    assert f"Vocabulary: {kept['tokens']} of 150 tokens" in (found.folder / "student" / "README.md").read_text()


def test_with_fewer_tokens_hidden_states_are_compared_as_means(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    keep = {"method": "keep", "teachers": job.teachers[:1]}
    found = run(job.config(name="few", **keep, **student(job, 90)))[0]
    printed = " ".join(capsys.readouterr().err.split())
    assert "stage body (1 of 2): feature (row means) from a" in printed
    kept = found.metrics["student"]["source"]["vocabulary"]
    assert kept["tokens"] == 90
    assert f"vocabulary: {100 * kept['changed']:.2f} % of the texts' tokens are cut into smaller ones" in printed
    assert kept["unknown"] == (0.0, 0.0)


def test_a_stage_without_the_extra_rows_has_the_same_student(job: Job) -> None:
    extra = write_table(job.folder / "extra.csv", 5, labels=("no", "yes"))
    extra.write_text(extra.read_text() + "a friendly teacher learns,no\n")
    data = {"train": str(job.train), "extra": str(extra)}
    bench = Workbench.open(job.config(data=data, teachers=job.teachers[:1], **student(job, "auto")))
    whole = bench.new_student()
    assert "friendly" in whole.tokenizer.get_vocab()
    stage = replace(bench.stages(bench.config.method, whole)[0], extra=False)
    assert bench.at(stage).new_student().tokenizer is whole.tokenizer
    assert len(bench.vocabularies) == 1


def test_a_run_with_another_vocabulary_does_not_go_on(job: Job) -> None:
    config = job.config(name="stopped", **student(job, 90))
    folder = job.folder / "runs" / "stopped"
    check_free(folder, config, overwrite=False)
    (folder / "config.yaml").write_text(dump_config(config))
    (folder / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    check_free(folder, config, overwrite=False)
    with pytest.raises(RunError, match="an unfinished run with other settings"):
        check_free(folder, job.config(name="stopped", **student(job, 100)), overwrite=False)


# ---- after training --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(job: Job) -> Path:
    return run(job.config(name="whole", teachers=job.teachers[:1]))[0].folder


def test_a_finished_run_is_trimmed_to_its_own_texts(job: Job, finished: Path, tmp_path: Path) -> None:
    found = trim(finished, output=tmp_path / "small")
    assert found["tokens"][1] < found["tokens"][0]
    assert found["parameters"][1] < found["parameters"][0]
    assert found["bytes"][1] < found["bytes"][0]
    assert found["changed"] == 0.0
    options: dict[str, Any] = {"max_length": 32, "precision": "fp32"}
    for table in (job.train, job.dev):  # dev has no other words
        assert evaluate(tmp_path / "small", table, **options) == evaluate(finished / "student", table, **options)
    for name, model in (("whole", finished / "student"), ("small", tmp_path / "small")):
        predict_file(model, job.dev, tmp_path / f"{name}.csv", **options)
    assert (tmp_path / "small.csv").read_text() == (tmp_path / "whole.csv").read_text()
    kept = json.loads((tmp_path / "small" / "tokenizer_config.json").read_text())
    assert kept["model_max_length"] == 32


def test_texts_may_be_given(job: Job, tmp_path: Path) -> None:
    table = tmp_path / "texts.jsonl"
    table.write_text('{"text": "the joy"}\n{"text": "the film"}\n')
    found = trim(job.teachers[0], [table], output=tmp_path / "small")
    assert found["tokens"] == [150, found["needed"] + 3]
    again = trim(tmp_path / "small", [table], output=tmp_path / "again", size=1)
    assert again["tokens"] == [found["tokens"][1], found["needed"]]
    assert again["changed"] == 1.0
    assert again["report"] == [f"vocabulary: 1 tokens were asked for, any text needs {found['needed']}"]


def test_lists_of_words_are_texts_too(job: Job, tmp_path: Path) -> None:
    files = {
        "words.conll": "the\tO\nfilm\tB-x\n\nthe\tO\njoy\tO\n",
        "texts.jsonl": '{"text": "the film"}\n{"text": "the joy"}\n',
    }
    files["words.jsonl"] = '{"tokens": ["the", "film"]}\n{"tokens": []}\n{"tokens": ["the", "joy"]}\n'
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    kept = [trim(job.teachers[0], [tmp_path / name], output=tmp_path / f"of-{name}")["tokens"] for name in files]
    assert kept[0] == kept[1] == kept[2]
    done = pretrain([tmp_path / "words.conll"], init=job.teachers[0], output=tmp_path / "p")
    assert done["texts"] == 2


def test_an_encoder_without_head_is_trimmed_too(job: Job, tmp_path: Path) -> None:
    settings = ["student.vocabulary=auto", "train.max_length=32"]
    done = pretrain([job.train], init=job.teachers[0], output=tmp_path / "p", overrides=settings)
    student = tmp_path / "p" / "student"
    tokens = AutoConfig.from_pretrained(student).vocab_size
    assert tokens == done["student"]["source"]["vocabulary"]["tokens"] < 150
    with pytest.raises(ConfigError, match="no text"):
        trim(tmp_path / "p", output=tmp_path / "small")
    found = trim(student, [job.train], output=tmp_path / "small", size=90)
    assert found["tokens"] == [tokens, 90]
    assert AutoConfig.from_pretrained(tmp_path / "small").architectures == ["BertModel"]


def test_what_cannot_be_trimmed_is_refused(job: Job, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="no text: give one table of texts or more, or the folder of a run with a task"
    ):
        trim(job.teachers[0], output=tmp_path / "small")
    with pytest.raises(StudentError, match="exists already: choose another output folder"):
        trim(job.teachers[0], [job.train], output=job.folder)
    path = Path(tiny_bert(tmp_path / "lm"))
    BertForMaskedLM(AutoConfig.from_pretrained(path)).save_pretrained(path)
    with pytest.raises(StudentError, match="BertForMaskedLM cannot be trimmed: its head predicts tokens"):
        trim(path, [job.train], output=tmp_path / "small")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(StudentError, match=r"lacks weights of a BertForSequenceClassification \(bert.pooler"):
        trim(path, [job.train], output=tmp_path / "small")
    (path / "config.json").write_text(json.dumps(config | {"architectures": ["os"]}))
    with pytest.raises(StudentError, match="names a class that transformers does not have: os"):
        trim(path, [job.train], output=tmp_path / "small")
    assert not (tmp_path / "small").exists()
