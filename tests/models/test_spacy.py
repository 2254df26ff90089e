"""The tutorial's spaCy teacher: its own code, with spaCy where that is installed, and with a stub of the little that it uses."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from distilect.models import CallableTeacher
from distilect.signals import SignalStore, prepare_signals
from tests.site.blocks import blocks
from tests.tagging import table_of
from tests.training.helpers import TAGS

ROWS = [["she", "plays", "the", "grand", "piano", "in", "Rome"], ["nobody", "sings"], ["piano", "lid"]]
PATTERNS = [
    {"label": "PRODUCT", "pattern": "grand piano"},
    {"label": "PRODUCT", "pattern": "piano"},
    {"label": "GPE", "pattern": "Rome"},
]
EXPECTED = [["O", "O", "O", "B-thing", "I-thing", "O", "O"], ["O", "O"], ["B-thing", "O"]]


@dataclass
class StubDoc:
    """What the code uses of `spacy.tokens.Doc`: words with their place and entity; a new one has none, "" as in spaCy."""

    vocab: Any
    words: list[str]
    tokens: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = [SimpleNamespace(i=i, ent_iob_="", ent_type_="") for i in range(len(self.words))]

    def __iter__(self) -> Any:
        return iter(self.tokens)


class StubPipeline:
    """An entity ruler: the longest pattern that stands at a word."""

    vocab = None
    meta = {"name": "stub", "version": "1.0"}  # noqa: RUF012

    def pipe(self, docs: Any) -> Any:
        for doc in docs:
            at = 0
            while at < len(doc.words):
                found = [p for p in PATTERNS if doc.words[at : at + len(p["pattern"].split())] == p["pattern"].split()]
                best = max(found, key=lambda p: len(p["pattern"]), default=None)
                size = len(best["pattern"].split()) if best else 1
                for place, token in enumerate(doc.tokens[at : at + size]):
                    token.ent_iob_, token.ent_type_ = ("BI"[place > 0], best["label"]) if best else ("O", "")
                at += size
            yield doc


@pytest.fixture(params=["stub", "spacy"])
def pipeline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "stub":
        tokens = ModuleType("spacy.tokens")
        tokens.Doc = StubDoc  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "spacy", ModuleType("spacy"))
        monkeypatch.setitem(sys.modules, "spacy.tokens", tokens)
        return StubPipeline()
    made = pytest.importorskip("spacy").blank("en")
    made.add_pipe("entity_ruler").add_patterns(PATTERNS)
    return made


def test_the_tutorials_spacy_teacher_tags_words(pipeline: Any, tmp_path: Path) -> None:
    code = next(block for block in blocks("tutorial/words.md") if block.title == "with_spacy.py")
    space: dict[str, Any] = {}
    exec(compile(code.text, code.place, "exec"), space)
    assert tuple(space["TAGS"]) == TAGS.labels
    teacher = CallableTeacher("Spacy", space["Spacy"](pipeline, {"PRODUCT": "thing"}), TAGS)
    assert pipeline.meta["version"] in teacher.parts["fingerprint"]
    other = CallableTeacher("Spacy", space["Spacy"](pipeline, {"GPE": "thing"}), TAGS)
    assert other.fingerprint != teacher.fingerprint
    table = table_of([(words, ["O"] * len(words)) for words in ROWS])
    found = prepare_signals([teacher], table, SignalStore(tmp_path), [[]]).source
    assert found is not None
    logits = found.fetch(table, np.arange(len(ROWS)), [[]]).logits[:, 0]
    assert [TAGS.labels[i] for i in logits.argmax(1)] == [tag for tags in EXPECTED for tag in tags]
    np.testing.assert_allclose(logits.softmax(1).amax(1), 0.9, rtol=1e-3)
    np.testing.assert_allclose(logits.exp().sum(1), 1.0, rtol=1e-3)
