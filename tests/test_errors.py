"""Each misuse gets one clear error: what, where in the user's code, why, what to do."""

import re

import pytest
import torch
from torch import nn

import autodual as ad
from autodual import errors
from tests.refusals import REFUSALS, refuse

X = torch.rand(4, 3)
Y = torch.tensor([0, 1, 0, 1])


def net(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    return ad.certify(model, options.pop("eps", 0.1), **options)


def lam(f, **modules):
    class User(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)
            for name, module in modules.items():
                setattr(self, name, module)

        def forward(self, x):
            return f(self, x)

    return User()


BAD_CALLS = {
    "NaN": (lambda: net()(X * float("nan"), Y), errors.InputError, "NaN or infinity.*example 0"),
    "inf": (lambda: net()(X / 0, Y), errors.InputError, "NaN or infinity"),
    "rank": (lambda: net()(X[0], Y), errors.InputError, r"unsqueeze\(0\)"),
    "int": (lambda: net()(X.long(), Y), errors.InputError, r"x\.float\(\)"),
    "half": (lambda: net()(X.half(), Y), errors.InputError, "float32 or float64"),
    "half model": (
        lambda: ad.certify(net().model.half(), 0.1)(X.half(), Y),
        errors.ModelError,
        r"model is in torch.float16.*Call model\.float\(\).*not of what it gives",
    ),
    "half model, x not": (
        lambda: ad.certify(net().model.bfloat16(), 0.1)(X, Y),
        errors.ModelError,
        r"torch.bfloat16.*model\.float\(\)",
    ),
    "partly half": (
        lambda: ad.certify(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).half()), 0.1)(X, Y),
        errors.ModelError,
        r"torch.float16.*model\.float\(\)",
    ),
    "double": (lambda: net()(X.double(), Y), errors.InputError, "and the model torch.float32"),
    "list": (lambda: net()([1.0], Y), errors.InputError, "must be a tensor"),
    "array": (lambda: net()(X.numpy(), Y), errors.InputError, r"torch\.as_tensor"),
    "one-hot": (
        lambda: net()(X, nn.functional.one_hot(Y, 2)),
        errors.InputError,
        r"one class for each example; of one-hot rows take y\.argmax\(1\)",
    ),
    "coverage of a bound": (
        lambda: ad.coverage(net(), X),
        errors.ModelError,
        r"give net\.model",
    ),
    "check without a bound": (
        lambda: ad.self_check(net().model, X, Y),
        errors.ModelError,
        r"needs certify\(model, eps\), not Sequential",
    ),
    "loss by name": (
        lambda: ad.robust_loss(net(), X, Y, loss="hinge"),
        errors.InputError,
        "loss= is a function of logits and labels, not 'hinge'",
    ),
    "attack's loss by name": (
        lambda: ad.attack.pgd(net().model, X, Y, 0.1, loss="dlr"),
        errors.InputError,
        "loss= is a function of the output, not 'dlr'",
    ),
    "empty": (lambda: net()(X[:0], Y[:0]), errors.InputError, "empty batch"),
    "features": (lambda: net()(torch.rand(4, 7), Y), errors.ModelError, "the model itself fails"),
    "label high": (lambda: net()(X, Y + 1), errors.InputError, "classes 0 to 1"),
    "label low": (lambda: net()(X, Y - 1), errors.InputError, r"span \[-1"),
    "label float": (lambda: net()(X, Y.float()), errors.InputError, r"y\.long\(\)"),
    "label shape": (lambda: net()(X, Y[:2]), errors.InputError, r"needs \[4\]"),
    "negative eps": (lambda: net(eps=-0.1), errors.InputError, "at least 0"),
    "NaN eps": (lambda: net(eps=float("nan")), errors.InputError, "finite"),
    "string eps": (lambda: net(eps="big"), errors.InputError, "must be a number"),
    "list of eps": (lambda: net(eps=[0.1, 0.2]), errors.InputError, "must be a number or a tensor"),
    "complex eps": (lambda: net(eps=torch.tensor([0.1j])), errors.InputError, "must be a number"),
    "eps shape": (
        lambda: net(eps=torch.rand(3))(X, Y),
        errors.InputError,
        r"shape \[3\] and the batch 4.*ad.Box\(x - e, x \+ e\)",
    ),
    "eps rank": (lambda: net(eps=torch.rand(3, 2)), errors.InputError, "a number or a tensor.*Box"),
    "eps of either kind": (
        lambda: net(eps=torch.full((3,), 0.1))(X[:3], Y[:3]),
        errors.InputError,
        r"one ε per example, or one per feature\? For.*e.reshape\(3, 1\).*ad.Box\(x - e, x \+ e\)",
    ),
    "eps of channels": (
        lambda: net(eps=torch.full((4, 1, 1), 0.1))(X, Y),
        errors.InputError,
        r"shape \[4, 1, 1\].*ad.Box",
    ),
    "eps of either kind, attacked": (
        lambda: ad.attack.pgd(net().model, X[:3], Y[:3], torch.full((3,), 0.1)),
        errors.InputError,
        "per example, or one per feature",
    ),
    "eps of either kind, in training": (
        lambda: ad.robust_loss(net().model, X[:3], Y[:3], ad.L2Ball(torch.full((3,), 0.1))),
        errors.InputError,
        "per example, or one per feature",
    ),
    "domain": (
        lambda: net(eps=ad.L2Ball(0.1, domain=(0, 0.5)))(X, Y),
        errors.DomainError,
        "leaves the domain",
    ),
    "domain of tensors": (
        lambda: net(eps=ad.L2Ball(0.1, domain=(torch.zeros(3), torch.full((3,), 0.5))))(X, Y),
        errors.DomainError,
        r"leaves the domain \(tensor\[3\] of 0, tensor\[3\] of 0.5\): it spans",
    ),
    "domain order": (lambda: ad.LinfBall(0.1, domain=(1, 0)), errors.InputError, "lo must be"),
    "domain kind": (lambda: ad.LinfBall(0.1, domain=3), errors.InputError, "pair"),
    "box order": (lambda: ad.Box(X, X - 1), errors.InputError, "lower ≤ upper"),
    "box shape": (
        lambda: net(eps=ad.Box(torch.zeros(7), torch.ones(7)))(X, Y),
        errors.InputError,
        "must broadcast",
    ),
    "not a module": (lambda: ad.certify(torch.relu, 0.1), errors.ModelError, "nn.Module"),
    "method": (lambda: net(bounds="magic"), errors.InputError, "ibp&dual"),
    "spec": (lambda: net().lower_bound(X, torch.ones(3, 5)), errors.InputError, r"rows \[S, 2\]"),
    "no rows": (
        lambda: net().lower_bound(X, torch.ones(0, 2)),
        errors.InputError,
        r"rows \[S, 2\]",
    ),
    "spec NaN": (
        lambda: net().lower_bound(X, torch.full((1, 2), torch.nan)),
        errors.InputError,
        "C holds NaN",
    ),
    "spec dtype": (
        lambda: net().lower_bound(X, torch.ones(1, 2).double()),
        errors.InputError,
        "the dtype and device of x",
    ),
    "no eps": (lambda: ad.robust_loss(net().model, X, Y), errors.InputError, "needs eps"),
    "radius of a box": (
        lambda: net(eps=ad.Box(X, X)).radius(X, Y),
        errors.InputError,
        "has no radius",
    ),
    "box ends": (lambda: ad.Box(torch.zeros(2), torch.ones(3)), errors.InputError, "has ends"),
    "box too large": (
        lambda: net(eps=ad.Box(torch.zeros(2, 4, 3), torch.ones(2, 4, 3)))(X, Y),
        errors.InputError,
        "must broadcast",
    ),
    "domain shape": (
        lambda: net(eps=ad.LinfBall(0.1, domain=(torch.zeros(5), torch.ones(5))))(X, Y),
        errors.InputError,
        "must broadcast",
    ),
    "perturb": (
        lambda: net(perturb="z")(X, Y),
        errors.InputError,
        "perturb='z' names no argument of this call, which passes input: give a name",
    ),
    "perturb, by position": (lambda: net(perturb=3)(X, Y), errors.InputError, "passes input"),
    "arguments": (
        lambda: net()(ad.Inputs(X, other=X), Y),
        errors.InputError,
        "does not take these arguments",
    ),
    "inputs side by side": (
        lambda: net()(X, X, Y),
        errors.InputError,
        r"Certified\(x, y\) does not take \(tensor\[4, 3\].*too many.*ad\.Inputs\(image, meta\)",
    ),
    "inputs side by side, rows": (
        lambda: net().lower_bound(X, X, torch.eye(2)),
        errors.InputError,
        r"Certified.lower_bound\(x, C\) does not take.*ad\.Inputs\(image, meta\)",
    ),
    "inputs side by side, in training": (
        lambda: ad.RobustLoss(net())(X, X, Y, 0.1),
        errors.InputError,
        r"RobustLoss\(x, y, eps\) does not take.*ad\.Inputs\(image, meta\)",
    ),
    "options of certify": (
        lambda: ad.robust_loss(net().model, X, Y, eps=0.1, perturb="x"),
        errors.InputError,
        r"perturb='x'\).*ad\.robust_loss\(ad\.certify\(model, eps, perturb=\.\.\.\), x, y\)",
    ),
    "options of certify, in a module": (
        lambda: ad.RobustLoss(net().model, 0.1, slopes="equal"),
        errors.InputError,
        r"RobustLoss\(net, eps, bounds, loss, fused\) does not take.*slopes='equal'",
    ),
    "no steps": (lambda: net().radius(X, Y, steps=0), errors.InputError, "steps=0: give a whole"),
    "half a step": (lambda: net().radius(X, Y, steps=2.5), errors.InputError, "steps=2.5: give"),
    "half a step, of a property": (
        lambda: net().holds(X, ad.AtLeastOne(torch.eye(2)), steps=0.5),
        errors.InputError,
        "steps=0.5: give a whole number, at least 0",
    ),
    "values of another shape": (
        lambda: net().within(X, 0.1, Y),
        errors.InputError,
        r"float32 tensor \[4, 2\].*not tensor\[4\] from 0 to 1: it needs a number for each",
    ),
    "values of one output": (
        lambda: ad.certify(lam(lambda s, x: s.fc(x)[:, :1]), 0.1).within(X, 0.1, Y),
        errors.InputError,
        r"give y\.to\(torch\.float32\)\.reshape\(4, 1\)",
    ),
    "values in a list": (
        lambda: net().within(X, 0.1, [[0.5, 1.0]] * 4),
        errors.InputError,
        r"give torch\.as_tensor\(y\)$",
    ),
    "tolerance of one output": (
        lambda: ad.certify(lam(lambda s, x: s.fc(x)[:, :1]), 0.1).within(X, torch.ones(4)),
        errors.InputError,
        r"tolerance has shape \[4\]; the output's is \[4, 1\]: give tolerance\.reshape\(4, 1\)",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(name):
    call, kind, message = BAD_CALLS[name]
    with pytest.raises(kind, match=message):
        call()


def test_errors_inside_a_call_stay_what_they_are():
    with pytest.raises(TypeError, match="takes 1 positional argument"):
        ad.robust_loss(net(), X, Y, loss=lambda z: z)


def test_autocast_is_refused():
    certified = net()
    expected = certified(X, Y).margins
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for call in (certified, certified.margins, lambda x, y: ad.robust_loss(certified, x, y)):
            with pytest.raises(errors.InputError, match=r"autocast is on.*enabled=False"):
                call(X, Y)
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(certified(X, Y).margins, expected)


def branch(self, x):
    if x.sum() > 0:
        return self.fc(x)
    return -self.fc(x)


@torch.enable_grad()
def gradient(s, x):
    x = x.requires_grad_()
    return torch.autograd.grad(s.fc(x).tanh().sum(), x, create_graph=True)[0]


BAD_MODELS = {
    "branch": (branch, errors.ControlFlowError, r"test_errors.py:\d+ `if x.sum\(\) > 0:`.*where"),
    "item": (lambda s, x: s.fc(x) * float(x.mean()), errors.ControlFlowError, "keep numbers"),
    "batch size": (lambda s, x: s.fc(x.view(4, -1)), errors.BatchError, "fixes the batch size"),
    "batch branch": (
        lambda s, x: s.fc(x) if x.size(0) > 3 else -s.fc(x),
        errors.BatchError,
        "fixes the batch size",
    ),
    "mean of batch": (lambda s, x: s.fc(x - x.mean(0)), errors.BatchError, "mixed at.*mean"),
    "flip of batch": (lambda s, x: s.fc(x + x.flip(0)), errors.BatchError, "mixed at.*flip"),
    "repeated batch": (
        lambda s, x: s.fc(x.repeat(2, 1).relu()[: len(x)]),
        errors.BatchError,
        "mixed at.*repeat|fixes the batch size",
    ),
    "hidden mixing": (
        lambda s, x: s.fc((x + 100).flip(0).clamp(max=0) + x),
        errors.BatchError,
        "mixed at.*flip",
    ),
    "batch product": (lambda s, x: (x @ x.T) @ s.fc(x), errors.BatchError, "mixed at"),
    "round": (lambda s, x: s.fc(x.round()), errors.UnsupportedOpError, r"aten.round.default at .*"),
    "two of them": (
        lambda s, x: s.fc(torch.digamma(x) + torch.lgamma(x)),
        errors.UnsupportedOpError,
        r"(?s)2 operation.*digamma.*lgamma.*CONTRIBUTING",
    ),
    "count": (
        lambda s, x: s.fc(x) * (x > 0.5).sum(1, keepdim=True),
        errors.UnsupportedOpError,
        "(?s)gt.*gives torch.bool.*sum.*reads torch.bool",
    ),
    "two perturbed sides": (
        lambda s, x: torch._prelu_kernel(s.fc(x), s.fc(x) * 0.5),
        errors.UnsupportedOpError,
        r"(?s)1 operation.*prelu.*test_errors.py:\d+.*of a perturbed self, weight.*constants",
    ),
    "filters from the batch": (
        lambda s, x: torch.nn.functional.conv1d(x.unsqueeze(1), s.fc(x).unsqueeze(1)).sum(1),
        errors.BatchError,
        "mixed at.*convolution",
    ),
    "gradients by autograd": (
        lambda s, x: torch.autograd.grad(s.fc(x).tanh().sum(), x)[0],
        errors.CaptureError,
        r"takes gradients, at .*test_errors.py:\d+.*torch\.func\.grad, jacrev",
    ),
    "gradients by autograd, turned on": (
        lambda s, x: gradient(s, x),
        errors.CaptureError,
        r"test_errors.py:\d+.*autograd\.grad.*torch\.func\.grad, jacrev",
    ),
    "backward": (
        lambda s, x: (s.fc(x).sum().backward(), s.fc(x))[1],
        errors.CaptureError,
        r"takes gradients, at .*test_errors.py:\d+.*torch\.func\.grad, jacrev",
    ),
    "a pullback": (
        lambda s, x: torch.func.vjp(s.fc, x)[1](torch.ones(x.size(0), 2))[0],
        errors.CaptureError,
        r"test_errors.py:\d+.*torch\.func\.vjp.*torch\.func\.grad, jacrev",
    ),
    "rounded division": (
        lambda s, x: s.fc(torch.div(x, 2, rounding_mode="floor")),
        errors.UnsupportedOpError,
        "Tensor_mode",
    ),
    "tuple": (lambda s, x: (s.fc(x), x), errors.ModelError, "one tensor"),
    "dict": (lambda s, x: {"logits": s.fc(x)}, errors.ModelError, "one tensor"),
    "constant": (
        lambda s, x: s.fc.weight[:, :2].expand(2, 2),
        errors.InputError,
        "does not depend on the perturbed input",
    ),
    "picture": (lambda s, x: s.fc(x).unsqueeze(2), errors.InputError, r"needs \[4, 1\]"),
    "merged": (lambda s, x: s.fc(x).flatten(), errors.ModelError, r"logits \[N, K\]"),
    "failing": (lambda s, x: s.fc(x) @ torch.ones(7, 7), errors.ModelError, "itself fails"),
    "random": (lambda s, x: s.fc(x) + torch.rand(2), errors.UnsupportedOpError, "random numbers"),
    "batch size as a number": (
        lambda s, x: s.fc(x * x.size(0)),
        errors.BatchError,
        "uses the batch size as its other",
    ),
    "cumsum over the batch": (lambda s, x: s.fc(x.cumsum(0)), errors.BatchError, "mixed at"),
    "mixing behind dead units": (
        lambda s, x: s.fc((x - 9).relu().flip(0) + x),
        errors.BatchError,
        "mixed at.*flip",
    ),
    "faint noise": (
        lambda s, x: s.fc(x) + 1e-5 * torch.randn(2),
        errors.UnsupportedOpError,
        "random numbers",
    ),
    "negative divisor": (
        lambda s, x: s.fc(
            torch.nn.functional.avg_pool2d(x.reshape(-1, 1, 3, 1), 1, divisor_override=-3).flatten(
                1
            )
        ),
        errors.UnsupportedOpError,
        "not affine there",
    ),
    "integers": (
        lambda s, x: s.fc(x.cumsum(1, dtype=torch.int64) * 0.5),
        errors.UnsupportedOpError,
        "gives torch.int64",
    ),
    "two dtypes": (
        lambda s, x: s.fc(x) * torch.ones(2, dtype=torch.float64),
        errors.UnsupportedOpError,
        "gives torch.float64",
    ),
    "batch by batch": (
        lambda s, x: s.fc(torch.eye(x.size(0)) @ x),
        errors.BatchError,
        "mixed at",
    ),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_models(name):
    forward, kind, message = BAD_MODELS[name]
    with pytest.raises(kind, match=message):
        ad.certify(lam(forward), 0.1)(X, Y)


def test_dropout_in_training_mode_is_refused():
    model = lam(lambda s, x: s.drop(s.fc(x)), drop=nn.Dropout(0.5))
    with pytest.raises(errors.UnsupportedOpError, match=r"native_dropout.*random numbers.*eval"):
        ad.robust_loss(model, X, Y, eps=0.1)
    assert ad.robust_loss(model.eval(), X, Y, eps=0.1) > 0


def test_script_modules_are_refused():
    class Script(torch.jit.ScriptModule):
        pass

    with pytest.raises(errors.ModelError, match="scripted from"):
        ad.certify(Script(), 0.1)


def test_estimates_answer_no_question_about_robustness():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).train()
    certified = ad.certify(model, 0.1)
    for call in (certified.detect, certified.radius):
        with pytest.raises(errors.UnsoundError, match="BatchNorm in training"):
            call(X)


def test_a_failed_call_loses_nothing():
    certified = net()
    before = certified(X, Y).margins
    for bad in (X * float("nan"), X[:0], X.double()):
        with pytest.raises(errors.InputError):
            certified(bad, Y)
    assert torch.equal(certified(X, Y).margins, before)


def test_overflow_verifies_nothing():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.fill_(3e38)
    for method in ("ibp", "dual", "ibp+dual", "ibp&dual"):
        assert not bool(ad.certify(model, 1.0, bounds=method)(X, Y).verified.any())


def test_overflow_inside_an_interval_verifies_nothing():
    """ℓ + u overflows where neither end does; the truth is that −z + 2e38 = 1e37 is above 1e36."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2))
    for parameter, value in zip(model.parameters(), ([-1], [2e38], [1, 0], [0, 1e36]), strict=True):
        parameter.data = torch.tensor(value, dtype=torch.float32).reshape(parameter.shape)
    x, y = torch.tensor([[1.9e38]]), torch.tensor([1])
    assert int(model(x).argmax()) == 0
    for method in ("ibp", "dual", "ibp+dual", "ibp&dual"):
        assert not bool(ad.certify(model, 1e30, bounds=method)(x, y).verified)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_says_where_why_and_what_to_do(name):
    refusal = REFUSALS[name]
    error = refuse(refusal)
    assert type(error) is refusal.kind
    for text in (refusal.place, refusal.reason, refusal.remedy):
        assert re.search(text, str(error), re.DOTALL), (text, str(error))


def test_a_size_from_values_is_no_batch_size():
    model = lam(lambda s, x: s.fc(x) * (x.sum() * 8).int().item())
    with pytest.raises(errors.ControlFlowError, match="depends on the values"):
        ad.certify(model, 0.1)(X, Y)
