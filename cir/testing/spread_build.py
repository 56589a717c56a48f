"""Builds by processes of a local Ray cluster with the fake model, for crash tests to kill them.

`python -m cir.testing.spread_build FOLDER OUT` prints a line for each segment of eight pictures, and one at the end.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from cir.arrays import Floats
from cir.cluster.encoding import RaySpread
from cir.cluster.session import joined
from cir.testing.fakes import FakeEncoder, build
from cir.types import Encoded

ROWS = 8
SECONDS = 0.05  # that a batch takes, so that there is something to kill


class SlowEncoder(FakeEncoder):
    """The fake model, in no hurry."""

    def encode_images(self, pixels: Floats) -> Encoded:
        """As `FakeEncoder`, after a while."""
        time.sleep(SECONDS)
        return super().encode_images(pixels)


def main() -> None:
    """Build an index from the arguments FOLDER OUT."""
    with joined("local", 2) as ray:
        print("joined", flush=True)
        spread = RaySpread(ray, SlowEncoder, 2, 1)
        build(
            Path(sys.argv[1]),
            Path(sys.argv[2]),
            progress=lambda done, _: print(done, flush=True),
            spread=spread,
            segment_rows=ROWS,
        )
    print("built", flush=True)


if __name__ == "__main__":
    main()
