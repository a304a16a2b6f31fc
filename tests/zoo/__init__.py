"""Models as people write them, each small: every one is certified and attacked."""

from tests.zoo import activations, convnets, graphs, heads, images, mlps, sequences, transformers
from tests.zoo.base import ZOO, Entry, Net

__all__ = [
    "ZOO",
    "Entry",
    "Net",
    "activations",
    "convnets",
    "graphs",
    "heads",
    "images",
    "mlps",
    "sequences",
    "transformers",
]
