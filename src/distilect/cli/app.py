"""The verbs. Each one reads its arguments, calls one function of the library and prints the result."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import distilect
from distilect.cli.verbs import Verb, Verbs
from distilect.errors import Terminated

# No rich markup in help: "[layers=1,3,5]" would be read as a tag.
app = typer.Typer(
    name="distilect",
    cls=Verbs,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings: train.epochs=5 seed=1", show_default=False)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier runs of the same name.")]
Text = Annotated[list[str] | None, typer.Option(help="Text column; twice for pairs. Inferred from the names.")]
Label = Annotated[str | None, typer.Option(help="Label column. Inferred from the names.")]
LabelColumns = Annotated[
    list[str] | None,
    typer.Option("--label", help="Label column, inferred from the names; or one per label: multi-label."),
]
DataDir = Annotated[str, typer.Option(help="Folder that relative data paths start from.")]
MaxLength = Annotated[int | None, typer.Option(help="In tokens. [default: the checkpoint's]")]
Kind = Annotated[str | None, typer.Option(help="classification, regression or multi-label. Inferred from the labels.")]
Labels = Annotated[
    list[str] | None, typer.Option(help="Label names in the order of the outputs: NO,YES, or once for each name.")
]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16. auto: bf16 where the processor has it.")]
Metrics = Annotated[list[str] | None, typer.Option("--metric", help="Such as macro_f1; may be repeated.")]


def main() -> None:
    """The `distilect` command."""
    signal.signal(signal.SIGTERM, _terminated)
    app(prog_name="distilect")


def _terminated(number: int, frame: Any) -> None:
    raise Terminated


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"distilect {distilect.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Distil fine-tuned Hugging Face models into one small student.

    \b
    Start here:  distilect demo
    Your data:   distilect finetune train.csv --init bert-base-uncased --output runs/teacher
                 distilect distill train.csv --teacher runs/teacher/student --output runs/small
    """


@app.command(cls=Verb)
def demo(
    folder: Annotated[Path, typer.Option(help="For data, teachers, signals and runs.")] = Path("runs/demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Few rows, one epoch: shows how it works, not how well.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Which rows have labels, and of all that is drawn.")] = 0,
) -> None:
    """Run the whole job on real text, without any download.

    Three teachers that know two of six classes each, few labels, four methods, one table, and a small file to ship. The text is the
    docstrings of Python's standard library. A second run reuses teachers and signals.

    \b
    Example: distilect demo --folder runs/demo
    """
    from distilect.demo.run import run_demo

    run_demo(folder, quick=quick, seed=seed)


@app.command(cls=Verb)
def finetune(
    train: Annotated[str, typer.Argument(help="Table: .csv .tsv .jsonl .parquet", show_default=False)],
    init: Annotated[
        str, typer.Option(help="Checkpoint folder or hub id to start from; NAME[layers=4] cuts it.", show_default=False)
    ],
    output: Annotated[str, typer.Option(help="Folder of the run; the model is in its student/.", show_default=False)],
    dev: Annotated[str | None, typer.Option(help="Table to report on.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the table. [default: 3]")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="[default: 5e-5]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows per optimiser step. [default: 32]")] = None,
    max_length: Annotated[int | None, typer.Option(help="In tokens. [default: 128]")] = None,
    seed: Annotated[int | None, typer.Option(help="[default: 0]")] = None,
    kind: Kind = None,
    labels: Labels = None,
    metrics: Metrics = None,
    text: Text = None,
    label: LabelColumns = None,
    data_dir: DataDir = ".",
    overrides: Overrides = None,
    overwrite: Overwrite = False,
) -> None:
    """Fine-tune a checkpoint on a labelled table: make a teacher.

    \b
    Example: distilect finetune train.csv --dev dev.csv --init bert-base-uncased --output runs/teacher-a --epochs 5
    """
    from distilect import pipeline

    given = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "max_length": max_length,
        "seed": seed,
        "kind": kind,
        "labels": _names(labels),
        "metrics": _names(metrics),
        "text": text,
        "label": label,
    }
    found = pipeline.finetune(
        train,
        init=init,
        output=output,
        dev=dev,
        overrides=overrides or (),
        overwrite=overwrite,
        data_dir=data_dir,
        **{key: value for key, value in given.items() if value is not None},
    )
    _print_table([found])
    typer.echo(f"model: {Path(output) / 'student'}")


