"""Training: losses that are what they say, a loop that goes on where it was killed."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autodual as ad
from autodual import train
from autodual.errors import InputError, TrainingError, TrainingWarning
from autodual.files import load, save
from autodual.train.free import attacked_error
from autodual.train.initial import balance, boxes, tightness
from autodual.train.losses import differences

BALL = ad.LinfBall(0.1, domain=(0, 1))
FAST = partial(torch.optim.Adam, lr=0.02)


def small(*more):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), *more, nn.ReLU(), nn.Flatten(), nn.Linear(36, 4)
    )


def data(count=60):
    """Images of four kinds, a bright quarter each."""
    generator = torch.Generator().manual_seed(1)
    x, y = 0.5 * torch.rand(count, 1, 8, 8, generator=generator), torch.arange(count) % 4
    for i, label in enumerate(y.tolist()):
        row, column = divmod(label, 2)
        x[i, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.5
    return x, y


def certified(bounds="ibp", ball=BALL, model=None):
    return ad.certify(small() if model is None else model, ball, bounds=bounds)


def loss_of(loss, net, x, y):
    torch.manual_seed(5)
    return loss(net, x, y).detach()


@pytest.mark.parametrize(
    "ball",
    [
        BALL,
        ad.L2Ball(0.5),
        ad.L1Ball(1.0, domain=(0, 1)),
        ad.Union(ad.LinfBall(0.05), ad.L2Ball(0.5)),
        ad.Wasserstein(0.1),
    ],
    ids=str,
)
@pytest.mark.parametrize("union", ["worst", "average", "msd"])
@pytest.mark.parametrize(("steps", "start"), [(0, "random"), (1, "random"), (5, "x")])
def test_an_adversary_stays_inside_and_leaves_the_model_alone(ball, union, steps, start):
    model, (x, y) = small(nn.BatchNorm2d(4)).train(), data(8)
    before = [t.clone() for t in model.state_dict().values()]
    found = train.Adversary(steps, start=start, union=union).points(model, x, y, ball)
    members = ball.members if len(found) > 1 else (ball,)
    for point, member in zip(found, members, strict=True):
        assert member.contains(x, point, 1e-4).all()
    assert all(module.training for module in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_an_adversary_of_several_steps_does_more_than_one():
    model, (x, y) = small(), data()
    recipe = train.Recipe(loss=train.Standard(), epochs=20, batch=20, optimizer=FAST)
    train.fit(certified(model=model), (x, y), recipe)

    def at(steps):
        torch.manual_seed(0)
        (point,) = train.Adversary(steps).points(model, x, y, BALL)
        return float(F.cross_entropy(model(point), y).detach())

    assert float(F.cross_entropy(model(x), y).detach()) < at(0) < at(10)
    assert at(1) <= at(10)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_growing_set_ends_each_path_where_the_model_errs(dtype):
    model, (x, y) = small(), data(24)
    recipe = train.Recipe(loss=train.Standard(), epochs=20, batch=20, optimizer=FAST)
    train.fit(certified(model=model), (x, y), recipe)
    y[3] = (y[3] + 1) % 4
    whole = ad.LinfBall(0.5, domain=(0, 1))
    for ball in (ad.Union(whole, ad.L2Ball(2.0, domain=(0, 1))), whole):
        attack = train.Growing(30, smallest=0.05, factor=2, start="x", dtype=dtype)
        (point,) = attack.points(model, x, y, ball)
        assert ball.contains(x, point, 1e-4).all()
    assert torch.equal(point[3], x[3])  # wrong as it is
    fooled = model(point).argmax(1) != y
    far = (point - x).flatten(1).abs().amax(1)
    assert fooled.float().mean() > 0.9
    assert far[fooled].max() < 0.49  # found before the set was whole
    (point,) = train.Growing(5, smallest=0.02).points(model, x, y, whole)
    assert whole.scaled(0.021).contains(x, point, 1e-4).all()


def test_half_precision_finds_points_of_the_set_and_bounds_refuse_it():
    model, (x, y) = small(), data(8)
    (point,) = train.Adversary(3, dtype=torch.bfloat16).points(model, x, y, BALL)
    assert point.dtype == x.dtype
    assert BALL.contains(x, point, 1e-4).all()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match="autocast"):
        ad.robust_loss(certified(), x, y)


def test_images_are_moved_mirrored_and_cut():
    x = torch.rand(50, 3, 6, 8) + 0.1
    moved = train.shifted(2)(x)
    padded = F.pad(x, (2, 2, 2, 2))
    seen = set()
    for i in range(50):
        places = [(r, c) for r in range(5) for c in range(5)]
        same = [p for p in places if torch.equal(moved[i], padded[i, :, p[0] :, p[1] :][:, :6, :8])]
        assert len(same) == 1
        seen.update(same)
    assert len(seen) > 10
    mirrored = train.flipped(x)
    whole = [torch.equal(m, o) for m, o in zip(mirrored, x, strict=True)]
    assert 5 < sum(whole) < 45
    assert all(w or torch.equal(m, o.flip(2)) for w, m, o in zip(whole, mirrored, x, strict=True))
    cut = train.together(train.shifted(0), train.cutout(3))(x)
    blank = cut == 0
    assert torch.equal(cut[~blank], x[~blank])
    assert torch.equal(blank[:, 0], blank[:, 2])
    counts = blank[:, 0].flatten(1).sum(1)
    assert int(counts.max()) == 9
    assert int(counts.min()) >= 4


def test_augmentation_is_the_same_after_a_kill_and_weights_are_averaged(tmp_path):
    recipe = train.Recipe(
        loss=train.Mixup(train.Standard()),
        epochs=4,
        batch=20,
        optimizer=FAST,
        augment=train.shifted(1),
        average=1,
        average_from=2,
    )
    whole = train.fit(certified(), data(), recipe)
    train.fit(certified(), data(), replace(recipe, epochs=1), out=tmp_path)
    parts = train.fit(certified(), data(), recipe, out=tmp_path)
    ends = [state.model.state_dict() for state in (whole, parts)]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    assert not torch.equal(ends[0]["0.weight"], whole.net.model.state_dict()["0.weight"])
    assert int(whole.averaged.n_averaged) == 6  # three steps of each of the last two epochs

    seen = []

    class Keep(train.Hook):
        def after_step(self, state, loss):
            seen.append(state.net.model[0].weight.detach().clone())

    late = train.fit(certified(), data(), recipe, hooks=[Keep()])
    torch.testing.assert_close(late.model[0].weight, torch.stack(seen[-6:]).mean(0))


def test_a_net_labels_what_has_no_labels():
    model, (x, y) = small(nn.BatchNorm2d(4)).train(), data()
    recipe = train.Recipe(loss=train.Standard(), epochs=20, batch=20, optimizer=FAST)
    train.fit(certified(model=model), (x[:20], y[:20]), recipe)
    more, labels = train.pseudo_labelled(model, x[20:], batch=7)
    assert torch.equal(more, x[20:])
    assert (labels == y[20:]).float().mean() > 0.9
    sure, some = train.pseudo_labelled(model, x, least=0.95)
    model.eval()
    assert len(sure) < len(x)
    assert model(sure).softmax(1).amax(1).min() >= 0.949
    assert torch.equal(model(sure).argmax(1), some)
    with pytest.raises(InputError, match="less sure"):
        train.pseudo_labelled(model, x, least=1.1)
    both = train.balanced((x[:20], y[:20]), (more, labels))
    assert torch.equal(both[0], torch.cat([x[:20], x[:20], more]))
    assert torch.equal(both[1], torch.cat([y[:20], y[:20], labels]))


def test_training_ends_when_patience_does(tmp_path):
    errors = iter([0.5, 0.3, 0.4, 0.3, 0.1])

    def validate(net):
        return {"error": next(errors)}

    recipe = train.Recipe(loss=train.Standard(), epochs=5, patience=2)
    state = train.fit(certified(), data(), recipe, validate=validate)
    assert state.epoch == 4
    assert state.best == 0.3
    with pytest.raises(InputError, match="patience= waits"):
        train.fit(certified(), data(), recipe)
    with pytest.raises(InputError, match="patience= waits"):
        train.fit(certified(), data(), recipe, validate=lambda net: {"clean": 0.0})


def test_losses_agree_where_they_should():
    net, (x, y) = certified(), data(12)
    ibp, both = net, certified("ibp+dual", model=net.model)
    bound = ad.robust_loss(net, x, y).detach()
    same = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)
    plain = F.cross_entropy(net.model(x), y).detach()
    same(loss_of(train.Standard(), net, x, y), plain)
    same(loss_of(train.Robust(), net, x, y), bound)
    same(loss_of(train.SmallBox(1.0), net, x, y), bound)
    same(loss_of(train.TRADES(beta=0), net, x, y), plain)
    same(loss_of(train.CrownIBP(0.0), both, x, y), bound)
    same(loss_of(train.CrownIBP(1.0), both, x, y), ad.robust_loss(both, x, y).detach())
    attack = train.Adversary(3)
    adversarial = loss_of(train.Adversarial(attack), net, x, y)
    for combine in ("cc", "mtl", "exp"):
        ends = [loss_of(train.Expressive(a, combine, attack), ibp, x, y) for a in (0.0, 0.5, 1.0)]
        same(ends[0], adversarial)
        same(ends[2], bound)
        assert ends[0] < ends[1] < ends[2]
    mixed = train.Mixed(train.Standard(), train.Robust(), 0.25)
    same(loss_of(mixed, net, x, y), 0.75 * plain + 0.25 * bound)
    same(loss_of(replace(mixed, coefficient=1.0), net, x, y), bound)
    assert plain < loss_of(train.SmallBox(0.4), net, x, y) < bound
    alike = x[:1].expand_as(x), y[:1].expand_as(y)
    same(loss_of(train.Mixup(train.Robust()), net, *alike), loss_of(train.Robust(), net, *alike))
    assert loss_of(train.TRADES(beta=2.0), net, x, y) > plain


@pytest.mark.parametrize(
    "loss",
    [
        train.Standard(),
        train.Adversarial(),
        train.Robust(),
        train.Robust(train.hinge),
        train.Expressive(),
        train.Expressive(combine="cc"),
        train.Expressive(combine="exp"),
        train.SmallBox(),
        train.TRADES(),
        train.CrownIBP(0.5),
        train.Mixed(train.Standard(), train.Robust(), 0.5),
        train.Regularised(train.Robust()),
        train.Mixup(train.Robust(), 0.2),
        train.Free(),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_every_loss_trains(loss):
    net, (x, y) = certified(ball=ad.LinfBall(0.03, domain=(0, 1))), data()
    ramp = train.Ramp(0, 1, 0, 10)
    recipe = train.Recipe(loss=loss, epochs=20, batch=20, eps=ramp, optimizer=FAST)
    state = train.fit(net, (x, y), recipe)
    assert state.history[-1]["loss"] < 0.7 * state.history[0]["loss"]
    assert (net.model(x).argmax(1) == y).float().mean() > 0.9


def test_a_bound_on_the_hinge_holds_at_an_attacks_points():
    net, (x, y) = certified("ibp&dual"), data(20)
    bound = float(ad.robust_loss(net, x, y, loss=train.hinge).detach())
    for steps in (0, 10):
        (point,) = train.Adversary(steps).points(net.model, x, y, BALL)
        assert train.hinge(net.model(point), y) <= bound + 1e-5


def test_differences_are_of_one_logit_too():
    net = ad.certify(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), 0.1)
    x, y = data(6)
    y = y % 2
    worst, labels = net.worst(x, y)
    z = differences(net, x, labels)
    assert z.shape == worst.shape == (6, 2)
    assert (z <= worst + 1e-6).all()
    assert (z[range(6), y] == 0).all()


def test_what_losses_are_told_is_checked():
    for make in (
        partial(train.Expressive, 1.5),
        partial(train.Expressive, combine="ctl"),
        partial(train.Mixed, train.Standard(), train.Robust(), -0.1),
        partial(train.SmallBox, 2.0),
        partial(train.Adversary, -1),
        partial(train.Adversary, start="y"),
        partial(train.Adversary, union="best"),
        partial(train.Adversary, step_size=0.0),
        partial(train.Adversary, dtype=torch.int8),
        partial(train.Growing, smallest=0.0),
        partial(train.Growing, factor=0.5),
        partial(train.Mixup, train.Robust(), 0.0),
        partial(train.Ramp, 0, 1, 2, 1),
        partial(train.Ramp, 0, math.inf),
    ):
        with pytest.raises(InputError):
            make()
    x, y = data(4)
    box = ad.certify(small(), ad.Box(x - 0.1, x + 0.1), bounds="ibp")
    with pytest.raises(InputError, match="scaled"):
        train.SmallBox()(box, x, y)


def test_a_ramp_goes_from_one_value_to_the_other():
    for smooth in (False, True):
        ramp = train.Ramp(0.0, 0.3, 1, 3, smooth)
        values = [ramp(t / 4) for t in range(20)]
        assert values[0] == values[4] == 0
        assert values[12] == values[-1] == 0.3
        assert all(a <= b for a, b in pairwise(values))
        assert ramp(2) == pytest.approx(0.15)


@pytest.mark.parametrize("loader", [False, True], ids=["tensors", "DataLoader"])
@pytest.mark.parametrize(
    "loss", [train.Adversarial(train.Adversary(2)), train.Free()], ids=["pgd", "free"]
)
def test_a_training_goes_on_to_the_same_bits(tmp_path, loader, loss):
    """Stopped in the middle of any epoch, and begun anew from the file."""

    class Stop(train.Hook):
        def __init__(self, at):
            self.left = at

        def after_step(self, state, loss):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    def run(out, *, stop=None, epochs=3):
        free = train.Free() if isinstance(loss, train.Free) else None
        net = certified(model=small(nn.BatchNorm2d(4), nn.Dropout(0.2)))
        pairs = DataLoader(TensorDataset(*data()), 16, shuffle=True) if loader else data()
        recipe = train.Recipe(
            loss=free or loss,
            epochs=epochs,
            batch=16,
            average=0.9,
            clip=1.0,
            replays=2 if free else 1,
            optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9),
            rate=lambda o, n: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=n),
        )
        hooks = [free or train.Hook(), *([Stop(stop)] if stop else [train.Hook()])]
        return train.fit(net, pairs, recipe, out=out, every=1, hooks=hooks)

    whole = run(tmp_path / "whole")
    torch.rand(3)
    for stop in (1, 3, 5):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", stop=stop)
    parts = run(tmp_path / "parts")
    for model in ("model",):
        a, b = (getattr(s, model).state_dict() for s in (whole, parts))
        assert all(torch.equal(a[k], b[k]) for k in a)
    a, b = (s.net.model.state_dict() for s in (whole, parts))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert [r["loss"] for r in whole.history] == [r["loss"] for r in parts.history]
    assert len(parts.history) == 3


def test_a_training_goes_on_when_killed_in_its_validation(tmp_path):
    """The last file is then of the last step of an epoch that is not closed yet."""
    left = [1]

    def validate(net):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return {"error": 0.5}

    recipe = train.Recipe(loss=train.Standard(), epochs=2, batch=20, eps=train.Ramp(0, 1, 0, 2))
    with pytest.raises(KeyboardInterrupt):
        train.fit(certified(), data(), recipe, validate=validate, out=tmp_path, every=1)
    parts = train.fit(certified(), data(), recipe, validate=validate, out=tmp_path, every=1)
    whole = train.fit(certified(), data(), recipe, validate=lambda net: {"error": 0.5})
    for name in ("loss", "scale"):
        assert [row[name] for row in parts.history] == [row[name] for row in whole.history]
    assert whole.history[0]["scale"] == pytest.approx(1 / 3)


def test_the_callers_random_numbers_are_left_alone():
    net = certified()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train.fit(net, data(8), train.Recipe(loss=train.Adversarial(), epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_validation_keeps_the_best_weights(tmp_path):
    errors = iter([0.5, 0.2, 0.4])
    seen = []

    def validate(net):
        assert not net.model.training
        seen.append(net.model.state_dict()["0.weight"].clone())
        return {"error": next(errors)}

    net = certified(model=small().train())
    state = train.fit(
        net, data(), train.Recipe(loss=train.Standard(), epochs=3), validate=validate, out=tmp_path
    )
    best = load(tmp_path / "best.pt")
    assert torch.equal(best["model"]["0.weight"], seen[1])
    assert best["row"]["error"] == state.best == 0.2
    assert [row["error"] for row in state.history] == [0.5, 0.2, 0.4]
    assert net.model.training


def test_a_file_of_another_training_is_refused(tmp_path):
    recipe = train.Recipe(loss=train.Standard(), epochs=1)
    train.fit(certified(), data(), recipe, out=tmp_path)
    for other, model in ((replace(recipe, batch=30), None), (recipe, small(nn.BatchNorm2d(4)))):
        with pytest.raises(InputError, match=r"last\.pt"):
            train.fit(certified(model=model), data(), other, out=tmp_path)
    planned = replace(recipe, rate=train.one_cycle(1e-3))
    train.fit(certified(), data(), planned, out=tmp_path / "planned")
    with pytest.raises(InputError, match=r"'epochs': 1.*'epochs': 2"):
        train.fit(certified(), data(), replace(planned, epochs=2), out=tmp_path / "planned")
    (tmp_path / "last.pt").write_bytes((tmp_path / "last.pt").read_bytes()[:500])
    with pytest.raises(InputError, match="no whole file"):
        train.fit(certified(), data(), recipe, out=tmp_path)


def test_a_file_is_whole_or_the_old_one(tmp_path):
    path = tmp_path / "some.pt"
    save({"a": torch.ones(2)}, path)

    class Bad:
        def __reduce__(self):
            raise RuntimeError("cannot be written")

    with pytest.raises(RuntimeError, match="cannot be written"):
        save({"b": Bad()}, path)
    assert torch.equal(load(path)["a"], torch.ones(2))
    assert [p.name for p in tmp_path.iterdir()] == ["some.pt"]


def test_a_loss_that_is_no_number_ends_it_and_nothing_is_lost(tmp_path):
    def bad(net, x, y):
        return F.cross_entropy(net.model(x), y) * math.nan

    recipe = train.Recipe(loss=train.Standard(), epochs=1)
    train.fit(certified(), data(), recipe, out=tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(TrainingError, match="step 1 of epoch 2"):
        train.fit(certified(), data(), replace(recipe, loss=bad, epochs=2), out=tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before


@pytest.mark.parametrize(
    "wrong",
    [
        3,
        (torch.rand(2, 3),),
        (torch.rand(2, 3), torch.zeros(3)),
        (torch.rand(0, 3), torch.zeros(0)),
    ],
    ids=["number", "one", "sizes", "empty"],
)
def test_data_that_is_none_is_refused(wrong):
    with pytest.raises(InputError):
        train.Batches(wrong)


def test_batches_are_every_example_once_whatever_the_ranks():
    x, y = torch.arange(23.0).reshape(-1, 1), torch.arange(23)
    whole = [b[1].tolist() for b in train.Batches((x, y), 6).of(2)]
    assert sorted(label for batch in whole for label in batch) == list(range(23))
    assert [b[1].tolist() for b in train.Batches((x, y), 6).of(2, 1)] == whole[1:]
    assert whole != [b[1].tolist() for b in train.Batches((x, y), 6).of(3)]
    parts = [
        [b[1].tolist() for b in train.Batches((x, y), 6, rank=r, ranks=2).of(2)] for r in (0, 1)
    ]
    for all_, one, two in zip(whole, *parts, strict=True):
        assert sorted(one + two) == sorted(all_)


def test_free_training_moves_points_inside_the_set():
    free, (x, y) = train.Free(), data(8)
    net = certified(ball=ad.LinfBall(0.1))
    for _ in range(3):
        free(net, x, y).backward()
        assert BALL.contains(x.clamp(0.1, 0.9), (x.clamp(0.1, 0.9) + free.step), 1e-5).all()
    assert free.step.abs().max() == pytest.approx(0.1)
    first = free.step.clone()
    free(net, x[:3], y[:3]).backward()
    assert torch.equal(free.step[3:], first[3:])


def test_catastrophic_overfitting_is_caught_and_undone():
    """An attack that finds nothing stands for one that has stopped working."""
    net, (x, y) = certified(), data()
    watch = train.Watch(every=5, jump=0.2)
    fast = train.Adversarial(train.Adversary(1))
    good = train.Recipe(loss=fast, epochs=20, batch=20, optimizer=FAST)
    state = train.fit(net, (x, y), good, hooks=[watch])
    assert watch.caught == []
    kept = net.model.state_dict()["0.weight"].clone()
    with torch.no_grad():
        net.model[0].weight.zero_()
        net.model[3].weight.mul_(-1)
    watch.before_step(state, x, y)
    watch._count = 4
    with pytest.warns(TrainingWarning, match="catastrophic overfitting at step 5"):
        watch.after_step(state, 0.0)
    assert torch.equal(net.model.state_dict()["0.weight"], kept)
    watch.before_step(state, x, y)
    assert state.recipe.loss.attack.steps == 2
    again = train.Watch()
    again.load_state_dict(watch.state_dict())
    fresh = train.trainer.start(net, good, 3)
    again.before_step(fresh, x, y)
    assert fresh.recipe.loss.attack.steps == 2
    with pytest.raises(InputError, match="Adversarial"):
        train.fit(net, (x, y), train.Recipe(loss=train.Standard(), epochs=1), hooks=[watch])


def test_attacked_error_counts_what_a_few_steps_fool():
    net, (x, y) = certified(), data()
    assert attacked_error(net.at(0.0), x, y, 1) == float(
        (net.model(x).argmax(1) != y).float().mean()
    )


def test_interval_start_keeps_widths():
    torch.manual_seed(0)
    model = nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(200, 200), nn.ReLU())))
    train.start_for_intervals(model)
    box = ad.certify(model, 0.1, bounds="ibp").bounds(torch.rand(4, 200))
    width = float((box.upper - box.lower).detach().mean())
    assert 0.02 < width < 2  # 0.2 at the input; torch's own start gives 6 orders more or less
    assert all((m.bias == 0).all() for m in model if isinstance(m, nn.Linear))


def test_regularisers_are_nothing_where_all_is_well():
    net, (x, y) = certified(), data(8)
    box, inside = boxes(net, x)
    assert len(inside) == 1
    assert inside[0].lower.shape == (8, 4, 3, 3)
    narrow = [type(box)(box.lower, box.upper)]
    assert float(tightness(box, narrow, 0.5)) == 0
    wide = [type(box)(box.lower - 10, box.upper + 10)]
    assert 0.9 < float(tightness(box, wide, 0.5)) <= 1
    on = torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert float(balance([type(box)(on - 0.1, on + 0.1)], 0.5)) == 0
    assert float(balance([type(box)(on.abs() - 0.1, on.abs() + 0.1)], 0.5)) == pytest.approx(
        2 * 0.5 / 2 / 0.5
    )
    plain = train.Robust()
    regularised = train.Regularised(plain, weight=0.0)
    assert regularised(net, x, y) == plain(net, x, y)
    with torch.no_grad():
        net.model[0].weight *= 20
    assert train.Regularised(plain, weight=1.0)(net, x, y) > plain(net, x, y) + 0.1


RANKS = """
import os, sys, torch
sys.path.insert(0, {tests!r})
import torch.distributed as dist
from test_train import MIXED, NEAR, ad, certified, data, sgd, train
torch.set_num_threads(1)
dist.init_process_group("gloo")


