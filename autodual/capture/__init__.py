"""nn.Module → Graph. The only folder that knows torch.export."""

from __future__ import annotations

from autodual.capture.convert import Captured
from autodual.capture.export import call_untouched, capture, unwrap
from autodual.capture.inputs import Inputs
from autodual.capture.outputs import Output
from autodual.capture.whole import Kind, name_of, plain_attributes

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
