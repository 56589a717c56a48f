"""The gallery of a benchmark as an index."""

from __future__ import annotations

from pathlib import Path

from cir.data.benchmark import Benchmark
from cir.errors import DataError
from cir.indexer.writing.build import BuildOptions, build_index
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
    """Build an index of a benchmark's images, or resume building it.

    Args:
        benchmark: with images.
        path: the index folder.
        encoder: the model.
        options: how to build.
        allow_missing: accept pictures that cannot be read.
        progress: called with (images done, images in all).

    Returns:
        The benchmark, with unreadable pictures as absent.

    Raises:
        DataError: a picture cannot be read and that is not allowed. As `build_index` besides.
    """
    built = build_index(list(benchmark.images), path, encoder, options=options, progress=progress)
    if built.skipped and not allow_missing:
        first, reason = built.skipped[0]
        raise DataError(
            f"{len(built.skipped)} images of the gallery cannot be read, first {first}: {reason};"
            " --allow-missing goes on without"
        )
    return benchmark.without(image_id for image_id, _ in built.skipped)
