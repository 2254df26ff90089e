"""All selectors by name: one line each. No other file knows them all."""

from __future__ import annotations

from distilect.selection import (
    adaptive,
    akskd,
    alignment,
    alignment_kinds,
    dynamickd,
    dynamickd_rows,
    gate,
    rlkd,
    rlkd_virtual,
    static,
)
from distilect.selection.base import LossWeights, RowSelector, TeacherSelector

ROWS: dict[str, type[RowSelector]] = {
    cls.name: cls
    for cls in (
        static.AllRows,
        static.RandomRows,
        static.RandomRowsSkip,
        static.RandomRowsPlan,
        dynamickd.UncertainRows,
        dynamickd_rows.UncertainRowsSkip,
        dynamickd_rows.UncertainRowsPlan,
        dynamickd_rows.UncertainRowsRounds,
        alignment.AlignedRows,
        adaptive.AdaptiveRows,
    )
}
TEACHERS: dict[str, type[TeacherSelector]] = {
    cls.name: cls
    for cls in (
        static.UniformTeachers,
        static.SingleTeacher,
        static.RandomSingle,
        static.FixedTeachers,
        static.LogisticTeachers,
        static.BestSingle,
        static.Confidence,
        static.Entropy,
        gate.GateTeachers,
        alignment.AlignmentTeachers,
        rlkd.ReinforcedTeachers,
        rlkd_virtual.VirtualReinforcedTeachers,
        dynamickd.UncertainTeachers,
    )
}
LOSS_WEIGHTS: dict[str, type[LossWeights]] = {
    cls.name: cls
    for cls in (
        static.FixedWeights,
        static.AllOnes,
        static.RandomSoft,
        static.RandomHard,
        dynamickd.UncertainWeights,
        alignment.AlignmentWeights,
        alignment_kinds.AlignedKinds,
        akskd.ActorCriticWeights,
    )
}
