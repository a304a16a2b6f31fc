"""Networks from ONNX files, as modules of plain torch functions.

``reading`` takes a file apart, ``graph`` says what it holds, ``building`` goes through its nodes
and folds what is constant, ``model`` is what comes out, and ``replay`` asks onnxruntime whether it
is right. The ops are in the files ``ops_*``, one family each; ``registry`` lists them.
"""

from autodual.formats.onnx.loading import load_onnx
from autodual.formats.onnx.model import OnnxModel

__all__ = ["OnnxModel", "load_onnx"]
