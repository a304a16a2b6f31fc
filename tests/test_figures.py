"""What the pictures after the thesis's figures claim: boxes, polygons, distances, tightness."""

from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.errors import InputError
from autodual.report import distances, polytopes, regions, rungs, small, tightness

DOUBLE = torch.float64

JUDGED = (1, 0.1), (2, 0.08)
"""Nets and boxes of which every rung certifies some."""


def levelled(model, x):
    """Shift the logits so that some points are given one class and some another; return these."""
    with torch.no_grad():
        model[-1].bias -= model(x).mean(0)
        return model(x).argmax(1)


@cache
def judged(seed, eps):
    """Return a random net, points with the labels that it gives them, and what proves them."""
    torch.manual_seed(seed)
    model = small.plane_net([2, 20, 20, 20, 2]).double()
    x = small.spread_points(8, seed=seed)[0].double()
    y = levelled(model, x)
    return model, x, y, regions.regions(model, x, y, eps, resolution=3)


def test_every_rung_is_seen():
    seen = {name for case in JUDGED for name in judged(*case)[3].by}
    assert seen >= {*(rung.name for rung in rungs.LADDER), regions.EXACT, regions.FALSE}


def linear(inputs, outputs=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, outputs)).double()


def test_points_lie_apart():
    x, y = small.spread_points(12, 0.16, seed=3)
    gap = (x[:, None] - x).abs().amax(2) + torch.eye(12)
    assert gap.min() >= 0.16
    assert x.min() >= 0
    assert x.max() <= 1
    assert set(y.tolist()) == {0, 1}
    with pytest.raises(InputError, match="do not fit"):
        small.spread_points(30, 0.5)


def test_robust_training_certifies_what_standard_training_does_not():
    x = torch.tensor([[0.3, 0.3], [0.3, 0.6], [0.6, 0.3], [0.6, 0.6]])
    y = torch.tensor([0, 1, 1, 0])
    seen, verified = [], {}
    for eps in (0.0, 0.08):
        torch.manual_seed(0)
        model = small.plane_net([2, 20, 20, 2])
        small.train(model, x, y, eps, steps=60, rate=0.03, each=seen.append)
        assert torch.equal(model(x).argmax(1), y)
        verified[eps] = ad.certify(model, 0.08, **rungs.THESIS)(x, y).verified
    assert not verified[0.0].all()
    assert verified[0.08].all()
    assert seen == 2 * list(range(61))


def test_normal_nets_are_as_the_thesis_says():
    net = small.normal_net([2, 400, 100, 2]).requires_grad_(False)
    assert [layer.out_features for layer in net[::2]] == [400, 100, 2]
    assert net[2].weight.std() == pytest.approx(1 / 20, rel=0.05)
    assert net[0].bias.std() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(("seed", "eps"), JUDGED)
def test_certified_boxes_hold_one_class_and_crosses_another(seed, eps):
    model, x, y, found = judged(seed, eps)
    assert regions.UNKNOWN not in found.by
    false = torch.tensor([name == regions.FALSE for name in found.by])
    assert false.any()
    assert torch.equal(false, ~found.certified)
    assert torch.equal(false, found.wrong.isfinite().all(1))
    for i in found.certified.nonzero()[:, 0]:
        said = model(regions.grid(x[i] - found.eps, x[i] + found.eps, 41)).argmax(1)
        assert (said == y[i]).all()
    where = found.wrong[false]
    assert ((where - x[false]).abs() <= found.eps * (1 + 1e-6)).all()
    assert (model(where).argmax(1) != y[false]).all()


@pytest.mark.parametrize(("seed", "eps"), JUDGED)
def test_a_box_is_told_the_first_rung_that_certifies_it(seed, eps):
    model, x, y, found = judged(seed, eps)
    names = [rung.name for rung in rungs.LADDER]
    for i, rung in enumerate(rungs.LADDER[:3]):
        verified = rung.net(model, found.eps)(x, y).verified.tolist()
        for name, yes in zip(found.by, verified, strict=True):
            assert name in names[:i] or yes == (name == rung.name)


