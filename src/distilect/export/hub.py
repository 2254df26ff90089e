"""A student on the Hugging Face Hub: its card checked as the Hub checks it, its folder sent with the user's own login."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not listed

from distilect.errors import ExportError


def check_card(path: str | Path) -> ModelCard:
    """The model card in `path`, read by `huggingface_hub`, which refuses metadata that it does not understand.

    Works offline; `push` has the Hub itself validate the card too.

    Raises:
        ExportError: there is none, or its metadata is wrong.
    """
    try:
        card = ModelCard.load(path, ignore_metadata_errors=False)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise ExportError(f"{path}: the Hub would refuse this model card: {_line(error)}") from None
    if not card.data.to_dict():
        raise ExportError(f"{path}: the model card has no metadata: expected YAML between two lines of ---")
    return card


def check_name(repository: str) -> None:
    """Refuse a name that no repository can have.

    Raises:
        ExportError: it is not OWNER/NAME.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ExportError(f"--push {repository}: {_line(error)}") from None
    if repository.count("/") != 1:
        raise ExportError(f"--push {repository!r}: expected OWNER/NAME, such as my-team/small-model")


def push(folder: Path, repository: str, *, public: bool = False) -> str:
    """Upload a student's folder to `repository` (made if it is new, private unless `public`) and return its address.

    The login is the one of `hf auth login`, or `HF_TOKEN`.

    Raises:
        ExportError: nobody is logged in, the Hub refuses, or there is no network.
    """
    card = check_card(folder / "README.md")
    api = huggingface_hub.HfApi(library_name="distilect")
    if api.token is None and huggingface_hub.get_token() is None:
        raise ExportError("nobody is logged in: run `hf auth login`, or set HF_TOKEN, then push again")
    try:
        card.validate()
        api.create_repo(repository, exist_ok=True, private=not public)
        message = "Student distilled with distilect"
        hidden = [".*", "*.tmp"]
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message, ignore_patterns=hidden)
    except HfHubHTTPError as error:
        raise ExportError(f"the Hub refused {repository}: {_line(error)}") from None
    except ValueError as error:
        raise ExportError(f"the Hub refused the model card: {_line(error)}") from None
    except OSError as error:  # as network errors are
        raise ExportError(f"the Hub could not be reached: {_line(error)}") from None
    return f"{api.endpoint}/{repository}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
