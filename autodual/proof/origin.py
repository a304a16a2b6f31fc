"""What a certificate remembers of how it was made, so that it can be saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from autodual.errors import InputError
from autodual.front.evaluate import run_nodes
from autodual.front.ir import Graph, Value
from autodual.query import Query
from autodual.threat import ThreatModel


@dataclass(frozen=True, eq=False)
class Origin:
    """The network, inputs and labels that a certificate is of; parameters are the live ones.

    Attributes:
        graph, env: the network, and all that it is given.
        x, labels: [N, *] and [N].
        threat: the sets around x.
        free: whether slopes were free.
        versions: of all tensors, as they were.
    """

    graph: Graph
    env: Mapping[Value, Tensor]
    x: Tensor
    labels: Tensor
    threat: ThreatModel
    free: bool
    versions: Mapping[Value, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.versions:
            object.__setattr__(self, "versions", _versions(self.env))

    def select(self, index: Tensor) -> Origin:
        """Return the origin of the examples at ``index``."""
        threat = self.threat.select(self.x, index)
        return replace(self, x=self.x[index], labels=self.labels[index], threat=threat)

    def save(
        self, path: str | Path, verified: Tensor, tight: bool, seconds: float, most: int
    ) -> None:
        """Write the proof of margins.

        Raises:
            InputError: parameters or inputs are not what they were.
        """
        from autodual.proof.write import write

        if _versions(self.env) != self.versions:
            raise InputError(
                "the model or its input was changed after the certificate was made: certify again"
            )
        if len(self.x) == 0 or self.labels.dim() != 1 or bool((self.labels < 0).any()):
            raise InputError("proofs are of one example or more, with one label for each")
        constant = constants(self.graph, self.env)
        where = path, self.graph, constant, self.x, self.labels, self.threat
        write(*where, verified, self.free, tight, seconds, most)


@dataclass(frozen=True, eq=False)
class QueryOrigin:
    """The network and the query that a verdict is of; parameters are the live ones.

    Attributes:
        graph, env, x: the network, all that it is given, and its input [1, *].
        query: in float64.
        versions: of all tensors, as they were.
    """

    graph: Graph
    env: Mapping[Value, Tensor]
    x: Tensor
    query: Query
    versions: Mapping[Value, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "versions", _versions(self.env))

    def save(self, path: str | Path, seconds: float, most: int) -> int:
        """Write the proof, of so many parts."""
        from autodual.proof.queries import write_query

        if _versions(self.env) != self.versions:
            raise InputError("the model was changed after the verdict: verify again")
        env = constants(self.graph, self.env)
        return write_query(path, self.graph, env, self.x, self.query, seconds, most)


def constants(graph: Graph, env: Mapping[Value, Tensor]) -> dict[Value, Tensor]:
    """Return the graph's constants, and what its prelude makes of them."""
    env = dict(env)
    with torch.no_grad():
        run_nodes(graph.prelude, env, len(env[graph.perturbed]))
    return {v: t for v, t in env.items() if v.batch_dim is None}


def _versions(env: Mapping[Value, Tensor]) -> dict[Value, int]:
    """Return how often each tensor was written to."""
    return {v: -1 if t.is_inference() else t._version for v, t in env.items()}
