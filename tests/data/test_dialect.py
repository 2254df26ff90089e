"""Delimiters and quotes are told from the file; what cannot be told is not guessed."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from distilect.data import open_source
from distilect.data.dialect import detect_dialect
from distilect.errors import DataError
from tests.data.writing import write_csv

TEXTS = ["hello, world; or not", "a | b", "once upon a time: a tale", "50% & more/less", "plain"]
DELIMITERS = [*list(",;\t|:^~#*+=@$%&/<>\\`"), "\x01", "\x1e", "§", "¦", "¬", "•", "€"]


def read(path: Path, **options: object) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    source = open_source(str(path), **options)  # type: ignore[arg-type]
    return source.read(source.columns).table.to_pydict(), source.notes


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder / name


# ---- delimiters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.txt"])
@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_any_delimiter_is_told_by_itself(tmp_path: Path, name: str, delimiter: str) -> None:
    columns = {"text": TEXTS, "label": ["yes", "no", "yes", "no", "no"]}
    found, notes = read(write_csv(tmp_path / name, columns, delimiter))
    assert found == columns
    usual = "," if name == "t.csv" else "\t"
    assert any("fields are separated by" in note for note in notes) == (delimiter != usual)


@pytest.mark.parametrize("delimiter", [" ", "x", ".", "-"])
def test_a_delimiter_that_texts_are_full_of_is_given(tmp_path: Path, delimiter: str) -> None:
    columns = {"note": ["bon", "dia"], "rating": ["1", "0"]}
    assert read(write_csv(tmp_path / "t.csv", columns, delimiter), delimiter=delimiter)[0] == columns


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ('"id;a",text,label\n1,x;y,0\n2,z,1\n', ["id;a", "text", "label"]),
        ("id;a,text,label\n1,x;y,0\n2;3,z;w,1\n", ["id;a", "text", "label"]),
        ("id,a;text;label\n1,2;x, y;0\n3,4;z, w;1\n", ["id,a", "text", "label"]),
        ('"text, raw"|label\n"one, two"|0\n"three, four"|1\n', ["text, raw", "label"]),
        ("start:end,words,kind\n1:2,a,0\n3:4,b,1\n", ["start:end", "words", "kind"]),
        ("#1 String\t#2 String\tlabel\na\tb\t1\n", ["#1 String", "#2 String", "label"]),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".txt"])
def test_a_header_that_holds_another_delimiter_does_not_mislead(
    tmp_path: Path, text: str, columns: list[str], suffix: str
) -> None:
    assert open_source(str(written(tmp_path, f"t{suffix}", text))).columns == columns


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.txt"])
@pytest.mark.parametrize("header", ["text", "the question?", "what's said", "one_two-three"])
def test_one_column_stays_one_column(tmp_path: Path, name: str, header: str) -> None:
    texts = ["how, when and where are you?", "it's one; or two", "what, now?"]
    found, _ = read(written(tmp_path, name, "\n".join([header, *texts]) + "\n"))
    assert found == {header: texts}


def test_a_header_that_lacks_a_name_is_no_file_of_one_column(tmp_path: Path) -> None:
    path = written(tmp_path, "t.csv", "text\nfine,1\ndull,0\n")
    with pytest.raises(DataError, match="line 2: 2 fields, expected 1"):
        read(path)


def test_a_row_with_a_field_too_many_is_named_whatever_the_delimiter(tmp_path: Path) -> None:
    path = written(tmp_path, "t.csv", "text|label\na|1\nb|c|0\nd|1\n")
    with pytest.raises(DataError, match="line 3: 3 fields, expected 2"):
        read(path)


@pytest.mark.parametrize("line", ["sep=;", "SEP=;", '"sep=;"', "sep=\t", "sep=x"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_excels_line_that_names_the_delimiter_is_honoured(tmp_path: Path, line: str, end: str) -> None:
    mark = line.strip('"')[-1]
    rows = [line, f"a,b{mark}label", f"1,2{mark}0", f"3,4{mark}1"]
    source = open_source(str(written(tmp_path, "t.csv", end.join(rows) + end)))
    found = source.read(source.columns)
    assert found.table.to_pydict() == {"a,b": ["1,2", "3,4"], "label": ["0", "1"]}
    assert found.where(1) == "t.csv, line 4"


def test_the_first_lines_are_enough_and_the_last_of_them_may_be_cut(tmp_path: Path) -> None:
    texts = [f"row {i}\n\nwith, lines; and\nmore" for i in range(2000)]
    columns = {"text": texts, "label": ["1"] * 2000}
    assert read(write_csv(tmp_path / "t.csv", columns, ";"))[0] == columns


def test_several_files_have_the_delimiter_of_the_first(tmp_path: Path) -> None:
    for i in range(3):
        write_csv(tmp_path / f"t{i}.csv", {"text": [f"a{i}, b"], "label": ["1"]}, "|")
    assert read(tmp_path)[0] == {"text": ["a0, b", "a1, b", "a2, b"], "label": ["1"] * 3}


prose = st.lists(st.text(st.sampled_from("ab ,;.:|"), min_size=1).map(lambda text: f"x{text}"), min_size=3, max_size=8)


@given(prose, st.sampled_from(",;\t|"), st.sampled_from([".csv", ".tsv", ".txt"]))
def test_prose_does_not_hide_the_delimiter(texts: list[str], delimiter: str, suffix: str) -> None:
    columns = {"text": texts, "label": ["1"] * len(texts)}
    with tempfile.TemporaryDirectory() as folder:
        path = write_csv(Path(folder, f"t{suffix}"), columns, delimiter, csv.QUOTE_ALL)
        assert read(path)[0] == columns


# ---- quotes --------------------------------------------------------------------------------------------------------


def excel(columns: dict[str, list[str]]) -> str:
    """As Excel saves "Text (tab delimited)": quotes around fields that hold a comma, a quote, a tab or a line end."""

    def field(value: str) -> str:
        return '"' + value.replace('"', '""') + '"' if set(value) & set(',"\t\n') else value

    rows = [list(columns), *zip(*columns.values(), strict=True)]
    return "".join("\t".join(map(field, row)) + "\r\n" for row in rows)


EXCEL = {
    "commas": ["Hello, you", "plain"],
    "quotes": ['He said "so"', "plain"],
    "both": ['"So", he said', "plain", "well, well"],
    "lines": ["one\ntwo, three", "plain"],
    "tabs": ["one\ttwo", "plain"],
}


@pytest.mark.parametrize("suffix", [".tsv", ".txt"])
@pytest.mark.parametrize("kind", EXCEL)
def test_the_quotes_of_excel_do_not_stay_in_the_texts(tmp_path: Path, kind: str, suffix: str) -> None:
    columns = {"text": EXCEL[kind], "label": ["1"] * len(EXCEL[kind])}
    for encoding in ("utf-8", "utf-16"):  # "Unicode text" is UTF-16
        path = tmp_path / f"t{suffix}"
        path.write_bytes(excel(columns).encode(encoding))
        found, notes = read(path)
        assert found == columns
        assert notes == (f"t{suffix}: double quotes around fields are removed (data.quoting: false keeps them)",)


@given(
    st.lists(st.text(st.sampled_from('ab ,"\n\t'), max_size=9).map(lambda text: f"x{text}y"), min_size=1, max_size=9)
)
def test_any_table_of_excel_is_read_back(texts: list[str]) -> None:
    columns = {"text": texts, "label": ["1"] * len(texts)}
    widths = {line.count("\t") for line in excel(columns).splitlines() if line}
    assume(len(widths) > 1 or not any("\t" in text and "\n" in text for text in texts))  # two readings: the next test
    with tempfile.TemporaryDirectory() as folder:
        assert read(written(Path(folder), "t.txt", excel(columns)))[0] == columns


def test_a_table_that_may_also_have_literal_quotes_is_not_guessed_silently(tmp_path: Path) -> None:
    """The cell holds a tab and a line end: each line has two fields, as in `" I like it⇥1`, `he said "⇥0`."""
    columns = {"text": ["x\t\ny"], "label": ["1"]}
    path = written(tmp_path, "t.tsv", excel(columns))
    found, notes = read(path)
    assert found["text"] == ['"x', 'y"']
    assert notes == (
        "t.tsv: double quotes are part of the texts (data.quoting: true takes them for marks around fields)",
    )
    assert read(path, quoting=True)[0] == columns


@pytest.mark.parametrize(
    "rows",
    [
        ['" The pie\t1', "plain\t0"],
        ['"A whole, long quotation"\t1', "bare, comma\t0"],
        ['"A whole, long quotation"\t1', 'he said "so"\t0'],
        ['"A whole quotation"\t1'],
        ['"Yes," he said, "no"\t1', "plain\t0"],
    ],
)
def test_literal_quotes_stay_and_are_told(tmp_path: Path, rows: list[str]) -> None:
    found, notes = read(written(tmp_path, "t.tsv", "\n".join(["text\tlabel", *rows]) + "\n"))
    assert found["text"] == [row.split("\t")[0] for row in rows]
    assert notes == (
        "t.tsv: double quotes are part of the texts (data.quoting: true takes them for marks around fields)",
    )


def test_without_quotes_nothing_is_told_of_them(tmp_path: Path) -> None:
    assert read(written(tmp_path, "t.tsv", "text\tlabel\na, b\t1\n"))[1] == ()


def test_a_field_with_a_lone_carriage_return_has_a_reason_for_its_quotes(tmp_path: Path) -> None:
    assert detect_dialect([written(tmp_path, "t.tsv", 'text\tlabel\n"a\rb"\t1\n')], ".tsv").quoting


def test_quotes_of_several_files_are_judged_together(tmp_path: Path) -> None:
    written(tmp_path, "a.tsv", 'text\tlabel\n"Well, well"\t1\n')
    written(tmp_path, "b.tsv", "text\tlabel\nbare, comma\t1\n")
    assert read(tmp_path)[0]["text"] == ['"Well, well"', "bare, comma"]
