"""Tables enlarged by changed copies of their rows, which teachers then label."""

from distilect.augment.augment import augment, augment_file

__all__ = ["augment", "augment_file"]
