"""Qwen3-VL-Embedding: one network reads picture and text together, and the state of its last token is the vector.

The prompt is that of the published embedder (Li et al., 2026, section 3.1): an instruction as the system's turn, then
picture and text as the user's, then the start of an answer. It is the chat template of the model's own folder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image

from cir import devices
from cir.arrays import Floats, unit
from cir.errors import SpaceMismatchError, UsageError, WeightsError
from cir.given import shown, strings
from cir.images.picture import as_picture, as_pixels
from cir.images.preprocess import as_seen
from cir.models.computing import computes
from cir.models.hub.captions import read_part
from cir.models.hub.files import HubFiles, card_of
from cir.models.hub.loading import load_network, load_picture_processor, load_tokenizer, problems_of
from cir.types import Encoded

INSTRUCTION = "Represent the user's input."
COMPOSED = "Retrieve images that match the given picture as the text modifies it."
LENGTH = 2048  # pieces of a caption that are read
PIXELS = 512 * 512  # larger pictures are scaled down: 256 tokens, where the model's own limit is 1,800 or more
PAD = "<|image_pad|>"


class HubJointEncoder:
    """An `Encoder` that reads picture and text together. Safe to call from several threads.

    Pixels are (1 + P, patch) float32: the grid of patches, height and width, in the first row, then the patches in the
    order of the model's processor, padded with zeros to the most that a picture of `PIXELS` has.

    Args:
        files: the folder.
        device: where to run.

    Raises:
        WeightsError: a file does not fit the others.
    """

    min_side: int | None = None

    def __init__(self, files: HubFiles, device: torch.device) -> None:
        self.card = card_of(files)
        self.directory: Path | None = files.directory
        self.device = device
        self._processor = load_picture_processor(files)
        self._tokenizer = load_tokenizer(files)
        self._tokenizer.padding_side = "right"
        if not self._tokenizer.chat_template:
            raise WeightsError(f"{files.directory}: no chat template; copy chat_template.jinja from the model's page")
        self._network = load_network(files, device)
        self._merge = int(self._processor.merge_size)
        side = int(self._processor.patch_size)
        most = min(PIXELS, int(self._processor.size["longest_edge"]))
        self._size = {**dict(self._processor.size), "longest_edge": most}
        self._size["shortest_edge"] = min(int(self._size["shortest_edge"]), most)
        self._shape = (1 + math.floor(most / side**2), 3 * int(self._processor.temporal_patch_size) * side**2)
        self._lock = Lock()
        with problems_of(files, "chat_template.jinja"):
            if PAD not in self._prompt("a", INSTRUCTION, 1) or "a" not in self._prompt("a", INSTRUCTION, None):
                raise ValueError("it leaves out the picture or the text")
        with problems_of(files, files.processor.name):
            self.encode_images(self.preprocess(Image.new("RGB", (64, 64), "white"))[None])

    def preprocess(self, image: Image.Image) -> Floats:
        """One decoded picture of any size and mode, or an array -> (1 + P, patch) float32."""
        made = self._processor(images=[as_seen(as_picture(image))], size=self._size, return_tensors="np")
        values = np.asarray(made["pixel_values"], np.float32)
        packed = np.zeros(self._shape, np.float32)
        packed[0, :2] = made["image_grid_thw"][0][1:]
        packed[1 : 1 + len(values)] = values
        return packed

    def shared_by(self, workers: int) -> AbstractContextManager[None]:
        """Divide the cores among `workers` threads that will call the encoder at once."""
        return devices.shared_by(workers, self.device)

    def encode_images(self, pixels: Floats) -> Encoded:
        """(B, 1 + P, patch) float32 -> vectors (B, D) float32, unit-norm. Raises UsageError for other pixels."""
        pixels = as_pixels(pixels, self._shape)
        return Encoded(self._encode(pixels, [""] * len(pixels), INSTRUCTION), None)

    def encode_queries(self, pixels: Floats, captions: Sequence[str], space: str | None = None) -> Floats:
        """B references and B captions, read together -> (B, D) float32, unit-norm.

        Raises:
            UsageError: other pixels than this model's, or not one caption for each.
            SpaceMismatchError: a space that is not the model's own.
        """
        pixels, captions = as_pixels(pixels, self._shape), strings(captions, "captions")
        if len(pixels) != len(captions):
            raise UsageError(f"{len(captions)} captions for {len(pixels)} pictures; give one for each")
        self._check(space)
        return self._encode(pixels, captions, COMPOSED)

    def encode_texts(self, captions: Sequence[str], space: str | None = None) -> Floats:
        """B captions without a reference -> (B, D) float32, unit-norm. Raises as `encode_queries`."""
        self._check(space)
        return self._encode(None, strings(captions, "captions"), INSTRUCTION)

    def unread(self, caption: str) -> str:
        """The end of a caption that is longer than the model reads; "" if all of it is read."""
        with self._lock:
            return caption[len(read_part(self._tokenizer, caption, LENGTH)) :].strip()

    def _encode(self, pixels: Floats | None, captions: Sequence[str], instruction: str) -> Floats:
        if not captions:
            return np.zeros((0, self.card.dims), np.float32)
        grids = None if pixels is None else pixels[:, 0, :2].astype(np.int64)
        prompts = [
            self._prompt(caption, instruction, None if grids is None else int(grids[row].prod()) // self._merge**2)
            for row, caption in enumerate(captions)
        ]
        with self._lock:
            given = dict(self._tokenizer(prompts, padding=True, return_tensors="pt"))
        given = {name: given[name] for name in ("input_ids", "attention_mask")}
        if pixels is not None and grids is not None:
            patches = [pixels[row, 1 : 1 + int(grid.prod())] for row, grid in enumerate(grids)]
            given["pixel_values"] = torch.from_numpy(np.concatenate(patches))
            ones = np.ones((len(grids), 1), np.int64)
            given["image_grid_thw"] = torch.from_numpy(np.concatenate([ones, grids], axis=1))
            pictures = given["input_ids"] == self._tokenizer.convert_tokens_to_ids(PAD)
            given["mm_token_type_ids"] = pictures.int()
        return self._last_states(given)

    @computes
    def _last_states(self, given: dict[str, Any]) -> Floats:
        with devices.backbone_autocast(self.device):
            states = self._network(**{name: values.to(self.device) for name, values in given.items()})[0]
        last = given["attention_mask"].sum(dim=1) - 1
        values: Floats = states[torch.arange(len(last)), last].float().cpu().numpy()
        return unit(values)

    def _prompt(self, caption: str, instruction: str, tokens: int | None) -> str:
        content: list[dict[str, str]] = [] if tokens is None else [{"type": "image"}]
        caption = self._read(caption)
        if caption or tokens is None:
            content.append({"type": "text", "text": caption or "NULL"})  # as the published embedder writes nothing
        turns = [
            {"role": "system", "content": [{"type": "text", "text": instruction}]},
            {"role": "user", "content": content},
        ]
        prompt: str = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return prompt if tokens is None else prompt.replace(PAD, PAD * tokens, 1)

    def _read(self, caption: str) -> str:
        """The part of a caption that is read; without the words of the model's own protocol."""
        for word in [*self._tokenizer.all_special_tokens, PAD]:
            caption = caption.replace(word, " ")
        with self._lock:
            return read_part(self._tokenizer, caption, LENGTH)

    def _check(self, space: str | None) -> None:
        if space is not None:
            raise SpaceMismatchError(f"{self.card.name} has no query head for the space {shown(space)}")
