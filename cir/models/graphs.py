"""ONNX graphs of a model: `cir export-onnx` writes them into its folder, ONNX Runtime runs them.

A graph holds no weights, only the names of tensors. Those are read from the model's own files, once for all graphs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from cir.arrays import Floats
from cir.errors import WeightsError
from cir.files import parse_json, read_regular, sha256_bytes
from cir.model_card import ModelCard, Sha256
from cir.models.stored_tensors import StoredTensors
from cir.typed_json import Within, from_json

FOLDER, RECORD = "onnx", "graphs.json"
FEATURES, GALLERY, COMPOSED, TEXT = GRAPHS = ("features", "gallery", "composed", "text")
# Threads of one call. With one, several callers keep all cores busy; and beside other jobs no call waits for a thread
# that has lost its core (docs/results/runtimes.md).
THREADS = 1
LARGEST = 50_000_000  # bytes of a graph or a record; the largest of `small` has 140,000

Shape = Annotated[tuple[Annotated[int, Within(0, 2**40)], ...], Within(0, 8)]


@dataclass(frozen=True)
class GraphEntry:
    """One graph.

    Attributes:
        sha256: of its file, `NAME.onnx`.
        weights: names of the tensors that it needs, each once.
    """

    sha256: Sha256
    weights: Annotated[tuple[str, ...], Within(0, 10_000)]

    def __post_init__(self) -> None:
        """Raises ValueError for a name that is there twice."""
        if len(set(self.weights)) < len(self.weights):
            raise ValueError("weights: a name is there twice")


@dataclass(frozen=True)
class GraphRecord:
    """What `onnx/graphs.json` holds.

    Attributes:
        config_sha256: of the configuration that the graphs express (`ModelCard.config_sha256`).
        tensors: every tensor of the model -> its shape. With a scale of words they are taken in int8.
        graphs: by name: "features", pixels -> backbone features; "gallery", features -> states of pass C; "composed",
            features and a caption -> the state of pass B; "text", a caption -> the state of pass D.
    """

    config_sha256: Sha256
    tensors: Annotated[Mapping[str, Shape], Within(0, 10_000)]
    graphs: Mapping[str, GraphEntry]

    def __post_init__(self) -> None:
        """Raises ValueError unless all graphs are there, and need only tensors of the model."""
        if set(self.graphs) != set(GRAPHS):
            raise ValueError(f"graphs must be exactly {', '.join(GRAPHS)}")
        for name, entry in self.graphs.items():
            if not entry.weights or not set(entry.weights) <= self.tensors.keys():
                raise ValueError(f"graphs: {name} needs tensors that are not those of the model")


def has_graphs(directory: Path) -> bool:
    """Whether a model directory has graphs, of whatever kind: broken ones are mentioned, not overlooked."""
    return os.path.lexists(directory / FOLDER)


def read_graphs(folder: Path, card: ModelCard, shapes: Mapping[str, Shape]) -> dict[str, tuple[bytes, GraphEntry]]:
    """The graphs of a model by name, each with its entry in the record; nothing is parsed yet.

    Args:
        folder: of the graphs.
        card: the model's card.
        shapes: of its tensors, by name.

    Raises:
        WeightsError: the graphs are missing or damaged, or not those of this model.
    """
    try:
        record = from_json(GraphRecord, parse_json(read_regular(folder / RECORD, LARGEST)))
    except (OSError, ValueError) as error:
        raise refusal(folder / RECORD, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if record.config_sha256 != card.config_sha256:
        raise refusal(folder / RECORD, f"was made for another model than {card.name}")
    if dict(record.tensors) != dict(shapes):
        unlike = sorted(name for name in {*record.tensors, *shapes} if record.tensors.get(name) != shapes.get(name))
        raise refusal(folder / RECORD, f"was made for other tensors than the model has, such as {unlike[0]}")
    found = {}
    for name, entry in record.graphs.items():
        path = folder / f"{name}.onnx"
        try:
            data = read_regular(path, LARGEST)
        except (OSError, ValueError) as error:
            raise refusal(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if sha256_bytes(data) != entry.sha256:
            raise refusal(path, f"is not the file that {RECORD} names")
        found[name] = data, entry
    return found


def refusal(path: Path, why: str) -> WeightsError:
    """Why a file of graphs is refused, and what to do."""
    return WeightsError(
        f"{path}: {why}; make it again where all of cir is installed: cir export-onnx {path.parents[1]}"
    )


class Graphs:
    """The graphs of one model, each opened when it is first run. Safe to call from several threads.

    Args:
        folder: of the graphs.
        card: the model's card.
        tensors: its tensors.

    Raises:
        WeightsError: as `read_graphs`.
    """

    def __init__(self, folder: Path, card: ModelCard, tensors: StoredTensors) -> None:
        self._folder = folder
        self._tensors = tensors
        self._graphs = read_graphs(folder, card, tensors.shapes)
        self._sessions: dict[str, Any] = {}
        self._values: dict[str, Any] = {}  # tensors as ONNX Runtime takes them; a session does not keep them alive
        self._lock = Lock()

    def run(self, name: str, **inputs: NDArray[Any]) -> Floats:
        """The one output of a graph, float32.

        Args:
            name: of `GRAPHS`.
            inputs: as the graph names them.

        Raises:
            WeightsError: ONNX Runtime refuses the graph.
        """
        session = self._session(name)
        with self._refused_by_runtime(name):
            result: Floats = session.run(None, inputs)[0]
        return result

    def _session(self, name: str) -> Any:
        with self._lock:
            if name not in self._sessions:
                self._sessions[name] = self._open(name)
            return self._sessions[name]

    def _open(self, name: str) -> Any:
        import onnxruntime

        data, entry = self._graphs[name]
        for weight in entry.weights:
            if weight not in self._values:
                array = np.require(self._tensors.array(weight), requirements="C")
                self._values[weight] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = THREADS
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # what goes wrong is raised
        if name != FEATURES:  # more makes convolutions faster, and the Q-Former only slower to load
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        with self._refused_by_runtime(name):
            options.add_external_initializers(list(entry.weights), [self._values[weight] for weight in entry.weights])
            return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    @contextmanager
    def _refused_by_runtime(self, name: str) -> Iterator[None]:
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:  # ONNX Runtime raises a class of its own for each of its codes
            reason = " ".join(str(error).split())[:200]
            raise refusal(self._folder / f"{name}.onnx", f"is refused by ONNX Runtime: {reason}") from None
