"""What training costs, beside the steps themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FORWARD_SHARE = 1 / 3  # of a training token's operations: a pass without gradient costs 2 of 6 per parameter


@dataclass
class Counts:
    """Tokens and rows that the student was trained on, and further amounts by name.

    `extra` holds `teacher_rows` (rows that teachers were asked on), `probed_rows` and `forward_tokens` (rows that the student was
    run on for selectors, and their tokens) and `seconds`.
    """

    tokens: int = 0
    rows: int = 0
    extra: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, amount: float) -> None:
        """Add to an amount."""
        self.extra[name] = self.extra.get(name, 0.0) + amount

    @property
    def student_tokens(self) -> float:
        """Tokens that the student was trained on, and a third of those that it was run on without gradient for selectors."""
        return self.tokens + FORWARD_SHARE * self.extra.get("forward_tokens", 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "rows": self.rows, "extra": dict(self.extra)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.tokens, self.rows, self.extra = int(state["tokens"]), int(state["rows"]), dict(state["extra"])