@app.command(cls=Verb)
def pretrain(
    init: Annotated[
        str, typer.Argument(metavar="BACKBONE", help="Pre-trained model: folder or hub id.", show_default=False)
    ],
    texts: Annotated[
        list[str], typer.Option("--text", help="Table of texts, no labels needed; may be repeated.", show_default=False)
    ],
    output: Annotated[str, typer.Option(help="Folder of the run; the model is in its student/.", show_default=False)],
    layers: Annotated[int | None, typer.Option(help="The student's. [default: half of the backbone's]")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time for all of it, such as 30min or 2h. [default: one epoch]")
    ] = None,
    data_dir: DataDir = ".",
    seed: int = 0,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
) -> None:
    """Distil a pre-trained model into fewer layers, on any text.

    The result is a start for students of every task.

    \b
    Example: distilect pretrain bert-base-uncased --layers 6 --text texts.jsonl --output runs/six-layers
             distilect distill train.csv --teacher runs/teacher/student --student runs/six-layers/student --output runs/small
    """
    from distilect import pipeline

    found = pipeline.pretrain(
        texts,
        init=init,
        output=output,
        layers=layers,
        budget=budget,
        overrides=overrides or (),
        overwrite=overwrite,
        data_dir=data_dir,
        seed=seed,
    )
    for name, value in found["losses"].items():
        typer.echo(f"{name:<12} {value:.4f}")
    typer.echo(f"model: {Path(output) / 'student'}")


@app.command(cls=Verb)
def distill(
    train: Annotated[str, typer.Argument(help="Table: .csv .tsv .jsonl .parquet", show_default=False)],
    teacher: Annotated[
        list[str], typer.Option(help="Fine-tuned checkpoint: folder or hub id; may be repeated.", show_default=False)
    ],
    output: Annotated[str, typer.Option(help="Folder of the run; the model is in its student/.", show_default=False)],
    dev: Annotated[str | None, typer.Option(help="Table to report on.")] = None,
    layers: Annotated[
        int | None, typer.Option(help="The student's, taken from the first teacher. [default: half of them]")
    ] = None,
    student: Annotated[str | None, typer.Option(help="Another checkpoint to start from, in place of --layers.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time for all of it, such as 30min or 2h. [default: 10 epochs]")
    ] = None,
    method: Annotated[str, typer.Option(help="A preset; `distilect methods` lists them.")] = "keep",
    extra: Annotated[str | None, typer.Option(help="Table of further texts, which the teachers label.")] = None,
    text: Text = None,
    label: LabelColumns = None,
    data_dir: DataDir = ".",
    seed: int = 0,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
) -> None:
    """Distil teachers into a small student, without a config file.

    Task, columns and stages are inferred and printed. The run's config.yaml repeats it.

    \b
    Example: distilect distill train.csv --dev dev.csv --teacher runs/teacher-a/student --layers 6 --budget 1h --output runs/small
    """
    from distilect import pipeline, ranks

    path = Path(output)
    columns = {"text": text, "label": label, "extra": extra}
    result = pipeline.distill(
        train,
        dev,
        teachers=teacher,
        student=student,
        layers=layers,
        method=method,
        budget=budget,
        name=path.name,
        output=path.parent,
        overwrite=overwrite,
        overrides=overrides or (),
        data_dir=data_dir,
        seed=seed,
        data={key: value for key, value in columns.items() if value is not None},
    )
    if not ranks.is_main():
        return
    _print_table([result.metrics])
    typer.echo(f"student: {result.folder / 'student'}")
    typer.echo(f"report: {result.report}")
    typer.echo(f"repeat: distilect run {result.folder / 'config.yaml'} name=again")


