"""Fourier transforms and complex numbers, as the real matrices and pairs of reals that they are.

A complex value is carried as its real and its imaginary part. A transform of length n along a
dimension multiplies by cosines and sines of 2πkt/n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from autodual.front.ir import Graph, Node, Value, map_leaves
from autodual.front.passes.dead_code import remove_dead_code
from autodual.front.passes.rewrite import Emit, substitute

aten = torch.ops.aten

Pair = tuple[Value, Value | None]
"""Real and imaginary part; None where that is 0."""

Parts = Callable[[Any], Any]
"""Gives the ``Pair`` of a value or number."""

ENTRYWISE = frozenset(
    {
        "aten.alias.default",
        "aten.clone.default",
        "aten.reshape.default",
        "aten.permute.default",
        "aten.transpose.int",
        "aten.slice.Tensor",
        "aten.select.int",
        "aten.unsqueeze.default",
        "aten.squeeze.default",
        "aten.squeeze.dim",
        "aten.squeeze.dims",
        "aten.expand.default",
        "aten.roll.default",
        "aten.flip.default",
        "aten.index_select.default",
        "aten.cat.default",
        "aten.stack.default",
        "aten.neg.default",
    }
)
"""These treat both parts alike and mix neither with the other."""


def _waves(n: int, like: Value) -> tuple[Tensor, Tensor]:
    """Return cos 2πkt/n and sin 2πkt/n for k, t < n."""
    turns = torch.outer(torch.arange(n), torch.arange(n)) % n
    angles = 2 * math.pi * turns.to(torch.float64) / n
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _along(emit: Emit, x: Value, matrix: Tensor, dim: int) -> Value:
    """Multiply by a matrix [n, m] along a dimension."""
    turned = emit(aten.transpose.int, x, dim, -1)
    product = emit(aten.matmul.default, turned, emit.literal(matrix))
    return emit(aten.transpose.int, product, dim, -1)


def _transform(emit: Emit, pair: Pair, dim: int, forward: bool) -> Pair:
    """Multiply by exp(∓2πi kt/n) along a dimension: − forward, + backward."""
    re, im = pair
    n = re.shape[dim]
    assert isinstance(n, int)
    cosines, sines = _waves(n, re)
    sines = -sines if forward else sines
    real, imaginary = _along(emit, re, cosines, dim), _along(emit, re, sines, dim)
    if im is None:
        return real, imaginary
    real = emit(aten.sub.Tensor, real, _along(emit, im, sines, dim))
    return real, emit(aten.add.Tensor, imaginary, _along(emit, im, cosines, dim))


def _scale(emit: Emit, pair: Pair, mode: int, sizes: Sequence[int]) -> Pair:
    """Divide by √n (mode 1) or n (mode 2) for n entries transformed."""
    if mode == 0:
        return pair
    factor = math.prod(sizes) ** (-0.5 if mode == 1 else -1.0)
    re, im = (None if part is None else emit(aten.mul.Scalar, part, factor) for part in pair)
    assert re is not None
    return re, im


def _sizes(shape: Sequence[Any], dims: Sequence[int]) -> list[int] | None:
    sizes = [shape[d] for d in dims]
    return sizes if all(isinstance(size, int) for size in sizes) else None


def _to_complex(emit: Emit, node: Node, parts: Parts) -> Pair | None:
    """From real or complex values to complex ones."""
    x, dims = node.args["self"], node.args["dim"]
    sizes = _sizes(x.shape, dims)
    if sizes is None:
        return None
    pair = parts(x)
    for dim in dims:
        pair = _transform(emit, pair, dim, node.args.get("forward", True))
    if node.args.get("onesided"):
        last, length = dims[-1], node.out.shape[dims[-1]]
        pair = tuple(emit(aten.slice.Tensor, p, last, 0, length) for p in pair)
    return _scale(emit, pair, node.args["normalization"], sizes)


def _to_real(emit: Emit, node: Node, parts: Parts) -> Value | None:
    """From half of a spectrum whose other half is its conjugate to real values."""
    dims, n = node.args["dim"], node.args["last_dim_size"]
    sizes = _sizes(node.out.shape, dims)
    if sizes is None:
        return None
    re, im = parts(node.args["self"])
    for dim in dims[:-1]:
        re, im = _transform(emit, (re, im), dim, forward=False)
    assert im is not None
    half = n // 2 + 1
    twice = torch.full((half, 1), 2.0, dtype=re.dtype)
    twice[0] = 1
    twice[half - 1 :] = 1 if n % 2 == 0 else twice[half - 1 :]
    cosines, sines = (twice * wave[:half] for wave in _waves(n, re))
    one, other = _along(emit, re, cosines, dims[-1]), _along(emit, im, sines, dims[-1])
    pair = emit(aten.sub.Tensor, one, other), None
    return _scale(emit, pair, node.args["normalization"], sizes)[0]


def _product(emit: Emit, a: Pair, b: Pair) -> Pair:
    """(a + bi)(c + di) = ac − bd + (ad + bc)i."""

    def times(p: Any, q: Any) -> Value | None:
        return None if p is None or q is None else emit(aten.mul.Tensor, p, q)

    real, squares = times(a[0], b[0]), times(a[1], b[1])
    assert real is not None
    real = real if squares is None else emit(aten.sub.Tensor, real, squares)
    one, other = times(a[0], b[1]), times(a[1], b[0])
    if one is None or other is None:
        return real, one or other
    return real, emit(aten.add.Tensor, one, other)


def _complex(emit: Emit, node: Node, parts: Parts) -> Pair | None:
    """Return the parts of a complex value, or None if its op is not known."""
    args, op = node.args, cast(Any, node.target)
    if node.op in ("aten._fft_r2c.default", "aten._fft_c2c.default"):
        return _to_complex(emit, node, parts)
    if node.op == "aten.mul.Tensor":
        return _product(emit, parts(args["self"]), parts(args["other"]))
    if node.op in ("aten.div.Tensor", "aten.div.Scalar", "aten.mul.Scalar"):
        if isinstance(args["other"], complex) or _is_complex(args["other"]):
            return None
        re, im = parts(args["self"])
        return emit(op, re, args["other"]), None if im is None else emit(op, im, args["other"])
    if node.op in ("aten.add.Tensor", "aten.sub.Tensor"):
        (a, b), (c, d) = parts(args["self"]), parts(args["other"])
        if b is None or d is None:
            return None
        return emit(op, a, c, args["alpha"]), emit(op, b, d, args["alpha"])
    if node.op == "aten._to_copy.default" and args["dtype"] == node.out.dtype:
        pair = parts(args["self"])
        return pair if pair[0].dtype.to_complex() == node.out.dtype else None
    if node.op in ("aten._conj.default", "aten.conj_physical.default"):
        re, im = parts(args["self"])
        return re, None if im is None else emit(aten.neg.default, im)
    if node.op == "aten.view_as_complex.default":
        re, im = (emit(aten.select.int, args["self"], -1, k) for k in range(2))
        return re, im
    if node.op == "aten.complex.default":
        return args["real"], args["imag"]
    if node.op not in ENTRYWISE:
        return None
    return _entrywise(emit, node, parts)


def _entrywise(emit: Emit, node: Node, parts: Parts) -> Pair | None:
    """Run the op on both parts."""
    complexes = [v for v in node.inputs if _is_complex(v)]
    if any(parts(v)[1] is None for v in complexes):
        return None

    def given(k: int) -> list[Any]:
        def leaf(v: Any) -> Any:
            return parts(v)[k] if _is_complex(v) else v

        return [map_leaves(arg, leaf) for arg in node.args.values()]

    op: Any = node.target
    return emit(op, *given(0), index=node.index), emit(op, *given(1), index=node.index)


def _is_complex(leaf: Any) -> bool:
    return isinstance(leaf, Value) and leaf.dtype.is_complex


def _real(emit: Emit, node: Node, parts: Parts) -> Value | None:
    """Return a real value that is made of complex ones, or None if its op is not known."""
    if node.op == "aten._fft_c2r.default":
        return _to_real(emit, node, parts)
    if node.op not in ("aten.view_as_real.default", "aten.abs.default", "aten.real.default"):
        return _imaginary(emit, node, parts)
    re, im = parts(node.args["self"])
    if node.op == "aten.real.default":
        return emit(aten.clone.default, re)
    if im is None:
        return None
    if node.op == "aten.view_as_real.default":
        return emit(aten.stack.default, [re, im], -1)
    squares = [emit(aten.pow.Tensor_Scalar, part, 2) for part in (re, im)]
    return emit(aten.sqrt.default, emit(aten.add.Tensor, *squares))


def _imaginary(emit: Emit, node: Node, parts: Parts) -> Value | None:
    im = parts(node.args["self"])[1] if node.op == "aten.imag.default" else None
    return None if im is None else emit(aten.clone.default, im)


def pair_complex(graph: Graph) -> Graph:
    """Rewrite complex values that the perturbation reaches as pairs of real ones."""
    if not any(v.dtype.is_complex for v in graph.moving):
        return graph
    pairs: dict[Value, Pair] = {}
    nodes: list[Node] = []
    literals: dict[Value, Any] = {}
    for node in graph.nodes:
        emit = Emit(node, graph)

        def parts(value: Any, emit: Emit = emit) -> Any:
            if isinstance(value, complex):
                return value.real, value.imag
            if not isinstance(value, Value) or not value.dtype.is_complex:
                return value, None
            if value not in pairs:  # a constant, or unknown: read at run time
                both = emit(aten.view_as_real.default, value)
                re, im = (emit(aten.select.int, both, -1, k) for k in range(2))
                pairs[value] = re, im
            return pairs[value]

        reads = any(map(_is_complex, node.inputs)) or node.out.dtype.is_complex
        found: Value | None = None
        if node.out in graph.moving and node.out.dtype.is_complex:
            pair = _complex(emit, node, parts)
            if pair is not None:
                pairs[node.out] = pair
        elif node.out in graph.moving and reads:
            found = _real(emit, node, parts)
        literals |= emit.literals
        if found is None:
            nodes += [*emit.nodes, node]
        else:
            named = {found: node.out}
            nodes += [substitute(n, named, named.get(n.out, n.out)) for n in emit.nodes]
    constants = {**graph.constants, **literals}
    return remove_dead_code(replace(graph, nodes=tuple(nodes), constants=constants))
