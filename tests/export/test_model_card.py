from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, metadata_load

from distilect.config import parse_config
from distilect.errors import RunError
from distilect.export import write_model_card
from distilect.export.model_card import citations
from tests.report.run_files import metrics


def card(folder: Path, values: dict[str, Any] | None = None, **options: Any) -> tuple[dict[str, Any], str]:
    path = write_model_card(folder, metrics() if values is None else values, **options)
    data = metadata_load(path)
    assert data is not None
    return data, path.read_text(encoding="utf-8")


def test_the_hub_can_read_the_metadata(tmp_path: Path) -> None:
    data, _ = card(tmp_path)
    assert data["tags"] == ["distilect", "knowledge-distillation"]
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-classification"
    results = ModelCard.load(tmp_path / "README.md").data.eval_results
    assert {(result.metric_type, result.metric_value) for result in results} == {("accuracy", 0.72), ("f1", 0.77)}


def test_no_license_is_claimed_unless_given(tmp_path: Path) -> None:
    assert "license" not in card(tmp_path)[0]
    assert card(tmp_path, license="apache-2.0")[0]["license"] == "apache-2.0"


def test_no_local_path_is_claimed_as_a_base_model(tmp_path: Path) -> None:
    assert "base_model" not in card(tmp_path)[0]
    assert card(tmp_path, base_model="owner/model")[0]["base_model"] == "owner/model"


def test_scores_stand_beside_the_teachers(tmp_path: Path) -> None:
    _, text = card(tmp_path)
    assert "90.0 % of its best teacher's accuracy, 2.50× smaller, 2.50× faster" in text
    assert "| strong (teacher) | 0.800 |" in text
    assert "| rlkd (student) | 0.720 |" in text


def test_the_method_is_cited_from_preset_and_from_selectors_put_in_its_place(tmp_path: Path) -> None:
    config = parse_config({"data": {"train": "x"}, "student": "t", "method": {"name": "rlkd", "loss_weights": "akskd"}})
    _, text = card(tmp_path, config=config)
    assert "2012.06048" in text and "2302.00444" in text and "1503.02531" in text
    assert citations("finetune", {}, True) == []
    assert "2109.11295" in citations("dynamic-teacher-soft", {}, True)[0]


def test_loading_takes_three_lines_that_fit_the_task(tmp_path: Path) -> None:
    code = card(tmp_path)[1].split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) == 3
    compile(code, "card", "exec")
    pairs = metrics(task={"kind": "regression", "labels": [], "num_texts": 2})
    code = card(tmp_path, pairs)[1].split("```python\n")[1].split("```")[0]
    assert "text_pair" in code and 'function_to_apply="none"' in code


def test_names_act_neither_as_markdown_nor_as_html_nor_as_yaml(tmp_path: Path) -> None:
    evil = "x: <script>alert(1)</script>\n---\n| [a](javascript:b) `c`"
    values = metrics(name=evil, method=evil)
    values["task"] |= {"name": evil, "labels": [evil, "b"]}
    values["teachers"][0]["name"] = evil
    data, text = card(tmp_path, values)
    assert data["model-index"][0]["name"] == evil
    body = text.split("\n---\n\n# ", 1)[1]
    assert "<script>" not in body.replace(f"`{' '.join(evil.replace('`', ' ').replace('|', ' ').split())}`", "")
    assert "[a](javascript" not in body.replace("\\[a\\]", "").split("Method: `")[0]
    row = next(line for line in body.splitlines() if "(teacher)" in line)
    assert row.replace("\\|", "").count("|") == 8


@pytest.mark.parametrize(
    "values", [{}, {"student": None, "teachers": None}, {"student": {"scores": {"accuracy": None}}}]
)
def test_missing_numbers_are_left_out(tmp_path: Path, values: dict[str, Any]) -> None:
    data, text = card(tmp_path, values)
    assert "model-index" not in data
    assert "## Limits" in text


def test_writing_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    card(tmp_path)


def test_a_missing_student_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no student in"):
        write_model_card(tmp_path / "absent", {})
