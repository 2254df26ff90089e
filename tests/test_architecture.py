"""The map is true: a batch goes the way that docs/architecture.md says."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from tests.training.helpers import Bench

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\| (\d+) \| `([\w.]+)` \| `([\w/.]+)` \|", re.MULTILINE)


def hops() -> list[tuple[str, str]]:
    """(qualified name, file) of the figure's functions, in its order."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    found = ROW.findall(page)
    assert [int(number) for number, _, _ in found] == list(range(1, len(found) + 1))
    return [(name, file) for _, name, file in found]


def qualified_name(frame: FrameType) -> str:
    """`Class.function` of a method, `function` of others; `co_qualname` is not there in Python 3.10."""
    code, owner = frame.f_code, frame.f_locals.get("self")
    for cls in type(owner).__mro__:
        if getattr(cls.__dict__.get(code.co_name), "__code__", None) is code:
            return f"{cls.__name__}.{code.co_name}"
    return code.co_name


def traced(run: Any, wanted: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """The wanted functions in the order of their first calls."""
    seen: dict[tuple[str, str], None] = {}

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            found = qualified_name(frame), frame.f_code.co_filename.partition("src/distilect/")[2]
            if found in wanted:
                seen.setdefault(found)

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return list(seen)


def test_a_batch_goes_the_way_of_the_figure(tmp_path: Path) -> None:
    figure = hops()
    assert len(figure) <= 10
    trainer = Bench(tmp_path).trainer(
        {"name": "rlkd", "teachers": {"policy_updates": 20}}, epochs=1, batch_size=40, final_weights="last"
    )
    assert traced(trainer.train, set(figure)) == figure
