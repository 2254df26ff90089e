"""Every architecture for sequence classification that transformers knows: it works as docs/families.md says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks import families
from benchmarks.families import FAMILIES, TABLE, checkpoint, students, train_step
from distilect.evaluation import predict
from distilect.models import Student
from distilect.pipeline.folders import save_student

RESULTS = json.loads(families.RESULTS.read_text(encoding="utf-8"))["families"]
BUILT = [family for family in FAMILIES if "cannot be built" not in RESULTS.get(family, {}).get("run", "")]


def logits(student: Student, together: bool) -> np.ndarray:
    encoded, rows = student.encode(TABLE), range(len(TABLE))
    if together:
        return predict(student.model, encoded, precision="fp32")
    return np.concatenate([predict(student.model, encoded, rows=np.array([i]), precision="fp32") for i in rows])


# One of each way to find a row's end, its positions, its token types and its layers; `make test-slow` runs all.
QUICK = (
    "albert",
    "bart",
    "bert",
    "convbert",
    "deberta-v2",
    "electra",
    "flaubert",
    "gpt2",
    "gpt_neox",
    "longformer",
    "mpnet",
    "roberta",
    "t5",
    "xlnet",
)


@pytest.mark.parametrize("family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in BUILT])
def test_a_family_runs_and_can_be_cut_as_the_table_says(family: str, tmp_path: Path) -> None:
    path, said = checkpoint(family, tmp_path / "whole"), RESULTS[family]
    built = students(path)
    for column, student in built.items():
        if isinstance(student, Student):
            assert said[column] == "yes"
            np.testing.assert_allclose(logits(student, True), logits(student, False), atol=1e-4, rtol=1e-3)
        else:
            assert said[column] != "yes" and "\n" not in student and len(student) < 500
    works = [student for student in built.values() if isinstance(student, Student)]
    if not works:
        return
    student = works[-1]  # the cut one where there is one
    assert np.isfinite(train_step(student))
    save_student(student, tmp_path / "saved")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    texts = [text for (text,) in TABLE.text(range(len(TABLE)))]
    with torch.no_grad():  # whoever loads it pads as its tokenizer does
        found = model(**tokenizer(texts, padding=True, truncation=True, max_length=24, return_tensors="pt")).logits
    np.testing.assert_allclose(found.numpy(), logits(student, True), atol=1e-4, rtol=1e-3)


def exportable() -> list[str]:
    """Families whose export ends; those that do not would take four minutes each to say so."""
    known = {family: RESULTS.get(family, {}).get("onnx") for family in BUILT}
    return [family for family, found in known.items() if found and "not exported within" not in found]


@pytest.mark.slow
@pytest.mark.parametrize("family", exportable())
def test_a_family_is_exported_as_the_table_says(family: str, tmp_path: Path) -> None:
    student = students(checkpoint(family, tmp_path / "whole"))["run"]
    assert isinstance(student, Student)
    for column, found in families.exported(student, tmp_path).items():
        assert (found == "yes") == (RESULTS[family][column] == "yes"), found


def test_the_table_has_every_family_and_the_page_is_made_from_it() -> None:
    results = json.loads(families.RESULTS.read_text(encoding="utf-8"))
    assert set(FAMILIES) <= set(results["families"]) or results["transformers"] != families.transformers.__version__
    assert families.PAGE.read_text(encoding="utf-8") == families.page(results)
