"""SPRC at the official size (ViT-g and Q-Former, random weights) on the CPU: speed, memory, and what precision costs.

    python bench/full_size.py PHOTOS --output bench/results/DATE-full-size.json

PHOTOS is a zip or folder; the first 100 are encoded, and the first 24 of them are references of queries. Each way of
computing runs in a process of its own, one after another, through the encoder that commands use. Run it on an idle
machine; it takes about ten minutes and 10 GB of memory.
"""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn

from cir import devices, models
from cir.arrays import Floats
from cir.files import write_json
from cir.images import Preprocess, decode, scan
from cir.models import weights
from cir.models.config import VIT_G_CONFIG
from cir.models.encoder import SprcEncoder
from cir.models.sprc import Sprc

VOCABULARY = models.PACKAGED / weights.VOCABULARY
SEED, PHOTOS, QUERIES, BATCH = 0, 100, 24, 8
CAPTIONS = ("in red", "with long sleeves and a round neck", "for women", "has stripes instead of dots")


def make(directory: Path) -> None:
    """Write a model of the official size as `cir convert` would: the backbone's matrices in float16."""
    torch.manual_seed(SEED)
    model = Sprc(VIT_G_CONFIG)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1:  # transformers leaves some at zero, which would hide them
                value.normal_(0, 0.02)
            elif name.endswith("bias"):
                value.normal_(0, 0.01)
        for name in model.backbone_matrices():
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, nn.Parameter(model.get_parameter(name).half(), False))
    description = weights.ModelDescription(
        name="random-vit-g",
        preprocess=Preprocess(),
        vocabulary=VOCABULARY.read_bytes(),
        training={"weights": "random", "seed": SEED},
    )
    weights.save(directory, model, description, compact=False)


def unchanged(encoder: SprcEncoder) -> None:
    """As every command runs it."""


def compiled(encoder: SprcEncoder) -> None:
    """torch.compile for the backbone, its weights laid out for the products in advance."""
    import torch._inductor.config

    torch._inductor.config.freezing = True
    encoder.sprc.requires_grad_(False)
    encoder.sprc.vision.compile()


def int8(encoder: SprcEncoder) -> None:
    """The backbone's matrices in int8, activations quantised on the fly."""
    sprc = encoder.sprc
    sprc.vision = torch.ao.quantization.quantize_dynamic(sprc.vision, {nn.Linear}, dtype=torch.qint8)


# The baseline: the plain transformers model, with torch's default memory handling.
PLAIN = "float32, plain"
# name -> whether to run in float32, and the change to the loaded model
WAYS: dict[str, tuple[bool, Callable[[SprcEncoder], None]]] = {
    PLAIN: (True, unchanged),
    "float32": (True, unchanged),
    "bfloat16": (False, unchanged),
    "bfloat16, compiled": (False, compiled),
    "int8": (True, int8),
}


