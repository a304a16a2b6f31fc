"""What an entry of the zoo is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import autodual as ad


@dataclass(frozen=True)
class Entry:
    """A model, the inputs it takes, and what is asked of it.

    Attributes:
        make: returns the model.
        shape: the shape of one input.
        eps: the ℓ∞ radius it is certified at; small enough for finite, useful bounds.
        output: the output that is bounded, if there are several.
        others: the shapes of one example of the model's further arguments.
        intervals: whether it has ops that only intervals bound.
        missing: ops without a dual layer; the model is refused, and the message names them.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    eps: float = 0.01
    output: Any = None
    others: tuple[tuple[int, ...], ...] = ()
    intervals: bool = False
    missing: tuple[str, ...] = ()

    def build(self) -> nn.Module:
        """Return the model in float64, in eval mode, always the same."""
        torch.manual_seed(0)
        return self.make().double().eval()

    def inputs(self, batch: int = 2) -> ad.Inputs:
        """Return the same inputs in [0, 1] every time; the first is perturbed."""
        generator = torch.Generator().manual_seed(1)

        def draw(shape: tuple[int, ...]) -> torch.Tensor:
            return torch.rand(batch, *shape, generator=generator, dtype=torch.float64)

        return ad.Inputs(*map(draw, (self.shape, *self.others)))

    def pick(self, returned: Any) -> torch.Tensor:
        """Return the output that is bounded."""
        way = () if self.output is None else self.output
        for key in way if isinstance(way, tuple) else (way,):
            returned = returned[key]
        return returned


ZOO: dict[str, Entry] = {}


def entry(*shape: int, **options: Any) -> Callable[[Callable[[], nn.Module]], Any]:
    """Enter the factory below under its name."""

    def register(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        name = make.__name__.strip("_")
        assert name not in ZOO, name
        ZOO[name] = Entry(make, shape, **options)
        return make

    return register


class Net(nn.Module):
    """Modules by name, and a forward ``(net, x, ...) → output``."""

    def __init__(self, forward: Callable[..., Any], **modules: Any) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: torch.Tensor, *others: torch.Tensor) -> Any:
        return self.function(self, x, *others)
