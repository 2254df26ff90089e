"""The code blocks of the documentation's pages, as a reader meets them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
LANGUAGES = ("bash", "python", "yaml", "text")
MARKS = {
    "hub": "needs a model hub or the internet: checked, not run",
    "long": "takes minutes with models of any size: checked, not run",
    "cluster": "needs several GPUs or machines: checked, not run",
    "server": "goes on until it is stopped: not run",
}


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        title: the file that it shows, where that is a plain name; "" otherwise.
        mark: a key of MARKS from the comment above it, or "".
    """

    page: str
    line: int
    language: str
    title: str
    mark: str
    text: str

    @property
    def place(self) -> str:
        return f"docs/{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Lines of a shell block; a backslash at the end joins two."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]


def pages() -> list[str]:
    """All pages, relative to docs/."""
    return sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def blocks(page: str) -> list[Block]:
    """The blocks of a page in their order."""
    found: list[Block] = []
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    index, mark = 0, ""
    while index < len(lines):
        line = lines[index]
        comment = re.fullmatch(r"<!-- (\w+) -->", line.strip())
        fence = re.match(r"(```+)(.*)$", line)
        if comment and comment[1] in MARKS:
            mark = comment[1]
        elif fence:
            end = next(i for i in range(index + 1, len(lines)) if lines[i].startswith(fence[1]))
            language, _, rest = fence[2].strip().partition(" ")
            title = re.search(r'title="([\w.-]+)"', rest)
            text = "\n".join(lines[index + 1 : end]) + "\n"
            found.append(Block(page, index + 1, language, title[1] if title else "", mark, text))
            index, mark = end, ""
        elif line.strip():
            mark = ""
        index += 1
    return found


def inline_commands(page: str) -> list[str]:
    """Commands of ours within the prose, such as `distilect methods`."""
    text = (DOCS / page).read_text(encoding="utf-8")
    prose = re.sub(r"(?ms)^```.*?^```", "", text)
    return re.findall(r"`(distilect [^`]+)`", prose)
