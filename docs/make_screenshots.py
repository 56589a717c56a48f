"""Photograph the page of `cir serve` for the documents: docs/images/serve-*.png, over a wardrobe that is drawn for it.

Needs the extra `dev` and Chromium. Pictures that are there are left: remove those that are to be made again, or give
another folder.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

import cir
from cir.data import wardrobe
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.mappings import write_mapping
from cir.indexer.storage.writer import writing
from cir.mappings import Route, SpaceMapping
from cir.testing.served import Running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

IMAGES = Path(__file__).parent / "images"
PICTURES, SEED = 300, 25
OLDER, SERVING = "small-lite", "small"
DESK = {"width": 1200, "height": 800}
PHONE = {"width": 360, "height": 740}
PARTS, SCHEMES = ("start", "results", "why"), ("light", "dark")
ONE_MODEL = ("serve-phone.png", *(f"serve-{part}-{scheme}.png" for part in PARTS for scheme in SCHEMES))
TWO_MODELS = "serve-side-by-side.png"
COLOURS = 256  # of a picture in a document; it is a third of the size so


def main(folder: Path) -> None:
    """Make the pictures that are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, browser() as chromium:
        rows = wardrobe.write(Path(temporary) / "wardrobe", PICTURES, seed=SEED)
        table = {
            image_id: {**garment.attributes, "price": f"{9 + number * 37 % 90}.50"}
            for number, (image_id, garment) in enumerate(rows)
        }
        if not all((folder / name).exists() for name in ONE_MODEL):
            index = Path(temporary) / "wardrobe.index"
            cir.build_index([Path(temporary) / "wardrobe"], index, cir.load_model(SERVING), metadata=table)
            with Running(cir.open_index(index)) as site:
                one_model(chromium, site.url, folder)
        if not (folder / TWO_MODELS).exists():
            index = Path(temporary) / "replaced" / "wardrobe.index"
            cir.build_index([Path(temporary) / "wardrobe"], index, cir.load_model(OLDER), metadata=table)
            replace_model(index)
            with Running(cir.open_index(index)) as site:
                two_models(chromium, site.url, folder)


def one_model(chromium: Browser, url: str, folder: Path) -> None:
    """The start, a search that was refined, and why a hit is there: in light, in dark and on a phone."""
    for scheme in SCHEMES:
        if all((folder / f"serve-{part}-{scheme}.png").exists() for part in PARTS):
            continue
        page = opened(chromium, url, scheme, DESK)
        save(folder / f"serve-start-{scheme}.png", [page.screenshot()])
        save(folder / f"serve-results-{scheme}.png", [results(page)])
        save(folder / f"serve-why-{scheme}.png", [why(page)])
    page = opened(chromium, url, "light", PHONE)
    save(folder / "serve-phone.png", [page.screenshot(), results(page), why(page)])


def two_models(chromium: Browser, url: str, folder: Path) -> None:
    """Old and new answers side by side."""
    page = opened(chromium, url, "light", DESK)
    search(page, "a striped sweater with long sleeves")
    page.get_by_role("button", name="Old and new").click()
    page.get_by_text("was ").first.wait_for()
    save(folder / TWO_MODELS, [still(page)])


def replace_model(index: Path) -> None:
    """Let the newer model serve an index of the older one, through its trained head."""
    serving, space = cir.load_model(SERVING).card, Gallery.open(index).space.id
    with writing(IndexFolder(index)) as writer:
        mapping = SpaceMapping(serving.digest, space, Route.TRAINED_HEAD)
        written = {space: write_mapping(IndexFolder(index), mapping)}
        writer.publish(read_manifest(IndexFolder(index)).succeed(card=serving, mappings=written))


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium, from CIR_CHROMIUM or the search path."""
    from playwright.sync_api import sync_playwright

    found = os.environ.get("CIR_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        raise SystemExit("needs Chromium, or its path in CIR_CHROMIUM")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def opened(chromium: Browser, url: str, scheme: str, size: dict[str, int]) -> Page:
    """The start page."""
    phone = size is PHONE
    page = chromium.new_page(
        viewport={"width": size["width"], "height": size["height"]},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
        is_mobile=phone,
        has_touch=phone,
        device_scale_factor=1.5 if phone else 1,
    )
    page.set_default_timeout(120_000)
    # The same handful each time.
    page.route("**/api/v1/random*", lambda route: route.continue_(url=f"{route.request.url}&seed=4"))
    page.goto(url)
    still(page)
    return page


def search(page: Page, text: str) -> None:
    """Search as a person does."""
    page.get_by_label("What to find").fill(text)
    page.keyboard.press("Enter")
    page.locator("#results .card").first.wait_for()
    still(page)


def results(page: Page) -> bytes:
    """The second step of a search, with a filter and two marks."""
    search(page, "a striped sweater with long sleeves")
    page.locator("#results .open").nth(1).click()
    page.get_by_label("Like this, but …").fill("in red")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.includes('ref=')")
    page.get_by_role("button", name="Filters").click()
    page.get_by_role("group", name="price").get_by_label("price up to").fill("80")
    page.get_by_text("price up to 80").wait_for()
    page.get_by_role("button", name="Filters").click()
    still(page)
    for place, key in ((0, "y"), (1, "n")):
        open_button = page.locator("#results .open").nth(place)
        if open_button.locator("xpath=ancestor::li").get_by_role("button", pressed=True).count() == 0:
            open_button.focus()
            page.keyboard.press(key)
            page.locator("#marks-count").get_by_text(str(place + 1)).wait_for()
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.mouse.move(2, 2)
    return still(page)


def why(page: Page) -> bytes:
    """What the score of a hit reacts to."""
    page.locator("#results .open").nth(2).click()
    page.get_by_role("button", name="Why is it here?").click()
    page.get_by_role("table").wait_for()
    if page.viewport_size == PHONE:
        page.get_by_role("heading", name="What the score reacts to").evaluate("each => each.scrollIntoView()")
    page.evaluate("document.activeElement.blur()")
    return still(page)


def still(page: Page) -> bytes:
    """A picture of the page once everything has come."""
    page.wait_for_load_state("networkidle")
    page.wait_for_function("() => !document.querySelector('.busy')")
    page.wait_for_timeout(500)
    return page.screenshot()


def save(path: Path, shots: list[bytes]) -> None:
    """Write one picture, or several side by side; one that is there is left."""
    if path.exists():
        return
    images = [Image.open(BytesIO(shot)).convert("RGB") for shot in shots]
    gap = 24 if len(images) > 1 else 0
    width = sum(image.width + gap for image in images) + gap
    sheet = Image.new("RGB", (width, images[0].height + 2 * gap), "#e4e4e2")
    left = gap
    for image in images:
        sheet.paste(image, (left, gap))
        left += image.width + gap
    sheet.quantize(COLOURS, kmeans=2, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
