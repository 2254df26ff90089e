"""The model card that ships with a student: README.md with the Hub's metadata."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from distilect.config import RunConfig
from distilect.errors import RunError
from distilect.report import words
from distilect.report.files import mapping, number, part, records
from distilect.report.models import ModelRow, best_teacher, method_name, model_rows, primary_metric, share_kept

# Our metric names -> the Hub's metric types; the others go by their own name.
_HUB_METRICS = {"macro_f1": "f1", "matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}

_HINTON = "Hinton, Vinyals, Dean: *Distilling the Knowledge in a Neural Network*, 2015, [arXiv 1503.02531](https://arxiv.org/abs/1503.02531)"
_RLKD = (
    "Yuan et al.: *Reinforced Multi-Teacher Selection for Knowledge Distillation*, AAAI 2021,"
    " [arXiv 2012.06048](https://arxiv.org/abs/2012.06048)"
)
_AKSKD = (
    "Wang et al.: *Improved Knowledge Distillation for Pre-trained Language Models via Knowledge Selection*,"
    " Findings of EMNLP 2022, [arXiv 2302.00444](https://arxiv.org/abs/2302.00444)"
)
_DYNAMIC = (
    "Li et al.: *Dynamic Knowledge Distillation for Pre-trained Language Models*, EMNLP 2021,"
    " [arXiv 2109.11295](https://arxiv.org/abs/2109.11295)"
)
_PKD = (
    "Sun et al.: *Patient Knowledge Distillation for BERT Model Compression*, EMNLP 2019,"
    " [arXiv 1908.09355](https://arxiv.org/abs/1908.09355)"
)
_CONFIDENCE = (
    "Zhang, Chen, Wang: *Confidence-Aware Multi-Teacher Knowledge Distillation*, ICASSP 2022,"
    " [arXiv 2201.00007](https://arxiv.org/abs/2201.00007)"
)
# First part of a method's or selector's name -> what to cite.
_PAPERS = {
    "rlkd": _RLKD,
    "reinforced": _RLKD,
    "akskd": _AKSKD,
    "actor": _AKSKD,
    "dynamic": _DYNAMIC,
    "uncertainty": _DYNAMIC,
    "pkd": _PKD,
    "confidence": _CONFIDENCE,
}


def write_model_card(
    student_folder: str | Path,
    metrics: Mapping[str, Any],
    config: RunConfig | Mapping[str, Any] | None = None,
    *,
    license: str | None = None,
    base_model: str | None = None,
    language: str | None = None,
    export: Mapping[str, Any] | None = None,
) -> Path:
    """Write `README.md` into the student's folder and return its path; nothing is sent or fetched.

    Args:
        metrics: the run's `metrics.json`; what it lacks is left out
        config: the run's configuration; adds the selectors that differ from the preset's
        license, base_model, language: as the Hub names them; left out unless given: only the user knows them
        export: what `export.json` holds; adds the ONNX files with how they were checked
    Raises:
        RunError: there is no such folder.
    """
    folder = Path(student_folder)
    if not folder.is_dir():
        raise RunError(f"no student in {folder}: expected the folder of a saved checkpoint")
    settings = config.model_dump(mode="json") if isinstance(config, RunConfig) else dict(config or {})
    data = card_data(metrics, license=license, base_model=base_model, language=language)
    target = folder / "README.md"
    temporary = target.with_name(f".README.md.{os.getpid()}.tmp")
    page = f"---\n{data.to_yaml()}\n---\n\n{_body(metrics, settings, export or {})}"
    temporary.write_bytes(page.encode("utf-8", "replace"))
    os.replace(temporary, target)
    return target


def card_data(
    metrics: Mapping[str, Any],
    *,
    license: str | None = None,
    base_model: str | None = None,
    language: str | None = None,
) -> ModelCardData:
    """The Hub's metadata of the student, with its scores on dev as a model index."""
    results = _results(metrics)
    return ModelCardData(
        license=license,
        base_model=base_model,
        language=language,
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["distilect", "knowledge-distillation"],
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=_name(metrics) if results else None,
        eval_results=results or None,
    )


