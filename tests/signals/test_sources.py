"""Stored and live signals are one interface with the same values, whatever the order, batch or family."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distilect.config import TeacherConfig
from distilect.data import Table, encode, scoring_batches
from distilect.errors import SignalError, TeacherError
from distilect.models import CheckpointTeacher, load_teacher
from distilect.signals import LiveSignals, SignalSource, SignalStore, prepare_signals
from distilect.tasks import Task
from tests.signals.helpers import TASK, load, pool, table
from tests.tiny import save, tiny_bert, wordpiece_tokenizer

FIELDS = ["cls.2", "mean.1", "hidden.0", "hidden.2"]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[CheckpointTeacher]:
    return pool(tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def stored(teachers: list[CheckpointTeacher], tmp_path_factory: pytest.TempPathFactory) -> SignalSource:
    source = prepare_signals(teachers, table(), SignalStore(tmp_path_factory.mktemp("store")), [FIELDS] * 4).source
    assert source is not None
    return source


def reference(teacher: CheckpointTeacher, text: str) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """One row through plain transformers, alone and without padding: logits in the task's order, hidden states, token ids."""
    model = AutoModelForSequenceClassification.from_pretrained(teacher.path, use_safetensors=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(teacher.path)
    inputs = tokenizer([text], truncation=True, max_length=24, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs, output_hidden_states=True)
    order = [model.config.label2id[label] for label in TASK.labels]
    return outputs.logits[0, order], [h[0] for h in outputs.hidden_states], inputs["input_ids"][0]


@pytest.mark.parametrize("k", range(4))
def test_signals_are_what_plain_transformers_says_in_the_tasks_label_order(
    stored: SignalSource, teachers: list[CheckpointTeacher], k: int
) -> None:
    rows = np.array([3, 11, 0])
    found = stored.fetch(table(), rows, [FIELDS] * 4)
    for i, row in enumerate(rows):
        logits, hidden, ids = reference(teachers[k], table().text([row])[0][0])
        cls = teachers[k].tokenizer.cls_token_id
        position = len(ids) - 1 if cls is None else ids.tolist().index(cls)
        said = found.fields[k]
        torch.testing.assert_close(found.logits[i, k], logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(said["cls.2"][i], hidden[2][position], atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(said["mean.1"][i], hidden[1].mean(0), atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(said["hidden.2"][i, : len(ids)], hidden[2], atol=2e-3, rtol=2e-3)
        assert not said["hidden.2"][i, len(ids) :].any()


def test_stored_equals_live(stored: SignalSource, teachers: list[CheckpointTeacher]) -> None:
    rows = np.random.default_rng(1).permutation(30)[:13]
    ours = stored.fetch(table(), rows, [FIELDS] * 4)
    live = LiveSignals(teachers, max_tokens=50)  # other batches than those of scoring
    theirs = live.fetch(table(), rows, [FIELDS] * 4)
    assert ours.logits.dtype == theirs.logits.dtype == torch.float32
    torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=1e-5)
    for one, other in zip(ours.fields, theirs.fields, strict=True):
        assert list(one) == list(other) == FIELDS
        for name in FIELDS:
            torch.testing.assert_close(one[name], other[name], atol=4e-3, rtol=2e-3)
    assert (stored.forwards, live.forwards) == (0, 4 * 13)


def test_signals_follow_the_row_when_the_table_is_shuffled_and_cut(stored: SignalSource) -> None:
    order = np.random.default_rng(2).permutation(30)[:20]
    shuffled = table().take(order)
    here = stored.fetch(shuffled, np.arange(20), [["hidden.2"]] * 4)
    there = stored.fetch(table(), order, [["hidden.2"]] * 4)
    assert (here.logits == there.logits).all()
    assert all((a["hidden.2"] == b["hidden.2"]).all() for a, b in zip(here.fields, there.fields, strict=True))


def test_the_order_of_the_asked_rows_is_kept(stored: SignalSource, teachers: list[CheckpointTeacher]) -> None:
    rows = np.array([9, 1, 9, 4])
    for source in (stored, LiveSignals(teachers)):
        one_by_one = torch.cat([source.fetch(table(), rows[i : i + 1], [[]] * 4).logits for i in range(4)])
        torch.testing.assert_close(source.fetch(table(), rows, [[]] * 4).logits, one_by_one, atol=1e-5, rtol=1e-5)


def test_no_rows_are_no_error(stored: SignalSource, teachers: list[CheckpointTeacher]) -> None:
    for source in (stored, LiveSignals(teachers)):
        found = source.fetch(table(), np.arange(0), [["cls.2", "hidden.2"]] * 4)
        assert found.logits.shape == (0, 4, 3)
        assert found.fields[0]["cls.2"].shape == (0, 16)


def test_a_field_that_was_not_prepared_is_refused(stored: SignalSource) -> None:
    with pytest.raises(SignalError, match="cls.1 of teacher 'bert' was not prepared; there are logits, cls.2"):
        stored.fetch(table(), np.arange(1), [["cls.1"]] * 4)


def test_signals_carry_no_autograd_graph_but_can_stand_in_a_loss(
    stored: SignalSource, teachers: list[CheckpointTeacher]
) -> None:
    student = torch.randn(2, 4, 3, requires_grad=True)
    for source in (stored, LiveSignals(teachers)):
        found = source.fetch(table(), np.arange(2), [["cls.2"]] * 4)
        assert not found.logits.requires_grad and not found.fields[0]["cls.2"].requires_grad
        (student * found.logits).sum().backward()  # an inference tensor would be refused here


def test_every_teacher_reads_the_text_with_its_own_tokenizer(teachers: list[CheckpointTeacher]) -> None:
    widths = {t.name: encode(table(), t.tokenizer, t.max_length).lengths.tolist() for t in teachers}
    assert widths["bert"] != widths["roberta"]
    live = LiveSignals(teachers).fetch(table(), np.arange(5), [["hidden.1"]] * 4)
    for teacher, said in zip(teachers, live.fields, strict=True):
        assert said["hidden.1"].shape[1] == max(widths[teacher.name][:5])


def test_outputs_are_identical_before_and_after_a_student_is_trained(tmp_path: Path) -> None:
    teacher = load(tiny_bert(tmp_path, TASK.labels, 1))
    live = LiveSignals([teacher])
    before = live.fetch(table(), np.arange(10), [["hidden.2"]])
    student = torch.nn.Linear(16, 3)
    student.teacher = teacher  # type: ignore[assignment]
    student.train()
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    said = live.fetch(table(), np.arange(10), [["cls.2"]])
    ((student(said.fields[0]["cls.2"]) - said.logits[:, 0]) ** 2).sum().backward()
    optimizer.step()
    after = live.fetch(table(), np.arange(10), [["hidden.2"]])
    assert (before.logits == after.logits).all()
    assert (before.fields[0]["hidden.2"] == after.fields[0]["hidden.2"]).all()
    assert set(student.state_dict()) == {"weight", "bias"}


def test_a_family_without_hidden_states_per_token_says_so(tmp_path: Path) -> None:
    from transformers import BartConfig

    config = BartConfig(
        vocab_size=200,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=3,
    )
    live = LiveSignals([load(save(tmp_path, config, wordpiece_tokenizer(), TASK.labels, 0))])
    assert live.fetch(table(), np.arange(3), [[]]).logits.shape == (3, 1, 3)
    with pytest.raises(TeacherError, match="Bart.* gives no hidden state per token at layer 1"):
        live.fetch(table(), np.arange(3), [["hidden.1"]])


def test_nan_of_a_live_teacher_is_refused(tmp_path: Path) -> None:
    teacher = load(tiny_bert(tmp_path, TASK.labels, 1))
    teacher.model.classifier.bias.fill_(float("inf"))
    with pytest.raises(TeacherError, match="gives NaN or infinity"):
        LiveSignals([teacher]).fetch(table(), np.arange(3), [[]])


def test_logits_are_float32_under_bf16_too(tmp_path: Path) -> None:
    path = tiny_bert(tmp_path, TASK.labels, 1)
    exact = LiveSignals([load(path)]).fetch(table(), np.arange(9), [["cls.1"]])
    rough = LiveSignals([load(path, precision="bf16")]).fetch(table(), np.arange(9), [["cls.1"]])
    assert rough.logits.dtype == rough.fields[0]["cls.1"].dtype == torch.float32
    torch.testing.assert_close(rough.logits, exact.logits, atol=0.05, rtol=0.05)


def test_a_regression_teacher_gives_one_output(tmp_path: Path) -> None:
    task = Task("scores", "regression", (), ("pearson",), 1)
    teacher = load_teacher(TeacherConfig(path=tiny_bert(tmp_path / "m", 1, 1)), task, precision="fp32")
    source = prepare_signals([teacher], table(), SignalStore(tmp_path / "s"), [[]]).source
    assert source is not None
    assert source.fetch(table(), np.arange(4), [[]]).logits.shape == (4, 1, 1)


def test_pairs_of_texts_are_read_as_pairs(tmp_path: Path) -> None:
    task = Task("pairs", "classification", ("no", "yes"), ("accuracy",), 2)
    path = tiny_bert(tmp_path, ["no", "yes"], 1)
    teacher = load_teacher(TeacherConfig(path=path), task, precision="fp32")
    pairs = Table.from_texts([("a dull story", "the film"), ("a dull", "story the film")])
    logits = LiveSignals([teacher]).fetch(pairs, np.arange(2), [[]]).logits
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.slow
def test_scoring_is_at_least_nine_tenths_as_fast_as_bare_forward_passes(tmp_path: Path) -> None:
    teacher = load(tiny_bert(tmp_path / "m", TASK.labels, 1, layers=6, hidden=192))
    rows = table(6000)
    tokens = encode(rows, teacher.tokenizer, teacher.max_length)
    batches = [tokens.collate(batch) for batch in scoring_batches(tokens.lengths, 8192)]

    def bare() -> float:
        started = time.perf_counter()
        with torch.no_grad():
            for inputs in batches:
                teacher.model(**inputs)
        return time.perf_counter() - started

    def scored(attempt: int) -> float:
        started = time.perf_counter()
        prepare_signals([teacher], rows, SignalStore(tmp_path / str(attempt)), [[]], max_tokens=8192)
        return time.perf_counter() - started

    bare()
    pairs = [(bare(), scored(attempt)) for attempt in range(3)]
    assert max(one / other for one, other in pairs) >= 0.9
