"""Planted counterexamples: no verdict may be "verified", with attacks and without.

    python benchmarks/planted.py [--count 500]

Each net is a random ReLU net that is safe by far, less a spike around a planted point: a fall of
some depth within some width, thin, far from corners and centers, and level next to it. The property
fails at that point and around it alone. All are asked by both kinds of branching, once with points
tried and once with proofs alone, where nothing but time may end a search.
"""

from __future__ import annotations

import argparse
from collections import Counter

import torch
from torch import Tensor, nn

import autodual as ad


class Planted(nn.Module):
    """A random net on [−1, 1]ⁿ that is at least 0.1, but near a point, where it is below 0."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        n = int(torch.randint(1, 6, (), generator=draw))
        self.width = 10.0 ** float(-1 - 3 * torch.rand((), generator=draw))
        torch.manual_seed(seed)
        self.net = nn.Sequential(
            nn.Linear(n, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1)
        )
        self.at = nn.Parameter(1.8 * torch.rand(n, generator=draw) - 0.9)
        self.double()
        box = ad.Box(-torch.ones(1, n).double(), torch.ones(1, n).double())
        low = ad.certify(self.net, box).bounds(torch.zeros(1, n).double()).lower
        with torch.no_grad():
            self.net[-1].bias += 0.1 - low[0]
            self.depth = float(self.net(self.at[None])) + 0.05

    def forward(self, x: Tensor) -> Tensor:
        far = (torch.relu(x - self.at) + torch.relu(self.at - x)).sum(1, keepdim=True)
        return self.net(x) - self.depth * torch.relu(1 - far / self.width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--timeout", type=float, default=2.0)
    args = parser.parse_args()
    counts = Counter[tuple[str, str]]()
    for seed in range(args.count):
        model = Planted(seed).eval()
        n = len(model.at)
        region = ad.Region(-torch.ones(n), torch.ones(n))
        for branch in ("inputs", "units"):
            for attack in (True, False):
                limit = args.timeout if attack else args.timeout / 10
                verdict = ad.verify(model, region, ad.Y[0] > 0, limit, branch=branch, attack=attack)
                counts[f"{branch}{'' if attack else ', no attack'}", verdict.status] += 1
                if verdict.verified:
                    print(f"WRONG: seed {seed}, {branch}, {verdict}", flush=True)
    for (how, status), count in sorted(counts.items()):
        print(f"{how}: {count} {status}")


if __name__ == "__main__":
    main()
