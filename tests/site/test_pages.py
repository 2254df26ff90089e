"""Every command and code block of the documentation runs, in the order of its page, with tiny models in the place of real ones."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from distilect.cli import app
from distilect.config import parse_config, parse_part
from distilect.data import load_table
from distilect.experiments.config import CompareConfig
from distilect.export import ship
from distilect.knowledge import Layout
from distilect.pipeline import budget
from distilect.selection import build_method, build_teacher_selector
from distilect.selection.registry import TEACHERS
from tests.export.runs import finished_run
from tests.launch import fork, wait
from tests.pipeline.helpers import write_table
from tests.report.run_files import write_answers
from tests.site.blocks import DOCS, LANGUAGES, MARKS, Block, blocks, inline_commands, pages
from tests.tiny import tiny_bert, tiny_llama
from tests.training.helpers import TAGS, toy_words

# they fine-tune three teachers, export, and train a dozen students
SLOW = {
    "alignment.md",
    "keep.md",
    "methods/choosing.md",
    "rlkd.md",
    "trim.md",
    "tutorial/demo.md",
    "tutorial/multi-label.md",
    "tutorial/ship.md",
}
# two thousand updates of a policy take twenty seconds
QUICKER = {"rlkd.md": ["method.teachers.policy_updates=20"], "keep.md": ["train.epochs=1"]}
REVIEWS = next(block for block in blocks("tutorial/own-data.md") if block.title == "reviews.yaml")
CODE = [page for page in pages() if any(b.language in ("bash", "python", "yaml") for b in blocks(page))]


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with what the pages take for granted: tables, two teachers, a backbone, and `reviews.yaml`."""
    write_table(tmp_path / "train.csv", 60)
    write_table(tmp_path / "dev.csv", 24, seed=1)
    write_table(tmp_path / "more.csv", 20, seed=2)
    texts = [text for (text,) in load_table(str(tmp_path / "more.csv"))[0].text(range(20))]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    known = [load_table(str(tmp_path / name))[0] for name in ("train.csv", "dev.csv")]
    texts = [text for table in known for (text,) in table.text(range(len(table)))]
    lines = (json.dumps({"text": text, "no": 0.3, "yes": 0.7}) + "\n" for text in dict.fromkeys(texts))
    (tmp_path / "llm.jsonl").write_text("".join(lines))
    write_comments(tmp_path)
    write_sentences(tmp_path)
    write_questions(tmp_path)
    for seed, name in enumerate(("teacher-a", "teacher-b", "backbone")):
        tiny_bert(tmp_path / name, ["no", "yes"], seed, layers=6)
    tiny_bert(tmp_path / "tagger-b", ["O", "B-thing", "I-thing"], layers=4, words=True)
    (tmp_path / "reviews.yaml").write_text(REVIEWS.text.replace("runs/teacher-a/student", "teacher-a"))
    monkeypatch.setattr(budget, "MOST_EPOCHS", 3)  # a hundred epochs of tiny models take half a minute
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    with mock.patch.dict(TEACHERS):  # a page may register its own
        yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write_comments(folder: Path) -> None:
    """The three forms of a multi-label table."""
    sets = [["food", "view"], [], ["staff"], ["view"], ["food", "staff", "view"]] * 8
    texts = [
        f"{text} {' '.join(labels)}" for (text,), labels in zip(_texts(folder / "train.csv", 40), sets, strict=True)
    ]
    for name in ("comments.jsonl", "comments-dev.jsonl"):
        lines = (json.dumps({"text": text, "labels": labels}) for text, labels in zip(texts, sets, strict=True))
        (folder / name).write_text("\n".join(lines) + "\n")
    lines = (f"{text},{'|'.join(labels)}" for text, labels in zip(texts, sets, strict=True))
    (folder / "comments.csv").write_text("\n".join(["text,labels", *lines]) + "\n")
    names = ("food", "view", "staff")
    lines = (
        ",".join([text, *(str(int(n in labels)) for n in names)]) for text, labels in zip(texts, sets, strict=True)
    )
    (folder / "columns.csv").write_text("\n".join([",".join(["text", *names]), *lines]) + "\n")


