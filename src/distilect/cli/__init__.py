"""The command line: thin, fast to start; everything heavy is imported by the verb that needs it."""

from distilect.cli.app import app, main

__all__ = ["app", "main"]
