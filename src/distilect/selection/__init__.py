"""Who decides: which rows, which teachers, which knowledge."""

from distilect.selection.base import (
    Averages,
    KnowledgeSelector,
    RowSelector,
    SelectionContext,
    Selector,
    StepView,
    TeacherSelector,
    row_uniform,
    step_uniform,
)
from distilect.selection.registry import (
    Method,
    Preset,
    asks_teachers,
    build_method,
    build_teacher_selector,
    get_preset,
    presets,
)

__all__ = [
    "Averages",
    "KnowledgeSelector",
    "Method",
    "Preset",
    "RowSelector",
    "SelectionContext",
    "Selector",
    "StepView",
    "TeacherSelector",
    "asks_teachers",
    "build_method",
    "build_teacher_selector",
    "get_preset",
    "presets",
    "row_uniform",
    "step_uniform",
]
