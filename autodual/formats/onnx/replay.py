"""What onnxruntime makes of the same file: the reference that a model is held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autodual.errors import InputError
from autodual.formats.onnx.reading import INSTALL


class Replay:
    """A file's graph in onnxruntime, which is started where it is first asked.

    Args:
        data: the model's bytes.
        shape: that of one example, as the file has it.
        stored: the type of the input's numbers.
    """

    def __init__(self, data: bytes, shape: Sequence[int], stored: torch.dtype) -> None:
        self.data, self.shape, self.stored = data, tuple(shape), stored
        self._session: Any = None

    def __reduce__(self) -> tuple[type[Replay], tuple[bytes, tuple[int, ...], torch.dtype]]:
        return Replay, (self.data, self.shape, self.stored)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs for N examples one by one, each as in the file, in its type.

        Raises:
            InputError: onnxruntime refuses the file, or is not installed.
        """
        points = x.detach().to("cpu", self.stored).numpy().reshape(-1, *self.shape)
        session = self._started()
        name = session.get_inputs()[0].name
        try:
            made = [session.run(None, {name: np.asarray(p)})[0] for p in points]
        except Exception as error:  # onnxruntime's own classes are not public
            raise _refused(error) from None
        return torch.from_numpy(np.stack(made))

    def _started(self) -> Any:
        if self._session is None:
            try:
                import onnxruntime
            except ImportError:
                raise InputError(INSTALL) from None
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 4
            try:
                self._session = onnxruntime.InferenceSession(
                    self.data, options, ["CPUExecutionProvider"], enable_fallback=False
                )
            except Exception as error:  # onnxruntime's own classes are not public
                raise _refused(error) from None
        return self._session


def _refused(error: Exception) -> InputError:
    return InputError(f"onnxruntime refuses it: {' '.join(str(error).split())[:200]}")
