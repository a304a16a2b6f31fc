"""Elementwise ops end to end: those the registry knows, and dual layers from outside."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad
from autodual.duals import Affine, Curve, by_curve, smooth
from autodual.errors import BatchError, CaptureError, InputError, UnsupportedOpError
from autodual.testing import Case, T, Z, check_dual_layer


@torch.library.custom_op("autodual_tests::bump", mutates_args=())
def bump(z: torch.Tensor) -> torch.Tensor:
    return torch.exp(-z * z)


@bump.register_fake
def _(z):
    return torch.empty_like(z)


bump.register_autograd(
    lambda ctx, g: -2 * ctx.saved_tensors[0] * torch.exp(-(ctx.saved_tensors[0] ** 2)) * g,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)

BEND = 0.5**0.5
BUMP = smooth(
    lambda z: -2 * z * torch.exp(-z * z), (-BEND, BEND), (0.0,), range=(0.0, 1.0), argument="z"
)


class Arsinh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return torch.asinh(z)

    @staticmethod
    def backward(ctx, g):
        return g / torch.sqrt(1 + ctx.saved_tensors[0] ** 2)


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(z, scale):
        return scale * torch.asinh(z)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, g):
        return 3 * g / torch.sqrt(1 + ctx.saved_tensors[0] ** 2), None


class Sharp(nn.Module):
    """sinh⁻¹(βz), with a number of its own, a parameter and a second argument."""

    def __init__(self):
        super().__init__()
        self.height, self.beta = 0.5, nn.Parameter(torch.tensor([0.5, 1.0, 2.0, -1.0]))

    def forward(self, z, shift=0.0):
        return self.height * torch.asinh(self.beta * z) + shift


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))

    def forward(self, z):
        return torch.einsum("ij,nj->ni", self.weight, z) + self.bias


class Model(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.first, self.last, self.f = nn.Linear(3, 4), nn.Linear(4, 3), f

    def forward(self, x):
        return self.last(self.f(self.first(x)))


ASINH = smooth(lambda z: 1 / torch.sqrt(1 + z * z), (0.0,))


def asinh_curve(call):
    scale, steepness = call.args.get("height", 3.0), call.args.get("beta", 1.0)
    return Curve(lambda z: scale * steepness / torch.sqrt(1 + (steepness * z) ** 2), (0.0,))


OWN = by_curve(asinh_curve, argument="z")


def mixing_interval(call, z):
    center, radius = call(z.center), z.radius @ call["weight"].abs().T
    return ad.Interval(center - radius, center + radius)


MIXING = Affine(together=("z",), interval=mixing_interval)


@pytest.mark.parametrize(
    ("f", "rules", "missing"),
    [
        (bump, {"autodual_tests.bump.default": BUMP}, "autodual_tests.bump.default"),
        (Arsinh.apply, {"aten.asinh.default": ASINH}, "aten.asinh.default"),
        (lambda z: Scaled.apply(z, 3.0), {Scaled: OWN}, "aten.asinh.default"),
        (Sharp(), {Sharp: OWN}, "aten.asinh.default"),
        (nn.Sequential(Sharp(), Mixing(), Sharp()), {Sharp: OWN, Mixing: MIXING}, "aten.asinh"),
    ],
    ids=["custom op", "traced Function", "Function", "module", "modules"],
)
def test_a_rule_from_outside_serves(f, rules, missing):
    torch.manual_seed(0)
    model, x = Model(f).double(), torch.rand(2, 3, dtype=torch.float64)
    with pytest.raises(UnsupportedOpError, match=missing):
        ad.certify(model, 0.1)(x)
    net = ad.certify(model, 0.1, rules=rules)
    bound = net.bounds(x)
    for _ in range(50):
        z = model(x + 0.1 * (2 * torch.rand_like(x) - 1))
        assert bool(((bound.lower <= z) & (z <= bound.upper)).all())
    ad.robust_loss(net, x, torch.tensor([0, 1])).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_what_is_captured_whole_is_one_node():
    model, x = Model(nn.Sequential(Sharp(), Sharp())), torch.rand(2, 3)
    found = ad.coverage(model, x, {Sharp: OWN})
    assert [row.op.split(".")[-1] for row in found.rows] == ["default", "Sharp", "Sharp", "default"]
    assert "(f.1)" in found.rows[2].source
    assert not ad.coverage(model, x).complete  # and nothing is left behind by the first


def test_a_module_under_several_names_keeps_its_parameters():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.z, self.a = nn.Sequential(Sharp()), nn.Linear(3, 4)
            self.b = self.z[0]

        def forward(self, x):
            return self.b(self.z(self.a(x)))

    net = ad.certify(Twice(), 0.1, rules={Sharp: OWN})
    net.bounds(torch.rand(2, 3))
    assert [list(node.args) for node in net.graph.body[1:]] == 2 * [
        ["height", "z", "shift", "beta"]
    ]


def test_only_the_very_class_is_captured_whole():
    class Sharper(Sharp):
        def forward(self, z):
            return 2 * super().forward(z)

    other = Sharp()
    other.forward = torch.asinh
    for f in (Sharper(), other):
        assert not ad.coverage(Model(f), torch.rand(2, 3), {Sharp: OWN}).complete


def test_what_draws_random_numbers_or_mixes_examples_is_not_taken_for_a_function():
    class Noisy(nn.Module):
        def forward(self, z):
            return z + torch.rand_like(z)

    class Centred(nn.Module):
        def forward(self, z):
            return z - z.mean(0)

    class Pair(nn.Module):
        def forward(self, z):
            return z, z

    class Whose(nn.Module):
        def __init__(self, pair):
            super().__init__()
            self.pair = pair

        def forward(self, z):
            return self.pair(z)[0]

    identity = Affine(together=("z",), linear=True)
    with pytest.raises(UnsupportedOpError, match="random numbers"):
        ad.certify(Model(Noisy()), 0.1, rules={Noisy: identity})(torch.rand(2, 3))
    with pytest.raises(BatchError, match="mixed"):
        ad.certify(Model(Centred()), 0.1, rules={Centred: identity})(torch.rand(2, 3))
    with pytest.raises(CaptureError, match="returns a tuple"):
        ad.certify(Model(Whose(Pair())), 0.1, rules={Pair: identity})(torch.rand(2, 3))


def test_the_rule_of_a_module_is_proved():
    check_dual_layer(OWN, Case(Sharp(), {"z": Z((1, 4))}), examples=5)
    check_dual_layer(MIXING, Case(Mixing(), {"z": Z((1, 4)), "weight": T((4, 4))}), examples=5)
    wrong = smooth(lambda z: 1 / torch.sqrt(1 + z * z), (0.0,), argument="z")
    with pytest.raises(AssertionError, match=r"Sharp.*violated"):
        check_dual_layer(wrong, Case(Sharp(), {"z": Z((1, 4))}), examples=5)


def test_the_rule_of_a_custom_op_is_proved():
    check_dual_layer(BUMP, Case("autodual_tests.bump.default", {"z": Z((1, 3))}), examples=5)


def test_an_op_with_a_rule_is_not_taken_apart():
    entropy = smooth(
        lambda z: -torch.log(z) - 1, (), (math.exp(-1),), holds=lambda box: box.lower >= 0
    )
    model, x = Model(lambda z: torch.special.entr(z.sigmoid())), torch.rand(2, 3)
    assert not ad.coverage(model, x).complete
    assert ad.coverage(model, x, {"aten.special_entr.default": entropy}).complete


def test_rules_for_no_op_are_refused():
    for name, meant in (
        ("asinh", "aten.asinh"),
        ("aten.asihn.default", "aten.a"),
        ("A.b", "rules"),
    ):
        with pytest.raises(InputError, match=rf"names no op.*{meant}|rules.*names no op"):
            ad.certify(Model(torch.tanh), 0.1, rules={name: ASINH})
    with pytest.raises(InputError, match="must map"):
        ad.certify(Model(torch.tanh), 0.1, rules=[ASINH])


def test_slips_in_a_rule_are_named():
    model, x = Model(Sharp()), torch.rand(2, 3)
    with pytest.raises(UnsupportedOpError, match=r"a perturbed self \(not affine there"):
        ad.certify(Model(lambda z: F.softplus(z, -1.0)), 0.1)(x)
    advice = 'its dual layer is for self; say argument="z" where that is made'
    with pytest.raises(InputError, match=f"Sharp.* takes z, shift, but {advice}"):
        check_dual_layer(ASINH, Sharp())
    with pytest.raises(UnsupportedOpError, match=f"of a perturbed z, but {advice}"):
        ad.certify(model, 0.1, rules={Sharp: ASINH})(x)
    with pytest.raises(InputError, match=f"bump.* takes z, but {advice}"):
        check_dual_layer(ASINH, "autodual_tests.bump.default")
    with pytest.raises(InputError, match="forward takes z, shift, not self"):
        check_dual_layer(ASINH, Case(Sharp(), {"self": Z((1, 4))}))
    with pytest.raises(InputError, match="an instance of Sharp"):
        check_dual_layer(OWN, Sharp)
    for name in ("aten.asihn.default", "asihn", "aten.asinh"):
        with pytest.raises(InputError, match=rf"op='{name}' names no op.*'aten.asinh.default'"):
            check_dual_layer(ASINH, name)
    with pytest.raises(InputError, match=r"op=3 is none: give an op's name.*module or a Case"):
        check_dual_layer(ASINH, 3)
    typo = by_curve(lambda call: Curve(lambda z: call["betta"] * z), argument="z")
    with pytest.raises(InputError, match="no argument 'betta'; it has height, beta, z"):
        check_dual_layer(typo, Case(Sharp(), {"z": Z((1, 4))}))


def test_rules_are_given_by_name_or_class():
    with pytest.raises(InputError, match="by the class of a module"):
        ad.certify(Model(torch.tanh), 0.1, rules={torch.tanh: ASINH})
    with pytest.raises(InputError, match="no dual layer"):
        ad.certify(Model(torch.tanh), 0.1, rules={"aten.tanh.default": torch.tanh})


SMOOTH = (
    F.softplus, F.gelu, F.silu, F.mish, F.elu, F.selu, F.celu, F.hardsigmoid, F.hardswish,
    F.logsigmoid, F.prelu, F.threshold, torch.abs, torch.exp, torch.square, torch.erf, torch.cos,
)  # fmt: skip


class All(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4 * len(SMOOTH), 3)
        self.slope = nn.Parameter(torch.tensor([0.2, -0.5, 1.5, 0.0]))

    def forward(self, x):
        z = 2 * self.first(x)
        more = {F.prelu: (self.slope,), F.threshold: (0.1, -0.2)}
        return self.last(torch.cat([f(z, *more.get(f, ())) for f in SMOOTH], 1))


def test_activations_stay_whole_and_are_bounded():
    model, x = All().double(), torch.rand(2, 3, dtype=torch.float64)
    points = [x + 0.3 * (2 * torch.rand_like(x) - 1) for _ in range(100)]
    for method in ("ibp", "dual"):
        for slopes in ("equal", "free"):
            net = ad.certify(model, 0.3, bounds=method, slopes=slopes)
            bound = net.bounds(x)
            assert len([n for n in net.graph.body if "linear" not in n.op]) == len(SMOOTH) + 2
            for z in map(model, points):
                assert bool(((bound.lower <= z) & (z <= bound.upper)).all())
    ad.robust_loss(ad.certify(model, 0.3, bounds="dual"), x, torch.tensor([0, 1])).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_slopes_are_equal_or_free():
    with pytest.raises(InputError, match="slopes"):
        ad.certify(All(), 0.1, slopes="own")
