"""Tensors that stand for a model's own while it is recorded and its graph is looked over.

Fakes hold no numbers: they take no memory, and notice a model that looks at one. torch loads its
whole compiler for them, in more time than many a small question takes. A model of ours whose class
says that no number ever decides what it does runs on real tensors instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode


class Uncompiled:
    """A dispatch mode in which nothing is compiled: torch need not load its compiler for it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class Reals:
    """Copies in place of fakes; no mode."""

    def from_tensor(self, tensor: Tensor) -> Tensor:
        """Return what stands for a tensor."""
        return tensor.detach().clone()

    def __enter__(self) -> Reals:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def is_straight(model: nn.Module) -> bool:
    """Return whether a model's class says that no number decides what it does."""
    return getattr(type(model), "_autodual_straight", None) is True


def stand_ins(straight: bool) -> FakeTensorMode | Reals:
    """Return a mode in which tensors stand for real ones; those made in it may be used in it."""
    if straight:
        return Reals()
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)
