"""Small functions of two entries whose bounds are known: exact, or close."""

import pytest
import torch
import torch.nn.functional as F

import autodual as ad
from tests.zoo import Net

UNIT = ad.Box(-torch.ones(1, 2), torch.ones(1, 2))
CORNER = ad.Box(torch.zeros(1, 2), torch.tensor([[1.0, 0.5]]))


def turned(x):
    theta = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]).expand(x.size(0), 2, 3)
    image = x.view(x.size(0), 1, 1, 2).expand(-1, 1, 2, 2)
    grid = F.affine_grid(theta, image.shape, align_corners=True)
    return F.grid_sample(image, grid, align_corners=True).flatten(1)


KNOWN = {
    "where": (lambda x: torch.where(x > 0, x, 0.1 * x), UNIT, -0.1, 1.0, 1e-3, {}),
    "product": (lambda x: (x > 0) * x, UNIT, 0.0, 1.0, 1e-3, {}),
    "heaviside": (
        lambda x: torch.heaviside(x, torch.ones(1)),
        UNIT,
        0.0,
        1.0,
        1e-3,
        {"intervals": True},
    ),
    "normalize": (lambda x: F.normalize(x, dim=1), UNIT, -1.0, 1.0, 0.5, {}),
    "length": (
        lambda x: torch.sqrt((x * x).sum(1, keepdim=True)),
        CORNER,
        0.0,
        1.25**0.5,
        0.5,
        {"bounds": "dual"},
    ),
    "Fourier": (
        lambda x: torch.fft.irfft(torch.fft.rfft(x) * 2, n=2),
        UNIT,
        -2.0,
        2.0,
        1e-3,
        {},
    ),
    "resampling": (turned, UNIT, -1.0, 1.0, 1e-3, {}),
}


@pytest.mark.parametrize("name", KNOWN)
def test_bounds_are_as_tight_as_they_can_be(name):
    function, box, low, high, tolerance, options = KNOWN[name]
    model = Net(lambda net, x: function(x))
    found = ad.certify(model, box, **options).bounds(box.lower)
    assert bool((found.lower <= low + 1e-5).all() and (found.upper >= high - 1e-5).all())
    assert bool((found.lower >= low - tolerance).all() and (found.upper <= high + tolerance).all())
