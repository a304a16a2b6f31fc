"""Random samples that travel forward through the linearised network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from autodual.duals import Affine
from autodual.errors import InputError
from autodual.ir import Value
from autodual.network import DualNetwork
from autodual.plan import Step

Noise = Callable[[tuple[int, ...]], Tensor]


class Projection:
    """r samples of the deviation from z⁰ at every value of a dual network with parallel lines.

    Samples have the shape [N or 1, r, *size(1)]; all examples share their noise.

    Args:
        network: the network; it may grow while samples travel.
        start: samples at the input, or None for none.
        noise: draws what is added after elementwise ops, scaled by r; None for nothing.
        count: r.
    """

    def __init__(
        self, network: DualNetwork, start: Tensor | None, noise: Noise | None, count: int
    ) -> None:
        self.network, self.noise, self.count = network, noise, count
        self.samples: dict[Value, Tensor | None] = {network.plan.graph.perturbed: start}

    def extend(self, step: Step) -> None:
        """Push the samples through one step, and forget those that no later step reads."""
        if isinstance(step.rule, Affine):
            self.samples[step.out] = self._affine(step)
        else:
            self.samples[step.out] = self._elementwise(step)
        for value in self.network.plan.last_reads.get(step.out, ()):
            self.samples.pop(value, None)

    def run(self, target: Value) -> Tensor | None:
        """Push the samples from the input to ``target`` and return them there."""
        for step in reversed(self.network.plan.upstream[target]):
            self.extend(step)
        return self.samples[target]

    def _affine(self, step: Step) -> Tensor | None:
        """Push through the linear part of an op: f(δ) − f(0)."""
        assert isinstance(step.rule, Affine)
        given = [self.samples[v] for v in step.variables]
        known = [g for g in given if g is not None]
        if not known:
            return None
        batch = self.network.batch if step.own else max(map(len, known))
        like = known[0].new_zeros(())
        rows = batch * self.count
        inputs = [
            v.in_layout(
                like.expand(rows, *v.size(1))
                if g is None
                else g.expand(batch, *g.shape[1:]).flatten(0, 1)
            )
            for v, g in zip(step.variables, given, strict=True)
        ]
        call, constant = step.rule.linear_part(step.call(self._repeated(step), rows))
        out = step.out.per_example(call(*inputs), rows)
        if constant:
            out = out - self._at_zero(step, batch)
        return out.unflatten(0, (batch, self.count))

    def _at_zero(self, step: Step, batch: int) -> Tensor:
        """Return f(0), [1 or N·r, *size(1)]."""
        constants = self.network.constants
        count = batch if step.own else 1
        zeros = [self.network.x.new_zeros(v.size(count)) for v in step.variables]
        value = step.out.per_example(step.call(constants.env, count)(*zeros), count)
        return value.repeat_interleave(self.count, 0) if step.own else value

    def _repeated(self, step: Step) -> Mapping[Value, Tensor]:
        """Return the constants with each example's own ones r times."""
        constants = self.network.constants
        own = {v: v.in_layout(constants.own(v).repeat_interleave(self.count, 0)) for v in step.own}
        return {**constants.env, **own}

    def _elementwise(self, step: Step) -> Tensor | None:
        lines, radius = self.network.lines[step.out], self.network.radius[step.out]
        given = self.samples[step.variables[0]]
        if lines is not None and not lines.are_parallel:
            raise InputError(
                f"{step.node.label} at {step.node.source}: projections need parallel lines; "
                "use estimator=Exact()"
            )
        out = None if lines is None or given is None else given * lines.lower_slope.unsqueeze(1)
        if self.noise is None:
            return out
        noise = self.noise((1, self.count, *radius.shape[1:]))
        spread = radius.unsqueeze(1)
        return noise * spread if out is None else torch.addcmul(out, noise, spread)
