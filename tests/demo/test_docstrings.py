from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import distilect.demo as demo
from distilect.demo import build_docstrings
from distilect.demo.docstrings import LABELS, DocstringData, collect
from distilect.errors import DataError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DocstringData:
    return build_docstrings(tmp_path_factory.mktemp("docstrings"))


def rows(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        assert next(reader) == ["text", "label"]
        return [(text, label) for text, label in reader]


def test_there_are_thousands_of_rows_in_twelve_classes_none_of_them_tiny(data: DocstringData) -> None:
    assert len(LABELS) == 12
    assert 4_000 < sum(data.counts.values()) < 10_000
    assert min(count for count in data.counts.values() if count) >= 150
    assert max(data.counts.values()) < 0.3 * sum(data.counts.values())


def test_texts_are_short_clean_and_unique_over_both_files(data: DocstringData) -> None:
    texts = [text for path in (data.train_path, data.dev_path) for text, _ in rows(path)]
    assert len(set(texts)) == len(texts) == sum(data.counts.values())
    assert all(4 <= len(text.split()) <= 60 and text == " ".join(text.split()) for text in texts)


def test_every_class_is_in_both_files_and_dev_has_its_share(data: DocstringData) -> None:
    train, dev = rows(data.train_path), rows(data.dev_path)
    assert {label for _, label in train} == {label for _, label in dev}
    assert len(dev) / (len(train) + len(dev)) == pytest.approx(0.15, abs=0.02)


def test_the_first_rows_are_a_sample_of_all_classes(data: DocstringData) -> None:
    assert len({label for _, label in rows(data.train_path)[:300]}) >= 11


def test_building_twice_gives_the_same_bytes(data: DocstringData, tmp_path: Path) -> None:
    again = build_docstrings(tmp_path)
    assert again.train_path.read_bytes() == data.train_path.read_bytes()
    assert again.dev_path.read_bytes() == data.dev_path.read_bytes()


def test_the_seed_moves_the_split_but_no_row(data: DocstringData, tmp_path: Path) -> None:
    other = build_docstrings(tmp_path, seed=1)
    assert sorted(rows(other.train_path) + rows(other.dev_path)) == sorted(rows(data.train_path) + rows(data.dev_path))
    assert rows(other.dev_path) != rows(data.dev_path)


def test_provenance_is_written_beside_the_files(data: DocstringData) -> None:
    origin = json.loads((data.train_path.parent / "docstrings.json").read_text())
    assert origin["sha256"]["train.csv"] == hashlib.sha256(data.train_path.read_bytes()).hexdigest()
    assert origin["counts"] == data.counts
    assert "standard library" in data.lines_to_print[0]


@pytest.mark.parametrize("size", [0.0, 1.0, -0.1])
def test_an_empty_split_is_refused(tmp_path: Path, size: float) -> None:
    with pytest.raises(DataError, match="dev_size must lie between 0 and 1"):
        build_docstrings(tmp_path, dev_size=size)


def library(folder: Path, **modules: str) -> Path:
    """A folder that looks like a library: 1,100 documented functions in `json`, and further modules."""
    (folder / "json").mkdir(parents=True)
    many = "".join(f'def f{i}():\n    """Read part {i} of a file."""\n' for i in range(1100))
    (folder / "json" / "reader.py").write_text(many)
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    return folder


def found(folder: Path) -> dict[str, str]:
    return {text: label for text, label in collect(folder) if not text.startswith("Read part")}


def test_a_text_of_two_chapters_is_dropped_and_of_one_chapter_kept_once(tmp_path: Path) -> None:
    one, two = '"""Close the file at last."""\n', 'class A:\n    """Return the number of items."""\n'
    folder = library(tmp_path / "lib", shutil=one + two, glob=one, socket=two)
    assert found(folder) == {"Close the file at last.": "files"}


def test_modules_are_read_not_run(tmp_path: Path) -> None:
    source = '"""Take note of what happens."""\nraise SystemExit("imported")\n'
    assert found(library(tmp_path / "lib", shutil=source)) == {"Take note of what happens.": "files"}


def test_only_the_first_paragraph_counts_and_broken_files_are_skipped(tmp_path: Path) -> None:
    long = '"""One two\n   three four.\n\nA second paragraph of words.\n"""\n'
    folder = library(
        tmp_path / "lib", shutil=long, glob="def (", io='"""Too short."""\n', this='"""Nobody lists this one."""'
    )
    assert found(folder) == {"One two three four.": "files"}


def test_tests_and_installed_packages_are_left_out(tmp_path: Path) -> None:
    folder = library(tmp_path / "lib")
    for name in ("test", "tests", "site-packages", "idle_test"):
        (folder / "json" / name).mkdir()
        (folder / "json" / name / "a.py").write_text('"""This must not be found."""\n')
    assert found(folder) == {}


def test_a_python_without_sources_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lack its source files; use an interpreter with the full standard library"):
        collect(tmp_path)


def test_collecting_needs_nothing_beyond_the_standard_library() -> None:
    room = Path(demo.__file__).parents[1]
    loader = f"""
import importlib.util, sys, types
for name in ("distilect", "distilect.demo"):
    sys.modules[name] = types.ModuleType(name)
for name, file in (("distilect.errors", "errors.py"), ("distilect.demo.docstrings", "demo/docstrings.py")):
    spec = importlib.util.spec_from_file_location(name, {str(room)!r} + "/" + file)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
print(sorted({{"torch", "numpy", "rich", "pydantic"}} & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-I", "-c", loader], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
