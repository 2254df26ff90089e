"""Teachers: frozen, in eval mode, off every module tree; checkpoints, tables of outputs, or functions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from distilect.config import TeacherConfig, TokenSignalConfig
from distilect.data import Encoded, Table, Units, encode, read_columns, read_word_columns
from distilect.errors import DataError, DistilectError, MethodError, TeacherError
from distilect.models.attention import PARTS, attention_maps, captured
from distilect.models.checkpoints import (
    check_checkpoint,
    combine,
    fingerprint_parts,
    head_remedy,
    load_pretrained,
    resolve_path,
)
from distilect.models.classifiers import Loaded, is_binary, load, load_classifier, output_order, split_binary_head
from distilect.models.language import check_language_model, output_head, token_pass
from distilect.models.layers import core_config, depth_of
from distilect.models.precision import autocast, default_device, resolve_precision
from distilect.models.row_index import RowIndex
from distilect.models.tokenizers import NO_LENGTH, fit_tokenizer, load_tokenizer, usable_length
from distilect.models.words import per_unit, split_words
from distilect.tasks import Task

FORMAT = 1  # of what is stored; higher when pooling or numbers change, so that older signals are computed anew


def per_token(field: str) -> bool:
    """Whether a field has a vector for every token of a row: `hidden.L`, and `query.L`, `key.L`, `value.L` of its attention; for every
    word: `words.…`."""
    return field.partition(".")[0] in ("hidden", "words", *PARTS)


def stored_name(field: str, table: Table) -> str:
    """The name of a field in the store: `words.FIELD` of a word table, where it has a value for every word."""
    return field if table.units is None else f"words.{field}"


class Teacher:
    """Base of all teachers: a name, a fingerprint of everything that the outputs depend on, and the fields that it gives.

    Attributes:
        order: the task's labels among the teacher's outputs; `outputs[:, order]` is in the task's order.
        thresholds: of a multi-label task, in the task's order, where its config holds some.
        parts: of the fingerprint, by name, so that a message can name what changed.
        copies: checkpoints of the same teacher, each fine-tuned without one fold of train (`data.fold_of`).
    """

    name: str
    order: list[int]
    thresholds: list[float] | None = None
    parts: dict[str, Any]
    copies: Sequence[Path] = ()

    @property
    def fingerprint(self) -> str:
        return combine({**self.parts, "format": FORMAT})

    def can(self, field: str) -> bool:
        """Whether the teacher gives `logits`, `cls.L`, `mean.L`, `hidden.L`, or `query.L`, `key.L`, `value.L`."""
        return field == "logits"


class CheckpointTeacher(Teacher):
    """A fine-tuned `AutoModelForSequenceClassification`, or for words `AutoModelForTokenClassification`, with its own tokenizer.

    A single logit, as cross-encoders have it, is read as the outputs [0, logit] of two classes.

    Args:
        path: a folder or hub id.
        max_length: in tokens; None: the length that comes with the checkpoint.
        precision: of the forward pass.
        labels: names of its outputs, where its config has none.
        tokenizer: folder or hub id, where it is not the checkpoint's.
        words: of a word table, `first`: a word is read at its first token; `mean`: logits and hidden states are means over its tokens
            (`models.words`). Students are always read at the first, as they are trained, exported and used.

    Raises:
        TeacherError: it cannot be loaded, or it does not fit the task or its tokenizer.
    """

    mean = False  # of the tokens of a word

    def __init__(
        self,
        name: str,
        path: str,
        task: Task,
        *,
        max_length: int | None,
        precision: str = "auto",
        labels: Sequence[str] | None = None,
        tokenizer: str | None = None,
        words: Literal["first", "mean"] = "first",
    ) -> None:
        self.name, self.path = name, resolve_path(path)
        check_checkpoint(self.path)
        loaded, own = load_classifier(self.path, TeacherError, task, labels)
        self._keep(loaded, max_length, precision, TeacherError, head_remedy(self.path), tokenizer=tokenizer)
        config = self.model.config
        self.order = output_order(name, config, own, task, labels)
        if task.kind == "multi-label":
            self.thresholds = _thresholds(name, config, self.order)
        if is_binary(config, task):
            split_binary_head(self.model)
            self.parts["outputs"] = "0, logit"
        if words == "mean":
            self.mean = True
            self.parts["words"] = "mean"

    def _keep(
        self,
        loaded: Loaded,
        max_length: int | None,
        precision: str,
        error: type[DistilectError],
        remedy: str,
        *,
        unread: tuple[str, ...] = (),
        tokenizer: str | None = None,
    ) -> None:
        """Freeze the model and load the tokenizer.

        Args:
            remedy: the end of the message about weights that the checkpoint lacks.
            unread: prefixes of weights that may be missing, as they come after what is read.
        """
        self.device = default_device()
        self.precision = resolve_precision(precision, self.device)
        missing = [key for key in loaded.missing if not key.startswith(unread)]
        if missing:  # transformers has filled them with random numbers
            shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
            raise error(f"{self.name}: {self.path} lacks {shown}: {remedy}")
        # in a list, so that a teacher kept on some module is never registered in it, put in train mode or saved
        self._model = [loaded.model.float().to(self.device).eval().requires_grad_(False)]
        self.tokenizer_path = resolve_path(tokenizer) if tokenizer else None
        self.tokenizer = load_tokenizer(self.tokenizer_path or self.path, error)
        longest = fit_tokenizer(self.model, self.tokenizer, self.name, error)
        self.max_length = usable_length(max_length, self.tokenizer, longest)
        self.parts = {
            **fingerprint_parts(self.path, self.model.config, self.tokenizer_path),
            "max_length": self.max_length,
            "precision": self.precision,
        }

    @property
    def model(self) -> Any:
        return self._model[0]

    @property
    def num_layers(self) -> int:
        return depth_of(self.model)

    @property
    def hidden_size(self) -> int:
        return int(core_config(self.model).hidden_size)

    def encode(self, table: Table) -> Encoded:
        """The table as the teacher's own tokens."""
        return encode(table, self.tokenizer, self.max_length, f"tokenising for {self.name}", mean=self.mean)

    def can(self, field: str) -> bool:
        if field == "logits":
            return True
        kind, _, layer = field.partition(".")
        if not layer.isdigit() or int(layer) > self.num_layers:
            return False
        if kind not in PARTS:
            return kind in ("cls", "mean", "hidden")
        try:
            return bool(attention_maps(self.model, int(layer)))
        except MethodError:
            return False

    @torch.no_grad()  # inference_mode's tensors could not be used in the student's loss
    def forward(self, inputs: Mapping[str, Tensor], fields: Sequence[str]) -> dict[str, Tensor]:
        """One batch.

        Args:
            inputs: of the teacher's own tokenizer, int64 [B, T]; with `words` those of a word table (`data.Encoded.collate`).
            fields: besides `logits`, which always come.

        Returns:
            logits float32 [B, C] in the teacher's own order; `cls.L` and `mean.L` float32 [B, H]; `hidden.L`, `query.L`, `key.L`,
            `value.L` float32 [B, T, H], padding included. Of a word table all are per word, [U, …].
        """
        inputs = {key: value.to(self.device) for key, value in inputs.items()}
        inner = [field for field in fields if field.partition(".")[0] in PARTS]
        wanted = [field for field in fields if field != "logits" and field not in inner]
        layers = sorted({int(field.partition(".")[2]) for field in inner})
        read, words = split_words(inputs)
        with autocast(self.precision, self.device), captured(self.model, layers) as attention:
            outputs = self.model(**read, output_hidden_states=bool(wanted))
        mask = inputs["attention_mask"].bool()
        if words is not None:
            found = {"logits": self._word_logits(outputs, words)}
            found |= {field: per_unit(attention[field].float(), words) for field in inner}
            for field in wanted:
                found[field] = per_unit(self._hidden(outputs, int(field.partition(".")[2]), mask), words)
            return found
        cls = classification_positions(inputs["input_ids"], mask, self.tokenizer.cls_token_id)
        found = {"logits": self._logits(outputs, mask, cls), **{field: attention[field].float() for field in inner}}
        for field in wanted:
            kind, _, layer = field.partition(".")
            found[field] = pool_tokens(kind, self._hidden(outputs, int(layer), mask), mask, cls)
        return found

    def _logits(self, outputs: Any, mask: Tensor, cls: Tensor) -> Tensor:
        """float32 [B, C] of a forward pass; `mask` bool [B, T], `cls` int64 [B]."""
        logits: Tensor = outputs.logits.float()
        return logits

    def _word_logits(self, outputs: Any, words: Tensor) -> Tensor:
        """float32 [U, C] of a forward pass; `words` int64 [B, W] or [B, W, M]."""
        return per_unit(outputs.logits.float(), words)

    def _hidden(self, outputs: Any, layer: int, mask: Tensor) -> Tensor:
        """float32 [B, T, H]; encoder-decoders and models that shorten the sequence have no such states."""
        states = getattr(outputs, "hidden_states", None)
        if states is None or len(states) <= layer or states[layer].shape[:2] != mask.shape:
            raise TeacherError(
                f"teacher {self.name!r} ({type(self.model).__name__}) gives no hidden state per token at layer {layer}: "
                "leave out feature and relation knowledge"
            )
        hidden: Tensor = states[layer].float()
        return hidden


