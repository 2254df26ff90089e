"""Comparisons: tasks × scenarios × students × methods × seeds, with statistics that hold."""

from distilect.experiments.compare import Comparison, compare, failed_text
from distilect.experiments.config import CompareConfig, load_compare
from distilect.experiments.engines import ENGINES, Engine
from distilect.experiments.estimate import Estimate, estimate
from distilect.experiments.grid import Cell, Grid
from distilect.experiments.publish import publish

__all__ = [
    "ENGINES",
    "Cell",
    "CompareConfig",
    "Comparison",
    "Engine",
    "Estimate",
    "Grid",
    "compare",
    "estimate",
    "failed_text",
    "load_compare",
    "publish",
]
