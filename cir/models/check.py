"""Whether the files of a model are whole. Without torch."""

from __future__ import annotations

from pathlib import Path

from cir.errors import WeightsError
from cir.models.folder import check_tensors, read_card, tensor_files, vocabulary_of
from cir.models.graphs import FOLDER, has_graphs, read_graphs
from cir.text import check_vocabulary


def check(directory: Path) -> list[str]:
    """Whether a model's files are those that its card names: what is wrong, one line each; empty if nothing is.

    Weights, frozen tensors, vocabulary and ONNX graphs are compared by their digests; nothing is loaded.
    """
    problems = []
    try:
        card = read_card(directory)
    except WeightsError as error:
        return [str(error)]
    try:
        files = tensor_files(directory)
        problems += check_tensors(files, card)
        if has_graphs(directory):
            shapes = {name: entry.shape for header in files.values() for name, entry in header.tensors.items()}
            read_graphs(directory / FOLDER, card, shapes)
    except WeightsError as error:
        problems.append(str(error))
    try:
        check_vocabulary(vocabulary_of(directory), card.vocabulary_sha256)
    except WeightsError as error:
        problems.append(str(error))
    return problems
