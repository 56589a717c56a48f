"""What the wardrobe holds: garments by their attributes, and random catalogues of them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (33, 33, 36),
    "white": (242, 242, 239),
    "grey": (142, 144, 148),
    "red": (200, 30, 42),
    "burgundy": (108, 22, 42),
    "orange": (232, 118, 34),
    "yellow": (241, 202, 64),
    "green": (40, 130, 78),
    "olive": (108, 107, 60),
    "light blue": (158, 198, 228),
    "blue": (38, 96, 196),
    "navy": (30, 41, 84),
    "purple": (114, 62, 154),
    "pink": (237, 160, 186),
    "beige": (214, 195, 164),
    "brown": (110, 73, 48),
}
# Which sleeves and which necklines each type is made with; colours and patterns go with everything.
CUTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "t-shirt": (("sleeveless", "short", "long"), ("round", "v-neck")),
    "shirt": (("sleeveless", "short", "long"), ("collar",)),
    "polo shirt": (("short", "long"), ("collar",)),
    "sweater": (("sleeveless", "short", "long"), ("round", "v-neck", "turtleneck")),
    "hoodie": (("short", "long"), ("hood",)),
    "jacket": (("sleeveless", "long"), ("round", "collar", "hood")),
    "dress": (("sleeveless", "short", "long"), ("round", "v-neck", "collar", "turtleneck")),
    "skirt": (("none",), ("none",)),
    "trousers": (("none",), ("none",)),
    "shorts": (("none",), ("none",)),
}
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "type": tuple(CUTS),
    "colour": tuple(COLOURS),
    "pattern": ("plain", "striped", "checked", "dotted", "floral"),
    "sleeves": ("sleeveless", "short", "long", "none"),
    "neckline": ("round", "v-neck", "collar", "turtleneck", "hood", "none"),
}

KINDS = tuple(ATTRIBUTES)
# How often each set of attributes is changed together in composed queries, in training and in the benchmark.
CHANGE_WEIGHTS: dict[tuple[str, ...], float] = {
    ("colour",): 0.2,
    ("type",): 0.1,
    ("pattern",): 0.2,
    ("sleeves",): 0.2,
    ("neckline",): 0.1,
    ("colour", "pattern"): 0.1,
    ("colour", "sleeves"): 0.1,
}


def possible(attributes: Mapping[str, str]) -> bool:
    """Tell whether a garment with these five attributes exists in the wardrobe."""
    if set(attributes) != set(ATTRIBUTES):
        return False
    if any(value not in ATTRIBUTES[kind] for kind, value in attributes.items()):
        return False
    sleeves, necklines = CUTS[attributes["type"]]
    return attributes["sleeves"] in sleeves and attributes["neckline"] in necklines


@dataclass(frozen=True)
class Garment:
    """One garment, described by its attributes; an impossible combination raises ``ValueError``."""

    type: str
    colour: str
    pattern: str
    sleeves: str
    neckline: str

    def __post_init__(self) -> None:
        if not possible(self.attributes):
            raise ValueError(f"no such garment: {self.attributes}")

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes by kind, in the order of ``ATTRIBUTES``."""
        return asdict(self)


def garments(count: int, *, seed: int) -> list[Garment]:
    """Make a random catalogue.

    Types come about equally often. Most garments differ in one attribute from an earlier one, and some
    repeat it, so that a change asked of one garment usually has a target in the catalogue.

    Args:
        count: How many garments.
        seed: The same seed gives the same catalogue.
    """
    rng = random.Random(f"garments {seed}")
    made: dict[str, list[Garment]] = {name: [] for name in ATTRIBUTES["type"]}
    catalogue: list[Garment] = []
    while len(catalogue) < count:
        for name in rng.sample(ATTRIBUTES["type"], len(ATTRIBUTES["type"])):
            chance = rng.random()
            if chance < 0.3 or not made[name]:
                garment = _fresh(name, rng, like=rng.choice(catalogue) if catalogue else None)
            elif chance < 0.85:
                garment = rng.choice(_neighbours(rng.choice(made[name])))
            else:
                garment = rng.choice(made[name])
            made[name].append(garment)
            catalogue.append(garment)
    return catalogue[:count]


def _fresh(name: str, rng: random.Random, like: Garment | None) -> Garment:
    """A new garment of a type; half the time in the cloth of another garment."""
    sleeves, necklines = CUTS[name]
    colour, pattern = rng.choice(ATTRIBUTES["colour"]), rng.choice(ATTRIBUTES["pattern"])
    if like is not None and rng.random() < 0.5:
        colour, pattern = like.colour, like.pattern
    return Garment(name, colour, pattern, rng.choice(sleeves), rng.choice(necklines))


def _neighbours(garment: Garment) -> list[Garment]:
    """Every garment of the same type that differs in exactly one attribute."""
    sleeves, necklines = CUTS[garment.type]
    choices = {
        "colour": ATTRIBUTES["colour"],
        "pattern": ATTRIBUTES["pattern"],
        "sleeves": sleeves,
        "neckline": necklines,
    }
    return [
        replace(garment, **{kind: value})
        for kind, values in choices.items()
        for value in values
        if value != garment.attributes[kind]
    ]
