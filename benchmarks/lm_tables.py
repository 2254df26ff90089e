"""Writes the tables of configs/lm and configs/compare/lm-*.yaml: prompts and completions of two domains.

    python -m benchmarks.lm_tables build/lm PATH/TO/gsm8k

math: questions of GSM8K (MIT licence) and their worked answers, train.jsonl and test.jsonl of its repository. code: functions and classes of this
Python's standard library (PSF licence) without their docstring, and its first paragraph. Which split a piece of code is in depends on its text
alone. mixed: as many rows of both, shuffled; a row does not say where it is from.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from distilect.demo.docstrings import _draw, _source_files

LONGEST = 600  # characters of code that are shown
DEV = 0.15  # share of the code
Rows = list[dict[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("gsm8k", type=Path)
    args = parser.parse_args()
    code = sorted(
        {row["prompt"]: row for row in code_rows()}.values(), key=lambda row: _draw(row["prompt"], 0, "order")
    )
    tables = {
        "math-train": math_rows(args.gsm8k / "train.jsonl"),
        "math-dev": math_rows(args.gsm8k / "test.jsonl"),
        "code-train": [row for row in code if _draw(row["prompt"], 0, "split") >= DEV],
        "code-dev": [row for row in code if _draw(row["prompt"], 0, "split") < DEV],
    }
    for role in ("train", "dev"):
        pair = [tables[f"{domain}-{role}"] for domain in ("math", "code")]
        mixed = [row for rows in pair for row in rows[: min(map(len, pair))]]
        random.Random(0).shuffle(mixed)
        tables[f"mixed-{role}"] = mixed
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (args.folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{name}: {len(rows):,} rows")


def math_rows(path: Path) -> Rows:
    """Questions and answers; the calculator's marks, <<48/2=24>>, are left out."""
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        {"prompt": f"Question: {row['question']}\nAnswer:", "completion": " " + re.sub(r"<<.*?>>", "", row["answer"])}
        for row in found
    ]


def code_rows() -> Iterator[dict[str, str]]:
    for path, _ in _source_files(Path(sysconfig.get_path("stdlib"))):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in old files
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                paragraph = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                if 4 <= len(paragraph.split()) <= 60 and ">>>" not in paragraph:
                    node.body = node.body[1:] or [ast.Pass()]
                    yield {"prompt": f"Code:\n{ast.unparse(node)[:LONGEST]}\nSummary:", "completion": f" {paragraph}"}


if __name__ == "__main__":
    main()