def measure(way: str, model: Path, pixels: Floats, answers: Path) -> dict[str, Any]:
    """Load, encode images and queries in this process; vectors go to `answers`."""
    full, change = WAYS[way]
    if way == PLAIN:
        devices.keep_freed_memory = lambda: None
    with devices.full_precision() if full else nullcontext():
        started = time.perf_counter()
        encoder = models.load_model(model, device="cpu", runtime="torch")
        loaded = time.perf_counter() - started
        change(encoder)
        started = time.perf_counter()
        encoder.encode_images(pixels[:BATCH])
        first = time.perf_counter() - started
        whole = len(pixels) // BATCH * BATCH  # a shorter batch would be compiled anew
        started = time.perf_counter()
        tokens = [encoder.encode_images(part).tokens for part in batches(pixels[:whole])]
        encoded = time.perf_counter() - started
        tokens += [encoder.encode_images(part).tokens for part in batches(pixels[whole:])]
        captions = [CAPTIONS[i % len(CAPTIONS)] for i in range(QUERIES)]
        started = time.perf_counter()
        queries = np.concatenate(
            [
                encoder.encode_queries(part, captions[i * BATCH : i * BATCH + len(part)])
                for i, part in enumerate(batches(pixels[:QUERIES]))
            ]
        )
        answered = time.perf_counter() - started
    np.savez(answers, tokens=np.concatenate(tokens), queries=queries)
    return {
        "load_seconds": round(loaded, 2),
        "first_batch_seconds": round(first, 2),
        "seconds_per_image": round(encoded / whole, 3),
        "images_per_second": round(whole / encoded, 2),
        "seconds_per_query": round(answered / QUERIES, 3),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def batches(pixels: Floats) -> Iterator[Floats]:
    """Parts of `BATCH` images."""
    for start in range(0, len(pixels), BATCH):
        yield pixels[start : start + BATCH]


def differences(exact: dict[str, Floats], other: dict[str, Floats]) -> dict[str, Any]:
    """How far tokens and scores moved, beside the gaps between ranks that such a move would have to bridge."""

    def scores(vectors: dict[str, Floats]) -> Floats:
        return np.einsum("qd,ntd->qnt", vectors["queries"], vectors["tokens"]).max(axis=-1)

    cosines = (exact["tokens"] * other["tokens"]).sum(axis=-1)
    wanted, got = scores(exact), scores(other)
    moved = np.abs(wanted - got)
    # A shift that all images of a query share changes no rank.
    relative = np.abs((wanted - wanted.mean(1, keepdims=True)) - (got - got.mean(1, keepdims=True)))
    ranked = -np.sort(-wanted, axis=1)
    kept = [len(set(a) & set(b)) for a, b in zip(np.argsort(-wanted)[:, :10], np.argsort(-got)[:, :10], strict=True)]
    return {
        "token_cosine": {"least": round(float(cosines.min()), 6), "mean": round(float(cosines.mean()), 6)},
        "score_error": {"median": float(np.median(moved)), "largest": float(moved.max())},
        "score_error_within_a_query": {"median": float(np.median(relative)), "largest": float(relative.max())},
        "margins": {
            "rank 1 to 2, median": float(np.median(ranked[:, 0] - ranked[:, 1])),
            "rank 10 to 11, median": float(np.median(ranked[:, 9] - ranked[:, 10])),
            "spread of a query's scores (standard deviation)": float(wanted.std(axis=1).mean()),
        },
        "first_ten_kept": round(float(np.mean(kept)) / 10, 3),
        "first_kept": round(float((wanted.argmax(1) == got.argmax(1)).mean()), 3),
    }


@click.command()
@click.argument("photos", type=click.Path(exists=True, path_type=Path))
@click.option("--output", type=click.Path(path_type=Path))
@click.option("--one", nargs=2, hidden=True, help="A way of computing and the folder to work in: a process of its own.")
def main(photos: Path, output: Path | None, one: tuple[str, str] | None) -> None:
    """Measure every way and write the figures."""
    warnings.simplefilter("ignore")
    if one:
        way, work = one[0], Path(one[1])
        if way == "make":
            make(work / "model")
            return
        pixels = np.load(work / "pixels.npy")
        click.echo(json.dumps(measure(way, work / "model", pixels, work / f"{way}.npz")))
        return
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        images = sorted(scan([photos]), key=lambda image: image.id)[:PHOTOS]
        np.save(work / "pixels.npy", np.stack([Preprocess()(decode(image.read(), image.id)) for image in images]))
        subprocess.run([sys.executable, __file__, str(photos), "--one", "make", str(work)], check=True)
        figures: dict[str, Any] = {}
        found: dict[str, dict[str, Floats]] = {}
        for way in WAYS:
            done = subprocess.run(
                [sys.executable, __file__, str(photos), "--one", way, str(work)], stdout=subprocess.PIPE, text=True
            )
            if done.returncode:
                figures[way] = {"failed": done.returncode}
                continue
            figures[way] = json.loads(done.stdout.splitlines()[-1])
            found[way] = dict(np.load(work / f"{way}.npz"))
            if way != PLAIN:
                faster = figures[PLAIN]["seconds_per_image"] / figures[way]["seconds_per_image"]
                figures[way] |= {"times_plain_float32": round(faster, 2), **differences(found[PLAIN], found[way])}
            click.echo(f"{way}: {json.dumps(figures[way])}")
        size = (work / "model" / weights.WEIGHTS).stat().st_size
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"cores": torch.get_num_threads(), "platform": platform.platform(), "torch": torch.__version__},
        "amx": torch.cpu._is_amx_tile_supported(),
        "weights": f"random, seed {SEED}, {size / 2**30:.2f} GiB",
        "photos": len(images),
        "batch": BATCH,
        "queries": QUERIES,
        "ways": figures,
    }
    if output:
        write_json(output, result, indent=1)


if __name__ == "__main__":
    main()
