"""What attacks share, and an attack of one's own."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch

from autodual import attack as A
from autodual.errors import InputError
from tests.nets import random_mlp


@dataclass(frozen=True)
class Lazy(A.Strategy):
    """Half a steepest step, with the gradient remembered from the start."""

    def step(self, path):
        first = path.memory.setdefault("first", path.gradient)
        assert path.loss.shape == (len(path.x),)
        assert 0 <= path.index < path.steps
        return path.threat.advance(path.x, path.point, first, 0.5, path.generator)


def case():
    torch.manual_seed(0)
    x = torch.rand(12, 4, dtype=torch.float64)
    return random_mlp(5, (4, 8, 3)), x, torch.arange(12) % 3


def test_a_strategy_is_one_step():
    model, x, y = case()
    for early in (False, True):
        found = A.run(Lazy(), model, x, y, 0.2, steps=3, restarts=2, early_stop=early)
        assert bool((found.score >= A.fgsm(model, x, y, 0.2, early_stop=early).score - 1e-12).all())
        assert found.rejected == 0
    aimed = A.run(Lazy(), model, x, y, 0.2, targets=(y + 1) % 3, loss=A.losses.margin)
    z = model(aimed.x)
    assert torch.equal(aimed.success, z.argmax(1) == (y + 1) % 3)


ATTACKS = [
    A.pgd, A.fgsm, A.apgd, A.multi_targeted, A.square, A.search, A.msd, A.wasserstein, A.worst_of,
    A.minimum_norm, A.ensemble,
    partial(A.run, Lazy()),
]  # fmt: skip


@pytest.mark.parametrize("run", ATTACKS, ids=lambda f: getattr(f, "__name__", "run"))
def test_misspelt_options_are_refused(run):
    model, x, y = case()
    with pytest.raises(
        InputError, match=r"takes no logit=: did you mean logits=\? It takes .*loss"
    ):
        run(model, x, y, 0.1, logit=None)
    with pytest.raises(InputError, match=r"takes no upside=\. It takes .*targets|loss"):
        run(model, x, y, 0.1, upside=None)


@pytest.mark.parametrize(
    ("run", "options"),
    [
        (A.fgsm, ["restarts"]),
        (A.multi_targeted, ["targets", "success"]),
        (A.wasserstein, ["restarts", "early_stop", "success", "generator"]),
    ],
)
def test_what_makes_no_sense_is_refused(run, options):
    model, x, y = case()
    for name in options:
        with pytest.raises(InputError, match=f"{run.__name__} takes no {name}="):
            run(model, x, y, 0.1, **{name: None})
    with pytest.raises(InputError, match="did you mean steps="):
        A.pgd(model, x, y, 0.1, step=3)


def test_searches_take_starts_and_verdicts():
    model, x, y = case()
    asked = []

    def success(z, y):
        asked.append(len(z))
        return z.argmax(1) == (y + 1) % 3

    found = A.search(model, x, y, 0.3, steps=4, restarts=3, success=success)
    assert len(asked) == 16
    assert torch.equal(found.success, model(found.x).argmax(1) == (y + 1) % 3)


class Slip(A.Strategy):
    """Takes a step, and then makes what the caller says of it."""

    def __init__(self, slip):
        self.slip = slip

    def step(self, path):
        if path.index == 0:
            return path.point
        return self.slip(path.point)


def with_nan(point):
    point = point.clone()
    point[[2, 5], 1] = torch.nan
    return point


@pytest.mark.parametrize(
    ("slip", "returned"),
    [
        (lambda point: point[:1], r"a float64 tensor \[1, 4\]"),
        (lambda point: point.sum(1), r"a float64 tensor \[12\]"),
        (lambda point: point.sum(), r"a float64 tensor \[\]"),
        (lambda point: point.float(), r"a float32 tensor \[12, 4\]"),
        (lambda point: point > 0, r"a bool tensor \[12, 4\]"),
        (lambda point: point.tolist()[0][:1], r"\[0\.\d*\]"),
        (lambda point: None, "None"),
        (lambda point: point.numpy(), r"array\[12, 4\]"),
        (with_nan, "NaN for 2 of 12 examples"),
    ],
)
def test_what_a_step_returns_by_mistake_is_named(slip, returned):
    model, x, y = case()
    expected = r"a point of each example's set, a float64 tensor \[12, 4\]"
    with pytest.raises(InputError, match=rf"Slip\.step.*returned {returned}.*step 1;.*{expected}"):
        A.run(Slip(slip), model, x, y, 0.2, steps=3)
