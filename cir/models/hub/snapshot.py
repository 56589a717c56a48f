"""From an id of the Hugging Face hub to a folder on this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from cir.errors import WeightsError

# What an encoder is made of. Pickles are never fetched.
FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md")
_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
_CACHED = re.compile(r"models--(.+?)--(.+)")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of an id: OWNER/MODEL or OWNER/MODEL@REVISION."""
    return _ID.fullmatch(name) is not None


def fetch(name: str) -> Path:
    """The folder of a hub model, in the hub's own cache; what is missing there is downloaded.

    `HF_HOME` and `HF_HUB_OFFLINE` mean what they mean to the hub's own library.

    Args:
        name: OWNER/MODEL, or OWNER/MODEL@REVISION with a commit, a branch or a tag.

    Raises:
        WeightsError: there is no such model, or it is not in the cache and the hub cannot be reached.
    """
    match = _ID.fullmatch(name)
    if match is None:
        raise WeightsError(f"{name!r} is no id of the hub; write OWNER/MODEL or OWNER/MODEL@REVISION")
    repository, revision = match.groups()
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    get = f"hf download {repository}{f' --revision {revision}' if revision else ''}"
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(FILES)))
    except GatedRepoError:
        raise WeightsError(f"{name}: the hub asks you to accept its terms and to log in first: hf auth login") from None
    except RevisionNotFoundError:
        raise WeightsError(f"{name}: the hub has the model, but no such revision") from None
    except RepositoryNotFoundError:
        raise WeightsError(f"{name}: neither a model here nor one of the hub; check the spelling") from None
    except HFValidationError as error:
        raise WeightsError(f"{name}: no id of the hub: {error}") from None
    except Exception:  # of the network, in the names of several libraries
        offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached from here"
        raise WeightsError(
            f"{name}: no such folder, and as an id of the hub not in its cache; {offline}. Where there is a network: "
            f"{get} --local-dir FOLDER; then --model FOLDER"
        ) from None


def cached(source: Mapping[str, str]) -> list[Path]:
    """The folder of a model in the hub's cache, by the id and the commit of its card; none if it is not there."""
    if "hub_id" not in source or "revision" not in source:
        return []
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(source["hub_id"], "config.json", revision=source["revision"])
    except ValueError:  # an index of somebody else may name anything
        return []
    return [Path(found).parent] if isinstance(found, str) else []


def origin_of(directory: Path) -> dict[str, str]:
    """The id and the commit of a folder in the hub's cache; empty for another folder."""
    resolved = directory.absolute()
    match = _CACHED.fullmatch(resolved.parent.parent.name)
    if resolved.parent.name != "snapshots" or match is None:
        return {}
    return {"hub_id": f"{match[1]}/{match[2]}", "revision": resolved.name}
