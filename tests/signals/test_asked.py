"""Teachers behind an API, asked on a real server on loopback: what they answer, what goes wrong, and what is never asked twice."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.progress import Progress

from distilect import ranks
from distilect.config import TeacherConfig, parse_part
from distilect.data import Table
from distilect.errors import ConfigError, TeacherError
from distilect.models import EndpointTeacher, endpoint
from distilect.signals import Prepared, SignalStore, announce, prepare_signals
from distilect.tasks import Task
from tests.api_server import SURE, Server, serving
from tests.launch import fork, run_ranks, wait

TASK = Task("toy", "classification", ("no", "yes"), ("accuracy",), 1)
TEXTS = [f"{'bad' if number % 3 else 'good'} film {number}" for number in range(24)]
TABLE = Table.from_texts([*TEXTS, TEXTS[0]])
RIGHT = np.array([int(not text.startswith("bad")) for text in [*TEXTS, TEXTS[0]]])
ALL_WAYS = [
    (("completions", "chat", "several", "settings"), "completions", 1),
    (("chat", "several", "settings"), "chat", 1),
    (("echo", "chat", "several", "settings"), "chat", 1),
    (("several", "settings"), "samples", 1),
    (("settings",), "samples-plain", 4),
    ((), "samples-plain", 4),
]


def teacher(server: Server, task: Task = TASK, folder: Path = Path("."), **settings: Any) -> EndpointTeacher:
    spec = {"endpoint": server.url, "model": "m", "samples": 4, "concurrency": 4, **settings}
    return EndpointTeacher("llm", TeacherConfig(**spec), task, folder)


def ask(server: Server, root: Path, table: Table = TABLE, **settings: Any) -> Prepared:
    return prepare_signals([teacher(server, **settings)], table, SignalStore(root), [[]])


def logits(found: Prepared, table: Table = TABLE) -> np.ndarray:
    assert found.source is not None
    return found.source.fetch(table, np.arange(len(table)), [[]]).logits[:, 0].numpy()


@pytest.mark.parametrize(("gives", "way", "calls"), ALL_WAYS)
def test_each_way_gives_the_rule_of_the_server(gives: tuple[str, ...], way: str, calls: int, tmp_path: Path) -> None:
    with serving(gives=gives) as server:
        asked = teacher(server)
        found = prepare_signals([asked], TABLE, SignalStore(tmp_path), [[]])
        values = logits(found)
        assert asked.way == way and asked.row_calls == calls
        assert set(server.answered) == set(TEXTS) and found.forwards == 24
        again = ask(server, tmp_path)
        assert (again.forwards, again.reused) == (0, 24) and (logits(again) == values).all()
        probe = server.answered.pop(TEXTS[0])
        assert set(server.answered.values()) == {calls} and calls <= probe <= calls + 2
    assert values.dtype == np.float32 and (values.argmax(1) == RIGHT).all()
    sure = SURE if not way.startswith("samples") else 4.5 / 5
    np.testing.assert_allclose(np.exp(values).max(1), sure, atol=1e-6)


def test_multi_label_and_regression_are_asked_by_samples(tmp_path: Path) -> None:
    sets = Task("sets", "multi-label", ("food", "view"), ("micro_f1",), 1)
    with serving(rule=lambda text: "food\nview" if text.startswith("bad") else "none") as server:
        values = logits(ask(server, tmp_path, task=sets))
    np.testing.assert_allclose(1 / (1 + np.exp(-values)), np.where(RIGHT[:, None], 0.1, 0.9).repeat(2, 1), atol=1e-6)
    (tmp_path / "ask.txt").write_text("From 0 to 5?\nText: {text}")
    scores = Task("scores", "regression", (), ("pearson",), 1)
    with serving(rule=lambda text: f"{len(text)}.5 points") as server:
        values = logits(ask(server, tmp_path, task=scores, folder=tmp_path, prompt="ask.txt"))
    assert values[:, 0].tolist() == [len(text) + 0.5 for text in [*TEXTS, TEXTS[0]]]


def test_faults_are_retried_and_cost_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "TIMEOUT", 0.4)
    faults = ([429, 429], [500], ["slow"], ["garbage"], ["empty"], ["cut"])
    with serving() as server:
        for text, fault in zip(TEXTS[1:], faults, strict=False):
            server.faults[text] = list(fault)
        values = logits(ask(server, tmp_path))
        assert all(count == 1 for count in server.answered.values()) and len(server.answered) == 24
        assert [server.asked[text] for text in TEXTS[1:8]] == [3, 2, 2, 2, 2, 2, 1]
    assert (values.argmax(1) == RIGHT).all()


def test_retry_after_is_waited_for(tmp_path: Path) -> None:
    times: list[float] = []
    with serving(retry_after={"retry-after": "1"}) as server:
        server.faults[TEXTS[3]] = [429]
        server.waits = lambda text: times.append(time.perf_counter()) if text == TEXTS[3] else None
        ask(server, tmp_path)
    assert len(times) == 2 and times[1] - times[0] > 0.95


def test_few_rows_without_an_answer_have_equal_probabilities_and_are_reported(tmp_path: Path) -> None:
    with serving(gives=("several", "settings")) as server:
        server.faults[TEXTS[5]] = ["off"]
        server.faults[TEXTS[6]] = ["empty"] * endpoint.TRIES
        store = SignalStore(tmp_path)
        found = prepare_signals([teacher(server)], TABLE, store, [[]])
        values = logits(found)
        prepare_signals([teacher(server)], TABLE, store, [[]])
        assert server.asked[TEXTS[5]] == 1  # not again by this process
        later = ask(server, tmp_path)
        assert server.asked[TEXTS[5]] == 2 and later.forwards == 2
    assert (values[[5, 6]] == 0).all() and (values[[4, 7]] != 0).all()
    assert "2 rows without an answer have equal probabilities" in found.report[0]


def test_samples_that_are_no_label_are_counted(tmp_path: Path) -> None:
    with serving(gives=()) as server:
        server.faults[TEXTS[4]] = [None, "off"]
        found = ask(server, tmp_path)
    assert "1 of 96 samples are no label" in found.report[0]
    assert np.exp(logits(found)[4]).max() == pytest.approx(3.5 / 4)


def test_many_rows_without_an_answer_are_an_error_that_keeps_the_others(tmp_path: Path) -> None:
    with serving() as server:
        for text in TEXTS[10:15]:
            server.faults[text] = ["empty"] * endpoint.TRIES
        with pytest.raises(TeacherError, match=r"4 rows have no answer, more than 5% of the table \(the answer cannot"):
            ask(server, tmp_path, concurrency=1)
        assert ask(server, tmp_path).forwards == 24 - 10
        assert max(server.answered.values()) == 1


def test_a_kill_costs_the_rows_under_way_and_no_other_is_asked_twice(tmp_path: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def wait_at_the_last(text: str) -> None:
        if text == TEXTS[17] and not go_on.is_set():
            reached.set()
            go_on.wait(60)

    with serving(waits=wait_at_the_last) as server:
        child = fork(lambda: ask(server, tmp_path / "store", concurrency=1) and None, tmp_path / "log")
        assert reached.wait(60), (tmp_path / "log").read_text()
        os.kill(child, signal.SIGKILL)
        assert wait([child]) == [-9]
        go_on.set()
        done = sum(server.asked.values()) - 1
        found = ask(server, tmp_path / "store")
        assert 0 < done < 24 and found.forwards == 24 - done
        assert {text: count for text, count in server.asked.items() if count > 1} == {TEXTS[17]: 2}


def test_an_interrupt_keeps_what_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(progress: Progress, task: Any) -> None:
        raise KeyboardInterrupt

    with serving(waits=lambda text: time.sleep(0.02)) as server:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Progress, "advance", interrupted)
            ask(server, tmp_path, concurrency=2)
        assert len(server.asked) <= 5  # not those that wait for a thread
        ask(server, tmp_path)
        assert set(server.asked.values()) == {1} and len(server.asked) == 24


def test_two_ranks_ask_once(tmp_path: Path) -> None:
    def work() -> None:
        ranks.start()
        for live, rows in ((True, [0, 1]), (False, range(25))):
            source = prepare_signals([teacher(server)], TABLE, SignalStore(tmp_path / "store"), [[]], live=live).source
            assert source is not None
            if not live or ranks.rank() == 0:
                found = source.fetch(TABLE, np.array(rows), [[]]).logits[:, 0].numpy()
                assert (found.argmax(1) == RIGHT[rows]).all()
            ranks.barrier()

    with serving() as server:
        run_ranks(2, work, tmp_path)
        assert set(server.asked.values()) == {1} and len(server.asked) == 24


def test_a_torn_or_damaged_line_is_asked_again_and_reported(tmp_path: Path) -> None:
    with serving() as server:
        ask(server, tmp_path)
        (file,) = tmp_path.glob("*/answers.jsonl")
        lines = file.read_bytes().splitlines(keepends=True)
        assert len(lines) == 25  # and the way
        lines[7] = lines[7].replace(b'"logits": [-', b'"logits": [')
        file.write_bytes(b"".join(lines)[:-9])
        found = ask(server, tmp_path)
        assert found.forwards == 2 and "1 damaged lines are left out" in found.report[0]
        assert ask(server, tmp_path).forwards == 0
        assert sorted(server.asked.values()) == [1] * 22 + [2] * 2


def test_a_budget_stops_before_anything_but_the_probe_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as server:
        for budget in ({"call_budget": 20}, {"token_budget": 500}):
            asked, store = teacher(server, **budget), SignalStore(tmp_path)
            with pytest.raises(TeacherError, match="what was answered is kept"):
                announce(asked, store.answers(asked.fingerprint), [TABLE])
            with pytest.raises(TeacherError, match="what was answered is kept"):
                prepare_signals([asked], TABLE, store, [[]])
        assert server.requests == 1
        assert ask(server, tmp_path, call_budget=24).forwards == 23  # the probe's answer counts
        with pytest.raises(TeacherError, match="24 were spent before, the budget is 24: raise call_budget"):
            ask(server, tmp_path, Table.from_texts(["good day"]), call_budget=24)
        assert server.requests == 24
    assert "23 rows to ask, 23 calls, about " in " ".join(capsys.readouterr().err.split())


def test_a_budget_stops_also_where_retries_spend_it(tmp_path: Path) -> None:
    with serving() as server:
        for text in TEXTS[3:6]:
            server.faults[text] = ["empty"]
        with pytest.raises(TeacherError, match="the budget of 25 calls is spent"):
            ask(server, tmp_path, call_budget=25)
        assert server.requests == 25


def test_tokens_are_estimated_where_the_server_does_not_count_them(tmp_path: Path) -> None:
    with serving(counts=False, gives=("chat", "settings")) as server:
        asked, store = teacher(server), SignalStore(tmp_path)
        prepare_signals([asked], TABLE, store, [[]])
        assert store.answers(asked.fingerprint).tokens == sum(asked.estimate([text]) for text in TEXTS) > 500
        with pytest.raises(TeacherError, match="raise token_budget"):
            ask(server, tmp_path, Table.from_texts(["good day"]), token_budget=500)


def test_only_what_answers_depend_on_makes_other_answers(tmp_path: Path) -> None:
    with serving() as server, serving() as other:
        (tmp_path / "ask.txt").write_text("{labels}? {text}")
        first = teacher(server)
        same = [teacher(other), teacher(server, concurrency=1, call_budget=9, token_budget=9, key="OTHER_KEY")]
        assert {one.fingerprint for one in same} == {first.fingerprint}
        reverse = Task("toy", "classification", ("yes", "no"), ("accuracy",), 1)
        others = [
            teacher(server, model="n"),
            teacher(server, samples=3),
            teacher(server, folder=tmp_path, prompt="ask.txt"),
            teacher(server, task=reverse),
        ]
        assert len({one.fingerprint for one in (first, *others)}) == 5


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "refuses the key .*environment variable SECRET_KEY"), (404, "answers in no way that can be used: correct")],
)
def test_refusals_name_the_remedy_and_hide_the_key(
    status: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "sk-very-secret")
    with serving() as server:
        for text in TEXTS:
            server.faults[text] = [status] * 9
        with pytest.raises(TeacherError, match=message) as caught:
            ask(server, tmp_path, key="SECRET_KEY")
        assert server.keys == {"Bearer sk-very-secret"}
    assert "sk-very-secret" not in str(caught.value) and "your key was Bearer …" in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "RETRIES", 0)
    with serving() as server:
        pass
    with pytest.raises(TeacherError, match="cannot be reached .*is the server running"):
        ask(server, tmp_path)


def test_what_is_missing_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        with pytest.raises(TeacherError, match="variable that key: names is not set: export it") as caught:
            ask(server, tmp_path, key="LOOKS_LIKE_A_NAME")
        assert "LOOKS_LIKE" not in str(caught.value)
        monkeypatch.setitem(sys.modules, "openai", None)
        with pytest.raises(TeacherError, match="is behind an API: pip install 'distilect\\[api\\]'"):
            ask(server, tmp_path)


def test_texts_are_put_into_the_prompt_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "ask.txt").write_text('JSON {"a": 1} of {labels}\nText: {text}\nand {text_2}', encoding="utf-8")
    pairs = Task("pairs", "classification", ("no", "yes"), ("accuracy",), 2)
    asked = teacher(Server(url="http://x/v1"), pairs, tmp_path, prompt="ask.txt")
    assert asked.question(["{labels} {0}", r"\1 {text}"]) == (
        'JSON {"a": 1} of no, yes\nText: {labels} {0}\nand \\1 {text}'
    )
    assert "Text 1: {text}\nText 2: {text_2}" in teacher(Server(url="http://x/v1"), pairs).prompt


@pytest.mark.parametrize(
    ("content", "task", "message"),
    [
        ("no place", TASK, "lacks {text}, where a row's text goes"),
        (None, TASK, "cannot read the prompt"),
        ("{text}", Task("t", "classification", ("Yes", "yes"), ("accuracy",), 1), "cannot be told apart"),
        ("{text}", Task("t", "tokens", ("O", "B-x"), ("accuracy",), 1), "an endpoint labels whole texts"),
    ],
)
def test_what_cannot_be_asked(content: str | None, task: Task, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "ask.txt").write_text(content)
    with pytest.raises(TeacherError, match=message):
        teacher(Server(url="http://x/v1"), task, tmp_path, prompt="ask.txt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "a"}, "exactly one of path, table, finetune, endpoint"),
        ({"model": None}, "endpoint needs model"),
        ({"labels": ["a"]}, "labels does nothing with endpoint"),
        ({"endpoint": None, "path": "a"}, "model needs endpoint"),
        ({"endpoint": "http://me:sk-secret@host/v1"}, "without a user, a password or a query"),
        ({"endpoint": "https://host/v1?key=sk-secret"}, "without a user, a password or a query"),
        ({"key": "sk-secret"}, "never the key itself"),
    ],
)
def test_settings_that_do_not_fit_and_keys_in_the_wrong_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_part(TeacherConfig, {"endpoint": "http://host/v1", "model": "m", **changes})
    assert "sk-secret" not in str(caught.value)


def test_a_live_reader_asks_for_the_rows_that_are_wanted_and_keeps_the_answers(tmp_path: Path) -> None:
    with serving() as server:
        live = prepare_signals([teacher(server)], TABLE, SignalStore(tmp_path), [[]], live=True).source
        assert live is not None and server.requests == 0
        for rows in ([3, 4, 3], [4, 5], [24, 0]):
            found = live.fetch(TABLE, np.array(rows), [[]]).logits[:, 0].numpy()
            assert (found.argmax(1) == RIGHT[rows]).all()
        assert live.forwards == 4 and sorted(server.asked.values()) == [1] * 4
        assert ask(server, tmp_path).reused == 4


def test_answers_are_lines_of_json_without_texts_or_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with serving() as server:
        ask(server, tmp_path)
    lines = [json.loads(line) for line in next(tmp_path.glob("*/answers.jsonl")).read_text().splitlines()]
    assert lines[0]["way"] == "completions" and set(lines[1]) == {"id", "calls", "tokens", "logits", "off", "check"}
    assert all(b"sk-very-secret" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
