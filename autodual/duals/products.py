"""Products of two perturbed matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from autodual.duals.affine import Affine
from autodual.duals.base import Call, DualLayer
from autodual.duals.relaxed import Choice, Product
from autodual.interval import Interval


@dataclass(frozen=True)
class MatrixProduct(DualLayer):
    """The dual layer of an op f(x, y) = Σ xᵢyⱼ, the sum over some pairs for each entry.

    With c the centers and r the radii of the boxes, f is a linear function and a rest:

        f(x, y) = f(x, c_y) + f(c_x, y) − f(c_x, c_y) + f(x − c_x, y − c_y).

    The rest lies within ±f(r_x, r_y), so that, with the transposes of f in each argument alone,

        ν_x = f(·, c_y)ᵀν,    ν_y = f(c_x, ·)ᵀν,    h = −f(c_x, c_y)ᵀν + f(r_x, r_y)ᵀ|ν|.

    Args:
        factor: the op with one argument perturbed.
        interval: interval arithmetic for the op with both perturbed.
    """

    factor: Affine
    interval: Callable[[Call, Interval, Interval], Interval]
    kind: ClassVar[str] = "product"

    def covers(self, names: Sequence[str], args: Mapping[str, Any]) -> bool:
        """Return whether both arguments are perturbed."""
        return len(names) == 2 and all(self.factor.covers([name], args) for name in names)

    def with_others_fixed(self) -> Affine:
        """Return the affine op in either argument."""
        return self.factor

    def relax(
        self,
        call: Call,
        *boxes: Interval,
        slopes: Choice | None = None,
        at: Sequence[Tensor] | None = None,
    ) -> Product:
        """Return the linear part about the boxes' centers, and its rest."""
        x, y = boxes
        return Product(call, (x.center, y.center), call(x.radius, y.radius), self.factor.transpose)

    def formula(self, out: str, variables: Sequence[str]) -> str:
        """Return ν_in and h."""
        pulled = f"{', '.join(variables)} += f(·, c)ᵀ{out}, f(c, ·)ᵀ{out}"
        return f"{pulled}, h = f(r, r)ᵀ|{out}| − f(c, c)ᵀ{out}"
