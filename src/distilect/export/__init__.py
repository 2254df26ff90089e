"""What makes a student ready to ship: its model card."""

from distilect.export.model_card import write_model_card

__all__ = ["write_model_card"]
