"""Collision avoidance: an adviser never says "straight on" where that would hit.

A small net is taught when to turn from where another ship is, ahead and to the side. Then a
property is decided for a whole region: from Python, and from ONNX and VNN-LIB files, which tools
exchange (`pip install 'autodual[files]'`). A picture shows the boxes of the search:

    python examples/collision.py --out out/collision.png
    autodual verify out/adviser.onnx out/close.vnnlib
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import autodual as ad

STRAIGHT, LEFT, RIGHT = range(3)


def adviser(steps: int = 400) -> nn.Sequential:
    """Teach a net (ahead, aside) in [−1, 1]² ↦ scores of three advices."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)
    ).double()
    x = 2 * torch.rand(4000, 2).double() - 1
    close = x.square().sum(1) < 0.36
    y = torch.where(close, torch.where(x[:, 1] > 0, LEFT, RIGHT), STRAIGHT)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net


def write(net: nn.Sequential, folder: Path) -> tuple[Path, Path]:
    """Write the net as an ONNX file, and the region in which it must turn as a VNN-LIB file."""
    from onnx import TensorProto, helper, numpy_helper, save

    nodes, weights, last = [], [], "x"
    for i, layer in enumerate(net):
        args, out = [last], f"z{i}"
        if isinstance(layer, nn.Linear):
            for name, tensor in layer.named_parameters():
                weights.append(numpy_helper.from_array(tensor.detach().numpy(), f"{name}{i}"))
                args.append(f"{name}{i}")
            nodes.append(helper.make_node("Gemm", args, [out], transB=1))
        else:
            nodes.append(helper.make_node("Relu", args, [out]))
        last = out
    ends = [
        helper.make_tensor_value_info(name, TensorProto.DOUBLE, [1, size])
        for name, size in (("x", 2), (last, 3))
    ]
    graph = helper.make_graph(nodes, "adviser", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder.mkdir(parents=True, exist_ok=True)
    save(model, folder / "adviser.onnx")
    (folder / "close.vnnlib").write_text(
        "(declare-const X_0 Real)\n(declare-const X_1 Real)\n"
        + "".join(f"(declare-const Y_{k} Real)\n" for k in range(3))
        + "(assert (>= X_0 -0.3))\n(assert (<= X_0 0.3))\n"
        + "(assert (>= X_1 -0.3))\n(assert (<= X_1 0.3))\n"
        + "(assert (>= Y_0 Y_1))\n(assert (>= Y_0 Y_2))\n"  # unsafe: straight on is advised
    )
    return folder / "adviser.onnx", folder / "close.vnnlib"


def draw(net: nn.Module, boxes: list[tuple[Tensor, Tensor]], path: Path) -> None:
    """Draw the advice over the plane, and every box that the search bounded."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    axis = torch.linspace(-1, 1, 200).double()
    points = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        advice = net(points).argmax(1).reshape(200, 200).mT.numpy()
    figure, axes = plt.subplots(figsize=(5, 5))
    axes.imshow(advice, origin="lower", extent=(-1, 1, -1, 1), cmap="Pastel1", vmin=0, vmax=8)
    for lower, upper in boxes:
        for (a, b), (c, d) in zip(lower.tolist(), upper.tolist(), strict=True):
            axes.add_patch(Rectangle((a, b), c - a, d - b, fill=False, linewidth=0.4))
    axes.set(xlabel="ahead", ylabel="to the side", title="advice, and boxes of the search")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/collision.png"))
    parser.add_argument("--steps", type=int, default=400, help="of training")
    args = parser.parse_args()
    net, boxes = adviser(args.steps), list[tuple[Tensor, Tensor]]()
    turns = ad.any_of(ad.Y[LEFT] > ad.Y[STRAIGHT], ad.Y[RIGHT] > ad.Y[STRAIGHT])
    sides = ad.all_of(*[a * ad.X[0] + b * ad.X[1] < 0.7 for a in (-1, 1) for b in (-1, 1)])
    close = ad.Region(-0.55 * torch.ones(2), 0.55 * torch.ones(2), where=sides)  # an octagon
    print("close by it turns:", ad.verify(net, close, turns, timeout=60, trace=boxes))
    ahead = ad.Region(
        torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0]), where=ad.X[0] + ad.X[1] > -1.2
    )
    print("everywhere ahead it turns:", ad.verify(net, ahead, turns, timeout=60))
    draw(net, boxes, args.out)
    onnx, spec = write(net, args.out.parent)
    query = ad.read_vnnlib(spec)
    print("from files:", ad.verify(ad.load_onnx(onnx), None, query, timeout=60))


if __name__ == "__main__":
    main()