class LanguageTeacher(CheckpointTeacher):
    """A language model, an `AutoModelForCausalLM`, with the student's own vocabulary.

    Args:
        max_length: rows are as long as that, and it has to read all of them.
        tokens: what is kept of its outputs, which the signals depend on.

    Raises:
        TeacherError: it cannot be loaded, is no language model, or reads shorter rows only.
    """

    def __init__(
        self,
        name: str,
        path: str,
        *,
        max_length: int,
        tokens: TokenSignalConfig,
        precision: str = "auto",
        tokenizer: str | None = None,
    ) -> None:
        self.name, self.path, self.tokens = name, resolve_path(path), tokens
        check_checkpoint(self.path)
        config = load_pretrained(AutoConfig, self.path)
        loaded = load(AutoModelForCausalLM, self.path, TeacherError, config)
        check_language_model(loaded.model, loaded.missing, f"teacher {name!r}", TeacherError)
        self._keep(loaded, max_length, precision, TeacherError, "", tokenizer=tokenizer)
        if self.max_length < max_length:
            raise TeacherError(
                f"teacher {name!r} reads {self.max_length} tokens at most, the rows have up to {max_length}: set train.max_length: {self.max_length}"
            )
        self.order = []
        self.parts["tokens"] = tokens.model_dump()
        self.head = output_head(self.model)

    @torch.no_grad()
    def forward(self, inputs: Mapping[str, Tensor], fields: Sequence[str]) -> dict[str, Tensor]:
        """One batch.

        Returns:
            `states`, what the output layer reads at each unit, [U, H]; `gold`, the token that follows, int64 [U]; and the fields per unit,
            float32 [U, H].
        """
        inputs = {key: value.to(self.device) for key, value in inputs.items()}
        inner = [field for field in fields if field.partition(".")[0] in PARTS]
        layers = sorted({int(field.partition(".")[2]) for field in inner})
        read, words = split_words(inputs)
        assert words is not None
        with autocast(self.precision, self.device), captured(self.model, layers) as attention:
            found = token_pass(self.model, read, words, self.model, hidden=len(inner) < len(fields))
        mask = inputs["attention_mask"].bool()
        values = {"states": found.states, "gold": found.gold}
        for field in fields:
            hidden = attention[field].float() if field in inner else None
            if hidden is None:
                hidden = self._hidden(found.outputs, int(field.partition(".")[2]), mask)
            values[field] = per_unit(hidden, words)
        return values


