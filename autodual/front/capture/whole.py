"""Modules and autograd Functions with a dual layer of their own are captured whole.

While the model is traced, a call of one is put between marks: ``enter`` on each tensor that goes
in, ``leave`` on the one that comes out. What lies between them then becomes a single node.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from autodual.errors import BatchError, CaptureError
from autodual.front.ir import Batch, Constant, Graph, Node, Parameter, Value, evaluate

Kind = type[nn.Module] | type[torch.autograd.Function] | OpOverload
"""What can be captured whole: calls of a class, and ops that would be taken apart."""

aten = torch.ops.aten
PLAIN = bool, int, float, str, tuple


def name_of(kind: Kind) -> str:
    """Return the name that its node's op has."""
    if isinstance(kind, OpOverload):
        return str(kind)
    return f"{kind.__module__}.{kind.__qualname__}"


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Return a module's own numbers, flags, texts and tuples, by name."""
    found = {k: v for k, v in vars(module).items() if not k.startswith("_")}
    return {k: v for k, v in found.items() if isinstance(v, PLAIN) and k != "training"}


def _enter(z: Tensor, call: int, name: str) -> Tensor:
    return z.clone()


def _leave(z: Tensor, call: int) -> Tensor:
    return z.clone()


def _mark(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    mark = torch.library.custom_op(f"autodual::{name}", function, mutates_args=())
    mark.register_fake(lambda z, *rest: torch.empty_like(z))
    return cast(Callable[..., Tensor], mark)


enter, leave = _mark("enter", _enter), _mark("leave", _leave)
ENTER, LEAVE = "autodual.enter.default", "autodual.leave.default"


@dataclass(frozen=True)
class Site:
    """One call of a class that is captured whole.

    Attributes:
        op: the class's name.
        args: the module's attributes, then what it is given, in the order of its signature;
            None stands for tensors.
        names: what the module calls its parameters and buffers, by their names in the model.
    """

    op: str
    args: Mapping[str, Any]
    names: Mapping[str, str]


def same_sites(two: list[Site], three: list[Site]) -> None:
    """Raise unless the calls of a batch of 2 are given the same numbers as those of 3.

    Raises:
        BatchError: which is not.
    """
    for a, b in zip(two, three, strict=False):
        if (a.op, _plain(a.args)) != (b.op, _plain(b.args)):
            raise BatchError(
                f"rules give {a.op} a dual layer, but what it is given changes with the batch "
                f"size: {dict(a.args)} and then {dict(b.args)}. Let it read sizes from its tensors."
            )


def _plain(args: Mapping[str, Any]) -> Any:
    return pytree.tree_map_only(Tensor, lambda tensor: None, dict(args))


@contextmanager
def marked(model: nn.Module, kinds: Iterable[Kind]) -> Iterator[list[Site]]:
    """Mark every call of these classes; yields the list of sites that tracing fills.

    Only instances of the very class count: a subclass may compute something else, and so may
    one whose forward was replaced.

    Raises:
        CaptureError: a class that does more than give one new tensor.
    """
    sites: list[Site] = []
    views: list[View] = []
    classes = [kind for kind in kinds if isinstance(kind, type)]
    functions = {k: k.forward for k in classes if issubclass(k, torch.autograd.Function)}
    with ExitStack() as stack:
        for module in model.modules():
            kind = type(module)
            if kind in classes and "forward" not in vars(module):
                site = Site(name_of(kind), plain_attributes(module), _names_in(model, module))
                module.forward = _around(sites, views, site, module.forward)
                stack.callback(delattr, module, "forward")
        for function, forward in functions.items():
            skip = int(function.setup_context is torch.autograd.Function.setup_context)
            around = _around(sites, views, Site(name_of(function), {}, {}), forward, skip)
            if "forward" in vars(function):
                stack.callback(setattr, function, "forward", vars(function)["forward"])
            else:
                stack.callback(delattr, function, "forward")
            function.forward = staticmethod(around)  # type: ignore[method-assign]
        yield sites
        for view in views:
            view.check()


@dataclass(frozen=True, eq=False)
class View:
    """A result that shares memory with an argument: in the graph it is a copy.

    ``tensors`` are both, as the model sees them, ``versions`` how often each had been written to.
    """

    op: str
    tensors: tuple[Tensor, Tensor]
    versions: tuple[int, int]

    def check(self) -> None:
        """Raise if either was written to since: the other would have changed with it."""
        if tuple(t._version for t in self.tensors) != self.versions:
            raise CaptureError(
                f"rules give {self.op} a dual layer, but its result is a view of its argument, "
                "and one of them is changed in place later. Return a copy, with .clone()."
            )


def _around(
    sites: list[Site],
    views: list[View],
    site: Site,
    forward: Callable[..., Any],
    skip: int = 0,
) -> Callable[..., Tensor]:
    """Return ``forward`` between marks; ``skip`` says how many arguments are none of its own."""
    signature = inspect.signature(forward)

    @functools.wraps(forward)
    def around(*args: Any, **kwargs: Any) -> Tensor:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        call, given = len(sites), list(bound.arguments.items())[skip:]
        plain = {k: None if isinstance(v, Tensor) else v for k, v in given}
        sites.append(replace(site, args={**site.args, **plain}))
        tensors = {name: value for name, value in given if isinstance(value, Tensor)}
        entered = {name: enter(value, call, name) for name, value in tensors.items()}
        versions = [z._version for z in entered.values()]
        bound.arguments.update(entered)
        result = forward(*bound.args, **bound.kwargs)
        if not isinstance(result, Tensor):
            raise CaptureError(
                f"rules give {site.op} a dual layer, but it returns a {type(result).__name__}. A "
                "dual layer is for one tensor: leave it out of rules, or split it."
            )
        if versions != [z._version for z in entered.values()]:
            raise CaptureError(
                f"rules give {site.op} a dual layer, but it changes its argument in place. A dual "
                "layer is for what it returns: write it without in-place ops."
            )
        left = leave(result, call)
        for name, z in entered.items():
            if z.untyped_storage()._cdata == result.untyped_storage()._cdata:
                pair = tensors[name], left
                views.append(View(site.op, pair, (pair[0]._version, pair[1]._version)))
        return left

    return around


def _names_in(model: nn.Module, module: nn.Module) -> dict[str, str]:
    """Return the names of a module's tensors, by each of their names in the model."""
    own = {id(t): name for name, t in _tensors(module)}
    return {name: own[id(t)] for name, t in _tensors(model) if id(t) in own}


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    parameters = module.named_parameters(remove_duplicate=False)
    return [*parameters, *module.named_buffers(remove_duplicate=False)]


@dataclass(frozen=True, eq=False)
class Whole:
    """Several nodes as one function. ``inputs`` are the values its arguments stand for, in order.

    Arguments that the nodes do not read have None.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Value | None, ...]
    out: Value

    def __call__(self, *args: Any) -> Tensor:
        """Compute the result for as many examples as the arguments have."""
        pairs = zip(self.inputs, args, strict=True)
        env: dict[Value, Tensor] = {v: arg for v, arg in pairs if v is not None}
        batch = next((n for n in map(_examples, env, env.values()) if n), 1)
        for node in self.nodes:
            env[node.out] = evaluate(node, env, batch)
        return env[self.out]


def _examples(value: Value, tensor: Tensor) -> int:
    if value.batch_dim is None:
        return 0
    dim = value.shape[value.batch_dim]
    assert isinstance(dim, Batch)
    return tensor.shape[value.batch_dim] // dim.multiple


def fold(graph: Graph, sites: list[Site]) -> Graph:
    """Make each marked call one node; what leaves it by other ways than its result is copied."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op == LEAVE:
            node = _folded(node, sites[node.args["call"]], nodes, graph)
        nodes.append(node)
    return replace(graph, nodes=tuple(_unmarked(node) for node in nodes))


def _folded(leaving: Node, site: Site, before: list[Node], graph: Graph) -> Node:
    """Return the node for all that leads from the marks of a call to its result.

    What draws random numbers is no function: it stays in parts, for ``match`` to refuse.
    """
    call, result = leaving.args["call"], leaving.args["z"]
    producers = {n.out: n for n in before}
    body, args, inputs = set[Value](), dict(site.args), dict[str, Value]()
    open_values = [result]
    while open_values:
        value = open_values.pop()
        node = producers.get(value)
        if value == graph.perturbed:
            raise CaptureError(
                f"rules give {site.op} a dual layer, but it reads what depends on x in a list, a "
                "dict or an attribute. Pass it each tensor as an argument of its own."
            )
        if node is None:
            name = _name(value, graph.constants.get(value), site)
            args[name], inputs[name] = value, value
        elif node.op == ENTER and node.args["call"] == call:
            name = node.args["name"]
            args[name], inputs[name] = node.args["z"], value
        elif value not in body:
            body.add(value)
            open_values += node.inputs
    nodes = tuple(n for n in before if n.out in body)
    if any(torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ()) for n in nodes):
        return leaving
    whole = Whole(tuple(map(_unmarked, nodes)), tuple(inputs.get(k) for k in args), result)
    return Node(leaving.out, site.op, whole, args, None, leaving.source)


def _name(value: Value, constant: Constant | None, site: Site) -> str:
    """Return a parameter's name within its module; the value's own if it is none or taken."""
    if not isinstance(constant, Parameter):
        return value.name
    name = site.names.get(constant.name, constant.name)
    return value.name if name in site.args else name


def _unmarked(node: Node) -> Node:
    if node.op not in (ENTER, LEAVE):
        return node
    op = aten.clone.default
    args = {"self": node.args["z"], "memory_format": None}
    return replace(node, op=str(op), target=op, args=args)
