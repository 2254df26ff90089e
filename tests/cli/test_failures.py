"""A failure ends with a few lines on stderr, nothing on stdout, and an exit code that is not 0."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from distilect.cli.verbs import MAX_LINES, explain
from distilect.errors import ConfigError, DataError, DistilectError
from tests.cli.test_verbs import call, config, stand_in

__all__ = ["config", "stand_in"]  # fixtures


def fails_with(stand_in: Any, error: BaseException) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise error

    stand_in("distilect.pipeline", run=run, evaluate=run)


# ---- wrong usage: exit code 2 ----------------------------------------------------------------------------------------


def test_a_misspelt_verb_gets_its_nearest() -> None:
    result = call("methds")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "no verb is called 'methds'" in result.stderr
    assert "Did you mean 'methods'?" in result.stderr


def test_a_verb_that_is_like_no_other_gets_the_whole_list() -> None:
    result = call("zzzz")
    assert result.exit_code == 2
    assert "known: demo, finetune" in result.stderr
    assert "Did you mean" not in result.stderr


def test_a_misspelt_option_gets_its_nearest(config: str) -> None:
    result = call("run", config, "--overwrit")
    assert result.exit_code == 2
    assert "--overwrite" in result.stderr


def test_a_missing_argument_is_wrong_usage() -> None:
    assert call("run").exit_code == 2
    assert call("finetune", "train.csv").exit_code == 2


def test_a_report_of_one_run_takes_no_target(tmp_path: Path) -> None:
    result = call("report", str(tmp_path), "--output", "x.html")
    assert result.exit_code == 2
    assert "two or more" in result.stderr


# ---- failures that are expected: exit code 1 -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.epoch=3", "error: unknown key 'train.epoch': did you mean 'epochs'?\n"),
        ("trian.epochs=3", "error: unknown key 'trian': did you mean 'train'?\n"),
        ("train.epochs=many", "error: 'train.epochs': Input should be a valid number"),
        ("train.epochs", "error: override 'train.epochs': expected key=value"),
    ],
)
def test_a_wrong_override_is_one_line(config: str, override: str, line: str) -> None:
    result = call("run", config, override)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(line)
    assert len(result.stderr.splitlines()) == 1


def test_a_misspelt_method_gets_its_nearest_before_anything_runs(config: str) -> None:
    pytest.importorskip("distilect.selection.registry", exc_type=ImportError)
    result = call("run", config, "method=unifrm", "--dry-run")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Did you mean 'uniform'?" in result.stderr


def test_a_missing_config_is_one_line(tmp_path: Path) -> None:
    result = call("run", str(tmp_path / "none.yaml"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"error: no config file at {tmp_path}/none.yaml\n"


def test_an_error_of_ours_is_its_message(config: str, stand_in: Any) -> None:
    fails_with(stand_in, DataError("no column 'txt'. Did you mean 'text'?"))
    result = call("run", config)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: no column 'txt'. Did you mean 'text'?\n"


def test_a_message_of_many_lines_is_cut() -> None:
    text = explain(ConfigError("\n".join(f"fault {n}" for n in range(50)))).splitlines()
    assert len(text) == MAX_LINES + 1
    assert text[-1] == f"… and {50 - MAX_LINES} more"


# ---- failures that are not -------------------------------------------------------------------------------------------


def test_an_unexpected_error_is_one_line_that_asks_for_a_report(config: str, stand_in: Any) -> None:
    fails_with(stand_in, ValueError("two\nlines"))
    result = call("run", config)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == ("unexpected ValueError: two lines (run with --debug for the traceback; please report)\n")


@pytest.mark.parametrize("words", [("--debug", "run", "CONFIG"), ("run", "CONFIG", "--debug")])
def test_debug_shows_the_error_itself_wherever_it_stands(config: str, stand_in: Any, words: tuple[str, ...]) -> None:
    error = DataError("no column")
    fails_with(stand_in, error)
    result = call(*(config if word == "CONFIG" else word for word in words))
    assert result.exception is error
    assert result.exit_code == 1


def test_a_full_disk_is_reported_with_the_remedy(config: str, stand_in: Any) -> None:
    fails_with(stand_in, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/signals/shard-0"))
    result = call("run", config)
    assert result.exit_code == 1
    assert result.stderr == (
        "error: the disk is full at runs/signals/shard-0: free some space and repeat the command; "
        "finished parts are kept\n"
    )


def test_a_full_disk_is_recognised_in_the_words_of_other_libraries() -> None:
    class SafetensorError(Exception):
        pass

    assert "disk is full" in explain(SafetensorError("IoError: No space left on device (os error 28)"))


def test_a_missing_permission_is_reported_with_the_place() -> None:
    text = explain(PermissionError(errno.EACCES, "Permission denied", "/root/runs"))
    assert text == "error: no permission to read or write at /root/runs: change it, or choose another place"


def test_errors_without_a_message_still_say_what_they_are() -> None:
    assert explain(AssertionError()).startswith("unexpected AssertionError: no message")
    assert len(explain(ValueError("x" * 10_000))) < 400
    assert explain(DistilectError("")) == "error: "


# ---- stopped ---------------------------------------------------------------------------------------------------------


def test_stopping_a_run_says_that_the_same_command_goes_on(config: str, stand_in: Any) -> None:
    fails_with(stand_in, KeyboardInterrupt())
    result = call("run", config)
    assert result.exit_code == 130
    assert "the same command goes on" in result.stderr


def test_stopping_what_keeps_nothing_promises_nothing(stand_in: Any) -> None:
    fails_with(stand_in, KeyboardInterrupt())
    result = call("evaluate", "model", "dev.csv")
    assert (result.exit_code, result.stderr) == (130, "stopped\n")


def test_a_real_interrupt_ends_the_process_with_130(tmp_path: Path) -> None:
    started = tmp_path / "started"
    code = (
        # a test run in the background inherits an ignored SIGINT; a user's terminal does not
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import pathlib, sys, time, types\n"
        "def score(config):\n"
        f"    pathlib.Path({str(started)!r}).touch()\n"
        "    time.sleep(60)\n"
        "module = types.ModuleType('distilect.pipeline'); module.score = score\n"
        "import distilect; sys.modules['distilect.pipeline'] = distilect.pipeline = module\n"
        "sys.argv = ['distilect', 'score', sys.argv[1]]\n"
        "from distilect.cli import main; main()\n"
    )
    file = tmp_path / "c.yaml"
    file.write_text("data: {train: t.csv}\nstudent: s\n", encoding="utf-8")
    process = subprocess.Popen([sys.executable, "-c", code, str(file)], stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if started.exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=30)
    assert process.returncode == 130
    assert text == "stopped; finished parts are kept: the same command goes on from there (without --overwrite)\n"
