"""The scripts of the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ("scripts/setup", "scripts/setup_search", "scripts/test")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the scripts read, beside environments whose Python only notes how it is called."""
    checkout = tmp_path / "checkout"
    for name in ("setup.py", "constraints.txt", "requirements-search.txt", "cir/__init__.py", *SCRIPTS):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    for venv in (".venv", ".venv-search"):
        python = checkout / venv / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
        python.chmod(0o755)
    return checkout


def run(checkout: Path, *command: str) -> list[str]:
    """The calls of Python that a script makes."""
    calls = checkout.parent / "calls"
    calls.write_text("")
    environment = {key: value for key, value in os.environ.items() if key not in ("CIR_VENV", "PYTHON")}
    subprocess.run(command, cwd=checkout, check=True, env=environment)
    return [call for call in calls.read_text().splitlines() if call.startswith("-m")]


def test_setup_installs_only_what_has_changed(checkout: Path) -> None:
    assert any("-e .[cpu,dev]" in call for call in run(checkout, "scripts/setup", "cpu,dev"))
    assert run(checkout, "scripts/setup", "cpu,dev") == []
    assert any("-e .[cpu]" in call for call in run(checkout, "scripts/setup"))
    with (checkout / "constraints.txt").open("a") as file:
        file.write("other==1.0\n")
    assert any("-e .[cpu]" in call for call in run(checkout, "scripts/setup"))
    assert run(checkout, "scripts/setup") == []


def test_quick_leaves_out_the_slow_tests_and_the_coverage(checkout: Path) -> None:
    run(checkout, "scripts/setup", "cpu,dev")
    (quick,) = run(checkout, "scripts/test", "--quick", "-x")
    assert quick == "-m pytest -n auto -m not slow -x"
    *_, search, whole = run(checkout, "scripts/test", "tests/unit")
    assert "--no-deps -e ." in search
    assert "--cov-fail-under=95" in whole
    assert whole.endswith("tests/unit")
