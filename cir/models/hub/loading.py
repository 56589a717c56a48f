"""What of transformers is loaded, in one place: networks, tokenizers and processors, and never code of others."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch

from cir.errors import WeightsError
from cir.models.computing import placed
from cir.models.hub.files import CONFIG, HubFiles


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
    with _quiet(), problems_of(files, CONFIG):
        model, report = classes[files.kind].from_pretrained(
            files.directory,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are named here
        )
    lacking = [
        *(f"{key} is missing" for key in sorted(report["missing_keys"])),
        *map(_misfit, sorted(report["mismatched_keys"], key=str)),
    ]
    if lacking:
        more = f", and {len(lacking) - 1:,} more do not fit" if len(lacking) > 1 else ""
        raise WeightsError(
            f"{files.directory}: its weights do not fit its {CONFIG}: {lacking[0]}{more}; download the model again"
        )
    return placed(model, device)


def load_tokenizer(files: HubFiles) -> Any:
    """The tokenizer of a folder. Raises WeightsError where its files do not make one."""
    from transformers import AutoTokenizer

    with _quiet(), problems_of(files, files.tokenizer[0].name):
        return AutoTokenizer.from_pretrained(files.directory, local_files_only=True, trust_remote_code=False)


def load_picture_processor(files: HubFiles) -> Any:
    """The picture processor of a folder, on Pillow. Raises WeightsError where its file does not make one."""
    from transformers import AutoImageProcessor

    with _quiet(), problems_of(files, files.processor.name):
        return AutoImageProcessor.from_pretrained(
            files.directory, local_files_only=True, trust_remote_code=False, backend="pil"
        )


def _misfit(key: Any) -> str:
    """A tensor of another shape, as transformers reports it: its name, or name, shape found and shape wanted."""
    name, *shapes = key if isinstance(key, tuple) else (key,)
    return (
        f"{name} has the shape {' for '.join(str(tuple(shape)) for shape in shapes)}" if shapes else f"{name} misfits"
    )


@contextlib.contextmanager
def problems_of(files: HubFiles, name: str) -> Iterator[None]:
    """Whatever a library says about files that are not its own is one line of ours.

    Args:
        files: the folder.
        name: of the file that it is about.
    """
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:  # a checkpoint decoder: broken files raise nearly anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise WeightsError(
            f"{files.directory / name}: cannot be used: {reason} ({type(error).__name__}); copy the model's own"
        ) from None


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
