"""The model card that ships with a student: README.md with the Hub's metadata."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from distilect.config import RunConfig
from distilect.errors import RunError
from distilect.files import atomic_write
from distilect.report import words
from distilect.report.entities import scores_by_type
from distilect.report.files import mapping, number, part, read_predictions, records
from distilect.report.models import SIZES, kept_tokens, method_name, outcome
from distilect.tasks import Scheme, parse_metric, scheme_of

# Our metric names -> the Hub's metric types; the others go by their own name.
_HUB_METRICS = {
    "entity_f1": "f1",
    "entity_precision": "precision",
    "entity_recall": "recall",
    "macro_entity_f1": "f1",
    "macro_f1": "f1",
    "micro_f1": "f1",
    "weighted_f1": "f1",
    "auc": "roc_auc",
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
# First parts of the names of methods and selectors: what to cite for them.
_PAPERS = {
    ("rlkd", "reinforced"): "Yuan et al.: *Reinforced Multi-Teacher Selection for Knowledge Distillation*, AAAI 2021,"
    " arXiv 2012.06048",
    ("akskd", "actor"): "Wang et al.: *Improved Knowledge Distillation for Pre-trained Language Models via Knowledge"
    " Selection*, Findings of EMNLP 2022, arXiv 2302.00444",
    ("dynamic", "uncertainty"): "Li et al.: *Dynamic Knowledge Distillation for Pre-trained Language Models*,"
    " EMNLP 2021, arXiv 2109.11295",
    ("pkd",): "Sun et al.: *Patient Knowledge Distillation for BERT Model Compression*, EMNLP 2019, arXiv 1908.09355",
    ("confidence",): "Zhang, Chen, Wang: *Confidence-Aware Multi-Teacher Knowledge Distillation*, ICASSP 2022,"
    " arXiv 2201.00007",
}
_HINTON = "Hinton, Vinyals, Dean: *Distilling the Knowledge in a Neural Network*, 2015, arXiv 1503.02531"
_COUNTS = ("train", "extra", "dev", "truncated")


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

    The scores of each type of entities are those of the run's `predictions.parquet`, beside the student's folder.

    Args:
        metrics: the run's `metrics.json`; what it lacks is left out.
        config: the run's configuration; adds the selectors that differ from the preset's.
        license, base_model, language: as the Hub names them; left out unless given: only the user knows them.
        export: what `export.json` holds; adds the ONNX files with how they were checked.

    Raises:
        RunError: there is no such folder.
    """
    folder = Path(student_folder)
    if not folder.is_dir():
        raise RunError(f"no student in {folder}: expected the folder of a saved checkpoint")
    settings = config.model_dump(mode="json") if isinstance(config, RunConfig) else dict(config or {})
    results = _results(metrics)
    data = ModelCardData(
        license=license,
        base_model=base_model,
        language=language,
        library_name="transformers",
        pipeline_tag=_pipeline(metrics),
        tags=["distilect", "knowledge-distillation"],
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=_name(metrics) if results else None,
        eval_results=results or None,
    )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_plain,
    )
    body = environment.get_template("model_card.md.j2").render(
        {**_content(metrics, settings, export or {}), "types": _types(folder.parent)}
    )
    page = f"---\n{data.to_yaml()}\n---\n\n{body}"
    atomic_write(folder / "README.md", page.encode("utf-8", "replace"))
    return folder / "README.md"


def citations(method: str, settings: Mapping[str, Any], teachers: bool) -> list[str]:
    """Papers behind a method: of the preset, then of selectors in `settings` (config.method)."""
    names = [method]
    for key in ("rows", "teachers", "loss_weights"):
        value = settings.get(key)
        names.append(str(value.get("name", "")) if isinstance(value, dict) else str(value or ""))
    firsts = [re.split(r"[-_]", name)[0] for name in names]
    papers = dict.fromkeys(paper for first in firsts for known, paper in _PAPERS.items() if first in known)
    if teachers and method != "finetune":
        papers[_HINTON] = None
    return [Markup(re.sub(r"(arXiv (\S+))", r"[\1](https://arxiv.org/abs/\2)", paper)) for paper in papers]


def _results(metrics: Mapping[str, Any]) -> list[EvalResult]:
    """The student's scores on dev, as the Hub's model index has them."""
    task = str(part(metrics, "task", "name") or "task")
    scores = {str(name): number(value) for name, value in mapping(part(metrics, "student", "scores")).items()}
    return [
        EvalResult(
            task_type=_pipeline(metrics),
            dataset_name=task,
            dataset_type=re.sub(r"[^\w.-]+", "-", task).strip("-").lower() or "task",
            dataset_split="validation",
            metric_type=_HUB_METRICS.get(parse_metric(name)[0], parse_metric(name)[0]),
            metric_name=name.replace("_", " ") if parse_metric(name)[1] is None else name,
            metric_value=round(value, 6),
        )
        for name, value in scores.items()
        if value is not None
    ]


def _pipeline(metrics: Mapping[str, Any]) -> str:
    """The task as transformers' pipelines and the Hub call it."""
    names = {"tokens": "token-classification", "causal-lm": "text-generation"}
    return names.get(str(part(metrics, "task", "kind")), "text-classification")


