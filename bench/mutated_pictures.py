"""Mutated pictures of every format through reading, decoding and preprocessing: nothing but the package's own error.

    python bench/mutated_pictures.py --output bench/results/DATE-mutated-pictures.json

Small pictures are written in every format and mode that is read, and then changed: bytes flipped, numbers in headers
replaced, spans cut, swapped or repeated, the end cut off. They are read in a process of their own, which a crash in a
decoder may end: it is noted, and the next process goes on after it. Reported are what came of the pictures, the
slowest, and how much memory the process took at most. The exit status is 1 if there is any fault.
"""

from __future__ import annotations

import io
import json
import platform
import queue
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageCms, PngImagePlugin, features

from cir.errors import ImageDecodeError
from cir.images import ImageFile, Preprocess, decode

SECONDS = 20.0  # a picture that takes longer is a fault
MEGABYTES = 1500  # as is a process that takes more
SETTINGS = (Preprocess(flatten=True, target_ratio=1.0, fill=255, srgb=True), Preprocess())  # our models', SPRC's


def seeds() -> dict[str, bytes]:
    """Name with suffix -> an intact picture, one per format and mode."""
    values = np.random.default_rng(0).integers(0, 256, (12, 15, 3), dtype=np.uint8)
    rgb = Image.fromarray(values).resize((90, 72), Image.Resampling.BICUBIC)
    grey, rgba, palette = rgb.convert("L"), rgb.convert("RGBA"), rgb.quantize(32)
    rgba.putalpha(grey)
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    floats = Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "some text " * 20, zip=True)
    texts.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>', zip=True)
    made: dict[str, bytes] = {}

    def add(name: str, image: Image.Image, kind: str, **options: object) -> None:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        made[name] = buffer.getvalue()

    more = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    add("plain.jpg", rgb, "JPEG")
    add("progressive.jpg", rgb, "JPEG", progressive=True)
    add("tagged.jpg", rgb, "JPEG", exif=exif, icc_profile=profile, comment=b"a comment")
    add("cmyk.jpg", rgb.convert("CMYK"), "JPEG")
    add("several.mpo", rgb, "MPO", **more)
    add("plain.png", rgb, "PNG")
    add("tagged.png", rgb, "PNG", pnginfo=texts, icc_profile=profile, exif=exif)
    add("palette.png", palette, "PNG", transparency=bytes(range(32)))
    add("sixteen.png", sixteen, "PNG")
    add("animated.png", rgb, "PNG", **more)
    add("lossy.webp", rgb, "WEBP", exif=exif, icc_profile=profile)
    add("lossless.webp", rgba, "WEBP", lossless=True)
    add("animated.webp", rgb, "WEBP", **more)
    add("plain.gif", palette, "GIF", comment=b"a comment")
    add("animated.gif", rgb, "GIF", **more)
    add("plain.bmp", rgb, "BMP")
    add("palette.bmp", palette, "BMP")
    add("plain.ico", rgba.resize((64, 64)), "ICO", sizes=[(64, 64), (16, 16)])
    add("dib.ico", rgba.resize((64, 64)), "ICO", sizes=[(64, 64)], bitmap_format="bmp")
    add("plain.ppm", rgb, "PPM")
    add("plain.tga", rgba, "TGA", compression="tga_rle")
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        add(f"{compression}.tif", rgb, "TIFF", compression=compression)
    add("fax.tif", grey.convert("1"), "TIFF", compression="group4")
    add("float.tif", floats, "TIFF")
    add("sixteen.tif", sixteen, "TIFF", icc_profile=profile, exif=exif)
    add("lab.tif", Image.merge("LAB", rgb.split()), "TIFF")
    add("big.tif", rgb, "TIFF", big_tiff=True)
    if features.check("jpg_2000"):
        add("plain.jp2", rgb, "JPEG2000")
        add("plain.j2k", rgba, "JPEG2000", no_jp2=True)
    if features.check("avif"):
        add("plain.avif", rgb, "AVIF", exif=exif, icc_profile=profile)
        add("animated.avif", rgb, "AVIF", **more)
    try:
        import pillow_heif
    except ImportError:
        return made
    buffer = io.BytesIO()
    pillow_heif.from_pillow(rgb).save(buffer)
    return {**made, "plain.heic": buffer.getvalue()}


