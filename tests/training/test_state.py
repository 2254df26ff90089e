"""Selector state in one file: what goes in comes out, and damage is told."""

from __future__ import annotations

import pytest
import torch

from distilect.errors import RunError
from distilect.training.state import load_state, save_state


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and one == other


def roundtrip(state, folder):
    save_state(state, folder / "state.safetensors")
    return load_state(folder / "state.safetensors")


NESTED = {
    "policy": {"weight": torch.randn(3, 2), "empty": torch.zeros(0, 4), "scalar": torch.tensor(2.5)},
    "ints": {0: torch.arange(3), 7: {"deep": [torch.ones(2, dtype=torch.bool), None, "text", 1.5, True, 3]}},
    "half": torch.randn(2).bfloat16(),
    "infinite": float("-inf"),
    "nothing": {},
    "list": [],
}


def test_nested_state_comes_back_with_its_types_and_keys(tmp_path):
    assert same(NESTED, roundtrip(NESTED, tmp_path))


@pytest.mark.parametrize("state", [{}, {"a": 1}, {"a": torch.zeros(())}])
def test_small_states_come_back(tmp_path, state):
    assert same(state, roundtrip(state, tmp_path))


def test_keys_whose_paths_look_alike_do_not_overwrite_each_other(tmp_path):
    state = {
        "a": {"b": torch.tensor(1.0), 0: torch.tensor(2.0), "0": torch.tensor(3.0)},
        "a/b": torch.tensor(4.0),
        "c": [torch.tensor(5.0)],
        "c/0": torch.tensor(6.0),
    }
    assert same(state, roundtrip(state, tmp_path))


def test_tensors_that_share_memory_or_are_views_are_saved_whole(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    state = {"base": base, "transposed": base.T, "row": base[1], "again": base}
    assert same(state, roundtrip(state, tmp_path))


def test_an_adam_optimiser_goes_on_as_if_it_had_never_stopped(tmp_path):
    def made():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.Adam(model.parameters(), lr=0.1, betas=(0.8, 0.9))

    def step(model, optimizer, n):
        for i in range(n):
            optimizer.zero_grad()
            (model(torch.full((1, 3), float(i + 1))) ** 2).sum().backward()
            optimizer.step()

    model, optimizer = made()
    step(model, optimizer, 3)
    loaded = roundtrip({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path)
    resumed, resumed_optimizer = made()
    resumed.load_state_dict(loaded["model"])
    resumed_optimizer.load_state_dict(loaded["optimizer"])
    assert list(loaded["optimizer"]["state"]) == [0, 1]
    step(model, optimizer, 3)
    step(resumed, resumed_optimizer, 3)
    assert torch.equal(model.weight, resumed.weight) and torch.equal(model.bias, resumed.bias)


def test_a_loaded_state_is_a_copy(tmp_path):
    weight = torch.zeros(2)
    loaded = roundtrip({"weight": weight}, tmp_path)
    weight += 1
    assert loaded["weight"].tolist() == [0.0, 0.0]


def test_saving_keeps_no_graph(tmp_path):
    assert not roundtrip({"w": torch.ones(2, requires_grad=True) * 2}, tmp_path)["w"].requires_grad


def test_saving_over_an_old_state_replaces_it_whole(tmp_path):
    roundtrip({"a": torch.zeros(1000)}, tmp_path)
    assert same({"b": 1}, roundtrip({"b": 1}, tmp_path))
    assert [f.name for f in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_save_that_fails_leaves_the_old_state(tmp_path):
    roundtrip({"a": 1}, tmp_path)
    with pytest.raises(TypeError):
        save_state({"a": object()}, tmp_path / "state.safetensors")
    assert load_state(tmp_path / "state.safetensors") == {"a": 1}


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:-1],
        lambda raw: b"\0" * 64,
        lambda raw: b"\xff" * 8 + raw[8:],
        lambda raw: raw[:20] + b"\xff\xfe" + raw[22:],
    ],
    ids=["empty", "half", "one byte short", "zeros", "huge header", "header bytes"],
)
def test_a_damaged_file_is_told_with_its_name_and_remedy(tmp_path, damage):
    path = tmp_path / "state.safetensors"
    save_state(NESTED, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match=r"state\.safetensors is missing or damaged.*remove that checkpoint"):
        load_state(path)


def test_a_single_bit_of_a_number_that_changed_is_told(tmp_path):
    """Such a file can still be read: only its checksum tells that a weight is not what was saved."""
    path = tmp_path / "state.safetensors"
    save_state(NESTED, path)
    raw = path.read_bytes()
    data = 8 + int.from_bytes(raw[:8], "little")  # where the numbers begin
    for place in range(data, len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 4]) + raw[place + 1 :])
        with pytest.raises(RunError, match="do not match its checksum"):
            load_state(path)


def test_a_plain_value_that_changed_is_told(tmp_path):
    path = tmp_path / "state.safetensors"
    save_state({"updates": 100, "weight": torch.zeros(1)}, path)
    raw = path.read_bytes()
    assert raw.count(b"100") == 1
    path.write_bytes(raw.replace(b"100", b"900"))
    with pytest.raises(RunError, match="do not match its checksum"):
        load_state(path)


def test_a_missing_file_and_a_foreign_one_are_told(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(RunError, match="missing or damaged"):
        load_state(tmp_path / "nowhere.safetensors")
    for metadata in (None, {"state": "[1, 2"}, {"state": '{"a": 1}'}, {"state": '{"__tensor__": "x"}'}):
        save_file({"w": torch.zeros(1)}, tmp_path / "other.safetensors", metadata=metadata)
        with pytest.raises(RunError, match="missing or damaged"):
            load_state(tmp_path / "other.safetensors")
