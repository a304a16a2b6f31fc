"""Give an op a dual layer of your own, and check it against an attack.

``abs`` has none in the registry: two lines and an interval are all it needs.
"""

import torch
from torch import Tensor, nn

import autodual as ad
from autodual.duals import Call, Elementwise, Lines


def absolute_lines(call: Call, box: ad.Interval, slope: Tensor | None) -> Lines:
    """Enclose |z| on [ℓ, u]: the chord from above, its parallel through 0 from below."""
    if slope is None:
        width = (box.upper - box.lower).clamp(min=1e-12)
        slope = ((box.upper.abs() - box.lower.abs()) / width).clamp(-1, 1)
    middle = torch.clamp(torch.zeros_like(slope), box.lower, box.upper)
    gaps = torch.stack([z.abs() - slope * z for z in (box.lower, middle, box.upper)])
    return Lines.parallel(slope, gaps.amin(0), gaps.amax(0))


def absolute_interval(call: Call, box: ad.Interval) -> ad.Interval:
    """Bound |z|: 0 if the box holds it, else the nearer end; and the farther end."""
    nearest = torch.clamp(torch.zeros_like(box.lower), box.lower, box.upper).abs()
    return ad.Interval(nearest, torch.maximum(box.lower.abs(), box.upper.abs()))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).abs())


def main() -> None:
    torch.manual_seed(0)
    model, x, y = Model(), torch.randn(100, 4), torch.randint(3, (100,))
    rules = {"aten.abs.default": Elementwise(absolute_lines, interval=absolute_interval)}
    net = ad.certify(model, 0.05, rules=rules)
    bound, found = net(x, y).margins, ad.attack.pgd(model, x, y, 0.05).margins
    assert bool((found >= bound - 1e-5).all())
    print(net(x, y))
    print(net.explain(x))


if __name__ == "__main__":
    main()
