"""One gallery over several processes of a Ray cluster, against one process.

    python bench/spread.py build PHOTOS --output bench/results/DATE-spread-build.json

The machine should do nothing else; its load before and after is written beside the figures.
"""

from __future__ import annotations

import click
from spread_parts.building import build


@click.group()
def main() -> None:
    """Measure."""


main.add_command(build)

if __name__ == "__main__":
    main()
