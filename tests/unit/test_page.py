"""The files of the page of `cir serve`: small, whole, and without a way for texts to become HTML."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "cir" / "serve" / "page"
FILES = sorted(PAGE.iterdir())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
# What makes HTML or code of a text.
UNSAFE = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|DOMParser")
NAMESPACE = "http://www.w3.org/2000/svg"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 350
    assert not [number for number, line in enumerate(lines, 1) if len(line) > 120]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_other_host_is_named(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace(NAMESPACE, "")
    assert not re.search(r"(https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_texts_never_become_html(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not UNSAFE.search(text)
    assert text.startswith("// @ts-check\n")


def test_nothing_stands_within_the_document_that_its_policy_forbids() -> None:
    document = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)|javascript:", document)


def test_every_file_that_is_named_is_there_and_every_file_is_named() -> None:
    document = (PAGE / "index.html").read_text(encoding="utf-8")
    named = set(re.findall(r'(?:href|src)="/page/([^"]+)"', document))
    for path in SCRIPTS:
        named |= set(re.findall(r'(?:from|import\() ?"\./([^"]+)"', path.read_text(encoding="utf-8")))
    assert named | {"index.html"} == {path.name for path in FILES}


def test_elements_that_scripts_ask_for_are_in_the_document() -> None:
    document = (PAGE / "index.html").read_text(encoding="utf-8")
    there = set(re.findall(r'\sid="([^"]+)"', document)) | {"pools-offer"}
    for path in SCRIPTS:
        asked = set(re.findall(r'\bat\("([^"]+)"\)', path.read_text(encoding="utf-8")))
        assert asked <= there, path.name
