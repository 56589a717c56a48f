"""What a person does first: search, refine, go back, share, filter."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import cir
from cir.indexer.reading.gallery import Gallery
from cir.testing.fakes import FakeEncoder, build, folder_of
from cir.testing.spread import PartsHere

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from cir.testing.served import Running

STRIPED = "a striped sweater with long sleeves"


def refine(page: Page, card: Any, text: str) -> None:
    """Open the first hit, and search for one like it."""
    steps = page.url.count("q=")
    card(page).locator(".open").click()
    page.get_by_label("Like this, but …").fill(text)
    page.keyboard.press("Enter")
    page.wait_for_function("count => location.hash.split('q=').length === count + 2", arg=steps)
    page.wait_for_function("() => !document.querySelector('.busy')")


def test_refining_going_back_and_a_link(
    page: Page, site: Running, search: Any, hits: Any, card: Any, open_page: Any
) -> None:
    from playwright.sync_api import expect

    answers = [search(page, STRIPED)]
    for text in ("in red", "with short sleeves", "but a dress"):
        refine(page, card, text)
        answers.append(hits(page))
    assert len({tuple(names) for names in answers}) == 4
    steps = page.get_by_role("navigation", name="Steps of this search").get_by_role("button")
    expect(steps).to_have_count(4)
    expect(steps.nth(3)).to_have_attribute("aria-current", "step")
    link = page.url
    assert "?" not in link  # what is searched for is in no log of a server

    steps.nth(1).click()
    page.wait_for_function("() => location.hash.endsWith('at=1')")
    assert hits(page) == answers[1]
    expect(page.get_by_label("What to find")).to_have_value("in red")
    page.go_back()
    page.wait_for_function("() => !location.hash.includes('at=1')")
    assert hits(page) == answers[3]

    fresh = open_page(link)
    assert hits(fresh) == answers[3]
    expect(fresh.get_by_role("navigation", name="Steps of this search").get_by_role("button")).to_have_count(4)
    expect(fresh.get_by_label("What to find")).to_have_value("but a dress")

    while page.url != f"{site.url}/":
        page.go_back()
    expect(page.locator("#start .card").first).to_be_visible()
    assert page.title() == "wardrobe.index"


def test_an_image_that_is_open_is_in_the_address(page: Page, search: Any, card: Any, open_page: Any) -> None:
    from playwright.sync_api import expect

    names = search(page, STRIPED)
    card(page, 2).locator(".open").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name=names[2])).to_be_visible()
    fresh = open_page(page.url)
    expect(fresh.get_by_role("dialog").get_by_role("heading", name=names[2])).to_be_visible()
    expect(fresh.get_by_role("dialog")).to_contain_text("Rank 3")
    dialog.get_by_role("button", name="The next picture").click()
    expect(dialog.get_by_role("heading", name=names[3])).to_be_visible()
    page.go_back()  # one step, however many pictures were turned over
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(card(page, 3).locator(".open")).to_be_focused()


def test_filters_are_the_columns_of_the_index(page: Page, search: Any, hits: Any) -> None:
    from playwright.sync_api import expect

    search(page, STRIPED)
    page.get_by_role("button", name="Filters").click()
    panel = page.get_by_role("group", name="Filters", exact=True)
    sleeves = panel.get_by_role("group", name="sleeves")
    count = int(sleeves.get_by_text(re.compile(r"^long\s*\d+$")).inner_text().split()[-1])
    sleeves.get_by_label("long").check()
    expect(page.locator("#results .summary")).to_contain_text(f"{count} pictures searched")
    panel.get_by_label("price up to").fill("30.50")
    expect(page.locator("#chips")).to_contain_text("price up to 30.50")
    panel.get_by_label("title contains").fill("sweater")
    expect(page.locator("#chips")).to_contain_text("title contains “sweater”")
    page.wait_for_function("() => !document.querySelector('.busy')")
    shown = page.locator("#results .card").count()
    assert 0 < shown < count
    assert page.url.count("where=") == 3
    panel.get_by_label("price up to").fill("12")
    expect(page.locator("#results")).to_contain_text("No picture meets these filters")
    page.get_by_role("button", name="Remove price up to 12").click()
    page.get_by_role("button", name="Remove title contains “sweater”").click()
    expect(page.locator("#results .summary")).to_contain_text(f"{count} pictures searched")
    assert page.locator("#steps").is_hidden()  # filters are no further step
    page.go_back()
    page.go_back()
    expect(page.locator("#results")).to_contain_text("No picture meets these filters")


def test_what_is_not_wanted(page: Page, search: Any, hits: Any) -> None:
    from playwright.sync_api import expect

    names = search(page, "a sweater")
    page.get_by_role("button", name="Not …").click()
    page.get_by_label("What is not wanted").fill("stripes")
    page.keyboard.press("Enter")
    expect(page.get_by_role("list", name="Not wanted")).to_contain_text("not: stripes")
    page.wait_for_function("() => location.hash.includes('not=stripes')")
    assert hits(page) != names
    page.get_by_role("button", name="Remove not: stripes").click()
    page.wait_for_function("() => !location.hash.endsWith('not=stripes')")
    assert hits(page) == names


def test_hits_come_as_far_as_somebody_scrolls(
    page: Page, search: Any, site: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    from playwright.sync_api import expect

    page.set_viewport_size({"width": 1000, "height": 300})
    search(page, "a dress")
    assert page.locator("#results .card").count() == 40
    page.locator("#results .card").nth(39).scroll_into_view_if_needed()
    expect(page.locator("#results .card")).to_have_count(48)
    expect(page.locator("#results .foot")).to_have_text("That is all: 48 pictures.")
    ranks = page.locator("#results .caption b").all_text_contents()
    assert ranks == [str(rank) for rank in range(1, 49)]


def test_nothing_fits(page: Page, search: Any) -> None:
    from playwright.sync_api import expect

    search(page, "a red car in the snow")
    expect(page.get_by_role("heading", name="Nothing fits")).to_be_visible()
    expect(page.locator("#live")).to_contain_text("Nothing fits")
    assert page.locator("#results .card").count() > 0
    search(page, STRIPED)
    expect(page.get_by_role("heading", name="Nothing fits")).to_have_count(0)
    expect(page.locator("#live")).to_contain_text("48 pictures searched")


def test_links_that_make_no_sense_say_so(open_page: Any, site: Running) -> None:
    from playwright.sync_api import expect

    page = open_page(f"{site.url}/#q=in%20red&ref=..%2F..%2Fetc%2Fpasswd", refusals=True)
    expect(page.get_by_role("alert")).to_contain_text("neither an image file nor an id")
    page = open_page(f"{site.url}/#ref=%00&at=7&q=&where=%5B1%5D&old=x&show&&judge=all&not=+")
    expect(page.locator("#start .card").first).to_be_visible()


def test_a_server_that_is_gone_says_so(page: Page, search: Any, site: Running, open_page: Callable[..., Page]) -> None:
    from playwright.sync_api import expect

    page = open_page(site.url, refusals=True)
    page.locator("#start .card").first.wait_for()
    page.route("**/api/v1/search", lambda route: route.abort())
    page.get_by_label("What to find").fill("a dress")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    page.unroute("**/api/v1/search")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#results .card").first).to_be_visible()


def test_an_index_without_pictures_asks_nobody_to_remove_filters(
    own_index: Path, model: Any, serve: Any, open_page: Any
) -> None:
    from playwright.sync_api import expect

    cir.remove(own_index, where="price>=0")
    page = open_page(serve(cir.Searcher(Gallery.open(own_index), lambda card: model)).url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Search by a picture, a sentence, or both")
    expect(page.locator("#start")).to_contain_text("This index holds no pictures yet.")
    page.get_by_label("What to find").fill(STRIPED)
    page.keyboard.press("Enter")
    expect(page.locator("#results")).to_contain_text("There is no picture to be found")
    expect(page.locator("#results")).not_to_contain_text("filters")


def test_an_image_that_is_not_there_is_said(open_page: Any, site: Running) -> None:
    from playwright.sync_api import expect

    page = open_page(f"{site.url}/#q=a+red+dress&show=nope.jpg", refusals=True)
    expect(page.locator("#toast")).to_contain_text("nope.jpg")
    expect(page.locator("#results .card").first).to_be_visible()
    assert "show=" not in page.url


def test_what_could_not_be_searched_is_said(tmp_path: Path, serve: Any, open_page: Any) -> None:
    from playwright.sync_api import expect

    index = tmp_path / "x.index"
    build(folder_of(tmp_path / "photos", 20), index, segment_rows=10)
    parts = PartsHere(index, 2, 10**9)
    page = open_page(serve(cir.Searcher(Gallery.open(index, spread=parts), lambda card: FakeEncoder())).url)
    parts.silent = {1}
    page.get_by_label("What to find").fill("red")
    page.keyboard.press("Enter")
    expect(page.locator("#results .notice")).to_contain_text("Only 50 % of the gallery was searched")
    expect(page.locator("#results .card")).to_have_count(10)
