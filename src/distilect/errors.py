"""Errors. Their messages name what was found, what was expected, and what to do."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class DistilectError(Exception):
    """Base of all errors of distilect; the message is one or two lines for the user."""


class ConfigError(DistilectError):
    """A configuration that cannot be run."""


class DataError(DistilectError):
    """A table that cannot be read, or that does not fit the task."""


class TeacherError(DistilectError):
    """A teacher that cannot be loaded, or that does not fit the task."""


class StudentError(DistilectError):
    """A student that cannot be built as asked."""


class SignalError(DistilectError):
    """A store of teacher signals that cannot be written or trusted."""


class MethodError(DistilectError):
    """A method, selector or kind of knowledge that does not exist or does not apply here."""


class RunError(DistilectError):
    """A run's folder that cannot be used, or a training that was stopped."""


class Terminated(KeyboardInterrupt):
    """SIGTERM was received, from a preempted machine for example; finished parts are kept."""


class ExportError(DistilectError):
    """A student that cannot be exported or pushed."""


def why_unwritable(error: OSError) -> str:
    """Why a file cannot be written, for messages."""
    return "the disk is full" if is_disk_full(error) else error.strerror or str(error)


def is_disk_full(error: Exception) -> bool:
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the nearest of `choices`, or `""` when nothing is near."""
    near = difflib.get_close_matches(str(word), list(choices), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