def write_sentences(folder: Path) -> None:
    """Sentences with tags, and some without, in CoNLL."""
    for name, count, seed in (("names.conll", 60, 0), ("names-dev.conll", 24, 1), ("names-more.conll", 20, 2)):
        table = toy_words(count, seed)
        assert table.units is not None
        tags = iter(table.labels)
        tagged = name != "names-more.conll"
        rows = [
            [f"{word}\t{TAGS.labels[next(tags)]}" if tagged else word for word in row]
            for row in table.words(range(count))
        ]
        (folder / name).write_text("\n\n".join("\n".join(row) for row in rows) + "\n")
    rows = load_table(str(folder / "names.conll"))[0].words(range(60)) + load_table(str(folder / "names-dev.conll"))[
        0
    ].words(range(24))
    chances = dict(zip(TAGS.labels, (0.8, 0.15, 0.05), strict=True))
    lines = [json.dumps({"words": row, **{tag: [p] * len(row) for tag, p in chances.items()}}) for row in rows]
    (folder / "tagged-elsewhere.jsonl").write_text("\n".join(lines) + "\n")


def write_questions(folder: Path) -> None:
    """Prompts and completions, and language models to continue them."""
    for name, first, last in (("questions.jsonl", 0, 40), ("questions-dev.jsonl", 40, 55)):
        rows = (
            {"prompt": f"Question: how many legs have {n} cats?\nAnswer:", "completion": f" {n} * 4 = {4 * n}"}
            for n in range(first, last)
        )
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for seed, name in enumerate(("smollm2", "expert-math", "expert-code")):
        tiny_llama(folder / name, seed, layers=6, length=128)


def _texts(path: Path, count: int) -> list[tuple[str, ...]]:
    return load_table(str(path))[0].text(range(count))


