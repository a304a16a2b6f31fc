"""A complete verifier: properties over regions, decided by branch and bound."""

from __future__ import annotations

from autodual.verifier.statements import Region, Statement, X, Y, all_of, any_of
from autodual.verifier.verdict import Moment, Verdict
from autodual.verifier.verify import verify

__all__ = ["Moment", "Region", "Statement", "Verdict", "X", "Y", "all_of", "any_of", "verify"]
