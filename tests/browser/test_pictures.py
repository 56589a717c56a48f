"""Pictures as references: dropped, pasted, picked, and pointed to."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cir.data import wardrobe

if TYPE_CHECKING:
    from playwright.sync_api import JSHandle, Page

    from cir.testing.served import Running


@pytest.fixture(scope="module")
def picture() -> bytes:
    """A JPEG of a garment that is not in the gallery."""
    (garment,) = [each for each in wardrobe.garments(400, seed=3) if each.attributes["colour"] == "red"][:1]
    buffer = io.BytesIO()
    wardrobe.draw(garment, seed=99).save(buffer, "JPEG")
    return buffer.getvalue()


def data_transfer(page: Page, picture: bytes) -> JSHandle:
    return page.evaluate_handle(
        """async text => {
            const data = new DataTransfer();
            const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
            data.items.add(new File([bytes], "mine.jpg", { type: "image/jpeg" }));
            return data;
        }""",
        base64.b64encode(picture).decode(),
    )


def references(page: Page) -> Any:
    return page.get_by_role("list", name="References").get_by_role("listitem")


def test_a_picture_is_dropped(picture: bytes, hits: Any, open_page: Any, site: Running) -> None:
    from playwright.sync_api import expect

    page = open_page(site.url, refusals=True)
    page.locator("#start .card").first.wait_for()
    data = data_transfer(page, picture)
    page.dispatch_event("main", "dragenter", {"dataTransfer": data})
    expect(page.get_by_text("Drop it to search with it")).to_be_visible()
    page.dispatch_event("main", "drop", {"dataTransfer": data})
    expect(page.get_by_text("Drop it to search with it")).to_be_hidden()
    expect(references(page)).to_have_count(1)
    expect(references(page).get_by_role("img", name="your picture")).to_be_visible()
    expect(page.get_by_label("What to find")).to_be_focused()
    page.keyboard.type("but striped")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.includes('up=')")
    names = hits(page)
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#toast")).to_contain_text("The picture that you added is not in it")
    # Marks need a reference that stays.
    page.locator("#results .open").first.focus()
    page.keyboard.press("y")
    expect(page.locator("#toast")).to_contain_text("not in this gallery")

    site.service.uploads._kept.clear()  # as when other uploads have taken its place
    page.get_by_label("What to find").fill("but dotted")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.includes('dotted')")
    assert hits(page) != names  # this page still has it, and has sent it again
    site.service.uploads._kept.clear()
    fresh = open_page(page.url, refusals=True)
    expect(fresh.get_by_role("alert")).to_contain_text("no link holds them")


def test_a_picture_is_pasted(page: Page, picture: bytes, hits: Any) -> None:
    from playwright.sync_api import expect

    data = data_transfer(page, picture)
    page.evaluate(
        "data => document.activeElement.dispatchEvent("
        "new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true }))",
        data,
    )
    expect(references(page)).to_have_count(1)
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.includes('up=')")
    assert hits(page)
    expect(page.locator("#live")).to_contain_text("more like this")


def test_a_picture_is_picked_that_the_gallery_has(
    open_page: Any, site: Running, wardrobe_index: Path, hits: Any, tmp_path: Path
) -> None:
    """It is taken as the gallery's own, which links hold and which can be marked."""
    from playwright.sync_api import expect

    page = open_page(site.url, refusals=True)
    page.locator("#start .card").first.wait_for()
    photos = wardrobe_index.parent / "browser-wardrobe" / "images"
    page.locator("#picker").set_input_files(photos / "00003.jpg")
    expect(references(page)).to_have_count(1)
    page.get_by_label("What to find").fill("in red")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.includes('ref=images%2F00003.jpg')")
    assert "00003.jpg" not in hits(page, 1)
    (tmp_path / "no.jpg").write_text("no picture")
    with page.expect_response("**/uploads") as refused:
        page.locator("#picker").set_input_files(tmp_path / "no.jpg")
    assert refused.value.status == 400
    expect(page.locator("#toast")).to_have_text(re.compile("^no.jpg: not an image"))
    expect(references(page)).to_have_count(1)


def test_pictures_are_pointed_to(page: Page, hits: Any, card: Any) -> None:
    from playwright.sync_api import expect

    for place in (0, 3):
        tile = page.locator("#start .card").nth(place)
        tile.hover()
        tile.locator(".pick").click()
    expect(references(page)).to_have_count(2)
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.split('ref=').length === 3")
    both = hits(page)
    references(page).nth(1).get_by_role("button").click()
    page.wait_for_function("() => location.hash.split('ref=').length === 4")  # a further step, of one reference
    expect(references(page)).to_have_count(1)
    assert hits(page) != both
    card(page, 2).locator(".open").drag_to(page.get_by_label("What to find"))
    expect(references(page)).to_have_count(2)


def test_a_picture_that_is_too_large_is_not_sent(page: Page, site: Running) -> None:
    from playwright.sync_api import expect

    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(33e6)], "large.jpg", { type: "image/jpeg" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, cancelable: true }));
        }"""
    )
    expect(page.locator("#toast")).to_contain_text("at most 32 MB")
    assert not [url for url in sent if "uploads" in url]
