"""What teachers say: scored once into a store on disk, or live, behind one interface."""

from distilect.signals.base import SignalSource, TeacherSignals
from distilect.signals.prepare import LiveSignals, Prepared, prepare_signals
from distilect.signals.store import FieldStore, SignalStore

__all__ = ["FieldStore", "LiveSignals", "Prepared", "SignalSource", "SignalStore", "TeacherSignals", "prepare_signals"]
