"""A bound as one straight line of tensor operations, for torch.compile."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from autodual.bound.module import BoundModule
from autodual.errors import InputError
from autodual.front.evaluate import entries
from autodual.front.ir import Value
from autodual.threat import Ball, ThreatModel


class CompiledBound:
    """Compiles ``bound.lower`` once for each shape of its inputs; takes seconds each time.

    Args:
        bound: a bound that selects nothing, so that its operations do not depend on data.
    """

    def __init__(self, bound: BoundModule) -> None:
        assert not bound.select
        self.bound = bound
        self._compiled: dict[Any, Callable[..., Tensor]] = {}

    def lower(self, inputs: Mapping[Value, Tensor], threat: ThreatModel, spec: Tensor) -> Tensor:
        """Return lower bounds [N, S] on C·z for the output z and the rows C of ``spec``."""
        env = entries(self.bound.plan.graph, self.bound.model, inputs)
        x = env[self.bound.plan.graph.perturbed]
        if not isinstance(threat, Ball) or threat.weights(x) is None:
            raise InputError(f"compile=True serves LinfBall, not {threat}; leave compile out")
        eps = torch.as_tensor(threat.eps, dtype=x.dtype, device=x.device).expand(len(x))
        tensors = [*env.values(), eps, *threat.domain_of(x), spec]
        bounded = threat.domain is not None
        key = (type(threat), bounded, *((t.shape, t.dtype, t.device) for t in tensors))
        if key not in self._compiled:
            with torch.no_grad():
                straight = make_fx(self._function(list(env), threat))(tensors)
            self._compiled[key] = torch.compile(straight, dynamic=False)
        return self._compiled[key](tensors)

    def _function(self, names: list[Value], threat: Ball) -> Callable[[list[Tensor]], Tensor]:
        """Return the bound as a function of all tensors that can change from call to call."""

        def function(tensors: list[Tensor]) -> Tensor:
            *values, eps, lo, hi, spec = tensors
            around = copy.copy(threat)
            around.eps = eps
            around.domain = None if threat.domain is None else (lo, hi)
            constants = self.bound.constants(dict(zip(names, values, strict=True)), len(eps))
            relaxed = self.bound.relax(constants, around, {}, seed=0)
            return relaxed.lower(self.bound.plan.graph.output, spec)

        return function
