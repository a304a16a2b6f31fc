"""A certificate as a file: a network, sets, labels, and the margins that the checker derives."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autodual.errors import GraphError, InputError
from autodual.files import replacing
from autodual.front.evaluate import run
from autodual.front.ir import Graph, Value
from autodual.labels import Classes
from autodual.proof.translate import Entries, Translated, evaluated, numbers, translate
from autodual.threat import Box, L1Ball, L2Ball, LinfBall, ThreatModel
from autodual_check.checking import Proof, margins
from autodual_check.reading import MAGIC, Invalid, Unsupported

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
) -> np.ndarray:
    """Write a proof of margins for labels, and return these [N, K].

    The checker's own derivation decides what is claimed. Each example goes the cheapest way that
    proves it: with rows for no node, for one, for all; with equal slopes, and with free ones.

    Args:
        path: the file, which is replaced when all is well.
        graph, env: the network, with its constants as they are now.
        x: [N, *], the inputs.
        labels: [N].
        threat: the sets around x.
        verified: [N] bool, the examples that must have positive margins.
        free: whether free slopes may be tried.
        tight: go the dearest way at once, for larger margins.

    Raises:
        UnsupportedOpError: proofs do not know an op.
        InputError: nor the set; or the derivation leaves an example open that is verified.
    """
    header, arrays, top = _network(graph, env, x)
    header["set"], more = _set(threat, x)
    box = header["set"]["kind"] in ("box", "linf")
    header["ways"] = _ways(read_by_relus(header["nodes"], box), free)
    said = {"kind": "margins", "labels": "labels", "margins": "margins", "way": "way"}
    header["property"] = said
    arrays |= more | {"labels": labels.cpu().numpy().astype(np.int32)}
    own = {"x", "eps", "labels", "way", *(("lower", "upper") if box and "x" not in more else ())}
    settle(header, arrays, top)
    must, last = verified.cpu().numpy(), len(header["ways"]) - 1

    def derived(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Derive margins of some examples, and say which of them stay open."""
        picked = {k: a[index] if k in own else a for k, a in {**arrays, "way": way}.items()}
        found = _derived(header, picked, said)
        classes = np.arange(found.shape[1]) == picked["labels"][:, None]
        found -= np.where(classes, 0, SLACK * (1 + np.abs(found)))
        return found, index[must[index] & ~((found > 0) | classes).all(1)]

    way, whole = np.full(len(x), last * tight, np.int32), np.arange(len(x))
    left = derived(whole)[1] if last else whole
    while len(left) and way[left].min() < last:
        way[left] = np.minimum(way[left] + 1, last)
        left = derived(left)[1]
    found, left = derived(whole)
    if len(left):
        told = ", ".join(map(str, left[:10])) + ("…" if len(left) > 10 else "")
        raise InputError(
            f"{len(left)} of {int(must.sum())} verified examples are not proved by what the "
            f"checker derives, which knows no steps and no programs: {told}. Save the others, "
            "certificate[mask].save(path)."
        )
    arrays = {"margins": found, "way": way, **arrays}
    packed = pack(header, arrays)
    with replacing(Path(path)) as file:
        file.write(packed)
    return found


