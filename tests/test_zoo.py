"""Every model of the zoo: captured, bounded, attacked; or refused with the op that is missing."""

import pytest
import torch

import autodual as ad
from autodual import errors
from tests.zoo import ZOO

METHODS = ("ibp", "ibp&dual")
BOUNDED = [name for name, entry in ZOO.items() if not entry.missing]
REFUSED = [name for name, entry in ZOO.items() if entry.missing]


def certify(entry, model, eps, bounds="ibp&dual"):
    options = {"output": entry.output, "intervals": entry.intervals}
    return ad.certify(model, eps, bounds=bounds, **options)


def images(entry, model, inputs, eps):
    """Outputs [N, tried, K] at random points, corners, and after steps up and down each of some
    random directions of the output."""
    x, *others = inputs.args
    generator = torch.Generator().manual_seed(2)
    tried = 24
    center = x.unsqueeze(1).expand(-1, tried, *x.shape[1:]).flatten(0, 1)
    others = [v.repeat_interleave(tried, 0) for v in others]
    noise = 2 * torch.rand(center.shape, generator=generator, dtype=x.dtype) - 1
    offset = eps * torch.where(torch.arange(len(center)).reshape(-1, *[1] * (x.dim() - 1)) % 2 > 0,
                               noise, noise.sign())  # fmt: skip
    found = []
    for _ in range(6):
        point = (center + offset).requires_grad_()
        z = entry.pick(model(point, *others)).reshape(len(center), -1)
        found.append(z.detach())
        climb = torch.randn(z.shape, generator=generator.manual_seed(4), dtype=x.dtype)
        (slope,) = torch.autograd.grad((climb * z).sum(), point)
        offset = (offset + 0.5 * eps * slope.sign()).clamp(-eps, eps)
    return torch.stack(found, dim=1).unflatten(0, (len(x), tried)).flatten(1, 2)


LONG = {
    *("causal_attention", "gated_mlp", "lstm_both_ways", "lstm_cells", "lstm_two_layers"),
    *("mlp_mixer", "pool_former", "transformer_decoder_layer", "vit_multihead_attention"),
}
"""Models that take a second or more and have a smaller twin."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.long] if n in LONG else []) for n in BOUNDED]
)
def test_no_point_beats_the_bound(name):
    """Nor do PGD's; where ε is small the bound is finite, where it vanishes nearly exact."""
    entry = ZOO[name]
    model, inputs = entry.build(), entry.inputs()
    z = images(entry, model, inputs, entry.eps)
    with torch.no_grad():
        nominal = entry.pick(model(*inputs.args))
    generator = torch.Generator().manual_seed(3)
    shaped = torch.randn(3, *nominal.shape[1:], generator=generator, dtype=z.dtype)
    spec, nominal = shaped.reshape(3, -1), nominal.reshape(len(z), -1)
    for method in METHODS:
        bound = certify(entry, model, entry.eps, method).lower_bound(inputs, shaped)
        worst = (z @ spec.T).amin(1)
        slack = 1e-9 * (1 + worst.abs() + bound.abs())
        assert bool(torch.isfinite(bound).all()), f"{method} gives {bound}"
        assert bool((worst >= bound - slack).all()), f"{method}: {worst} is below {bound}"
    with torch.no_grad():  # above, gradients are kept: both ways are taken through every model
        tight = certify(entry, model, 1e-8).lower_bound(inputs, shaped)
    torch.testing.assert_close(tight, nominal @ spec.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_missing_is_named(name):
    entry = ZOO[name]
    model, inputs = entry.build(), entry.inputs()
    found = ad.coverage(model, inputs, output=entry.output, intervals=entry.intervals)
    assert {row.op for row in found.missing} == set(entry.missing)
    with pytest.raises(errors.UnsupportedOpError, match=entry.missing[0]):
        certify(entry, model, entry.eps).bounds(inputs)


def test_the_zoo_is_large():
    assert len(BOUNDED) >= 60
