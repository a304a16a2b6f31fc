"""The ensemble: what each attack finds, each only on what is left; what Ctrl-C leaves."""

import sys
from dataclasses import replace

import pytest
import torch

import autodual as ad
from autodual.attack import apgd, ensemble
from autodual.errors import InputError, Interrupted
from tests.nets import random_mlp

ORDER = [
    "x itself",
    "APGD",
    "APGD from squares",
    "APGD towards every class",
    "minimum norm",
    "Square",
]


def case(n=24):
    torch.manual_seed(0)
    x = torch.rand(n, 6, dtype=torch.float64)
    model = random_mlp(3, (6, 12, 8, 4))
    with torch.no_grad():  # no class is far from any other
        model[-1].bias.sub_(model(x).mean(0))
    y = model(x).argmax(1)
    return model, x, torch.where(torch.arange(n) == 3, (y + 1) % 4, y)


SETS = {
    "linf": ad.LinfBall(0.15),
    "l2": ad.L2Ball(0.3, (0.0, 1.0)),
    "l1": ad.L1Ball(0.5),
    "union": ad.Union(ad.LinfBall(0.1), ad.L1Ball(0.5)),
    "wasserstein": ad.Wasserstein(0.3),
}


@pytest.mark.parametrize("kind", SETS)
def test_any_set_is_attacked_and_every_success_holds(kind):
    model, x, y = case()
    found = ensemble(model, x, y, SETS[kind], steps=5, batch=10)
    assert torch.equal(found.success, model(found.x).argmax(1) != y)
    assert bool(SETS[kind].contains(x, found.x).all())
    assert [name is not None for name in found.by] == found.success.tolist()
    assert set(found.by) <= {None, *ORDER}
    assert found.by[3] == "x itself"
    for member in SETS[kind].members:
        assert not bool((apgd(model, x, y, member, steps=5).success & ~found.success).any())


def test_each_attack_sees_only_what_is_left(monkeypatch):
    model, x, y = case()
    seen = []
    module = sys.modules["autodual.attack.ensemble"]

    def watched(stage):
        def attack(problem, steps, here):
            assert not bool(here.done.any())
            seen.append((stage.name, len(problem.x)))
            return stage.run(problem, steps, here)

        return replace(stage, run=attack)

    monkeypatch.setattr(module, "STAGES", tuple(map(watched, module.STAGES)))
    found = ensemble(model, x, y, 0.1, steps=5)
    assert [name for name, _ in seen] == ORDER[1:]
    fallen = 0
    for name, count in [("x itself", 24), *seen]:
        assert count == 24 - fallen
        fallen += found.by.count(name)
    assert f"{fallen} of 24 attacks succeed" in str(found)
    assert all(f"by {name}" in str(found) for name in found.by if name)


def test_targets_verdicts_and_misuse():
    model, x, y = case()
    aim = (y + 1) % 4
    found = ensemble(model, x, y, 0.2, steps=4, targets=aim)
    assert torch.equal(found.success, model(found.x).argmax(1) == aim)
    own = {"loss": lambda z, y: z.sum(1), "success": lambda z, y: z.sum(1) > model(x).sum(1) + 99}
    assert not bool(ensemble(model, x, y, 0.1, steps=2, **own).success.any())
    for more in ({"restarts": 2}, {"early_stop": True}, {"steps": 0}, {"batch": 0}):
        with pytest.raises(InputError):
            ensemble(model, x, y, 0.1, **more)


def test_ctrl_c_leaves_what_was_found():
    model, x, y = case()
    whole = ensemble(model, x, y, 0.15, steps=5)
    assert whole.by.count("APGD") > 2
    passes = 0

    def interrupted(v):
        nonlocal passes
        passes += 1
        if passes > 20:
            raise KeyboardInterrupt
        return model(v)

    with pytest.raises(Interrupted, match="stopped when") as said:
        ensemble(interrupted, x, y, 0.15, steps=5)
    left = said.value.partial
    assert isinstance(left, ad.attack.Ensemble)
    assert 1 < int(left.success.sum()) <= int(whole.success.sum())
    assert torch.equal(left.success, model(left.x).argmax(1) != y)
    assert left.by[3] == "x itself"
