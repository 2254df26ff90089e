"""What scenarios do to rows: the right share, the same rows for the same seed, nothing else touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distilect.config import parse_config
from distilect.data import Data, Table
from distilect.errors import ConfigError, MethodError
from distilect.experiments.config import LearnsConfig, PartsConfig, ScenarioConfig
from distilect.experiments.oracle import oracle_knows
from distilect.experiments.scenarios import (
    experts_of,
    for_student,
    for_teacher,
    parts_of,
    truth_of,
    with_few_labels,
    with_noise,
)
from distilect.options import construct
from distilect.selection import SelectionContext
from distilect.selection.registry import TEACHERS
from distilect.tasks import Task
from tests.selection.views import make_view
from tests.tiny import SENTENCES, tiny_bert
from tests.training.helpers import toy_words

TASK = Task("toy", "classification", ("a", "b", "c"), ("accuracy",), 1)
SCORES = Task("toy", "regression", (), ("pearson",), 1)


def table(rows: int, regression: bool = False, seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    words = " ".join(SENTENCES).split()
    texts = [" ".join([f"w{i}", *rng.choice(words, size=int(rng.integers(3, 14)))]) for i in range(rows)]
    labels = rng.uniform(0, 5, rows).astype(np.float32) if regression else rng.integers(0, 3, rows)
    return Table.from_texts(texts, labels)


def data(regression: bool = False) -> Data:
    task = SCORES if regression else TASK
    return Data(task, table(200, regression), table(40, regression, 1), table(30, regression, 2))


def by_text(rows: Table) -> dict[str, Any]:
    return {text[0]: label for text, label in zip(rows.text(np.arange(len(rows))), rows.labels.tolist(), strict=True)}


@pytest.mark.parametrize("share", [0.2, 0.4, 1.0])
def test_flips_change_that_share_of_the_labels_to_other_classes(share: float) -> None:
    rows = table(200)
    found = with_noise(rows, share, TASK, 0, "x")
    changed = found.labels != rows.labels
    assert changed.sum() == round(share * 200)
    assert set(np.unique(found.labels)) <= {0, 1, 2}
    for label in range(3):  # stratified: each class loses its share
        assert changed[rows.labels == label].mean() == pytest.approx(share, abs=0.03)


def test_noise_is_a_function_of_seed_and_text() -> None:
    rows = table(200)
    shuffled = rows.take(np.random.default_rng(9).permutation(200))
    one, other = (with_noise(t, 0.3, TASK, 5, "x") for t in (rows, shuffled))
    assert by_text(one) == by_text(other)
    assert by_text(with_noise(rows, 0.3, TASK, 6, "x")) != by_text(one)
    assert by_text(with_noise(rows, 0.3, TASK, 5, "y")) != by_text(one)


def test_scores_are_mirrored() -> None:
    rows = table(100, regression=True)
    mirrored = with_noise(rows, 1.0, SCORES, 0, "x").labels
    assert np.corrcoef(mirrored, rows.labels)[0, 1] == pytest.approx(-1)
    assert mirrored.min() == pytest.approx(rows.labels.min(), abs=1e-5)


def test_few_labels_hide_the_others_and_lose_no_text() -> None:
    clean = data()
    found = with_few_labels(clean, 0.1, 0)
    assert (len(found.train), len(found.validation)) == (20, 4)
    assert found.extra is not None and not found.extra.has_label.any()
    texts = {*by_text(found.train), *by_text(found.validation), *by_text(found.extra)}
    assert texts == {*by_text(clean.train), *by_text(clean.validation)}
    assert set(by_text(found.validation)) <= set(by_text(clean.validation))  # teachers never saw these
    assert set(np.unique(found.train.labels)) == {0, 1, 2}
    assert by_text(with_few_labels(clean, 0.1, 0).train) == by_text(found.train)
    assert by_text(with_few_labels(clean, 0.1, 1).train) != by_text(found.train)


def test_the_student_s_noise_leaves_teachers_and_dev_alone() -> None:
    clean = data()
    seen = for_student(clean, ScenarioConfig(label_noise=0.4), 0)
    assert (seen.train.labels != clean.train.labels).sum() == 80
    assert (seen.validation.labels != clean.validation.labels).sum() == 16
    assert seen.dev is clean.dev
    assert for_teacher(clean, None, None, 0) is clean


def test_a_bad_teacher_learns_wrong_labels_and_a_specialist_its_part() -> None:
    clean = data()
    bad = for_teacher(clean, LearnsConfig(noise=1.0), None, 0)
    assert (bad.train.labels != clean.train.labels).all() and (bad.validation.labels != clean.validation.labels).all()
    parts = parts_of(PartsConfig(by="class", count=3), clean, _config("x"))
    found = [for_teacher(clean, LearnsConfig(part=k), parts, 0) for k in range(3)]
    assert sum(len(d.train) for d in found) == 200 and sum(len(d.validation) for d in found) == 40
    assert all(set(np.unique(d.train.labels)) == {k} for k, d in enumerate(found))
    with pytest.raises(ConfigError, match="sets no parts"):
        for_teacher(clean, LearnsConfig(part=0), None, 0)


def _config(student: str, **more: Any) -> Any:
    return parse_config({"data": {"train": "x"}, "student": student, "signals": {"precision": "fp32"}} | more)


def test_parts_by_cluster_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    clean = data()
    backbone = tiny_bert(tmp_path / "backbone", 2, 3)
    config = _config(backbone, output=str(tmp_path))
    parts = parts_of(PartsConfig(by="cluster", count=3), clean, config)
    order = np.random.default_rng(1).permutation(200)
    again = parts_of(PartsConfig(by="cluster", count=3), replace(clean, train=clean.train.take(order)), config)
    assert (parts(clean.train)[order] == again(clean.train.take(order))).all()
    assert len(np.unique(parts(clean.train))) == 3


def test_a_task_that_cannot_be_divided_by_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="is a regression task, expected 3 or more"):
        parts_of(PartsConfig(by="class"), data(regression=True), _config("x"))


def test_the_oracle_believes_whoever_is_nearest_to_the_hidden_label() -> None:
    clean = data()
    truth = truth_of(clean)
    rows = torch.tensor(list(truth)[:20])
    labels = torch.tensor([int(truth[int(r)]) for r in rows])
    right = torch.nn.functional.one_hot(labels, 3).float() * 4
    wrong = torch.nn.functional.one_hot((labels + 1) % 3, 3).float() * 4
    teachers = torch.stack([wrong, right], dim=1)
    teachers[::2] = teachers[::2].flip(1)
    hidden = torch.full((20,), -100)
    view = replace(make_view(20, 2, 3), keys=rows, labels=hidden, teachers=teachers)
    with oracle_knows(truth):
        weights = construct(TEACHERS, "oracle", "teacher selector").decide(view)
    assert weights[::2].tolist() == [[1.0, 0.0]] * 10 and weights[1::2].tolist() == [[0.0, 1.0]] * 10
    with pytest.raises(MethodError, match="no teacher selector is called 'oracle'"):
        construct(TEACHERS, "oracle", "teacher selector")


def test_the_oracle_by_part_believes_whoever_was_fine_tuned_on_the_row_s_part() -> None:
    clean = data()
    parts = parts_of(PartsConfig(by="class", count=2), clean, _config("x"))
    learned = {"even": LearnsConfig(part=0), "odd": LearnsConfig(part=1), "all": None}
    experts = experts_of(parts, learned, clean)
    assert len(experts) == len(clean.train) + len(clean.validation)
    keys, labels = clean.train.unit_keys()[:20], clean.train.labels[:20]
    view = replace(make_view(20, 3, 3), keys=torch.from_numpy(keys))
    with oracle_knows(truth_of(clean), experts):
        oracle = construct(TEACHERS, {"name": "oracle", "by": "part"}, "teacher selector")
        oracle.setup(SelectionContext(teachers=("all", "even", "odd"), kinds=("response",)))
        weights = oracle.decide(view)
    assert weights.argmax(1).tolist() == [2 if label % 2 else 1 for label in labels]
    with oracle_knows(truth_of(clean)), pytest.raises(ValueError, match="no teacher learns from a part"):
        construct(TEACHERS, {"name": "oracle", "by": "part"}, "teacher selector").setup(
            SelectionContext(teachers=("a",), kinds=("response",))
        )


# ---- multi-label ---------------------------------------------------------------------------------------------------

TOPICS = Task("topics", "multi-label", ("a", "b", "c"), ("micro_f1",), 1)


def topics() -> Data:
    rng = np.random.default_rng(0)
    parts = [table(rows, seed=seed) for seed, rows in enumerate((200, 40, 30))]
    labelled = (Table(t.texts, rng.integers(0, 2, (len(t), 3)).astype(np.int8), t.ids) for t in parts)
    return Data(TOPICS, *labelled)


def test_few_labels_hides_whole_sets_of_labels() -> None:
    found = with_few_labels(topics(), 0.1, seed=0)
    assert len(found.train) == 20 and found.train.has_label.all()
    assert found.extra is not None and not found.extra.has_label.any() and found.extra.labels.shape[1] == 3


def test_noise_and_parts_by_class_are_refused_in_a_multi_label_task() -> None:
    with pytest.raises(ConfigError, match="label noise is not defined"):
        for_student(topics(), ScenarioConfig(name="noisy", label_noise=0.2), 0)
    with pytest.raises(ConfigError, match="is a multi-label task, expected 3 or more: use by: cluster"):
        parts_of(PartsConfig(count=3, by="class"), topics(), None)  # type: ignore[arg-type]


def test_the_oracle_knows_all_labels_of_a_row() -> None:
    view = make_view(multi_label=True, classes=3)
    truth = dict(zip(view.keys.tolist(), view.labels.tolist(), strict=True))
    right = torch.where(view.labels == 1, 4.0, -4.0)
    teachers = torch.stack([-right, torch.zeros_like(right), right], dim=1)
    hidden = replace(view, labels=torch.full_like(view.labels, -100), teachers=teachers)
    with oracle_knows(truth):
        weights = construct(TEACHERS, {"name": "oracle"}, "teacher selector").decide(hidden)
    assert weights[:, 2].eq(1).all()


# ---- words -----------------------------------------------------------------------------------------------------------

NAMES = Task("toy-names", "tokens", ("O", "B-person", "I-person", "B-place"), ("entity_f1",), 1)


def words() -> Data:
    return Data(NAMES, toy_words(60), toy_words(20, 1), toy_words(10, 2))


def test_a_specialist_by_type_sees_all_other_types_as_outside() -> None:
    clean = words()
    clean.train.labels[:4] = (3, 1, 2, -100)
    found = for_teacher(clean, LearnsConfig(types=["person"]), None, 0)
    assert found.train.labels[:4].tolist() == [0, 1, 2, -100]
    kept = np.isin(clean.train.labels, (0, 1, 2, -100))
    assert (found.train.labels == np.where(kept, clean.train.labels, 0)).all()
    assert found.train.units is clean.train.units and found.dev is clean.dev
    with pytest.raises(ConfigError, match="no entities of type 'firm'; its types: person, place"):
        for_teacher(clean, LearnsConfig(types=["firm"]), None, 0)
    with pytest.raises(ConfigError, match="its types: none"):
        for_teacher(data(), LearnsConfig(types=["person"]), None, 0)


def test_few_labels_hide_whole_sentences() -> None:
    clean = words()
    found = with_few_labels(clean, 0.2, 0)
    assert len(found.train) == 12 and found.extra is not None and found.extra.num_labelled == 0
    assert found.train.has_label.all()
    assert found.train.num_units + found.extra.num_units + found.validation.num_units == sum(
        t.num_units for t in (clean.train, clean.validation)
    )


def test_noise_and_parts_by_class_are_refused_for_words() -> None:
    with pytest.raises(ConfigError, match="of kind tokens, for which label noise is not defined"):
        with_noise(words().train, 0.2, NAMES, 0, "x")
    with pytest.raises(ConfigError, match="is a tokens task"):
        parts_of(PartsConfig(by="class", count=2), words(), None)  # type: ignore[arg-type]


def test_the_oracle_knows_the_tag_of_each_word() -> None:
    clean = words()
    truth = truth_of(clean)
    for table in (clean.train, clean.validation):
        assert [truth[key] for key in table.unit_keys().tolist()] == table.labels.tolist()
