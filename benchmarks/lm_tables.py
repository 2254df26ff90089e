"""Writes the tables of configs/lm and configs/compare/lm-*.yaml, prompts and completions of two domains, and a small model to try them with.

    python -m benchmarks.lm_tables build/lm PATH/TO/gsm8k

math: questions of GSM8K (MIT licence) and their worked answers, train.jsonl and test.jsonl of its repository. code: functions and classes of this
Python's standard library (PSF licence) without their docstring, and its first paragraph. Which split a piece of code is in depends on its text
alone. mixed: as many rows of both, shuffled; a row does not say where it is from. small: a Llama of four layers and 2,048 tokens that has
learned nothing.
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

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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
    write_small(args.folder / "small", tables["mixed-train"])


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


def write_small(folder: Path, rows: Rows) -> None:
    """A byte-level tokenizer of these rows, and random weights."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048, special_tokens=["<pad>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator((row["prompt"] + row["completion"] for row in rows), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", model_max_length=512
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)


if __name__ == "__main__":
    main()