def test_regions_lie_where_the_picture_has_them():
    model = linear(2)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
        model[0].bias.copy_(torch.tensor([0.0, -0.5]))
    x, y = torch.tensor([[0.0, 0.0], [1.0, 0.2]], dtype=DOUBLE), torch.tensor([0, 1])
    found = regions.regions(model, x, y, 0.1, resolution=10)
    assert found.classes.tolist() == 10 * [5 * [0] + 5 * [1]]  # the second to the right
    axes = regions.draw({"a net": found}).axes[0]
    assert axes.images[0].get_extent() == pytest.approx([-0.2, 1.2, -0.2, 0.4])
    assert axes.images[0].origin == "lower"
    assert axes.get_title() == "a net\n2 of 2 boxes certified, ε = 0.1"
    for patch, corner in zip(axes.patches, [(-0.1, -0.1), (0.9, 0.1)], strict=True):
        assert patch.get_xy() == pytest.approx(corner)
    with pytest.raises(InputError, match="in the plane"):
        regions.regions(model, torch.zeros(1, 3), y, 0.1)


@pytest.mark.parametrize("eps", [0.02, 0.3])
@pytest.mark.parametrize("kind", ["normal_net", "plane_net"])
def test_polygons_are_nested(kind, eps):
    torch.manual_seed(1)
    net = getattr(small, kind)([2, 15, 15, 2]).double()
    x = torch.tensor([[0.4, 0.6]], dtype=DOUBLE)
    found = polytopes.polytopes(net, x, eps, directions=12, resolution=20)
    inside = x + eps * (2 * torch.rand(2000, 2, dtype=DOUBLE) - 1)
    true = (net(inside) @ found.directions.T).amin(0)
    b, tiny = found.offsets, 1e-9
    for looser, tighter in pairwise((rungs.FREE, rungs.OPTIMISED, rungs.PROGRAM)):
        assert (b[looser.name] <= b[tighter.name] + tiny).all()
        assert found.area(looser.name) >= found.area(tighter.name) - tiny
    for rung in (rungs.INTERVALS, *rungs.LADDER):
        assert (b[rung.name] <= true + tiny).all()
        assert (b[rung.name] <= b[polytopes.HULL] + tiny).all()
        corners = found.polygon(rung.name)
        assert (corners @ found.directions.T >= b[rung.name] - tiny).all()


def test_polygons_of_a_linear_net_are_the_image_of_the_box():
    net, x, eps = linear(2).requires_grad_(False), torch.zeros(1, 2, dtype=DOUBLE), 0.5
    found = polytopes.polytopes(net, x, eps, directions=16)
    for b in found.offsets.values():
        assert torch.allclose(b, found.offsets[polytopes.HULL])
    image = net(eps * torch.tensor([[1.0, 1], [1, -1], [-1, -1], [-1, 1]]).double())
    assert found.area(polytopes.HULL) >= 4 * eps**2 * float(net[0].weight.det().abs())
    assert torch.allclose((image @ found.directions.T).amin(0), found.offsets[polytopes.HULL])


def test_corners_of_half_planes():
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    found = polytopes.corners(square, torch.tensor([1.0, 2, -3, -5]))
    assert sorted(found.tolist()) == [[1, 2], [1, 5], [3, 2], [3, 5]]
    idle = torch.cat([square, torch.tensor([[0.6, 0.8]])])  # touches nothing
    again = polytopes.corners(idle, torch.tensor([1.0, 2, -3, -5, -9]))
    assert torch.allclose(again.sum(0), found.sum(0))
    assert len(again) == 4
    with pytest.raises(InputError, match="all sides"):
        polytopes.corners(square[:3], torch.ones(3))


def test_polygons_are_drawn_for_each_net_and_size():
    net, x = linear(2), torch.zeros(1, 2, dtype=DOUBLE)
    sets = [polytopes.polytopes(net, x, eps, 8, 5) for eps in (0.1, 0.2)]
    figure = polytopes.draw({"one": sets, "other": sets})
    assert len(figure.axes) == 4
    assert [axes.get_title() for axes in figure.axes] == 2 * ["ε = 0.1", "ε = 0.2"]
    assert all(len(axes.lines) == len(rungs.LADDER) for axes in figure.axes)
    with pytest.raises(InputError, match="one point"):
        polytopes.polytopes(net, torch.zeros(2, 2), 0.1)
    with pytest.raises(InputError, match="three"):
        polytopes.polytopes(net, x, 0.1, directions=2)


