"""Models written as people write them: captured, faithful, live, and left untouched."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad
from autodual.front.capture import capture, unwrap
from autodual.front.evaluate import entries, run
from autodual.front.passes import simplify
from tests.test_soundness import candidates

N = nn.utils.parametrizations


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Linear(16, 3)

    def forward(self, x):
        x = (x - 0.5) / 0.25
        x = F.relu(self.conv(x), inplace=True)
        return self.fc(x.view(x.size(0), -1))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.fc = nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.a(x).relu_()
        x = x + F.relu(self.norm(self.b(x)))
        x += 0.5
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 6), nn.Linear(22, 6), nn.Linear(28, 3)

    def forward(self, x):
        x = torch.flatten(x, 1)
        x = torch.cat([x, F.relu(self.a(x))], 1)
        x = torch.cat([x, F.leaky_relu(self.b(x))], 1)
        return self.c(x)


class Twice(nn.Module):
    """One layer used twice, and a weight tied to its own transpose."""

    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        x = self.fc(F.relu(self.fc(x.flatten(1))))
        return self.head(F.relu(x @ (self.fc.weight @ self.fc.weight.T)))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = N.weight_norm(nn.Linear(16, 8))
        self.b = N.spectral_norm(nn.Linear(8, 8))
        self.c, self.drop = nn.Linear(8, 3), nn.Dropout(0.5)

    def forward(self, x):
        x = F.relu6(self.a(x.flatten(1)))
        return self.c(self.drop(F.hardtanh(self.b(x))))


class Frozen(nn.Module):
    """A feature extractor under no_grad, and a detach."""

    def __init__(self):
        super().__init__()
        self.features, self.mid, self.head = nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        with torch.no_grad():
            x = F.relu(self.features(x.flatten(1)))
        x = F.relu(self.mid(x)).detach()
        return self.head(x)


class Assigned(nn.Module):
    """Assignment into a slice, a split, a stack, a permute."""

    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.fc(x.flatten(1))
        x[:, 0] = 0.25
        a, b = x.relu().split(4, dim=1)
        x = torch.stack([a, b], dim=2).permute(0, 2, 1).reshape(x.shape[0], -1)
        return self.head(x)


class Stem(nn.Module):
    """Padding modes, transposed convolution, pooling and upsampling."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(4, 2, 2, stride=2),
            nn.AvgPool2d(2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular", groups=2, dilation=1),
            nn.LeakyReLU(),
            nn.ZeroPad2d(1),
        )
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        return self.head(self.layers(x).mean(dim=(2, 3)))


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(4, 6, 3, padding="same"), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(F.relu(self.conv(x.squeeze(1))).mean(-1))


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv3d(1, 3, 2), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(F.relu(self.conv(x.reshape(-1, 1, 4, 2, 2))).flatten(2).sum(-1))


ZOO = [Functional, Residual, Dense, Twice, Normed, Frozen, Assigned, Stem, Sequence, Volume]


def make(kind, training=False):
    torch.manual_seed(1)
    return kind().double().train(training)


