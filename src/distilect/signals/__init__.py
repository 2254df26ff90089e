"""Teacher outputs: scored once into a store on disk, or computed live, behind one interface."""

from distilect.signals.answers import Answers
from distilect.signals.asked import AskedReader, Bill, announce, bill_of
from distilect.signals.base import Reader, SignalSource, TeacherSignals
from distilect.signals.calibration import LEAST_ROWS, Calibration, fit_calibration
from distilect.signals.prepare import Prepared, prepare_signals
from distilect.signals.readers import FoldReader, LiveSignals
from distilect.signals.store import FieldStore, SignalStore

__all__ = [
    "LEAST_ROWS",
    "Answers",
    "AskedReader",
    "Bill",
    "Calibration",
    "FieldStore",
    "FoldReader",
    "LiveSignals",
    "Prepared",
    "Reader",
    "SignalSource",
    "SignalStore",
    "TeacherSignals",
    "announce",
    "bill_of",
    "fit_calibration",
    "prepare_signals",
]
