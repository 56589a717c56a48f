"""Makes tests/golden/data/sprc-tiny from the official code's outputs, small enough to be committed.

    python tests/golden/trim_sprc_tiny.py ../shared/oracles

Nothing that is left out changes a number: rows of the word embedding that no caption uses are zeroed, so that they
compress to nothing, and the pictures are replaced by the seed they were drawn from.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path

import numpy as np
import torch

from cir.models import PACKAGED
from cir.models.folder import VOCABULARY
from cir.text import Tokenizer, read_vocabulary

DATA = Path(__file__).parent / "data" / "sprc-tiny"
CLASS = "Blip2QformerCirAlignPrompt"
WORDS = ("Qformer.bert.embeddings.word_embeddings.weight", "Qformer.cls.predictions.decoder.weight")
PICTURES = {"reference": 6, "target": 6, "gallery": 9}
SEED = 2


def captions(oracles: Path) -> list[str]:
    """Every caption of the two SPRC oracles, and the word with which the FashionIQ protocol joins two."""
    found = list(json.loads((oracles / "sprc-tiny" / "oracle.json").read_text())["captions_raw"])
    for file in sorted((oracles / "sprc-eval").rglob("cap*.json")):
        for row in json.loads(file.read_text()):
            found += row["captions"] if "captions" in row else [row["caption"]]
    return [*found, "and"]


def main() -> None:
    """Write model.pt.gz, arrays.npz and oracle.json."""
    oracles = Path(sys.argv[1])
    folder = oracles / "sprc-tiny"
    ids, _ = Tokenizer(read_vocabulary(PACKAGED / VOCABULARY))(captions(oracles), 512)
    used = torch.zeros(30523, dtype=torch.bool)
    used[torch.from_numpy(np.unique(ids))] = True
    content = torch.load(folder / "model.pt", weights_only=True)
    rows = content[CLASS][WORDS[0]] * used[:, None]
    content[CLASS] |= dict.fromkeys(WORDS, rows)  # tied, as saved
    raw = io.BytesIO()
    torch.save(content, raw)
    DATA.mkdir(parents=True, exist_ok=True)
    (DATA / "model.pt.gz").write_bytes(gzip.compress(raw.getvalue(), 9, mtime=0))
    arrays = dict(np.load(folder / "oracle.npz"))
    generator = torch.Generator().manual_seed(SEED)
    for name, count in PICTURES.items():
        pixels = torch.randn(count, 3, 224, 224, generator=generator).numpy()
        assert np.array_equal(pixels, arrays[name]), name
        arrays[name] = pixels[:, :, 0, 0]  # enough to check that the seed draws the same pictures elsewhere
    unused = ("reference_feats", "sim_batch1", "second_pass_hidden", "target_hidden", "prompt_hidden")
    np.savez_compressed(DATA / "arrays.npz", **{key: value for key, value in arrays.items() if key not in unused})
    known = json.loads((folder / "oracle.json").read_text())
    (DATA / "oracle.json").write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
