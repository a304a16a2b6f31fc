"""What passes share: replacing values inside nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autodual.ir import Node, Value, map_leaves


def substitute(node: Node, mapping: Mapping[Value, Value], out: Value | None = None) -> Node:
    """Return ``node`` reading ``mapping[v]`` for every v in the mapping, and writing ``out``."""

    def leaf(arg: Any) -> Any:
        return mapping.get(arg, arg) if isinstance(arg, Value) else arg

    args = {name: map_leaves(arg, leaf) for name, arg in node.args.items()}
    return replace(node, args=args, out=out or node.out)
