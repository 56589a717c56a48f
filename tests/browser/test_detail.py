"""One image: why it is there, marks, and what its metadata may hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cir
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.marks import read_marks
from cir.testing.fakes import FakeEncoder, build, folder_of

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_why_a_hit_is_there(page: Page, search: Any, hits: Any, card: Any) -> None:
    from playwright.sync_api import expect

    search(page, "a striped sweater with long sleeves")
    card(page).locator(".pick").click()
    page.get_by_label("What to find").fill("in red")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.includes('ref=')")
    hits(page)
    card(page, 1).locator(".open").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Why is it here?").click()
    expect(dialog.get_by_role("heading", name="What the score reacts to")).to_be_visible()
    table = dialog.get_by_role("table", name="What the parts of the search do")
    expect(table.get_by_role("row")).to_have_count(4)
    expect(table.get_by_role("rowheader")).to_have_text(
        ["the whole search", "without the picture", "without the words"]
    )
    expect(dialog).to_contain_text("need not add up")
    assert "thinks" not in dialog.inner_text()
    heat = dialog.locator(".figures .heat")
    expect(heat).to_have_count(3)
    # The heat lies over the whole picture, and above it.
    boxes = dialog.locator(".figures .framed").first.evaluate(
        "frame => [...frame.children].map(each => JSON.stringify(each.getBoundingClientRect()))"
    )
    assert boxes[0] == boxes[1]
    above = dialog.locator(".figures .framed").first.evaluate(
        """frame => {
            frame.scrollIntoView({ block: "center" });
            const box = frame.getBoundingClientRect();
            return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2).className;
        }"""
    )
    assert "heat" in above
    assert dialog.locator(".stage .heat").count() == 1
    dialog.get_by_label("show the heat").uncheck()
    expect(dialog.locator(".heat")).to_have_count(0)
    dialog.get_by_role("button", name="The next picture").click()
    expect(dialog.get_by_role("button", name="Why is it here?")).to_be_visible()
    expect(table).to_have_count(0)


def test_marks(page: Page, search: Any, card: Any, own_index: Path) -> None:
    from playwright.sync_api import expect

    names = search(page, "a red dress")
    card(page).locator(".open").focus()
    page.keyboard.press("y")
    expect(card(page).get_by_role("button", name="Right", exact=True)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("n")
    expect(card(page, 1).locator(".open")).to_have_accessible_name(re.compile(f"Rank 2, {names[1]}, .*, marked wrong"))
    expect(page.locator("#marks-count")).to_have_text("2")
    expect(page.locator("#live")).to_have_text(f"{names[1]} marked wrong")
    card(page, 2).hover()
    card(page, 2).get_by_role("button", name="Wrong", exact=True).click()
    expect(page.locator("#marks-count")).to_have_text("3")
    card(page, 2).locator(".open").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Wrong")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("y")
    expect(dialog.get_by_role("button", name="Right")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("y")  # takes it back
    expect(page.locator("#marks-count")).to_have_text("2")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Marks").click()
    expect(page.get_by_role("dialog")).to_contain_text("2 marks on 1 search; 1 of them with a right answer")
    expect(page.get_by_role("dialog")).to_contain_text("1 of 200 queries")
    kept = [(mark.image, mark.right) for mark in read_marks(IndexFolder(own_index)) if not mark.withdrawn]
    assert len(kept) == 4
    page.reload()
    expect(card(page).get_by_role("button", name="Right", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(card(page, 1).get_by_role("button", name="Wrong", exact=True)).to_have_attribute("aria-pressed", "true")


def test_what_cannot_be_marked_says_why(page: Page, search: Any, card: Any, hits: Any) -> None:
    from playwright.sync_api import expect

    search(page, "a red dress")
    page.get_by_role("button", name="Not …").click()
    page.get_by_label("What is not wanted").fill("stripes")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.includes('not=stripes')")
    hits(page)
    card(page).locator(".open").focus()
    page.keyboard.press("y")
    expect(page.locator("#toast")).to_have_text("Marks are for searches without “not”.")
    expect(page.locator("#marks-count")).to_have_text("")


def test_nothing_of_an_index_becomes_html(tmp_path: Path, serve: Any, open_page: Any, hits: Any) -> None:
    """Ids, columns and values are texts, whoever wrote them."""
    from playwright.sync_api import expect

    photos = folder_of(tmp_path / "photos", 6)
    evil = '<img src=x onerror="window.broken = 1">'
    (photos / "0000.png").rename(photos / f"{evil.replace('/', '')}.png")
    images = cir.scan(photos)
    table = {
        image.id: {evil: f"{evil}{row % 2}", "title": "</script><script>broken = 1</script>"}
        for row, image in enumerate(images)
    }
    build(photos, tmp_path / "evil.index", metadata=table)
    site = serve(cir.Searcher(Gallery.open(tmp_path / "evil.index"), lambda card: FakeEncoder(card.name)))
    page = open_page(site.url)
    page.get_by_label("What to find").fill(evil)
    page.keyboard.press("Enter")
    names = hits(page)
    assert any(evil[:10] in name for name in names)
    page.get_by_role("button", name="Filters").click()
    expect(page.get_by_role("group", name="Filters", exact=True)).to_contain_text(evil)
    place = next(row for row, name in enumerate(names) if evil[:10] in name)
    page.locator("#results .open").nth(place).click()
    expect(page.get_by_role("dialog").get_by_role("heading", level=2)).to_contain_text(evil)
    page.get_by_label("Like this, but …").fill(evil)
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.includes('ref=')")
    hits(page)
    assert page.evaluate("window.broken") is None


def test_long_names_and_values_leave_each_other_room(tmp_path: Path, serve: Any, open_page: Any, hits: Any) -> None:
    from playwright.sync_api import expect

    photos = folder_of(tmp_path / "photos", 6)
    name, value = "the name of a column that goes on and on", "a value that never ends " * 40
    table = {
        image.id: {name: value if row % 2 else "שלום", "a": "x" * 300} for row, image in enumerate(cir.scan(photos))
    }
    build(photos, tmp_path / "long.index", metadata=table)
    site = serve(cir.Searcher(Gallery.open(tmp_path / "long.index"), lambda card: FakeEncoder(card.name)))
    page = open_page(site.url)
    page.get_by_label("What to find").fill("a word")
    page.keyboard.press("Enter")
    hits(page)
    page.get_by_role("button", name="Filters").click()
    rows = page.locator("#filters .values label")
    assert max(rows.evaluate_all("all => all.map(each => each.offsetHeight)")) < 90
    rows.filter(has_text="never ends").locator("input").check()
    chip = page.locator("#chips .chip")
    expect(chip).to_have_attribute("title", re.compile("never ends"))
    assert chip.evaluate("each => each.offsetHeight") < 60
    hits(page)
    page.locator("#results .open").first.click()
    parts = page.locator("#detail-metadata dd")
    expect(parts).to_have_count(2)
    narrow, whole = parts.nth(1).evaluate("each => [each.offsetWidth, each.parentElement.offsetWidth]")
    assert narrow > whole / 2
