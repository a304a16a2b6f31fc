"""Normalizations: by constants (batches), or by an example's own mean and variance (layers)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from autodual.formats.onnx.value import Node, Op, Value


def batch_norm(node: Node, z: Value, *constants: Value) -> Value:
    """Normalize each channel by constants."""
    if node.outputs > 1 or node.flag("training_mode", False) or not node.flag("spatial", True):
        raise node.refuse("only batch normalization of a trained net is read, channel by channel")
    if len(constants) != 4 or any(c.varies for c in constants) or z.rank < 2:
        raise node.refuse("its scale, bias, mean and variance must be constants")
    scale, bias, mean, var = (c.tensor for c in constants)
    eps = node.real("epsilon", 1e-5)

    def run(images: Tensor) -> Tensor:
        return F.batch_norm(images, mean, var, scale, bias, False, 0.0, eps)

    if z.lead == 0:
        return Value(run(z.tensor), 0)
    made = run(z.tensor.flatten(0, 1))
    return Value(made.unflatten(0, (z.tensor.shape[0], z.tensor.shape[1])), 1)


def layer_norm(node: Node, z: Value, scale: Value, bias: Value | None = None) -> Value:
    """Normalize the last dimensions of each example by its own mean and variance."""
    axis = node.axis(node.whole("axis", -1), z.rank)
    if scale.varies or (bias is not None and bias.varies):
        raise node.refuse("its scale and bias must be constants")
    shape = z.shape[axis:]
    lead = 0 if z.lead == 0 and axis > 0 else 1
    tensor = z.tensor if lead == 0 else z.stacked
    weight = scale.tensor.expand(shape)
    shift = None if bias is None else bias.tensor.expand(shape)
    return Value(F.layer_norm(tensor, shape, weight, shift, node.real("epsilon", 1e-5)), lead)


TABLE: Mapping[str, Op] = {"BatchNormalization": batch_norm, "LayerNormalization": layer_norm}
