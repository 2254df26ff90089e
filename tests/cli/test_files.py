"""Files as people bring them go through every verb that takes a table."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from distilect.cli import app
from tests.tiny import SENTENCES, tiny_bert

ROWS = [
    (f"{sentence} {other}", ("no", "yes")[i % 2]) for i, sentence in enumerate(SENTENCES) for other in SENTENCES[:4]
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_bert("backbone")
    return tmp_path


def call(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words), prog_name="distilect")
    assert result.exit_code == 0, result.output
    return result


def test_a_model_is_made_scored_and_fed_with_files_of_all_kinds(folder: Path) -> None:
    lines = [f"{text}x{label}" for text, label in ROWS if "x" not in text]  # a letter: it must be named
    (folder / "train.csv").write_text("\n".join(["reviewxlabel", *lines]))
    short = ["train.epochs=0.5", "train.max_length=32"]
    call("finetune", "train.csv", "--init", "backbone", "--output", "named", "data.delimiter=x", *short)

    (folder / "data").mkdir()
    for i in range(2):
        rows = [json.dumps({"text": text, "label": label}) for text, label in ROWS[i::2]]
        (folder / "data" / f"train-{i}.json.gz").write_bytes(gzip.compress(f"[{','.join(rows)}]".encode()))
    excel = [f'"{text}, ""so"""\t{label}' for text, label in ROWS[:10]]
    (folder / "dev.txt").write_bytes("\r\n".join(["text\tlabel", *excel]).encode("utf-16"))
    call("finetune", "data", "--dev", "dev.txt", "--init", "backbone", "--output", "made", *short)
    assert json.loads((folder / "made" / "metrics.json").read_text())["rows"]["dev"] == 10

    scored = call("evaluate", "made/student", "dev.txt")
    assert "rows         10" in scored.output
    call("augment", "dev.txt", "--output", "more.csv", "--times", "1", "--model", "backbone", "--labels")
    assert '""so""' in (folder / "more.csv").read_text()
    call("evaluate", "made/student", "more.csv")