def prepare(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page's earlier pages would have left behind."""
    monkeypatch.setattr(ship, "ROUNDS", {1: 3, 4: 2})
    if page in ("tutorial/ship.md", "files.md", "trim.md"):
        finished_run(folder / "elsewhere")
        (folder / "runs").mkdir()
        (folder / "elsewhere" / "runs" / "toy").rename(folder / "runs" / "reviews")
        write_answers(folder / "runs" / "reviews")
    if page == "tutorial/demo.md":
        from distilect.demo import run as demo

        real = demo.demo_config
        monkeypatch.setattr(demo, "BACKBONE", "backbone")
        monkeypatch.setattr(demo, "ROWS", 300)
        monkeypatch.setattr(demo, "demo_config", lambda *args, quick: real(*args, quick=True))


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow) if page in SLOW else page for page in CODE]
)
def test_the_code_of_a_page_runs(page: str, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(page, workshop, monkeypatch)
    space: dict[str, Any] = {"__name__": page}
    for block in blocks(page):
        if block.title:
            (workshop / block.title).write_text(block.text, encoding="utf-8")
        if block.language == "bash":
            for command in block.commands:
                (check if block.mark else run)(command, block)
        elif block.language == "python" and not block.title:
            code = compile(block.text, block.place, "exec")
            if not block.mark:
                exec(code, space)
        elif block.language == "yaml":
            check_config(block)


def run(command: str, block: Block) -> None:
    """Run a line of a shell block; our own verbs in this process, which has loaded torch already, and modules in a fork of it."""
    words = shlex.split(command)
    if words[0] == "distilect":
        more = QUICKER.get(block.page, []) if words[1] in ("run", "distill", "pretrain") else []
        result = CliRunner().invoke(app, [*words[1:], *more], prog_name="distilect")
        assert result.exit_code == 0, f"{block.place}: {command}\n{result.output}\n{result.exception!r}"
        return
    assert words[:2] == ["python", "-m"], f"{block.place}: neither distilect nor python -m: mark the block: {command}"
    log = Path("python.log")

    def work() -> Any:
        sys.argv = words[2:]
        try:
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            return end.code

    code = wait([fork(work, log)])
    assert code == [0], f"{block.place}: {command}\n{log.read_text(encoding='utf-8')}"


def check(command: str, block: Block) -> None:
    """Check a line that is not run: that the verb exists, and takes these options."""
    words = shlex.split(command)
    if words[0] != "distilect":
        others = ("pip", "hf", "tensorboard", "torchrun", "ray", "nvidia-cuda-mps-control")
        assert words[0] in others, f"{block.place}: {words[0]}?"
        return
    verb = get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    verb.make_context(words[1], words[2:], resilient_parsing=False)


def check_config(block: Block) -> None:
    """A whole config is one that parses; a part is one that parses in a whole one. Its methods must be buildable."""
    raw = yaml.safe_load(block.text)
    if "tasks" in raw:
        parse_part(CompareConfig, raw)
        return
    base = {"data": {"train": "train.csv"}, "teachers": ["teacher-a", "teacher-b"], "student": "teacher-a[layers=1]"}
    if "data" in raw:
        raw["data"] = {**base["data"], **raw["data"]}
    config = parse_config({**base, **raw})
    layout = Layout(
        regression=config.task.kind == "regression",
        student_layers=2,
        student_width=16,
        teachers=("a", "b"),
        teacher_layers=(4, 4),
        teacher_widths=(16, 16),
        same_tokens=(True, True),
    )
    for method in (config.method, *config.baselines):
        build_method(method, layout, build_teacher_selector(method))


@pytest.mark.parametrize("page", pages())
def test_every_block_names_its_language(page: str) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.place}: ```{block.language}: expected one of {LANGUAGES}"
    prose = re.sub(r"(?ms)^```.*?^```", "", (DOCS / page).read_text(encoding="utf-8"))
    indented = re.findall(r"(?m)\n\n    (?![-*\d]).+", prose)
    assert not indented, f"{page}: code that nobody runs, fence it: {indented[0]!r}"


@pytest.mark.parametrize("page", pages())
def test_every_command_in_the_prose_exists(page: str) -> None:
    known = get_command(app).commands  # type: ignore[attr-defined]
    for command in inline_commands(page):
        verb, *words = shlex.split(command)[1:]
        if verb.isupper() or verb.startswith("-"):
            continue
        assert verb in known, f"docs/{page}: `{command}`: no verb is called {verb!r}"
        options = {option for parameter in known[verb].params for option in parameter.opts}
        for word in words:
            assert not word.startswith("--") or word in options, f"docs/{page}: `{command}`: no option {word}"


def test_the_parser_of_blocks_sees_languages_titles_and_marks() -> None:
    found = {(b.language, b.title, b.mark) for b in blocks("tutorial/own-data.md")}
    assert ("yaml", "reviews.yaml", "") in found and ("bash", "", "hub") in found and ("text", "", "") in found
    assert set(MARKS) >= {b.mark for page in pages() for b in blocks(page) if b.mark}


def literals() -> list[str]:
    """The parts of all strings in the source, those of f-strings apart, neighbours joined as Python joins them."""
    found: list[str] = []
    for path in (DOCS.parent / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(p.value) if isinstance(p, ast.Constant) else "\0" for p in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_message_that_troubleshooting_explains_is_in_the_source() -> None:
    strings, messages = literals(), [b for b in blocks("troubleshooting.md") if b.language == "text"]
    assert len(messages) > 15
    for block in messages:
        message = block.text.strip()
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split("…")), re.DOTALL)
        assert any(pattern.search(text) for text in strings), f"{block.place}: no message of ours: {message}"
