"""Language models: every selector decides per token, and what holds for rows and words holds for tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from distilect.data import encode, row_keys
from distilect.errors import ConfigError, MethodError
from distilect.evaluation import predict
from distilect.pipeline.assembly import check_for_tokens, sampler_of
from distilect.selection import actor_critic, akskd, normalised_entropy
from distilect.selection.rlkd import ReinforcedTeachers
from distilect.selection.teacher_state import whole as whole_state
from distilect.signals import LiveSignals, Prepared, SignalStore, prepare_signals
from distilect.training import DistillationTrainer
from distilect.training.arguments import refuse_sharded
from tests.presets import LEARNED, each_preset, slow
from tests.training.helpers import EAGER, Bench, weights, whole_and_resumed


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), tokens=True)


def trained(bench: Bench, method: Any, name: str, **settings: Any) -> DistillationTrainer:
    trainer = bench.trainer(method, name=name, **settings)
    with mock.patch.multiple(akskd, RANDOM=0.0), mock.patch.multiple(actor_critic, UPDATES=4):
        trainer.train()
    return trainer


def same(first: DistillationTrainer, second: DistillationTrainer, **tolerance: float) -> None:
    one, other = weights(first), weights(second)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], **(tolerance or {"rtol": 0, "atol": 0}), err_msg=name)


def whole_logits(bench: Bench, trainer: DistillationTrainer) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain way: logits [U, V] of all units row by row, and the token that follows each, from the model itself."""
    table, logits, gold = bench.table, [], []
    assert table.tokens is not None and table.units is not None
    model = trainer.model.eval()
    for row in range(len(table)):
        ids = torch.from_numpy(table.tokens.ids[table.tokens.rows.of([row])].astype(np.int64))
        places = torch.from_numpy(table.tokens.places[table.units.of([row])].astype(np.int64))
        with torch.no_grad():
            logits.append(model(input_ids=ids[None]).logits[0, places - 1])
        gold.append(ids[places])
    return torch.cat(logits), torch.cat(gold)


# ---- outputs -------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_models_own_mean_over_the_tokens_of_completions(bench: Bench) -> None:
    trainer = bench.trainer("finetune", name="mean", epochs=1, batch_size=40, dropout=0.0)
    logits, gold = whole_logits(bench, trainer)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(float(F.cross_entropy(logits, gold)), rel=1e-5)


