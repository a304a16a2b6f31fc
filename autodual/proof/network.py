"""A network as proofs know it: affine nodes with their windows listed, and ReLUs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Entries:
    """A value: which entries of some nodes in a row it has, [*size(1)], −1 for a zero."""

    nodes: tuple[int, ...]
    index: np.ndarray


@dataclass
class Translated:
    """A network as proofs know it: what each node reads, with arrays of those that are affine."""

    input: int
    nodes: list[list[int]] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)

    def affine(self, z: Entries, W: np.ndarray, index: np.ndarray, b: np.ndarray) -> int:
        """Add W [g, m, k] z[index] + b, for entries [g, k, p] of z; return its number."""
        flat = np.append(z.index.ravel(), -1)
        name, p = str(len(self.nodes) + 1), index.shape[2]
        self.arrays |= {f"W{name}": W, f"I{name}": flat[index].astype(np.int32), f"b{name}": b}
        self.nodes.append(list(z.nodes))
        self.sizes.append(W.shape[0] * W.shape[1] * p)
        return len(self.nodes)

    def whole(self, z: Entries) -> int:
        """Return the node that has just these entries, made if there is none."""
        if len(z.nodes) == 1 and np.array_equal(z.index.ravel(), np.arange(self.sizes[z.nodes[0]])):
            return z.nodes[0]
        one, n = np.ones((1, 1, 1), np.float32), z.index.size
        return self.affine(z, one, np.arange(n).reshape(1, 1, n), 0 * one)

    def relu(self, z: Entries) -> Entries:
        """Add a ReLU."""
        source = self.whole(z)
        self.nodes.append([source])
        self.sizes.append(self.sizes[source])
        return self.entries(len(self.nodes), z.index.shape)

    def entries(self, node: int, shape: tuple[int, ...]) -> Entries:
        """Return all entries of a node."""
        return Entries((node,), np.arange(self.sizes[node]).reshape(shape))

    def mixed(self, z: list[Entries], factors: list[float], b: np.ndarray) -> Entries:
        """Add Σ factor·z + b, all of one shape."""
        nodes, rows = list[int](), list[np.ndarray]()
        for part in z:
            start = sum(self.sizes[j] for j in nodes)
            rows.append(np.where(part.index < 0, -1, part.index + start))
            nodes += part.nodes
        joined, n = Entries(tuple(nodes), np.stack(rows)), z[0].index.size
        W = np.array(factors, np.float64).reshape(1, 1, -1)
        index = np.arange(len(z) * n).reshape(1, len(z), n)
        return self.entries(self.affine(joined, W, index, b), z[0].index.shape)


def numbers(tensor: Tensor) -> np.ndarray:
    """Return a tensor's numbers, none of them changed."""
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.double()).numpy()


def evaluated(net: Translated, z: Entries, x: np.ndarray) -> np.ndarray:
    """Return what the network gives at inputs [N, n], in float64: [N, entries of z]."""
    values = [np.asarray(x, np.float64)]
    for i, inputs in enumerate(net.nodes, 1):
        joined = np.concatenate([values[j] for j in inputs], 1)
        if f"W{i}" not in net.arrays:
            values.append(np.maximum(joined, 0))
            continue
        W, index, b = (net.arrays[f"{name}{i}"] for name in "WIb")
        padded = np.concatenate([joined, np.zeros((len(x), 1))], 1)
        values.append((W.astype(np.float64) @ padded[:, index] + b).reshape(len(x), -1))
    joined = np.concatenate([*(values[j] for j in z.nodes), np.zeros((len(x), 1))], 1)
    return joined[:, z.index.ravel()]
