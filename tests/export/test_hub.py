"""Pushing: checked before it is sent, sent with the user's login, private unless asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from distilect.errors import ExportError
from distilect.export import check_card, export_run
from tests.export.runs import finished_run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A hub that notes what it is asked; somebody is logged in."""
    calls: list[Any] = []

    class Api:
        endpoint, token = "https://hub.test", "hf_x"

        def __init__(self, **_: Any) -> None:
            pass

        def create_repo(self, name: str, **options: Any) -> None:
            calls.append(("create", name, options))

        def upload_folder(self, **options: Any) -> None:
            calls.append(("upload", options["repo_id"], Path(options["folder_path"])))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub.ModelCard, "validate", lambda self: calls.append(("validate",)))
    return calls


def test_the_hub_validates_the_card_before_anything_is_made(tmp_path: Path, hub: list[Any]) -> None:
    run = finished_run(tmp_path)
    done = export_run(run, repository="me/small")
    assert done.address == "https://hub.test/me/small"
    assert hub == [
        ("validate",),
        ("create", "me/small", {"exist_ok": True, "private": True}),
        ("upload", "me/small", run / "student"),
    ]


def test_public_is_asked_for(tmp_path: Path, hub: list[Any]) -> None:
    export_run(finished_run(tmp_path), repository="me/small", public=True)
    assert hub[1][2]["private"] is False


def test_a_card_that_the_hub_refuses_stops_the_push(
    tmp_path: Path, hub: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any) -> None:
        raise ValueError("license must be one of …")

    monkeypatch.setattr(huggingface_hub.ModelCard, "validate", refuse)
    with pytest.raises(ExportError, match="refused the model card: license must be"):
        export_run(finished_run(tmp_path), repository="me/small")
    assert hub == []


@pytest.mark.parametrize("name", ["small", "me/small/er", "me/sm all", "-me/small", ""])
def test_a_name_that_cannot_be_is_refused_before_any_work(tmp_path: Path, hub: list[Any], name: str) -> None:
    run = finished_run(tmp_path)
    with pytest.raises(ExportError, match="--push"):
        export_run(run, repository=name)
    assert hub == [] and not (run / "export.json").exists()


def test_without_a_login_the_error_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(ExportError, match="hf auth login"):
        export_run(finished_run(tmp_path), repository="me/small")


def test_without_a_network_the_error_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    with pytest.raises(ExportError, match="Hub"):  # HF_HUB_OFFLINE=1 in all tests
        export_run(finished_run(tmp_path), repository="me/small")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("# no metadata", "has no metadata"),
        ("---\nlicense: [\n---\n# x", "would refuse"),
        ("---\nmodel-index:\n- name: x\n  results: wrong\n---\n# x", "would refuse"),
    ],
)
def test_a_card_with_wrong_metadata_is_found_offline(tmp_path: Path, text: str, fault: str) -> None:
    card = tmp_path / "README.md"
    card.write_text(text)
    with pytest.raises(ExportError, match=fault):
        check_card(card)


def test_every_card_that_is_written_passes(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    export_run(run, license="apache-2.0", base_model="owner/model", language="en")
    card = check_card(run / "student" / "README.md")
    assert card.data.license == "apache-2.0" and card.data.eval_results