def _results(metrics: Mapping[str, Any]) -> list[EvalResult]:
    task = str(part(metrics, "task", "name") or "task")
    scores = {str(name): number(value) for name, value in mapping(part(metrics, "student", "scores")).items()}
    return [
        EvalResult(
            task_type="text-classification",
            dataset_name=task,
            dataset_type=re.sub(r"[^\w.-]+", "-", task).strip("-").lower() or "task",
            dataset_split="validation",
            metric_type=_HUB_METRICS.get(name, name),
            metric_name=name.replace("_", " "),
            metric_value=round(value, 6),
        )
        for name, value in scores.items()
        if value is not None
    ]


def _body(metrics: Mapping[str, Any], config: Mapping[str, Any], export: Mapping[str, Any]) -> str:
    files = records(export.get("files"))
    sections = [
        f"# {_plain(_name(metrics))}",
        _introduction(metrics),
        f"## How to load it\n\n{_use(metrics)}",
        *([f"## ONNX\n\n{_onnx(files)}"] if files else []),
        f"## Intended use\n\n{_intended(metrics)}",
        f"## Scores and cost\n\n{_table(metrics)}",
        f"## Method\n\n{_method(metrics, config)}",
        f"## Limits\n\n{_limits(metrics)}",
    ]
    return "\n\n".join(sections) + "\n"


def _introduction(metrics: Mapping[str, Any]) -> str:
    rows = model_rows(metrics)
    student, best = next((row for row in rows if row.role == "student"), None), best_teacher(rows)
    kept = share_kept(student, best) if student else None
    text = f"A small model for {_task(metrics)}, distilled with [distilect](https://pypi.org/project/distilect/)."
    if student is None or best is None or kept is None:
        return text
    gains = [
        words.comparison(student.smaller, "smaller", "larger"),
        words.comparison(student.faster, "faster", "slower"),
    ]
    share = f"{int(1000 * kept + 1e-9) / 10:.1f} % of its best teacher's {_plain(primary_metric(metrics))}"
    return f"{text} It keeps {', '.join([share, *(gain for gain in gains if gain)])}."


