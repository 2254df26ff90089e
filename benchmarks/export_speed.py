"""What an exported student is worth: size, score and latency of its files beside PyTorch in fp32 and bf16, at equal threads.

    python -m benchmarks.export_speed [--seeds 0 1 2] [--vocabulary auto]

The student is three of MiniLM's six layers, fine-tuned on docstrings of the standard library (`distilect.demo`). `distilect export` writes,
judges and times its files. For the first seed, schemes that distilect does not use are judged and timed too, and batches of texts of similar
length. All times are of models that take turns; ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import BACKBONE, table, write_result
from distilect.config import load_config
from distilect.data import Encoded
from distilect.demo import build_docstrings
from distilect.evaluation import take_turns
from distilect.export import export_run
from distilect.export.gate import Gate
from distilect.export.onnx import OnnxModel, outputs, silent
from distilect.export.openvino import OpenVinoModel
from distilect.export.rows import Rows, run_data
from distilect.export.ship import CALIBRATION_ROWS, _load
from distilect.export.speed import Start, speed_table, start_onnx, start_openvino, start_torch
from distilect.pipeline import finetune
from distilect.report.files import read_metrics
from distilect.tasks import Task

STUDENT = f"{BACKBONE}[layers=1,3,5]"
LENGTH = 96
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=4000, help="of train, 1,000 of them for validation")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--vocabulary", help="the student's, as student.vocabulary; default: all of MiniLM's")
    given = parser.parse_args()
    overrides = [f"student.vocabulary={given.vocabulary}"] if given.vocabulary else []
    settings = {"student": STUDENT, **vars(given)}
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = build_docstrings(folder / "data")
        students, runs = [], []
        for seed in given.seeds:
            runs.append(folder / f"seed-{seed}")
            finetune(
                str(data.train_path),
                init=STUDENT,
                output=runs[-1],
                dev=str(data.dev_path),
                epochs=given.epochs,
                learning_rate=2e-4,
                max_length=LENGTH,
                seed=seed,
                data={"max_train_rows": given.rows, "validation_size": 1000},
                overrides=overrides,
            )
            students.append({"seed": seed, **exported(runs[-1])})
        more = left_out(runs[0])
    load.append(os.getloadavg()[0])  # above the number of cores: other work ran beside this
    about = {"length": LENGTH, "load_average": load, "cores": os.cpu_count()}
    write_result("export_speed", {**settings, **about, "students": students, **more})


def exported(run: Path) -> dict[str, Any]:
    """Size, score and times of each file, as `export.json` has them."""
    openvino = importlib.util.find_spec("openvino") is not None
    export_run(run, int8=True, openvino=openvino)
    found = json.loads((run / "export.json").read_text(encoding="utf-8"))
    found["files"] = [{key: value for key, value in file.items() if key != "text"} for file in found["files"]]
    return {"dev_rows": found["rows"], **{key: found[key] for key in ("files", "gate", "speed")}}


# ---- what was tried and left out -------------------------------------------------------------------------------------


def left_out(run: Path) -> dict[str, Any]:
    """Schemes that distilect does not use, judged on the validation split; and the files on batches of texts of similar length."""
    config, metrics, folder = load_config(run / "config.yaml"), read_metrics(run), run / "student"
    task = Task.from_dict(metrics["task"])
    student = _load("student", folder, task, config)
    data = run_data(config, folder, metrics)
    gate = Gate(Rows.of(student, task, data.validation), 100.0)
    calibration = student.encode(data.train.take(np.arange(CALIBRATION_ROWS)))
    starts: dict[str, Start] = {"student": start_torch(student.model), "ONNX": start_onnx(folder / "onnx/model.onnx")}
    if (folder / "onnx/model_int8.onnx").is_file():
        starts["ONNX int8"] = start_onnx(folder / "onnx/model_int8.onnx")
    by_length = in_batches_by_length(starts, gate.rows.encoded)
    with tempfile.TemporaryDirectory() as name:
        for scheme, path in other_schemes(folder / "onnx/model.onnx", calibration, Path(name)):
            gate.keeps(scheme, path.stat().st_size, OnnxModel(path).predict(gate.rows.encoded))
            starts[scheme] = start_onnx(path)
        if importlib.util.find_spec("openvino"):
            static = Path(name) / "static.onnx"
            gate.keeps("OpenVINO, static", static.stat().st_size, outputs(OpenVinoModel(static), gate.rows.encoded))
            starts["OpenVINO, static"] = start_openvino(static)
        times = speed_table(
            {name: (start, gate.rows.encoded) for name, start in starts.items()}, reference="student", threads=(1,)
        )
    return {"left_out": {"tried": gate.tried, "speed": times}, "by_length": by_length}


def other_schemes(source: Path, calibration: Encoded, folder: Path) -> Iterator[tuple[str, Path]]:
    """onnxruntime's own ways to quantise a file, as its documentation has them, with 7-bit weights as ours."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(source)
    del model.graph.value_info[:]
    bare = folder / "bare.onnx"
    onnx.save(model, bare)
    options: dict[str, Any] = {"per_channel": True, "reduce_range": True, "weight_type": QuantType.QInt8}
    float_values = {"DefaultTensorType": onnx.TensorProto.FLOAT}

    def dynamic(path: Path, **more: Any) -> None:
        quantize_dynamic(onnx.load(bare), path, **{**options, **more}, extra_options=float_values)

    def static(path: Path, activations: Any) -> None:
        more = {"op_types_to_quantize": ["MatMul", "Gemm", "Gather"], "activation_type": activations}
        quantize_static(bare, path, Batches(calibration), **options, **more, extra_options=float_values)

    def blocks(path: Path) -> None:
        made = MatMulNBitsQuantizer(onnx.load(bare), bits=8, block_size=32, is_symmetric=True, accuracy_level=4)
        made.process()
        made.model.save_model_to_file(str(path))

    makers: dict[str, tuple[str, Callable[[Path], None]]] = {
        "dynamic": ("dynamic, one scale per table of embeddings", dynamic),
        "tensor": ("dynamic, one scale per matrix too", lambda path: dynamic(path, per_channel=False)),
        "static": ("static, ranges from train", lambda path: static(path, QuantType.QUInt8)),
        "static16": ("static, 16-bit activations", lambda path: static(path, QuantType.QUInt16)),
        "blocks": ("8-bit weights in blocks of 32 (MatMulNBits)", blocks),
    }
    for name, (title, make) in makers.items():
        with silent():
            make(folder / f"{name}.onnx")
        yield title, folder / f"{name}.onnx"


