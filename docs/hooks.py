"""Parts of pages that are made from the code, and links to files that are not on the site. Named in mkdocs.yml under `hooks`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill in what is made from the code. A link to a file outside docs/ becomes the path of that file."""
    here = Path(config["docs_dir"]) / page.file.src_uri
    if "<!-- verbs -->" in markdown:
        markdown = markdown.replace("<!-- verbs -->", verbs())
    if "<!-- presets -->" in markdown:
        markdown = markdown.replace("<!-- presets -->", presets())
    return _LINK.sub(lambda link: _name(link, here, Path(config["docs_dir"])), markdown)


def verbs() -> str:
    """Every verb with its help, as the terminal shows it."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from distilect.cli import app

    runner, parts = CliRunner(env={"COLUMNS": "100", "TERM": "dumb"}), []
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        text = runner.invoke(app, [name, "--help"], prog_name="distilect").output.strip()
        parts.append(f"## {name}\n\n```text\n{text}\n```")
    return "\n\n".join(parts)


def presets() -> str:
    """A table of all methods."""
    from distilect.selection import presets as known

    lines = ["| preset | what it does | source |", "|---|---|---|"]
    lines += [f"| `{name}` | {preset.summary} | {preset.reference or '–'} |" for name, preset in known().items()]
    return "\n".join(lines)


def _name(link: re.Match[str], here: Path, docs: Path) -> str:
    """The path of the file, for a link that leaves docs/. A broken link stays, so that the strict build reports it."""
    target = (here.parent / link[2]).resolve()
    if target.is_relative_to(docs.resolve()) or not target.exists():
        return link[0]
    path = f"`{target.relative_to(ROOT)}`"
    return path if link[1].strip("`") in path else f"{link[1]} ({path})"