@app.command(cls=Verb)
def score(config: ConfigFile, overrides: Overrides = None) -> None:
    """Run a config's teachers once and store their outputs.

    `run` does this too; `score` trains no student.

    \b
    Example: distilect score configs/glue/mrpc.yaml data_dir=PATH/TO/glue
    """
    from distilect.config import load_config

    settings = load_config(config, overrides)

    from distilect import pipeline, ranks

    for line in pipeline.score(settings):
        if ranks.is_main():
            typer.echo(line)


@app.command(cls=Verb)
def advise(config: ConfigFile, overrides: Overrides = None) -> None:
    """Say which teachers of a config to use, and how.

    Their outputs on the validation split are compared: no student is trained, and no other row is scored.

    \b
    Example: distilect advise configs/glue/mrpc.yaml data_dir=PATH/TO/glue
    """
    from distilect.config import load_config

    settings = load_config(config, overrides)

    from distilect import pipeline, ranks

    advice = pipeline.advise(settings)
    if ranks.is_main():
        for line in [*advice.table, "", *advice.words] if advice.table else advice.words:
            typer.echo(line)


@app.command(cls=Verb)
def run(
    config: ConfigFile,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the config and print all of it; run nothing.")
    ] = False,
) -> None:
    """Do everything in a config: teachers, students, report.

    A run that was stopped goes on; teachers and signals that exist are reused.

    \b
    Example: distilect run configs/glue/mrpc.yaml data_dir=PATH/TO/glue train.epochs=5
    """
    from distilect.config import dump_config, load_config

    settings = load_config(config, overrides)
    if dry_run:
        from distilect.selection import likely_stages

        for method in (settings.method, *settings.baselines):
            likely_stages(method, settings.train)
        typer.echo(dump_config(settings), nl=False)
        if any(teacher.endpoint for teacher in settings.teachers):
            from distilect.pipeline.calls import forecast

            for line in forecast(settings):
                typer.echo(f"# {line}")
        return

    from distilect import pipeline, ranks

    results = pipeline.run(settings, overwrite=overwrite)
    if not ranks.is_main():
        return
    _print_table([result.metrics for result in results])
    reports = [result.report for result in results if result.report]
    if len(results) > 1:
        from distilect.report import build_summary

        summary = Path(settings.output) / f"{settings.name}-summary.html"
        reports.insert(0, build_summary([result.folder for result in results], summary))
    for page in reports:
        typer.echo(f"report: {page}")


