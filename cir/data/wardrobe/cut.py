"""Cutting: a garment becomes parts, measured in metres as a tailor would.

x runs to the right of the wearer's midline, y downwards from the shoulder. A part is a closed outline with its finish;
the lowest comes first.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy as np

from cir.data.wardrobe.garments import Garment
from cir.data.wardrobe.outlines import Points, arc, box, curve, disc, mirror, polyline, ribbon, whole


@dataclass(frozen=True)
class Part:
    """A piece of cloth with its outline and its finish."""

    outline: Points
    cloth: str = "fabric"  # fabric (colour and pattern), plain (colour only), inside, light, dark or metal
    grain: float = 0.0  # how far the cloth is turned, in radians: sleeves carry their stripes with them
    seams: tuple[Points, ...] = ()
    creases: int = 0
    ribbed: float = 0.0  # how strongly the knit's ribs show
    within: Points | None = None  # the part shows only inside this outline
    raised: float = 1.0  # how strong a shadow it throws on what lies below
    of: str = ""  # the attribute that it shows, "sleeves" or "neckline"; "" for all else


@dataclass(frozen=True)
class _Top:
    """The measures of everything that hangs from the shoulders."""

    neck: float  # half the width of the neck opening
    drop: float  # how deep the neck opening is in front
    shoulder: float
    chest: float
    waist: float
    hem: float
    length: float
    tail: float  # how much lower the hem is at the midline than at the sides

    @property
    def armpit(self) -> tuple[float, float]:
        return self.chest, 0.265

    @property
    def tip(self) -> tuple[float, float]:
        return self.shoulder, 0.05


_BANDED = ("sweater", "hoodie", "jacket")  # types with a ribbed band at the hem
_DROPS = {"round": 0.11, "v-neck": 0.19, "collar": 0.06, "turtleneck": 0.03, "hood": 0.075}


def _measure(garment: Garment, rng: random.Random) -> _Top:
    vary = rng.uniform
    roomy = {"sweater": 0.008, "hoodie": 0.018, "jacket": 0.014}.get(garment.type, 0.0)
    chest = vary(0.245, 0.27) + roomy
    neck = vary(0.085, 0.1) if garment.neckline in ("round", "v-neck") else 0.078
    drop = _DROPS[garment.neckline] * vary(0.9, 1.12)
    shoulder = chest - 0.035
    if garment.sleeves == "sleeveless":
        chest, shoulder = chest - 0.03, vary(0.16, 0.178)
    if garment.type == "dress":
        chest, shoulder = chest - 0.03, shoulder - 0.02
        return _Top(neck, drop, shoulder, chest, chest - 0.045, vary(0.27, 0.37), vary(0.88, 1.02), 0.02)
    tail = 0.05 if garment.type == "shirt" else 0.012
    return _Top(neck, drop, shoulder, chest, chest - 0.012, chest - 0.004, vary(0.64, 0.72), tail)


def _neck_path(neckline: str, top: _Top) -> Points:
    """The edge of the front neck opening, from the right shoulder to the left one."""
    if neckline != "v-neck":
        return arc(top.neck, top.drop)
    right = curve((top.neck, 0.0), (top.neck * 0.6, top.drop * 0.46), (0.0, top.drop))
    return np.concatenate([right, mirror(right)[-2::-1]])


def _hem(half: float, length: float, tail: float) -> Points:
    """The lower edge from the right side to the midline."""
    return curve((half, length), (half * 0.6, length + tail * 0.7), (0.0, length + tail))


def _hem_seam(hem: Points) -> Points:
    seam: Points = np.concatenate([hem, mirror(hem)[-2::-1]])
    seam[:, 1] -= 0.02
    return seam


def _bodice(garment: Garment, top: _Top) -> Points:
    neck = _neck_path(garment.neckline, top)
    (tx, ty), (ax, ay) = top.tip, top.armpit
    if garment.sleeves == "sleeveless":
        armhole = curve((tx, ty), (tx - 0.012, 0.12), (tx - 0.002, 0.19), (tx + (ax - tx) * 0.45, 0.24), (ax, ay))
    else:
        armhole = curve((tx, ty), (tx - 0.005, 0.12), (tx - 0.002, 0.2), (ax, ay))
    if garment.type == "dress":
        side = curve(
            (ax, ay),
            (top.waist, 0.41),
            (top.waist + (top.hem - top.waist) * 0.45, 0.62),
            (top.hem, top.length),
        )
    else:
        side = curve((ax, ay), (top.waist, (ay + top.length) / 2), (top.hem, top.length))
    hem = _hem(top.hem, top.length, top.tail)
    if garment.type in _BANDED:
        side, hem = side[:-2], hem - np.array([0.0, 0.03])  # the band covers the rest
    shoulder = curve((top.neck, 0.0), ((top.neck + tx) / 2, ty * 0.42), (tx, ty))
    return whole(np.concatenate([neck[len(neck) // 2 :: -1], shoulder, armhole, side, hem]))


def _sleeve(garment: Garment, top: _Top, rng: random.Random) -> list[Part]:
    """The right sleeve and its cuff; the bodice later covers where it begins."""
    long = garment.sleeves == "long"
    roomy = garment.type in ("hoodie", "jacket", "sweater")
    angle = rng.uniform(0.2, 0.3) if long else rng.uniform(0.5, 0.68)
    reach = rng.uniform(0.52, 0.56) if long else rng.uniform(0.14, 0.17)
    half = (0.052 if roomy else 0.047) if long else 0.086
    down = np.array([math.sin(angle), math.cos(angle)])
    out = np.array([math.cos(angle), -math.sin(angle)])
    tip, pit = np.array(top.tip), np.array(top.armpit)
    end = (tip + pit) / 2 + down * reach + (out * 0.01 if long else out * 0.0)

    def at(across: float, back: float) -> tuple[float, float]:
        """A point near the cuff: so far across the sleeve and so far back up from its end."""
        x, y = end + out * across - down * back
        return float(x), float(y)

    upper = 0.012 if long else 0.004
    middle = tip * 0.5 + np.array(at(half, 0)) * 0.5 + out * upper
    inner = pit * 0.5 + np.array(at(-half, 0)) * 0.5 + out * (0.008 if long else 0.0)
    inside = polyline((tip[0] - 0.05, pit[1]), (tip[0] - 0.05, tip[1] + 0.03))
    outer = curve((tip[0] - 0.002, tip[1] + 0.001), tuple(middle), at(half, 0))
    under = curve(at(-half, 0), tuple(inner), (pit[0], pit[1] + 0.012), (pit[0] - 0.04, pit[1]))
    outline = np.concatenate([outer, under, inside])
    cuffed = long and garment.type in ("sweater", "hoodie", "jacket", "shirt")
    hem = polyline(at(half, 0.022), at(-half, 0.022))
    seams = () if cuffed else (hem,)
    knit = 0.022 if garment.type == "sweater" else 0.0
    parts = [Part(outline, "fabric", angle, seams, creases=7 if long else 3, ribbed=knit)]
    if cuffed:
        wide = half * (0.86 if garment.type != "shirt" else 1.06)
        cuff = polyline(at(wide, 0.008), at(wide, -0.05), at(-wide, -0.05), at(-wide, 0.008))
        ribbed = garment.type != "shirt"
        cloth = "plain" if ribbed else "fabric"
        parts.append(Part(cuff, cloth, angle, ribbed=0.07 if ribbed else 0.0, raised=0.5))
    return parts


def _flip(part: Part) -> Part:
    """The same part for the left side."""
    seams = tuple(mirror(seam) for seam in part.seams)
    return replace(part, outline=mirror(part.outline), grain=-part.grain, seams=seams)


def _inside(top: _Top, path: Points) -> list[Part]:
    """What shows of the back through the neck opening, with the maker's label."""
    back = arc(top.neck, 0.014, -0.002)
    opening = np.concatenate([path, back[::-1]])
    parts = [Part(opening, "inside", raised=0.0)]
    if top.drop > 0.07:
        parts.append(Part(ribbon(back[::-1], -0.016), "plain", ribbed=0.07, within=opening, raised=0.4))
        parts.append(Part(box(-0.02, 0.024, 0.02, 0.044), "light", raised=0.2))
    return parts


