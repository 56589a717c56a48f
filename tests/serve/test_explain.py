"""Why a hit is there, through the API."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from cir.testing.served import Served


def test_a_hit_is_explained(api: Served, tmp_path: Path) -> None:
    from cir.serve.explained_shapes import Explained

    assert api.request("GET", "/info").json()["explain"]
    hit = api.search(references="0003.png", text="red")["hits"][0]
    response = api.request("POST", "/explain", json={"references": ["0003.png"], "text": "red", "hit": hit["id"]})
    assert response.status_code == 200, response.text
    explained = response.json()
    Explained.model_validate(explained, strict=True)
    assert explained["score"] == pytest.approx(hit["score"], abs=1e-3)
    assert explained["hit"]["id"] == hit["id"]
    overlay = explained["overlays"]["references"][0]
    picture = Image.open(io.BytesIO(base64.b64decode(overlay.partition(",")[2])))
    assert (picture.mode, picture.format) == ("RGBA", "PNG")
    files = {"references": ("x.png", (tmp_path / "photos" / "0003.png").read_bytes())}
    sent = api.request("POST", "/explain", files=files, data={"text": "red", "hit": hit["id"]}).json()
    assert sent["score"] == explained["score"]


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"text": "red"}, 422),
        ({"text": "red", "hit": "nothing.png"}, 404),
        ({"text": "red", "hit": "/etc/passwd"}, 404),
        ({"references": ["/etc/passwd"], "hit": "0001.png"}, 404),
        ({"hit": "0001.png"}, 400),
    ],
)
def test_what_cannot_be_explained(api: Served, values: dict[str, object], status: int) -> None:
    assert api.request("POST", "/explain", json=values).status_code == status
