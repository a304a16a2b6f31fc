"""Give an op a dual layer of your own, prove it, and use it.

asinh has none in the registry. For a smooth function its derivative and its inflection points
are enough; ``check_dual_layer`` then tries to break what you wrote.
"""

import torch
from torch import Tensor, nn

import autodual as ad
from autodual.duals import smooth
from autodual.testing import check_dual_layer

ASINH = smooth(derivative=lambda z: 1 / torch.sqrt(1 + z * z), inflections=(0.0,))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.asinh(self.first(x)))


def main() -> None:
    print(check_dual_layer(ASINH, "aten.asinh.default", reach=(-20.0, 20.0)))
    torch.manual_seed(0)
    model, x, y = Model(), torch.randn(100, 4), torch.randint(3, (100,))
    net = ad.certify(model, 0.05, rules={"aten.asinh.default": ASINH})
    print(net(x, y))
    print(net.explain(x))


if __name__ == "__main__":
    main()
