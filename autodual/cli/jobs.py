"""What the commands do, as functions that return what is to be told."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

import autodual as ad
from autodual import train
from autodual.cli.loading import ball_of, model_of
from autodual.errors import InputError
from autodual.report.evaluate import ERRORS, Evaluation
from autodual.train import Dataset

LOSSES: dict[str, tuple[str, Callable[[float], train.Loss]]] = {
    "standard": ("ibp", lambda c: train.Standard()),
    "pgd": ("ibp", lambda c: train.Adversarial()),
    "fgsm": ("ibp", lambda c: train.Adversarial(train.Adversary(1))),
    "trades": ("ibp", lambda c: train.TRADES()),
    "robust": ("ibp&dual", lambda c: train.Robust()),
    "fused": ("ibp+dual", lambda c: train.Robust(fused=True)),
    "ibp": ("ibp", lambda c: train.Mixed(train.Standard(), train.Robust(), c)),
    "mtl-ibp": ("ibp", lambda c: train.Expressive(c, "mtl")),
    "cc-ibp": ("ibp", lambda c: train.Expressive(c, "cc")),
    "exp-ibp": ("ibp", lambda c: train.Expressive(c, "exp")),
    "sabr": ("ibp", lambda c: train.SmallBox(c)),
}
"""By name: the bounds that a loss is for, and the loss for a coefficient."""


def trained(
    model: str,
    data: Dataset,
    *,
    eps: float,
    norm: str,
    loss: str,
    coefficient: float,
    epochs: int,
    batch: int,
    lr: float,
    ramp: float,
    seed: int,
    out: Path,
) -> Evaluation:
    """Train a net, keep its files in a folder, and return its errors on the test examples."""
    if loss not in LOSSES:
        raise InputError(f"--loss {loss} is none of {', '.join(LOSSES)}")
    bounds, make = LOSSES[loss]
    chosen, whole = data.held_back(max(1, len(data.x) // 10))
    torch.manual_seed(seed)
    net = model_of(model, whole)
    threat = ball_of(norm, eps)
    recipe = train.Recipe(
        loss=make(coefficient),
        epochs=epochs,
        batch=batch,
        eps=train.Ramp(0.0, 1.0, 0.0, ramp * epochs),
        optimizer=partial(torch.optim.Adam, lr=lr),
        rate=train.one_cycle(lr, rise=0.1),
        seed=seed,
    )

    def validate(certified: ad.Certified) -> dict[str, float]:
        found = ad.evaluate(
            certified, (chosen.x_test, chosen.y_test), rungs=(), attack=10, batch=200
        )
        return {"clean": found.clean, "attacked": found.attacked, "error": found.certified}

    hooks = [train.Table(out / "log.csv"), train.Curves(out / "curves.png")]
    about = {"model": model, "loss": loss, "norm": norm, "eps": eps, "seed": seed}
    train.fit(
        ad.certify(net, threat, bounds=bounds),
        (chosen.x, chosen.y),
        recipe,
        validate=validate,
        out=out,
        hooks=hooks,
        about=about,
    )
    best = model_of(str(out / "best.pt"), whole)
    return certified(best.eval(), whole, eps=eps, norm=norm)


def certified(
    net: nn.Module,
    data: Dataset,
    *,
    eps: float,
    norm: str,
    optimize: int = 20,
    exact: float | None = None,
    attack: int = 40,
    batch: int = 100,
    rows: Path | None = None,
) -> Evaluation:
    """Return errors on the test examples."""
    rungs = (ad.Optimised(optimize),) if optimize else ()
    threat, test = ball_of(norm, eps), (data.x_test, data.y_test)
    return ad.evaluate(
        net,
        test,
        threat,
        rungs=rungs,
        exact=exact,
        attack=attack,
        batch=batch,
        rows=rows,
        sharded=distributed.is_initialized(),
    )


def errors(found: Evaluation) -> dict[str, Any]:
    """Return errors as plain values."""
    told = {name: getattr(found, name) for name in ERRORS}
    spans = {name: found.interval(*statuses) for name, statuses in ERRORS.items()}
    return {"examples": len(found), "set": found.threat, **told, "intervals": spans}


def attacked(net: nn.Module, data: Dataset, *, eps: float, norm: str, seed: int) -> dict[str, Any]:
    """Return how many test examples the ensemble of attacks breaks."""
    threat, generator = ball_of(norm, eps), torch.Generator().manual_seed(seed)
    found = ad.attack.ensemble(net, data.x_test, data.y_test, threat, generator=generator)
    broken = found.success
    return {
        "examples": len(broken),
        "set": str(threat),
        "broken": int(broken.sum()),
        "error": float(broken.double().mean()),
    }


def curve_of(net: nn.Module, data: Dataset, *, norm: str) -> ad.AccuracyCurve:
    """Return between which ε each test example stops to be robust."""
    return ad.accuracy_curve(net, (data.x_test, data.y_test), ball_of(norm, 0.1))


def radii(found: ad.AccuracyCurve) -> dict[str, Any]:
    """Return a curve as plain values; null stands for ε at which no attack was found."""
    broken = [eps if math.isfinite(eps) else None for eps in found.upper.tolist()]
    return {"examples": len(broken), "certified": found.lower.tolist(), "attacked": broken}
