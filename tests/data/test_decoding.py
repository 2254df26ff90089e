"""Compressed files and other encodings are read like plain ones; what cannot be read names a remedy that works."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from distilect.data import decoding, open_source
from distilect.errors import DataError

CONTENT = {
    ".csv": "text,label\nhé, you,1\n".replace("hé, you", '"hé, you"'),
    ".tsv": "text\tlabel\nhé, you\t1\n",
    ".txt": "text|label\nhé, you|1\n",
    ".jsonl": '{"text": "hé, you", "label": "1"}\n',
    ".json": '[\n {"text": "hé, you",\n  "label": "1"}\n]\n',
}


def zipped(content: bytes, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(path.stem, content)


COMPRESS: dict[str, Callable[[bytes, Path], object]] = {
    ".gz": lambda content, path: path.write_bytes(gzip.compress(content)),
    ".bz2": lambda content, path: path.write_bytes(bz2.compress(content)),
    ".xz": lambda content, path: path.write_bytes(lzma.compress(content)),
    ".zip": zipped,
}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


def values(path: Path) -> dict[str, list[str]]:
    source = open_source(str(path))
    return source.read(source.columns).table.to_pydict()


def fault(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        values(path)
    assert len(str(caught.value).splitlines()) <= 2
    return str(caught.value)


@pytest.mark.parametrize("suffix", CONTENT)
@pytest.mark.parametrize("encoding", [*ENCODINGS, "utf-16-be", "utf-32-be"])
def test_every_encoding_with_a_byte_order_mark_is_read(tmp_path: Path, suffix: str, encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith("-be") else ""
    (tmp_path / f"t{suffix}").write_bytes((mark + CONTENT[suffix]).encode(encoding))
    assert values(tmp_path / f"t{suffix}") == {"text": ["hé, you"], "label": ["1"]}


@pytest.mark.parametrize("suffix", CONTENT)
@pytest.mark.parametrize("compressed", COMPRESS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_compressed_files_are_read(tmp_path: Path, suffix: str, compressed: str, encoding: str) -> None:
    path = tmp_path / f"t{suffix}{compressed}"
    COMPRESS[compressed](CONTENT[suffix].encode(encoding), path)
    assert values(path) == {"text": ["hé, you"], "label": ["1"]}


def test_compression_is_told_by_content_and_a_zip_files_kind_by_its_member(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(gzip.compress(CONTENT[".csv"].encode()))
    assert values(tmp_path / "t.csv")["label"] == ["1"]
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("folder/", "")
        archive.writestr("folder/t.tsv", CONTENT[".tsv"])
        archive.writestr("__MACOSX/folder/._t.tsv", "x")
    assert values(tmp_path / "data.zip")["text"] == ["hé, you"]


def test_a_large_compressed_file_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f'{{"text": "row {i} {"x" * 200}", "label": 1}}' for i in range(50_000)]
    (tmp_path / "t.json.gz").write_bytes(gzip.compress(("[" + ",\n".join(rows) + "]").encode(), 1))
    read: list[int] = []
    plain = decoding.io.TextIOWrapper

    class Counted(plain):  # type: ignore[misc, valid-type]
        def read(self, size: int = -1) -> str:
            read.append(size)
            return super().read(size)

        def __next__(self) -> str:
            raise AssertionError("an array may be one long line")

    monkeypatch.setattr(decoding.io, "TextIOWrapper", Counted)
    assert len(open_source(str(tmp_path / "t.json.gz")).read(["label"])) == 50_000
    assert len(read) > 10 and 0 < max(read) <= 1 << 20 and min(read) > 0


@pytest.mark.parametrize("compressed", COMPRESS)
def test_a_damaged_archive_is_refused(tmp_path: Path, compressed: str) -> None:
    path = tmp_path / f"t.csv{compressed}"
    COMPRESS[compressed](CONTENT[".csv"].encode() * 1000, path)
    path.write_bytes(path.read_bytes()[:-25])
    assert "is damaged and cannot be decompressed" in fault(path)


def test_archives_that_cannot_be_read_say_what_to_do(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", "text\na\n")
        archive.writestr("b.csv", "text\nb\n")
    assert "holds 2 files (a.csv, b.csv), expected one" in fault(tmp_path / "two.zip")
    (tmp_path / "t.gz").write_bytes(gzip.compress(b"text\na\n"))
    assert "rename it, such as t.csv.gz" in fault(tmp_path / "t.gz")
    (tmp_path / "t.parquet.gz").write_bytes(gzip.compress(b"PAR1"))
    assert "Parquet files are compressed inside" in fault(tmp_path / "t.parquet.gz")
    (tmp_path / "t.csv").write_bytes(b"\x28\xb5\x2f\xfd0000")
    assert "unzstd t.csv" in fault(tmp_path / "t.csv")


@pytest.mark.skipif(shutil.which("iconv") is None, reason="needs iconv")
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_the_command_that_the_message_names_makes_a_readable_file(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "my file.csv"
    path.write_bytes("text,label\ncafé,1\n".encode(encoding))
    message = fault(path)
    assert "Save the file as UTF-8" in message
    subprocess.run(message.partition(": iconv")[2].join(["iconv", ""]), shell=True, check=True, cwd=tmp_path)
    assert values(tmp_path / "my file-utf8.csv") == {"text": ["café"], "label": ["1"]}


def test_a_compressed_file_in_another_encoding_is_to_be_unpacked_first(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress("text,label\ncafé,1\n".encode("latin-1")))
    message = fault(tmp_path / "t.csv.gz")
    assert "t.csv.gz, line 2: byte 0xe9" in message and "Unpack it" in message and "UTF-8 t.csv >" in message


def test_bytes_that_are_no_western_text_get_no_guess_at_their_encoding(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"text,label\n\x81\x8d\x9d,1\n")
    assert "iconv -f ENCODING" in fault(tmp_path / "t.csv")


def test_a_byte_order_mark_that_lies_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xff\xfea")
    assert "byte order mark of UTF-16" in fault(tmp_path / "t.csv")
