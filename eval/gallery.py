"""The gallery of a benchmark, or of several at once, as an index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cir.data.benchmark import Benchmark
from cir.errors import DataError, UsageError
from cir.images import ImageFile
from cir.indexer.writing.build import BuildOptions, build_index
from cir.indexer.writing.spreading import Spread
from cir.types import GalleryEncoder, Progress


def index_gallery(
    benchmark: Benchmark,
    path: Path,
    encoder: GalleryEncoder,
    *,
    options: BuildOptions | None = None,
    allow_missing: bool = False,
    progress: Progress | None = None,
) -> Benchmark:
    """Build an index of one benchmark's images, or resume building it; as `index_galleries`."""
    (indexed,) = index_galleries(
        [benchmark], path, encoder, options=options, allow_missing=allow_missing, progress=progress
    )
    return indexed


def index_galleries(
    benchmarks: Sequence[Benchmark],
    path: Path,
    encoder: GalleryEncoder,
    *,
    options: BuildOptions | None = None,
    allow_missing: bool = False,
    progress: Progress | None = None,
    spread: Spread | None = None,
) -> list[Benchmark]:
    """Build one index of the images of some benchmarks, or resume building it. What several have is encoded once.

    Args:
        benchmarks: with images.
        path: the index folder.
        encoder: the model.
        options: how to build.
        allow_missing: accept pictures that cannot be read.
        progress: called with (images done, images in all).
        spread: what encodes, as in `build_index`.

    Returns:
        The benchmarks, with unreadable pictures as absent.

    Raises:
        UsageError: two benchmarks give one id to different pictures.
        DataError: a picture cannot be read and that is not allowed. As `build_index` besides.
    """
    built = build_index(_all_images(benchmarks), path, encoder, options=options, progress=progress, spread=spread)
    if built.skipped and not allow_missing:
        first, reason = built.skipped[0]
        raise DataError(
            f"{len(built.skipped)} images of the gallery cannot be read, first {first}: {reason};"
            " --allow-missing goes on without"
        )
    skipped = {image_id for image_id, _ in built.skipped}
    return [benchmark.without(skipped.intersection(image.id for image in benchmark.images)) for benchmark in benchmarks]


def _all_images(benchmarks: Sequence[Benchmark]) -> list[ImageFile]:
    found: dict[str, tuple[ImageFile, str]] = {}
    for benchmark in benchmarks:
        for image in benchmark.images:
            known, name = found.setdefault(image.id, (image, benchmark.name))
            if (known.path, known.member, known.box) != (image.path, image.member, image.box):
                raise UsageError(
                    f"{name} and {benchmark.name} have different pictures under the id {image.id!r};"
                    " evaluate them in two calls"
                )
    return [image for image, _ in found.values()]