@app.command(cls=Verb)
def estimate(
    config: ConfigFile,
    overrides: Overrides = None,
    rows: Annotated[
        list[float] | None, typer.Option(help="So many rows like the table's first ones, such as 1e6; may be repeated.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="t4, v100, l4, a100, h100 or h200: from its data sheet. [default: a pilot here]")
    ] = None,
) -> None:
    """Estimate what a run will cost: hours and bytes.

    \b
    Example: distilect estimate CONFIG --rows 1e6 --rows 1e8 --gpu h100
    """
    from distilect.config import load_config

    settings = load_config(config, overrides)

    from distilect.pipeline.calls import forecast
    from distilect.pipeline.estimate import estimate as estimate_costs

    found = estimate_costs(settings, [int(count) for count in rows or ()], gpu)
    unit = f"{gpu} hours" if gpu else "hours here"
    for each in found:
        typer.echo(f"{each.rows:,} rows, {each.steps:,} steps")
        if each.teacher_seconds:
            typer.echo(f"  teachers, made   {each.teacher_seconds / 3600:>12,.2f} {unit}, unless they are there")
        typer.echo(f"  teachers, once   {each.scoring_seconds / 3600:>12,.2f} {unit}")
        typer.echo(f"  student          {each.training_seconds / 3600:>12,.2f} {unit}")
        typer.echo(f"  signals          {each.signal_bytes / 1e9:>12,.2f} GB")
        typer.echo(f"  table, if mapped {each.table_bytes / 1e9:>12,.2f} GB")
    if calls := forecast(settings, [int(count) for count in rows or ()]):
        typer.echo("\n".join([*calls, "the hours are without the time that its answers take"]))


@app.command(cls=Verb)
def compare(
    config: ConfigFile,
    overrides: Overrides = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Run these trials only: a task, scenario, student, method, seed=N, or a pattern such as '*.mrpc.*'; may be repeated."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the config, estimate time and disk; run nothing.")
    ] = False,
    page_only: Annotated[
        bool, typer.Option("--page-only", help="Write tables and page from the results that are there.")
    ] = False,
    docs: Annotated[
        Path | None, typer.Option(help="Also write tables, page, results and predictions into this folder.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Folder that --docs wrote, here or elsewhere: go on from its results; with --page-only: make tables and page of them."
        ),
    ] = None,
) -> None:
    """Compare methods: tasks × methods × seeds, one page.

    Teachers are fine-tuned and scored once for all. A comparison that was stopped goes on. Failed trials are
    listed at the end; the exit code is then 1.

    \b
    Example: distilect compare configs/compare/demo.yaml workers=2
             distilect compare configs/compare/full.yaml data_dir=PATH/TO/glue --only mrpc --only rte
    """
    from distilect.demo.compare import with_builtin_data
    from distilect.experiments.config import load_compare

    settings = load_compare(config, overrides)
    settings = with_builtin_data(settings, build=results is None or not page_only)

    from distilect import experiments

    if dry_run:
        for line in experiments.estimate(settings, only or ()).text():
            typer.echo(line)
        return
    if page_only:
        pages = experiments.publish(settings, docs=docs, source=results)
        _print_pages(pages, settings.folder, published=results is not None)
        return
    found = experiments.compare(settings, only=only or (), docs=docs, results=results)
    _print_pages(found.pages, found.folder)
    if found.failed:
        typer.echo(experiments.failed_text(found), err=True)
        raise typer.Exit(1)


@app.command(cls=Verb)
def augment(
    train: Annotated[str, typer.Argument(help="Table, or a GLUE folder.", show_default=False)],
    output: Annotated[Path, typer.Option(help="File to write: .csv .tsv .jsonl .parquet", show_default=False)],
    times: Annotated[int, typer.Option(help="Copies per row.")] = 20,
    seed: int = 0,
    method: Annotated[str, typer.Option(help="neighbours or mlm")] = "neighbours",
    model: Annotated[
        str | None, typer.Option(help="Checkpoint whose token embeddings give neighbours, or with a masked-LM head.")
    ] = None,
    text: Text = None,
    label: Label = None,
    labels: Annotated[bool, typer.Option("--labels", help="Copies keep their row's label.")] = False,
    data_dir: DataDir = ".",
) -> None:
    """Write changed copies of a table's rows. Of tagged words those of entities stay, and each word stays one.

    Give the file to a run as data.extra: the teachers label its rows. The copies may include rows of the run's validation
    split; `data.augment` in a config leaves those out.

    \b
    Example: distilect augment train.csv --output more.csv --times 20 --model bert-base-uncased
    """
    from distilect.augment import augment_file

    done = augment_file(
        train,
        output,
        times,
        seed=seed,
        method=method,
        model=model,
        text=text,
        label=label,
        keep_labels=labels,
        data_dir=data_dir,
    )
    typer.echo(done)


