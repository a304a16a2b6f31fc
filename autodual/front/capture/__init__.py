"""nn.Module → Graph. The only folder that traces."""

from __future__ import annotations

from autodual.front.capture.diagnose import WEIGHTS
from autodual.front.capture.join import Captured
from autodual.front.capture.outputs import Output
from autodual.front.capture.rehearse import close
from autodual.front.capture.trace import TRACED, capture, some
from autodual.front.capture.untouched import call_untouched
from autodual.front.capture.whole import Kind, name_of, plain_attributes
from autodual.front.capture.wrappers import check_seen, unwrap

__all__ = [
    "TRACED",
    "WEIGHTS",
    "Captured",
    "Kind",
    "Output",
    "call_untouched",
    "capture",
    "check_seen",
    "close",
    "name_of",
    "plain_attributes",
    "some",
    "unwrap",
]
