"""Asking a teacher behind an API about a fifth of the rows, chosen by the student's uncertainty or at random, against asking about all.

    python -m benchmarks.ask_few --folder runs/ask-few

A fine-tuned checkpoint stands in for the language model: it answers on loopback as a server with log-probabilities would. It has learned
from other rows than those that it is asked about. No label of these is used; all students take the same number of steps. What is finished is
not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import statistics
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.common import BACKBONE, write_result
from distilect.config import parse_config
from distilect.demo.docstrings import build_docstrings
from distilect.pipeline import finetune, run

ROWS, VALIDATION = 2000, 300  # that the student has; the teacher learns from the rest of train
SHARE, EPOCHS = 0.2, 6
PROMPT = "Which chapter is this from? {labels}\n\nText: {text}\nChapter:"
FEW = {"name": "uncertainty-rounds", "ratio": SHARE}
ARMS: dict[str, dict[str, Any]] = {
    "all rows": {"epochs": EPOCHS},
    "a fifth by uncertainty": {"rows": FEW, "epochs": EPOCHS / SHARE},
    "a random fifth": {"rows": {**FEW, "score": "random", "rounds": 1}, "epochs": EPOCHS / SHARE},
}


def main() -> None:
    """Train all students and write the result file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    folder = given.folder.resolve()
    split_docstrings(folder)
    if not (folder / "teacher" / "student").exists():
        settings: dict[str, Any] = {"epochs": 4, "learning_rate": 1e-4, "max_length": 64}
        finetune(folder / "teacher.csv", init=BACKBONE, output=folder / "teacher", **settings)
    answers = answers_of(folder / "teacher" / "student", folder)
    lines = []
    with serving(answers) as url:
        for seed in range(given.seeds):
            for arm in ARMS:
                lines.append({"arm": arm, "seed": seed, **student(folder, url, arm, seed)})
                print(lines[-1], flush=True)
    write_result("ask_few", {"teacher": teacher_scores(answers, folder), "summary": summary(lines), "students": lines})


def split_docstrings(folder: Path) -> None:
    """Write `student.csv`, `validation.csv`, `teacher.csv` and `dev.csv`."""
    data = build_docstrings(folder)
    header, *rows = csv.reader(data.train_path.open(encoding="utf-8", newline=""))
    parts = {"student": rows[:ROWS], "validation": rows[ROWS:][:VALIDATION], "teacher": rows[ROWS + VALIDATION :]}
    for name, part in parts.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *part])


def read(file: Path) -> list[tuple[str, str]]:
    """(text, label) of each row."""
    return [(text, label) for text, label in csv.reader(file.open(encoding="utf-8", newline=""))][1:]


@torch.inference_mode()
def answers_of(checkpoint: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Text → label → log-probability, of all rows that can be asked about."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    texts = [text for name in ("student", "validation", "dev") for text, _ in read(folder / f"{name}.csv")]
    found = {}
    for start in range(0, len(texts), 64):
        part = texts[start : start + 64]
        inputs = tokenizer(part, padding=True, truncation=True, max_length=64, return_tensors="pt")
        for text, row in zip(part, model(**inputs).logits.log_softmax(-1).tolist(), strict=True):
            found[plain(text)] = {model.config.id2label[c]: value for c, value in enumerate(row)}
    return found


def plain(text: str) -> str:
    """Without line breaks, as the server finds it in a prompt."""
    return " ".join(text.split())


def student(folder: Path, url: str, arm: str, seed: int) -> dict[str, Any]:
    """Distil one student, unless it is there; accuracy and macro-F1 on dev, and how many rows of train were asked about."""
    own = dict(ARMS[arm])
    epochs = own.pop("epochs")
    name = f"{arm.replace(' ', '-')}-{seed}"
    (folder / "ask.txt").write_text(PROMPT, encoding="utf-8")
    config = {
        "name": name,
        "output": str(folder / "students" / name),  # a store of its own: every arm pays for its answers
        "data": {key: str(folder / f"{file}.csv") for key, file in FILES.items()},
        "teachers": [
            {"name": "llm", "endpoint": url, "model": "checkpoint", "prompt": str(folder / "ask.txt"), "concurrency": 4}
        ],
        "student": f"{BACKBONE}[layers=1,3,5]",
        "method": {"name": "kd", "alpha": 1.0, **own},  # labels weigh nothing
        "signals": {"live": True},
        "train": {"epochs": epochs, "batch_size": 32, "learning_rate": 3e-4, "max_length": 64, "logging_steps": 50},
        "seed": seed,
    }
    finished = folder / "students" / name / name / "metrics.json"
    metrics = json.loads(finished.read_text()) if finished.exists() else run(parse_config(config))[0].metrics
    asked = metrics["teachers"][0]["answers"]["rows"] - VALIDATION - len(read(folder / "dev.csv"))
    return {"scores": metrics["student"]["scores"], "rows_asked": asked, "steps": metrics["cost"]["steps"]}


FILES = {"train": "student", "validation": "validation", "dev": "dev"}


def teacher_scores(answers: Mapping[str, Mapping[str, float]], folder: Path) -> dict[str, float]:
    """Of the checkpoint behind the endpoint, on dev."""
    rows = read(folder / "dev.csv")
    said = [max(answers[plain(text)].items(), key=lambda item: item[1])[0] for text, _ in rows]
    true = [label for _, label in rows]
    return {
        "accuracy": statistics.mean(one == two for one, two in zip(said, true, strict=True)),
        "macro_f1": float(f1_score(true, said, average="macro")),
    }


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Per arm: mean macro-F1 over seeds, and the difference to asking about all rows, paired by seed."""
    found = {}
    whole = {line["seed"]: line["scores"]["macro_f1"] for line in lines if line["arm"] == "all rows"}
    for arm in ARMS:
        own = [line for line in lines if line["arm"] == arm]
        scores = [100 * line["scores"]["macro_f1"] for line in own]
        gaps = [100 * (line["scores"]["macro_f1"] - whole[line["seed"]]) for line in own]
        found[arm] = {
            "macro_f1": round(statistics.mean(scores), 2),
            "deviation": round(statistics.stdev(scores), 2) if len(scores) > 1 else None,
            "minus_all_rows": round(statistics.mean(gaps), 2),
            "gaps": [round(gap, 2) for gap in gaps],
            "rows_asked": statistics.mean(line["rows_asked"] for line in own),
        }
    return found


@contextmanager
def serving(answers: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """A chat endpoint whose likeliest tokens are the labels; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, reply = (200, answer(asked, answers)) if self.path.endswith("/chat/completions") else (404, {})
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def answer(asked: Mapping[str, Any], answers: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """What the API returns for a prompt."""
    found = re.search(r"Text: (.*)\nChapter:$", asked["messages"][0]["content"], re.DOTALL)
    assert found is not None
    probabilities = answers[plain(found[1])]
    best = max(probabilities, key=lambda label: probabilities[label])
    likeliest = [{"token": label, "logprob": max(value, math.log(1e-9))} for label, value in probabilities.items()]
    token = {"token": best, "logprob": probabilities[best], "top_logprobs": likeliest}
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": best},
        "logprobs": {"content": [token]},
    }
    usage = {"prompt_tokens": 40, "completion_tokens": 3, "total_tokens": 43}
    return {"id": "1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}


if __name__ == "__main__":
    main()
