"""Our side of scripts/check_lavis: the converted model against LAVIS's features, which witness.py wrote to FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from cir.models import weights

TOLERANCE = 1e-4


@torch.inference_mode()
def main() -> int:
    """Print the largest differences; 1 where one is too large."""
    folder = Path(sys.argv[1])
    known = np.load(folder / "witness.npz")
    sprc, _, _ = weights.load(folder / "model")
    ids, mask = sprc.tokenize(known["captions"].tolist())
    tokens = sprc.gallery_tokens(torch.from_numpy(known["pixels"]))
    # The text alone, as BLIP-2 encodes it; SPRC itself does not.
    states = sprc.qformer(sprc.embeddings(input_ids=ids), attention_mask=mask, query_length=0).last_hidden_state
    texts = F.normalize(sprc.text_proj(states[:, 0]), dim=-1)
    differences = {
        "token ids": float(np.abs(ids.numpy() - known["ids"]).max()),
        "image features": float(np.abs(tokens.numpy() - known["images"]).max()),
        "text features": float(np.abs(texts.numpy() - known["texts"]).max()),
        "temperature": abs(sprc.temp.item() - 0.05),
    }
    # Agreement means something only if images, and texts, differ from each other.
    spread = {
        "images": float(np.ptp(known["images"], axis=0).max()),
        "texts": float(np.ptp(known["texts"], axis=0).max()),
    }
    print(f"{folder.name}: " + ", ".join(f"{name} {value:.1e}" for name, value in differences.items()))
    print(f"{folder.name}: spread of " + ", ".join(f"{name} {value:.1e}" for name, value in spread.items()))
    return int(max(differences.values()) > TOLERANCE or min(spread.values()) < 100 * TOLERANCE)


sys.exit(main())
