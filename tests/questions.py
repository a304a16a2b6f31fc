"""What several tests ask of bounds: sets around points of the unit cube, rows, random points."""

import torch

import autodual as ad

DOUBLE = torch.float64
SETS = {
    "linf": ad.LinfBall(0.3),
    "linf in a domain": ad.LinfBall(0.3, (0, 1)),
    "l2": ad.L2Ball(0.5),
    "l2 in a domain": ad.L2Ball(0.4, (0, 1)),
    "l1": ad.L1Ball(0.5),
    "l1 in a domain": ad.L1Ball(0.6, (0, 1)),
    "box": ad.Box(-0.2, 0.9),
    "union": ad.Union(ad.LinfBall(0.1), ad.L1Ball(0.3)),
    "union with l2": ad.Union(ad.LinfBall(0.2), ad.L2Ball(0.4)),
}


def rows(outputs=3):
    """Return rows C [S, outputs]: each output, its negative, and a margin."""
    eye = torch.eye(outputs, dtype=DOUBLE)
    return torch.cat([eye, -eye, eye[:1] - eye[1:]])


def values(model, point):
    """Return C z [N, S] at points."""
    return (rows() @ model(point).unsqueeze(2)).squeeze(2)


def no_random_point_lies_below(bound, model, threat, x, count=20):
    """Raise if C z is less than a bound [N, S] at one of a set's random points."""
    for seed in range(count):
        point = threat.random_start(x, torch.Generator().manual_seed(seed))
        assert (values(model, point) >= bound - 1e-9).all()
