"""Every format gives back what was written, and every fault is named with its place."""

from __future__ import annotations

import csv
import gzip
import json
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilect.data import Rows, Source, arrow_files, open_source, text_files
from distilect.data.dialect import detect_dialect
from distilect.errors import DataError
from tests.data.writing import WRITERS, write_csv, write_jsonl, write_parquet, write_plain_tsv, write_tsv

# any text that UTF-8 can hold: newlines, quotes, delimiters, controls, astral characters
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=25).map(lambda text: f"x{text}")
nasty = st.text(st.sampled_from('",\t\n\r;x é😀\u2028\x00'), max_size=12).map(lambda text: f"x{text}")
columns = st.lists(st.tuples(any_text | nasty, any_text | nasty), min_size=1, max_size=12)


def read(source: Source, *names: str, limit: int | None = None) -> Rows:
    return source.read(names or source.columns, limit)


def values(path: Path, **options: object) -> dict[str, list]:
    return read(open_source(str(path), **options)).table.to_pydict()  # type: ignore[arg-type]


def fault(path: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read(open_source(str(path), **options))  # type: ignore[arg-type]
    message = str(caught.value)
    assert len(message.splitlines()) <= 2, message
    return message


@pytest.mark.parametrize("suffix", WRITERS)
@given(columns)
def test_any_table_of_texts_is_read_back_equal(suffix: str, pairs: list[tuple[str, str]]) -> None:
    written = {"text": [a for a, _ in pairs], "other": [b for _, b in pairs]}
    with tempfile.TemporaryDirectory() as folder:
        path = WRITERS[suffix](Path(folder, f"table{suffix}"), written)
        assert values(path) == written


@given(columns)
def test_a_tsv_with_quotes_only_where_needed_is_read_back_with_quoting_on(pairs: list[tuple[str, str]]) -> None:
    written = {"text": [a for a, _ in pairs], "other": [b for _, b in pairs]}
    with tempfile.TemporaryDirectory() as folder:
        path = write_csv(Path(folder, "t.tsv"), written, "\t")
        assert values(path, quoting=True) == written


@given(st.lists(st.tuples(*[any_text.map(lambda t: t.translate(dict.fromkeys(map(ord, "\t\n\r"))))] * 2), min_size=1))
def test_a_plain_tsv_is_read_back_with_quoting_off(pairs: list[tuple[str, str]]) -> None:
    written = {"text": [a for a, _ in pairs], "other": [b for _, b in pairs]}
    with tempfile.TemporaryDirectory() as folder:
        path = write_plain_tsv(Path(folder, "t.tsv"), written)
        assert values(path, quoting=False) == written


@pytest.mark.parametrize(
    ("lines", "quoted"),
    [
        (["text\tlabel", "plain\t1"], False),
        (["text\tlabel", '" The pie\t1', 'he said "so"\t0'], False),  # as in MRPC
        (["text\tlabel", '"a whole quotation"\t1'], False),  # no writer would have quoted this
        (["text\tlabel", '"a ""doubled"" quote"\t1'], True),
        (['"text"\t"label"', '"all are quoted"\t"1"'], True),
        (["text\tlabel", '"over', 'two lines"\t1'], True),
        (["text\tlabel", '"a\ttab"\t1'], True),
        (["text\tlabel", '"open\t1', '"a ""doubled"" quote"\t1'], False),
    ],
)
def test_quoting_of_a_tsv_is_detected(tmp_path: Path, lines: list[str], quoted: bool) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("\n".join(lines) + "\n")
    assert detect_dialect([path], ".tsv").quoting is quoted


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_line_ends_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path, end: str, name: str) -> None:
    mark = "," if name == "t.csv" else "\t"
    lines = [f"text{mark}label", "", f"a{mark}1", "", f"b{mark}0"]
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + end.join(lines).encode())
    rows = read(open_source(str(tmp_path / name)))
    assert rows.table.to_pydict() == {"text": ["a", "b"], "label": ["1", "0"]}
    assert rows.where(1) == f"{name}, line 5"


def test_a_csv_with_semicolons_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text;label\na, b;1\n")
    assert values(tmp_path / "t.csv") == {"text": ["a, b"], "label": ["1"]}


def test_lines_are_counted_through_quoted_newlines(tmp_path: Path) -> None:
    rows = read(open_source(str(write_csv(tmp_path / "t.csv", {"text": ["a\nb\nc", "d"], "label": [1, 0]}))))
    assert [rows.where(0), rows.where(1)] == ["t.csv, line 2", "t.csv, line 5"]


