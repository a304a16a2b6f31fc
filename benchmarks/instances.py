"""MNIST images as a benchmark of VNN-COMP's kind: a network, a property each, instances.csv.

    python benchmarks/instances.py --data PATH --net wk_mnist --eps 0.1 --first 50 --out FOLDER

Images that the network mistakes are left out, as the competition does.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from networks import PUBLISHED, mnist_test, published
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

SECONDS = 120


def nodes_of(model: nn.Sequential) -> Iterator[tuple[str, dict[str, object], list[np.ndarray]]]:
    """Yield each layer's operator, attributes and weights."""
    for layer in model:
        held = [p.detach().numpy() for p in layer.parameters()]
        if isinstance(layer, nn.Linear):
            yield "Gemm", {"transB": 1}, held
        elif isinstance(layer, nn.Conv2d):
            pads = [*layer.padding] * 2  # type: ignore[misc]
            yield "Conv", {"strides": [*layer.stride], "pads": pads}, held
        elif isinstance(layer, nn.ReLU | nn.Flatten):
            yield {nn.ReLU: "Relu", nn.Flatten: "Flatten"}[type(layer)], {}, []
        else:
            raise NotImplementedError(f"there is no operator for {layer}")


def write_network(path: Path, model: nn.Sequential) -> None:
    """Write a net for one image."""
    made, stored, last = [], [], "x"
    for i, (op, attributes, weights) in enumerate(nodes_of(model)):
        names = [f"w{i}_{k}" for k in range(len(weights))]
        stored += [numpy_helper.from_array(w, n) for w, n in zip(weights, names, strict=True)]
        made.append(helper.make_node(op, [last, *names], [f"z{i}"], **attributes))
        last = f"z{i}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 28, 28])
    y = helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, 10])
    graph = helper.make_graph(made, "net", [x], [y], stored)
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(whole)
    onnx.save(whole, path)


def write_property(path: Path, x: Tensor, label: int, eps: float) -> None:
    """Write that no other class reaches the label's logit within ε of an image in [0, 1]."""
    x = x.flatten().double()
    lines = [f"(declare-const X_{i} Real)" for i in range(len(x))]
    lines += [f"(declare-const Y_{k} Real)" for k in range(10)]
    ends = (x - eps).clamp(min=0).tolist(), (x + eps).clamp(max=1).tolist()
    for i, (low, high) in enumerate(zip(*ends, strict=True)):
        lines += [f"(assert (>= X_{i} {low:.12f}))", f"(assert (<= X_{i} {high:.12f}))"]
    others = " ".join(f"(and (>= Y_{k} Y_{label}))" for k in range(10) if k != label)
    path.write_text("\n".join([*lines, f"(assert (or {others}))"]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--net", choices=PUBLISHED, default="wk_mnist")
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--first", type=int, default=50)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    for name in ("onnx", "vnnlib"):
        (args.out / name).mkdir(parents=True, exist_ok=True)
    model, (images, labels) = published(args.data, args.net), mnist_test(args.data)
    write_network(args.out / f"onnx/{args.net}.onnx", model)
    with torch.no_grad():
        right = (model(images).argmax(1) == labels).nonzero().squeeze(1)[: args.first]
    rows = []
    for i in right.tolist():
        write_property(args.out / f"vnnlib/image_{i}.vnnlib", images[i], int(labels[i]), args.eps)
        rows.append(f"onnx/{args.net}.onnx,vnnlib/image_{i}.vnnlib,{SECONDS}\n")
    (args.out / "instances.csv").write_text("".join(rows))


if __name__ == "__main__":
    main()
