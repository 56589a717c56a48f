"""One gallery over several processes of a Ray cluster, against one process.

    python bench/spread.py build PHOTOS --output bench/results/DATE-spread-build.json

The machine should do nothing else; its load before and after is written beside the figures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.spread_parts.building import build


@click.group()
def main() -> None:
    """Measure."""


main.add_command(build)

if __name__ == "__main__":
    main()
