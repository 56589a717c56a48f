"""Made-up photos with captions, for tests of what reads captions."""

from __future__ import annotations

import random

from cir.data.captioned import Captions

_PLACES = ("in the snow", "on the beach", "on the grass", "on the street", "in the woods")
_ACTIONS = (("runs", "is running"), ("sits", "is sitting"), ("jumps", "is jumping"), ("lies", "is lying"))
_THINGS = ("", "", "with a ball", "with a stick", "and a man")
_COLOURS = ("brown", "black", "white")


def made_up(count: int, seed: int = 0) -> Captions:
    """Photos of dogs, drawn: number, colour, place, action and things of each, in three captions."""
    rng = random.Random(seed)
    photos = {}
    for number in range(count):
        several = rng.random() < 0.3
        colour, place, thing = rng.choice(_COLOURS), rng.choice(_PLACES), rng.choice(_THINGS)
        plain, going = rng.choice(_ACTIONS)
        who = f"Two {colour} dogs" if several else f"A {colour} dog"
        captions = (
            f"{who} {going.replace('is', 'are') if several else plain} {place} {thing} .",
            f"{'Two dogs' if several else 'A dog'} {place} {thing} .",
            f"{who} {thing} {going.replace('is ', '')} {place} .",
        )
        photos[f"{number:03d}.png"] = tuple(" ".join(text.split()) for text in captions)
    return photos
