"""The built-in data set and demo."""

from distilect.demo.docstrings import DocstringData, build_docstrings

__all__ = ["DocstringData", "build_docstrings", "run_demo"]


def __getattr__(name: str) -> object:
    """`run_demo` on first use: it imports everything, the data set needs the standard library only."""
    if name == "run_demo":
        from distilect.demo.run import run_demo

        return run_demo
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
