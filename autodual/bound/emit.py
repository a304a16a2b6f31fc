"""The bound as one straight line of tensor operations: to print, differentiate, compile, export.

Control flow of the bound depends on the plan and on shapes alone where nothing is selected, so
that one trace holds for all inputs of these shapes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from autodual.bound.estimators import Exact
from autodual.bound.module import Ask, BoundModule, Env, least
from autodual.errors import InputError
from autodual.front.ir import Parameter, Value
from autodual.threat import Ball, L2Ball, LinfBall, ThreatModel

Line = Callable[..., Tensor]

FEW, TIMES = 4, 64
"""Up to how many examples the calls of operations take longer than their work, and after how many
bounds of these it pays to draw a straight line."""


def trace(
    bound: BoundModule,
    names: Sequence[Value],
    threat: Ball,
    tensors: Sequence[Tensor],
    ask: Ask = least,
) -> fx.GraphModule:
    """Return the bound's answer to a question as a function of all tensors that it reads.

    Args:
        bound: a bound that selects nothing.
        names: the values that the first tensors are, all that the graph is given.
        threat: the kind of ball, and whether it has a domain.
        tensors: those values, ε [N], the domain's ends where there is one, the question.
        ask: what is asked; the question is C [N or 1, S, K] for lower bounds.
    """
    assert not bound.options.select

    def line(*given: Tensor) -> Tensor:
        values, (eps, *ends, question) = given[: len(names)], given[len(names) :]
        around = copy.copy(threat)
        around.eps = eps
        around.domain = (ends[0], ends[1]) if ends else None
        return bound.ask(dict(zip(names, values, strict=True)), around, question, ask)

    with torch.no_grad():
        return make_fx(line)(*tensors)


def serves(threat: ThreatModel) -> bool:
    """Return whether a straight line can be drawn for a set: an ℓ∞ or an ℓ2 ball, none like it."""
    return type(threat) in (LinfBall, L2Ball)


def inputs_of(threat: ThreatModel, x: Tensor) -> list[Tensor]:
    """Return ε [N] and the domain's ends.

    Raises:
        InputError: the set is no ball that a straight line serves.
    """
    if not serves(threat):
        raise InputError(
            f"a straight line serves LinfBall and L2Ball, not {threat}; leave compile= or emit out"
        )
    assert isinstance(threat, Ball)
    eps = threat.radius(x).flatten().expand(len(x))
    return [eps, *([] if threat.domain is None else threat.domain_of(x))]


class Lines:
    """A bound by straight lines, one for each shape of its inputs.

    Args:
        bound: the bound; its lines select nothing.
        after: how many calls of a shape are served by the bound itself before a line is drawn,
            which takes a second or less, and as many as it takes to pay.
        compile: run the lines through torch.compile, which takes seconds to minutes each.
    """

    def __init__(self, bound: BoundModule, after: int, compile: bool) -> None:
        self.bound, self.after, self.compile = bound, after, compile
        options = replace(bound.options, select=False)
        self.whole = BoundModule(bound.plan, options, bound.plan.graph.device)
        self._calls: dict[Hashable, int] = {}
        self._lines: dict[Hashable, Line | None] = {}

    def lower(self, env: Env, threat: ThreatModel, spec: Tensor) -> Tensor:
        """Return lower bounds [N, S] on C·z for the output z and the rows C of ``spec``."""
        return self.ask(env, threat, spec, least)

    def ask(self, env: Env, threat: ThreatModel, question: Tensor, ask: Ask) -> Tensor:
        """Return what the bound answers to a question [N, *] about the output."""
        x = env[self.bound.plan.graph.perturbed]
        given = [[*env.values(), *inputs_of(member, x), question] for member in threat.members]
        pairs = zip(threat.members, given, strict=True)
        lines = [self._line(list(env), member, tensors, ask) for member, tensors in pairs]
        drawn = [
            line(*tensors) for line, tensors in zip(lines, given, strict=True) if line is not None
        ]
        if len(drawn) < len(lines):
            return self.bound.ask(env, threat, question, ask)
        return reduce(torch.minimum, drawn)

    def _line(
        self, names: Sequence[Value], threat: ThreatModel, tensors: Sequence[Tensor], ask: Ask
    ) -> Line | None:
        """Return the line that serves tensors of these shapes, if there is one by now."""
        assert isinstance(threat, Ball)
        bounded = threat.domain is not None
        key = (ask, type(threat), bounded, *((t.shape, t.dtype, t.device) for t in tensors))
        if key not in self._lines:
            calls = self._calls[key] = self._calls.get(key, 0) + 1
            if calls <= self.after:
                return None
            self._lines[key] = self._draw(names, threat, tensors, ask)
        return self._lines[key]

    def _draw(
        self, names: Sequence[Value], threat: Ball, tensors: Sequence[Tensor], ask: Ask
    ) -> Line | None:
        """Return a line; None where an op looks at data, unless a compiled one is asked for."""
        try:
            line: Line = trace(self.whole, names, threat, tensors, ask)
        except RuntimeError:
            if self.compile:
                raise
            return None
        return torch.compile(line, dynamic=False) if self.compile else line


def quickest(bound: BoundModule, x: Tensor, threat: ThreatModel) -> BoundModule | Lines:
    """Return what answers soonest, with the same result: the bound, or its straight lines.

    These serve where they are asked for, and few examples whose intervals need no rows.
    """
    compile, exact = bound.options.compile, type(bound.options.estimator) is Exact
    few = len(x) <= FEW and not torch.is_grad_enabled() and not x.is_cuda
    exact = exact and bound.plan.rounding is None
    alike = exact and not bound.plan.method.rows and bound.options.optimize is None
    if not (compile or (few and alike and all(map(serves, threat.members)))):
        return bound
    if bound.straight is None:
        bound.straight = Lines(bound, after=0 if compile else TIMES, compile=compile)
    assert isinstance(bound.straight, Lines)
    return bound.straight


def emit(
    bound: BoundModule,
    model: nn.Module,
    env: Mapping[Value, Tensor],
    threat: ThreatModel,
    spec: Tensor,
) -> fx.GraphModule:
    """Return the module (inputs…, ε, C) → lower bounds [N, S], over the model's own parameters.

    Args:
        bound: a bound that selects nothing.
        model: whose parameters become attributes of the result, under their own names.
        env: all that the graph is given, for the shapes that the module is for.
        threat: an ℓ∞ or ℓ2 ball; its domain is written into the module.
        spec: C [N or 1, S, K], for its shape.
    """
    x = env[bound.plan.graph.perturbed]
    eps, *ends = inputs_of(threat, x)
    assert isinstance(threat, Ball)
    line = trace(bound, list(env), threat, [*env.values(), eps, *ends, spec])
    graph, constants = line.graph, bound.plan.graph.constants
    root = _Holder(model)
    values: list[Value | str] = [*env, "eps", *(["low", "high"] if ends else []), "C"]
    held: dict[str, Tensor] = dict(zip(("low", "high"), ends, strict=False))
    for node, value in zip(graph.find_nodes(op="placeholder"), values, strict=True):
        constant = constants.get(value) if isinstance(value, Value) else None
        name = value.name if isinstance(value, Value) else value
        if constant is None and name not in held:
            node.target = name
            continue
        if isinstance(constant, Parameter):
            target = constant.name
        else:
            tensor = held[name] if constant is None else constant.tensor
            target = root.hold(f"constant_{name}", tensor)
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.create_node("get_attr", target))
        graph.erase_node(node)
    module = fx.GraphModule(root, graph, "Bound")
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


class _Holder(nn.Module):
    """Gives a graph module the model's parameters, by their names, and constants beside them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.__dict__["_model"] = model

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__.get("_buffers", {})
        return own[name] if name in own else getattr(self.__dict__["_model"], name)

    def hold(self, name: str, tensor: Tensor) -> str:
        """Keep a constant under a name of its own, and return that."""
        clean = name.replace(".", "_")
        self.register_buffer(clean, tensor, persistent=False)
        return clean
