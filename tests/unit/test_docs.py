"""Documents that stay true: help, the reference made from it, links, words, the index format."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cir.cli import cli
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.segment import Layout
from cir.testing.fakes import build, folder_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCE = ROOT / "docs" / "cli.md"  # made from the help texts
SUMMARY = 60  # characters of a first sentence that `cir --help` shows whole
WIDTH = 120
CODE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
# Words of earlier versions for judged queries, mappings and backbones, and verbs that stood for a noun.
PRIVATE = re.compile(r"\b(anchors?|edges?|trunks?|asked|told|mixed silently)\b", re.IGNORECASE)
PRIVATE_AS_TERM = ("query-anchored",)  # of the literature


def commands(group: click.Group = cli, path: str = "cir") -> Iterator[tuple[str, click.Command]]:
    """Every command and group, by the words that call it."""
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


COMMANDS = dict(commands())


def prose(page: Path) -> list[str]:
    """The lines of a page without code blocks and tables."""
    lines = CODE.sub("", page.read_text(encoding="utf-8")).splitlines()
    return [line for line in lines if not line.lstrip().startswith("|")]


def anchor(heading: str) -> str:
    """The name by which GitHub links to a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_every_command_and_option_has_help(path: str) -> None:
    command = COMMANDS[path]
    assert command.help
    assert isinstance(command, click.Group) or "Example:" in command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_the_first_sentence_is_short(path: str) -> None:
    summary = (COMMANDS[path].help or "").split("\n\n")[0]
    assert len(" ".join(summary.split())) < SUMMARY
    assert not COMMANDS[path].get_short_help_str(SUMMARY).endswith("...")


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_every_command_is_documented(path: str) -> None:
    assert f"## `{path}`" in REFERENCE.read_text(encoding="utf-8")


def test_the_reference_is_what_the_commands_say() -> None:
    subprocess.run([sys.executable, ROOT / "docs" / "make_cli.py", "--check"], check=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", CODE.sub("", page.read_text(encoding="utf-8"))):
        if target.startswith("http"):
            continue
        path, _, fragment = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.*)$", CODE.sub("", linked.read_text(encoding="utf-8")), re.MULTILINE)
            assert fragment in map(anchor, headings), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_of_prose_are_short(page: Path) -> None:
    long = [line for line in prose(page) if len(line) > WIDTH]
    assert not [line for line in long if not re.fullmatch(r"\W*\[.*\]\(.*\)\W*", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_private_words_in_documents(page: Path) -> None:
    found = {}
    for line in [*prose(page), *(line for line in page.read_text(encoding="utf-8").splitlines() if line[:1] == "|")]:
        words = re.sub(r"`[^`]*`|\"[^\"]*\"|\]\([^)]*\)", "", line)  # code, quotations and link targets
        for term in PRIVATE_AS_TERM:
            words = words.replace(term, "")
        if match := PRIVATE.search(words):
            found[match[0]] = line
    assert not found


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_no_private_words_in_help(path: str) -> None:
    texts = [COMMANDS[path].help or ""]
    texts += [option.help or "" for option in COMMANDS[path].params if isinstance(option, click.Option)]
    assert not [text for text in texts if PRIVATE.search(text)]


def test_the_readme_names_its_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "scripts/quickstart" in readme
    assert "scripts/test" in readme


def test_the_index_format_names_everything_that_is_written(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "index-format.md").read_text(encoding="utf-8")
    out = tmp_path / "my.index"
    metadata = {"0000.png": {"colour": "red"}}
    build(folder_of(tmp_path / "photos", 3), out, metadata=metadata)
    manifest = json.loads(IndexFolder(out).manifest(1).read_bytes())
    (segment,) = manifest["segments"]
    (space,) = manifest["spaces"].values()
    fields = {*manifest, *segment, *space, *Layout.__dataclass_fields__}
    assert not {name for name in fields if f"`{name}`" not in page}
    assert {path.name for path in out.iterdir()} <= set(re.findall(r"^  ([\w.]+)", page, re.MULTILINE))
