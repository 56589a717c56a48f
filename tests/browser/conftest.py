"""A browser, and servers for it: a rendered wardrobe with the packaged model, and fakes where models are replaced.

Every page is watched: a test fails where one complains in its console, or asks another host for anything.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

import cir
from cir.data import wardrobe
from cir.indexer.reading.gallery import Gallery

pytest.importorskip("playwright", reason="needs playwright: scripts/setup cpu,dev")
pytest.importorskip("fastapi", reason="needs the extra `serve`")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

    from cir.testing.served import Running

HERE = Path(__file__).parent
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
PICTURES, SEED = 48, 25
WAIT = 30_000  # milliseconds after which something will not happen


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here need a browser, and take seconds."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, from CIR_CHROMIUM or the search path."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=WAIT)
    found = os.environ.get("CIR_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium), or its path in CIR_CHROMIUM")
    with sync_playwright() as playwright:
        # Without a sandbox: it cannot be had as root in a container, and only pages of this project are opened.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


Open = Callable[..., "Page"]
Serve = Callable[..., "Running"]


@pytest.fixture
def open_page(browser: Browser, serve: Serve) -> Iterator[Open]:
    """Opens an address in a context of its own: url, options of the context -> page. Servers stop after their pages."""
    made: list[Page] = []
    wrong: list[str] = []

    def make(url: str, *, refusals: bool = False, **options: Any) -> Page:
        """`refusals`: the test makes the server refuse requests, which the console says too."""
        context = browser.new_context(**{"reduced_motion": "reduce", **options})
        context.set_default_timeout(WAIT)
        page = context.new_page()
        made.append(page)
        host = url.split("/")[2]

        def console(kind: str, text: str) -> None:
            if kind in ("error", "warning") and not (refusals and text.startswith("Failed to load resource")):
                wrong.append(f"console: {text}")

        def asked(address: str) -> None:
            if not address.startswith((f"http://{host}/", "blob:", "data:")):
                wrong.append(f"another host is asked: {address}")

        page.on("console", lambda message: console(message.type, message.text))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda request: asked(request.url))
        page.goto(url)
        return page

    yield make
    for page in made:
        page.context.close()
    assert not wrong


@pytest.fixture(scope="session")
def wardrobe_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of rendered garments by the packaged model, made once for all processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, index = base / "browser-wardrobe", base / "browser-wardrobe.index"
    with FileLock(base / "browser-wardrobe.lock"):
        if not index.exists():
            table = {}
            for number, (image_id, garment) in enumerate(wardrobe.write(folder, PICTURES, seed=SEED)):
                title = f"{garment.attributes['colour']} {garment.attributes['type']} no {number}"
                table[image_id] = {**garment.attributes, "price": f"{10 + number}.50", "title": title}
            cir.build_index([folder], base / "making.index", cir.load_model("small"), metadata=table)
            (base / "making.index").rename(index)
    return index


@pytest.fixture(scope="session")
def model() -> Any:
    """The packaged model."""
    return cir.load_model("small")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts servers: searcher, settings, pools of a new model -> server."""
    from dataclasses import replace

    from cir.serve.settings import Settings
    from cir.testing.served import Running

    made: list[Running] = []

    def make(searcher: cir.Searcher, settings: Settings | None = None) -> Running:
        settings = replace(settings or Settings(port=0), thumbnails=tmp_path / "thumbnails")
        made.append(Running(searcher, settings))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def own_index(wardrobe_index: Path, tmp_path: Path) -> Path:
    """A copy of the wardrobe's index that a test may change."""
    return Path(shutil.copytree(wardrobe_index, tmp_path / "wardrobe.index"))


@pytest.fixture
def site(own_index: Path, model: Any, serve: Serve) -> Running:
    """A server over the wardrobe."""
    return serve(cir.Searcher(Gallery.open(own_index), lambda card: model))


@pytest.fixture
def page(open_page: Open, site: Running) -> Page:
    """Its page, before anything was searched for."""
    page = open_page(site.url)
    page.locator("#start .card").first.wait_for()
    return page


@pytest.fixture
def hits() -> Callable[..., list[str]]:
    """Names of the first hits that a page shows, once they answer a search: page, how many, where -> names."""

    def names(page: Page, count: int = 10, inside: str = "#results") -> list[str]:
        settled(page, inside)
        labels = page.locator(f"{inside} .card .open").evaluate_all("all => all.map(e => e.getAttribute('aria-label'))")
        return [label.split(", ")[1] for label in labels[:count]]

    def settled(page: Page, inside: str) -> None:
        page.locator(f"{inside} .card").first.wait_for()
        page.wait_for_function("() => !document.querySelector('.busy')")

    return names


@pytest.fixture
def search(hits: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Searches as a person does: page, text -> names of the first hits."""

    def type_and_enter(page: Page, text: str) -> list[str]:
        page.get_by_label("What to find").fill(text)
        page.keyboard.press("Enter")
        page.locator("#results .summary").wait_for()
        return hits(page)

    return type_and_enter


@pytest.fixture
def card() -> Callable[..., Locator]:
    """The card of a place in the hits: page, place -> card."""
    return lambda page, place=0, inside="#results": page.locator(f"{inside} .card").nth(place)