def test_a_text_longer_than_the_csv_modules_limit_is_read(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    assert values(write_csv(tmp_path / "t.csv", {"text": ["a" * 300_000]}))["text"][0] == "a" * 300_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("suffix", WRITERS)
def test_only_the_columns_and_rows_asked_for_are_read(tmp_path: Path, suffix: str) -> None:
    path = WRITERS[suffix](tmp_path / f"t{suffix}", {"a": ["x", "y", "z"], "b": ["1", "2", "3"]})
    assert read(open_source(str(path)), "b", limit=2).table.to_pydict() == {"b": ["1", "2"]}
    assert len(read(open_source(str(path)), limit=99)) == 3


@pytest.mark.parametrize("suffix", WRITERS)
def test_more_rows_than_a_block_are_read_in_order(tmp_path: Path, suffix: str) -> None:
    texts = [f"row {i}" for i in range(40_000)]
    assert values(WRITERS[suffix](tmp_path / f"t{suffix}", {"text": texts})) == {"text": texts}


def test_json_columns_keep_their_types_and_gaps(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a", "n": 1, "flag": true}\n\n{"text": "b", "n": 2.5, "late": "x"}\n')
    assert values(path) == {"text": ["a", "b"], "n": [1.0, 2.5], "flag": [True, None], "late": [None, "x"]}


objects = st.lists(st.fixed_dictionaries({"text": any_text | nasty, "n": st.integers(-9, 9) | st.none()}), min_size=1)


@given(objects, st.sampled_from([None, 0, 2, "\t"]), st.booleans(), st.integers(1, 40))
def test_an_array_of_objects_is_read_back_however_it_is_cut_into_parts(
    rows: list[dict], indent: int | str | None, ascii_only: bool, part: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "_PART", part)
        path = Path(folder, "t.json")
        path.write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii_only), encoding="utf-8", newline="")
        assert values(path) == {"text": [row["text"] for row in rows], "n": [row["n"] for row in rows]}


def test_an_array_in_any_json_file_counts_its_rows(tmp_path: Path) -> None:
    for name in ("t.json", "t.jsonl", "t.ndjson"):
        (tmp_path / name).write_text('\n [\n{"text": "a"},\n\n{"text":\n"b"}\n]\n')
        rows = read(open_source(str(tmp_path / name)))
        assert rows.table.to_pydict() == {"text": ["a", "b"]} and rows.where(1) == f"{name}, row 2"


def test_lists_of_names_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"a": ["x", "y"]}\n{"a": []}\n{}\n')
    assert values(tmp_path / "t.jsonl") == {"a": [["x", "y"], [], None]}
    (tmp_path / "t.jsonl").write_text('{"a": ["x", 1.5]}\n')
    assert (
        "line 1: 'a' is of type list of other values, expected a string, a number, or a list of strings or numbers"
        in fault(tmp_path / "t.jsonl")
    )


# ---- faults --------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_its_nearest_neighbour(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", {"text": ["a"]})
    assert "no file" in fault(tmp_path / "trian.csv") and "Did you mean 'train.csv'" in fault(tmp_path / "trian.csv")


def test_a_missing_folder_says_where_relative_paths_start(tmp_path: Path) -> None:
    assert "relative paths start at data_dir" in fault(tmp_path / "nowhere" / "train.csv")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_an_empty_file_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"t{suffix}").write_bytes(b"")
    assert "is empty" in fault(tmp_path / f"t{suffix}")


def test_a_file_of_blank_lines_is_empty(tmp_path: Path) -> None:
    for name in ("t.csv", "t.jsonl"):
        (tmp_path / name).write_text("\n\n")
        assert "is empty" in fault(tmp_path / name)


@pytest.mark.parametrize("writer", [write_csv, write_tsv, write_parquet])
def test_a_header_without_rows_is_refused(tmp_path: Path, writer) -> None:
    suffix = {write_csv: ".csv", write_tsv: ".tsv", write_parquet: ".parquet"}[writer]
    assert "no rows" in fault(writer(tmp_path / f"t{suffix}", {"text": [], "label": []}))


def test_an_unknown_kind_of_file_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    assert "expected one of .csv .tsv .jsonl" in fault(tmp_path / "t.xlsx")


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl"])
def test_bytes_that_are_no_utf_8_are_named_with_line_and_file(tmp_path: Path, name: str) -> None:
    lines = {"t.csv": b"text,label\nfine,1\n", "t.tsv": b"text\tlabel\nfine\t1\n", "t.jsonl": b'{"text": "a"}\n\n'}
    (tmp_path / name).write_bytes(lines[name] + b"caf\xe9,1\n")
    message = fault(tmp_path / name)
    assert f"{name}, line 3: byte 0xe9 at position 4 is not UTF-8" in message and "Save the file as UTF-8" in message


