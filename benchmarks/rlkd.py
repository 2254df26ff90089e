"""RL-KD against its rivals: specialists and few labels, a bad teacher, every static baseline, the paper's Table 1.

    python -m benchmarks.rlkd specialists --data demo
    python -m benchmarks.rlkd specialists --data sst-2 --data-dir PATH/TO/glue
    python -m benchmarks.rlkd bad-teacher --data mrpc --data-dir PATH/TO/glue
    python -m benchmarks.rlkd pool --data mrpc --data-dir PATH/TO/glue

One line per student in benchmarks/results/rlkd/EXPERIMENT-DATA.jsonl; a stopped command goes on where it was, and several may
run at once. `python -m benchmarks.rlkd_summary` writes docs/results/rlkd.md from these files. Nothing is chosen on dev.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import BertProcessing
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from benchmarks.common import RESULTS
from benchmarks.lab import Methods, Results, run_all
from benchmarks.tasks import BACKBONE, GLUE, draw, whole_task, whole_teacher
from distilect.config import parse_config
from distilect.data import load_data, row_keys
from distilect.demo import build_docstrings
from distilect.models import EncoderTeacher
from distilect.pipeline import run
from distilect.pipeline.work import Workbench
from distilect.selection import StepView, TeacherSelector
from distilect.selection.registry import TEACHERS
from distilect.signals import SignalStore, prepare_signals

VECTOR = {"encoder": BACKBONE, "pooling": "mean"}  # this backbone was trained to speak by its mean
Row = tuple[str, str]


class Oracle(TeacherSelector):
    """Picks teachers by what no method may see: row key → teacher. For these experiments only."""

    name = "oracle"
    chosen: ClassVar[dict[int, int]] = {}

    def decide(self, view: StepView) -> Tensor:
        assert view.teachers is not None
        picked = torch.tensor([self.chosen[int(key)] for key in view.keys])
        return torch.nn.functional.one_hot(picked, view.teachers.shape[1]).float()


TEACHERS["oracle"] = Oracle


# ---- tables --------------------------------------------------------------------------------------------------------


def write_csv(path: Path, rows: list[tuple[str, str]], labelled: bool = True) -> Path:
    """Columns text and label, or text alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label") if labelled else ("text",))
        writer.writerows(rows if labelled else [(text,) for text, _ in rows])
    return path


