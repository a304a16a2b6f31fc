"""nn.Module → Graph. The only folder that knows torch.export."""

from __future__ import annotations

from autodual.front.capture.convert import Captured
from autodual.front.capture.export import call_untouched, capture, unwrap
from autodual.front.capture.outputs import Output
from autodual.front.capture.whole import Kind, name_of, plain_attributes
from autodual.front.inputs import Inputs

__all__ = [
    "Captured",
    "Inputs",
    "Kind",
    "Output",
    "call_untouched",
    "capture",
    "name_of",
    "plain_attributes",
    "unwrap",
]
