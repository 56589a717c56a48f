"""docs/recipes.md, from top to bottom: every command runs, and prints what the page shows, whatever the digits."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "recipes.md"
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_every_command_prints_what_the_page_shows(tmp_path: Path) -> None:
    environment = _environment(tmp_path / "bin")
    folder = tmp_path / "here"
    folder.mkdir()
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert blocks
    for number, (kind, content) in enumerate(blocks):
        if kind == "text":
            continue
        done = subprocess.run(
            ["/bin/sh", "-eu", "-c", content],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{content}\n{done.stdout}"
        if blocks[number + 1 : number + 2] and blocks[number + 1][0] == "text":
            shown = blocks[number + 1][1]
            assert _same(shown, done.stdout), f"{content}\n{done.stdout}\nis not\n{shown}"
    assert (folder / "answer.png").is_file()
    assert (folder / "report.json").is_file()


def _environment(programs: Path) -> dict[str, str]:
    """The environment of a shell that finds this Python and this checkout's `cir`, and shows no progress."""
    programs.mkdir()
    for name, words in {"python": "", "cir": "-m cir "}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n', encoding="utf-8")
        program.chmod(0o755)
    return {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def _same(shown: str, printed: str) -> bool:
    """Whether output is as shown: any number for a number, anything for `...`, any blanks for blanks."""
    number = re.compile(r"\b[0-9a-f]{16}\b|[+-]?\d[\d,.]*")
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(number.sub("0", shown), number.sub("0", printed), options)