def _stand(top: _Top) -> Part:
    """The back of a collar, seen through its front."""
    rise = curve((0, -0.026), (top.neck * 0.7, -0.034), (top.neck + 0.004, -0.004))
    return Part(whole(np.concatenate([rise, arc(top.neck, top.drop)[1:13]])), "inside", raised=0.2)


def _leaf(top: _Top) -> Part:
    """The right collar leaf; the two meet at the throat."""
    n, d = top.neck, top.drop
    outline = [
        curve((n * 0.78, -0.034), (n + 0.016, -0.004), (n + 0.028, 0.04)),
        curve((n + 0.028, 0.04), (n * 0.98, 0.088), (n * 0.74, 0.122)),
        curve((n * 0.74, 0.122), (n * 0.34, d + 0.03), (0.002, d - 0.002)),
        curve((0.002, d - 0.002), (n * 0.58, d * 0.42), (n * 0.8, -0.014)),
    ]
    return Part(np.concatenate(outline), grain=0.5, raised=1.3)


def _turtleneck(top: _Top) -> list[Part]:
    n = top.neck
    side = curve((n - 0.004, -0.085), (n + 0.002, -0.04), (n + 0.014, 0.016))
    rim, base = arc(n - 0.004, -0.012, -0.085), arc(n + 0.014, 0.034, 0.016)
    tube = np.concatenate([side, base, mirror(side)[::-1], rim[::-1]])
    mouth = np.concatenate([arc(n - 0.01, 0.009, -0.086), arc(n - 0.01, -0.009, -0.086)[::-1]])
    return [Part(tube, "plain", ribbed=0.07, raised=1.4), Part(mouth, "inside", raised=0.0)]