def read_rows(
    data: str, data_dir: str, folder: Path, limit: int | None
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(text, label) of train and dev of a single-text task, without repeated texts in train."""
    if data == "demo":
        built = build_docstrings(folder / "docstrings")
        source: dict[str, Any] = {"train": str(built.train_path), "dev": str(built.dev_path)}
    else:
        source = {"glue": GLUE[data]}
    config = parse_config(
        {"data": {**source, "validation_size": 0, "max_train_rows": limit}, "data_dir": data_dir, "student": "x"}
    )
    loaded = load_data(config.data, config.task, 0, Path(data_dir))
    assert loaded.dev is not None
    names = loaded.task.labels
    tables = []
    for table in (loaded.train, loaded.dev):
        texts = table.text(np.arange(len(table)))
        tables.append([(t[0], names[int(y)]) for t, y in zip(texts, table.labels, strict=True)])
    return list(dict(tables[0]).items()), tables[1]


# ---- specialists and few labels ------------------------------------------------------------------------------------

SPECIALISTS: Methods = {
    "finetune": {"name": "finetune", "epochs": 40, "batch_size": 32},  # of the few labelled rows
    "uniform": {"name": "uniform"},
    "random-single": {"name": "random-single", "teachers": {"name": "random-single", "per": "row"}},
    "entropy": {"name": "entropy"},
    "entropy-hard": {"name": "entropy", "teachers": {"name": "entropy", "temperature": 0}},
    "gate": {"name": "gate", "teachers": {"name": "gate", **VECTOR}},
    "rlkd": {"name": "rlkd", "teachers": {**VECTOR}},
    "rlkd-joint": {"name": "rlkd", "teachers": {**VECTOR, "state": "joint"}},
    "rlkd-published": {"name": "rlkd-published", "teachers": {**VECTOR}},
    "oracle": {"name": "uniform", "teachers": "oracle"},
}


def specialists(data: str, data_dir: str, work: Path, seeds: list[int], methods: Methods, tag: str = "") -> None:
    """Three teachers that each know a third; the student sees 5 % of the labels and all of the text."""
    train, dev = read_rows(data, data_dir, work, limit=None if data == "demo" else 3000)
    if data == "demo":
        train, dev = largest_classes(train, dev, 6)
    thirds = by_class(train) if data == "demo" else by_cluster(train, work)
    labels = sorted({label for _, label in train})
    for third in range(3):
        write_csv(work / f"third-{third}.csv", [row for row, t in zip(train, thirds, strict=True) if t == third])
    write_csv(work / "dev.csv", dev)
    teachers = [specialist(work, third, labels) for third in range(3)]
    results = Results(RESULTS / "rlkd" / f"specialists-{data}{tag}.jsonl")
    for seed in seeds:
        config = parse_config(few_labels(data, train, labels, teachers, work, seed))
        run_all(config, methods, results, work, seed, lambda bench: know(bench, train, thirds))


def few_labels(
    data: str, train: list[Row], labels: list[str], teachers: list[Path], work: Path, seed: int
) -> dict[str, Any]:
    """The work of one seed: 5 % of the rows keep their labels."""
    order = sorted(train, key=lambda row: draw(row[0], f"labelled {seed}"))
    known = round(0.05 * len(train))
    write_csv(work / f"known-{seed}.csv", order[:known])
    write_csv(work / f"unknown-{seed}.csv", order[known:], labelled=False)
    return {
        "data": {
            "train": str(work / f"known-{seed}.csv"),
            "extra": str(work / f"unknown-{seed}.csv"),
            "dev": str(work / "dev.csv"),
        },
        "task": {"labels": labels},
        "teachers": [{"name": f"third-{i}", "path": str(path)} for i, path in enumerate(teachers)],
        "student": f"{BACKBONE}[layers=2,5]",
        "train": {
            "epochs": 3,
            "batch_size": 32,
            "learning_rate": 3e-4,
            "max_length": 40,
            "load_best_model_at_end": False,
            "logging_steps": 50,
        },
        "output": str(work),
        "seed": seed,
    }


def largest_classes(train: list[Row], dev: list[Row], count: int) -> tuple[list[Row], list[Row]]:
    """The rows of the classes with most rows."""
    kept = {label for label, _ in Counter(label for _, label in train).most_common(count)}
    return [row for row in train if row[1] in kept], [row for row in dev if row[1] in kept]


def by_class(train: list[tuple[str, str]]) -> list[int]:
    """Each row's third: classes in alphabetical order, dealt out in turn."""
    labels = sorted({label for _, label in train})
    return [labels.index(label) % 3 for _, label in train]


def by_cluster(train: list[tuple[str, str]], work: Path) -> list[int]:
    """Each row's cluster of three: k-means of the backbone's vectors."""
    from sklearn.cluster import KMeans

    vectors = backbone_vectors(work / "all.csv", train, work)
    return [int(c) for c in KMeans(3, n_init=10, random_state=0).fit_predict(vectors)]


def backbone_vectors(path: Path, rows: list[tuple[str, str]], work: Path) -> np.ndarray:
    """float32 [N, 384] of unit length."""
    config = parse_config({"data": {"train": str(write_csv(path, rows)), "validation_size": 0}, "student": "x"})
    table = load_data(config.data, config.task, 0, Path(".")).train
    encoder = EncoderTeacher(BACKBONE, pooling="mean", max_length=96)
    source = prepare_signals([encoder], table, SignalStore(work / "signals"), [[]]).source
    assert source is not None
    found = source.fetch(table, np.arange(len(table)), [[]]).logits[:, 0].numpy()
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def specialist(work: Path, third: int, labels: list[str]) -> Path:
    """A teacher that was fine-tuned on one third only, with outputs for all labels."""
    return finetuned(work, f"specialist-{third}", work / f"third-{third}.csv", labels, seed=third + 1)


def finetuned(work: Path, name: str, train: Path, labels: list[str], seed: int, init: str = BACKBONE) -> Path:
    folder = work / "teachers" / name
    if not (folder / "metrics.json").exists():
        config = parse_config(
            {
                "name": name,
                "output": str(work / "teachers"),
                "data": {"train": str(train)},
                "task": {"labels": labels},
                "student": init,
                "method": "finetune",
                "seed": seed,
                "train": {"epochs": 3, "learning_rate": 1e-4, "max_length": 96},
            }
        )
        run(config)
    return folder / "student"


def know(bench: Workbench, train: list[tuple[str, str]], thirds: list[int]) -> None:
    """Tell the oracle which teacher knows which text."""
    third_of = {text: third for (text, _), third in zip(train, thirds, strict=True)}
    table = bench.data.distillation
    keys, texts = row_keys(table.ids), table.text(np.arange(len(table)))
    Oracle.chosen = {int(key): third_of[text[0]] for key, text in zip(keys, texts, strict=True)}


# ---- pools of teachers on whole tasks --------------------------------------------------------------------------------

STATIC: Methods = {
    "finetune": {"name": "finetune"},
    "uniform": {"name": "uniform"},
    "random-single": {"name": "random-single"},
    "weighted": {"name": "weighted"},
    "logistic": {"name": "logistic"},
    "best-single": {"name": "best-single"},
    "confidence": {"name": "confidence"},
    "entropy": {"name": "entropy"},
}
LEARNED: Methods = {
    "gate": {"name": "gate", "teachers": {"name": "gate", **VECTOR}},
    "rlkd": {"name": "rlkd", "teachers": {**VECTOR}},
    "rlkd-published": {"name": "rlkd-published", "teachers": {**VECTOR}},
}
REMEDIES: Methods = {
    "rlkd-joint": {"name": "rlkd", "teachers": {**VECTOR, "state": "joint"}},
    "rlkd-reward-2": {"name": "rlkd", "teachers": {**VECTOR, "reward": 2}},
    "rlkd-no-baseline": {"name": "rlkd-published", "teachers": {**VECTOR, "baseline": "none"}},
    # rlkd-published-row and rlkd-published-virtual: their options are gone, their lines remain
}


def pool(data: str, data_dir: str, work: Path, seeds: list[int], methods: Methods) -> None:
    """Four teachers that differ in depth, seed, tokenizer and quality, on a whole task with all its labels."""
    task = whole_task(data, data_dir, work)
    config = task.config
    made_of = {
        "six": (BACKBONE, 1, 1e-4, 3),
        "six-again": (BACKBONE, 2, 5e-5, 3),
        "three": (f"{BACKBONE}[layers=0,1,2]", 3, 1e-4, 3),
        "scratch": (str(scratch_model(work, task.texts)), 4, 5e-4, 5),
    }
    config["teachers"] = [
        {"name": name, "path": str(whole_teacher(work, name, config, init, seed, rate, epochs))}
        for name, (init, seed, rate, epochs) in made_of.items()
    ]
    singles: Methods = {
        f"kd:{name}": {"name": "kd", "teachers": {"name": "single", "teacher": name}} for name in made_of
    }
    results = Results(RESULTS / "rlkd" / f"pool-{data}.jsonl")
    for seed in seeds:
        run_all(
            parse_config({**config, "seed": seed}), methods or {**STATIC, **LEARNED, **singles}, results, work, seed
        )


def bad_teacher(data: str, data_dir: str, work: Path, seeds: list[int], methods: Methods) -> None:
    """Two good teachers, and one that was trained on flipped labels (each class named as the next one)."""
    task = whole_task(data, data_dir, work)
    config = task.config
    good = [
        {"name": "six", "path": str(whole_teacher(work, "six", config, BACKBONE, 1, 1e-4, 3))},
        {"name": "four", "path": str(whole_teacher(work, "four", config, f"{BACKBONE}[layers=4]", 3, 1e-4, 3))},
    ]
    flipped = {**config, "data": {**config["data"], **task.flipped}}
    bad = {"name": "bad", "path": str(whole_teacher(work, "bad", flipped, BACKBONE, 1, 1e-4, 3))}
    results = Results(RESULTS / "rlkd" / f"bad-teacher-{data}.jsonl")
    for seed in seeds:
        for name, teachers in (("good", good), ("with-bad", [*good, bad])):
            single = parse_config({**config, "teachers": teachers, "seed": seed})
            wanted = ("rlkd",) if name == "good" else ("uniform", "rlkd", "rlkd-published")
            chosen = methods or {k: {**STATIC, **LEARNED}[k] for k in wanted}
            run_all(single, chosen, results, work, seed, pool=name)


def scratch_model(work: Path, texts: list[str]) -> Path:
    """A small BERT with random weights and a byte-pair tokenizer learned from the task's own texts."""
    folder = work / "scratch-init"
    if not (folder / "model.safetensors").exists():
        trained = ByteLevelBPETokenizer()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trained.train_from_iterator(iter(texts), vocab_size=4000, min_frequency=2, special_tokens=[*special])
        trained.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        backend = trained._tokenizer
        names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
        shape = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=768,
        )
        torch.manual_seed(0)
        BertForSequenceClassification(shape).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


# ---- running -------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=["specialists", "bad-teacher", "pool"])
    parser.add_argument("--data", default="demo")
    parser.add_argument("--data-dir", default=".")
    parser.add_argument("--work", type=Path, default=Path("runs/rlkd"))
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--methods", nargs="+")
    given = parser.parse_args()
    known = {**STATIC, **LEARNED, **REMEDIES}
    if given.experiment == "specialists":
        known = SPECIALISTS
    chosen = {name: known[name] for name in given.methods or []}
    work = given.work / f"{given.experiment}-{given.data}"
    if given.experiment == "specialists":
        specialists(given.data, given.data_dir, work, given.seeds or [0, 1, 2, 3, 4], chosen or SPECIALISTS)
    elif given.experiment == "bad-teacher":
        bad_teacher(given.data, given.data_dir, work, given.seeds or [0, 1, 2, 3, 4], chosen)
    else:
        pool(given.data, given.data_dir, work, given.seeds or [0, 1, 2], chosen)


if __name__ == "__main__":
    main()
