"""Arithmetic as bad as it may be: every computed number is off by all that a unit roundoff allows.

Bounds are computed in float64, and u is taken for 2⁻²⁰: every op, row, plane and sum is moved by
the error that such numbers could have. What float64 itself rounds is nothing beside that, so that
plain evaluation tells the truth.
"""

from contextlib import contextmanager
from dataclasses import replace

import torch

from autodual import rounding
from autodual.bound import outward, reading
from autodual.bound.estimators import optimised
from autodual.bound.layer import Facet
from autodual.bound.rows import Dense
from autodual.duals import REGISTRY, Call, Lines, Planes, curves
from autodual.interval import Interval

U = 2.0**-20
linear = torch.ops.aten.linear.default


class Errors:
    """Which way errors go: up, down or at random."""

    def __init__(self, way):
        self.way = way

    def __call__(self, size):
        if self.way == "random":
            return size * torch.empty_like(size).uniform_(-1, 1).sign()
        return -size if self.way == "down" else size


def rules(err):
    """Linear layers whose rows, and ReLUs whose lines, are as wrong as they may be."""

    def transpose(call, nu, shapes):
        weight = call["weight"]
        return (nu @ weight + err(len(weight) * U * (nu.abs() @ weight.abs())),)

    def noisy(lines):
        slope, low, high = lines.lower_slope, lines.lower_intercept, lines.upper_intercept
        return Lines.parallel(slope, low + err(U * low.abs()), high + err(U * high.abs()))

    plain, relu = REGISTRY["aten.linear.default"], REGISTRY["aten.relu.default"]
    return {
        "aten.linear.default": replace(plain, transpose=transpose),
        "aten.relu.default": replace(
            relu, lines=lambda call, box, slope: noisy(relu.lines(call, box, slope)), free=None
        ),
    }


@contextmanager
def coarse(monkeypatch, way):
    """Compute so while the block runs; yields rules for ``certify``."""
    err = Errors(way)
    called, about, pull, ends = Call.__call__, Planes.about, Planes.pull, Planes.ends
    weigh, inner, lead = Dense.weigh, reading.inner, Facet.lead
    between, mix = optimised.between, optimised.Mixture.__call__

    def call(self, *z):
        value = called(self, *z)
        if self.target is not linear:
            return value
        weight, bias = self["weight"].abs(), self["bias"]
        size = linear(z[0].abs(), weight, None if bias is None else bias.abs())
        return value + err((weight.shape[1] + 1) * U * size)

    def sizes(planes, z):
        found = ends(planes.map(torch.abs), *map(torch.abs, z if planes.lower_slopes else ()))
        return found.map(torch.abs)

    def around(self, *z):
        middle, radius = about(self, *z)
        size = sizes(self, z)
        return middle + err(2 * U * torch.maximum(size.lower, size.upper)), radius * (1 - U)

    def ended(self, *z):
        found, size = ends(self, *z), sizes(self, z)
        return Interval(found.lower + 2 * U * size.lower, found.upper - 2 * U * size.upper)

    def pulled(self, nu, *how):
        return [rows + err(U * rows.abs()) for rows in pull(self, nu, *how)]

    def weighed(self, weights, memo):
        return weigh(self, weights, memo) * (1 - U * self.width)

    def led(self, up, down):
        *rows, far = lead(self, up, down)
        return [*(r + err(U * r.abs()) for r in rows), far - U * far.abs()]

    def mean(a, b, share):
        return between(a, b, share) - 5 * U * between(a.abs(), b.abs(), share)

    def mixed(self, layer, rows, memo):
        pulled, total = mix(self, layer, rows, memo)
        if layer.facets:
            total = total - U * rows.width * self.losses[layer.value].flatten(1).abs().sum(1)
        return pulled, total

    def met(nu, z):
        return inner(nu, z) + err(z.flatten(1).shape[1] * U * inner(nu.abs(), z.abs()))

    with monkeypatch.context() as patch:
        patch.setattr(Facet, "lead", led)
        patch.setattr(optimised, "between", mean)
        patch.setattr(optimised.Mixture, "__call__", mixed)
        for module in (rounding, outward, curves):
            patch.setattr(module, "roundoff", lambda dtype: U)
        patch.setattr(Call, "__call__", call)
        patch.setattr(Planes, "about", around)
        patch.setattr(Planes, "ends", ended)
        patch.setattr(Planes, "pull", pulled)
        patch.setattr(Dense, "weigh", weighed)
        patch.setattr(reading, "inner", met)
        yield rules(err)
