"""What goes into a softmax: gradients of what comes out of it vanish where a model is sure."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

CALLS = torch.softmax, F.softmax, Tensor.softmax, torch.special.softmax


class Softmax(TorchFunctionMode):
    """Notes, while a model runs, what the last softmax read and gave."""

    def __init__(self) -> None:
        super().__init__()
        self.last: tuple[Tensor, Tensor] | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a function of torch's."""
        out = func(*args, **(kwargs or {}))
        if func in CALLS:
            self.last = (args[0] if args else kwargs["input"]), out
        return out

    def before(self, z: Tensor) -> Tensor:
        """Return what the softmax over classes read that gave z [N, K], or z if none did."""
        if self.last is None or self.last[1] is not z:
            return z
        read = self.last[0]
        with torch.no_grad():
            fits = read.shape == z.shape and torch.allclose(read.to(z).softmax(1), z)
        return read if fits else z
