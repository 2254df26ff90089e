"""What makes a student ready to ship: its model card, ONNX files, the Hub."""

from distilect.export.hub import check_card
from distilect.export.model_card import write_model_card
from distilect.export.ship import INT8, Exported, export_run

__all__ = ["INT8", "Exported", "check_card", "export_run", "write_model_card"]
