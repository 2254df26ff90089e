"""Teachers behind an API: a language model on any OpenAI-compatible server, asked through the official client.

A row is asked in the first of these ways that the server gives. Multi-label tasks and regressions are asked in the last one.

    completions   the log-probabilities of every label after the prompt, scored whole: one call with C prompts (`echo`)
    chat          the log-probabilities of the likeliest tokens of the answer, shared among the labels that they continue
    samples       counts of n answers, each drawn at temperature 1
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distilect.config import TeacherConfig
from distilect.errors import TeacherError
from distilect.models.label_answers import (
    Position,
    Vector,
    of_alternatives,
    of_numbers,
    of_samples,
    of_sets,
    of_whole_labels,
    plain,
)
from distilect.models.teachers import Teacher
from distilect.tasks import Task

TIMEOUT = 120.0  # seconds for one answer
RETRIES = 5  # of a request after 408, 409, 429, 5xx, a time-out or a lost connection; the client waits 0.5 to 8 s, or as the server says
TRIES = 3  # of a row whose answer cannot be read
LETTERS = 4  # per token, for estimates

CLASSES = "Which of these labels fits {them} best? Labels: {labels}\n\n{texts}\n\nAnswer with the label alone.\nLabel:"
SETS = "Which of these labels apply to {them}? Labels: {labels}\n\n{texts}\n\nAnswer with one label per line, or with none.\nLabels:"

# What each way adds to a request. Not every server has 20 alternatives per token, and some models take no settings at all.
WAYS: dict[str, dict[str, Any]] = {
    "completions": {"echo": True, "logprobs": 1, "max_tokens": 0},
    "chat": {"logprobs": True, "top_logprobs": 20, "temperature": 0},
    "chat-5": {"logprobs": True, "top_logprobs": 5, "temperature": 0},
    "samples": {"temperature": 1},
    "samples-plain": {},
}
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError)  # of an answer that is not as the API describes it


class _NotGiven(ValueError):
    """The server has left out what this way needs."""


@dataclass
class Answer:
    """What a row was answered.

    Attributes:
        logits: float32 [C]; None where there is no answer.
        why: there is none.
        status: of HTTP, where the server refused; 0 where it could not be reached.
        calls, tokens: what it took, with those that could not be read.
        off: of the samples, how many were no label.
    """

    logits: Vector | None = None
    why: str = ""
    status: int | None = None
    calls: int = 0
    tokens: int = 0
    off: int = 0


class EndpointTeacher(Teacher):
    """A language model behind an API, as a teacher of encoder students.

    It is asked by `signals.AskedReader`, which keeps every answer. The key is read from the environment for each client and kept nowhere else.

    Args:
        data_dir: folder that the prompt's path starts from.

    Attributes:
        way: a key of `WAYS`; None until `probe` has found it.
        row_calls: calls that a row takes.

    Raises:
        TeacherError: the task is of another kind, the prompt cannot be used, or two labels look the same.
    """

    def __init__(self, name: str, spec: TeacherConfig, task: Task, data_dir: Path = Path(".")) -> None:
        self.name, self.spec, self.task = name, spec, task
        if task.kind == "tokens":
            raise TeacherError(
                f"teacher {name!r}: an endpoint labels whole texts, the task labels words: store its outputs in a file, table:"
            )
        self._check_labels()
        self.prompt = self._prompt(data_dir)
        self.order = list(range(task.num_outputs))
        self.way: str | None = None
        self.row_calls = 1
        self.parts = {
            "endpoint": spec.model,
            "prompt": self.prompt,
            "samples": spec.samples,
            "labels": list(task.labels),
            "kind": task.kind,
        }

    @property
    def ways(self) -> list[str]:
        """Those to try, the best first."""
        return [way for way in WAYS if self.task.kind == "classification" or way.startswith("samples")]

    def describe(self) -> str:
        """How it is asked, for the user."""
        if self.way == "completions":
            return "by log-probabilities of whole labels (completions)"
        if self.way is not None and self.way.startswith("chat"):
            return "by log-probabilities of the likeliest tokens (chat)"
        return f"by {self.spec.samples} samples per row (chat)"

    def question(self, texts: Sequence[str]) -> str:
        """The prompt for a row. All places are filled at once, so that a text with `{labels}` in it stays as it is."""
        values = {"text": texts[0], "text_2": texts[-1], "labels": ", ".join(self.task.labels)}
        return re.sub(r"\{(text|text_2|labels)\}", lambda match: values[match[1]], self.prompt)

    def estimate(self, texts: Sequence[str]) -> int:
        """Tokens that a row takes, about: its prompt and its answers at four letters a token."""
        question, answer = len(self.question(texts)), self._longest // 2
        if self.way == "completions":
            return len(self.task.labels) * (question + answer) // LETTERS
        if self.way is not None and self.way.startswith("chat"):
            return (question + answer) // LETTERS
        return (self.row_calls * question + self.spec.samples * answer) // LETTERS

    # ---- asking ----------------------------------------------------------------------------------------------------

    def probe(self, rows: Sequence[Sequence[str]]) -> tuple[str, int, Answer]:
        """Find the first way that the server gives, by asking these rows until one is answered; (the way, the row's index, its answer).

        Raises:
            TeacherError: the server cannot be reached, refuses the key, or answers in no way.
        """
        spent, reasons = Answer(), dict[str, str]()
        for index, texts in enumerate(rows):
            for way in self.ways:
                self.way = way
                answer = self.answer(texts, probe=True)
                spent.calls, spent.tokens = spent.calls + answer.calls, spent.tokens + answer.tokens
                if answer.logits is not None:
                    self.row_calls = answer.calls
                    answer.calls, answer.tokens = spent.calls, spent.tokens
                    return way, index, answer
                self.refuse(answer, (0, 401, 403))
                reasons[way] = answer.why
        self.way = None
        shown = "; ".join(f"{way}: {why}" for way, why in reasons.items())
        raise TeacherError(
            f"teacher {self.name!r}: {self.spec.model} at {self.spec.endpoint} answers in no way that can be used: correct model: or "
            f"prompt: ({shown})"
        )

    def refuse(self, answer: Answer, statuses: Sequence[int]) -> None:
        """Raise if an answer failed for a reason that all others would fail for, too."""
        if answer.logits is not None or answer.status not in statuses:
            return
        where = f"teacher {self.name!r}: {self.spec.endpoint}"
        if answer.status == 0:
            raise TeacherError(
                f"{where} cannot be reached ({answer.why}): is the server running, and the address right?"
            )
        if answer.status in (401, 403):
            raise TeacherError(
                f"{where} refuses the key ({answer.why}): put it into the environment variable {self.spec.key}"
            )
        raise TeacherError(f"{where} does not know {self.spec.model} ({answer.why}): correct endpoint: or model:")

    def answer(self, texts: Sequence[str], *, probe: bool = False) -> Answer:
        """One row. May be called by several threads.

        Args:
            probe: ask once where the server leaves out what the way needs.
        """
        found = self._answer(texts, probe)
        if found.calls and not found.tokens:  # not every server says how many
            found.tokens = self.estimate(texts)
        return found

    def _answer(self, texts: Sequence[str], probe: bool) -> Answer:
        """The row, asked until the answer can be read."""
        spent, question = Answer(), self.question(texts)
        for _ in range(TRIES):
            try:
                logits, spent.off, said = self._ask(question, spent)
            except self._openai.APIResponseValidationError:
                spent.why = "the answer cannot be read"
            except self._openai.APIStatusError as error:
                spent.why, spent.status = self._said(error), error.status_code
                return spent
            except self._openai.APIConnectionError as error:
                spent.why, spent.status = self._said(error), 0
                return spent
            except _UNREADABLE as error:
                spent.why = f"the answer cannot be read: {self._said(error)}"
                if probe and isinstance(error, _NotGiven):
                    return spent
            else:
                spent.logits, spent.why = logits, "" if logits is not None else f"no label in {self._said(said)!r}"
                return spent
        return spent

    def _ask(self, question: str, spent: Answer) -> tuple[Vector | None, int, str]:
        """(logits, samples that are no label, the answer for messages)."""
        assert self.way is not None
        if self.way == "completions":
            return self._whole_labels(question, spent), 0, ""
        if self.way.startswith("chat"):
            return self._alternatives(question, spent)
        answers = self._samples(question, spent)
        labels = self.task.labels
        read: dict[str, Callable[[], tuple[Vector | None, int]]] = {
            "classification": lambda: of_samples(labels, answers),
            "multi-label": lambda: of_sets(labels, answers),
            "regression": lambda: of_numbers(answers),
        }
        return (*read[self.task.kind](), answers[0])

    def _whole_labels(self, question: str, spent: Answer) -> Vector:
        # the line's end closes a label that is the beginning of another one
        prompts = [f"{question.rstrip()} {label}\n" for label in self.task.labels]
        response = self._counted(
            lambda: self._client.completions.create(model=self.spec.model, prompt=prompts, **WAYS["completions"]), spent
        )
        choices = sorted(response.choices, key=lambda choice: choice.index)
        ends = [choice.text.rstrip().endswith(label) for choice, label in zip(choices, self.task.labels, strict=True)]
        tokens, logprobs = [c.logprobs.tokens for c in choices], [c.logprobs.token_logprobs for c in choices]
        # a prompt's first token has none; llama.cpp repeats the text, but has log-probabilities of what it adds alone
        whole = [
            one[0] is None and None not in one[1:] and len(one) == len(t)
            for t, one in zip(tokens, logprobs, strict=True)
        ]
        if not all(ends) or not all(whole):
            raise _NotGiven("it has no log-probabilities of the prompt")
        return of_whole_labels(tokens, logprobs)

    def _alternatives(self, question: str, spent: Answer) -> tuple[Vector | None, int, str]:
        choice = self._chat(question, spent, max_tokens=self._longest // 2 + 8).choices[0]
        positions = []
        for place in (choice.logprobs and choice.logprobs.content) or ():
            found = {_bytes(one): float(one.logprob) for one in place.top_logprobs}
            positions.append(Position(_bytes(place), {**found, _bytes(place): float(place.logprob)}))
        if not positions or any(len(position.alternatives) < 2 for position in positions[:1]):
            raise _NotGiven("it has no log-probabilities")
        return of_alternatives(self.task.labels, positions), 0, str(choice.message.content)

    def _samples(self, question: str, spent: Answer) -> list[str]:
        """As many answers as are wanted; a server that gives one per call is called so often."""
        found: list[str] = []
        while (rest := self.spec.samples - len(found)) > 0:
            limits = {} if self.way == "samples-plain" else {"max_tokens": self._longest + 16, "n": rest}
            texts = [choice.message.content for choice in self._chat(question, spent, **limits).choices]
            if not texts or not all(isinstance(text, str) for text in texts):
                raise ValueError("it has no text")
            found += texts
        return found[: self.spec.samples]

    def _chat(self, question: str, spent: Answer, **more: Any) -> Any:
        messages = [{"role": "user", "content": question}]
        assert self.way is not None
        options = {**WAYS[self.way], **more}
        return self._counted(
            lambda: self._client.chat.completions.create(model=self.spec.model, messages=messages, **options), spent
        )

    def _counted(self, call: Callable[[], Any], spent: Answer) -> Any:
        """The response; the call counts unless the server refused it, its tokens where it says how many."""
        try:
            response = call()
        except _UNREADABLE:
            spent.calls += 1
            raise
        spent.calls += 1
        total = getattr(getattr(response, "usage", None), "total_tokens", None)
        spent.tokens += total if isinstance(total, int) else 0
        return response

    # ---- the client ------------------------------------------------------------------------------------------------

    @cached_property
    def _openai(self) -> Any:
        try:
            import openai
        except ImportError:
            raise TeacherError(f"teacher {self.name!r} is behind an API: pip install 'distilect[api]'") from None
        return openai

    @cached_property
    def _client(self) -> Any:
        if self._key is None and self.spec.key != TeacherConfig.model_fields["key"].default:
            # its value is not shown: it may be a key that looks like a name
            raise TeacherError(f"teacher {self.name!r}: the environment variable that key: names is not set: export it")
        # servers of one's own need no key, but the client wants some text
        key = self._key or "none"
        return self._openai.OpenAI(base_url=self.spec.endpoint, api_key=key, max_retries=RETRIES, timeout=TIMEOUT)

    @property
    def _key(self) -> str | None:
        return os.environ.get(self.spec.key, "").strip() or None

    def _said(self, what: object) -> str:
        """What the server said, in one short line without the key."""
        text = " ".join(str(what).split())
        return (text.replace(self._key, "…") if self._key else text)[:160]

    # ---- the prompt ------------------------------------------------------------------------------------------------

    @property
    def _longest(self) -> int:
        """Letters of the longest answer that is expected."""
        labels = self.task.labels or ("0" * 8,)
        return sum(map(len, labels)) + len(labels) if self.task.kind == "multi-label" else max(map(len, labels))

    def _check_labels(self) -> None:
        seen: dict[str, str] = {}
        for label in self.task.labels:
            other = seen.setdefault(plain(label), label)
            if other != label or not plain(label):
                raise TeacherError(
                    f"teacher {self.name!r}: labels {other!r} and {label!r} cannot be told apart in an answer, where case and marks do not count: "
                    "rename one of them in the table"
                )

    def _prompt(self, data_dir: Path) -> str:
        pairs = self.task.num_texts == 2
        if self.spec.prompt is None:
            if self.task.kind == "regression":
                raise TeacherError(
                    f"teacher {self.name!r}: a regression needs prompt:, a text file that asks for a number and says on which scale"
                )
            texts = "Text 1: {text}\nText 2: {text_2}" if pairs else "Text: {text}"
            default = SETS if self.task.kind == "multi-label" else CLASSES
            return default.replace("{texts}", texts).replace("{them}", "the two texts" if pairs else "the text")
        file = data_dir / self.spec.prompt
        try:
            prompt = file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise TeacherError(f"teacher {self.name!r}: cannot read the prompt {file}: {reason}") from None
        lacks = [place for place in ("{text}", *(["{text_2}"] if pairs else [])) if place not in prompt]
        if lacks:
            raise TeacherError(
                f"teacher {self.name!r}: the prompt {file} lacks {', '.join(lacks)}, where a row's text goes"
            )
        return prompt


def _bytes(token: Any) -> bytes:
    """Of a token that is a part of a letter the text alone is not enough."""
    raw = getattr(token, "bytes", None)
    return bytes(raw) if raw else str(token.token).encode()
