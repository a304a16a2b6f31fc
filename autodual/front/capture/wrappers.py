"""What models come wrapped in: seen through where that changes nothing, refused where it does."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autodual.errors import ModelError

PARALLEL = nn.DataParallel, nn.parallel.DistributedDataParallel
SHARDS = "torch.distributed.fsdp"


def unwrap(model: Any) -> nn.Module:
    """Return the module inside torch.compile, DDP and DataParallel wrappers.

    Raises:
        ModelError: not a module; a ScriptModule, whose code is not Python's any more; a module
            of which this process has but a part, or a copy that DataParallel made.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"certify needs a torch.nn.Module, not {type(model).__name__}. "
            "Put the function in the forward of a module."
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("a ScriptModule cannot be captured. Pass the module it was scripted from.")
    if getattr(model, "_is_replica", False):
        raise ModelError(
            "DataParallel copies a module at every call, and a copy has no parameters to bound. "
            "Use DistributedDataParallel, with a process for each device."
        )
    if hasattr(model, "_orig_mod"):
        return unwrap(model._orig_mod)
    if isinstance(model, PARALLEL):
        return unwrap(model.module)
    if any(_is_sharded(module) for module in model.modules()):
        raise ModelError(
            "FSDP leaves each process a part of the parameters, and a bound reads them all. Train "
            "with fully_shard(ad.RobustLoss(model)), whose parts are not sharded one by one; "
            "certify the model itself, with its full state."
        )
    return model


def check_seen(model: nn.Module) -> None:
    """Raise if a wrapper averages gradients but would not see those of a bound.

    Raises:
        ModelError: it is DDP or DataParallel, around the model or within.
    """
    passed = next((module for module in model.modules() if isinstance(module, PARALLEL)), None)
    if passed is None or not any(p.requires_grad for p in model.parameters()):
        return
    raise ModelError(
        f"a bound goes past {type(passed).__name__}, which would not average its gradients. Wrap "
        "the loss, not the model: loss = DistributedDataParallel(ad.RobustLoss(model, eps)), then "
        "loss(x, y).backward(). To certify without gradients, call under torch.no_grad()."
    )


def _is_sharded(module: nn.Module) -> bool:
    return any(kind.__module__.startswith(SHARDS) for kind in type(module).__mro__)
