"""What works with every architecture for sequence classification that transformers knows: python -m benchmarks.families

Each is built tiny, with random weights, and tried: as a teacher and student (run), cut to half of its layers, with hidden-state
knowledge (`pkd`), with a trimmed vocabulary, as ONNX and as int8. Writes benchmarks/results/families.json and the table in docs/families.md.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from distilect.config import StudentConfig
from distilect.data import Table
from distilect.errors import DistilectError
from distilect.evaluation import predict
from distilect.export.onnx import OnnxModel, export_onnx
from distilect.export.quantise import quantise
from distilect.models import CheckpointTeacher, Student, build_student, find_vocabulary
from distilect.tasks import Task
from tests.tiny import SENTENCES, wordpiece_tokenizer

RESULTS = Path(__file__).parent / "results" / "families.json"
PAGE = Path(__file__).parents[1] / "docs" / "families.md"
FAMILIES = tuple(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
TASK = Task("toy", "classification", ("no", "yes"), ("accuracy",), 1)
TABLE = Table.from_texts([*SENTENCES, "a", "the sea"])
COLUMNS = ("run", "cut", "pkd", "trim", "onnx", "int8")
EXPORT_SECONDS = 240  # most take twenty; loops over positions are unrolled, and some of those take no end

# Sizes by the names that configs give them; each config takes those that it has.
_SIZES: dict[str, Any] = {
    "vocab_size": 200,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "max_seq_len": 64,
    "entity_vocab_size": 10,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "entity_emb_size"), 16),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 4),
    "num_decoder_layers": 4,
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), 2),
    **dict.fromkeys(("decoder_attention_heads", "num_key_value_heads", "num_kv_heads", "n_mamba_heads"), 2),
    **dict.fromkeys(("num_self_attention_heads", "num_cross_attention_heads"), 2),
    **dict.fromkeys(
        ("intermediate_size", "n_inner", "hidden_dim", "d_ff", "d_inner", "ffn_dim", "feed_forward_size"), 32
    ),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "dff", "moe_intermediate_size"), 32),
    **dict.fromkeys(("shared_expert_intermediate_size", "ffn_hidden_size", "mlp_hidden_size"), 32),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "attention_head_size", "v_head_dim", "kv_channels"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk"), 2),
    **dict.fromkeys(("pad_token_id",), 0),
    "bos_token_id": 2,
    "eos_token_id": 3,
    "sep_token_id": 3,
    "cls_token_id": 2,
    "mask_token_id": 4,
    "decoder_start_token_id": 2,
    "type_vocab_size": 2,
    "word_embed_proj_dim": 16,
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "kv_lora_rank", "q_lora_rank"), 8),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    "rotary_dim": 4,
}
# What the sizes above do not make small, or do not make fit.
_MORE: dict[str, dict[str, Any]] = {
    "longformer": {"attention_window": [8, 8, 8, 8]},
    "funnel": {"block_sizes": [2, 2], "num_decoder_layers": 1},
    "reformer": {
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [8, 8],
        "attn_layers": ["local", "lsh", "local", "lsh"],
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 4,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 3, "shape_size": 2, "visual_embed": False, "max_2d_position_embeddings": 64},
    "lilt": {"hidden_size": 24, "channel_shrink_ratio": 2, "max_2d_position_embeddings": 64},
    "t5": {"decoder_start_token_id": 0},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "perceiver": {"num_latents": 4, "d_latents": 16, "num_self_attends_per_block": 2, "d_model": 16},
}


def config_of(family: str) -> Any:
    """A tiny config of a family, with the labels of `TASK`."""
    cls = CONFIG_MAPPING[family]
    values = _values(cls) | _MORE.get(family, {})
    if family in ("modernvbert", "ultravbert"):  # their parts are configs of any class: 250 M parameters by default
        values["text_config"] = CONFIG_MAPPING["modernbert"](**_values(CONFIG_MAPPING["modernbert"])).to_dict()
        vision = _values(CONFIG_MAPPING["siglip_vision_model"]) | {
            "image_size": 32,
            "patch_size": 16,
            "num_hidden_layers": 2,
        }
        values["vision_config"] = vision
    for name, part in (getattr(cls, "sub_configs", None) or {}).items():
        if dataclasses.is_dataclass(part) and name not in values:
            values[name] = _values(part) | _MORE.get(f"{family}.{name}", {})
    config = cls(**values)
    config.id2label, config.label2id = dict(enumerate(TASK.labels)), {label: i for i, label in enumerate(TASK.labels)}
    return config


def _values(cls: Any) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(cls)}
    return {name: value for name, value in _SIZES.items() if name in names}


def checkpoint(family: str, folder: Path) -> str:
    """A random checkpoint of the family with a WordPiece tokenizer."""
    config = config_of(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config).float()
        with torch.no_grad():  # as initialised all rows would look alike
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer = wordpiece_tokenizer()
    tokenizer.eos_token = "[SEP]"  # encoder-decoders read the hidden state there
    tokenizer.save_pretrained(folder)
    return str(folder)


def students(path: str) -> dict[str, Student | str]:
    """`run`: the whole checkpoint as student; `cut`: half of its layers; each with what refused it."""
    found: dict[str, Student | str] = {}
    for column, init in (("run", path), ("cut", f"{path}[layers=0,3]")):
        try:
            found[column] = build_student(StudentConfig(init=init), TASK, {}, 0, max_length=24)
        except DistilectError as error:
            found[column] = str(error)
    return found


def outcome(family: str, folder: Path, *, onnx: bool = False) -> dict[str, str]:
    """For each of `COLUMNS` "yes", or why not in a line."""
    try:
        path = checkpoint(family, folder / "checkpoint")
    except Exception as error:  # models of other inputs need more than sizes
        return {"run": f"cannot be built tiny: {type(error).__name__}: {' '.join(str(error).split())[:120]}"}
    found = students(path)
    result = {
        name: "yes" if isinstance(student, Student) else student.replace(path, "…") for name, student in found.items()
    }
    student = found["run"]
    if not isinstance(student, Student):
        return result
    result["trim"] = trimmed(student)
    train_step(student)
    result["pkd"] = hidden_states(path)
    if onnx:
        result |= exported(student, folder)
    return result


def train_step(student: Student) -> float:
    """One optimiser step; returns its loss, which is a number."""
    encoded = student.encode(TABLE)
    inputs = {name: values.to(student.model.device) for name, values in encoded.collate([0, 1, 2, 10]).items()}
    student.model.train()
    optimizer = torch.optim.SGD(student.model.parameters(), lr=1e-3)
    logits = student.model(**inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1, 0, 1], device=logits.device))
    loss.backward()
    optimizer.step()
    student.model.eval()
    return loss.item()


def trimmed(student: Student) -> str:
    """Whether the student with the tokens of some texts says of these the same, bit for bit."""
    table = Table.from_texts(SENTENCES[:5])
    try:
        found = find_vocabulary(student.model, student.tokenizer, [table], None, student.max_length, "student")
        small = student.with_vocabulary(found)
    except DistilectError as error:
        return str(error).partition(" cannot be trimmed: ")[2]
    ours, theirs = (predict(one.model, one.encode(table), precision="fp32") for one in (student, small))
    return "yes" if np.array_equal(ours, theirs) else "other logits"


def hidden_states(path: str) -> str:
    """Whether a teacher gives the classification token's hidden state at each layer, as `pkd` copies it."""
    try:
        teacher = CheckpointTeacher("t", path, TASK, max_length=24, precision="fp32")
        inputs = teacher.encode(TABLE).collate([0, 10])
        fields = [f"cls.{layer}" for layer in range(1, teacher.num_layers + 1)] or ["cls.1"]
        if not all(teacher.can(field) for field in fields):
            return "no hidden states by layer"
        found = teacher.forward(inputs, fields)
    except DistilectError as error:
        return str(error).partition(" gives ")[2] and "no hidden state per token"
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return "yes" if all(torch.isfinite(found[field]).all() for field in fields) else "hidden states that are no numbers"


