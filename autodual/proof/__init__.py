"""Proofs of certificates as files, which ``autodual-check`` checks without this library."""

from autodual.proof.origin import Origin, QueryOrigin

__all__ = ["Origin", "QueryOrigin"]
