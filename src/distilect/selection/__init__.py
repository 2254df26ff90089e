"""Who decides: which rows, which teachers, which knowledge."""

from distilect.selection.base import (
    Averages,
    Encoder,
    KnowledgeSelector,
    Passes,
    Probe,
    RowSelector,
    SelectionContext,
    Selector,
    StepView,
    TeacherSelector,
    TrainingSample,
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
    "Encoder",
    "KnowledgeSelector",
    "Method",
    "Passes",
    "Preset",
    "Probe",
    "RowSelector",
    "SelectionContext",
    "Selector",
    "StepView",
    "TeacherSelector",
    "TrainingSample",
    "asks_teachers",
    "build_method",
    "build_teacher_selector",
    "get_preset",
    "presets",
    "row_uniform",
    "step_uniform",
]
