"""What of transformers is loaded, in one place: networks, tokenizers and processors, and never code of others."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch

from cir.errors import WeightsError
from cir.models.hub.files import HubFiles


def load_network(files: HubFiles, device: torch.device) -> Any:
    """The network of a folder in eval mode, in float32, on a device.

    Raises:
        WeightsError: its weights do not fit its configuration.
    """
    import transformers

    classes = {
        "clip": transformers.CLIPModel,
        "metaclip_2": transformers.MetaClip2Model,
        "siglip": transformers.SiglipModel,
        "siglip2": transformers.Siglip2Model,
        "qwen3_vl": transformers.Qwen3VLModel,
    }
    with _quiet(), _problems_of(files):
        model, report = classes[files.kind].from_pretrained(
            files.directory,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    lacking = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if lacking:
        raise WeightsError(
            f"{files.directory}: {len(lacking)} tensors are missing or misshapen, the first: {lacking[0]}; "
            "download the model again"
        )
    return model.to(device).eval()


def load_tokenizer(files: HubFiles) -> Any:
    """The tokenizer of a folder. Raises WeightsError where its files do not make one."""
    from transformers import AutoTokenizer

    with _quiet(), _problems_of(files):
        return AutoTokenizer.from_pretrained(files.directory, local_files_only=True, trust_remote_code=False)


def load_picture_processor(files: HubFiles) -> Any:
    """The picture processor of a folder, on Pillow. Raises WeightsError where its file does not make one."""
    from transformers import AutoImageProcessor

    with _quiet(), _problems_of(files):
        return AutoImageProcessor.from_pretrained(
            files.directory, local_files_only=True, trust_remote_code=False, backend="pil"
        )


@contextlib.contextmanager
def _problems_of(files: HubFiles) -> Iterator[None]:
    """Whatever a library says about files that are not its own is one line of ours."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise WeightsError(f"{files.directory}: cannot be loaded: {reason}; download the model again") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no advice of transformers."""
    from transformers.utils import logging as theirs

    before, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity(logging.CRITICAL)
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(before)
        if bars:
            theirs.enable_progress_bar()
