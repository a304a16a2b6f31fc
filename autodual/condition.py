"""What a loss must be so that its value at the worst logits is an upper bound (Theorem 2)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from weakref import WeakSet

import torch
from torch import Tensor

from autodual.brief import brief
from autodual.errors import InputError
from autodual.labels import Classes

Loss = Callable[[Tensor, Tensor], Tensor]

SAMPLES = 64
ROUNDING = 1e-4

_passed: WeakSet[object] = WeakSet()


@torch.no_grad()
def check_loss(loss: Loss, classes: Classes, like: Tensor) -> None:
    """Raise where samples show that a loss may fall as the model gets worse; once for each loss.

    It must not fall when another class's logit grows, and not change when a constant is added to
    all logits. A loss of one logit must not fall as that moves away from the label. Samples that
    find nothing prove nothing.

    Args:
        loss: of logits and labels; one number for each example, or for all.
        classes: how logits are laid out.
        like: of their dtype and device.

    Raises:
        InputError: it does, and how.
    """
    with suppress(TypeError):  # what has no hash is seen anew each time
        if loss in _passed:
            return
    generator = torch.Generator().manual_seed(0)
    count = 1 if classes.binary else classes.count
    for scale in (0.1, 1.0, 10.0):
        z = scale * torch.randn(SAMPLES, count, *classes.cells, generator=generator)
        up = scale * torch.rand(z.shape, generator=generator)
        y = torch.randint(classes.count, (SAMPLES, *classes.cells), generator=generator)
        z, up, y = z.to(like), up.to(like), y.to(like.device)
        if classes.binary:
            size = SAMPLES, *classes.size
            z, up, labels = z.reshape(size), up.reshape(size), y.reshape(size).to(like)
            _compare(loss, z, z + (1 - 2 * labels) * up, labels, AWAY, equal=False)
            continue
        others = up.scatter(1, y.unsqueeze(1), 0.0)
        _compare(loss, z, z + others, y, RISES, equal=False)
        _compare(loss, z, z + up[:1, :1].mean(), y, SHIFTED, equal=True)
    with suppress(TypeError):
        _passed.add(loss)


AWAY = "falls where the logit moves away from the label"
RISES = "falls where logits of other classes grow"
SHIFTED = "changes where a constant is added to all logits"


def _compare(loss: Loss, z: Tensor, worse: Tensor, y: Tensor, said: str, equal: bool) -> None:
    """Raise if a loss is lower, or not equal, at logits that are worse, or as good."""
    for i in range(len(z)):
        before, after = (float(loss(some[i : i + 1], y[i : i + 1]).sum()) for some in (z, worse))
        slack = ROUNDING * (1 + abs(before))
        if after < before - slack or (equal and after > before + slack):
            raise InputError(
                f"loss={brief(loss)} {said}: from {before:.4g} to {after:.4g} for label "
                f"{y[i].flatten()[0].item():g}. Its value at the worst logits is then no bound on "
                "the worst loss (thesis, Theorem 2). Losses of margins, such as cross_entropy, "
                "are of the right kind."
            )
