"""Figures that papers report, to stand beside ours: only of protocols that are the same, and with their source.

Nothing is listed for GeneCIS, Shoes, Fashion200K and i-CIR yet: papers differ in what they rank and average there, and
no figure was checked against its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """What a paper reports of a method.

    Attributes:
        method: its name.
        protocol: as in our reports.
        figures: name of a measure, or of the headline -> value, as a fraction.
        source: the paper.
    """

    method: str
    protocol: str
    figures: Mapping[str, float]
    source: str


PUBLISHED = (
    Published(
        "SPRC",
        "fashioniq-val/split",
        {"R@10": 0.5472, "R@50": 0.7497, "(R@10 + R@50) / 2": 0.6485},
        "Bai et al., Sentence-level Prompts Benefit Composed Image Retrieval, ICLR 2024",
    ),
    Published(
        "SPRC + SPN",
        "fashioniq-val/split",
        {"(R@10 + R@50) / 2": 0.6641},
        "Feng et al., Improving Composed Image Retrieval via Contrastive Learning with Scaling Positives and Negatives,"
        " ACM MM 2024",
    ),
)
