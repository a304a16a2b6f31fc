"""Margins of a batch as a batch: picked from, joined, moved, written down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from autodual.errors import InputError

Self = TypeVar("Self", bound="Margins")

DTYPES = torch.float32, torch.float64


@dataclass(frozen=True, eq=False)
class Margins:
    """Margins of N examples, what they are margins of, and what should be said beside them.

    ``result[3:5]``, ``result[mask]`` and ``result[7]`` are results again, of some examples.
    """

    margins: Tensor
    labels: Tensor | None
    threat: str
    bounds: str
    eps: Tensor | None = field(default=None, kw_only=True)
    over_budget: tuple[str, ...] = field(default=(), kw_only=True)
    remarks: tuple[str, ...] = field(default=(), kw_only=True)

    def __len__(self) -> int:
        return len(self.margins)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    def __getitem__(self: Self, index: Any) -> Self:
        """Return the result of some examples: by number, slice, mask [N] or list."""
        if isinstance(index, tuple) or index is None or index is Ellipsis:
            raise InputError(
                f"a {type(self).__name__} is indexed by examples alone; for classes index "
                f"{type(self).__name__.lower()}.margins"
            )
        which = torch.arange(len(self), device=self.margins.device)[index].reshape(-1)
        return self._map(lambda tensor: tensor[which])

    @classmethod
    def cat(cls: type[Self], parts: Iterable[Self]) -> Self:
        """Join the results of several batches, which must be of one kind, set and method.

        Raises:
            InputError: there is none, or they are not.
        """
        parts = list(parts)
        if not parts or any(type(part) is not cls for part in parts):
            kinds = ", ".join(dict.fromkeys(type(part).__name__ for part in parts)) or "nothing"
            raise InputError(f"{cls.__name__}.cat joins a list of {cls.__name__}s, not {kinds}")
        for what in ("threat", "bounds"):
            said = list(dict.fromkeys(getattr(part, what) for part in parts))
            if len(said) > 1:
                raise InputError(
                    f"results for {what} {said[0]} and {said[1]} do not say the same: join them "
                    "apart"
                )
        alike = {
            (p.margins.shape[1:], p.margins.dtype, p.labels is None, p.eps is None) for p in parts
        }
        if len(alike) > 1:
            raise InputError("results of other shapes, dtypes or kinds of questions cannot join")
        return replace(
            parts[0],
            margins=torch.cat([part.margins for part in parts]),
            labels=_joined(part.labels for part in parts),
            eps=_joined(part.eps for part in parts),
            over_budget=tuple(dict.fromkeys(v for part in parts for v in part.over_budget)),
            remarks=tuple(dict.fromkeys(r for part in parts for r in part.remarks)),
            **cls._joined(parts),
        )

    @classmethod
    def _joined(cls: type[Self], parts: Sequence[Self]) -> dict[str, Any]:
        """Return what else holds of all examples together."""
        raise NotImplementedError

    def to(
        self: Self,
        device: torch.device | str | int | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Return the result on another device, or in float32 or float64.

        Margins are rounded down, so that they bound whatever they bounded.

        Raises:
            InputError: another dtype.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype not in (None, *DTYPES):
            raise InputError(f"margins in {dtype} would say little: use float32 or float64")
        moved = self._map(lambda tensor: tensor.to(device))
        return moved if dtype is None else replace(moved, margins=_down(moved.margins, dtype))

    def cpu(self: Self) -> Self:
        """Return the result on the CPU."""
        return self.to("cpu")

    def detach(self: Self) -> Self:
        """Return the result without gradients."""
        return self._map(Tensor.detach)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, which ``torch.save`` and ``torch.load`` take as they are."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"kind": type(self).__name__, **own}

    @classmethod
    def from_dict(cls: type[Self], data: Mapping[str, Any]) -> Self:
        """Return what ``to_dict`` wrote.

        Raises:
            InputError: it wrote something else.
        """
        given = dict(data) if isinstance(data, Mapping) else {}
        kind, names = given.pop("kind", None), {field.name for field in fields(cls)}
        if kind != cls.__name__ or given.keys() != names:
            raise InputError(
                f"this is no {cls.__name__} but {kind or 'something else'} with "
                f"{', '.join(map(str, given)) or 'nothing'}; to_dict() gives what from_dict takes"
            )
        return cls(**given)

    def _map(self: Self, f: Callable[[Tensor], Tensor]) -> Self:
        """Apply ``f`` to all tensors."""
        labels, eps = (None if each is None else f(each) for each in (self.labels, self.eps))
        return replace(self, margins=f(self.margins), labels=labels, eps=eps)


def _joined(parts: Iterable[Tensor | None]) -> Tensor | None:
    """Return tensors as one, None where there are none."""
    given = [part for part in parts if part is not None]
    return torch.cat(given) if given else None


def _down(margins: Tensor, dtype: torch.dtype) -> Tensor:
    """Round down to a dtype."""
    near = margins.to(dtype)
    lower = torch.nextafter(near, torch.full_like(near, -torch.inf))
    return torch.where(near.to(margins.dtype) > margins, lower, near)
