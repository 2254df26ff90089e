"""Which rows, which teachers, which loss weights: the selectors, and the methods made of them."""

from distilect.selection.base import (
    Episodes,
    EpisodicSelector,
    LossWeights,
    Needs,
    PlannedRows,
    RowSelector,
    Selector,
    TeacherSelector,
)
from distilect.selection.buffers import Averages, Buffer, Observations
from distilect.selection.draws import draw_rows, row_uniform, step_uniform
from distilect.selection.methods import (
    Method,
    Preset,
    asks_teachers,
    build_method,
    build_teacher_selector,
    get_preset,
    presets,
)
from distilect.selection.stages import Stage, has_stages, likely_stages, stages_of
from distilect.selection.view import (
    CreditRows,
    Encoder,
    KindGradients,
    Look,
    Passes,
    Probe,
    SelectionContext,
    StepView,
    TrainingSample,
    normalised_entropy,
)

__all__ = [
    "Averages",
    "Buffer",
    "CreditRows",
    "Encoder",
    "Episodes",
    "EpisodicSelector",
    "KindGradients",
    "Look",
    "LossWeights",
    "Method",
    "Needs",
    "Observations",
    "Passes",
    "PlannedRows",
    "Preset",
    "Probe",
    "RowSelector",
    "SelectionContext",
    "Selector",
    "Stage",
    "StepView",
    "TeacherSelector",
    "TrainingSample",
    "asks_teachers",
    "build_method",
    "build_teacher_selector",
    "draw_rows",
    "get_preset",
    "has_stages",
    "likely_stages",
    "normalised_entropy",
    "presets",
    "row_uniform",
    "stages_of",
    "step_uniform",
]