class Lost(train.Hook):
    def after_step(self, state, loss):
        first = not os.path.exists({out!r} + "/lost")
        if first and state.epoch == 1 and state.step == 2 and dist.get_rank() == 1:
            open({out!r} + "/lost", "w").close()
            os._exit(1)


net = certified()
recipe = train.Recipe(loss=MIXED, epochs=5, batch=20, optimizer=sgd, patience=1)
validate = lambda net: {{"error": 0.5}}
state = train.fit(
    net, data(), recipe, validate=validate, out={out!r}, every=1, hooks=[Lost()]
)
net.model.load_state_dict(torch.load({out!r} + "/last.pt")["model"])
near = net.at(NEAR)
found = ad.evaluate(near, data(), rungs=(), batch=7, rows={out!r} + "/rows.csv", sharded=True)
if dist.get_rank() == 1:
    torch.save([row.index for row in found.rows if row.status == "verified"], {out!r} + "/rows.pt")
dist.destroy_process_group()
"""

NEAR = ad.LinfBall(0.01, domain=(0, 1))
MIXED = train.Mixed(train.Standard(), train.Robust(), 0.5)


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1)


@pytest.mark.long
def test_two_ranks_learn_what_one_does_though_one_is_lost(tmp_path):
    script = tmp_path / "ranks.py"
    tests = __file__.rsplit("/", 1)[0]
    script.write_text(RANKS.format(tests=tests, out=str(tmp_path)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    subprocess.run(
        # one for the rank that is lost, and some for gloo, which now and then aborts at exit
        [*torchrun, "--nproc-per-node=2", "--max-restarts=4", script],
        env=os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        check=True,
        capture_output=True,
        timeout=300,
    )
    assert (tmp_path / "lost").exists()
    net = certified()
    train.fit(net, data(), train.Recipe(loss=MIXED, epochs=2, batch=20, optimizer=sgd))
    ends = load(tmp_path / "last.pt")["model"], net.model.state_dict()
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], rtol=1e-4, atol=1e-5)

    net.model.load_state_dict(ends[0])
    lines = [(tmp_path / name).read_text().splitlines() for name in ("rows.csv", "rows.1.csv")]
    assert [len(each) - 2 for each in lines] == [32, 28]  # of 60, sevens in turn
    near = net.at(NEAR)
    alone = ad.evaluate(near, data(), rungs=(), batch=7)
    proved = [row.index for row in alone.rows if row.status == "verified"]
    assert load(tmp_path / "rows.pt") == proved
    assert len(proved) > 0
    rows = tmp_path / "rows.csv"
    again = ad.evaluate(near, data(), rungs=(), batch=60, rows=rows)  # all is known
    assert [row.index for row in again.rows] == list(range(60))
    assert (tmp_path / "rows.csv").read_text().splitlines() == lines[0]
