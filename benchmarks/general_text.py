"""Texts for `distilect pretrain`: those of CoLA, MRPC, STS-B, RTE and WNUT-17, and 15,000 of SST-2, each once, without labels.

python -m benchmarks.general_text --data-dir PATH/TO/DATA --output texts.csv     # PATH/TO/DATA has the folders glue and wnut17
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Iterator
from pathlib import Path

PHRASES = 15_000  # of SST-2: most of its rows are parts of a sentence
WORDS = 8  # that a phrase of SST-2 has at least


def main() -> None:
    """Write the texts into one CSV file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    texts = general_texts(given.data_dir)
    with given.output.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text",), *((text,) for text in texts)])
    print(f"{given.output}: {len(texts):,} texts, {sum(len(text.split()) for text in texts):,} words")


def general_texts(folder: Path) -> list[str]:
    """In an order of their own, always the same."""
    glue = folder / "glue"
    tasks = [*_column(glue / "CoLA", -1, header=False), *_pairs(glue), *_sentences(folder / "wnut17" / "train.conll")]
    phrases = [text for text in _column(glue / "SST-2", 0) if len(text.split()) >= WORDS]
    random.Random(0).shuffle(phrases)
    texts = list(dict.fromkeys(text.strip() for text in [*tasks, *phrases[:PHRASES]] if len(text.strip()) > 3))
    random.Random(1).shuffle(texts)
    return texts


def _column(folder: Path, place: int, header: bool = True) -> list[str]:
    return [row[place] for row in _rows(folder)[int(header) :]]


def _pairs(glue: Path) -> Iterator[str]:
    for row in _rows(glue / "MRPC")[1:]:
        yield from row[-2:]
    for task in ("STS-B", "RTE"):
        names, *rows = _rows(glue / task)
        first, second = names.index("sentence1"), names.index("sentence2")
        for row in rows:
            if len(row) > second:
                yield from (row[first], row[second])


def _rows(folder: Path) -> list[list[str]]:
    lines = (folder / "train.tsv").read_text(encoding="utf-8").split("\n")
    return [line.split("\t") for line in lines if line]


def _sentences(file: Path) -> Iterator[str]:
    """Words between spaces; a line without a word ends a sentence."""
    words: list[str] = []
    for line in [*file.read_text(encoding="utf-8").split("\n"), ""]:
        if line.strip():
            words.append(line.split("\t")[0])
        elif words:
            yield " ".join(words)
            words = []


if __name__ == "__main__":
    main()
