"""Which dual layer serves a node; if none does, why, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch

from autodual.duals import REGISTRY, DualLayer, Either, Registry
from autodual.duals.base import for_another
from autodual.errors import BatchError
from autodual.front.capture import WEIGHTS
from autodual.front.ir import Batch, Graph, Node, leaves


@dataclass(frozen=True)
class Match:
    """A node and the dual layer that serves it, or the reason why none does and a remedy."""

    node: Node
    rule: DualLayer | None
    reason: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.node.where}: {self.problem}"

    @property
    def problem(self) -> str:
        """The reason and the remedy."""
        return "; ".join(text for text in (self.reason, self.remedy) if text)


def match_all(graph: Graph, registry: Registry, intervals: bool) -> list[Match]:
    """Match every node that the perturbation reaches, and find what draws random numbers.

    ``intervals`` says whether ops that only intervals bound are allowed.

    Raises:
        BatchError: a value that does not belong to one example.
    """
    for node in graph.body:
        _check_apart(node, graph)
    nodes = [*filter(_is_random, graph.prelude), *graph.body]
    return [_match(node, graph, registry, intervals) for node in nodes]


def _match(node: Node, graph: Graph, registry: Registry, intervals: bool) -> Match:
    if _is_random(node):
        return Match(node, None, "random numbers have no bound", "call .eval()")
    dtype = graph.perturbed.dtype
    read = {v.dtype for v in node.inputs if v in graph.moving} - {dtype}
    if read:
        return Match(node, None, f"reads {', '.join(map(str, read))}", "see the op that gives it")
    if node.out.dtype != dtype:
        reason = f"gives {node.out.dtype}, the input is {dtype}"
        return Match(node, None, reason, REMEDIES.get(node.op, _in_dtype(node)))
    rule = registry.get(node.op)
    if rule is None:
        return Match(node, None, remedy=REMEDIES.get(node.op, _near(node.op, registry)))
    names = _arguments(node, graph)
    serving = rule.serving(names, node.args)
    if serving is None:
        return Match(node, None, *_misfit(node, rule, names))
    if serving.rough and not intervals:
        remedy = "certify(..., intervals=True) allows that, loosely and without a gradient"
        return Match(node, None, "only an interval bounds it", remedy)
    return Match(node, serving)


def _misfit(node: Node, rule: DualLayer | Either, names: list[str]) -> tuple[str, str]:
    """Return why a rule does not serve a call with these arguments perturbed, and a remedy."""
    expected: tuple[str, ...] = getattr(rule, "arguments", ())
    users = rule is not REGISTRY.get(node.op)
    if users and len(names) == len(expected) == 1 and tuple(names) != expected:
        reason, remedy = for_another(expected[0], names[0])
        return f"of a perturbed {names[0]}, but {reason}", remedy
    reason = f"of a perturbed {', '.join(names)} (not affine there)"
    if names == ["weight"]:
        return reason, WEIGHTS
    return reason, "make the other arguments constants, or give certify(rules=...) a dual layer"


def _is_random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


REMEDIES = {
    "aten.argmax.default": "return the logits and certify their margins",
    "aten._fft_r2c.default": "a DFT is linear: multiply by its constant cosines and sines",
}
"""What to write instead of ops that have no dual layer, where it is not another op."""


def _in_dtype(node: Node) -> str:
    """Return how to keep a value in the dtype of x."""
    if node.out.dtype.is_floating_point:
        return "keep what depends on x in the dtype of x, without autocast and casts"
    return "numbers and truth values that depend on x jump; use the tensors they are made from"


def _near(op: str, registry: Registry) -> str:
    """Return what to write instead of an op without a dual layer."""
    label = op.split(".")[1] if op.count(".") else op
    labels = {name.split(".")[1]: name for name in registry}
    near = [labels[name] for name in get_close_matches(label, labels, n=1, cutoff=0.75)]
    own = f'or add one: certify(rules={{"{op}": ...}}), see CONTRIBUTING.md'
    if near:
        return f"{near[0]} has a dual layer, if that would do; {own}"
    return f"write it with ops that have a dual layer, {own}"


def _arguments(node: Node, graph: Graph) -> list[str]:
    """Return the schema names of the arguments that hold something perturbed, once per place."""
    names = []
    for name, arg in node.args.items():
        moving = [v for v in leaves(arg) if v in graph.moving]
        names += [name] * (1 if isinstance(arg, list) and moving else len(moving))
    return names


SIZES = frozenset({"size", "shape"})
"""The arguments in which the batch size may stand: elsewhere it would be a number like others."""


def _check_apart(node: Node, graph: Graph) -> None:
    """Raise if a node's value, or a constant it reads, does not split into examples."""
    own = [v for v in node.inputs if v not in graph.moving and grows(v.shape)]
    lost = next((v for v in (node.out, *own) if v.batch_dim is None), None)
    numbers = [name for name, arg in node.args.items() if name not in SIZES and grows(arg)]
    if lost is not None or numbers:
        what = f"has {lost.type}" if lost else f"uses the batch size as its {numbers[0]}"
        raise BatchError(
            f"the examples of a batch are mixed at {node.source or node.out.name}: {node.label} "
            f"{what}. A bound holds for one example at a time: keep the batch dimension, and "
            "reduce over the others only."
        )


def grows(sizes: Any) -> bool:
    """Return whether the batch size stands among sizes or numbers."""
    if isinstance(sizes, list | tuple):
        return any(map(grows, sizes))
    return isinstance(sizes, Batch)
