"""Pictures: the smallest set with an adversarial example, and one row for each."""

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.report import pictures

SETS = ["LinfBall", "L2Ball", "L1Ball", "Box", "Wasserstein", "Union"]


def make(channels=1):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * 16, 2)).double()
    x = 0.2 + 0.6 * torch.rand(1, channels, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([0.1, 0.0]) - model[1].weight @ x.flatten())
    return model, x


@pytest.mark.long
def test_one_row_for_each_set(tmp_path):
    model, x = make(channels=3)
    found = pictures.of_each_kind(model, x)
    assert list(found) == SETS
    figure = pictures.draw(found)
    figure.savefig(tmp_path / "sets.png")
    assert len(figure.axes) == 4 * len(SETS)  # three images and a scale
    assert figure.axes[0].get_ylabel().startswith("LinfBall\nε = ")
    for example, axes in zip(found.values(), figure.axes[1::3], strict=False):
        assert example.before != example.after
        assert axes.get_title() == f"attacked: {example.after}"


def test_the_smallest_set_is_found():
    model, x = make()
    y = model(x).argmax(1)
    rows = (model[1].weight - model[1].weight[y]).detach().reshape(1, 2, 1, 4, 4)
    for name, around in pictures.each_kind(x).items():
        if name in ("Wasserstein", "Union"):  # steps only come close to the first's maximizer
            continue
        gap = (model(x).gather(1, y[:, None]) - model(x)).detach()
        sets = [around(eps) for eps in pictures.RADII]
        wins = [
            bool((s.support(x, rows) - (rows * x).flatten(2).sum(2) > gap + 1e-9).any())
            for s in sets
        ]
        first = wins.index(True)
        example = pictures.smallest(model, x, around)
        smallest = sets[first].eps if name != "Box" else pictures.RADII[first]
        assert example.sizes == (smallest,)
        assert int(model(example.found[None]).argmax()) == example.after
        assert bool(sets[first].contains(x, example.found[None]))
        assert example.distance <= smallest + 1e-9
    assert pictures.smallest(model, x, ad.LinfBall, [1e-9, 1e-8]) is None
    gray = pictures.smallest(model, x, ad.LinfBall)
    assert pictures.draw({"one": gray}).axes[0].images[0].get_array().shape == (4, 4)


def test_only_one_image_at_a_time():
    model, x = make()
    with pytest.raises(ad.errors.InputError, match="one image"):
        pictures.smallest(model, x.expand(2, 1, 4, 4), ad.LinfBall)
