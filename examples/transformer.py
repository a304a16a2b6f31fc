"""Certify a transformer, and train it against its bound for some steps.

Digits are sequences of patches; attention, softmax and LayerNorm are bounded like any other op.
Needs scikit-learn's digits, autodual[demo]:

    python examples/transformer.py
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autodual as ad
from autodual import train


class Transformer(nn.Module):
    def __init__(self, patch: int = 4, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(patch * patch, width)
        self.places = nn.Parameter(0.1 * torch.randn((8 // patch) ** 2, width))
        self.block = nn.TransformerEncoderLayer(
            width, heads, dim_feedforward=width, dropout=0.0, batch_first=True
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.unfold(x, self.patch, stride=self.patch).mT  # [N, patches, pixels]
        return self.head(self.block(self.embed(tokens) + self.places).mean(1))


def main(
    eps: float = 0.02, epochs: int = 10, robust: int = 200, images: int = 50, seed: int = 0
) -> dict[str, ad.Evaluation]:
    """Return errors on some test digits, plain and trained against the bound on so many digits."""
    torch.manual_seed(seed)
    data, model = train.digits(seed), Transformer()
    print(str(ad.coverage(model, data.x[:2])).splitlines()[-1])
    net = ad.certify(model, ad.LinfBall(eps, domain=(0, 1)))
    plain = train.Recipe(loss=train.Standard(), epochs=epochs, batch=50, rate=train.one_cycle(1e-2))
    bound = train.Recipe(loss=train.Robust(), epochs=1, batch=50, rate=train.one_cycle(1e-2))
    errors = {}
    for name, recipe, count in (("plain", plain, None), ("against the bound", bound, robust)):
        train.fit(net, (data.x[:count], data.y[:count]), recipe)
        errors[name] = ad.evaluate(net, (data.x_test[:images], data.y_test[:images]), rungs=())
        print(f"trained {name}: {errors[name]}")
    return errors


if __name__ == "__main__":
    main()
