"""Checkpoints on disk: where they are, whether they are safe to load, and loading them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distilect.errors import DistilectError, TeacherError
from distilect.files import file_digest

_UNSAFE = (".bin", ".index", ".msgpack", ".h5")  # weights in pickles and other formats that are never loaded
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "spm.model",
    "sentencepiece.model",
    "tekken.json",
)
# entries of a config that do not change the function that the model computes
_IDLE_CONFIG = (
    "_name_or_path",
    "transformers_version",
    "architectures",
    "id2label",
    "label2id",
    "torch_dtype",
    "dtype",
)


def resolve_path(path: str) -> str:
    """`package:PACKAGE/FOLDER` becomes that folder inside the installed package; anything else stays as it is.

    The package is located, not imported.

    Raises:
        TeacherError: it is not installed, or has no such folder.
    """
    if not path.startswith("package:"):
        return path
    package, _, inner = path.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise TeacherError(f"{path}: no package {package!r} is installed; try: pip install {package.replace('_', '-')}")
    root = Path(next(iter(spec.submodule_search_locations))).resolve()
    folder = (root / inner).resolve()
    if not folder.is_relative_to(root) or not folder.is_dir():
        raise TeacherError(f"{path}: package {package!r} has no folder {inner!r}")
    return str(folder)


def is_language_checkpoint(path: str) -> bool:
    """Whether a local folder's config.json says that it is a language model."""
    file = Path(path, "config.json")
    if not file.is_file():
        return False
    names = json.loads(file.read_text(encoding="utf-8")).get("architectures") or ()
    return any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def check_checkpoint(path: str, error: type[DistilectError] = TeacherError, *, weights: bool = True) -> None:
    """Refuse a local folder that is no checkpoint, or one whose weights are pickles only. Hub ids pass.

    Args:
        weights: false where the config alone is read.

    Raises:
        error: names what was found and what to do.
    """
    folder = Path(path)
    if not folder.exists():
        if path.startswith((".", "/", "~")) or path.count("/") > 1:
            raise error(f"no checkpoint at {path}: the folder does not exist")
        return
    if (folder / "adapter_config.json").is_file() and not any(folder.glob("model*.safetensors")):
        raise error(
            f"{path} is a PEFT adapter without its model: merge them once and give the new folder, to which the tokenizer belongs too: "
            f"peft.AutoPeftModelForSequenceClassification.from_pretrained({path!r}, num_labels=…).merge_and_unload()"
            ".save_pretrained(FOLDER)"
        )
    if not folder.is_dir() or not (folder / "config.json").is_file():
        raise error(f"{path} is no checkpoint: expected a folder with config.json and model.safetensors")
    if not weights:
        return
    if any(folder.glob("*.safetensors")):
        _check_index(folder, error)
        return
    if any(file.suffix in _UNSAFE for file in folder.iterdir()):
        raise error(
            f"{path} holds its weights as pickle only, which can run code when loaded: convert it once, where you trust it, "
            "with model.save_pretrained(folder) of transformers"
        )
    raise error(f"{path} is no checkpoint: it has config.json but no model.safetensors")


def _check_index(folder: Path, error: type[DistilectError]) -> None:
    """Refuse an index of shards outside this folder, which would read any file of the machine as weights."""
    for index in folder.glob("*.index.json"):
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            outside = [name for name in names if Path(name).name != name or "\\" in name]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
            raise error(f"{index} is no readable index of shards: {type(fault).__name__}") from None
        if outside:
            raise error(f"{index} names files outside its folder ({sorted(outside)[0]!r}): refused")


def load_pretrained(loader: Any, path: str, error: type[DistilectError] = TeacherError, **options: Any) -> Any:
    """`loader.from_pretrained` with safetensors only, no remote code, and errors of one line."""
    try:
        with quiet():
            return loader.from_pretrained(path, trust_remote_code=False, **options)
    except DistilectError:
        raise
    except Exception as fault:  # transformers raises nearly everything here, from KeyError to its own classes
        reason = " ".join(str(fault).split())[:300]
        raise error(f"cannot load {path}: {type(fault).__name__}: {reason}") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers while it loads: new heads and left-out layers are intended."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def head_remedy(path: str) -> str:
    """What to do with a checkpoint whose classification head is missing, for messages."""
    folder = Path(path)
    if any((folder / name).exists() for name in ("config_setfit.json", "model_head.pkl")):
        what = "SetFit keeps its head apart"
    elif any((folder / name).is_file() for name in ("modules.json", "config_sentence_transformers.json")):
        what = "a sentence-transformers encoder has no head"
    else:
        return "it was never fine-tuned for classification or regression; make a teacher of it with finetune:"
    return (
        f"{what}; give a function from texts to logits as teacher, distill(…, teachers=[function]) in Python, or fine-tune the encoder "
        "with finetune:"
    )


def fingerprint_parts(path: str, config: Any = None, tokenizer_path: str | None = None) -> dict[str, str]:
    """What a checkpoint's outputs depend on, each as a short hash: weights, config, tokenizer.

    A local folder is read whole (about 1 GB per second); a hub id that is not a folder counts by its commit.

    Args:
        tokenizer_path: folder or hub id of the tokenizer, where it is not the checkpoint's own.
    """
    folder = Path(path)
    if not folder.is_dir():
        commit = str(getattr(config, "_commit_hash", None))
        return {"weights": _hash(f"{path}@{commit}"), "config": "", "tokenizer": tokenizer_path or ""}
    weights = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        weights.update(file.name.encode())
        weights.update(bytes.fromhex(file_digest(file)))
    tokenizer, place = hashlib.sha256((tokenizer_path or "").encode()), Path(tokenizer_path or path)
    for name in _TOKENIZER_FILES:
        if (place / name).is_file():
            tokenizer.update(name.encode() + b"\0" + (place / name).read_bytes())
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    plain = {key: value for key, value in settings.items() if key not in _IDLE_CONFIG}
    return {
        "weights": weights.hexdigest()[:32],
        "config": _hash(json.dumps(plain, sort_keys=True)),
        "tokenizer": tokenizer.hexdigest()[:32],
    }


def combine(parts: Mapping[str, Any]) -> str:
    """One fingerprint, 32 hex digits, of named parts."""
    return _hash(json.dumps(dict(parts), sort_keys=True))


def checkpoint_fingerprint(path: str) -> str:
    """One fingerprint of everything in a checkpoint that its outputs depend on; a hub id counts by its present commit."""
    if Path(path).is_dir():
        return combine(fingerprint_parts(path))
    from transformers import AutoConfig

    return combine(fingerprint_parts(path, load_pretrained(AutoConfig, path)))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
