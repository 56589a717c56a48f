"""Write docs/cli.md from the help texts of the commands; with --check only compare."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from cir.cli import cli

PAGE = Path(__file__).parent / "cli.md"


def sections(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[str]:
    """One section per command, groups first."""
    context = command.context_class(command, info_name=name, parent=parent, terminal_width=100, **cli.context_settings)
    yield f"## `{context.command_path}`\n\n```\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            yield from sections(command.commands[child], child, context)


def page() -> str:
    """The whole reference."""
    intro = "# Commands\n\nWritten by `scripts/docs` from the commands' own `--help`; do not edit.\n\n"
    return intro + "\n".join(sections(cli, "cir"))


def main() -> int:
    """Write the page, or check it."""
    if sys.argv[1:] == ["--check"]:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
            print("docs/cli.md differs from the commands' help; run scripts/docs", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
