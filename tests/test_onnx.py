"""Networks from ONNX files: what each op makes is what onnxruntime makes of the same file."""

import contextlib
import copy
import gzip
import pickle
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import autodual as ad
from autodual.errors import InputError, ReplayError, UnsupportedOpError
from autodual.formats.onnx import model as model_room
from autodual.formats.onnx.registry import OPS, SOURCES

RANDOM = np.random.default_rng(0)
FLOAT = TensorProto.FLOAT


def floats(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


def graph(nodes, shape, stored=(), opset=13, outputs=("y",), kind=FLOAT):
    """Return a model of nodes (op, inputs, outputs, attributes) with input x."""
    made = [
        helper.make_node(op, i, o, name=f"node {k}", **a) for k, (op, i, o, a) in enumerate(nodes)
    ]
    x = helper.make_tensor_value_info("x", kind, shape)
    y = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
    tensors = [numpy_helper.from_array(array, name) for name, array in dict(stored).items()]
    whole = helper.make_graph(made, "net", [x], y, tensors)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def one(op, shape, *stored, opset=13, at=0, before=(), cast=False, outputs=1, **attributes):
    """Return a model of one op, which reads x at a position, and constants (None: left out)."""
    names = [f"c{i}" if c is not None else "" for i, c in enumerate(stored)]
    names.insert(at, before[-1][2][0] if before else "x")
    last = "z" if cast else "y"
    made = [last, *(f"more{i}" for i in range(1, outputs))]
    nodes = [*before, (op, names, made, attributes)]
    nodes += [("Cast", ["z"], ["y"], {"to": FLOAT})] if cast else []
    kept = {f"c{i}": c for i, c in enumerate(stored) if c is not None}
    return graph(nodes, shape, kept, opset)


IMAGE = [1, 2, 6, 5]
IMAGES = {1: [1, 2, 7], 2: IMAGE, 3: [1, 2, 4, 5, 4]}


def norm_constants():
    return floats(2), floats(2), floats(2), np.abs(floats(2)) + 0.5


def size_of_x(then, *more):
    """Return nodes by which a graph computes a shape from that of x."""
    return [("Shape", ["x"], ["s"], {}), *more, then]


CASES = {
    **{
        op: [one(op, [1, 4])]
        for op in (
            *("Neg", "Abs", "Sign", "Floor", "Ceil", "Reciprocal", "Exp", "Log", "Sqrt", "Sin"),
            *("Cos", "Erf", "Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Identity"),
        )
    },
    **{
        op: [
            one(op, [1, 3, 4], floats(4)),
            one(op, [1, 3, 4], floats(1, 3, 1), at=1),
            one(op, [1, 4], floats(3, 1)),
            one(op, [1, 4], floats(2, 3, 4)),
            one(op, [4], floats(1, 4)),
            one(op, [1, 4], np.float32(2.5)),
            graph([(op, ["x", "x"], ["y"], {})], [1, 4]),
        ]
        for op in ("Add", "Sub", "Mul", "Div", "Sum", "Min", "Max")
    },
    **{
        op: [one(op, [1, 4], floats(4) / 9, cast=True, opset=16)]
        for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
    },
    **{
        op: [
            graph(
                [
                    ("Greater", ["x", "c"], ["a"], {}),
                    ("Less", ["x", "d"], ["b"], {}),
                    (op, ["a", "b"], ["z"], {}),
                    ("Cast", ["z"], ["y"], {"to": FLOAT}),
                ],
                [1, 4],
                {"c": floats(4), "d": floats(4)},
            )
        ]
        for op in ("And", "Or")
    },
    "Not": [one("Not", [1, 4], before=[("Greater", ["x", "x"], ["m"], {})], cast=True)],
    "Pow": [
        one("Pow", [1, 4], np.float32(2)),
        one("Pow", [1, 4], np.float32(0.5)),
        one("Pow", [1, 4], np.array([1, 2, 3, 2], np.float32)),
        one("Pow", [1, 4], np.array([[2]], np.float32)),
        one("Pow", [1, 4], np.float32(2), at=1),
    ],
    "HardSwish": [one("HardSwish", [1, 4], opset=14)],
    "Mish": [one("Mish", [1, 4], opset=18)],
    "LeakyRelu": [one("LeakyRelu", [1, 4]), one("LeakyRelu", [1, 4], alpha=0.2)],
    "Elu": [one("Elu", [1, 4], alpha=0.7)],
    "Celu": [one("Celu", [1, 4], alpha=0.7)],
    "Selu": [one("Selu", [1, 4]), one("Selu", [1, 4], alpha=1.1, gamma=0.9)],
    "Gelu": [one("Gelu", [1, 4], opset=20), one("Gelu", [1, 4], opset=20, approximate="tanh")],
    "HardSigmoid": [one("HardSigmoid", [1, 4]), one("HardSigmoid", [1, 4], alpha=0.3, beta=0.4)],
    "PRelu": [
        one("PRelu", [1, 4], np.array([0.3], np.float32)),
        one("PRelu", IMAGE, floats(2, 1, 1)),
    ],
    "Clip": [
        one("Clip", [1, 4], opset=7, min=-0.2, max=0.4),
        one("Clip", [1, 4], np.float32(-0.2), np.float32(0.4)),
        one("Clip", [1, 4], None, np.float32(0.4)),
        one("Clip", [1, 4], np.float32(0.1)),
        one("Clip", [1, 4]),
    ],
    "Where": [
        graph(
            [("Greater", ["x", "c"], ["m"], {}), ("Where", ["m", "x", "d"], ["y"], {})],
            [1, 4],
            {"c": floats(4), "d": floats(3, 4)},
        )
    ],
    "Cast": [
        graph([("Cast", ["x"], ["z"], {"to": to}), ("Cast", ["z"], ["y"], {"to": FLOAT})], [1, 4])
        for to in (TensorProto.INT64, TensorProto.BOOL)
    ],
    "Dropout": [
        one("Dropout", [1, 4], opset=7, ratio=0.5),
        one("Dropout", [1, 4], np.float32(0.5)),
        one("Dropout", [1, 4], np.float32(0.5), np.array(False), outputs=2),
    ],
    "MatMul": [
        one("MatMul", [1, 4], floats(4, 3)),
        one("MatMul", [4], floats(4, 3)),
        one("MatMul", [4], floats(3, 4), at=1),
        one("MatMul", [4], floats(4)),
        one("MatMul", [1, 4], floats(4)),
        one("MatMul", [4, 1], floats(3, 4), at=1),
        one("MatMul", [1, 4, 1], floats(3, 4), at=1),
        one("MatMul", [1, 4], floats(3, 1), at=1),
        one("MatMul", [1, 2, 4], floats(4, 3)),
        one("MatMul", [1, 2, 4], floats(3, 4, 2)),
        one("MatMul", [1, 2, 4], floats(1, 4, 2)),
        one("MatMul", [1, 3, 2, 4], floats(3, 4, 2)),
        graph(
            [("Transpose", ["x"], ["t"], {"perm": [0, 2, 1]}), ("MatMul", ["x", "t"], ["y"], {})],
            [1, 3, 4],
        ),
        graph(
            [("Transpose", ["x"], ["t"], {"perm": [1, 0]}), ("MatMul", ["t", "x"], ["y"], {})],
            [1, 4],
        ),
    ],
    "Gemm": [
        one("Gemm", [1, 4], floats(4, 3), floats(3)),
        one("Gemm", [1, 4], floats(3, 4), floats(1, 3), transB=1),
        one("Gemm", [1, 4], floats(3, 4), np.float32(2), transB=1, alpha=0.5, beta=2.0),
        one("Gemm", [1, 4], floats(4, 3), floats(1, 1)),
        one("Gemm", [1, 4], floats(4, 3), opset=11),
        one("Gemm", [4, 1], floats(4, 3), floats(3), transA=1),
        one("Gemm", [2, 4], floats(4, 3), floats(2, 1), alpha=2.0),
        one("Gemm", [4, 1], floats(3, 4), floats(3, 1), at=1, alpha=2.0, beta=0.5),
        graph([("Gemm", ["x", "x"], ["y"], {"transB": 1, "alpha": 2.0})], [1, 4]),
    ],
    "Conv": [
        *(one("Conv", shape, floats(3, 2, *[3] * d), floats(3)) for d, shape in IMAGES.items()),
        one("Conv", IMAGE, floats(4, 1, 3, 2), group=2, pads=[1, 0, 1, 0], strides=[2, 1]),
        one("Conv", IMAGE, floats(3, 2, 3, 3), pads=[0, 1, 2, 0], dilations=[1, 2]),
        one("Conv", IMAGE, floats(3, 2, 3, 2), auto_pad="SAME_UPPER", strides=[2, 2]),
        one("Conv", IMAGE, floats(3, 2, 2, 3), auto_pad="SAME_LOWER"),
        one("Conv", IMAGE, floats(3, 2, 2, 3), auto_pad="VALID"),
        one("Conv", [3, 2, 6, 5], floats(3, 2, 3, 3), pads=[1, 1, 1, 1]),
    ],
    "ConvTranspose": [
        *(one("ConvTranspose", shape, floats(2, 3, *[3] * d)) for d, shape in IMAGES.items()),
        one("ConvTranspose", IMAGE, floats(2, 2, 3, 3), floats(4), group=2, strides=[2, 2]),
        one(
            "ConvTranspose",
            IMAGE,
            floats(2, 3, 3, 3),
            strides=[2, 2],
            pads=[1, 1, 1, 1],
            output_padding=[1, 0],
        ),
        one("ConvTranspose", IMAGE, floats(2, 3, 4, 3), floats(3), pads=[1, 0, 2, 1]),
        one("ConvTranspose", IMAGE, floats(2, 3, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
        one("ConvTranspose", IMAGE, floats(2, 3, 3, 3), strides=[2, 2], output_shape=[12, 10]),
        one("ConvTranspose", IMAGE, floats(2, 3, 3, 3), dilations=[2, 1]),
    ],
    "MaxPool": [
        *(one("MaxPool", shape, kernel_shape=[2] * d) for d, shape in IMAGES.items()),
        one("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
        one("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        one("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 2]),
        one("MaxPool", IMAGE, kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 2]),
    ],
    "AveragePool": [
        *(one("AveragePool", shape, kernel_shape=[2] * d) for d, shape in IMAGES.items()),
        one("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        one("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
        one("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[0, 1, 1, 0], count_include_pad=1),
    ],
    "GlobalAveragePool": [one("GlobalAveragePool", shape) for shape in IMAGES.values()],
    "GlobalMaxPool": [one("GlobalMaxPool", IMAGE)],
    "BatchNormalization": [
        one("BatchNormalization", IMAGE, *norm_constants(), epsilon=1e-2),
        one("BatchNormalization", [1, 2], *norm_constants(), opset=15),
        one("BatchNormalization", [3, 2, 4], *norm_constants(), opset=7),
    ],
    "LayerNormalization": [
        one("LayerNormalization", [1, 3, 4], floats(4), floats(4), opset=17),
        one("LayerNormalization", [1, 3, 4], floats(3, 4), opset=17, axis=1, epsilon=1e-2),
        one("LayerNormalization", [3, 4], floats(4), opset=17),
    ],
    **{
        op: [
            one(op, [1, 3, 4], axes=[1], opset=11),
            one(op, [1, 3, 4], axes=[-1], keepdims=0, opset=11),
            one(op, [1, 3, 4], axes=[0, 2], keepdims=0, opset=11),
            one(op, [1, 3, 4], opset=11),
            one(op, [3, 4], axes=[0], opset=11),
            one(op, [1, 3, 4], ints(1), opset=18),
        ]
        for op in ("ReduceMean", "ReduceMax", "ReduceMin")
    },
    "ReduceSum": [
        one("ReduceSum", [1, 3, 4], axes=[1], keepdims=0, opset=11),
        one("ReduceSum", [1, 3, 4], ints(2), keepdims=0),
        one("ReduceSum", [1, 3, 4]),
        one("ReduceSum", [1, 3, 4], noop_with_empty_axes=1),
    ],
    **{
        op: [
            one(op, [1, 3, 4], opset=11),
            one(op, [1, 3, 4], opset=11, axis=2),
            one(op, [1, 3, 4], axis=1),
            one(op, [3, 4]),
            one(op, [3, 4], axis=0),
        ]
        for op in ("Softmax", "LogSoftmax")
    },
    "Reshape": [
        one("Reshape", [1, 3, 4], ints(1, -1)),
        one("Reshape", [1, 3, 4], ints(-1, 12)),
        one("Reshape", [1, 3, 4], ints(0, 4, 3)),
        one("Reshape", [1, 3, 4], ints(3, 4)),
        one("Reshape", [12], ints(1, 3, 4)),
        one("Reshape", [1, 1], ints()),
        one("Reshape", [3, 4], ints(0, 2, -1)),
    ],
    "Flatten": [one("Flatten", [1, 3, 4], axis=axis) for axis in (-1, 0, 1, 2, 3)],
    "Squeeze": [
        one("Squeeze", [1, 3, 1], axes=[2], opset=11),
        one("Squeeze", [1, 3, 1], ints(0)),
        one("Squeeze", [1, 3, 1]),
    ],
    "Unsqueeze": [
        one("Unsqueeze", [1, 3], axes=[0, 3], opset=11),
        one("Unsqueeze", [1, 3], ints(-1)),
        one("Unsqueeze", [3], ints(0)),
    ],
    "Transpose": [
        one("Transpose", [1, 3, 4]),
        one("Transpose", [1, 3, 4], perm=[0, 2, 1]),
        one("Transpose", [1, 3, 4], perm=[1, 0, 2]),
        one("Transpose", [3, 4]),
    ],
    "Expand": [
        one("Expand", [1, 1, 4], ints(1, 3, 4)),
        one("Expand", [1, 4], ints(3, 4)),
        one("Expand", [4], ints(2, 1, 1)),
    ],
    "Tile": [one("Tile", [1, 3], ints(1, 2)), one("Tile", [1, 3], ints(2, 1))],
    "Concat": [
        graph([("Concat", ["x", "x"], ["y"], {"axis": axis})], [1, 3, 4]) for axis in (0, 1, -1)
    ]
    + [
        one("Concat", [1, 4], floats(1, 3), axis=1),
        one("Concat", [1, 4], floats(3, 4), at=1, axis=0),
        one("Concat", [4], floats(3), axis=0),
    ],
    "Split": [
        one("Split", [1, 6], opset=11, axis=1, split=[2, 4], outputs=2),
        one("Split", [1, 6], ints(1, 5), axis=1, outputs=2),
        one("Split", [1, 6], axis=1, outputs=3),
        one("Split", [1, 7], axis=1, opset=18, num_outputs=3, outputs=3),
        one("Split", [6], outputs=2),
    ],
    "Slice": [
        one("Slice", [1, 6, 4], opset=9, starts=[1, 0], ends=[-1, 9], axes=[1, 2]),
        one("Slice", [1, 6, 4], ints(0, 1), ints(1, 4)),
        one("Slice", [1, 6], ints(1), ints(6), ints(1), ints(2)),
        one("Slice", [1, 6], ints(-1), ints(-7), ints(-1), ints(-2)),
        one("Slice", [6, 2], ints(2), ints(2**62), ints(0)),
    ],
    "Gather": [
        one("Gather", [1, 6, 2], ints(1, -1, 1), axis=1),
        one("Gather", [1, 6], np.int64(-2), axis=1),
        one("Gather", [1, 6], np.int64(0)),
        one("Gather", [1, 6], np.array([[0, 1], [5, 2]]), axis=1),
        one("Gather", [6], ints(2, 3)),
    ],
    "Pad": [
        one("Pad", IMAGE, opset=10, pads=[0, 0, 1, 2, 0, 0, 0, 1], value=0.5),
        one("Pad", IMAGE, ints(0, 1, 0, 0, 0, 0, 1, 0), np.float32(0.5)),
        one("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 1, 0), mode="reflect"),
        one("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 1, 0), mode="edge"),
        one("Pad", IMAGE, ints(1, 1, 0, 2), None, ints(-1, -2), opset=18),
        one("Pad", [1, 4], ints(1, 0, 0, 0)),
        one("Pad", [1, 4], ints(0, -1, 0, 2)),
    ],
    "Resize": [
        one("Resize", IMAGE, np.array([1, 1, 2, 3], np.float32), opset=10),
        one("Resize", IMAGE, None, np.array([1, 1, 2, 3], np.float32)),
        one("Resize", IMAGE, None, None, ints(1, 2, 12, 10)),
        one("Resize", IMAGE, None, None, ints(12, 10), opset=18, axes=[2, 3]),
        one(
            "Resize",
            IMAGE,
            None,
            np.array([1, 1, 3, 3], np.float32),
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
    ],
    "Upsample": [
        one("Upsample", IMAGE, opset=7, scales=[1.0, 1.0, 2.0, 2.0]),
        one("Upsample", IMAGE, np.array([1, 1, 2, 3], np.float32), opset=9),
    ],
    "Constant": [
        graph([("Constant", [], ["c"], {key: v}), ("Mul", ["x", "c"], ["y"], {})], [1, 3])
        for key, v in (
            ("value", numpy_helper.from_array(floats(3))),
            ("value_float", 1.5),
            ("value_floats", [1.0, 2.0, 3.0]),
        )
    ]
    + [
        graph(
            [("Constant", [], ["c"], {"value_ints": [3]}), ("Reshape", ["x", "c"], ["y"], {})],
            [1, 3],
        )
    ],
    "ConstantOfShape": [
        graph(
            [("ConstantOfShape", ["s"], ["c"], value), ("Add", ["x", "c"], ["y"], {})],
            [1, 3],
            {"s": ints(2, 3)},
        )
        for value in ({}, {"value": numpy_helper.from_array(np.array([1.5], np.float32))})
    ],
    "Range": [
        graph(
            [
                ("Range", ["a", "b", "c"], ["r"], {}),
                ("Add", ["x", "r"], ["y"], {}),
            ],
            [1, 4],
            {"a": np.float32(1), "b": np.float32(3), "c": np.float32(0.5)},
        )
    ],
    "Shape": [
        graph(
            [
                ("Shape", ["x"], ["s"], {}),
                ("Gather", ["s", "zero"], ["n"], {}),
                ("Unsqueeze", ["n"], ["n1"], {"axes": [0]}),
                ("Concat", ["n1", "rest"], ["t"], {"axis": 0}),
                ("Reshape", ["x", "t"], ["y"], {}),
            ],
            [1, 3, 4],
            {"zero": np.int64(0), "rest": ints(-1)},
            opset=11,
        ),
        graph(
            [("Shape", ["x"], ["s"], {"start": 1}), ("Reshape", ["x", "s"], ["y"], {})],
            [1, 3, 4],
            opset=15,
        ),
    ],
    "Size": [
        graph(
            [
                ("Size", ["x"], ["n"], {}),
                ("Cast", ["n"], ["f"], {"to": FLOAT}),
                ("Div", ["x", "f"], ["y"], {}),
            ],
            [1, 3, 4],
        )
    ],
}
LISTED = [(op, i) for op, cases in CASES.items() for i in range(len(cases))]


def free(model):
    """Return the same model with a first dimension that has no size."""
    other = copy.deepcopy(model)
    other.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    return other


@pytest.fixture
def load(tmp_path):
    def loaded(model, dtype=None, name="net.onnx"):
        path = tmp_path / name
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return ad.load_onnx(path, dtype)

    return loaded


def reference(model, x, shape):
    """Return what onnxruntime gives for each example, asked without any of our own code."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return np.stack([session.run(["y"], {"x": p.reshape(shape)})[0] for p in x.numpy()])


def test_every_op_has_a_case():
    assert set(CASES) == {*OPS, *SOURCES}


@pytest.mark.parametrize(("op", "i"), LISTED)
def test_op(op, i, load):
    model = CASES[op][i]
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    whole = shape[0] == 1 and len(shape) > 1
    x = 2 * torch.randn(5, *(shape[1:] if whole else shape))
    wanted = torch.from_numpy(reference(model, x, shape))
    for case in (model, free(model)) if whole else (model,):
        for dtype in (None, torch.float64):
            net = load(case, dtype)
            made = net(x.to(dtype or x.dtype))
            assert made.shape == (5, *net.output_shape)
            wanted = wanted.reshape(made.shape)
            torch.testing.assert_close(made.float(), wanted, rtol=2e-4, atol=2e-5, equal_nan=True)
            assert net.input_shape == tuple(x.shape[1:])
    torch.testing.assert_close(net.replay(x), wanted, equal_nan=True)


MLP = graph(
    [
        ("Flatten", ["x"], ["f"], {}),
        ("MatMul", ["f", "w"], ["h"], {}),
        ("Add", ["h", "b"], ["a"], {}),
        ("Relu", ["a"], ["r"], {}),
        ("Gemm", ["r", "v"], ["y"], {}),
    ],
    [1, 1, 1, 5],
    {"w": floats(5, 6), "b": floats(6), "v": floats(6, 3)},
)
CONVNET = graph(
    [
        ("Conv", ["x", "k", "kb"], ["c"], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("Relu", ["c"], ["r"], {}),
        ("GlobalAveragePool", ["r"], ["p"], {}),
        ("Shape", ["p"], ["s"], {}),
        ("Slice", ["s", "zero", "one"], ["n"], {}),
        ("Concat", ["n", "rest"], ["t"], {"axis": 0}),
        ("Reshape", ["p", "t"], ["f"], {}),
        ("Gemm", ["f", "w"], ["y"], {"transB": 1}),
    ],
    ["N", 2, 6, 6],
    {
        **{"k": floats(4, 2, 3, 3), "kb": floats(4), "w": floats(3, 4)},
        **{"zero": ints(0), "one": ints(1), "rest": ints(-1)},
    },
)
COLUMN = graph(
    [
        ("MatMul", ["w", "x"], ["h"], {}),
        ("Relu", ["h"], ["r"], {}),
        ("MatMul", ["v", "r"], ["y"], {}),
    ],
    [5, 1],
    {"w": floats(6, 5), "v": floats(3, 6)},
)
ROW = graph(
    [
        ("Gather", ["x", "i"], ["g"], {"axis": 0}),
        ("MatMul", ["g", "w"], ["h"], {}),
        ("Relu", ["h"], ["r"], {}),
        ("Concat", ["r", "g"], ["y"], {"axis": 0}),
    ],
    [5],
    {"i": ints(4, 0, 2), "w": floats(3, 4)},
)


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (MLP, ((1, 1, 5), (3,))),
        (CONVNET, ((2, 6, 6), (3,))),
        (COLUMN, ((5, 1), (3, 1))),
        (ROW, ((5,), (7,))),
    ],
)
def test_what_is_read_can_be_certified(model, shapes, load):
    net = load(model, torch.float64)
    assert (net.input_shape, net.output_shape) == shapes
    x = torch.rand(4, *net.input_shape, dtype=torch.float64)
    box = ad.certify(net, ad.LinfBall(0.05)).bounds(x)
    near = net(x + 0.1 * torch.rand_like(x) - 0.05)
    assert bool((near >= box.lower).all() & (near <= box.upper).all())
    assert float((box.upper - box.lower).max()) < 10
    net.check(x)


def test_errors_of_certify_name_the_node(load):
    net = load(one("Floor", [1, 4]))
    with pytest.raises(UnsupportedOpError, match="Floor node 0"):
        ad.certify(net, ad.LinfBall(0.1)).bounds(torch.rand(2, 4))


@pytest.mark.parametrize(
    ("shape", "inputs"),
    [
        (["N", 4], (4,)),
        ([1, 4], (4,)),
        ([3, 4], (3, 4)),
        ([4], (4,)),
        ([1], (1,)),
        ([], ()),
        ([1, 1], (1,)),
    ],
)
def test_what_counts_examples(shape, inputs, load):
    net = load(one("Relu", shape))
    assert net.input_shape == net.output_shape == inputs
    x = torch.randn(3, *inputs)
    torch.testing.assert_close(net(x), x.relu())


def test_other_precisions(load):
    stored = {"w": RANDOM.standard_normal((4, 3))}
    double = graph([("MatMul", ["x", "w"], ["y"], {})], [1, 4], stored, kind=TensorProto.DOUBLE)
    x = torch.rand(3, 4, dtype=torch.float64)
    torch.testing.assert_close(load(double)(x), x @ torch.from_numpy(stored["w"]))
    assert load(double, torch.float32)(x.float()).dtype == torch.float32
    half = {"w": floats(4, 3).astype(np.float16)}
    model = graph([("MatMul", ["x", "w"], ["y"], {})], [1, 4], half, kind=TensorProto.FLOAT16)
    assert load(model, torch.float64)(x).dtype == torch.float64


def test_what_mixes_a_batch_in_the_file_is_asked_one_by_one(load):
    """Over a batch this graph sums; the file's graph of one example has one to sum."""
    net = load(one("ReduceSum", ["N", 4], ints(0), keepdims=0))
    x = torch.randn(3, 4)
    torch.testing.assert_close(net(x), x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_exports_what_it_reads(load, tmp_path):
    path = tmp_path / "torch.onnx"
    net = torch.nn.Sequential(
        *(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU()),
        *(torch.nn.Flatten(), torch.nn.Linear(18, 4), torch.nn.GELU(), torch.nn.Softmax(1)),
    ).eval()
    torch.onnx.export(net, (torch.rand(1, 1, 5, 5),), path, dynamo=False)
    x = torch.rand(3, 1, 5, 5)
    torch.testing.assert_close(ad.load_onnx(path)(x), net(x))


def test_a_network_is_a_module_like_others(load):
    net = load(MLP)
    x = torch.rand(3, 1, 1, 5)
    torch.testing.assert_close(copy.deepcopy(net)(x), net(x))
    other = pickle.loads(pickle.dumps(net))
    other.check(x)
    torch.testing.assert_close(net.double()(x.double()), other(x).double())
    net.check(x)
    with pytest.raises(InputError, match=r"takes inputs \[N, 1, 1, 5\], not \[3, 5\]"):
        net(torch.rand(3, 5))


def test_compressed_files_are_read(load):
    data = MLP.SerializeToString()
    assert load(gzip.compress(data), name="net.onnx.gz").output_shape == (3,)
    with pytest.raises(InputError, match="cannot be read"):
        load(gzip.compress(data)[:-9], name="short.onnx.gz")
    with pytest.raises(InputError, match="cannot be read"):
        load(data, name="none.onnx.gz")


def test_another_network_than_the_files_is_noticed(load, monkeypatch):
    net = load(MLP)
    next(net.constants.buffers()).mul_(1.01)
    with pytest.raises(ReplayError, match="at point 1 the network and onnxruntime differ by"):
        net.check(torch.cat([torch.zeros(1, 1, 1, 5), torch.ones(1, 1, 1, 5)]))
    monkeypatch.setattr(model_room, "compute", lambda node, values: (values[0],))
    with pytest.raises(ReplayError, match=r"net\.onnx: at point"):
        load(one("Relu", [1, 4]))


def external():
    model = copy.deepcopy(MLP)
    stored = model.graph.initializer[0]
    stored.data_location = TensorProto.EXTERNAL
    stored.external_data.add(key="location", value="../../secret")
    return model


def declared(dims, data=b""):
    model = copy.deepcopy(MLP)
    stored = model.graph.initializer[0]
    del stored.dims[:]
    stored.dims.extend(dims)
    stored.raw_data = data
    return model


def looped():
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])],
        "branch",
        [],
        [helper.make_tensor_value_info("z", FLOAT, None)],
    )
    nodes = [("If", ["c"], ["y"], {"then_branch": branch, "else_branch": branch})]
    return graph(nodes, [1, 4], {"c": np.array(True)})


def chain(op, count, first, stored, **attributes):
    nodes = [(op, [first, first], ["h0"], attributes)]
    nodes += [(op, [f"h{i}", f"h{i}"], [f"h{i + 1}"], attributes) for i in range(count)]
    return graph([*nodes, ("Add", ["x", f"h{count}"], ["y"], {})], [1, 4], stored)


BIG = 10**6
REFUSED = {
    "operators that are not read: ArgMax .1., Hardmax .2.": graph(
        [
            ("Hardmax", ["x"], ["a"], {}),
            ("Hardmax", ["a"], ["b"], {}),
            ("ArgMax", ["b"], ["y"], {}),
        ],
        [1, 4],
    ),
    "operators that are not read: If": looped(),
    r"Add 'node 0' reads 'z', which nothing before it makes": graph(
        [("Add", ["x", "z"], ["y"], {}), ("Relu", ["x"], ["z"], {})], [1, 4]
    ),
    r"reads 'b', which nothing before": graph(
        [("Add", ["x", "b"], ["a"], {}), ("Relu", ["a"], ["b"], {}), ("Relu", ["b"], ["y"], {})],
        [1, 4],
    ),
    "makes 'x' twice": graph([("Relu", ["x"], ["x"], {}), ("Relu", ["x"], ["y"], {})], [1, 4]),
    "'y' is made by no node": graph([("Relu", ["x"], ["z"], {})], [1, 4]),
    "does not depend on its input": graph([("Relu", ["c"], ["y"], {})], [1, 4], {"c": floats(3)}),
    "has 1 inputs and 2 outputs": graph(
        [("Split", ["x"], ["y", "z"], {"axis": 1})], [1, 4], outputs=("y", "z")
    ),
    "lies in another file": external(),
    "holds 0 numbers, and its shape is": declared([BIG, BIG]),
    "holds 2 numbers, and its shape is": declared([-1, 2], b"\0" * 8),
    r"input 'x' is \['N', 'M'\]": one("Relu", ["N", "M"]),
    r"input 'x' is \['N'\]": one("Relu", ["N"]),
    r"input 'x' is \[0, 4\]": one("Relu", [0, 4]),
    "does not say what shape": one("Relu", None),
    "is too large": one("Relu", [1, BIG, BIG]),
    "has no floating-point numbers": graph(
        [("Neg", ["x"], ["y"], {})], [1, 4], kind=TensorProto.INT64
    ),
    "operators of version 6, and versions 7 to": one("Relu", [1, 4], opset=6),
    r"ConstantOfShape 'node 0': makes a tensor": graph(
        [("ConstantOfShape", ["s"], ["c"], {}), ("Add", ["x", "c"], ["y"], {})],
        [1, 1],
        {"s": ints(BIG, BIG)},
    ),
    r"Expand 'node 0': makes a tensor": one("Expand", [1, 1], ints(BIG, BIG)),
    r"Tile 'node 0': makes a tensor": one("Tile", [1, 4], ints(BIG, BIG)),
    r"Pad 'node 0': makes a tensor": one("Pad", [1, 4], ints(BIG, BIG, BIG, BIG)),
    r"Reshape 'node 0': makes \[1000000, 1000000\] of": one("Reshape", [1, 4], ints(BIG, BIG)),
    r"Range 'node 0': makes a tensor": graph(
        [("Range", ["a", "b", "c"], ["r"], {}), ("Add", ["x", "r"], ["y"], {})],
        [1, 1],
        {"a": np.int64(0), "b": np.int64(BIG**2), "c": np.int64(1)},
    ),
    r"Mul 'node 0': makes a tensor": graph(
        [("Mul", ["a", "b"], ["c"], {}), ("Add", ["x", "c"], ["y"], {})],
        [1, 1],
        {"a": floats(9000, 1), "b": floats(1, 9000)},
    ),
    r"MatMul 'node 0': makes a tensor": one("MatMul", [9000, 1], floats(1, 9000)),
    r"Resize 'node 0': makes a tensor": one(
        "Resize", IMAGE, None, np.array([1, 1, BIG, BIG], np.float32)
    ),
    r"Concat 'node 2\d': makes": chain("Concat", 40, "c", {"c": floats(1, 4)}, axis=0),
    r"Conv 'node 0': makes a tensor": one("Conv", IMAGE, floats(1, 2, 1, 1), pads=[9000] * 4),
    r"MaxPool 'node 0': makes a tensor": one(
        "MaxPool", IMAGE, kernel_shape=[1, 1], pads=[9000] * 4
    ),
    r"Conv 'node 1': makes a tensor .* products": graph(
        [("ConstantOfShape", ["s"], ["w"], {}), ("Conv", ["x", "w"], ["y"], {"pads": [400] * 4})],
        [1, 1, 800, 800],
        {"s": ints(1, 1, 1000, 1000)},
    ),
    r"Conv 'node 0': its weights must be constants": graph(
        [("Conv", ["x", "x"], ["y"], {})], [1, 2, 3, 3]
    ),
    r"Reshape 'node 1': its shape must be a constant": graph(
        [("Cast", ["x"], ["s"], {"to": TensorProto.INT64}), ("Reshape", ["x", "s"], ["y"], {})],
        [4],
    ),
    r"Conv 'node 0': kernel, strides, dilations and pads must be positive": one(
        "Conv", IMAGE, floats(1, 2, 1, 1), strides=[0, 1]
    ),
    r"ConvTranspose 'node 0': strides \[1000, 1\] are too large": one(
        "ConvTranspose", IMAGE, floats(2, 1, 1, 1), strides=[1000, 1]
    ),
    r"ConvTranspose 'node 0': pads or output_shape leave \[-5, 9\]": one(
        "ConvTranspose", IMAGE, floats(2, 1, 1, 1), output_shape=[-5, 9]
    ),
    r"MaxPool 'node 0': windows \[9, 9\] do not fit": one("MaxPool", IMAGE, kernel_shape=[9, 9]),
    r"MaxPool 'node 0': .* are too large": one("MaxPool", IMAGE, kernel_shape=[2**62, 1]),
    r"Split 'node 0': cuts 7 into": one("Split", [1, 7], axis=1, opset=18, num_outputs=2**62),
    r"keepdims is 2, neither 0 nor 1": one("ReduceMean", [1, 4], keepdims=2),
    r"Relu 'node 0': its inputs do not fit": one("Relu", [1, 4], floats(4)),
    r"Gather 'node 0': takes entries that": one("Gather", [1, 4], ints(7), axis=1),
    r"Resize 'node 0': only images": one(
        "Resize", IMAGE, None, np.array([1, 1, 2, 2], np.float32), mode="linear"
    ),
    r"MatMul 'node 0' cannot be read": one("MatMul", [1, 4], floats(3, 3)),
    r"Relu 'node 1': reads 'more1', an output which is not computed": graph(
        [("Dropout", ["x"], ["z", "more1"], {}), ("Relu", ["more1"], ["y"], {})], [1, 4]
    ),
}


@pytest.mark.parametrize("said", REFUSED)
def test_refused(said, load):
    with pytest.raises(InputError, match=said) as caught:
        load(REFUSED[said])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_files_that_are_none(load, tmp_path):
    for path in (tmp_path, tmp_path / "missing.onnx"):
        with pytest.raises(InputError, match="is no file"):
            ad.load_onnx(path)
    for raw in (b"", b"\0" * 100, b"not a network", MLP.SerializeToString()[:-7]):
        with pytest.raises(InputError):
            load(raw)
    with pytest.raises(InputError, match="dtype must be one of"):
        load(MLP, torch.int64)


RAW = [model.SerializeToString() for model in (MLP, CONVNET, CASES["Slice"][1], CASES["Shape"][0])]


@settings(max_examples=150)
@given(
    st.integers(0, len(RAW) - 1),
    st.lists(st.tuples(st.integers(0), st.binary(max_size=3)), max_size=4),
)
def test_mutated_files_are_read_or_refused(tmp_path_factory, which, edits):
    raw = bytearray(RAW[which])
    for place, new in edits:
        start = place % len(raw)
        raw[start : start + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "mutated.onnx"
    path.write_bytes(bytes(raw))
    with contextlib.suppress(InputError):
        net = ad.load_onnx(path)
        assert net(torch.zeros(2, *net.input_shape)).shape == (2, *net.output_shape)


def test_onnx_is_loaded_where_it_is_used():
    said = "import autodual, sys; print({'onnx', 'onnxruntime'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_what_to_install(missing, load, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match="pip install onnx onnxruntime"):
        load(MLP)


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Gemm, turned"])
def test_zeros_of_a_large_weight_are_left_out(op, load):
    """The product is the same, and so is its bound; what is not thin is multiplied as a whole."""
    weight = np.zeros((256, 128), np.float32)
    weight[RANDOM.integers(0, 256, 300), RANDOM.integers(0, 128, 300)] = floats(300)
    weight[:, 5] = 0
    stored = {"w": weight.T.copy() if "turned" in op else weight, "b": floats(128)}
    given = ["x", "w"] if op == "MatMul" else ["x", "w", "b"]
    turned = {"transB": 1} if "turned" in op else {}
    nodes = [(op.split(",")[0], given, ["z"], turned), ("Relu", ["z"], ["y"], {})]
    net = load(graph(nodes, [1, 256], stored))
    assert all(t.numel() < 4096 for t in net.constants.buffers())
    x = torch.randn(3, 256)
    bias = torch.zeros(128) if op == "MatMul" else torch.from_numpy(stored["b"])
    dense = torch.nn.Sequential(torch.nn.Linear(256, 128), torch.nn.ReLU())
    dense.load_state_dict({"0.weight": torch.from_numpy(weight).mT, "0.bias": bias})
    torch.testing.assert_close(net(x), dense(x))
    spec = torch.randn(3, 1, 128)
    bounds = [ad.certify(m, 0.1).lower_bound(x, spec) for m in (net, dense)]
    torch.testing.assert_close(*bounds, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["w of z, places", "w of z, entries", "w of z', places"])
def test_names_of_a_file_are_kept_where_zeros_are_left_out(name, load):
    """A value or a constant with the name that the parts of a thin weight would get."""
    weight = np.zeros((256, 128), np.float32)
    weight[RANDOM.integers(0, 256, 200), RANDOM.integers(0, 128, 200)] = floats(200)
    stored = {"w": weight, "w of z, places": floats(256)} | {name: floats(256)}
    nodes = [("Add", ["x", name], ["a"], {}), ("Relu", ["a"], ["w of z, entries'"], {})]
    nodes += [("MatMul", ["w of z, entries'", "w"], ["z"], {}), ("Relu", ["z"], ["y"], {})]
    net, x = load(graph(nodes, [1, 256], stored)), torch.randn(3, 256)
    right = (x + torch.from_numpy(stored[name])).relu() @ torch.from_numpy(weight)
    torch.testing.assert_close(net(x), right.relu())