@app.command(cls=Verb)
def trim(
    model: Annotated[str, typer.Argument(help="Checkpoint, or a run's folder: its student.", show_default=False)],
    output: Annotated[Path, typer.Option(help="New folder for the smaller checkpoint.", show_default=False)],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Tables of texts; none for a run: its own.", show_default=False)
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens to keep, the most frequent first. [default: all that the texts use]"),
    ] = None,
    text: Text = None,
    data_dir: DataDir = ".",
) -> None:
    """Leave out tokens that no text of yours uses.

    Outputs on texts of the other tokens stay the same. Characters and word pieces that any text needs stay too.

    \b
    Example: distilect trim runs/mrpc --size 8000 --output runs/mrpc-8000
             distilect trim teacher-a train.csv --output teacher-a-trimmed
    """
    from distilect import pipeline

    found = pipeline.trim(model, texts or (), output=output, size=size, text=text, data_dir=data_dir)
    before, after = (f"{100 * share:.2f} %" for share in found["unknown"])
    typer.echo(f"{'tokens':<12} {found['tokens'][0]:,} → {found['tokens'][1]:,} ({found['needed']:,} for any text)")
    typer.echo(f"{'parameters':<12} {found['parameters'][0] / 1e6:.2f} M → {found['parameters'][1] / 1e6:.2f} M")
    whole = f"{found['bytes'][0] / 1e6:.1f} MB → " if found["bytes"][0] else ""  # unknown of a hub id
    typer.echo(f"{'on disk':<12} {whole}{found['bytes'][1] / 1e6:.1f} MB")
    typer.echo(f"{'text':<12} {100 * found['changed']:.2f} % of its tokens are cut into smaller ones")
    typer.echo(f"{'unknown':<12} {before} → {after} of the tokens")
    for line in found["report"]:
        typer.echo(line)
    typer.echo(f"model: {output}")


@app.command(cls=Verb)
def evaluate(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or hub id.", show_default=False)],
    data: Annotated[str, typer.Argument(help="Labelled table.", show_default=False)],
    text: Text = None,
    label: LabelColumns = None,
    data_dir: DataDir = ".",
    max_length: MaxLength = None,
    kind: Kind = None,
    labels: Labels = None,
    metrics: Metrics = None,
    precision: Precision = "auto",
    generate: Annotated[
        int, typer.Option(min=0, help="Language models: rows whose completions are written and compared.")
    ] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of each such completion, at most.")] = 256,
    answer_after: Annotated[
        str | None, typer.Option(help="What stands before the final answer of a completion, such as '####'.")
    ] = None,
) -> None:
    """Score a checkpoint on a labelled table.

    \b
    Example: distilect evaluate runs/mrpc/student dev.csv --text sentence1 --text sentence2 --label same
    """
    from distilect import pipeline

    found = pipeline.evaluate(
        model,
        data,
        text=text,
        label=label,
        data_dir=data_dir,
        max_length=max_length,
        kind=kind,
        labels=_names(labels),
        metrics=_names(metrics),
        precision=precision,
        generate=generate,
        max_new_tokens=max_new_tokens,
        answer_after=answer_after,
    )
    width = max([12, *map(len, found["scores"])])
    for name, value in found["scores"].items():
        typer.echo(f"{name:<{width}} {value:.4f}")
    typer.echo(f"{'rows':<{width}} {found['rows']}")
    for kind, of in found.get("types", {}).items():
        scores = ", ".join(f"{name} {of[name]:.4f}" for name in ("precision", "recall", "f1"))
        typer.echo(f"{kind:<{width}} {scores} ({of['entities']} entities)")
    for line in found.get("report", ()):
        typer.echo(line, err=True)


@app.command(cls=Verb)
def predict(
    model: Annotated[str, typer.Argument(help="Checkpoint, or a run's folder: its student.", show_default=False)],
    data: Annotated[str, typer.Argument(help="Table of texts, or of lists of words.", show_default=False)],
    output: Annotated[Path, typer.Option(help="File to write: .csv .tsv .jsonl .parquet", show_default=False)],
    text: Text = None,
    data_dir: DataDir = ".",
    max_length: MaxLength = None,
    precision: Precision = "auto",
) -> None:
    """Write a checkpoint's labels, or the entities, of texts.

    Given a run's folder, also how many of its teachers agree.

    \b
    Example: distilect predict runs/mrpc new.csv --output predicted.csv
    """
    from distilect.pipeline.prediction import predict_file

    for line in predict_file(
        model, data, output, text=text, data_dir=data_dir, max_length=max_length, precision=precision
    ):
        typer.echo(line)