def test_a_csv_row_with_too_many_fields_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\nfine,1\none, two,1\n")
    message = fault(tmp_path / "t.csv")
    assert "t.csv, line 3: 3 fields, expected 2 (text, label)" in message and "double quotes" in message


def test_a_tsv_row_with_too_few_fields_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("text\tlabel\nfine\t1\nshort\n")
    message = fault(tmp_path / "t.tsv")
    assert "line 3: 1 fields, expected 2" in message and "data.quoting: true" in message


def test_quotes_that_do_not_match_are_named_with_the_line_of_their_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('text,label\nfine,1\n"never closed,1\nmore,0\n')
    message = fault(tmp_path / "t.csv")
    assert "line 3: quotes do not match" in message and "data.quoting: false" in message
    assert values(tmp_path / "t.csv", quoting=False)["text"][1] == '"never closed'


def test_a_column_that_occurs_twice_in_the_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,text\na,b\n")
    assert "column 'text' occurs twice in the header" in fault(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('["a", 1]', "got a JSON list, expected an object"),
        ('"a"', "got a JSON string, expected an object"),
        ('{"text": "a"', "not JSON"),
        ('{"text": ["a"]}', "'text' is of type list, expected a string as in the rows before"),
        ('{"new": {"a": 1}}', "'new' is of type object, expected a string, a number, or a list of strings"),
        ('{"text": 5}', "'text' is of type number, expected a string as in the rows before"),
        ('{"text": "\\ud800"}', "lone surrogate"),
    ],
)
def test_a_bad_json_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    found = fault(tmp_path / "t.jsonl")
    assert "t.jsonl, line 2" in found and message in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n{"a" 2}]', "line 2: not JSON (Expecting ':' delimiter, row 2)"),
        ('[{"a": 1},\n{"a": 2}', "line 2: not JSON (expected a comma or the end of the array, row 3)"),
        ('[{"a": 1},\n', "line 2: not JSON (Expecting value, row 2)"),
        ('[{"a": 1} {"a": 2}]', "line 1: not JSON (expected a comma or the end of the array, row 2)"),
        ('[{"a": 1}]\n{"a": 2}', "line 2: not JSON (text after the array, row 2)"),
        ('[{"a": 1}, ["b"]]', "row 2: got a JSON list, expected an object"),
        ('[{"a": 1}, {"a": "x"}]', "row 2: 'a' is of type string, expected a number as in the rows before"),
        ("[]", "is empty"),
        ("[", "not JSON"),
    ],
)
def test_a_bad_array_is_named_with_its_row(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.json").write_text(text)
    assert message in fault(tmp_path / "t.json")


def test_deeply_nested_json_is_a_fault_and_no_crash(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("[" * 100_000 + "\n")
    assert "t.jsonl, line 1: not JSON" in fault(tmp_path / "t.jsonl")


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", {"text": ["a"]})
    path.write_bytes(path.read_bytes()[:-20])
    assert "not a readable Parquet file" in fault(path)
    (tmp_path / "u.parquet").write_bytes(gzip.compress(b"no parquet"))
    assert "not a readable Parquet file" in fault(tmp_path / "u.parquet")


def test_a_missing_column_lists_the_columns_and_the_nearest(tmp_path: Path) -> None:
    for path in (
        write_csv(tmp_path / "t.csv", {"text": ["a"], "label": [1]}),
        write_jsonl(tmp_path / "t.jsonl", {"text": ["a"], "label": [1]}),
        write_parquet(tmp_path / "t.parquet", {"text": ["a"], "label": [1]}),
    ):
        with pytest.raises(DataError, match=r"no column 'lable'; its columns: text, label. Did you mean 'label'"):
            read(open_source(str(path)), "lable")


def test_a_folder_that_is_no_data_set_says_what_to_give(tmp_path: Path) -> None:
    assert "save_to_disk" in fault(tmp_path)
    (tmp_path / "train.tsv").write_text("sentence\tlabel\na\t1\n")
    assert "give it as data.glue" in fault(tmp_path)


def test_a_parquet_file_is_streamed_without_being_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyarrow's reader, as it comes, buffers the whole file ahead."""
    monkeypatch.setattr(arrow_files, "BLOCK", 4096)
    path = tmp_path / "rows.parquet"
    texts = [os.urandom(200).hex() for _ in range(60_000)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=4096)
    before = pa.total_allocated_bytes()
    blocks = open_source(str(path)).blocks(["text"])
    arrow_held, rows = [], 0
    for block in blocks:
        arrow_held.append(pa.total_allocated_bytes() - before)
        rows += len(block)
    assert rows == 60_000 and len(arrow_held) > 5
    assert max(arrow_held) < path.stat().st_size / 3
