"""From a path to a network that has been compared with its file."""

from __future__ import annotations

from pathlib import Path

import torch

from autodual.errors import InputError
from autodual.formats.onnx.building import build
from autodual.formats.onnx.graph import graph_of
from autodual.formats.onnx.model import OnnxModel, sample
from autodual.formats.onnx.reading import FLOATS, parse, read_bytes
from autodual.formats.onnx.replay import Replay

LONGEST = 500
"""Letters of a message: names and lists in it come from the file."""


def load_onnx(path: Path | str, dtype: torch.dtype | None = None) -> OnnxModel:
    """Read a network from an ONNX file, and compare it with onnxruntime at a few points.

    Args:
        path: a ``.onnx`` file, or one compressed, ``.onnx.gz``.
        dtype: what all floats are converted to; as they are stored without it.

    Raises:
        InputError: the file is none, or not whole; it has operators that are not read, several
            inputs or outputs, graphs inside nodes, data in other files, or tensors too large.
        ReplayError: the network is not what onnxruntime makes of the file.
    """
    if dtype is not None and dtype not in FLOATS:
        raise InputError(f"dtype must be one of {', '.join(map(str, FLOATS))}, not {dtype}")
    try:
        return _load(Path(path), dtype)
    except InputError as error:
        said = str(error)
        said = said if len(said) <= LONGEST else f"{said[:LONGEST]}…"
        raise type(error)(f"{path}: {said}") from None


def _load(path: Path, dtype: torch.dtype | None) -> OnnxModel:
    data = read_bytes(path)
    graph = graph_of(parse(data), dtype)
    with torch.no_grad():
        built = build(graph, dtype)
    replay = Replay(data, graph.shape, graph.stored)
    model = OnnxModel(built, replay, (graph.input, graph.output)).eval()
    model.check(sample(model.input_shape, graph.stored))
    return model