class Batches:
    """The rows that onnxruntime's calibration asks for, batch by batch, as its `CalibrationDataReader` gives them."""

    def __init__(self, encoded: Encoded) -> None:
        order = np.argsort(encoded.lengths, kind="stable")
        self.batches = iter([encoded.collate(order[i : i + 16]) for i in range(0, len(order), 16)])

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        return None if batch is None else {name: values.numpy() for name, values in batch.items()}


def in_batches_by_length(starts: dict[str, Start], encoded: Encoded) -> list[dict[str, Any]]:
    """Milliseconds per row, and times faster than the student, where each batch has texts of similar length; one thread."""
    import torch

    before, order, found = torch.get_num_threads(), np.argsort(encoded.lengths, kind="stable"), []
    torch.set_num_threads(1)
    try:
        for size in (1, 8, BATCH):
            picked = np.linspace(0, len(order) - size, 12).astype(int)
            batches = [encoded.collate(order[start : start + size]) for start in picked]
            seconds = take_turns({name: (start(1), batches) for name, start in starts.items()}, len(batches))
            for name, times in seconds.items():
                ratio = float(np.median(np.divide(seconds["student"], times)))
                per_row = 1000 * sum(times) / (size * len(times))
                found.append({"model": name, "batch": size, "ms_per_row": round(per_row, 3), "faster": round(ratio, 3)})
    finally:
        torch.set_num_threads(before)
    return found


# ---- tables of docs/results/export.md --------------------------------------------------------------------------------


def files_table(found: dict[str, Any]) -> str:
    """Size and score of each file, by seed."""
    rows = []
    for student in found["students"]:
        metric, before = next(iter(student["files"][0]["scores"].items()))  # of fp32
        drops = {each["scheme"]: f"{each['drop']:+.2f}" for each in student["gate"]["tried"]}
        for file in student["files"]:
            kind = "OpenVINO, " if file["file"].endswith(".xml") else ""
            change = 100 * (file["scores"][metric] - before)
            cells = [file["scheme"] or "fp32", f"{file['bytes'] / 1e6:.1f}", drops.get(kind + file["scheme"], "–")]
            rows.append([str(student["seed"]), _name(file), *cells, f"{change:+.2f}"])
    return table(["seed", "file", "scheme", "MB", "points lost on validation", "change on dev, points"], rows)


def speed_rows(found: dict[str, Any]) -> str:
    """Times faster than PyTorch in fp32 with as many threads, median over seeds; p50 and p95 of the first seed."""
    lines: dict[tuple[int, int, str], list[dict[str, Any]]] = {}
    for student in found["students"]:
        for line in student["speed"]:
            lines.setdefault((line["threads"], line["batch"], line["model"]), []).append(line)
    rows = [
        [str(threads), str(batch), name, f"{each[0]['p50_ms']:.1f}", f"{each[0]['p95_ms']:.1f}", _faster(each)]
        for (threads, batch, name), each in lines.items()
    ]
    return table(["threads", "batch", "model", "p50, ms", "p95, ms", "× student"], rows)


def left_out_table(found: dict[str, Any]) -> str:
    tried = {each["scheme"]: each for each in found["left_out"]["tried"]}
    speed = {(line["model"], line["batch"]): line["faster"] for line in found["left_out"]["speed"]}
    rows = []
    for name in dict.fromkeys(name for name, _ in speed if name != "student"):
        each = tried.get(name)
        cells = (
            [f"{each['bytes'] / 1e6:.1f}", f"{each['drop']:+.2f}", f"{each['mean_difference']:.3f}"]
            if each
            else ["–"] * 3
        )
        rows.append([name, *cells, f"{speed[name, 1]:.2f}", f"{speed[name, BATCH]:.2f}"])
    return table(
        ["scheme", "MB", "points lost", "mean difference of outputs", "× student, batch 1", f"batch {BATCH}"], rows
    )


def by_length_table(found: dict[str, Any]) -> str:
    rows = [[str(x["batch"]), x["model"], f"{x['ms_per_row']:.2f}", f"{x['faster']:.2f}"] for x in found["by_length"]]
    return table(["batch", "model", "ms per row", "× student"], rows)


def _name(file: dict[str, Any]) -> str:
    return f"`{file['file'].removeprefix('student/')}`"


def _faster(lines: list[dict[str, Any]]) -> str:
    return f"{np.median([line['faster'] for line in lines]):.2f}"


TABLES = {"files": files_table, "speed": speed_rows, "left-out": left_out_table, "by-length": by_length_table}

if __name__ == "__main__":
    main()
