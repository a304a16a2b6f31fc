"""A certificate as a file: a network, sets, and rows with what the checker proves of them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autodual.errors import GraphError, InputError
from autodual.files import replacing
from autodual.front.evaluate import run
from autodual.front.ir import Graph, Value
from autodual.front.passes.pairwise import pairwise
from autodual.labels import Classes
from autodual.proof.network import Entries, Translated, evaluated, numbers
from autodual.proof.translate import translate
from autodual.proof.trees import Claim, Part, grown, listed
from autodual.threat import Box, L1Ball, L2Ball, LinfBall, ThreatModel
from autodual_check.checking import Bounds, Proof
from autodual_check.reading import MAGIC, Unproved

UNIT, DUAL = 30, 22
"""Values are whole numbers in units of 2^-UNIT, dual variables of 2^-DUAL, where these fit."""

SLACK = 2.0**-20
"""How much smaller than derived a margin is claimed, relatively: what is bounded together with
others is rounded with them, and another version may put others together."""


def write(
    path: str | Path,
    graph: Graph,
    env: Mapping[Value, Tensor],
    x: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    verified: Tensor,
    free: bool,
    tight: bool,
    seconds: float,
    most: int,
) -> None:
    """Write a proof of margins for labels.

    The checker's own derivation decides what is claimed. All examples go the cheapest way that
    proves them: with rows for no node, for one, for all; with equal slopes, and with free ones.
    What is open then gets slopes of its own for each class, and is cut by the signs of units.

    Args:
        path: the file, which is replaced when all is well.
        graph, env: the network, with its constants as they are now.
        x: [N, *], the inputs.
        labels: [N].
        threat: the sets around x.
        verified: [N] bool, the examples that must have positive margins.
        free: whether free slopes may be tried.
        tight: go the dearest way at once, for larger margins.
        seconds, most: after how long, and after how many parts, to give up.

    Raises:
        UnsupportedOpError: proofs do not know an op.
        InputError: nor the set; or there is no proof of an example that is verified.
    """
    net, output, top = translated(graph, env, x)
    if Classes(graph.output.size(1)[1:]).binary:  # two classes, of which 0 has the logit 0
        output = Entries(output.nodes, np.append(-1, output.index.ravel()))
    if net.whole(output) != len(net.nodes):
        net.mixed([output], [1], np.zeros((1, 1, 1)))
    power, sets = _set(threat, x)
    ways = _ways(net, read_by_relus(net, power == 0), free)
    proof = settled(net, net.arrays | sets, top, power)
    labels_, must = labels.cpu().numpy().astype(np.int64), verified.cpu().numpy()
    classes, own = np.arange(net.sizes[-1]), np.arange(len(x))
    own_class, left = classes == labels_[:, None], own
    for chosen in ways[-1:] if tight else ways:
        mine = left if 2 * len(left) < len(own) else own
        found = _derived(proof, mine, labels_, chosen)
        left = mine[must[mine] & ~((found > 0) | own_class[mine]).all(1)]
        if len(left) == 0:
            break
    found = found if len(mine) == len(own) else _derived(proof, own, labels_, chosen)
    safe = (found > 0) | own_class
    hard = must[:, None] & ~safe
    claims = [
        Claim(int(i), False, *_rows(labels_[i], np.flatnonzero(safe[i] | ~must[i]), found[i]))
        for i in own
    ]
    more = [
        Claim(int(i), False, *_rows(labels_[i], [k], 0 * found[i])) for i, k in np.argwhere(hard)
    ]
    roots = [Part(i) for i in range(len(claims))]
    if more:
        try:
            roots += grown(proof, more, chosen, seconds, most, by_units=True)
        except InputError as error:
            told = ", ".join(map(str, np.flatnonzero(hard.any(1))[:10]))
            raise InputError(
                f"{int(hard.any(1).sum())} of {int(must.sum())} verified examples are not proved "
                f"by what the checker derives ({error}): {told}. Allow more timeout= or most=, or "
                "save the others, certificate[mask].save(path)."
            ) from error
    arrays = proof.arrays | {"way": chosen} | listed([*claims, *more], roots)
    put(path, net, arrays)


def put(path: str | Path, net: Translated, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file that the checker accepts.

    Raises:
        InputError: it does not.
    """
    try:
        Proof(net.nodes, dict(arrays)).check()
    except Unproved as error:
        raise InputError(f"the checker would not take the proof: {error}") from error
    with replacing(Path(path)) as file:
        file.write(pack(net.nodes, arrays))