@app.command(cls=Verb)
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option(help="Page that compares several runs. [default: summary.html beside them]")
    ] = None,
) -> None:
    """Write the report pages of runs again.

    For several runs, also write one page that compares them.

    \b
    Example: distilect report runs/mrpc runs/mrpc-kd --output runs/mrpc.html
    """
    if output is not None and len(folders) == 1:
        raise typer.BadParameter(
            "takes two or more run folders; the page of one run is its report.html", param_hint="--output"
        )

    from distilect.report import build_report, build_summary

    for folder in folders:
        typer.echo(f"report: {build_report(folder)}")
    if len(folders) > 1:
        beside = Path(os.path.commonpath([folder.resolve().parent for folder in folders]))
        typer.echo(f"side by side: {build_summary(folders, output or beside / 'summary.html')}")


@app.command(cls=Verb)
def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.", show_default=False)],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write ONNX, check it on dev, time it.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Write ONNX with 8-bit weights too.")] = False,
    openvino: Annotated[bool, typer.Option("--openvino", help="Write a model for OpenVINO too.")] = False,
    max_drop: Annotated[
        float, typer.Option(help="Points that --int8 and --openvino may lose on the run's validation split.")
    ] = 0.3,
    dev: Annotated[str | None, typer.Option(help="Labelled table to check on. [default: the config's]")] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload to the Hub, with your own login.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public.")] = False,
    license: Annotated[str | None, typer.Option(help="For the model card: apache-2.0, mit, …")] = None,
    base_model: Annotated[str | None, typer.Option(help="For the model card: hub id.")] = None,
    language: Annotated[str | None, typer.Option(help="For the model card: en, de, …")] = None,
) -> None:
    """Make a run's student ready to ship: model card, ONNX, Hub.

    ONNX files go into student/onnx/, checked against PyTorch on the dev rows and timed beside the best teacher. 8-bit files that lose
    more than --max-drop are replaced by the next gentler scheme; the exit code is 1 if none is good enough.

    \b
    Example: distilect export runs/mrpc --onnx --int8 --license apache-2.0
    """
    from distilect.export import export_run

    done = export_run(
        folder,
        onnx=onnx,
        int8=int8,
        openvino=openvino,
        max_drop=max_drop,
        dev=dev,
        repository=push,
        public=public,
        license=license,
        base_model=base_model,
        language=language,
    )
    if done.speed:
        from rich.console import Console

        from distilect.report import speed_table

        Console().print(speed_table(done.speed))
    for line in done.lines:
        typer.echo(line)
    if done.address:
        typer.echo(f"pushed: {done.address}")


@app.command(cls=Verb)
def methods(
    name: Annotated[str | None, typer.Argument(help="A method or a part, such as rlkd or reinforced.")] = None,
) -> None:
    """List the methods and their parts, or show one with its options.

    \b
    Example: distilect methods rlkd
    """
    from distilect.cli.methods import details, overview

    for line in overview() if name is None else details(name):
        typer.echo(line)


@app.command(cls=Verb)
def schema(
    of: Annotated[str, typer.Argument(help="run or compare: which kind of config file.", show_default=False)],
) -> None:
    """Print the JSON schema of config files, for editors.

    \b
    Example: distilect schema run
    """
    from distilect.experiments.schema import ROOTS
    from distilect.experiments.schema import schema as schema_of

    if of not in ROOTS:
        raise typer.BadParameter(f"expected {' or '.join(ROOTS)}, got {of!r}", param_hint="OF")
    typer.echo(json.dumps(schema_of(of), indent=2))


def _print_pages(pages: Any, folder: Path, published: bool = False) -> None:
    """What was written of a comparison; an error where there is nothing yet."""
    if pages is None:
        from distilect.errors import RunError

        raise RunError(f"no trial of this comparison has a result yet in {folder}")
    for file in (pages.tables, pages.latex):
        typer.echo(f"tables: {file}")
    typer.echo(f"report: {pages.page} ({pages.results} of {pages.expected} trials)")
    if pages.stale:
        typer.echo(f"{pages.stale} results of other settings are {'among them' if published else 'left out'}")


def _names(words: list[str] | None) -> list[str] | None:
    """Names that were given one by one, or in one word with commas."""
    return words[0].split(",") if words and len(words) == 1 else words or None


def _print_table(metrics: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console

    from distilect.report import summary_table

    Console().print(summary_table(metrics))