def _use(metrics: Mapping[str, Any]) -> str:
    call = (
        '{"text": "First text.", "text_pair": "Second text."}'
        if part(metrics, "task", "num_texts") == 2
        else '"A text."'
    )
    score = ', function_to_apply="none"' if part(metrics, "task", "kind") == "regression" else ""
    lines = [
        "from transformers import pipeline",
        'model = pipeline("text-classification", model="path/to/this/folder")',
        f"print(model({call}{score}))",
    ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _onnx(files: Sequence[Mapping[str, Any]]) -> str:
    """The files with what was checked, and how to run the first one."""
    listed = "\n".join(
        f"- `{_code(str(file.get('file')).removeprefix('student/'))}`: {_plain(str(file.get('text')))}"
        for file in files
    )
    path = _code(str(files[0].get("file")).removeprefix("student/"))
    lines = [
        "import onnxruntime",
        "from transformers import AutoTokenizer",
        f'session = onnxruntime.InferenceSession("path/to/this/folder/{path}")',
        'inputs = AutoTokenizer.from_pretrained("path/to/this/folder")(["A text."], return_tensors="np")',
        "logits = session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})[0]",
    ]
    return listed + "\n\n```python\n" + "\n".join(lines) + "\n```"


def _intended(metrics: Mapping[str, Any]) -> str:
    data = mapping(metrics.get("rows"))
    rows = number(data.get("train"))
    trained = f" (it was trained on {words.whole(rows)} of them)" if rows else ""
    return (
        f"For {_task(metrics)}, on texts like those of its training data{trained}, in the place of larger models where time, memory"
        " or cost matter. Before use on other texts, languages or labels, measure it on some rows of yours:"
        " `distilect evaluate path/to/this/folder rows.csv`. It should not decide about people by itself."
    )


def _table(metrics: Mapping[str, Any]) -> str:
    rows = model_rows(metrics)
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    titles = ["model", *names, "parameters", "MB", "ms per row", "rows/s"]
    lines = [_line(titles), _line(["---", *["---:"] * (len(titles) - 1)])]
    lines += [_line(_cells(row, names)) for row in rows]
    dev = number(part(metrics, "rows", "dev"))
    on = f"Scores on {words.whole(dev)} dev rows" if dev else "Scores on the dev rows"
    tail = "times of the forward pass at batch 1 and 32, measured together: only their ratios mean much."
    return "\n".join(lines) + f"\n\n{on}; {tail}"


def _cells(row: ModelRow, names: Sequence[str]) -> list[str]:
    name = f"{row.name} ({row.role})"
    scores = [words.score(row.scores.get(metric)) for metric in names]
    size = [words.count(row.parameters), words.megabytes(row.bytes)]
    return [name, *scores, *size, words.milliseconds(row.latency_ms), words.rate(row.rows_per_second)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(cell) for cell in cells) + " |"


def _method(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    name = method_name(metrics) or "unknown"
    teachers = [_plain(str(raw.get("name"))) for raw in records(metrics.get("teachers"))]
    facts = [f"Method: `{_code(name)}`"]
    if teachers:
        facts.append(f"Teachers: {', '.join(teachers)}")
    source = mapping(part(metrics, "student", "source"))
    if source.get("layers") is not None:
        facts.append(f"Layers taken from its source: {_plain(str(source['layers']))}")
    counts = mapping(metrics.get("rows"))
    for key, title in (
        ("train", "Labelled rows trained on"),
        ("extra", "Unlabelled rows that only the teachers spoke on"),
    ):
        if number(counts.get(key)):
            facts.append(f"{title}: {words.whole(number(counts.get(key)))}")
    if metrics.get("seed") is not None:
        facts.append(f"Seed: {_plain(str(metrics['seed']))}")
    versions = mapping(metrics.get("versions"))
    if versions:
        facts.append("Made with " + ", ".join(f"{_plain(str(k))} {_plain(str(v))}" for k, v in versions.items()))
    listed = "\n".join(f"- {fact}" for fact in facts)
    papers = citations(name, mapping(config.get("method")), bool(teachers))
    return listed + ("\n\nPlease cite:\n\n" + "\n".join(f"- {paper}" for paper in papers) if papers else "")


def citations(method: str, settings: Mapping[str, Any], teachers: bool) -> list[str]:
    """Papers behind a method: of the preset, then of selectors in `settings` (config.method)."""
    names = [method, *(_selector(settings.get(key)) for key in ("rows", "teachers", "loss_weights"))]
    found = [_PAPERS[first] for name in names if (first := re.split(r"[-_]", name)[0]) in _PAPERS]
    general = [_HINTON] if teachers and method != "finetune" else []
    return list(dict.fromkeys([*found, *general]))


def _selector(value: Any) -> str:
    return str(value.get("name", "")) if isinstance(value, dict) else str(value or "")


def _limits(metrics: Mapping[str, Any]) -> str:
    lines = [
        "The student was taught to repeat its teachers on texts like those it was trained on: it shares their"
        " mistakes and biases, and other kinds of text were not tested.",
        "The scores are of one run with one seed; a difference of a few rows is chance.",
    ]
    if part(metrics, "task", "kind") == "classification":
        lines.append("Its probabilities were not calibrated: they rank texts, and are no chances of being right.")
    cut = number(part(metrics, "rows", "truncated"))
    if cut:
        lines.append(f"{words.whole(cut)} of its training rows were longer than its maximum length and were cut there.")
    return "\n".join(f"- {line}" for line in lines)


def _task(metrics: Mapping[str, Any]) -> str:
    name, kind = part(metrics, "task", "name"), part(metrics, "task", "kind")
    labels = part(metrics, "task", "labels")
    what = "scoring texts" if kind == "regression" else "text classification"
    named = f" ({_plain(str(name))})" if name else ""
    if kind == "regression" or not isinstance(labels, (list, tuple)) or not labels:
        return what + named
    shown = ", ".join(_plain(str(label)) for label in labels[:30]) + (", …" if len(labels) > 30 else "")
    return f"{what}{named} into {len(labels)} labels: {shown}"


def _name(metrics: Mapping[str, Any]) -> str:
    return str(metrics.get("name") or "student")


def _plain(text: str) -> str:
    """`text` as it is, on one line: neither Markdown nor HTML in a name may act."""
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _code(text: str) -> str:
    return re.sub(r"[`\s|]+", " ", text).strip()
