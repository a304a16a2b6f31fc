"""One or more cases for every dual layer: the op, its arguments, which of them are perturbed."""

import torch.nn.functional as F

from autodual.duals import REGISTRY, Either
from autodual.front.passes.batch_norm import batch_norm
from autodual.front.passes.conditions import split, step
from autodual.front.passes.reductions import largest, smallest
from autodual.testing import Case, T, Z


def _conv(spatial, weight, transposed=False, groups=1, stride=1, padding=0, dilation=1, extra=0):
    n = len(spatial)
    channels = weight[0] if transposed else weight[1] * groups
    outs = weight[1] * groups if transposed else weight[0]
    return Case(
        "aten.convolution.default",
        {
            "input": Z((1, channels, *spatial)),
            "weight": T(weight),
            "bias": T((outs,)),
            "stride": [stride] * n,
            "padding": [padding] * n,
            "dilation": [dilation] * n,
            "transposed": transposed,
            "output_padding": [extra] * n,
            "groups": groups,
        },
    )


V = Z((1, 4))
M = Z((1, 2, 3, 4))


def unary(op, shape=M, **args):
    return Case(op, {"self": shape, **args})


CONVOLUTIONS = [
    _conv((6, 7), (3, 8, 2, 3), stride=2, padding=2),
    _conv((6, 7), (3, 2, 3, 2), padding=1, dilation=2),
    _conv((5,), (2, 3, 3)),
    _conv((7,), (2, 3, 3), stride=2, padding=1),
    _conv((6, 5), (4, 2, 3, 3), stride=2, padding=1),
    _conv((8, 7), (4, 1, 3, 2), groups=2, stride=3, dilation=2, padding=1),
    _conv((4, 4, 5), (2, 1, 2, 2, 2), stride=2),
    _conv((4,), (2, 3, 3), transposed=True, stride=2, padding=1, extra=1),
    _conv((3, 4), (4, 1, 3, 3), transposed=True, groups=2, stride=2, dilation=3, extra=2),
    _conv((2, 3, 2), (2, 1, 2, 2, 2), transposed=True, stride=2),
]

LINEAR = [
    Case("aten.linear.default", {"input": V, "weight": T((3, 4)), "bias": T((3,))}),
    Case("aten.linear.default", {"input": M, "weight": T((3, 4))}),
    Case("aten.matmul.default", {"self": M, "other": T((4, 3))}),
    Case("aten.matmul.default", {"self": T((2, 3)), "other": Z((1, 3, 4))}),
    Case("aten.mm.default", {"self": V, "mat2": T((4, 2))}),
    Case("aten.bmm.default", {"self": T((2, 3, 4)), "mat2": Z((2, 4, 2))}),
    Case("aten.mv.default", {"self": V, "vec": T((4,))}),
    Case("aten.addmm.default", {"self": T((3,)), "mat1": V, "mat2": T((4, 3)), "alpha": -2}),
]

ARITHMETIC = [
    Case("aten.add.Tensor", {"self": V, "other": Z((1, 4))}),
    Case("aten.add.Tensor", {"self": M, "other": Z((1, 1, 3, 1)), "alpha": -2}),
    Case("aten.add.Tensor", {"self": M, "other": T((3, 4))}),
    Case("aten.add.Tensor", {"self": M, "other": M, "alpha": 3}),
    Case("aten.add.Scalar", {"self": V, "other": 3.0}),
    Case("aten.sub.Tensor", {"self": V, "other": Z((1, 4)), "alpha": 0.5}),
    Case("aten.sub.Tensor", {"self": T((4,)), "other": V}),
    Case("aten.sub.Tensor", {"self": T((2, 1, 1)), "other": M}),
    Case("aten.mul.Tensor", {"self": M, "other": T((1, 2, 1, 1))}),
    Case("aten.div.Tensor", {"self": M, "other": T((), "positive")}),
    Case("aten.sub.Scalar", {"self": V, "other": 3.0}),
    Case("aten.rsub.Tensor", {"self": V, "other": Z((1, 4)), "alpha": 3}),
    Case("aten.rsub.Tensor", {"self": V, "other": T((1, 4))}),
    Case("aten.rsub.Scalar", {"self": V, "other": 1.0}),
    unary("aten.neg.default"),
    Case("aten.mul.Tensor", {"self": V, "other": T((4,))}),
    Case("aten.mul.Tensor", {"self": T((2, 1, 4)), "other": M}),
    Case("aten.mul.Scalar", {"self": V, "other": -2.5}),
    Case("aten.div.Tensor", {"self": V, "other": T((4,))}),
    Case("aten.div.Scalar", {"self": V, "other": -2.5}),
    unary("aten.sum.dim_IntList", dim=[2], keepdim=True),
    unary("aten.mean.dim", dim=[2, 3]),
    unary("aten.cumsum.default", dim=2),
]

