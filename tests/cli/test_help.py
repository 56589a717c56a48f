"""The command line as a whole: help, version, mistakes, and a closed pipe."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cir.cli import cli as group
from cir.testing.commands import Run, mistake

LONGEST = 60  # characters of a first sentence that `cir --help` shows whole, full stop included


def walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below a command, by name."""
    if isinstance(command, click.Group):
        for below, child in command.commands.items():
            yield from walk(child, f"{name} {below}".strip())
    if name:
        yield name, command


COMMANDS = dict(walk(group, ""))
# Commands with --json. The output of each is parsed in the tests of that command.
WITH_JSON = {
    "compact",
    "merge",
    "remove",
    "repair",
    "backfill",
    "build-index",
    "compare",
    "data check",
    "evaluate",
    "mine",
    "compose",
    "explain",
    "export",
    "export-onnx",
    "import",
    "info",
    "models",
    "query",
    "replace-model",
    "score",
}


def test_help_and_version(cli: Run) -> None:
    assert "build-index" in cli("--help").out
    assert cli("query", "-h").code == 0
    assert cli("--version").out.startswith("cir, version ")
    assert "Commands:" in cli().out
    mistake(cli("serve-coffee"), "serve-coffee")
    mistake(cli("query", "--colour", "red"), "--colour", "cir query --help")


def test_help_shows_the_first_sentence_of_every_command(cli: Run) -> None:
    shown = cli("--help").out.partition("Commands:")[2]
    assert "..." not in shown
    for name in group.commands:
        assert f"\n  {name} " in shown
    for name, command in COMMANDS.items():
        sentence = (command.help or "").splitlines()[0]
        assert sentence.endswith("."), name
        assert len(sentence) < LONGEST, name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_an_example(cli: Run, name: str) -> None:
    done = cli(*name.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert "Example:" in done.out
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name}: {parameter.name}"


def test_commands_that_print_json() -> None:
    assert {name for name, command in COMMANDS.items() if "as_json" in {p.name for p in command.params}} == WITH_JSON


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(wardrobe_index: Path) -> None:
    words = ["query", str(wardrobe_index), "-t", "red", "-k", "40"]
    command = [sys.executable, "-c", "from cir.cli import main; main()", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