def _hood(top: _Top) -> list[Part]:
    n, d = top.neck, top.drop
    brow, cheek, nape = (0.085, -0.19), (0.135, -0.09), (n + 0.055, 0.0)
    outer = curve((0, -0.215), brow, cheek, nape, (n + 0.02, 0.05), (0.03, d + 0.03), (0, d + 0.03))
    opening = curve((0, -0.165), (0.058, -0.142), (0.085, -0.06), (0.06, 0.02), (0.0, d))
    return [Part(whole(outer), creases=3, raised=1.2), Part(whole(opening), "inside", raised=0.0)]


def _hem_band(top: _Top) -> Part:
    low, width = top.length + top.tail, top.hem
    corner, bend = (width, top.length - 0.052), (width, top.length - 0.025)
    end = (width * 0.965, top.length + 0.008)
    upper = curve((0, low - 0.052), (width * 0.6, low - 0.054), corner)
    lower = curve(end, (width * 0.6, low + 0.004), (0, low + 0.008))
    half = np.concatenate([upper, curve(corner, bend, end), lower])
    return Part(whole(half), "plain", ribbed=0.07, raised=0.6)


def _buttons(first: float, last: float, gap: float) -> list[Part]:
    return [Part(disc(0.0, y, 0.0075), "light", raised=0.8) for y in np.arange(first, last, gap)]


def _front(garment: Garment, top: _Top) -> list[Part]:
    """What is sewn on the bodice: plackets, pockets, zips and bands."""
    low = top.length + top.tail
    if garment.type == "shirt":
        pocket = polyline((0.08, 0.2), (0.17, 0.2), (0.17, 0.29), (0.125, 0.305), (0.08, 0.29))
        strip = Part(box(-0.017, top.drop, 0.017, low - 0.002), raised=0.5)
        return [Part(pocket, raised=0.4), strip, *_buttons(top.drop + 0.05, low - 0.05, 0.088)]
    if garment.type == "polo shirt" or (garment.type == "dress" and garment.neckline == "collar"):
        placket = Part(box(-0.017, top.drop, 0.017, 0.21), raised=0.6)
        return [placket, *_buttons(top.drop + 0.03, 0.2, 0.05)]
    if garment.type == "hoodie":
        opening = curve((0.1, 0.43), (0.135, 0.49), (0.165, 0.56))
        pouch = whole(np.concatenate([polyline((0, 0.43)), opening, polyline((0.165, 0.6), (0, 0.605))]))
        cord = Part(ribbon(curve((0.035, 0.07), (0.04, 0.14), (0.033, 0.22)), 0.008), "light")
        return [Part(pouch, creases=2, raised=0.8), _hem_band(top), cord, _flip(cord)]
    if garment.type == "jacket":
        slit = Part(polyline((0.1, 0.44), (0.112, 0.444), (0.15, 0.54), (0.138, 0.538)), "dark", raised=0.3)
        zipper = Part(box(-0.006, top.drop, 0.006, low), "metal", raised=0.4)
        facing = Part(box(-0.02, top.drop, 0.02, low), "plain", raised=0.7)
        return [slit, _flip(slit), _hem_band(top), facing, zipper]
    return [_hem_band(top)] if garment.type == "sweater" else []


def _cut_top(garment: Garment, rng: random.Random) -> list[Part]:
    top = _measure(garment, rng)
    path = _neck_path(garment.neckline, top)
    parts = _hood(top) if garment.neckline == "hood" else []
    if garment.neckline == "collar":
        parts.append(_stand(top))
    elif garment.neckline in ("round", "v-neck"):
        parts += _inside(top, path)
    parts = [replace(part, of="neckline") for part in parts]
    if garment.sleeves != "sleeveless":
        sleeve = [replace(part, of="sleeves") for part in _sleeve(garment, top, rng)]
        parts += [*sleeve, *map(_flip, sleeve)]
    body = _bodice(garment, top)
    seams: list[Points] = []
    if garment.type in ("t-shirt", "polo shirt", "shirt", "dress"):
        seams.append(_hem_seam(_hem(top.hem, top.length, top.tail)))
    if garment.type == "dress":
        seams.append(curve((-top.waist, 0.41), (0, 0.42), (top.waist, 0.41)))
    knit = 0.022 if garment.type == "sweater" else 0.0
    parts.append(Part(body, seams=tuple(seams), creases=12, ribbed=knit, raised=0.8))
    parts += _front(garment, top)
    return parts + [replace(part, of="neckline") for part in _edge_of_neck(garment, top, path, body)]


