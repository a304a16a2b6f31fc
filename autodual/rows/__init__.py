"""The linear forms ν that travel back through the network, in the forms they can take."""

from __future__ import annotations

from autodual.rows.dense import Dense

__all__ = ["Dense"]