SHAPE = [
    Case("aten.reshape.default", {"self": M, "shape": [1, -1, 2]}),
    unary("aten.unsqueeze.default", dim=1),
    unary("aten.squeeze.default", Z((1, 1, 3))),
    unary("aten.squeeze.dim", Z((1, 1, 3)), dim=1),
    unary("aten.squeeze.dims", Z((1, 1, 3, 1)), dim=[1, 3]),
    unary("aten.flatten.using_ints", start_dim=1),
    unary("aten.permute.default", dims=[0, 3, 1, 2]),
    unary("aten.transpose.int", dim0=1, dim1=3),
    unary("aten.t.default", V),
    unary("aten.expand.default", Z((1, 1, 4)), size=[1, 3, 4]),
    unary("aten.repeat.default", V, repeats=[1, 2]),
    unary("aten.slice.Tensor", dim=3, start=1, end=4, step=2),
    unary("aten.slice.Tensor", Z((1, 2, 7, 4)), dim=2, start=1, end=6, step=3),
    unary("aten.slice.Tensor", dim=1, start=1),
    unary("aten.select.int", dim=2, index=1),
    unary("aten.narrow.default", dim=2, start=1, length=2),
    Case("aten.split.Tensor", {"self": M, "split_size": 2, "dim": 3}, index=1),
    Case("aten.split_with_sizes.default", {"self": M, "split_sizes": [1, 3], "dim": 3}, index=1),
    Case("aten.chunk.default", {"self": M, "chunks": 2, "dim": 3}, index=0),
    Case("aten.unbind.int", {"self": M, "dim": 1}, index=1),
    unary("aten.diagonal.default", offset=1, dim1=2, dim2=3),
    unary("aten.flip.default", dims=[2, 3]),
    unary("aten.roll.default", shifts=[1], dims=[3]),
    unary("aten.index_select.default", dim=3, index=T((5,), "index")),
    unary("aten.gather.default", V, dim=1, index=T((1, 3), "index")),
    Case("aten.index.Tensor", {"self": M, "indices": [None, None, T((2, 1), "index")]}),
    Case(
        "aten.index.Tensor",
        {"self": M, "indices": [None, None, T((5,), "index"), T((5,), "index")]},
    ),
    Case(
        "aten.index_put.default",
        {
            "self": M,
            "indices": [None, None, T((5,), "index")],
            "values": Z((1, 2, 5, 4)),
            "accumulate": True,
        },
    ),
    Case(
        "aten.scatter_add.default",
        {"self": V, "dim": 1, "index": T((1, 5), "index"), "src": Z((1, 5))},
    ),
    unary("aten.constant_pad_nd.default", pad=[1, 2, 0, 1], value=-1.5),
    unary("aten.pad.default", pad=[1, 2], mode="constant", value=0.5),
    unary("aten.pad.default", pad=[1, 2, 1, 0], mode="reflect"),
    unary("aten.pad.default", pad=[1, 2, 1, 0], mode="replicate"),
    unary("aten.pad.default", pad=[1, 2, 1, 0], mode="circular"),
    unary("aten.reflection_pad1d.default", Z((1, 2, 4)), padding=[1, 2]),
    unary("aten.reflection_pad2d.default", padding=[1, 2, 1, 0]),
    unary("aten.reflection_pad3d.default", Z((1, 1, 2, 3, 4)), padding=[1, 2, 1, 0, 1, 1]),
    unary("aten.replication_pad1d.default", Z((1, 2, 4)), padding=[1, 2]),
    unary("aten.replication_pad2d.default", padding=[1, 2, 1, 0]),
    unary("aten.replication_pad3d.default", Z((1, 1, 2, 3, 4)), padding=[1, 2, 1, 0, 1, 1]),
    unary("aten.pixel_shuffle.default", Z((1, 4, 2, 3)), upscale_factor=2),
    unary("aten.pixel_unshuffle.default", Z((1, 1, 4, 2)), downscale_factor=2),
    Case("aten.cat.default", {"tensors": [V, T((1, 2)), Z((1, 3))], "dim": 1}),
    Case("aten.cat.default", {"tensors": [M, Z((1, 1, 3, 4))], "dim": 1}),
    Case("aten.cat.default", {"tensors": [M, T((1, 1, 3, 4))], "dim": 1}),
    Case("aten.stack.default", {"tensors": [V, T((1, 4)), V], "dim": 2}),
    Case("aten.where.self", {"condition": T((1, 4), "mask"), "self": V, "other": V}),
    Case("aten.where.self", {"condition": T((1, 4), "mask"), "self": V, "other": T((1, 4))}),
    Case(
        "aten.index_put.default",
        {"self": V, "indices": [None, T((2,), "index")], "values": T((1, 2))},
    ),
    Case(
        "aten.scatter_add.default",
        {"self": V, "dim": 1, "index": T((1, 5), "index"), "src": T((1, 5))},
    ),
    Case(
        "aten.slice_scatter.default",
        {"self": V, "src": T((1, 2)), "dim": 1, "start": 1, "end": 3},
    ),
    Case("aten.select_scatter.default", {"self": V, "src": T((1,)), "dim": 1, "index": 2}),
    Case(
        "aten.slice_scatter.default", {"self": V, "src": Z((1, 2)), "dim": 1, "start": 1, "end": 3}
    ),
    Case("aten.select_scatter.default", {"self": V, "src": Z((1,)), "dim": 1, "index": 2}),
]