def test_distances_are_certified_below_and_attacked_above():
    torch.manual_seed(0)
    model = small.normal_net([6, 12, 12, 3]).double()
    x, y = torch.rand(20, 6, dtype=DOUBLE), torch.randint(3, (20,))
    assert len(set(levelled(model, x).tolist())) == 3
    found = distances.distances(model, x, y, (0.0, 1.0))
    assert torch.equal(found.right, model(x).argmax(1) == y)
    names = [rungs.EQUAL.name, rungs.FREE.name, rungs.OPTIMISED.name]
    assert list(found.certified) == names
    for sizes in found.certified.values():
        assert (sizes <= found.attacked).all()
        assert (sizes > 0).all()
    free, optimised = (found.certified[name] for name in names[1:])
    assert (free <= optimised * (1 + 2**-9)).all()  # each is found to 2^-10 of its size
    axes = distances.draw({"one": found}, 0.1).axes[0]
    attacked, *bounds, wrong, mark = (torch.tensor(line.get_ydata()) for line in axes.lines)
    for curve in (attacked, *bounds):
        assert (curve.diff() >= 0).all()
        assert (curve <= attacked).all()
    assert len(bounds) == 3
    assert torch.equal(bounds[-1], found.certified[names[0]].sort().values)
    assert len(wrong) == int((~found.right).sum())
    assert mark.tolist() == pytest.approx([0.1, 0.1])


def test_distances_of_a_linear_net_are_known():
    model = linear(5)
    x, y = torch.rand(9, 5, dtype=DOUBLE), torch.zeros(9, dtype=torch.long)
    found = distances.distances(model, x, y, steps=20)
    row = model[0].weight.diff(dim=0)
    true = (model(x).diff(dim=1) / row.abs().sum()).abs()[:, 0].detach()
    for sizes in (*found.certified.values(), found.attacked):
        assert torch.allclose(sizes, true, rtol=1e-3)


def test_programs_lie_above_duals_and_attacks_above_all():
    torch.manual_seed(0)
    model = small.normal_net([6, 12, 12, 3]).double()
    x, y = torch.rand(3, 6, dtype=DOUBLE), torch.randint(3, (3,))
    radii = (0.01, 0.05, 0.1, 0.2)
    found = tightness.margins(model, x, y, radii)
    b, tiny = found.lower, 1e-9
    ladder = (rungs.EQUAL, rungs.EQUAL_PROGRAM), (rungs.FREE, rungs.OPTIMISED, rungs.PROGRAM)
    for names in ladder:
        for looser, tighter in pairwise(names):
            assert (b[looser.name] <= b[tighter.name] + tiny).all()
    for rung in tightness.RUNGS:
        assert b[rung.name].shape == (len(radii), 3)
        assert (b[rung.name] <= found.attacked + tiny).all()
        assert (b[rung.name].diff(dim=0) <= tiny).all()  # larger balls, lower bounds
        assert found.fall(rung.name) >= 1
    assert found.fall(rungs.PROGRAM.name) < found.fall(rungs.EQUAL.name)
    assert (found.attacked <= found.nominal).all()


def test_margins_of_a_linear_net_fall_as_an_attack_makes_them():
    model = linear(4, 3)
    x, y = torch.rand(2, 4, dtype=DOUBLE), torch.tensor([0, 2])
    found = tightness.margins(model, x, y, (0.1, 0.3))
    margins = model(x).gather(1, y[:, None]) - model(x)
    assert torch.allclose(found.nominal, margins.scatter(1, y[:, None], torch.inf).amin(1))
    for rung in tightness.RUNGS:
        assert found.fall(rung.name) == pytest.approx(1)
    history = {0.0: found, 1.0: found}
    figure = tightness.draw({"a": found, "b": found}, {"training": history}, 0.1)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["a", "b", "training, ε = 0.1", ""]
    assert len(figure.axes[3].get_legend().get_texts()) == 1 + len(tightness.RUNGS)