def _edge_of_neck(garment: Garment, top: _Top, path: Points, body: Points) -> list[Part]:
    """The band, collar or tube around the neck opening; a hood has none."""
    if garment.neckline in ("round", "v-neck"):
        width = 0.026 if garment.type in ("sweater", "jacket") else 0.016
        deeper = width * (2.0 if garment.neckline == "v-neck" else 1.0)
        outer = _neck_path(garment.neckline, replace(top, neck=top.neck + width, drop=top.drop + deeper))
        band = np.concatenate([path, outer[::-1]])
        return [Part(band, "plain", ribbed=0.07, within=body, raised=0.5)]
    if garment.neckline == "collar":
        return [_leaf(top), _flip(_leaf(top))]
    return _turtleneck(top) if garment.neckline == "turtleneck" else []


def _waistband(half: float, depth: float = 0.036) -> list[Part]:
    upper = curve((0, 0.008), (half * 0.6, 0.006), (half, 0.0))
    lower = curve((half + 0.004, depth), (0, depth + 0.008))
    front = whole(np.concatenate([upper, lower]))
    back = np.concatenate([arc(half, 0.01), arc(half, -0.004)[::-1]])
    return [Part(front, "plain", raised=0.7), Part(back, "inside", raised=0.0)]


def _cut_skirt(garment: Garment, rng: random.Random) -> list[Part]:
    waist, hem, length = rng.uniform(0.165, 0.185), rng.uniform(0.26, 0.37), rng.uniform(0.5, 0.64)
    hip = waist + 0.05
    side = curve((waist, 0.01), (hip, 0.16), (hip + (hem - hip) * 0.55, 0.36), (hem, length))
    edge = _hem(hem, length, 0.03)
    half = np.concatenate([polyline((0, 0.012)), side, edge])
    pleats = tuple(
        curve((waist * k, 0.045), (waist * k * 1.25, length * 0.4), (hem * k * 0.96, length)) for k in (-0.55, 0.55)
    )
    return [Part(whole(half), seams=(_hem_seam(edge), *pleats), creases=16), *_waistband(waist)]


def _cut_legs(garment: Garment, rng: random.Random) -> list[Part]:
    """Trousers and shorts."""
    waist, hip = rng.uniform(0.18, 0.2), rng.uniform(0.225, 0.245)
    length, outer, inner = rng.uniform(0.98, 1.04), hip + rng.uniform(-0.03, 0.02), rng.uniform(0.045, 0.075)
    if garment.type == "shorts":
        length, outer, inner = rng.uniform(0.42, 0.5), hip + rng.uniform(0.008, 0.028), 0.018
    knee = ((hip + outer) / 2, (0.27 + length) / 2)
    side = curve((waist, 0.01), (hip - 0.006, 0.15), (hip, 0.27), knee, (outer, length))
    hem = curve((outer, length), ((outer + inner) / 2, length + 0.012), (inner, length + 0.008))
    inseam = curve((inner, length + 0.008), ((inner + 0.008) / 2, (length + 0.3) / 2), (0.0, 0.3))
    half = np.concatenate([polyline((0, 0.012)), side, hem, inseam])
    cuff = hem - np.array([0.0, 0.022])
    pocket = curve((waist * 0.68, 0.04), (waist * 0.78, 0.1), (hip - 0.012, 0.13))
    fly = curve((0.0, 0.04), (0.0, 0.2), (0.0, 0.3))
    stitch = curve((0.03, 0.04), (0.03, 0.14), (0.004, 0.19))
    seams = (cuff, mirror(cuff), pocket, mirror(pocket), fly, stitch)
    return [
        Part(whole(half), seams=seams, creases=16),
        *_waistband(waist),
        *[Part(box(x - 0.006, 0.0, x + 0.006, 0.046), raised=0.5) for x in (-0.11, 0.11)],
        Part(disc(0.0, 0.025, 0.009), "metal"),
    ]


def cut(garment: Garment, rng: random.Random) -> list[Part]:
    """All parts of a garment, the lowest first."""
    if garment.type == "skirt":
        return _cut_skirt(garment, rng)
    if garment.type in ("trousers", "shorts"):
        return _cut_legs(garment, rng)
    return _cut_top(garment, rng)