RESAMPLED = [("2d", (3, 4), mode) for mode in range(3)] + [("3d", (2, 3, 2), 0)]


def _resampled(op, shape, mode):
    args = {"input": Z((1, 2, *shape)), "grid": T((1, *[3] * len(shape), len(shape)))}
    how = {"interpolation_mode": mode, "padding_mode": 0, "align_corners": True}
    return Case(f"aten.grid_sampler_{op}.default", {**args, **how})


POOL = [
    unary("aten.avg_pool1d.default", Z((1, 2, 7)), kernel_size=[3], stride=[2], padding=[1]),
    unary("aten.avg_pool2d.default", Z((1, 2, 5, 4)), kernel_size=[2, 3], ceil_mode=True),
    unary(
        "aten.avg_pool2d.default",
        Z((1, 2, 5, 4)),
        kernel_size=[3, 2],
        stride=[2, 1],
        padding=[1, 1],
    ),
    unary(
        "aten.avg_pool2d.default", M, kernel_size=[2, 2], padding=[1, 0], count_include_pad=False
    ),
    unary("aten.avg_pool3d.default", Z((1, 1, 4, 4, 3)), kernel_size=[2, 2, 2]),
    unary("aten.adaptive_avg_pool1d.default", Z((1, 2, 7)), output_size=[3]),
    unary("aten._adaptive_avg_pool2d.default", Z((1, 2, 5, 4)), output_size=[2, 3]),
    unary("aten._adaptive_avg_pool3d.default", Z((1, 1, 4, 4, 3)), output_size=[2, 2, 1]),
    Case("aten.upsample_nearest1d.vec", {"input": Z((1, 2, 3)), "scale_factors": [2.0]}),
    Case("aten.upsample_nearest2d.vec", {"input": M, "output_size": [5, 6]}),
    Case("aten.upsample_nearest3d.vec", {"input": Z((1, 1, 2, 2, 2)), "scale_factors": [2.0] * 3}),
    Case(
        "aten.upsample_linear1d.vec",
        {"input": Z((1, 2, 3)), "output_size": [5], "align_corners": True},
    ),
    Case(
        "aten.upsample_trilinear3d.vec",
        {"input": Z((1, 1, 2, 2, 2)), "output_size": [3, 2, 4], "align_corners": False},
    ),
    *(_resampled(op, shape, mode) for op, shape, mode in RESAMPLED),
    Case(
        "aten.upsample_bilinear2d.vec",
        {"input": M, "output_size": [5, 6], "align_corners": False},
    ),
]

