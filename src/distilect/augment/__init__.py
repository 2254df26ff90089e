"""More rows of text, made of those that are there: teachers say what they are."""

from distilect.augment.augment import METHODS, augment, augment_file
from distilect.augment.lexicon import Lexicon, load_lexicon

__all__ = ["METHODS", "Lexicon", "augment", "augment_file", "load_lexicon"]
