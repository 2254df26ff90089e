"""What the output layer reads is found in every family, and refused where it does not make the logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.families import TABLE, checkpoint, students
from distilect.errors import MethodError
from distilect.models import Student, head_reader
from distilect.models.classifiers import output_layer


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "mpnet", "deberta-v2", "gpt2", "xlnet", "bart"])
def test_the_output_layer_makes_the_logits_from_what_it_reads(family: str, tmp_path: Path) -> None:
    student = students(checkpoint(family, tmp_path))["run"]
    assert isinstance(student, Student)
    inputs = student.encode(TABLE).collate(np.arange(4))
    with torch.no_grad(), head_reader(student.model.eval()) as head:
        logits = student.model(**inputs).logits
    features, layer = head.features(logits, check=True), output_layer(student.model, MethodError)
    assert features.shape == (4, layer.in_features) and not features.requires_grad
    torch.testing.assert_close(F.linear(features, layer.weight, layer.bias), logits, rtol=1e-4, atol=1e-5)
    student.model(**inputs)
    torch.testing.assert_close(head.features(logits, check=True), features)  # the hook is gone


def test_logits_that_are_made_of_more_than_the_output_layer_are_refused_with_the_remedy(tmp_path: Path) -> None:
    student = students(checkpoint("bert", tmp_path))["run"]
    assert isinstance(student, Student)
    model: Any = student.model.eval()
    with torch.no_grad(), head_reader(model) as head:
        logits = model(**student.encode(TABLE).collate(np.arange(3))).logits
    with pytest.raises(MethodError, match=r"are not the outputs of its last linear layer.*set encoder: backbone"):
        head.features(torch.tanh(logits), check=True)
    with pytest.raises(MethodError, match="set encoder: backbone"), head_reader(model) as unused:
        unused.features(logits, check=False)
