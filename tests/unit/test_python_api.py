"""docs/python-api.md, from top to bottom: every example runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cir

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "python-api.md"
MODULE = re.compile(r"# (\w+\.py)\n")


def examples() -> list[str]:
    """The code of every fenced block."""
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_every_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, Any] = {"__name__": "examples"}
    modules = []
    for number, code in enumerate(examples(), start=1):
        if name := MODULE.match(code):
            Path(name[1]).write_text(code, encoding="utf-8")
            modules.append(name[1])
        else:
            exec(compile(code, f"python-api.md, example {number}", "exec"), names)
    assert [hit.metadata["colour"] for hit in names["searcher"].search(names["queries"][3]).hits][:1] == ["red"]
    assert names["studies"][0].mapping is not None
    tests = [name for name in modules if name.startswith("test_")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = ["-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout


def test_the_page_names_all_public_names() -> None:
    table = PAGE.read_text(encoding="utf-8").split("\n## ")[0]
    documented = {
        name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)", row)
    }
    assert documented == set(cir.__all__) - {"__version__"}
