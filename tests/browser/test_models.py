"""A model that is replaced while people search: old and new side by side, and judging without seeing which is which."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import cir
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.marks import read_marks
from cir.testing.fakes import FakeEncoder, build, folder_of
from cir.testing.two_models import NEW, OLD, RIDGE, serve_new

if TYPE_CHECKING:
    from cir.testing.served import Running


@pytest.fixture
def old_index(tmp_path: Path) -> Path:
    """An index of thirty pictures by the old model."""
    build(folder_of(tmp_path / "old", 30), tmp_path / "old.index", FakeEncoder("old-1", tokens=0))
    return tmp_path / "old.index"


def opened(index: Path) -> cir.Searcher:
    models = {card.digest: encoder for card, encoder in ((OLD.card, OLD), (NEW.card, NEW))}
    return cir.Searcher(Gallery.open(index), lambda card: models[card.digest])


@pytest.fixture
def old_site(old_index: Path, serve: Callable[..., Running]) -> Running:
    """A server over it."""
    return serve(opened(old_index))


def test_old_and_new_side_by_side(old_site: Running, old_index: Path, open_page: Any, search: Any, hits: Any) -> None:
    from playwright.sync_api import expect

    page = open_page(old_site.url)
    before = search(page, "red")
    button = page.get_by_role("button", name="Old and new")
    expect(button).to_have_count(0)
    assert page.locator("#results .origin").count() == 0

    serve_new(old_index, RIDGE)
    deadline = 30
    while old_site.service.gallery.card.name != "new-1" and deadline:
        page.wait_for_timeout(500)
        deadline -= 1
    search(page, "red ")  # the same again
    expect(page.locator("#about")).to_contain_text("new-1")
    expect(button).to_be_visible()
    now = hits(page)
    assert now != before
    expect(page.locator("#results .origin").first).to_have_text("old-1 · generation\u00a01")
    button.click()
    expect(page.get_by_role("region", name="Before").get_by_role("heading")).to_have_text("Before")
    assert hits(page, inside="#compare .sides > :first-child") == before
    assert hits(page, inside="#compare .sides > :last-child") == now
    moved = page.locator("#compare .sides > :last-child .moved").all_text_contents()
    for name, words in zip(now, moved, strict=False):
        place = before.index(name) + 1 if name in before else None
        assert place is None or words == f"was {place}"
    page.locator("#compare .sides > :first-child .open").nth(1).click()
    expect(page.get_by_role("dialog").get_by_role("heading", name=before[1])).to_be_visible()
    expect(page.get_by_role("dialog")).to_contain_text("Rank 2")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    name = page.locator("#compare .sides > :last-child .open").first.get_attribute("aria-label") or ""
    assert re.search(r"was \d+|same rank as before|not among the first", name)
    fresh = open_page(page.url)
    assert hits(fresh, inside="#compare .sides > :first-child") == before

    page.get_by_role("button", name="Judge without seeing which").click()
    cards = page.locator("#judge .card")
    expect(cards.first.locator(".open")).to_be_focused()
    assert "Rank" not in page.locator("#judge").inner_text()
    assert page.locator("#judge .caption").count() == 0
    tens = {*before[:10], *now[:10]}
    expect(cards).to_have_count(len(tens))
    page.keyboard.press("y")
    expect(page.locator("#judge .progress")).to_contain_text(f"1 of {len(tens)} judged")
    expect(cards.nth(1).locator(".open")).to_be_focused()  # on to the next one
    page.keyboard.press("n")
    expect(page.locator("#judge .progress")).to_contain_text(f"2 of {len(tens)} judged")
    kept = read_marks(IndexFolder(old_index))
    assert len(kept) == 2
    assert {frozenset(mark.models) for mark in kept} == {frozenset({OLD.card.digest, NEW.card.digest})}
    page.get_by_role("button", name="Back").click()
    expect(page.get_by_role("heading", name="Old and new")).to_be_visible()
    page.get_by_role("button", name="One list").click()
    assert hits(page) == now


def test_what_is_built_meanwhile_is_noticed(
    old_site: Running, old_index: Path, tmp_path: Path, open_page: Any, search: Any
) -> None:
    from playwright.sync_api import expect

    page = open_page(old_site.url)
    search(page, "red")
    expect(page.locator("#about")).to_contain_text("30 pictures")
    expect(page.get_by_role("button", name="Filters")).to_have_count(0)
    photos = folder_of(tmp_path / "new", 4, start=30)
    table = {image.id: {"season": "winter"} for image in cir.scan(photos)}
    build(photos, old_index, FakeEncoder("old-1", tokens=0), metadata=table)
    search(page, "blue")
    expect(page.locator("#about")).to_contain_text("34 pictures")
    page.get_by_role("button", name="Filters").click()
    page.get_by_role("group", name="season").get_by_label("winter").check()
    expect(page.locator("#results .summary")).to_contain_text("4 pictures searched")


def test_a_new_model_waits_to_be_judged(old_index: Path, open_page: Any, serve: Any, monkeypatch: Any) -> None:
    """What `cir replace-model --judge-pool` asks on a terminal can be answered on the page."""
    from playwright.sync_api import expect

    from cir.serve.pools import Pools

    monkeypatch.setattr("cir.replacement.pool.MIN_QUERIES", 2)
    site = serve(opened(old_index))
    page = open_page(site.url)
    page.locator("#start .card").first.wait_for()
    for reference in ("0003.png", "0004.png", "0005.png"):
        done = page.evaluate(
            """async reference => (await fetch("/api/v1/marks", {
                method: "PUT",
                headers: { "content-type": "application/json" },
                body: JSON.stringify({ references: [reference], text: "red", image: "0020.png", right: true }),
            })).status""",
            reference,
        )
        assert done == 200
    pools = Pools(opened(old_index), lambda: NEW, "new-1")
    pools.run()
    site.service.pools = pools
    page.reload()
    page.get_by_role("button", name="Marks 3").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("A new model waits")
    dialog.get_by_role("button", name="Judge now").click()
    cards = page.locator("#judge .card")
    expect(cards.first.locator(".open")).to_be_focused()
    count = cards.count()
    for number in range(count):
        page.keyboard.press("n" if number else "y")
        expect(page.locator("#judge .progress")).to_contain_text(f"{number + 1} of {count} judged")
    page.get_by_role("button", name="Next search").click()
    expect(page.locator("#judge .progress")).to_contain_text("0 of")
    marks = [mark for mark in read_marks(IndexFolder(old_index)) if len(mark.models) == 2]
    assert len(marks) == count


def test_the_token_is_asked_for(old_index: Path, open_page: Any, serve: Any) -> None:
    from playwright.sync_api import expect

    from cir.serve.settings import Settings

    token = "an honest token"
    site = serve(opened(old_index), Settings(port=0, token=token.replace(" ", "-")))
    page = open_page(f"{site.url}/#token={token.replace(' ', '-')}&q=red")
    expect(page.locator("#results .card").first).to_be_visible()
    assert page.url == f"{site.url}/#q=red"
    assert "honest" not in str(page.evaluate("[document.cookie, JSON.stringify({ ...localStorage })]"))

    page = open_page(f"{site.url}/#q=red", refusals=True)
    dialog = page.get_by_role("dialog", name="This server needs its token")
    dialog.get_by_label("Token").fill("another")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_have_text("This is not the server's token.")
    page.keyboard.press("Escape")
    expect(dialog).to_be_visible()
    dialog.get_by_label("Token").fill(token.replace(" ", "-"))
    dialog.get_by_role("button", name="Continue").click()
    expect(page.locator("#results .card").first).to_be_visible()
    page.reload()
    expect(page.locator("#results .card").first).to_be_visible()

    page = open_page(f"{site.url}/#token=of-yesterday", refusals=True)
    expect(page.get_by_role("dialog").get_by_role("alert")).to_have_text("This is not the server's token.")
