"""What a trimmed vocabulary saves, and what it costs: size, tokens that change, unknown tokens and score, at several sizes.

    python -m benchmarks.trim [--seeds 0 1 2] [--rows 4000]

The model is three of MiniLM's six layers, fine-tuned on docstrings of the standard library (`distilect.demo`). Its vocabulary is trimmed
after that, to each size; to two of them also before another training, from the same start.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import BACKBONE, table, write_result
from distilect.data import Encoded, Table, encode, load_table
from distilect.demo import build_docstrings
from distilect.errors import StudentError
from distilect.evaluation import bytes_on_disk
from distilect.models.tokenizers import load_tokenizer
from distilect.pipeline import evaluate, finetune, trim

SIZES: tuple[int | None, ...] = (2000, 4000, 8000, 16000, None)  # None: auto
BEFORE = (4000, 8000)
LENGTH = 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=4000, help="of train")
    parser.add_argument("--epochs", type=float, default=3.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = build_docstrings(folder / "data")
        files = {"train": str(data.train_path), "dev": str(data.dev_path)}
        lines: dict[str, dict[str, Any]] = {}
        for seed in given.seeds:
            for key, line in of_seed(folder / f"seed-{seed}", files, seed, given.rows, given.epochs).items():
                scores = [*lines.get(key, {}).get("scores", []), line.pop("score")]
                lines[key] = {**lines.get(key, line), "scores": scores, "score": round(statistics.mean(scores), 4)}
                print(key, lines[key], flush=True)
    settings = {"model": f"{BACKBONE}[layers=3]", "seeds": given.seeds, "rows": given.rows, "epochs": given.epochs}
    write_result("trim", {**settings, "models": lines})
    print(as_table(lines))


def of_seed(folder: Path, files: dict[str, str], seed: int, rows: int, epochs: float) -> dict[str, dict[str, Any]]:
    """One line for each model: the whole one, those that are trimmed after its training, those that are trimmed before theirs."""

    def made(name: str, **more: Any) -> Path:
        settings: dict[str, Any] = {"epochs": epochs, "learning_rate": 2e-4, "max_length": LENGTH, "seed": seed}
        start = f"{BACKBONE}[layers=3]"
        finetune(files["train"], init=start, output=folder / name, data={"max_train_rows": rows}, **settings, **more)
        return folder / name

    whole = made("whole")
    dev = load_table(files["dev"])[0]
    found = {"full": measured(whole / "student", whole / "student", files["dev"], dev)}
    for size in SIZES:
        name = f"after, {size or 'auto'}"
        done = trim(whole, output=folder / name, size=size)
        found[name] = {"needed": done["needed"], "changed_train": round(done["changed"], 5)}
        found[name] |= measured(folder / name, whole / "student", files["dev"], dev)
    for size in BEFORE:
        student = made(f"before-{size}", student__vocabulary=size) / "student"
        found[f"before, {size}"] = measured(student, whole / "student", files["dev"], dev)
    return found


def measured(folder: Path, whole: Path, file: str, dev: Table) -> dict[str, Any]:
    """Size and score of a model; of the dev rows' tokens, those that it cuts otherwise than the whole one, and the unknown ones."""
    tokenizers = [load_tokenizer(str(path), StudentError) for path in (whole, folder)]
    before, after = (encode(dev, tokenizer, LENGTH) for tokenizer in tokenizers)
    ids, kept = (tokenizer.get_vocab() for tokenizer in tokenizers)
    left_out = [index for token, index in ids.items() if token not in kept]
    return {
        "tokens": len(tokenizers[1]),
        "bytes": bytes_on_disk(folder),
        "changed_dev": round(float(np.isin(_inner(before), left_out).mean()), 5),
        "unknown_dev": round(after.unknown, 5),
        "length_dev": round(float(after.lengths.mean()), 2),
        "score": evaluate(folder, file, max_length=LENGTH)["scores"]["accuracy"],
    }


def _inner(encoded: Encoded) -> np.ndarray:
    """All tokens of the texts, without the first and last of each row, which the tokenizer adds."""
    ids = encoded.columns["input_ids"]
    frame = np.concatenate([encoded.offsets[:-1], encoded.offsets[1:] - 1])
    return np.asarray(np.delete(ids, frame))


def as_table(lines: dict[str, dict[str, Any]]) -> str:
    """The table of docs/trim.md."""
    header = ["trimmed", "tokens", "MB", "tokens of dev that are cut otherwise", "tokens per row", "accuracy on dev"]
    rows = [
        [
            name,
            f"{line['tokens']:,}",
            f"{line['bytes'] / 1e6:.1f}",
            f"{100 * line['changed_dev']:.1f} %",
            f"{line['length_dev']:.1f}",
            f"{line['score']:.3f}",
        ]
        for name, line in lines.items()
    ]
    return table(header, rows)


if __name__ == "__main__":
    main()