NORM = [
    Case(
        "aten._native_batch_norm_legit_no_training.default",
        {
            "input": Z((1, 3, *spatial)),
            "weight": weight,
            "bias": T((3,)),
            "running_mean": T((3,)),
            "running_var": T((3,), "positive"),
            "momentum": 0.1,
            "eps": 1e-5,
        },
        index=0,
    )
    for spatial, weight in [((), T((3,))), ((2, 2), T((3,))), ((2, 2), None)]
]

NORM += [Case(batch_norm, {k: v for k, v in case.args.items() if k != "momentum"}) for case in NORM]


def _split(edge, relation, slope, shift, other_slope, other_shift):
    names = ("edge", "relation", "slope", "shift", "other_slope", "other_shift")
    values = (edge, relation, slope, shift, other_slope, other_shift)
    return Case(split, {"input": M, **dict(zip(names, values, strict=True))})


ACTIVATIONS = [
    unary("aten.relu.default"),
    unary("aten.leaky_relu.default", negative_slope=0.1),
    unary("aten.leaky_relu.default", negative_slope=2.0),
    unary("aten.leaky_relu.default", negative_slope=-0.5),
    unary("aten.hardtanh.default", min_val=-1.0, max_val=1.0),
    unary("aten.hardtanh.default", min_val=0.5, max_val=2.0),
    unary("aten.relu6.default"),
    unary("aten.clamp.default", min=-0.5),
    unary("aten.clamp.default", max=0.5),
    unary("aten.clamp.default", min=-0.25, max=1.0),
    unary("aten.clamp.default", min=1.0, max=-1.0),
    unary("aten.clamp_min.default", min=0.1),
    unary("aten.clamp_max.default", max=0.1),
    unary("aten.abs.default"),
    unary("aten._prelu_kernel.default", weight=T((1, 2, 1, 1))),
    unary("aten.hardsigmoid.default"),
    unary("aten.softshrink.default", lambd=0.3),
]

JUMPS = [
    unary("aten.hardshrink.default", lambd=0.3),
    unary("aten.threshold.default", threshold=0.1, value=-2.0),
    Case(step, {"input": M, "edge": 0.5, "relation": "gt"}),
    Case(step, {"input": M, "edge": T((2, 1, 1)), "relation": "ge"}),
    Case(step, {"input": V, "edge": 0.0, "relation": "eq"}),
    _split(0.0, "gt", 1.0, 0.0, 0.1, 0.0),
    _split(T((3, 1)), "ge", T((4,)), -1.0, T((2, 1, 1)), 0.5),
    _split(0.5, "eq", -1.0, 2.0, 0.5, 0.0),
]

