"""Input that is broken or means harm: told in a line, never run, never read where it does not belong."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distilect.config import DataConfig, TaskConfig, TeacherConfig
from distilect.data import Table, load_data
from distilect.errors import DistilectError, TeacherError
from distilect.models import load_teacher
from distilect.signals import FieldStore, SignalStore, store
from distilect.training.checkpoints import COMPLETE_FILE, last_checkpoint
from tests.pipeline.helpers import Job
from tests.signals.helpers import TASK
from tests.tiny import tiny_bert

bounded = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])

cells = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["", '"', '""', "a,b", "line\nbreak", "\r", "\0", "NaN", "1e400", "-1", "1.0", "=cmd()", "\u2028", "🦆"]
)


# ---- tables --------------------------------------------------------------------------------------------------------


@bounded
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=12), st.booleans())
def test_a_csv_of_anything_is_a_table_or_a_line(tmp_path: Path, rows: list[tuple[str, str]], quoted: bool) -> None:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if quoted else text

    lines = ["text,label", *(f"{cell(text)},{cell(label)}" for text, label in rows)]
    (tmp_path / "t.csv").write_bytes("\n".join(lines).encode("utf-8", errors="surrogatepass"))
    try:
        data = load_data(DataConfig(train=str(tmp_path / "t.csv"), validation_size=0), TaskConfig(), 0)
    except DistilectError as error:
        assert len(str(error).splitlines()) <= 4
        return
    assert len(data.train) <= len(rows)
    if quoted:  # what was written is what is read, embedded line breaks and all
        assert len(data.train) == len(rows)
        assert [t[0] for t in data.train.text(np.arange(len(rows)))] == [text for text, _ in rows]


@bounded
@given(st.binary(max_size=300), st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]))
def test_a_file_of_any_bytes_is_a_table_or_a_line(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"t{suffix}"
    file.write_bytes(b"text,label\n" + content if suffix == ".csv" else content)
    try:
        load_data(DataConfig(train=str(file), validation_size=0), TaskConfig(), 0)
    except DistilectError as error:
        assert len(str(error).splitlines()) <= 4


@bounded
@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "text": st.none() | st.text(max_size=5) | st.integers() | st.lists(st.text(max_size=2), max_size=2),
                "label": st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.integers(),
            },
        ),
        min_size=1,
        max_size=8,
    )
)
def test_rows_of_mixed_types_are_a_table_or_a_line(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    try:
        load_data(DataConfig(train=str(tmp_path / "t.jsonl"), validation_size=0), TaskConfig(), 0)
    except DistilectError as error:
        assert len(str(error).splitlines()) <= 4


def test_a_cell_of_ten_megabytes_is_read(tmp_path: Path) -> None:
    long = "word " * 2_000_000
    (tmp_path / "t.csv").write_text(f'text,label\n"{long}",a\nshort,b\n', encoding="utf-8")
    data = load_data(DataConfig(train=str(tmp_path / "t.csv"), validation_size=0), TaskConfig(), 0)
    assert data.train.text([0])[0][0].strip() == long.strip() and len(data.train) == 2


# ---- stores --------------------------------------------------------------------------------------------------------


@bounded
@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.integers() | st.text(max_size=4), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_a_manifest_or_an_index_of_anything_does_no_harm(tmp_path: Path, content: bytes) -> None:
    root = tmp_path / "s"
    field = root / "0123456789abcdef" / "logits"
    field.mkdir(parents=True, exist_ok=True)
    (field.parent / "manifest.json").write_bytes(content)
    SignalStore(root).register("t", "f" * 32, {"weights": "1"})
    ids = np.arange(20, dtype=np.uint64).reshape(10, 2)
    opened = FieldStore(field, [])
    opened.refresh()
    if not len(opened):
        opened.add(ids, np.arange(10, dtype=np.float32).reshape(10, 1))
    before, store._SMALL = store._SMALL, 0
    try:
        FieldStore(field, []).refresh()
        (index,) = field.glob("index-*.bin")
        index.write_bytes(content)
        large = FieldStore(field, [])
        large.refresh()
        assert np.array_equal(np.asarray(large.get(ids))[:, 0], np.arange(10, dtype=np.float32))
    finally:
        store._SMALL = before


# ---- checkpoints ---------------------------------------------------------------------------------------------------


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "boom")


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return Path(tiny_bert(tmp_path / "teacher", ["neg", "mid", "pos"]))


def refused(folder: Path, match: str) -> None:
    with pytest.raises(TeacherError, match=match) as caught:
        load_teacher(TeacherConfig(name="t", path=str(folder)), TASK, precision="fp32", max_length=16)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_pickle_is_never_opened(teacher: Path, tmp_path: Path) -> None:
    (teacher / "model.safetensors").unlink()
    (teacher / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "harm")))
    refused(teacher, "pickle only")
    (teacher / "empty.safetensors").write_bytes(b"")  # a decoy beside it
    refused(teacher, "cannot load")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "..\\secret.safetensors", "sub/x.safetensors"]
)
def test_an_index_that_names_files_elsewhere_is_refused(teacher: Path, name: str) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": {"classifier.weight": name}}
    (teacher / "model.safetensors").rename(teacher / "model-00001-of-00001.safetensors")
    (teacher / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    refused(teacher, "names files outside its folder")


@pytest.mark.parametrize("kind", ["bert", "evil"])
def test_code_in_a_checkpoint_is_never_run(teacher: Path, tmp_path: Path, kind: str) -> None:
    config = json.loads((teacher / "config.json").read_text(encoding="utf-8"))
    config |= {
        "model_type": kind,
        "architectures": ["EvilModel"],
        "auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModelForSequenceClassification": "evil.EvilModel"},
    }
    (teacher / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (teacher / "evil.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w').write('boom')\n", encoding="utf-8")
    if kind == "evil":
        refused(teacher, "cannot load")
    else:  # a known architecture: its own code of transformers is used
        load_teacher(TeacherConfig(name="t", path=str(teacher)), TASK, precision="fp32", max_length=16)
    assert not (tmp_path / "harm").exists()


def test_weights_that_are_cut_short_are_told_in_a_line(teacher: Path) -> None:
    weights = teacher / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    refused(teacher, "cannot load")


@bounded
@given(st.binary(max_size=80))
def test_a_record_of_anything_makes_no_checkpoint_whole(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "checkpoints" / "checkpoint-5"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"x")
    (folder / COMPLETE_FILE).write_bytes(content)
    assert last_checkpoint(folder.parent) is None


# ---- texts of reports ----------------------------------------------------------------------------------------------


def test_texts_labels_and_names_that_look_like_html_stay_text(tmp_path: Path) -> None:
    from distilect.pipeline import run

    evil = "<script>alert(1)</script>"
    job = Job(tmp_path)
    for file in (job.train, job.dev):
        file.write_text(file.read_text(encoding="utf-8").replace(",yes", f",{evil}"), encoding="utf-8")
    name = "<img src=x onerror=alert(2)>"
    train = job.raw()["train"] | {"epochs": 1}
    config = job.config(name=name, method="finetune", teachers=[], student=job.teachers[0] + "[fresh]", train=train)
    result = run(config)[0]
    assert result.report is not None
    page = result.report.read_text(encoding="utf-8")
    assert evil not in page and name not in page


def test_a_table_is_text_whatever_it_says() -> None:
    table = Table.from_texts(["{{ 7 * 7 }}", "%s %n", "${HOME}"], [0, 1, 0])
    assert table.text([0, 1, 2]) == [("{{ 7 * 7 }}",), ("%s %n",), ("${HOME}",)]
