"""What can be copied from teachers and labels: each kind gives one value per row (and teacher), never reduced."""

from distilect.knowledge.base import Knowledge, Layout, StudentOutputs
from distilect.knowledge.registry import KNOWLEDGE, build_knowledge
from distilect.knowledge.response import Response

__all__ = ["KNOWLEDGE", "Knowledge", "Layout", "Response", "StudentOutputs", "build_knowledge"]