SMOOTH = [
    unary("aten.sigmoid.default"),
    unary("aten.tanh.default"),
    unary("aten.softplus.default", beta=2.0, threshold=15.0),
    unary("aten.softplus.default", beta=1.0, threshold=1.0),
    unary("aten.gelu.default", approximate="none"),
    unary("aten.gelu.default", approximate="tanh"),
    unary("aten.silu.default"),
    unary("aten.mish.default"),
    unary("aten.elu.default", alpha=0.7),
    unary("aten.elu.default", alpha=1.67, scale=1.05),
    unary("aten.elu.default", alpha=-0.5, input_scale=2.0),
    unary("aten.celu.default", alpha=0.5),
    unary("aten.hardswish.default"),
    Case("aten.log_sigmoid_forward.default", {"self": M}, index=0),
    unary("aten.sin.default"),
    unary("aten.cos.default"),
    unary("aten.sinh.default"),
    unary("aten.cosh.default"),
    unary("aten.atan.default"),
    unary("aten.sinc.default"),
    unary("aten.tan.default"),
    unary("aten.asin.default"),
    unary("aten.acos.default"),
    unary("aten.acosh.default"),
    unary("aten.atanh.default"),
    unary("aten.logit.default"),
    Case(F.softsign, {"input": M}),
    unary("aten.erf.default"),
    unary("aten.erfc.default"),
    unary("aten.exp.default"),
    unary("aten.exp2.default"),
    unary("aten.expm1.default"),
    Case("aten.pow.Scalar", {"self": 0.5, "exponent": M}),
    Case("aten.pow.Tensor_Tensor", {"self": M, "exponent": T((4,))}),
    Case("aten.pow.Tensor_Tensor", {"self": M, "exponent": T((2, 3, 4), "integer")}),
    Case("aten.pow.Tensor_Tensor", {"self": T((3, 1), "positive"), "exponent": M}),
    Case("aten.pow.Tensor_Tensor", {"self": T((), "positive"), "exponent": V}),
    unary("aten.pow.Tensor_Scalar", exponent=2),
    unary("aten.pow.Tensor_Scalar", exponent=3),
    unary("aten.pow.Tensor_Scalar", exponent=0),
    unary("aten.pow.Tensor_Scalar", exponent=-1),
    unary("aten.pow.Tensor_Scalar", exponent=-2),
    unary("aten.pow.Tensor_Scalar", exponent=0.5),
    unary("aten.pow.Tensor_Scalar", exponent=2.5),
    unary("aten.pow.Tensor_Scalar", exponent=-0.5),
    unary("aten.log.default"),
    unary("aten.log2.default"),
    unary("aten.log10.default"),
    unary("aten.log1p.default"),
    unary("aten.sqrt.default"),
    unary("aten.rsqrt.default"),
    unary("aten.reciprocal.default"),
]

EXTREMES = [
    Case("aten.maximum.default", {"self": M, "other": M}),
    Case("aten.minimum.default", {"self": V, "other": V}),
    Case(largest, {"values": [V, V, V]}),
    Case(largest, {"values": [V, V, V, V, V]}),
    Case(smallest, {"values": [V, V, V, V]}),
    Case("aten.logaddexp.default", {"self": V, "other": V}),
]

INTERVALS = [
    unary("aten.round.default"),
    unary("aten.round.decimals", decimals=1),
    unary("aten.floor.default"),
    unary("aten.ceil.default"),
    unary("aten.trunc.default"),
    unary("aten.sign.default"),
    unary("aten.heaviside.default", values=T((4,))),
    Case("aten.sort.default", {"self": M, "dim": 3}, index=0),
    Case("aten.topk.default", {"self": M, "k": 2, "dim": 2}, index=0),
]

PRODUCTS = [
    Case("aten.mul.Tensor", {"self": V, "other": V}),
    Case("aten.mul.Tensor", {"self": M, "other": M}),
    Case("aten.matmul.default", {"self": M, "other": Z((1, 2, 4, 5))}),
    Case("aten.matmul.default", {"self": M, "other": Z((1, 1, 4, 2))}),
    Case("aten.mm.default", {"self": V, "mat2": Z((4, 2))}),
    Case("aten.bmm.default", {"self": Z((2, 3, 4)), "mat2": Z((2, 4, 2))}),
]

AFFINE = CONVOLUTIONS + LINEAR + ARITHMETIC + SHAPE + POOL + NORM
CASES = AFFINE + ACTIVATIONS + EXTREMES + JUMPS + SMOOTH + PRODUCTS + INTERVALS


def name(case):
    """Return the registry's name of a case's op."""
    return case.op if isinstance(case.op, str) else f"autodual.{case.op.__name__}"


def rule_of(case):
    """Return the dual layer of a case's op."""
    return serving(REGISTRY[name(case)], case)


def serving(rule, case):
    """Return which of an op's rules serves a case."""
    names = [k for k, arg in case.args.items() if isinstance(arg, Z)]
    names += [k for k, arg in case.args.items() if isinstance(arg, list) and any_moves(arg)]
    return rule.serving(names, case.args) if isinstance(rule, Either) else rule


def any_moves(args):
    """Return whether something in a list is perturbed."""
    return any(isinstance(arg, Z) for arg in args)
