"""`import distilect`: light, and kind to busy machines."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SPIN = "GOMP_SPINCOUNT"


def spin_count(code: str, **environment: str) -> str:
    """What is left in `GOMP_SPINCOUNT` after `code`, in a new process."""
    plain = {name: value for name, value in os.environ.items() if name not in (SPIN, "OMP_WAIT_POLICY")}
    code = f"import os, sys; {code}; print(os.environ.get('{SPIN}'), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env={**plain, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_waiting_threads_soon_sleep_and_torch_is_not_loaded_for_it() -> None:
    assert spin_count("import distilect") == "10000 False"


@pytest.mark.parametrize(("name", "value", "expected"), [(SPIN, "7", "7"), ("OMP_WAIT_POLICY", "ACTIVE", "None")])
def test_what_the_user_set_stays(name: str, value: str, expected: str) -> None:
    assert spin_count("import distilect", **{name: value}) == f"{expected} False"


def test_nothing_is_set_where_torch_has_read_it_already() -> None:
    assert spin_count("sys.modules['torch'] = sys; import distilect") == "None True"