def test_a_step_has_the_models_own_gradients(bench: Bench) -> None:
    """Embeddings are tied: both of their gradients count."""
    trainer = bench.trainer("finetune", name="gradient", dropout=0.0, batch_size=40)
    ids = trainer.rows.encoded.collate(range(40))["input_ids"]
    labels = torch.full_like(ids, -100)
    assert bench.table.tokens is not None and bench.table.units is not None
    places = bench.table.tokens.places
    for row in range(40):
        own = torch.from_numpy(places[bench.table.units.of([row])].astype(np.int64))
        labels[row, own] = ids[row, own]
    model = trainer.model
    model(
        input_ids=ids, attention_mask=trainer.rows.encoded.collate(range(40))["attention_mask"], labels=labels
    ).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    trainer.units_in_step = bench.table.num_units
    trainer.compute_loss(model, trainer.rows.batch(list(range(40)))).backward()
    assert "lm_head.weight" not in expected and model.lm_head.weight is model.model.embed_tokens.weight
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_evaluation_keeps_four_exact_numbers_of_each_token(bench: Bench) -> None:
    trainer = bench.trainer("finetune", name="four")
    logits, gold = whole_logits(bench, trainer)
    log_p = logits.log_softmax(-1)
    found = torch.from_numpy(trainer.predict_rows(trainer.rows.encoded))
    torch.testing.assert_close(found[:, 0], log_p.gather(1, gold[:, None])[:, 0], rtol=1e-4, atol=1e-4)
    others = log_p.scatter(1, gold[:, None], -torch.inf)
    torch.testing.assert_close(found[:, 1], others.amax(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[:, :3].exp().sum(1), torch.ones(len(gold)), rtol=1e-4, atol=1e-4)
    assert torch.equal(found[:, 3].long(), log_p.argmax(1))
    scores = bench.task.score(found.numpy(), bench.table.labels)
    assert scores["accuracy"] == pytest.approx(float((log_p.argmax(1) == gold).float().mean()), abs=1e-6)
    assert scores["perplexity"] == pytest.approx(float(F.cross_entropy(logits, gold).exp()), rel=1e-4)


def test_selectors_see_the_entropy_over_the_whole_vocabulary(bench: Bench) -> None:
    trainer = bench.trainer("uniform", name="entropy")
    logits, _ = whole_logits(bench, trainer)
    p = logits.softmax(-1)
    expected = torch.special.entr(p).sum(-1) / np.log(logits.shape[1])
    found = trainer.probe.run_positions(np.arange(40), akskd_passes())[0]
    torch.testing.assert_close(normalised_entropy(found, tokens=True), expected.float(), rtol=1e-4, atol=1e-4)


def akskd_passes() -> Any:
    from distilect.selection import Passes

    return Passes()


def test_the_most_uncertain_fifth_of_the_tokens_asks(bench: Bench) -> None:
    """As the model's own entropy over its vocabulary ranks them (SE-KD)."""
    trainer = bench.trainer({"name": "dynamic-data", "rows": {"ratio": 0.2}}, name="fifth", batch_size=40, dropout=0.0)
    logits, _ = whole_logits(bench, trainer)
    entropy = torch.special.entr(logits.softmax(-1)).sum(-1)
    asked: list[torch.Tensor] = []
    add = trainer.records.add
    with mock.patch.object(
        trainer.records, "add", lambda b, v, r, s: (asked.append((b.units, r.asked)), add(b, v, r, s))
    ):
        trainer.model.train()
        trainer.units_in_step = bench.table.num_units
        trainer.compute_loss(trainer.model, trainer.rows.batch(list(range(40))))
    units, chosen = asked[0]
    count = int(0.2 * len(entropy))
    assert set(units[chosen.numpy()].tolist()) == set(entropy.argsort(descending=True)[:count].tolist())


# ---- methods -------------------------------------------------------------------------------------------------------

REFUSED = ("alignment", "adaptive")


@pytest.mark.parametrize("name", each_preset(LEARNED, without=REFUSED))
def test_every_preset_trains(bench: Bench, name: str) -> None:
    trainer = bench.trainer({"name": name, **EAGER.get(name, {})}, name=f"preset-{name}")
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    assert all(np.isfinite(values).all() for values in after.values())
    assert any((before[key] != after[key]).any() for key in before)
    line = next(line for line in trainer.records.recorder.table().to_pylist() if line["group"] == "all")
    assert line["rows"] == bench.table.num_units


def test_what_compares_class_by_class_is_refused(bench: Bench) -> None:
    refused = [
        *REFUSED,
        {"name": "rlkd", "teachers": {"reward": "alignment"}},
        {"name": "kd", "knowledge": {"response": {"distance": "mse"}}},
    ]
    for method in refused:
        spec = {"name": method} if isinstance(method, str) else method
        with pytest.raises(MethodError, match="class by class|distance: mse"):
            check_for_tokens(built(bench, spec))


def test_a_sharded_student_is_refused_in_a_line() -> None:
    refuse_sharded(language_model=False, adapters=False)
    with pytest.raises(ConfigError, match="sharded weights \\(FSDP\\) do not allow: train with DDP"):
        refuse_sharded(language_model=True, adapters=False)
    with pytest.raises(ConfigError, match="student.lora trains adapters alone.*train with DDP"):
        refuse_sharded(language_model=False, adapters=True)


def test_draws_are_for_kl_at_temperature_1(bench: Bench) -> None:
    """Elsewhere the loss would be biased, and nothing would say so."""
    check_for_tokens(built(bench, {"name": "kd", "temperature": 1}), "samples")
    for spec in ({"temperature": 4}, {"temperature": 1, "knowledge": {"response": {"distance": "js"}}}):
        method = built(bench, {"name": "kd", **spec})
        check_for_tokens(method)
        with pytest.raises(MethodError, match="set method.temperature=1 and distance: kl, or keep: top"):
            check_for_tokens(method, "samples")


def built(bench: Bench, spec: dict[str, Any]) -> Any:
    from distilect.config import MethodConfig
    from distilect.pipeline.assembly import assemble, layout_of
    from distilect.selection import build_teacher_selector

    config = MethodConfig.model_validate(spec)
    return assemble(config, layout_of(bench.student(), bench.teachers, bench.task), build_teacher_selector(config), 0)


@pytest.mark.parametrize("score", ["margin", "confidence", "spread"])
def test_scores_of_all_classes_are_refused(bench: Bench, score: str) -> None:
    with pytest.raises(ValueError, match="entropy or random"):
        bench.trainer({"name": "dynamic-data", "rows": {"score": score}}, name="score")


@pytest.mark.parametrize(
    "rows", ["uncertainty", "uncertainty-skip", "uncertainty-plan", *slow("random", "random-skip", "random-plan")]
)
def test_every_row_selector_chooses_tokens(bench: Bench, rows: str) -> None:
    trainer = trained(bench, {"name": "uniform", "rows": {"name": rows, "ratio": 0.4}}, f"rows-{rows}")
    assert all(np.isfinite(values).all() for values in weights(trainer).values())
    line = trainer.records.recorder.table().to_pylist()[0]
    if not rows.endswith("-plan"):
        assert line["rows"] == bench.table.num_units and 0.25 < line["asked"] < 0.6


@pytest.mark.parametrize("name", ["rlkd", *slow("uniform", "best-single", "dynamic-data")])
def test_rows_without_labels_learn_from_the_teachers(bench: Bench, name: str) -> None:
    whole = bench.table
    try:
        parts = whole.take(np.arange(20)), whole.take(np.arange(20, 40)).without_labels()
        bench.table = type(whole).concat(parts)
        trainer = trained(bench, {"name": name, **EAGER.get(name, {})}, f"half-{name}")
    finally:
        bench.table = whole
    assert all(np.isfinite(values).all() for values in weights(trainer).values())


# ---- invariances ---------------------------------------------------------------------------------------------------

KINDS: dict[str, Any] = {
    "name": "uniform",
    "knowledge": {"labels": {}, "response": {}, "feature": {}, "relation": {"dim": 4}, "attention": {}},
}
SPLIT: dict[str, tuple[Any, dict[str, Any]]] = {
    "all kinds": (KINDS, {}),
    "rlkd": ({"name": "rlkd", "teachers": {"policy_updates": 4}}, {}),
    "skip": ({"name": "dynamic-data", "rows": {"name": "uncertainty-skip", "ratio": 0.3}}, {}),
    "akskd": ({"name": "akskd", "loss_weights": {"phases": 3}}, {}),
}


@pytest.mark.parametrize("name", ["all kinds", *slow("rlkd", "skip", "akskd")])
def test_neither_the_token_budget_nor_accumulation_changes_the_training(bench: Bench, name: str) -> None:
    method, settings = SPLIT[name]
    settings = {"epochs": 1, "dropout": 0.0, **settings}
    whole = trained(bench, method, f"{name}-whole", **settings)
    for cut in ({"max_tokens": 32}, {"gradient_accumulation_steps": 2}):
        other = trained(bench, method, f"{name}-{next(iter(cut))}", **settings, **cut)
        same(whole, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rows", [{}, {"name": "uncertainty-skip"}], ids=str)
def test_all_tokens_asked_is_kd_bit_for_bit(bench: Bench, rows: dict[str, Any]) -> None:
    every = {"name": "dynamic-data", "rows": {"ratio": 1.0, **rows}}
    same(*(trained(bench, spec, "ratio", epochs=1, final_weights="last") for spec in ("kd", every)))


def test_equal_weights_of_the_teachers_are_uniform_bit_for_bit(bench: Bench) -> None:
    kept = {"name": "weighted", "teachers": {"values": [0.5, 0.5]}}
    same(*(trained(bench, spec, "equal", epochs=1, final_weights="last") for spec in ("uniform", kept)))


def test_tokens_are_scored_the_same_in_any_batch(bench: Bench) -> None:
    student = bench.student()
    encoded = encode(bench.table, student.tokenizer, 32)
    one, many = (predict(student.model, encoded, max_tokens=most, precision="fp32") for most in (1, 4096))
    np.testing.assert_allclose(one, many, atol=1e-4)
    order = np.arange(len(bench.table))[::-1].copy()
    reversed_ = predict(student.model, encoded, rows=order, precision="fp32")
    np.testing.assert_allclose(reversed_, many[bench.table.unit_index(order)], atol=1e-4)


def test_a_resumed_training_is_the_whole_one(bench: Bench, tmp_path: Path) -> None:
    def build(folder: Path, *callbacks: Any) -> DistillationTrainer:
        return bench.trainer({"name": "rlkd", **EAGER["rlkd"]}, name=str(folder), callbacks=list(callbacks))

    whole, resumed = whole_and_resumed(build, tmp_path, 4)
    same(whole, resumed[0])


def test_stored_and_live_signals_train_the_same_student(bench: Bench, tmp_path: Path) -> None:
    stored = prepare_signals(bench.teachers, bench.table, SignalStore(tmp_path), [[], []]).source
    live = LiveSignals(bench.teachers)
    first, second = (
        trained(bench, "uniform", "from", epochs=1, source=source, dropout=0.0) for source in (stored, live)
    )
    same(first, second, rtol=1e-4, atol=1e-5)


def test_the_sample_shows_tokens_in_their_completion(bench: Bench, tmp_path: Path) -> None:
    trainer = trained(bench, "best-single", "recorded", epochs=1)
    trainer.records.sample.write(tmp_path / "rows.parquet", bench.table, ())
    flat = [piece for row in bench.table.words(range(len(bench.table))) for piece in row]
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert len(rows) > 100
    for row in rows:
        assert row["label"] == flat[row["row"]] and f"[[{flat[row['row']]}]]" in row["text"]
        assert row["right/t0"] in (0.0, 1.0, None)


def test_examples_are_whole_completions_with_the_weights_of_the_last_epoch(bench: Bench, tmp_path: Path) -> None:
    trainer = trained(bench, {"name": "weighted", "teachers": {"values": [0.25, 0.75]}}, "examples", epochs=2)
    trainer.records.examples.write_tokens(tmp_path / "examples.parquet", bench.table)
    lines = pq.read_table(tmp_path / "examples.parquet").to_pylist()
    rows = sorted({line["row"] for line in lines})
    keys = row_keys(bench.table.ids)
    assert rows == sorted(np.argsort(keys)[:12].tolist())  # a random sample, whatever the order
    for row in rows:
        own = [line for line in lines if line["row"] == row]
        assert "".join(line["before"] + line["text"] for line in own) == bench.table.text([row])[0][0]
    assert {(line["epoch"], line["asked"], line["teacher/t0"], line["teacher/t1"]) for line in lines} == {
        (1, True, 0.25, 0.75)
    }


def test_the_policy_sees_where_a_token_stands(bench: Bench) -> None:
    trainer = bench.trainer({"name": "rlkd", **EAGER["rlkd"]}, name="position")
    selector = trainer.method.teachers
    batch = trainer.rows.batch([3, 5])
    assert batch.of_rows is not None and isinstance(selector, ReinforcedTeachers)
    student = torch.zeros(len(batch.units), 4)
    view = trainer.view_of(batch, student)
    expected = torch.cat([torch.linspace(0, 1, int(size)) for size in batch.of_rows.sizes])
    torch.testing.assert_close(view.position, expected)
    teachers = torch.randn(len(batch.units), 2, 4)
    index = torch.tensor([0, 4])
    common, own = selector.builder(view.take(index, teachers[index]), torch.ones(2, dtype=torch.bool))
    torch.testing.assert_close(whole_state(common, own)[..., -1], (2 * expected[index, None] - 1).expand(2, 2))
    sample = sampler_of(bench.table, Prepared(trainer.source))(16)
    order = {key: place for place, key in enumerate(bench.table.unit_keys().tolist())}
    assert bench.table.units is not None and sample.position is not None
    units = np.array([order[key] for key in sample.keys.tolist()])
    np.testing.assert_array_equal(sample.position.numpy(), bench.table.units.progress(units))


def test_perplexity_is_never_what_checkpoints_are_chosen_by() -> None:
    from distilect.tasks import Task

    with pytest.raises(ConfigError, match="lowest-loss"):
        Task("t", "causal-lm", (), ("perplexity", "accuracy"), 1)
