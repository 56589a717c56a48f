"""The official benchmarks by name, from the folder of the data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cir.errors import MissingImageError
from cir.data.circo import read_circo
from cir.data.cirr import read_cirr, read_cirr_train
from cir.data.fashioniq import read_fashioniq, read_fashioniq_train

if TYPE_CHECKING:
    from cir.data.annotations import Annotated, Triplets
    from cir.data.benchmark import Benchmark

# Each takes the data set's folder, and whether pictures will be wanted.
READERS: Mapping[str, Callable[[Path, bool], Annotated]] = {
    "fashioniq-val": lambda root, pictures: read_fashioniq(root),
    "fashioniq-val-union": lambda root, pictures: read_fashioniq(root, union=True),
    "cirr-val": lambda root, pictures: read_cirr(root, "val"),
    "cirr-test1": lambda root, pictures: read_cirr(root, "test1"),
    "circo-val": lambda root, pictures: read_circo(root, "val", pictures=pictures),
    "circo-test": lambda root, pictures: read_circo(root, "test", pictures=pictures),
}
# What models learn from; nothing is measured on these.
TRAIN_READERS: Mapping[str, Callable[[Path], Triplets]] = {
    "fashioniq-train": read_fashioniq_train,
    "cirr-train": read_cirr_train,
}


def load_official(name: str, root: Path, *, pictures: bool = True, allow_missing: bool = False) -> Benchmark:
    """An official benchmark.

    Args:
        name: a key of READERS.
        root: the data set's folder, in its official layout.
        pictures: look for the pictures too; without them runs can be scored.
        allow_missing: go on without pictures that are not there; the benchmark knows which.

    Raises:
        DataError: an annotation file is missing or not what it should be.
        MissingImageError: pictures are missing and that is not allowed, or none is there.
    """
    annotated = READERS[name](root, pictures)
    if not pictures:
        return annotated.benchmark
    benchmark = annotated.with_pictures()
    if benchmark.absent and not (allow_missing and benchmark.images):
        gone, first = benchmark.absent, annotated.places[min(benchmark.absent)]
        raise MissingImageError(
            f"{root}: {len(gone):,} of {len(annotated.places):,} images of {benchmark.protocol} are missing,"
            f" first {first} (.png or .jpg); 'cir data check {name} --data-root {root}' says how to get them"
            + (", --allow-missing goes on without" if benchmark.images else "")
        )
    return benchmark
