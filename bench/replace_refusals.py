"""What `cir replace-model --apply` refuses: that it gives reasons, exits with 1 and changes nothing.

    python bench/replace_refusals.py DATA_ROOT OLD NEW EQUAL SEED BETTER --output bench/results/DATE-refusals.json

All are model folders. OLD has made the index, and NEW is its successor. EQUAL has made another index and is as good as
NEW, which has no head for it. SEED is OLD trained again with another seed, and BETTER is SEED trained for longer, which
is not refused. The gallery and the judged queries are those of `replace_model.py`, the first 600 of them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from replace_model import product_gallery

from cir.data import wardrobe
from cir.data.judged_query import JudgedQuery
from cir.errors import StaleEvidenceError
from cir.images import scan
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.folder import GALLERY, IndexFolder
from cir.indexer.writing.build import BuildOptions, build_index
from cir.indexer.writing.serve import serve_model
from cir.models import load_model
from cir.models.base_encoder import BaseEncoder
from cir.replacement.study import StudyOptions, study_replacement
from cir.search import Searcher
from cir.types import ModelCard

QUERIES = 600
NO_TOKENS = BuildOptions(tokens=False)


def digest(index: Path) -> str:
    """Digest of CURRENT and of every stored vector."""
    files = [IndexFolder(index).current, *sorted(index.rglob(GALLERY))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def refusals(scratch: Path, roles: Mapping[str, Path], queries: Sequence[JudgedQuery]) -> dict[str, Any]:
    """`cir replace-model --apply` where it must refuse: its reasons, its exit code, and whether anything changed.

    Args:
        scratch: holds the index that each role has made, under its name.
        roles: old, new, equal, seed and better -> model folder.
        queries: to measure on.
    """
    new = roles["new"]
    lines = [
        {"id": query.id, "reference": query.reference, "caption": query.caption, "targets": sorted(query.targets)}
        for query in queries
    ]
    file, few = scratch / "questions.jsonl", scratch / "few.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    few.write_text("".join(json.dumps(line) + "\n" for line in lines[:199]))
    cases = {
        "another seed": ("old", roles["seed"], file),
        "another seed, a better model": ("old", roles["better"], file),
        "another seed, the other way round": ("seed", roles["old"], file),
        "equal quality, no head": ("equal", new, file),
        "a worse model": ("new", roles["old"], file),
        "a changed class map": ("old", changed_class_map(new, scratch), file),
        "199 judged queries": ("old", new, few),
    }
    results: dict[str, Any] = {}
    dirs = [word for folder in roles.values() for word in ("--model-dir", folder.parent)]
    for name, (made_by, model, questions) in cases.items():
        index = scratch / made_by
        before = digest(index)
        words = ["replace-model", index, model, "--questions", questions, "--sample", "300", "--json"]
        words += ["--apply"] if model != roles["better"] else []
        done = subprocess.run(
            [sys.executable, "-m", "cir", *map(str, [*words, *dirs])], capture_output=True, text=True, check=False
        )
        if done.returncode not in (0, 1):
            raise click.ClickException(done.stderr)
        (space,) = json.loads(done.stdout)["spaces"]
        results[name] = {
            "exit code": done.returncode,
            "untouched": digest(index) == before,
            "verdict": space["verdict"],
            "baselines": space["baselines"],
            "routes": {result["route"]: result["gains"] for result in space["routes"]},
        }
    return results


def changed_class_map(model: Path, scratch: Path) -> Path:
    """A copy of a model with two classes exchanged."""
    changed = scratch / "changed-map"
    shutil.copytree(model, changed)
    for shared in (*model.parent.glob("frozen-*.safetensors"), *model.parent.glob("vocab.txt")):
        shutil.copyfile(shared, scratch / shared.name)
    card = json.loads((changed / "card.json").read_text())
    colours = card["card"]["classes"]["colour"]
    colours[0], colours[1] = colours[1], colours[0]
    card["card"]["name"] = "changed-map"
    (changed / "card.json").write_text(json.dumps(card))
    return changed


def stale(
    path: Path,
    load: Callable[[ModelCard], BaseEncoder],
    newer: BaseEncoder,
    queries: Sequence[JudgedQuery],
    more: Path,
) -> dict[str, Any]:
    """An index that has grown since it was measured."""
    searcher = Searcher(Gallery.open(path), load)
    studies = study_replacement(searcher, newer, queries[:250], options=StudyOptions(sample=0))
    build_index(scan([more]), path, searcher.encoder, options=NO_TOKENS)
    before = digest(path)
    mappings = {study.evidence.space: study.mapping for study in studies if study.mapping}
    try:
        serve_model(path, newer, mappings, generation=searcher.gallery.manifest.generation)
    except StaleEvidenceError as error:
        return {"reason": str(error).partition(": ")[2], "untouched": digest(path) == before}
    return {"reason": "", "untouched": False}


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
    loaded = {role: load_model(path) for role, path in roles.items()}
    by_digest = {model.card.digest: model for model in loaded.values()}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        pictures, queries = product_gallery(root)
        for role in ("old", "new", "equal", "seed"):
            build_index(pictures, scratch / role, loaded[role], options=NO_TOKENS)
        results = refusals(scratch, roles, queries[:QUERIES])
        (scratch / "more").mkdir()
        wardrobe.draw(wardrobe.garments(1, seed=9)[0], seed=9).save(scratch / "more" / "one.png")
        results["stale evidence"] = stale(
            scratch / "old", lambda card: by_digest[card.digest], loaded["new"], queries, scratch / "more"
        )
    click.echo(json.dumps(results, indent=1))
    if output:
        content = {
            "date": datetime.now(UTC).date().isoformat(),
            "models": {role: {"name": one.card.name, "digest": one.card.digest} for role, one in loaded.items()},
            **results,
        }
        output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