def _types(run: Path) -> list[tuple[str, list[str]]]:
    """Each type of entities with precision, recall, F1 and how many there are, on dev; none of other runs."""
    predictions = read_predictions(run)
    if predictions is None or predictions.split != "dev":
        return []
    return [
        (kind, [*(words.score(of[name]) for name in ("precision", "recall", "f1")), words.whole(of["entities"])])
        for kind, of in scores_by_type(predictions, predictions.student).items()
    ]


def _content(metrics: Mapping[str, Any], config: Mapping[str, Any], export: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows; strings are escaped there, but for `Markup`."""
    primary, rows, student, _, kept = outcome(metrics)
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    models = []
    for row in rows:
        cells = [*(words.score(row.scores.get(name)) for name in names), *(row.cells[title] for title in SIZES)]
        models.append((f"{row.name} ({row.role})", cells))
    method, teachers = (
        method_name(metrics) or "unknown",
        [str(raw.get("name")) for raw in records(metrics.get("teachers"))],
    )
    kind, counts = part(metrics, "task", "kind"), mapping(metrics.get("rows"))
    scheme, length = _scheme(metrics), number(part(metrics, "student", "max_length"))
    return {
        "name": _name(metrics),
        "task": _task(metrics),
        "kept": kept and words.share(kept),
        "primary": primary,
        "gains": student.gains if student else "",
        "pairs": part(metrics, "task", "num_texts") == 2,
        "regression": kind == "regression",
        "classification": kind not in ("regression", "causal-lm"),
        "multi_label": kind == "multi-label",
        "tokens": kind == "tokens",
        "language_model": kind == "causal-lm",
        "scheme": scheme and scheme.name,
        # transformers' pipelines join tags of this scheme alone
        "joined": bool(scheme and scheme.name == "BIO"),
        "stride": int(length // 4) if length else None,
        "thresholds": [
            (str(label), words.score(number(value)))
            for label, value in mapping(part(metrics, "student", "thresholds")).items()
        ],
        "files": [
            (_code(str(file.get("file")).removeprefix("student/")), str(file.get("text")))
            for file in records(export.get("files"))
        ],
        "rows": {key: words.whole(n) if (n := number(counts.get(key))) else "" for key in _COUNTS},
        "metrics": names,
        "models": models,
        "method": _code(method),
        "teachers": ", ".join(teachers),
        "layers": part(metrics, "student", "source", "layers"),
        "vocabulary": kept_tokens(mapping(part(metrics, "student", "source"))).removeprefix(", "),
        "max_length": words.whole(length) if length else "",
        "seed": metrics.get("seed"),
        "versions": ", ".join(f"{name} {version}" for name, version in mapping(metrics.get("versions")).items()),
        "papers": citations(method, mapping(config.get("method")), bool(teachers)),
    }


def _task(metrics: Mapping[str, Any]) -> str:
    """`text classification (polarity) into 2 labels: no, yes`; `named entity recognition (news) with 2 types: person, place`."""
    name, labels = part(metrics, "task", "name"), part(metrics, "task", "labels")
    scheme = _scheme(metrics)
    if scheme is not None:
        shown = [*scheme.types[:30], *(["…"] if len(scheme.types) > 30 else [])]
        named = f" ({name})" if name else ""
        return f"named entity recognition{named} with {len(scheme.types)} types: {', '.join(shown)}"
    if part(metrics, "task", "kind") == "causal-lm":
        return f"continuing texts ({name})" if name else "continuing texts"
    regression = part(metrics, "task", "kind") == "regression"
    of_words = part(metrics, "task", "kind") == "tokens"
    what = "scoring texts" if regression else "tagging words" if of_words else "text classification"
    task = what + (f" ({name})" if name else "")
    if regression or not isinstance(labels, list) or not labels:
        return task
    shown = [str(label) for label in labels[:30]] + (["…"] if len(labels) > 30 else [])
    into = "with any of" if part(metrics, "task", "kind") == "multi-label" else "with" if of_words else "into"
    return f"{task} {into} {len(labels)} {'tags' if of_words else 'labels'}: {', '.join(shown)}"


def _scheme(metrics: Mapping[str, Any]) -> Scheme | None:
    """Of a tokens task's tags; None of other tasks, and where the tags are none of entities."""
    labels = part(metrics, "task", "labels")
    if part(metrics, "task", "kind") != "tokens" or not isinstance(labels, list):
        return None
    return scheme_of([str(label) for label in labels])


def _name(metrics: Mapping[str, Any]) -> str:
    return str(metrics.get("name") or "student")


def _plain(value: Any) -> str:
    """A value as it is, on one line: neither Markdown nor HTML in a name may act."""
    if isinstance(value, Markup):
        return value
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", html.escape(" ".join(str(value).split()), quote=False))


def _code(text: str) -> Markup:
    """For a code span, in which nothing but its own end and a table's bar acts."""
    return Markup(re.sub(r"[`\s|]+", " ", text).strip())
