"""nn.Module → Graph. The only folder that traces."""

from __future__ import annotations

from autodual.front.capture.join import Captured
from autodual.front.capture.outputs import Output
from autodual.front.capture.rehearse import close
from autodual.front.capture.trace import TRACED, capture, some, unwrap
from autodual.front.capture.untouched import call_untouched
from autodual.front.capture.whole import Kind, name_of, plain_attributes
from autodual.front.inputs import Inputs

__all__ = [
    "TRACED",
    "Captured",
    "Inputs",
    "Kind",
    "Output",
    "call_untouched",
    "capture",
    "close",
    "name_of",
    "plain_attributes",
    "some",
    "unwrap",
]
