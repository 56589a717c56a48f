"""What `cir replace-model --apply` refuses: that it says why, exits with 1 and leaves everything as it is.

    python bench/replace_refusals.py DATA_ROOT OLD NEW EQUAL SEED BETTER --output bench/results/DATE-refusals.json

All are model directories. OLD has made the index, NEW is its successor; EQUAL has made another index, is as good as
NEW, which has no head for it; SEED is OLD trained again with another seed, and BETTER is SEED trained for longer, which
is not refused. The gallery and the anchors are those of `replace_model.py`, the first 600 of them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from replace_model import product_gallery

from cir import models
from cir.data import wardrobe
from cir.errors import StaleEvidenceError
from cir.images import scan
from cir.indexer.writing.build import build_index
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.manifest import CURRENT, GALLERY
from cir.models.encoder import SprcEncoder
from cir.replacement.questions import Anchor
from cir.replacement.study import apply, study_replacement
from cir.search.searcher import Searcher

ANCHORS = 600


def digest(index: Path) -> str:
    """Of CURRENT and of every stored vector."""
    files = [index / CURRENT, *sorted(index.rglob(GALLERY))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def refusals(scratch: Path, roles: Mapping[str, Path], anchors: Sequence[Anchor]) -> dict[str, Any]:
    """`cir replace-model --apply` where it must not: what it says, its exit code, and whether anything changed.

    Args:
        scratch: holds the index that each role has made, under its name.
        roles: old, new, equal, seed and better -> model directory.
        anchors: to measure on.
    """
    new = roles["new"]
    lines = [
        {"id": one.id, "reference": one.reference, "caption": one.caption, "targets": sorted(one.targets)}
        for one in anchors
    ]
    file, few = scratch / "anchors.jsonl", scratch / "few.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    few.write_text("".join(json.dumps(line) + "\n" for line in lines[:199]))
    changed = scratch / "changed-map"
    shutil.copytree(new, changed)
    for frozen in new.parent.glob("frozen-*.safetensors"):
        shutil.copyfile(frozen, scratch / frozen.name)
    card = json.loads((changed / "card.json").read_text())
    colours = card["card"]["classes"]["colour"]
    colours[0], colours[1] = colours[1], colours[0]
    card["card"]["name"] = "changed-map"
    (changed / "card.json").write_text(json.dumps(card))
    cases = {
        "another seed": ("old", roles["seed"], file),
        "another seed, a better model": ("old", roles["better"], file),
        "another seed, the other way round": ("seed", roles["old"], file),
        "equal quality, no head": ("equal", new, file),
        "a worse model": ("new", roles["old"], file),
        "a changed class map": ("old", changed, file),
        "199 anchors": ("old", new, few),
    }
    found: dict[str, Any] = {}
    dirs = [word for folder in roles.values() for word in ("--model-dir", folder.parent)]
    for name, (made_by, model, asked) in cases.items():
        index = scratch / made_by
        before = digest(index)
        words = ["replace-model", index, model, "--anchors", asked, "--sample", "300", "--json"]
        words += ["--apply"] if model != roles["better"] else []
        done = subprocess.run(
            [sys.executable, "-m", "cir", *map(str, [*words, *dirs])], capture_output=True, text=True, check=False
        )
        if done.returncode not in (0, 1):
            raise click.ClickException(done.stderr)
        (space,) = json.loads(done.stdout)["spaces"]
        found[name] = {
            "exit code": done.returncode,
            "untouched": digest(index) == before,
            "may serve by": space["verdict"]["route"],
            "refused": space["verdict"]["refused"],
            "compared": space["compared"],
            "routes": {one["route"]: one["gains"] for one in space["routes"]},
        }
    return found


def stale(path: Path, load: Any, newer: SprcEncoder, anchors: Sequence[Anchor], more: Path) -> dict[str, Any]:
    """An index that has grown since it was measured."""
    index = Searcher(Gallery.open(path), load)
    found = study_replacement(index, newer, anchors[:250], sample=0)
    build_index(scan([more]), path, index.encoder, tokens=False, prune=False)
    before = digest(path)
    try:
        apply(path, newer, found, index.gallery.manifest.generation)
    except StaleEvidenceError as error:
        return {"says": str(error).partition(": ")[2], "untouched": digest(path) == before}
    return {"says": "", "untouched": False}


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.argument("equal", type=click.Path(path_type=Path))
@click.argument("seed", type=click.Path(path_type=Path))
@click.argument("better", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path))
def main(root: Path, output: Path | None, **roles: Path) -> None:
    """Measure and write the figures."""
    loaded = {role: models.load_model(path) for role, path in roles.items()}

    def load(card: Any) -> SprcEncoder:
        return next(one for one in loaded.values() if one.card.digest == card.digest)

    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        pictures, anchors = product_gallery(root)
        for role in ("old", "new", "equal", "seed"):
            build_index(pictures, scratch / role, loaded[role], tokens=False)
        anchors = anchors[:ANCHORS]
        found = refusals(scratch, roles, anchors)
        (scratch / "more").mkdir()
        wardrobe.draw(wardrobe.garments(1, seed=9)[0], seed=9).save(scratch / "more" / "one.png")
        found["stale evidence"] = stale(scratch / "old", load, loaded["new"], anchors, scratch / "more")
    click.echo(json.dumps(found, indent=1))
    if output:
        told = {
            "date": datetime.now(UTC).date().isoformat(),
            "models": {role: {"name": one.card.name, "digest": one.card.digest} for role, one in loaded.items()},
            **found,
        }
        output.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