def exported(student: Student, folder: Path) -> dict[str, str]:
    """Whether the ONNX file has the logits of each row alone, and the int8 file can be run."""
    encoded = student.encode(TABLE)
    alone = np.concatenate(
        [predict(student.model, encoded, rows=np.array([i]), precision="fp32") for i in range(len(TABLE))]
    )
    target = folder / "onnx" / "model.onnx"
    try:
        with limited(EXPORT_SECONDS):
            export_onnx(student.model.cpu(), encoded.collate([0, 10]), target)
        logits = OnnxModel(target).predict(encoded)
    except Exception as error:
        return dict.fromkeys(("onnx", "int8"), " ".join(str(error).split())[:160])
    difference = float(np.abs(logits - alone).max())
    found = {"onnx": "yes" if difference < 1e-3 else f"logits differ by {difference:.2g}"}
    try:
        logits = OnnxModel(quantise(target, folder / "onnx" / "int8.onnx")).predict(encoded)
        found["int8"] = "yes" if np.isfinite(logits).all() else "logits that are no numbers"
    except Exception as error:
        found["int8"] = " ".join(str(error).split())[:160]
    return found


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the main thread after so many seconds, and every ten from then on: torch tries another way after an error."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not exported within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 10)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def page(results: dict[str, Any]) -> str:
    """docs/families.md."""
    rows, notes = [], dict[str, int]()
    for family, result in results["families"].items():
        cells = []
        for column in COLUMNS:
            text = result.get(column, "")
            cells.append(text if text in ("yes", "") else f"no [{notes.setdefault(text, len(notes) + 1)}]")
        rows.append(f"| `{family}` | {' | '.join(cells)} |")
    count = {column: sum(result.get(column) == "yes" for result in results["families"].values()) for column in COLUMNS}
    return "\n".join(
        [
            "# Families",
            "",
            f"Every architecture that `AutoModelForSequenceClassification` of transformers {results['transformers']} knows, tried with tiny",
            f"random weights and torch {results['torch']}. `python -m benchmarks.families` makes this page.",
            "",
            "- **run**: it teaches and is trained, and a row in a padded batch has the outputs of the row alone.",
            "- **cut**: `NAME[layers=0,3]` of four layers; saved and loaded it is the same model.",
            "- **pkd**: it gives hidden states by layer, for feature and relation knowledge.",
            "- **trim**: it can leave out tokens that no text uses; on the other texts its outputs are equal bit for bit.",
            "- **ONNX**, **int8**: `distilect export` writes a file; that of ONNX has the logits of PyTorch. Empty: it does not run.",
            "",
            f"Of {len(results['families'])}: " + ", ".join(f"{name} {n}" for name, n in count.items()) + ".",
            "",
            "| family | run | cut | pkd | trim | ONNX | int8 |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            *(f"{number}. {_escape(text)}" for text, number in notes.items()),
            "",
        ]
    )


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")


def main() -> None:
    """Families as arguments, all by default; `--without-onnx` keeps what is known of their files."""
    onnx = "--without-onnx" not in sys.argv
    chosen = [name for name in sys.argv[1:] if not name.startswith("--")] or list(FAMILIES)
    known = json.loads(RESULTS.read_text(encoding="utf-8"))["families"] if RESULTS.exists() else {}
    for family in chosen:
        with tempfile.TemporaryDirectory() as folder:
            found = outcome(family, Path(folder), onnx=onnx)
        kept = {} if onnx else {name: text for name, text in known.get(family, {}).items() if name in ("onnx", "int8")}
        known[family] = found | kept
        print(family, known[family], flush=True)
        ordered = {name: known[name] for name in FAMILIES if name in known}
        version = torch.__version__.partition("+")[0]
        results = {"transformers": transformers.__version__, "torch": version, "families": ordered}
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        PAGE.write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