def pack(nodes: Sequence[Sequence[int]], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the bytes of a file."""
    plain = {name: np.ascontiguousarray(a, a.dtype.newbyteorder("<")) for name, a in arrays.items()}
    listed = [[name, a.dtype.str, list(a.shape)] for name, a in plain.items()]
    told = json.dumps({"nodes": nodes, "arrays": listed}, separators=(",", ":")).encode()
    data = zlib.compress(b"".join(a.tobytes() for a in plain.values()), 9)
    return MAGIC + len(told).to_bytes(8, "little") + told + data


def translated(
    graph: Graph, env: Mapping[Value, Tensor], x: Tensor
) -> tuple[Translated, Entries, float]:
    """Return the network, its output, and how large numbers are at x; it gives what the graph does.

    Maxima are ReLUs of differences there, which is the same in real arithmetic.

    Raises:
        InputError: it has several inputs.
        UnsupportedOpError: proofs do not know an op.
    """
    if graph.inputs != (graph.perturbed,):
        raise InputError("proofs are written for networks of one input")
    graph = pairwise(graph)
    net, output = translate(graph, env)
    at = evaluated(net, output, numbers(x).reshape(len(x), -1))
    with torch.no_grad():
        z = graph.output.per_example(run(graph, {**env, graph.perturbed: x}), len(x))
    real = numbers(z).reshape(len(x), -1).astype(np.float64)
    top = max(1.0, float(np.abs(real).max()), float(x.abs().max()))
    if not np.allclose(at, real, rtol=1e-3, atol=1e-3 * top):
        raise GraphError("the network that was to be written is not the model")
    return net, output, top


def settled(net: Translated, arrays: Mapping[str, np.ndarray], top: float, power: int) -> Proof:
    """Choose a unit for numbers of some size at x: the finest in which those on the sets fit.

    Raises:
        InputError: there is none.
    """
    for coarser in range(25):
        unit = UNIT - max(0, int(np.log2(top)) - 4) - coarser
        head = {"head": np.array([unit, DUAL, net.input, power], np.int32)}
        try:
            proof = Proof(net.nodes, {**arrays, **head})
            plain, whole = way(net, 0, []), np.arange(proof.count)
            for some in np.split(whole, range(proof.together, len(whole), proof.together)):
                Bounds(proof, proof.numbers, some, False, plain, [], np.zeros((6, 0)))
            return proof
        except Unproved as error:
            why = error
    raise InputError(f"the checker would not take the proof: {why}") from why


def read_by_relus(net: Translated, box: bool) -> list[int]:
    """Return the nodes that a ReLU reads and that rows may know more of than intervals do."""
    bent, read = [False], set[int]()
    for i, inputs in enumerate(net.nodes, 1):
        relu = f"W{i}" not in net.arrays
        bent.append(relu or any(bent[j] for j in inputs))
        read |= set(inputs) if relu else set()
    return sorted(j for j in read if j > 0 and (bent[j] or not box))


def _ways(net: Translated, rows: list[int], free: bool) -> np.ndarray:
    """Return what the checker may try, the cheapest first: slopes, and which nodes get rows."""
    tried = [(1, rows[len(rows) - n :]) for n in sorted({0, min(1, len(rows)), len(rows)})]
    return np.stack([way(net, *each) for each in [*tried, *([(0, rows)] if free else [])]])


def way(net: Translated, equal: int, rows: Sequence[int]) -> np.ndarray:
    """Return a way as the checker takes it."""
    found = np.zeros(len(net.sizes), np.uint8)
    found[0], found[list(rows)] = equal, 1
    return found


def _set(threat: ThreatModel, x: Tensor) -> tuple[int, dict[str, np.ndarray]]:
    """Return the norm, 0 for boxes, and the arrays of the sets."""
    flat = numbers(threat.clamp(x)).reshape(len(x), -1)
    if type(threat) is Box:
        box = threat.interval(x.double())
        ends = (numbers(end).reshape(flat.shape) for end in (box.lower, box.upper))
        return 0, dict(zip(("lower", "upper"), ends, strict=True))
    powers = {LinfBall: 0, L1Ball: 1, L2Ball: 2}
    if type(threat) not in powers:
        raise InputError(f"there are proofs for boxes and for ℓ∞, ℓ1 and ℓ2 balls, not {threat}")
    assert isinstance(threat, LinfBall | L1Ball | L2Ball)
    eps = threat.eps
    radii = numbers(eps).reshape(-1) if isinstance(eps, Tensor) else np.array([eps])
    arrays = {"x": flat, "eps": np.broadcast_to(radii.astype(np.float64), (len(x),))}
    if threat.domain is not None:
        for name, end in zip(("lower", "upper"), threat.domain, strict=True):
            wide = torch.as_tensor(end, dtype=torch.float64).expand(x.shape[1:])
            arrays[name] = wide.numpy().reshape(1, -1)
    return powers[type(threat)], arrays


def _rows(y: int, k: Sequence[int] | np.ndarray, least: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return rows z_y − z_k for other classes k, and what is claimed of each."""
    other = np.array([j for j in k if j != y], np.int64)
    return np.full(len(other), y), other, least[other]


def _derived(proof: Proof, some: np.ndarray, labels: np.ndarray, way: np.ndarray) -> np.ndarray:
    """Return the margins [B, K] that the checker derives, and a little less."""
    found = np.zeros((len(some), proof.sizes[-1]))
    try:
        for start in range(0, len(some), proof.together):
            mine = some[start : start + proof.together]
            bounds = Bounds(proof, proof.numbers, mine, bool(way[0]), way, [], np.zeros((6, 0)))
            b, k = np.nonzero(labels[mine, None] != np.arange(proof.sizes[-1]))
            y, one = labels[mine][b], np.ones(len(b))
            lower = bounds.least(len(proof.ops), y, k, b, one) / proof.numbers.unit
            found[start + b, k] = lower - SLACK * (1 + np.abs(lower))
    except Unproved as error:
        raise InputError(f"the checker would not take the proof: {error}") from error
    return found
