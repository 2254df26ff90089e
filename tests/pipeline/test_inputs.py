"""What a notebook holds, given to `distill`: frames, data sets, paths, models, pipelines; and runs that go on."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import datasets
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from distilect import distill
from distilect.errors import DataError, DistilectError, RunError, StudentError, TeacherError
from distilect.pipeline import evaluate, finetune, run
from tests.pipeline.helpers import Job
from tests.tiny import tiny_bert


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("notebook"))


def quick(job: Job, name: str, **changes: Any) -> dict[str, Any]:
    options = {"student": "a[layers=1,3]", "method": "kd", "name": name, "output": job.folder / "runs"}
    return options | {"train__epochs": 1, "train__max_length": 32, "train__precision": "fp32"} | changes


def test_a_frame_gives_the_same_run_as_its_file(job: Job) -> None:
    of_files = distill(str(job.train), Path(job.dev), teachers=[Path(job.teachers[0])], **quick(job, "files"))
    frames = (pd.read_csv(job.train), pd.read_csv(job.dev))
    of_frames = distill(*frames, teachers=job.teachers[:1], **quick(job, "frames"))
    assert of_frames.metrics["data_fingerprint"] == of_files.metrics["data_fingerprint"]
    assert of_frames.metrics["student"]["scores"] == of_files.metrics["student"]["scores"]
    with pytest.raises(RunError, match=r"overwrite=True"):  # the same call again: the same files, not others
        distill(*frames, teachers=job.teachers[:1], **quick(job, "frames"))


def test_a_data_set_keeps_the_names_of_its_classes(job: Job) -> None:
    frame = pd.read_csv(job.train)
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = {"text": list(frame["text"]), "label": [["no", "yes"].index(x) for x in frame["label"]]}
    data = datasets.Dataset.from_dict(rows, features=features).select(
        range(40)
    )  # `select`: an index over the Arrow table
    result = distill(data, str(job.dev), teachers=job.teachers[:1], **quick(job, "data-set"))
    assert result.metrics["task"]["labels"] == ["no", "yes"]
    assert result.metrics["rows"]["train"] + result.metrics["rows"]["validation"] == 40


@pytest.mark.parametrize(
    "given, message",
    [
        (["a text"], "train: got a builtins.list, expected a path, a pandas DataFrame"),
        ({"train": 1}, "train: got a builtins.dict of train: give one of its parts"),
        (
            pd.DataFrame({"text": ["a", 1], "label": [0, 1]}),
            "train: this pandas.DataFrame cannot be written as a table",
        ),
    ],
    ids=["list", "dict", "mixed column"],
)
def test_what_is_no_table_is_refused_in_a_line(job: Job, given: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        distill(given, teachers=job.teachers[:1], **quick(job, "no-table"))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_models_and_pipelines_teach_as_their_folder_does(job: Job) -> None:
    folder = job.teachers[0]
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    of_path = distill(str(job.train), str(job.dev), teachers=[folder], **quick(job, "path"))
    for name, teacher in {
        "model": model,
        "pair": (model, tokenizer),
        "pipe": pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu"),
        "mapping": {"name": "a", "path": model},
    }.items():
        found = distill(str(job.train), str(job.dev), teachers=[teacher], **quick(job, name))
        assert found.metrics["student"]["scores"] == of_path.metrics["student"]["scores"], name
        assert found.metrics["teachers"][0]["name"] == "a"


def test_a_model_that_was_changed_after_loading_is_the_one_that_teaches(job: Job) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(job.teachers[0])
    with torch.no_grad():
        model.classifier.bias += torch.tensor([5.0, 0.0])
    found = distill(str(job.train), str(job.dev), teachers=[model], **quick(job, "changed"))
    labels = [line.rpartition(",")[2] for line in job.dev.read_text().splitlines()[1:]]
    assert found.metrics["teachers"][0]["scores"]["accuracy"] == pytest.approx(labels.count("no") / len(labels))


def test_a_model_can_be_the_student(job: Job) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(job.teachers[1])
    found = distill(str(job.train), teachers=job.teachers[:1], **quick(job, "student", student=model))
    assert found.metrics["student"]["layers"] == model.config.num_hidden_layers


def test_a_model_from_a_folder_without_tokenizer_is_not_given_an_empty_one(job: Job, tmp_path: Path) -> None:
    """transformers makes a tokenizer of five special tokens where a folder has none."""
    model = AutoModelForSequenceClassification.from_pretrained(job.teachers[0])
    model.save_pretrained(tmp_path / "bare")
    bare = AutoModelForSequenceClassification.from_pretrained(tmp_path / "bare")
    with pytest.raises(TeacherError, match=r"no tokenizer in .*give the two as a pair, \(model, tokenizer\)"):
        distill(str(job.train), teachers=[bare], **quick(job, "bare"))


def test_any_mapping_names_a_teacher(job: Job) -> None:
    teacher = MappingProxyType({"name": "mine", "path": job.teachers[0]})
    found = distill(str(job.train), teachers=[teacher], **quick(job, "mapped", student="mine[layers=1]"))
    assert found.metrics["teachers"][0]["name"] == "mine"


def test_objects_that_are_no_classifier_are_refused_in_a_line(job: Job) -> None:
    from transformers import AutoModel, BertConfig, BertForSequenceClassification

    with pytest.raises(TeacherError, match="got a BertModel, expected a model or a pipeline for text classification"):
        distill(str(job.train), teachers=[AutoModel.from_pretrained(job.teachers[0])], **quick(job, "no"))
    small = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=20)
    with pytest.raises(TeacherError, match=r"no tokenizer: give the two as a pair, \(model, tokenizer\)"):
        distill(str(job.train), teachers=[BertForSequenceClassification(small)], **quick(job, "no"))
    with pytest.raises(StudentError, match="got a int, expected a path"):
        distill(str(job.train), teachers=job.teachers[:1], **quick(job, "no", student=3))
    with pytest.raises(DistilectError, match="teachers: got a int, expected a path, a mapping, a model"):
        distill(str(job.train), teachers=[3], **quick(job, "no"))


def test_a_peft_model_is_told_how_to_become_a_whole_one(job: Job) -> None:
    """Saved as it is, it would be its adapter alone; called as a function, it would fail in the middle of a run."""

    class PeftModel:
        def merge_and_unload(self) -> None: ...

    message = r"got a PeftModel: give the whole model with its tokenizer, \(model.merge_and_unload\(\), tokenizer\)"
    with pytest.raises(TeacherError, match=message):
        distill(train=str(job.train), teachers=[PeftModel()], student="a", output=str(job.folder / "peft"))


def test_finetune_and_evaluate_take_paths_and_short_names(job: Job) -> None:
    raw = Path(tiny_bert(job.folder / "raw", 2, 5))
    options = {"epochs": 2, "learning_rate": 5e-3, "batch_size": 8, "max_length": 24, "metrics": ["macro_f1"]}
    metrics = finetune(job.train, init=raw, output=job.folder / "made", dev=job.dev, **options)
    assert metrics["cost"]["steps"] == 2 * 9 and metrics["primary"] == "macro_f1"
    config = (job.folder / "made" / "config.yaml").read_text()
    assert "max_length: 24" in config and "learning_rate: 0.005" in config
    found = evaluate(job.folder / "made" / "student", job.dev, max_length=24, metrics=["matthews"], precision="fp32")
    assert list(found["scores"]) == ["matthews"]


def test_labels_of_an_evaluation_name_the_outputs_in_order(job: Job) -> None:
    folder = job.teachers[0]
    given = evaluate(folder, job.dev, labels=["no", "yes"])["scores"]["accuracy"]
    swapped = evaluate(folder, job.dev, labels=["yes", "no"])["scores"]["accuracy"]
    assert given == evaluate(folder, job.dev)["scores"]["accuracy"] == pytest.approx(1 - swapped)


# ---- a run that goes on ----------------------------------------------------------------------------------------------


def test_a_finished_run_goes_on_for_more_epochs(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(job.config(name="longer", baselines=["finetune"]))
    train = job.raw()["train"] | {"epochs": 4}
    both = run(job.config(name="longer", baselines=["finetune"], train=train))
    for earlier, later in zip(first, both, strict=True):
        assert earlier.folder == later.folder
        assert later.metrics["cost"]["resumed_at_step"] == earlier.metrics["cost"]["steps"]
        assert later.metrics["cost"]["steps"] == 2 * earlier.metrics["cost"]["steps"]
        epochs = [json.loads(line).get("epoch") for line in (later.folder / "history.jsonl").read_text().splitlines()]
        assert max(filter(None, epochs)) == pytest.approx(4, abs=0.1)
    assert "going on from 2 to 4 epochs" in " ".join(capsys.readouterr().err.split())


def test_a_run_goes_on_also_where_an_earlier_epoch_was_the_best(job: Job) -> None:
    """The best weights of the first part may be those that the longer run ends with."""
    raw = job.raw(name="best-first")
    raw["train"] |= {"epochs": 3, "learning_rate": 3e-2}  # so high that scores go up and down
    first = run(job.config(**raw))[0]
    raw["train"] = raw["train"] | {"epochs": 4}
    later = run(job.config(**raw))[0]
    assert later.metrics["cost"]["resumed_at_step"] == first.metrics["cost"]["steps"]
    assert later.metrics["student"]["validation"]["accuracy"] >= first.metrics["student"]["validation"]["accuracy"]


def test_other_changes_are_still_refused(job: Job) -> None:
    run(job.config(name="fixed", method="finetune"))
    train = job.raw()["train"]
    for changed in (train | {"epochs": 1}, train | {"epochs": 4, "batch_size": 8}, train):
        with pytest.raises(RunError, match="holds a finished run: give it more train.epochs"):
            run(job.config(name="fixed", method="finetune", train=changed))
