"""Proofs of certificates as files, which ``autodual-check`` checks without this library."""

from autodual.proof.origin import Origin

__all__ = ["Origin"]
