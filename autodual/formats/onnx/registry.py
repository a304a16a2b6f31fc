"""Which function reads which operator."""

from __future__ import annotations

from collections.abc import Mapping

from autodual.formats.onnx import (
    ops_conv,
    ops_elementwise,
    ops_linear,
    ops_norm,
    ops_pool,
    ops_reduce,
    ops_select,
    ops_shape,
    ops_source,
)
from autodual.formats.onnx.value import Op

OPS: Mapping[str, Op] = {
    **ops_elementwise.TABLE,
    **ops_linear.TABLE,
    **ops_conv.TABLE,
    **ops_pool.TABLE,
    **ops_norm.TABLE,
    **ops_reduce.TABLE,
    **ops_shape.TABLE,
    **ops_select.TABLE,
}
"""Ops that compute."""

SOURCES = ops_source.TABLE
"""Ops that are constants, whatever the input is."""

THIN = "MatMul of few"
"""The name, in no file, of products with weights whose zeros are left out."""
