"""All kinds of knowledge by name: one line each. Order is the order of the M axis of a loss-weight selector's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distilect.knowledge.attention import Attention
from distilect.knowledge.base import Knowledge, Layout
from distilect.knowledge.feature import Feature
from distilect.knowledge.labels import Labels
from distilect.knowledge.pooled import Pooled
from distilect.knowledge.relation import Relation, Similarity
from distilect.knowledge.response import Divergence, Response
from distilect.options import construct

KNOWLEDGE: dict[str, type[Knowledge]] = {
    kind.name: kind for kind in (Labels, Response, Feature, Relation, Similarity, Pooled, Attention, Divergence)
}


def build_knowledge(spec: Mapping[str, Mapping[str, Any] | None], layout: Layout) -> list[Knowledge]:
    """The kinds that `spec` (name → options) asks for, in the spec's order.

    Raises:
        MethodError: an unknown kind or option, or a kind that does not fit the models.
    """
    return [
        construct(KNOWLEDGE, {"name": name, **(options or {})}, "kind of knowledge", layout=layout)
        for name, options in spec.items()
    ]
