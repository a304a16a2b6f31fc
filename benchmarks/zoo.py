"""Bounds on the zoo beside auto_LiRPA's: how tight, who refuses what; and capture times.

    python benchmarks/zoo.py --lirpa CHECKOUT [--models NAME ...] [--capture] [--out FILE]

Looseness is how far below the attack a bound lies, in units of how far below the nominal value the
attack gets: mean(attack − bound) / mean(nominal − attack), over all margins of the model's own
prediction. 0 is exact. Each model is bounded at three radii: the zoo's own, 3 and 10 times that.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from peers import LiRPA, others
from torch import Tensor, nn

import autodual as ad
from autodual.front.door import capture_once
from tests.zoo import ZOO, Net
from tests.zoo.convnets import resnet18
from tests.zoo.transformers import Block, SelfAttention

MODELS = (
    "deep_mlp", "mlp_tanh", "mlp_sigmoid", "mlp_gelu", "mlp_sin", "maxout", "polynomial",
    "gated_linear_unit", "layer_norm_mlp", "softmax_output", "thesis_small", "thesis_residual",
    "lenet", "vgg", "resnet18", "densenet", "mobilenet_v2", "squeeze_and_excitation",
    "graph_convolution", "rnn", "gru", "lstm", "mlp_mixer", "vit_scaled_dot_product",
    "transformer_encoder_layer",
)  # fmt: skip
RADII = (1, 3, 10)
BATCH = 4

Bound = Callable[[], Tensor]


def autodual_bounds(model: nn.Module, x: Tensor, spec: Tensor, eps: float) -> dict[str, Bound]:
    """Return what computes lower bounds on C z, by the method's name."""

    def by(bounds: str, slopes: str = "equal") -> Bound:
        return lambda: ad.certify(model, eps, bounds=bounds, slopes=slopes).lower_bound(x, spec)

    return {"ibp": by("ibp"), "dual": by("ibp&dual"), "free": by("ibp&dual", "free")}


def lirpa_bounds(
    peer: LiRPA, model: nn.Module, x: Tensor, spec: Tensor, eps: float
) -> dict[str, Bound]:
    """The same for auto_LiRPA; "same" takes one slope for both lines, as the thesis does."""

    def by(method: str, options: dict[str, str]) -> Bound:
        def run() -> Tensor:
            own = copy.deepcopy(model)  # it may come back in training mode
            net = peer.module(own, torch.empty_like(x), bound_opts=options)
            inputs = (peer.tensor(x, peer.ball(norm=float("inf"), eps=eps)),)
            return net.compute_bounds(x=inputs, C=spec, method=method, bound_upper=False)[0]

        return run

    same = {"activation_bound_option": "same-slope"}
    return {"IBP": by("IBP", {}), "same": by("CROWN", same), "CROWN": by("CROWN", {})}


def attack(model: nn.Module, x: Tensor, spec: Tensor, eps: float) -> Tensor:
    """Return the lowest C z found [N, S]: for each row its own descent from a few starts."""
    generator = torch.Generator().manual_seed(0)
    best = torch.full(spec.shape[:2], torch.inf)
    for row in range(spec.shape[1]):
        for start in range(4):
            offset = (2 * torch.rand(x.shape, generator=generator) - 1) * eps * (start > 0)
            for _ in range(40):
                point = (x + offset).requires_grad_()
                value = (spec[:, row] * model(point)).sum(1)
                best[:, row] = torch.minimum(best[:, row], value.detach())
                (slope,) = torch.autograd.grad(value.sum(), point)
                offset = (offset - 0.15 * eps * slope.sign()).clamp(-eps, eps)
    return best


def looseness(bound: Tensor, attacked: Tensor, nominal: Tensor) -> float:
    return float((attacked - bound).mean() / (nominal - attacked).mean())