def classification_positions(input_ids: Tensor, attention_mask: Tensor, cls_token_id: int | None) -> Tensor:
    """int64 [B]: where each row's classification token stands: BERT's in front, XLNet's at the end.

    A tokenizer without one (decoders) reads the last token that is no padding.
    """
    mask = attention_mask.bool()
    places = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, places, -1).amax(1).clamp_min(0)
    if cls_token_id is None:
        return last
    found = (input_ids == cls_token_id) & mask
    return torch.where(found.any(1), found.int().argmax(1), last)


def same_tokens(student: Any, teacher: CheckpointTeacher) -> bool:
    """Whether teacher and student cut every text into exactly the same tokens; a trimmed student, every text that it is trained on."""
    ours, theirs = student.tokenizer, teacher.tokenizer
    trimmed = student.vocabulary
    if trimmed is not None and not trimmed.changed:
        ours = trimmed.whole
    return (
        student.max_length == teacher.max_length
        and ours.padding_side == theirs.padding_side
        and ours.get_vocab() == theirs.get_vocab()
        and _rules(ours) == _rules(theirs)
    )


def _rules(tokenizer: Any) -> str:
    """The tokenizer's pipeline without padding and truncation, which calls change."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return repr(tokenizer)
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(backend.to_str())
    copy.no_padding()
    copy.no_truncation()
    return str(copy.to_str())


def pool_tokens(kind: str, hidden: Tensor, mask: Tensor, cls: Tensor) -> Tensor:
    """[B, T, H] → [B, H] at the classification token or as the mean of real tokens; or all of it."""
    if kind == "cls":
        return hidden[torch.arange(len(hidden), device=hidden.device), cls]
    if kind == "mean":
        weight = mask.unsqueeze(-1)
        return (hidden * weight).sum(1) / weight.sum(1).clamp_min(1)
    return hidden


def _thresholds(name: str, config: Any, order: list[int]) -> list[float] | None:
    """Those that a run has chosen and kept in the config, one per label or one for all; None without any."""
    found = getattr(config, "thresholds", None)
    if found is None:
        return None
    values = [found] * len(order) if isinstance(found, float) else found
    fits = isinstance(values, list) and len(values) == len(order)
    if not fits or not all(isinstance(value, float) and 0 < value < 1 for value in values):
        raise TeacherError(
            f"{name!r}: thresholds in its config.json are {found!r}, expected {len(order)} probabilities between 0 and 1: correct them, or "
            "remove them for 0.5"
        )
    return [values[place] for place in order]


class TableTeacher(Teacher):
    """Outputs made elsewhere (an LLM's log-probabilities, another framework's model), joined by text.

    Args:
        file: CSV, TSV, JSONL or Parquet with the text column(s) and one number per label, in columns named like the labels
            (`score` in regression). Of a word table: JSONL or Parquet with a list of words, and in each column a list with a number per
            word.
        outputs: what the numbers are. Probabilities become logits by their logarithm, at least log(1e-7); in a multi-label task
            each label's is log(p / (1 - p)), with p from 1e-7 to 1 - 1e-7.
    """

    def __init__(self, name: str, file: Path, task: Task, outputs: str = "probabilities") -> None:
        self.name, self.file = name, file
        columns = ["score"] if task.kind == "regression" else list(task.labels)
        self.units: Units | None = None
        try:
            if task.kind == "tokens":
                ids, self.units, values = read_word_columns(file.resolve(), columns)
            else:
                ids, values = read_columns(file.resolve(), columns, task.num_texts)
        except DataError as error:
            raise TeacherError(f"teacher {name!r}: {error}") from None
        if not np.isfinite(values).all():
            row = int(np.nonzero(~np.isfinite(values).all(1))[0][0])
            row = row if self.units is None else int(self.units.rows(np.array([row]))[0])
            raise TeacherError(f"teacher {name!r}: {file}, row {row + 1} holds a value that is no finite number")
        exponents = outputs == "log_probabilities" and task.kind == "multi-label"
        values = np.exp(values) if exponents else values
        if exponents or (outputs == "probabilities" and task.kind != "regression"):
            if values.min() < 0 or values.max() > 1 + 1e-3:
                raise TeacherError(
                    f"teacher {name!r}: {file} has values outside [0, 1], expected probabilities: set outputs: logits?"
                )
            values = np.log(np.maximum(values, 1e-7)) if task.classes else _log_odds(values)
        self.index, self.logits = RowIndex.of(ids), values.astype(np.float32)
        self.order = list(range(len(columns)))
        self.parts = {
            "table": hashlib.sha256(file.read_bytes()).hexdigest()[:32],
            "outputs": outputs,
            "columns": columns,
        }

    def outputs_for(self, table: Table, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [b, C]: logits of some rows; of a word table [u, C], of their words.

        Raises:
            TeacherError: the table lacks some of them; the message counts them and shows the first.
        """
        places = self.index.find(table.ids[rows])
        missing = np.flatnonzero(places < 0)
        if len(missing):
            text = " | ".join(table.text([int(rows[missing[0]])])[0])[:80]
            raise TeacherError(
                f"teacher {self.name!r}: {self.file} has no outputs for {len(missing):,} of {len(rows):,} rows, the first is "
                f"{text!r}: score them too, or leave them out of the data"
            )
        return self.logits[places if self.units is None else self.units.of(places)]


