"""What can be refused without measuring: a model that registry a predecessor's simplex and does not keep to it."""

from __future__ import annotations

from cir.types import ModelCard


def objections(old: ModelCard, new: ModelCard) -> list[str]:
    """Why a model cannot succeed another whatever is measured; empty where nothing speaks against it.

    A gallery that is anchored to a simplex is handed on from model to model: the same vertices, the same class on
    each, new classes only behind the old ones. A model without a simplex registry nothing, and is measured.
    """
    found = []
    if new.weights_sha256 == old.weights_sha256 and new.preprocess_sha256 != old.preprocess_sha256:
        found.append(
            f"{new.name} has the weights of {old.name} and other preprocessing ({new.preprocess_sha256[:8]} for "
            f"{old.preprocess_sha256[:8]}): its vectors are not those it was trained to give"
        )
    if old.simplex is None or new.simplex is None:
        return found
    if new.simplex.vertices != old.simplex.vertices:
        ours, theirs = new.simplex.vertices[:8], old.simplex.vertices[:8]
        found.append(f"its vertices ({ours}) are not those of {old.name} ({theirs})")
    elif new.simplex != old.simplex:
        found.append(f"its simplex has other blocks or weights than that of {old.name}")
    if new.dims != old.dims:
        found.append(f"its vectors have {new.dims} dims, those of {old.name} {old.dims}")
    if new.space.score != old.space.score or new.space.normalisation != old.space.normalisation:
        found.append(f"its vectors are compared otherwise than those of {old.name}")
    for name, classes in old.classes.items():
        kept = list(new.classes.get(name, ()))
        if kept[: len(classes)] != list(classes):
            place = next((i for i, (a, b) in enumerate(zip(classes, kept, strict=False)) if a != b), len(kept))
            here = repr(kept[place]) if place < len(kept) else "nothing"
            found.append(
                f"its class map does not extend that of {old.name}: vertex {place} of {name} is {classes[place]!r} "
                f"there, {here} here"
            )
    return found
