"""Whole runs with a teacher behind an API."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from distilect.cli import app
from distilect.config import dump_config
from distilect.errors import RunError, TeacherError
from distilect.pipeline import advise, run, score
from distilect.pipeline.calls import forecast
from distilect.pipeline.folders import check_free
from tests.api_server import Server, serving
from tests.pipeline.helpers import Job

ROWS = 80 + 30


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("job"))


def changes(job: Job, server: Server, folder: Path, **more: Any) -> dict[str, Any]:
    llm = {"name": "llm", "endpoint": server.url, "model": "m", "samples": 4, **more.pop("llm", {})}
    own = {"teachers": [llm], "student": f"{job.teachers[0]}[layers=1]", "method": "kd", "output": str(folder)}
    return own | more


def test_a_run_asks_every_row_once_and_leaves_no_key(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with serving() as server:
        config = job.config(**changes(job, server, tmp_path, baselines=["finetune"]))
        metrics = run(config)[0].metrics
        texts = set(server.asked)
        assert set(server.asked.values()) == {1} and ROWS - 5 < len(texts) <= ROWS
        assert server.keys == {"Bearer sk-very-secret"}
        again = run(job.config(**changes(job, server, tmp_path, name="again")))[0].metrics
        assert again["teachers"][0]["answers"] == metrics["teachers"][0]["answers"]
        assert server.requests == len(texts)
    (teacher,) = metrics["teachers"]
    assert teacher["scores"]["accuracy"] == 1.0  # the rule of the server is that of the table
    assert teacher["answers"] == {
        "model": "m",
        "asked": "by log-probabilities of whole labels (completions)",
        "calls": len(texts),
        "tokens": 80 * len(texts),
        "rows": len(texts),
        "unanswered": 0,
        "no_label": 0,
    }
    assert metrics["cost"]["teacher_forwards"] == len(texts) - len(set(server.asked) - _train_texts(job))
    printed = capsys.readouterr()
    assert "rows to ask" in printed.err and "sk-very-secret" not in printed.err + printed.out
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10 and all(b"sk-very-secret" not in path.read_bytes() for path in written)


def _train_texts(job: Job) -> set[str]:
    return {line.rpartition(",")[0] for line in job.train.read_text().splitlines()[1:]}


@pytest.mark.parametrize(
    ("rows", "least", "most"),
    [({"name": "uncertainty-skip"}, 18, 36), ({"name": "uncertainty-rounds", "rounds": 2}, 18, 18)],
    ids=["skip", "rounds"],
)
def test_a_live_run_asks_for_the_rows_that_its_selector_chooses(
    rows: dict[str, Any], least: int, most: int, job: Job, tmp_path: Path
) -> None:
    method = {"name": "kd", "rows": {**rows, "ratio": 0.25}}
    signals = {"precision": "fp32", "live": True}
    data = {"train": str(job.train), "validation_size": 8}
    with serving() as server:
        config = job.config(**changes(job, server, tmp_path, method=method, signals=signals, data=data))
        metrics = run(config)[0].metrics
        asked = set(server.asked) & _train_texts(job)
        assert set(server.asked.values()) == {1}
        # two epochs over 72 rows, of which a quarter is learned from, beside the validation split
        assert 8 + least <= len(asked) <= 8 + most
    assert metrics["signals"]["live"] and metrics["teachers"][0]["answers"]["calls"] == len(asked)


def test_a_budget_stops_a_run_before_it_starts(job: Job, tmp_path: Path) -> None:
    with serving() as server:
        config = job.config(**changes(job, server, tmp_path, llm={"call_budget": 100}))
        with pytest.raises(TeacherError, match="the budget is 100: raise call_budget"):
            run(config)
        assert server.requests == 1
        pool = [config.teachers[0], *job.config().teachers]
        data = config.data.model_copy(update={"validation_size": 52})
        assert len(advise(config.model_copy(update={"teachers": pool, "data": data})).table) > 3
        assert server.requests in (52, 53)  # the validation split alone, and the probe
        score(job.config(**changes(job, server, tmp_path, data={"train": str(job.train)}, llm={"call_budget": 100})))
        assert set(server.asked) == _train_texts(job)


def test_a_run_goes_on_with_another_server_or_budget_and_not_with_another_prompt(job: Job, tmp_path: Path) -> None:
    server, folder = Server(url="http://a/v1"), tmp_path / "toy"
    (folder / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    begun = job.config(**changes(job, server, tmp_path))
    (folder / "config.yaml").write_text(dump_config(begun))
    reached = {"endpoint": "http://b/v1", "call_budget": 9, "concurrency": 2, "key": "OTHER"}
    check_free(folder, job.config(**changes(job, server, tmp_path, llm=reached)), False)
    with pytest.raises(RunError, match="unfinished run with other settings"):
        check_free(folder, job.config(**changes(job, server, tmp_path, llm={"samples": 5})), False)


def test_dry_run_and_estimate_count_calls_without_asking(job: Job, tmp_path: Path) -> None:
    with serving() as server:
        config = job.config(**changes(job, server, tmp_path))
        (tmp_path / "run.yaml").write_text(dump_config(config))
        dry = CliRunner().invoke(app, ["run", str(tmp_path / "run.yaml"), "--dry-run"])
        assert dry.exit_code == 0 and "\n# teacher llm: " in dry.output, dry.output
        counts = re.search(
            r"llm: (\d+) rows to ask; .*\n#   completions +(\d+) calls, about ([\d,]+) tokens\n", dry.output
        )
        assert counts and counts[1] == counts[2] and 100 < int(counts[1]) <= ROWS
        cost = CliRunner().invoke(app, ["estimate", str(tmp_path / "run.yaml"), "--rows", "1e6"])
        assert cost.exit_code == 0, cost.output
        assert "teacher llm: 1,000,000 rows to ask; by what the server gives:" in cost.output
        # two labels: two prompts
        tokens = {
            way: number(cost.output, rf"{way} +1,000,000 calls, about ([\d,]+) tokens")
            for way in ("completions", "chat")
        }
        assert tokens["completions"] == pytest.approx(2 * tokens["chat"], rel=0.05)
        assert number(cost.output, r"samples +1,000,000 to 4,000,000 calls, about [\d,]+ to ([\d,]+)") > 3e6
        assert server.requests == 0
        run(config)
        assert forecast(config) == ["teacher llm: all answers are stored"]


def number(text: str, pattern: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, text
    return int(found[1].replace(",", ""))