def _log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    p = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return np.asarray(np.log(p / (1 - p)))


class CallableTeacher(Teacher):
    """A Python function from texts to logits.

    Args:
        function: list of texts (strings, or pairs for two texts) → array [N, C] in the task's label order, [N] or [N, 1] in
            regression; of a sigmoid for each label in a multi-label task. Of a word table: list of lists of words → list of arrays
            [W, C]. It is called once per chunk. Its outputs are stored
            under its name, its code and its attribute
            `fingerprint` (any string): change one of them when what the function calls has changed.
    """

    def __init__(self, name: str, function: Callable[[list[Any]], Any], task: Task) -> None:
        self.name, self.function, self.task = name, function, task
        self.order = list(range(task.num_outputs))
        code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
        self.parts = {
            "function": name,
            "code": hashlib.sha256(_code(code).encode()).hexdigest()[:32],
            "labels": list(task.labels),
            "fingerprint": str(getattr(function, "fingerprint", "")),
        }

    def outputs_for(self, table: Table, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [b, C]; of a word table [U, C].

        Raises:
            TeacherError: the function fails, or returns another shape or values that are no numbers.
        """
        texts: list[Any] = [t[0] if len(t) == 1 else t for t in table.text(rows)]
        if table.units is not None:
            texts = table.words(rows)
        try:
            given = self.function(texts)
            if table.units is not None:
                given = list(given)
                self._check_words(texts, given)
                given = np.concatenate([np.asarray(one, dtype=np.float32) for one in given])
            values = np.asarray(given, dtype=np.float32)
        except TeacherError:
            raise
        except Exception as error:  # anything may go wrong in the user's code
            raise TeacherError(
                f"teacher {self.name!r}: its function failed: {type(error).__name__}: {error}"
            ) from error
        if self.task.num_outputs == 1:
            values = values.reshape(len(values), -1)
        expected = (len(table.unit_index(rows)), self.task.num_outputs)
        if values.shape != expected:
            raise TeacherError(
                f"teacher {self.name!r}: its function returned shape {values.shape}, expected {expected}"
            )
        return values

    def _check_words(self, rows: list[list[str]], given: Any) -> None:
        """One array per row, with a line for each of its words."""
        if len(given) != len(rows):
            raise TeacherError(f"teacher {self.name!r}: its function returned {len(given)} rows, expected {len(rows)}")
        for words, one in zip(rows, given, strict=True):
            if len(one) != len(words):
                raise TeacherError(
                    f"teacher {self.name!r}: its function returned {len(one)} lines for {len(words)} words: {' '.join(words)[:60]!r}"
                )


def _code(code: Any) -> str:
    """A code object as text, without the addresses that differ from process to process."""
    if code is None:
        return ""
    constants = [_code(c) if hasattr(c, "co_code") else repr(c) for c in code.co_consts]
    return repr((code.co_code, code.co_names, constants))


def load_teacher(
    spec: TeacherConfig,
    task: Task,
    *,
    precision: str = "auto",
    max_length: int | None = 128,
    data_dir: Path = Path("."),
    tokens: TokenSignalConfig | None = None,
) -> Teacher:
    """The teacher that a config names: a checkpoint or a table.

    Args:
        max_length: in tokens, of a checkpoint that has none in `spec`; None: the length that comes with it.
        tokens: of a language model, what is kept of its outputs.

    Raises:
        TeacherError: it cannot be loaded, or its labels are not the task's.
    """
    if spec.words != "first" and task.kind != "tokens":
        name = spec.name or spec.path
        raise TeacherError(f"teacher {name!r}: words: {spec.words}, but the task is of kind {task.kind}: remove words")
    if task.kind == "causal-lm":
        return _language_teacher(spec, precision, max_length or NO_LENGTH, tokens or TokenSignalConfig())
    if spec.table is not None:
        file = data_dir / spec.table
        return TableTeacher(spec.name or file.stem, file, task, spec.outputs)
    if spec.path is None:
        raise TeacherError(f"teacher {spec.name!r} is still to be fine-tuned: it has no path yet")
    name = spec.name or Path(spec.path).name
    return CheckpointTeacher(
        name,
        spec.path,
        task,
        max_length=spec.max_length or max_length,
        precision=precision,
        labels=spec.labels,
        tokenizer=spec.tokenizer,
        words=spec.words,
    )


def _language_teacher(
    spec: TeacherConfig, precision: str, max_length: int, tokens: TokenSignalConfig
) -> LanguageTeacher:
    if spec.path is None or spec.labels is not None or spec.max_length not in (None, max_length):
        raise TeacherError(
            f"teacher {spec.name or spec.path or spec.table!r}: the teachers of a language model are checkpoints, path: or finetune:, without "
            "labels: and max_length: of their own"
        )
    name = spec.name or Path(spec.path).name
    return LanguageTeacher(
        name, spec.path, max_length=max_length, tokens=tokens, precision=precision, tokenizer=spec.tokenizer
    )