def picture(n=3):
    return torch.rand(n, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def check_points(model, x, threat, bounds):
    certified = ad.certify(model, threat, bounds=bounds)
    with torch.no_grad():
        outputs = certified.bounds(x)
        for i in range(len(x)):
            z = model(candidates(model, x[i : i + 1], threat, torch.Generator().manual_seed(i)))
            assert bool((z >= outputs.lower[i] - 1e-9).all())
            assert bool((z <= outputs.upper[i] + 1e-9).all())


@pytest.mark.parametrize("kind", ZOO)
@pytest.mark.parametrize("bounds", ["ibp", "ibp&dual"])
def test_zoo_is_captured_and_bounded(kind, bounds):
    check_points(make(kind), picture(), ad.LinfBall(0.1, domain=(0, 1)), bounds)


@pytest.mark.parametrize("kind", ZOO)
def test_any_batch_size_after_one_capture(kind):
    model = make(kind)
    net = ad.certify(model, 0.05)
    one = net.lower_bound(picture(1), torch.eye(3, dtype=torch.float64))
    graph = net.graph
    many = net.lower_bound(picture(5), torch.eye(3, dtype=torch.float64))
    assert net.graph is graph
    torch.testing.assert_close(one[0], many[0])


@pytest.mark.parametrize("kind", ZOO)
def test_zero_radius_gives_the_output(kind):
    model = make(kind)
    outputs = ad.certify(model, 0.0).bounds(picture())
    torch.testing.assert_close(outputs.lower, model(picture()))
    torch.testing.assert_close(outputs.upper, model(picture()))


@pytest.mark.parametrize("kind", [k for k in ZOO if k is not Normed])
@pytest.mark.parametrize("training", [False, True])
def test_gradients_reach_what_the_model_trains(kind, training):
    """The parameters that the model itself trains get a gradient; the model is untouched."""
    model = make(kind, training)
    y = torch.tensor([0, 1, 2])
    F.cross_entropy(copy.deepcopy(model)(picture()), y)
    reference = copy.deepcopy(model)
    F.cross_entropy(reference(picture()), y).backward()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    ad.robust_loss(model, picture(), y, eps=0.05).backward()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    for (name, p), q in zip(model.named_parameters(), reference.parameters(), strict=True):
        mine = p.grad is not None and bool((p.grad != 0).any())
        theirs = q.grad is not None and bool((q.grad != 0).any())
        assert mine or not theirs, f"no gradient reaches {name}"
        assert q.grad is not None or not mine, f"{name} is behind a detach and got a gradient"


def test_spectral_norm_in_training_mode_is_left_alone():
    model = make(Normed, training=True)
    model.drop.eval()
    before = copy.deepcopy(model.state_dict())
    ad.robust_loss(model, picture(), torch.tensor([0, 1, 2]), eps=0.05).backward()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_an_optimizer_step_changes_the_bound():
    model = make(Twice)
    net = ad.certify(model, 0.05)
    y = torch.tensor([0, 1, 2])
    first = ad.robust_loss(net, picture(), y)
    first.backward()
    torch.optim.SGD(model.parameters(), 0.05).step()
    assert ad.robust_loss(net, picture(), y).item() < first.item()


def test_train_and_eval_are_captured_apart():
    model = make(Residual)
    net = ad.certify(model, 0.05)
    y = torch.tensor([0, 1, 2])
    assert isinstance(net(picture(), y), ad.Certificate)
    model.train()
    estimate = net(picture(), y)
    assert isinstance(estimate, ad.Estimate)
    assert not hasattr(estimate, "verified")
    assert "BatchNorm" in str(estimate)
    model.eval()
    assert isinstance(net(picture(), y), ad.Certificate)


def test_a_changed_model_is_captured_anew():
    """A graph must never outlive the architecture it was captured from."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.LeakyReLU(0.1), nn.Linear(8, 3))
    model = model.double()
    net = ad.certify(model, 0.0)

    def current():
        torch.testing.assert_close(net.bounds(picture()).lower, model(picture()))

    current()
    model[2].negative_slope = 0.5
    current()
    model[2] = nn.Hardtanh()
    current()
    model[1].register_forward_hook(lambda module, args, out: 2 * out)
    current()
    model[1].bias = None
    current()
    model[1].weight = nn.Parameter(torch.randn(8, 16).double())
    current()
    model[2].forward = lambda z: 3 * z
    current()


def test_changed_sharing_and_plain_data_are_captured_anew():
    a, b = nn.Linear(16, 16), nn.Linear(16, 16)
    b.weight = a.weight
    model = nn.Sequential(nn.Flatten(), a, b, a).double()
    model.scales = [1.0, {"x": 2.0}]
    net = ad.certify(model, 0.0)

    def current():
        torch.testing.assert_close(net.bounds(picture()).lower, model(picture()))

    current()
    b.weight = nn.Parameter(torch.randn(16, 16).double())
    current()
    model[3] = b
    current()
    graph = net.graph
    model.scales[1]["x"] = 3.0
    current()
    assert net.graph is not graph


def test_a_model_that_writes_to_its_input():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(16, 3)

        def forward(self, x):
            return self.fc(x.flatten(1).sub_(0.5).div_(0.1))

    model, x = make(Writes), picture()
    outputs = ad.certify(model, 0.0).bounds(x)
    assert torch.equal(x, picture())
    torch.testing.assert_close(outputs.lower, model(picture()))


def test_the_same_tensor_twice():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, a, b):
            return self.fc(a) - F.relu(3 * self.fc(b))

    model, x = make(Two), torch.rand(2, 4).double()
    for which in (0, 1):
        net = ad.certify(model, 0.1, perturb=which)
        outputs = net.bounds(ad.Inputs(x, x))
        assert net.graph.perturbed is net.graph.inputs[which]
        moved = [x, x]
        moved[which] = x + 0.1
        assert bool((model(*moved) <= outputs.upper + 1e-9).all())


class Around(nn.Module):
    """The batch dimension in the middle, folded, and last."""

    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = F.relu(self.fc(x.squeeze(1).transpose(0, 1)))  # [L, N, E]
        x = F.relu(x.transpose(0, 1).reshape(-1, 5))  # [N·L, E]
        x = torch.stack([x, 2 * x], 0).sum(0)
        return self.head(x.reshape(-1, 4, 5)).permute(1, 2, 0)  # [L, K, N]


@pytest.mark.parametrize("bounds", ["ibp", "ibp+dual", "dual", "ibp&dual"])
def test_the_batch_dimension_may_be_anywhere(bounds):
    model, x = make(Around), picture()
    with torch.no_grad():
        outputs = ad.certify(model, 0.1, bounds=bounds).bounds(x)
        zero = ad.certify(model, 0.0, bounds=bounds).bounds(x)
        torch.testing.assert_close(zero.lower, model(x))
        for _ in range(50):
            z = model(x + 0.2 * torch.rand_like(x) - 0.1)
            assert bool((z >= outputs.lower - 1e-9).all())
            assert bool((z <= outputs.upper + 1e-9).all())


def test_batch_norm_in_training_uses_the_batchs_statistics():
    """At ε = 0 the bound is the training-mode output itself."""
    model = make(Residual, training=True)
    net = ad.certify(model, 0.0, bounds="dual")
    outputs = net.relax(picture()).interval(net.graph.output)
    torch.testing.assert_close(outputs.lower, copy.deepcopy(model)(picture()))
    with pytest.raises(ad.errors.UnsoundError, match="BatchNorm"):
        net.bounds(picture())


@pytest.mark.filterwarnings("ignore")
def test_wrapped_models_are_unwrapped():
    model = make(Functional)
    assert unwrap(torch.compile(model)) is model
    assert unwrap(nn.DataParallel(model)) is model
    expected = ad.certify(model, 0.1).bounds(picture()).lower
    compiled = ad.certify(torch.compile(model), 0.1).bounds(picture()).lower
    torch.testing.assert_close(expected, compiled)


class Several(nn.Module):
    """Three inputs, of which the first or the last is perturbed; one is shared by the batch."""

    def __init__(self):
        super().__init__()
        self.fc, self.side, self.head = nn.Linear(4, 5), nn.Linear(2, 5), nn.Linear(5, 3)

    def forward(self, x, side, *, scale=None, flip=False, mix=None):
        z = F.relu(self.fc(x)) + self.side(side)
        if scale is not None:
            z = z * scale
        if mix is not None:
            z = torch.matmul(z, mix)
        if flip:
            z = -z
        return self.head(F.relu(z))


@pytest.mark.parametrize("bounds", ["ibp", "dual", "ibp&dual"])
def test_several_inputs_and_keywords(bounds):
    model = make(Several)
    x, side = torch.randn(3, 4).double(), torch.randn(3, 2).double()
    scale, mix = torch.randn(3, 1).double(), torch.randn(5, 5).double()
    for perturb, which in ((0, x), (1, side), ("scale", scale)):
        given = ad.Inputs(x, side, scale=scale, flip=True, mix=mix)
        net = ad.certify(model, 0.2, bounds=bounds, perturb=perturb)
        with torch.no_grad():
            outputs = net.bounds(given)
            for _ in range(100):
                moved = given.replace(perturb, which + 0.4 * torch.rand_like(which) - 0.2)
                z = model(*moved.args, **moved.kwargs)
                assert bool((z >= outputs.lower - 1e-9).all())
                assert bool((z <= outputs.upper + 1e-9).all())


def test_the_graph_computes_what_the_model_does():
    for kind in ZOO:
        model = make(kind)
        inputs = ad.Inputs(picture())
        captured = capture(model, inputs)
        values = captured.bind(inputs)
        raw, simple = captured.graph, simplify(captured.graph)
        for graph in (raw, simple):
            env = entries(graph, model, values)
            torch.testing.assert_close(run(graph, env), model(picture()))


GRAPH = """\
graph(x: f64[N, 1, 4, 4]) -> linear    # perturbed: x
  self.conv.weight : f64[4, 1, 3, 3]
  self.conv.bias : f64[4]
  self.fc.weight : f64[3, 16]
  self.fc.bias : f64[3]
  sub = sub(self=x, other=0.5, alpha=1) : f64[N, 1, 4, 4]    # test_capture.py:{0}
  div = div(self=sub, other=0.25) : f64[N, 1, 4, 4]    # test_capture.py:{0}
  convolution = convolution(input=div, weight=self.conv.weight, bias=self.conv.bias, \
stride=[2, 2], padding=[1, 1], dilation=[1, 1], transposed=False, output_padding=[0, 0], \
groups=1) : f64[N, 4, 2, 2]    # test_capture.py:{1} (conv)
  relu = relu(self=convolution) : f64[N, 4, 2, 2]    # test_capture.py:{1}
  view = reshape(self=relu, shape=[N, -1]) : f64[N, 16]    # test_capture.py:{2}
  linear = linear(input=view, weight=self.fc.weight, bias=self.fc.bias) : f64[N, 3]    \
# test_capture.py:{2} (fc)"""

PROGRAM = """\
dual network, intervals by dual
  ν[linear] = −C
  ν[view] += Aᵀν[linear], h = bᵀν[linear]    # linear test_capture.py:{2} (fc)
  ν[relu] += Aᵀν[view], h = bᵀν[view]    # reshape test_capture.py:{2}
  ν[convolution] += a_u[ν[relu]]₊ + a_l[ν[relu]]₋, h = b_u[ν[relu]]₊ + b_l[ν[relu]]₋, \
on [ℓ, u] of convolution    # relu test_capture.py:{1}
  ν[div] += Aᵀν[convolution], h = bᵀν[convolution]    # convolution test_capture.py:{1} (conv)
  ν[sub] += Aᵀν[div], h = bᵀν[div]    # div test_capture.py:{0}
  ν[x] += Aᵀν[sub], h = bᵀν[sub]    # sub test_capture.py:{0}
  min C·linear ≥ J = −σ_B(ν[x]) − Σ h"""


def test_printed_graph_and_program():
    net = ad.certify(make(Functional), 0.1, bounds="dual")
    with pytest.raises(ad.errors.NotTracedError, match="first call"):
        print(net.graph)
    net.explain(picture())
    first = Functional.forward.__code__.co_firstlineno
    lines = (first + 1, first + 2, first + 3)
    assert str(net.graph) == GRAPH.format(*lines)
    assert str(net.program) == PROGRAM.format(*lines)


def test_a_sequential_model_is_located_by_its_modules():
    """No line of the user's own leads to a layer of a Sequential, and none of ours is shown."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    net = ad.certify(model, 0.1)
    net(picture())
    assert [node.source.module for node in net.graph.body] == ["0", "1", "2", "3"]
    assert "certify.py" not in str(net.graph)


def test_explain_names_every_node():
    net = ad.certify(make(Functional), 0.1, bounds="dual")
    shown = str(net.explain(picture()))
    assert shown.startswith("LinfBall(0.1), bounds='dual' (AutoDual")
    explained = net.explain(picture(), measure=True)
    rows = {row[1]: dict(zip(explained.header, row, strict=True)) for row in explained.rows}
    assert list(rows) == ["sub", "div", "convolution", "relu", "reshape", "linear"]
    assert rows["convolution"]["rows"] == str(3 * (16 + 3))
    assert rows["linear"]["rows"] == str(3 * 3)
    assert rows["relu"]["intervals"] == "backward for 100 %"
    assert rows["convolution"]["form"] == "dense, patches"
    assert all(float(row["measured ms"]) >= 0 for row in rows.values())


class Shaped(nn.Module):
    """Constants that ask a perturbed tensor for its shape only."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        z = self.fc(x.flatten(1))
        return z + torch.ones_like(z) - torch.full_like(z, 0.25) * torch.zeros_like(z[:, :1])


def test_constants_of_a_perturbed_shape_are_constants():
    model, x = Shaped().double(), picture()
    net = ad.certify(model, 0.1)
    torch.testing.assert_close(net.at(0.0).bounds(x).lower, model(x))
    torch.testing.assert_close(net.at(0.0).bounds(x.repeat(2, 1, 1, 1)).lower[:3], model(x))


def test_arguments_that_forward_collects():
    class Collecting(nn.Module):
        def forward(self, x, *more, **others):
            return x * others["scale"] + more[0]

    x = picture()
    net = ad.certify(Collecting(), 0.1)
    bounds = net.bounds(ad.Inputs(x, 2 * x, scale=x.clone()))
    torch.testing.assert_close((bounds.lower + bounds.upper) / 2, x * x + 2 * x)
    assert [v.name for v in net.graph.inputs] == ["x", "more_0", "scale"]


def test_frozen_attention_is_captured_in_its_parts():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).double().eval()
    box = ad.certify(layer.requires_grad_(False), 0.0).bounds(picture().squeeze(1))
    torch.testing.assert_close(box.lower, layer(picture().squeeze(1)))
    assert torch.backends.mha.get_fastpath_enabled()
