"""The built-in data set and demo."""

from distilect.demo.docstrings import DocstringData, build_docstrings

__all__ = ["DocstringData", "build_docstrings"]
