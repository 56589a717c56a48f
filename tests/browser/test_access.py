"""The page for everybody: by keyboard alone, on a phone, by a screen reader, in light and dark."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from cir.testing.served import Running

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
FOCUSED = "document.activeElement"


@pytest.fixture
def audit() -> Callable[[Page, str], None]:
    """Fails where axe-core finds something serious: page, what is shown."""
    package = pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python: scripts/setup cpu,dev")
    axe = files(package).joinpath("axe.min.js").read_text(encoding="utf-8")

    def run(page: Page, shown: str) -> None:
        page.wait_for_function("() => !document.querySelector('.busy')")
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
        serious = [
            (each["id"], [node["html"][:200] for node in each["nodes"]][:3])
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
        assert not serious, f"{shown}: {serious}"

    return run


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(scheme: str, site: Running, open_page: Any, audit: Any, hits: Any) -> None:
    page = open_page(site.url, color_scheme=scheme)
    page.locator("#start .card img.loaded").first.wait_for()
    audit(page, "start")
    page.locator("#start .card").nth(1).locator(".open").focus()
    page.keyboard.press("r")
    page.keyboard.type("in red")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.includes('ref=')")
    hits(page)
    page.get_by_role("button", name="Filters").click()
    page.get_by_role("group", name="sleeves").get_by_label("long").check()
    page.get_by_text("1 pictures").wait_for(state="hidden")
    hits(page)
    page.locator("#results .open").nth(1).focus()
    page.keyboard.press("y")
    audit(page, "results with a chip, filters and a mark")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Why is it here?").click()
    page.get_by_role("table").wait_for()
    audit(page, "why")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Marks").click()
    audit(page, "marks")
    page.keyboard.press("Escape")
    page.goto(f"{site.url}/#q=a%20red%20car%20in%20the%20snow&q=in%20blue&at=0")
    page.get_by_role("heading", name="Nothing fits").wait_for()
    audit(page, "nothing fits, and steps")


def test_by_keyboard_alone(page: Page, hits: Any) -> None:
    from playwright.sync_api import expect

    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the pictures")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#start .open").first).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_label("What to find")).to_be_focused()
    page.keyboard.type("a striped sweater")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash !== ''")
    names = hits(page)
    expect(page.get_by_label("What to find")).to_be_focused()
    page.keyboard.press("ArrowDown")
    opens = page.locator("#results .open")
    expect(opens.first).to_be_focused()
    columns = page.evaluate(
        "getComputedStyle(document.querySelector('#results .grid')).gridTemplateColumns.split(' ').length"
    )
    assert columns > 2
    for key, place in (("ArrowRight", 1), ("ArrowLeft", 0), ("End", 39), ("Home", 0)):
        page.keyboard.press(key)
        expect(opens.nth(place)).to_be_focused()
    page.keyboard.press("ArrowDown")
    below = page.evaluate(f"[...document.querySelectorAll('#results .open')].indexOf({FOCUSED})")
    assert 0 < below <= columns  # a line across the grid may end a row early
    box = page.locator("#results .card").nth(below).bounding_box()
    first = page.locator("#results .card").first.bounding_box()
    assert box
    assert first
    assert box["x"] == first["x"]
    page.keyboard.press("ArrowUp")
    expect(opens.first).to_be_focused()
    # One stop of the Tab key for all pictures: then its own buttons, then what follows the grid.
    stops = page.locator("#results .grid button:not([tabindex='-1'])")
    expect(stops).to_have_count(4)
    outline = page.evaluate(f"getComputedStyle({FOCUSED}).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name=names[1])).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_role("heading", name=names[2])).to_be_visible()
    for _ in range(25):  # the focus stays in the dialog
        page.keyboard.press("Tab")
        assert page.evaluate(f"{FOCUSED} === document.body || !!{FOCUSED}.closest('dialog')")
    page.keyboard.press("Escape")
    expect(opens.nth(2)).to_be_focused()
    page.keyboard.press("r")
    expect(page.get_by_label("What to find")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("button", name=f"Remove the reference {names[2]}")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("list", name="References").get_by_role("listitem")).to_have_count(0)


def test_a_screen_reader_is_told(page: Page, search: Any) -> None:
    from playwright.sync_api import expect

    search(page, "a striped sweater")
    live = page.locator("#live")
    expect(live).to_have_attribute("aria-live", "polite")
    expect(live).to_contain_text("a striped sweater: 48 pictures searched, the best 40 are shown")
    first = page.locator("#results .open").first
    name = first.get_attribute("aria-label") or ""
    assert name.startswith("Rank 1, ")
    assert "score 0." in name
    assert "right answers usually do" in name


def test_on_a_phone(site: Running, open_page: Any, hits: Any) -> None:
    from playwright.sync_api import expect

    page = open_page(site.url, **PHONE)
    page.locator("#start .card").first.wait_for()

    def fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360

    fits()
    page.locator("#start .card").first.locator(".pick").tap()  # without a pointer the plus is always there
    page.get_by_label("What to find").fill("in red, with long sleeves and stripes")
    page.get_by_role("button", name="Search", exact=True).tap()
    page.wait_for_function("() => location.hash !== ''")
    hits(page)
    fits()
    assert (
        page.evaluate(
            "getComputedStyle(document.querySelector('#results .grid')).gridTemplateColumns.split(' ').length"
        )
        == 2
    )
    page.get_by_role("button", name="Filters").tap()
    fits()
    page.get_by_role("button", name="Filters").tap()
    page.locator("#results .open").first.tap()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    fits()
    size = dialog.bounding_box()
    assert size
    assert (size["width"], size["height"]) == (360, 740)
    for name in ("Right", "Wrong", "Close", "The next picture"):
        box = dialog.get_by_role("button", name=name).bounding_box()
        assert box
        assert box["width"] >= 36
        assert box["height"] >= 36
    dialog.get_by_role("button", name="Right").tap()
    expect(page.locator("#marks-count")).to_have_text("1")
    dialog.get_by_role("button", name="Why is it here?").tap()
    dialog.get_by_role("table").wait_for()
    fits()
    page.go_back()
    expect(page.get_by_role("dialog")).to_have_count(0)
