"""Plots and pages that a person looks at."""

from distilect.report.comparison import build_comparison
from distilect.report.models import best_teacher, model_rows
from distilect.report.page import build_report
from distilect.report.summary import build_summary
from distilect.report.table import speed_table, summary_table

__all__ = [
    "best_teacher",
    "build_comparison",
    "build_report",
    "build_summary",
    "model_rows",
    "speed_table",
    "summary_table",
]
