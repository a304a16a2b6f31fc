"""Modules around a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


class Wrapper(nn.Module):
    """A module around one other. Its state is the other's, under the other's own keys."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state of what is inside."""
        (inside,) = self.children()
        return inside.state_dict(*args, **kwargs)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state into what is inside."""
        (inside,) = self.children()
        return inside.load_state_dict(state_dict, strict, assign)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Load as a part of another module: lead the keys inside."""
        ((name, _),) = self.named_children()
        own = {key: state_dict.pop(key) for key in [*state_dict] if key.startswith(prefix)}
        state_dict |= {f"{prefix}{name}.{key[len(prefix) :]}": own[key] for key in own}
        super()._load_from_state_dict(state_dict, prefix, *rest)
