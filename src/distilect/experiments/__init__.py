"""Comparisons of methods: tasks × scenarios × students × methods × seeds, with tests of the differences.

Read in this order: `config` (the options) → `trials` (which students) → `runner` (how one is trained) → `jobs` and `engines` (where)
→ `compare` (all of it) → `results` (what is kept) → `statistics` → `tables` → `render` and `publish`.
"""

from distilect.experiments.compare import Comparison, compare, failed_text
from distilect.experiments.config import CompareConfig, load_compare
from distilect.experiments.engines import ENGINES, Engine
from distilect.experiments.estimate import Estimate, estimate
from distilect.experiments.publish import publish
from distilect.experiments.trials import Plan, Trial

__all__ = [
    "ENGINES",
    "CompareConfig",
    "Comparison",
    "Engine",
    "Estimate",
    "Plan",
    "Trial",
    "compare",
    "estimate",
    "failed_text",
    "load_compare",
    "publish",
]