def compare(name: str, peer: LiRPA | None, refused: list[str]) -> list[list[str]]:
    """Return one line of numbers for each radius, in Markdown's columns."""
    entry = ZOO[name]
    model = entry.build().float()
    x = entry.inputs(BATCH).args[0].float()
    with torch.no_grad():
        z = model(x)
    spec = others(z.argmax(1), z.shape[1])
    nominal = (spec * z.unsqueeze(1)).sum(2)
    lines = []
    for times in RADII:
        eps = entry.eps * times
        attacked = attack(model, x, spec, eps)
        jobs = autodual_bounds(model, x, spec, eps)
        if peer is not None:
            jobs |= lirpa_bounds(peer, model, x, spec, eps)
        found = {}
        for method, job in jobs.items():
            try:
                with torch.no_grad(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                    found[method] = looseness(job(), attacked, nominal)
            except Exception as error:
                first = next(iter(str(error).strip().splitlines()), "")
                note = f"{name}: {method}: {type(error).__name__}: {first[:160]}"
                if note not in refused:
                    refused.append(note)
        unsound = {m for m, loose in found.items() if loose < -0.01}
        refused += [f"{name}, ε = {eps:g}: {m} is above what the attack found" for m in unsound]
        shown = [f"{found[m]:.3g}" if m in found else "–" for m in jobs]
        found = {m: loose for m, loose in found.items() if m not in unsound}
        lines.append([name, f"{eps:g}", *shown, _tighter(found)])
        print(" | ".join(lines[-1]), flush=True)
    return lines


def _tighter(found: dict[str, float]) -> str:
    """Return whose best bound is tighter, beyond a percent, or who alone has one."""
    mine = [found[m] for m in ("dual", "free") if m in found]
    theirs = [found[m] for m in ("same", "CROWN") if m in found]
    if not mine or not theirs:
        return "only autodual" if mine else "only auto_LiRPA" if theirs else "none"
    if abs(min(mine) - min(theirs)) <= 0.01 * max(min(mine), min(theirs), 0.01):
        return "equal"
    return "autodual" if min(mine) < min(theirs) else "auto_LiRPA"


def full_vit(width: int = 64, depth: int = 2, heads: int = 4) -> nn.Module:
    """A vision transformer for 32×32 images in patches of 4."""

    def forward(net: Net, x: Tensor) -> Tensor:
        z = net.patch(x).flatten(2).transpose(1, 2) + net.positions
        return net.head(net.norm(net.blocks(z)).mean(1))

    blocks = [Block(SelfAttention(width, heads), width) for _ in range(depth)]
    return Net(
        forward, patch=nn.Conv2d(3, width, 4, 4), norm=nn.LayerNorm(width),
        positions=nn.Parameter(torch.randn(1, 64, width)), blocks=nn.Sequential(*blocks),
        head=nn.Linear(width, 10),
    )  # fmt: skip


def capture_times() -> None:
    """Capture each model once after a warm-up."""
    capture_once(nn.Linear(3, 2), ad.Inputs(torch.rand(2, 3)))
    for name, model in (("ResNet-18, 64 channels", resnet18(64)), ("ViT, dim 64", full_vit())):
        start = time.perf_counter()
        graph = capture_once(model.eval(), ad.Inputs(torch.rand(2, 3, 32, 32))).graph
        seconds = time.perf_counter() - start
        print(f"{name}, 3×32×32: captured in {seconds:.1f} s, {len(graph.body)} ops")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lirpa", type=Path, help="a checkout of auto_LiRPA")
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--capture", action="store_true", help="capture times instead")
    parser.add_argument("--out", type=Path, help="a file for the table")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.capture:
        return capture_times()
    peer = None if args.lirpa is None else LiRPA(args.lirpa)
    head = ["model", "ε", "ibp", "dual", "free"]
    head += ["IBP", "CROWN, same slope", "CROWN"] if peer else []
    refused: list[str] = []
    lines = [line for name in args.models for line in compare(name, peer, refused)]
    table = [" | ".join(cells) for cells in ([*head, "tighter"], ["---"] * (len(head) + 1), *lines)]
    wins = {
        who: sum(line[-1] == who for line in lines) for who in dict.fromkeys(x[-1] for x in lines)
    }
    text = "\n".join([*(f"| {row} |" for row in table), "", str(wins), *refused])
    print(f"\n{text}")
    if args.out is not None:
        args.out.write_text(text + "\n")
    return None


if __name__ == "__main__":
    main()