def flip(data: bytearray, rng: random.Random) -> bytes:
    """A few bytes of any value."""
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def header(data: bytearray, rng: random.Random) -> bytes:
    """Numbers near the start, at the edges of their range."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        size = rng.choice((1, 2, 4))
        value = rng.choice((0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
        place = rng.randrange(min(len(data), rng.choice((32, 128, 1024))))
        order = rng.choice(("little", "big"))
        data[place : place + size] = (value % 256**size).to_bytes(size, order)
    return bytes(data)


def cut(data: bytearray, rng: random.Random) -> bytes:
    """The end is missing."""
    return bytes(data[: rng.randrange(len(data))])


def shuffle(data: bytearray, rng: random.Random) -> bytes:
    """Spans lost, repeated or in another order, as when chunks are mixed up."""
    places = sorted(rng.randrange(len(data) + 1) for _ in range(4))
    spans = [bytes(data[a:b]) for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    change = rng.choice(("lose", "repeat", "swap"))
    if change == "lose":
        del spans[rng.randrange(1, 5)]
    elif change == "repeat":
        spans[2] = spans[2] * rng.choice((2, 3, 50))
    else:
        spans[1], spans[3] = spans[3], spans[1]
    return b"".join(spans)


MUTATIONS: tuple[Callable[[bytearray, random.Random], bytes], ...] = (flip, flip, header, header, cut, shuffle)


def mutated(pictures: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """The picture of a number, and its name: always the same."""
    rng = random.Random(f"{seed} {number}")
    name = rng.choice(sorted(pictures))
    data = pictures[name]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(MUTATIONS)(bytearray(data), rng) if data else data
    return name, data


def work(seed: int, start: int, count: int) -> None:
    """Read pictures; prints a line before each and one after it."""
    pictures = seeds()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(start, count):
            name, data = mutated(pictures, seed, number)
            file = ImageFile(name, folder, f"{folder}/{name}")
            Path(file.path).write_bytes(data)
            print(f"start {number} {name}", flush=True)
            started = time.perf_counter()
            try:
                preprocess = SETTINGS[number % 2]
                preprocess(decode(file.read(), name, preprocess.min_side))
                outcome = "read"
            except ImageDecodeError as error:
                outcome = "refused" if "\n" not in str(error) and str(error) else f"fault: {error!r}"
            except BaseException:
                outcome = f"fault: {traceback.format_exc(limit=-2)!r}"
            seconds = time.perf_counter() - started
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
            print(f"end {seconds:.3f} {peak} {outcome}", flush=True)


def outcomes(seed: int, count: int) -> Iterator[tuple[int, str, float, int, str]]:
    """(number, name, seconds, megabytes of the process, outcome) of each picture."""
    start = 0
    while start < count:
        command = [sys.executable, __file__, "--worker", str(start), "--count", str(count), "--seed", str(seed)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_follow, args=(process, lines), daemon=True).start()
        number, name, begun, peak = start, "", False, 0
        while True:
            try:
                line = lines.get(timeout=SECONDS + 60 * (not begun))
            except queue.Empty:
                process.kill()
                yield number, name, SECONDS, peak, f"fault: more than {SECONDS:.0f} s"
                break
            if line.startswith("start "):
                begun = True
                _, text, name = line.split()
                number = int(text)
            elif line.startswith("end "):
                _, seconds, text, outcome = line.rstrip("\n").split(" ", 3)
                begun, peak = False, int(text)
                yield number, name, float(seconds), peak, outcome
                number += 1
                if peak > MEGABYTES:  # another process shows whether it is one picture
                    process.kill()
                    break
            elif not line:
                code = process.wait()
                if code and not name:
                    raise click.ClickException(f"the worker cannot start; see: {' '.join(command)}")
                if begun:
                    yield number, name, 0.0, peak, f"fault: the process ended with {code}"
                break
        process.wait()
        start = number + begun


def _follow(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put("")


@click.command()
@click.option("--count", default=50_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--worker", type=int, hidden=True, help="First picture of this process.")
@click.option("--output", type=click.Path(path_type=Path))
def main(count: int, seed: int, worker: int | None, output: Path | None) -> None:
    """Read mutated pictures and write what came of them."""
    if worker is not None:
        return work(seed, worker, count)
    of_suffix: dict[str, Counter[str]] = {}
    faults = []
    slowest, largest = (0.0, ""), (0, "")
    for number, name, seconds, peak, outcome in outcomes(seed, count):
        of_suffix.setdefault(Path(name).suffix, Counter())[outcome.partition(":")[0]] += 1
        slowest = max(slowest, (seconds, f"{number} {name}"))
        if peak > largest[0]:
            largest = (peak, f"{number} {name}")
        if outcome.startswith("fault") or peak > MEGABYTES:
            faults.append({"number": number, "name": name, "outcome": outcome, "MB": peak})
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "pillow": Image.__version__,
        "seed": seed,
        "pictures": sum(counts.total() for counts in of_suffix.values()),
        "bounds": {"seconds per picture": SECONDS, "MB of a process": MEGABYTES},
        "outcomes": {suffix: dict(counts) for suffix, counts in sorted(of_suffix.items())},
        "slowest picture, s": slowest,
        "largest process, MB": largest,
        "faults": faults,
    }
    click.echo(json.dumps(result, indent=1))
    if output:
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