def pack(header: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the bytes of a file."""
    plain = {name: np.ascontiguousarray(a, a.dtype.newbyteorder("<")) for name, a in arrays.items()}
    listed = [[name, a.dtype.str, list(a.shape)] for name, a in plain.items()]
    told = json.dumps({**header, "arrays": listed}, separators=(",", ":")).encode()
    data = zlib.compress(b"".join(a.tobytes() for a in plain.values()), 9)
    return MAGIC + len(told).to_bytes(8, "little") + told + data


def translated(
    graph: Graph, env: Mapping[Value, Tensor], x: Tensor
) -> tuple[Translated, Entries, float]:
    """Return the network, its output, and how large numbers are at x; it gives what the graph does.

    Raises:
        InputError: it has several inputs.
        UnsupportedOpError: proofs do not know an op.
    """
    if graph.inputs != (graph.perturbed,):
        raise InputError("proofs are written for networks of one input")
    net, output = translate(graph, env)
    at = evaluated(net, output, numbers(x).reshape(len(x), -1))
    with torch.no_grad():
        z = graph.output.per_example(run(graph, {**env, graph.perturbed: x}), len(x))
    real = numbers(z).reshape(len(x), -1).astype(np.float64)
    top = max(1.0, float(np.abs(real).max()), float(x.abs().max()))
    if not np.allclose(at, real, rtol=1e-3, atol=1e-3 * top):
        raise GraphError("the network that was to be written is not the model")
    return net, output, top


def settle(header: dict[str, Any], arrays: Mapping[str, np.ndarray], top: float) -> None:
    """Choose a unit for numbers of some size at x: the finest in which those on the sets fit.

    Raises:
        InputError: there is none.
    """
    for coarser in range(0, 25, 6):
        header["unit"] = UNIT - max(0, int(np.log2(top)) - 6) - coarser
        try:
            proof = Proof(header, dict(arrays))
            lo, hi = proof.sets()
            for some in np.split(
                np.arange(len(lo)), range(proof.together, len(lo), proof.together)
            ):
                proof.bounds(some, lo[some], hi[some], 0)
            return
        except (Invalid, Unsupported) as error:
            why = error
    raise InputError(f"the checker would not take the proof: {why}") from why


def _network(
    graph: Graph, env: Mapping[Value, Tensor], x: Tensor
) -> tuple[dict[str, Any], dict[str, np.ndarray], float]:
    """Return the header's part on a classifier, its arrays, and how large numbers are at x."""
    net, output, top = translated(graph, env, x)
    if Classes(graph.output.size(1)[1:]).binary:  # two classes, of which 0 has the logit 0
        output = Entries(output.nodes, np.append(-1, output.index.ravel()))
    if net.whole(output) != len(net.nodes):
        net.mixed([output], [1], np.zeros((1, 1, 1)))
    return {"dual": DUAL, "input": net.input, "nodes": net.nodes}, net.arrays, top


def read_by_relus(nodes: list[list[Any]], box: bool) -> list[int]:
    """Return the nodes that a ReLU reads and that rows may know more of than intervals do."""
    bent = [False]
    for op, inputs, *_ in nodes:
        bent.append(op == "relu" or any(bent[j] for j in inputs))
    read = [inputs[0] for op, inputs, *_ in nodes if op == "relu"]
    return sorted({j for j in read if j > 0 and (bent[j] or not box)})


def _ways(rows: list[int], free: bool) -> list[list[Any]]:
    """Return what the checker may try, the cheapest first: slopes, and which nodes get rows."""
    ways = [["equal", rows[len(rows) - n :]] for n in sorted({0, min(1, len(rows)), len(rows)})]
    return [*ways, ["free", rows]] if free else ways


def _set(threat: ThreatModel, x: Tensor) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header's part on the sets, and its arrays."""
    flat = numbers(threat.clamp(x)).reshape(len(x), -1)
    if type(threat) is Box:
        box = threat.interval(x.double())
        said = {"kind": "box", "lower": "lower", "upper": "upper"}
        ends = (numbers(end).reshape(flat.shape) for end in (box.lower, box.upper))
        return said, dict(zip(("lower", "upper"), ends, strict=True))
    kinds = {LinfBall: "linf", L1Ball: "l1", L2Ball: "l2"}
    if type(threat) not in kinds:
        raise InputError(f"there are proofs for boxes and for ℓ∞, ℓ1 and ℓ2 balls, not {threat}")
    assert isinstance(threat, LinfBall | L1Ball | L2Ball)
    eps = threat.eps
    radii = numbers(eps).reshape(-1) if isinstance(eps, Tensor) else np.array([eps])
    said = {"kind": kinds[type(threat)], "x": "x", "eps": "eps"}
    arrays = {"x": flat, "eps": np.broadcast_to(radii.astype(np.float64), (len(x),))}
    if threat.domain is not None:
        for name, end in zip(("lower", "upper"), threat.domain, strict=True):
            wide = torch.as_tensor(end, dtype=torch.float64).expand(x.shape[1:])
            said[name], arrays[name] = name, wide.numpy().reshape(-1)
    return said, arrays


def _derived(
    header: dict[str, Any], arrays: Mapping[str, np.ndarray], said: dict[str, Any]
) -> np.ndarray:
    """Return the margins that the checker derives, [N, K]."""
    try:
        proof = Proof(header, dict(arrays))
        found = margins(proof, said)
    except (Invalid, Unsupported) as error:
        raise InputError(f"the checker would not take the proof: {error}") from error
    return found * 2.0**-proof.unit
