"""Certificates as files: what is written, what is refused, and what the checker makes of it."""

import os
import subprocess
import sys
import zlib
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

import autodual as ad
from autodual.errors import InputError, UnsupportedOpError
from autodual.proof.write import UNIT, pack
from autodual_check.checking import Bounds, Proof, check
from autodual_check.reading import read
from tests.mutants import mutant
from tests.proofs import Read, derived, holds, violated


class Mixed(nn.Module):
    """Joins, moves, sums and all activations that proofs know."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.c, self.d = nn.Linear(32, 6), nn.Linear(12, 3)

    def forward(self, x):
        z = torch.relu(self.a(x))
        z = nn.functional.leaky_relu(z - 0.5 * self.b(z), 0.1)[:, :, ::2, 1:3].transpose(2, 3)
        z = torch.cat([z.flatten(1), -z.flatten(1)], 1)
        z = self.c(z)
        return self.d(torch.cat([z.abs(), nn.functional.hardtanh(z + 1)], 1))


def net(name):
    torch.manual_seed(1)
    match name:
        case "mlp":
            model = nn.Sequential(
                *(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3))
            )
            shape = (4,)
        case "conv":
            model = nn.Sequential(
                *(nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 5, 2, dilation=2), nn.ReLU()),
                *(nn.Flatten(), nn.Linear(20, 4)),
            )
            shape = (2, 8, 8)
        case "mixed":
            model, shape = Mixed(), (1, 4, 4)
        case "signal":
            model = nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 1))
            shape = (1, 8)
        case "pooled":
            model = nn.Sequential(
                *(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)),
                *(nn.Conv2d(3, 3, 2), nn.AvgPool2d(3, 1), nn.Flatten(), nn.Linear(3, 3)),
            )
            model.train()(torch.rand(20, 1, 8, 8))  # statistics of its own
            shape = (1, 8, 8)
        case "linear":
            model, shape = nn.Sequential(nn.Linear(5, 3)), (5,)
    return model.eval(), torch.rand(6, *shape)


NETS = "mlp", "conv", "mixed", "signal", "pooled", "linear"

SETS = {
    "linf": ad.LinfBall(0.03),
    "clipped": ad.LinfBall(torch.linspace(0.01, 0.06, 6), (0, 1)),
    "l2": ad.L2Ball(0.1),
    "l2 clipped": ad.L2Ball(0.2, (0, 1)),
    "l1": ad.L1Ball(0.2, (0.0, 1.0)),
}


def saved(path, name="mlp", threat="linf", dtype=torch.float32, **options):
    model, x = net(name)
    certificate = ad.certify(model.to(dtype), SETS[threat], **options)(x.to(dtype))
    certificate.save(path)
    return certificate


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_checker_accepts_what_is_saved_and_agrees_with_a_second_reading(name, dtype, tmp_path):
    path = tmp_path / "proof"
    certificate = saved(path, name, dtype=dtype)
    answer, why = check(path)
    assert answer == "valid", why
    assert check(path, floats=True)[0] == "valid"
    second = Read(path.read_bytes())
    safe = [(second.claims(tree)[2] > 0).all() for tree in range(6)]
    assert (torch.tensor(safe) | ~certificate.verified).all()
    agrees(second)
    assert not violated(second)


def agrees(second):
    """Assert that claims are what the second implementation derives, and little less."""
    for tree, _, _, other in derived(second):
        claims, scale = second.claims(tree)[2], np.abs(other).max(initial=0) + 1
        assert (claims <= other + 1e-9 * scale).all()
        assert (claims >= other - 1e-4 * scale).all()


@pytest.mark.parametrize("threat", SETS)
@pytest.mark.parametrize("slopes", ["equal", "free"])
def test_all_sets_and_ways(threat, slopes, tmp_path):
    path = tmp_path / "proof"
    model, x = net("mlp")
    ad.certify(model, SETS[threat], slopes=slopes)(x).save(path, tight=True)
    second = Read(path.read_bytes())
    assert check(path)[0] == check(path, floats=True)[0] == "valid"
    ball = threat in ("l2", "l2 clipped", "l1")  # of boxes intervals know the first layer exactly
    assert second.arrays["way"].tolist() == [slopes == "equal", ball, 0, 1, 0, 0]
    assert not violated(second)
    agrees(second)


def test_boxes(tmp_path):
    model, x = net("conv")
    box = ad.Box(x[:1] - 0.02, x[:1] + 0.01, domain=(0, 1))
    ad.certify(model, box)(x[:1]).save(tmp_path / "proof")
    assert check(tmp_path / "proof")[0] == "valid"
    assert not violated(Read((tmp_path / "proof").read_bytes()))


def test_tight_margins_are_nearly_the_certificates(tmp_path):
    model, x = net("conv")
    certificate = ad.certify(model.double(), SETS["linf"], slopes="equal")(x.double())
    certificate.save(tmp_path / "proof", tight=True)
    second = Read((tmp_path / "proof").read_bytes())
    for tree, margins in enumerate(certificate.margins.numpy()):
        _, k, claims = second.claims(tree)
        assert np.allclose(claims, margins[k], atol=1e-4)


def test_some_examples_of_a_certificate(tmp_path):
    model, x = net("mlp")
    certificate = ad.certify(model, SETS["clipped"])(x)
    certificate[torch.tensor([4, 1])].save(tmp_path / "proof")
    second = Read((tmp_path / "proof").read_bytes())
    assert np.allclose(second["eps"], [0.05, 0.02])
    assert np.array_equal(second["x"], x[[4, 1]].double().numpy())
    assert check(tmp_path / "proof")[0] == "valid"


def test_the_checker_starts_without_torch_and_this_library(tmp_path):
    saved(tmp_path / "proof")
    code = (
        "import sys; sys.argv = ['autodual-check', sys.argv[1]]\n"
        "from autodual_check.__main__ import main\n"
        "try:\n    main()\n"
        "finally:\n    assert not {'torch', 'autodual', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "proof")], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout[:6], done.stderr) == (0, "valid:", "")


@pytest.mark.parametrize(("answer", "status"), [("invalid", 1), ("unsupported", 2)])
def test_exit_status(answer, status, tmp_path):
    path = tmp_path / "proof"
    path.write_bytes(b"nothing" if answer == "invalid" else b"autodual-proof 9\n")
    done = subprocess.run(
        [sys.executable, "-m", "autodual_check", str(path)], capture_output=True, text=True
    )
    assert done.returncode == status
    assert done.stdout.startswith(f"{answer}: ")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def refused(certificate, tmp_path, match, error=InputError):
    with pytest.raises(error, match=match):
        certificate.save(tmp_path / "proof")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_has_changed(tmp_path):
    model, x = net("mlp")
    certificate = ad.certify(model, 0.03)(x)
    with torch.no_grad():
        model[0].weight.mul_(1.1)
    refused(certificate, tmp_path, "changed after")


def test_an_input_that_has_changed(tmp_path):
    model, x = net("mlp")
    certificate = ad.certify(model, 0.03)(x)
    x += 1
    refused(certificate, tmp_path, "changed after")


def test_other_certificates(tmp_path):
    model, x = net("mlp")
    certified = ad.certify(model, 0.03)
    certificate = certified(x)
    refused(certificate.cat([certificate, certificate]), tmp_path, "what net")
    refused(certified.within(x, 1.0), tmp_path, "what net")
    refused(ad.Certificate.from_dict(certificate.to_dict()), tmp_path, "what net")
    chance = ad.certify(model, 0.03, estimator=ad.Geometric())(x)
    refused(chance, tmp_path, "what net")
    refused(certificate[[]], tmp_path, "one example or more")


def test_other_ops_and_sets(tmp_path):
    model, x = net("mlp")
    smooth = nn.Sequential(model[0], nn.Tanh(), nn.Linear(12, 3), nn.Sigmoid())
    refused(ad.certify(smooth, 0.01)(x), tmp_path, "(?s)tanh.*sigmoid", UnsupportedOpError)
    union = ad.Union(ad.LinfBall(0.01), ad.L2Ball(0.02))
    refused(ad.certify(model, union)(x), tmp_path, "boxes and")


def test_estimates_have_no_file():
    model, x = net("mlp")
    assert not hasattr(ad.certify(model, 0.03, estimator=ad.Cauchy(20))(x), "save")


def exact(name="mlp"):
    """Return a certificate of which the checker's own slopes leave an example open."""
    model, x = net(name)
    certificate = ad.certify(model, 0.15, bounds=ad.MILP())(x)
    assert (certificate.verified & ~ad.certify(model, 0.15)(x).verified).any()
    return certificate


def test_what_only_programs_verify_is_cut_by_signs_of_units(tmp_path):
    certificate = exact()
    certificate.save(tmp_path / "proof")
    assert check(tmp_path / "proof")[0] == check(tmp_path / "proof", floats=True)[0] == "valid"
    second = Read((tmp_path / "proof").read_bytes())
    assert "alpha" in second.arrays
    assert not violated(second)
    assert holds(second)


def test_what_is_not_proved_in_time_is_not_written(tmp_path):
    with pytest.raises(InputError, match="1 of 4 verified examples are not proved"):
        exact().save(tmp_path / "proof", most=0)
    assert list(tmp_path.iterdir()) == []


def test_margins_do_not_depend_on_the_order_of_sums(tmp_path, monkeypatch):
    """In whole numbers every order gives the same: here that of einsum, and of a reversed one."""
    saved(tmp_path / "proof", "conv")

    def margins():
        proof = Proof(*read(tmp_path / "proof"))
        way, some = np.arange(8) > 0, np.arange(6)
        bounds = Bounds(proof, proof.numbers, some, False, way, [], np.zeros((6, 0)))
        one, y = np.ones(24), np.repeat(np.arange(4), 6)
        return bounds.least(len(proof.ops), y, (y + 1) % 4, np.tile(np.arange(6), 4), one)

    found, plain = margins(), np.matmul
    reverse = lambda A, X: np.einsum("gij,gjk->gik", A[..., ::-1], X[..., ::-1, :])  # noqa: E731
    monkeypatch.setattr(np, "matmul", reverse)
    assert np.array_equal(margins(), found)
    assert np.matmul is not plain


def test_the_network_is_told_by_its_digest(tmp_path):
    model, x = net("mlp")
    for name, change in (("a", 0.0), ("b", 1e-7)):
        with torch.no_grad():
            model[2].bias[3] += change
        ad.certify(model, 0.01)(x).save(tmp_path / name)
    digests = [check(tmp_path / name)[1].split()[-1] for name in "ab"]
    assert digests[0] != digests[1]
    assert all(len(d) == 64 for d in digests)


def test_few_lines():
    from pathlib import Path

    import autodual_check

    files = list(Path(autodual_check.__file__).parent.glob("**/*.py"))
    assert len(files) > 3
    assert sum(len(file.read_text().splitlines()) for file in files) <= 500


def test_no_mutant_that_claims_too_much_is_accepted(tmp_path):
    """``PROOF_MUTANTS=10000`` tries more."""
    originals = []
    for name, threat in (("mlp", "clipped"), ("mixed", "l2"), ("signal", "l1")):
        saved(tmp_path / "proof", name, threat)
        originals.append((tmp_path / "proof").read_bytes())
    exact().save(tmp_path / "proof")
    originals.append((tmp_path / "proof").read_bytes())
    for few in (0, 9):
        model, region, statement = question(few == 9)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("autodual.proof.queries.FEW", few)
            ad.verify(model, region, statement).save(tmp_path / "proof")
        originals.append((tmp_path / "proof").read_bytes())
    originals.append(void(tmp_path / "proof"))
    count, answers = int(os.environ.get("PROOF_MUTANTS", "300")), Counter()
    for seed in range(count):
        path = tmp_path / "mutant"
        path.write_bytes(mutant(originals[seed % len(originals)], np.random.default_rng(seed)))
        answer, why = check(path, 60, seed % 3 == 0)
        answers[answer] += 1
        assert "\n" not in why
        if answer == "valid":
            assert not violated(Read(path.read_bytes())), f"mutant {seed} claims too much"
    assert min(answers[a] for a in ("valid", "invalid", "unsupported")) > count // 100


def question(wide=True):
    """A network that a few cuts verify: the first output stays below the second plus a margin."""
    model, _ = net("mlp")
    low, high = torch.zeros(4), torch.full((4,), 1.5)
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.5])] * 4)
    z = model(torch.cat([corners, 1.5 * torch.rand(500, 4)])).detach()
    gap = (z[:, 0] - z[:, 1]).max() + (0.01 if wide else 0.05)
    return model, (low, high), ad.Y[0] - ad.Y[1] < float(gap)


@pytest.mark.parametrize("few", [0, 9])
def test_a_verdict_as_a_tree_of_parts(few, tmp_path, monkeypatch):
    monkeypatch.setattr("autodual.proof.queries.FEW", few)
    model, region, statement = question()
    verdict = ad.verify(model, region, statement)
    parts = verdict.save(tmp_path / "proof")
    assert parts > 5
    answer, why = check(tmp_path / "proof")
    assert answer == "valid", why
    assert why.startswith(f"1 sets, 1 claims, {parts} leaves")
    assert check(tmp_path / "proof", floats=True)[0] == "valid"
    second = Read((tmp_path / "proof").read_bytes())
    nodes = {int(node) for node, _ in second.arrays["cuts"]}
    assert nodes == {-1, 0} if few else nodes >= {-1, 1, 3}
    assert not violated(second)
    assert holds(second)


def test_verdicts_that_have_no_file(tmp_path):
    model, region, statement = question()
    verdict = ad.verify(model, region, statement)
    with pytest.raises(InputError, match="parts allowed"):
        verdict.save(tmp_path / "proof", most=3)
    with torch.no_grad():
        model[0].weight.mul_(1.1)
    with pytest.raises(InputError, match="changed after"):
        verdict.save(tmp_path / "proof")
    with pytest.raises(InputError, match="what is verified"):
        ad.verify(model, region, ad.Y[0] > 100).save(tmp_path / "proof")
    assert list(tmp_path.iterdir()) == []


def one_input(path, cuts, at, beta=None, **more):
    """Write that x − 0.3 + 0.1 or 0.3 − x + 0.1 is positive on [0, 1], cut like this.

    Node 1 is x − 0.3, node 2 its ReLU, node 3 has both rows.
    """
    leaves = sum(node < 0 for node, _ in cuts)
    dense = {"W1": np.ones((1, 1, 1)), "I1": np.zeros((1, 1, 1), np.int32)}
    arrays = {
        **{**dense, "b1": np.full((1, 1, 1), -0.3), "b3": np.full((1, 2, 1), 0.1)},
        **{"W3": np.array([[[1.0, 0.0], [-1.0, 0.0]]]), "I3": np.array([[[0], [1]]], np.int32)},
        **{"lower": np.zeros((1, 1)), "upper": np.ones((1, 1))},
        **{"cuts": np.array(cuts, np.int32), "at": np.array(at, np.float64)},
        **{
            "trees": np.array([[0, 1, 2]], np.int32),
            "rows": np.array([[0, -1], [1, -1]], np.int32),
        },
        **{"least": np.zeros(2), "leaves": np.tile(np.array([-1, 1, 1, 0], np.int32), (leaves, 1))},
        **{"head": np.array([30, 22, 1, 0], np.int32), "way": np.array([1, 0, 0, 0], np.uint8)},
        **more,
    }
    if beta:
        arrays["beta"] = np.array(beta, np.float64)
    path.write_bytes(pack([[0], [1], [1, 2]], arrays))
    return check(path)


X, Z, LEAF = (0, 0), (1, 0), (-1, 0)


@pytest.mark.parametrize(
    ("cuts", "at", "beta", "says"),
    [
        ([X, LEAF, LEAF], [0.3, 0, 0], [0, 0], "valid"),
        ([X, X, LEAF, LEAF, LEAF], [5, 0.3, 0, 0, 0], [0] * 5, "valid"),
        ([X, LEAF, X, LEAF, LEAF], [-5, 0, 0.3, 0, 0], [0] * 5, "valid"),
        ([X, LEAF, LEAF], [5, 0, 0], [0, 0], "its rows only"),
        ([LEAF], [0], None, "its rows only"),
        ([X, LEAF], [0.3, 0], [0], "parts are missing"),
        ([X, LEAF, LEAF, LEAF], [0.3, 0, 0, 0], [0, 0], "belongs to no tree"),
        ([X], [0.3], None, "no such shape"),
        ([(0, 1), LEAF, LEAF], [0.3, 0, 0], [0, 0], "no entry of a node"),
        ([(4, 0), LEAF, LEAF], [0.3, 0, 0], [0, 0], "not as said"),
        ([X, LEAF, LEAF], [0.3, 0, 0], None, "beta: missing"),
        ([X, LEAF, LEAF], [0.3, 0, 0], [0], "beta: missing"),
        ([Z, LEAF, LEAF], [0, 0, 0], [1, 1], "valid"),
        ([Z, LEAF, LEAF], [0.05, 0, 0], [1, 1], "valid"),
        ([Z, LEAF, LEAF], [0.15, 0, 0], [1, 1], "its rows only"),
        ([Z, LEAF, LEAF], [0, 0, 0], [1, 0], "its rows only"),
        ([Z, LEAF, LEAF], [0, 0, 0], [0.7, 1.4], "its rows only"),
        ([Z, LEAF, LEAF], [0, 0, 0], [1, -1], "beta: missing, or not as said"),
        ([Z, LEAF, LEAF], [0, 0, 0], [1, np.nan], "NaN"),
        ([Z, LEAF, LEAF], [0, 0, 0], [1, 1e13], "too large"),
        ([Z, Z, LEAF, LEAF, LEAF], [0, 0.9, 0, 0, 0], [0, 1, 0, 0, 1], "valid"),  # 0.9 ≤ z ≤ 0
        ([Z, Z, LEAF, LEAF, LEAF], [0, 0, 0, 0, 0], [1, 0, 1, 0, 1], "valid"),  # twice the same
        ([(2, 0), LEAF, Z, LEAF, LEAF], [-1, 0, 0, 0, 0], [0, 1, 0, 1, 0], "valid"),  # a ReLU ≤ −1
        ([(3, 1), LEAF, LEAF], [0, 0, 0], [0, 1], "its rows only"),  # at most 0, not above
    ],
)
@pytest.mark.parametrize("floats", [False, True])
def test_parts_cover_their_set(cuts, at, beta, says, floats, tmp_path):
    one_input(tmp_path / "proof", cuts, at, beta)
    answer = check(tmp_path / "proof", floats=floats)
    assert ("its rows only" if floats and says == "too large" else says) in ": ".join(answer)
    if answer[0] == "valid":
        assert holds(Read((tmp_path / "proof").read_bytes()))


def test_parts_need_a_row_that_is_large_enough(tmp_path):
    cuts, at, beta = [X, LEAF, LEAF], [0.3, 0, 0], [0, 0]
    both = np.array([[0, -1], [1, -1]], np.int32)
    for other in (
        {"least": np.full(2, 0.1)},
        {"trees": np.array([[0, 0, 2]], np.int32)},
        {"rows": both[::-1] * [[0], [1]], "least": np.zeros(2)},
    ):
        more = {k: v.astype(np.int32) if k == "rows" else v for k, v in other.items()}
        answer, why = one_input(tmp_path / "proof", cuts, at, beta, **more)
        assert answer == "invalid", why
        assert "rows only" in why
    assert one_input(tmp_path / "proof", cuts, at, beta, least=np.full(2, 0.0999))[0] == "valid"


def void(path, beta=(1, 1, 0, 1, 0.5, 0.5, 1, 0, 0), scale=(1, 1, 0, 1), last=0.6):
    """Write that a row of 1.21 − x − y, 0.51 − x + y, x − 0.59 is positive on the unit square.

    Cut at 1.2, 0.5 and 0.6 by these signs, in the third leaf there are x + y ≥ 1.2, x − y ≥ 0.5 and
    x ≤ 0.6: none of three intervals is empty, but half and half and all of these say −0.25 ≥ 0.
    """
    W = np.array([[[1.0, 1.0], [1.0, -1.0], [1.0, 0.0]]])
    rows = np.array([[[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]])
    index = np.arange(3, dtype=np.int32).reshape(1, 3, 1)
    arrays = {
        **{"W1": W, "I1": index[:, :2], "b1": np.zeros((1, 3, 1)), "W2": rows, "I2": index},
        **{"b2": np.array([1.21, 0.51, -0.59]).reshape(1, 3, 1)},
        **{"lower": np.zeros((1, 2)), "upper": np.ones((1, 2))},
        "cuts": np.array([(1, 0), LEAF, (1, 1), LEAF, (1, 2), LEAF, LEAF], np.int32),
        "at": np.array([1.2, 0, 0.5, 0, last, 0, 0]),
        **{"trees": np.array([[0, 1, 3]], np.int32), "least": np.zeros(3)},
        "rows": np.array([[0, -1], [1, -1], [2, -1]], np.int32),
        "leaves": np.array([[-1, 0, s, 0] for s in scale], np.int32),
        **{"beta": np.array(beta, np.float64), "head": np.array([30, 22, 2, 0], np.int32)},
        "way": np.array([1, 0, 0], np.uint8),
    }
    path.write_bytes(pack([[0], [1]], arrays))
    return path.read_bytes()


def test_leaves_that_are_empty_by_their_multipliers(tmp_path):
    path, right = tmp_path / "proof", (1, 1, 0, 1, 0.5, 0.5, 1, 0, 0)
    for beta, scale, last, says in (
        (right, (1, 1, 0, 1), 0.6, "valid"),
        (right, (1, 1, 1, 1), 0.6, "invalid"),
        (
            tuple(100 * b if 2 < i < 6 else b for i, b in enumerate(right)),
            (1, 1, 1, 1),
            0.6,
            "valid",
        ),
        ((1, 1, 0, 0, 0.5, 0.5, 1, 0, 0), (1, 1, 0, 1), 0.6, "invalid"),
        ((1, 1, 0, 0, 0, 0, 1, 0, 0), (1, 1, 0, 1), 0.6, "invalid"),
        (right, (0, 1, 0, 1), 0.6, "invalid"),
        (right, (1, 1, 0, 1), 0.9, "invalid"),  # not empty then
    ):
        second = Read(void(path, beta, scale, last))
        for floats in (False, True):
            answer, why = check(path, floats=floats)
            assert answer == says, why
        assert holds(second) == (says == "valid")


def test_a_file_that_unpacks_to_much_or_is_cut(tmp_path):
    path, one = tmp_path / "proof", np.ones(1)
    one_input(path, [LEAF], [0])
    raw = path.read_bytes()
    bomb = zlib.compress(bytes(2**28 + 1), 1)
    start = raw.index(b"\x78", 25 + int.from_bytes(raw[17:25], "little"))
    path.write_bytes(raw[:start] + bomb)
    assert check(path) == ("unsupported", "arrays: cut off, or too much")
    path.write_bytes(raw[:start] + zlib.compress(bytes(2**20)))
    assert check(path) == ("invalid", "arrays: too few or too many numbers")
    read = Read(raw)
    read.arrays["more"] = one
    packed = read.packed().replace(b'["more", "<f8", [1]]', b'["more", "<f8", [2000000000]]')
    size = int.from_bytes(packed[17:25], "little") + 9
    path.write_bytes(packed[:17] + size.to_bytes(8, "little") + packed[25:])
    assert check(path)[0] == "invalid"
    path.write_bytes(raw[:17] + (2**22).to_bytes(8, "little") + b"[" * 2**22)
    assert check(path)[0] == "invalid"


def test_numbers_at_the_ends_of_their_range(tmp_path):
    """Cancelling weights, subnormals and values near 2^44 units: refused or right."""
    path, generator = tmp_path / "proof", np.random.default_rng(0)
    answers = Counter()
    for seed in range(24):
        scale = 2.0 ** generator.integers(-160, 60, (5, 4))
        model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
        with torch.no_grad():
            model[0].weight.mul_(torch.from_numpy(np.where(seed % 3 == 0, scale, 1)))
            model[0].weight[1] = -model[0].weight[0]
            model[2].weight.mul_(10.0 ** (seed % 9 - 4))
            if seed % 2:
                model[2].bias.mul_(2.0**-140)
        net_ = ad.certify(model, 10.0 ** (seed % 5 - 5))
        try:
            net_(torch.rand(3, 4, dtype=torch.float64)).save(path, most=3)
        except InputError as error:
            answers[str(error)[:24]] += 1
            continue
        answers[check(path)[0]] += 1
        check(path, floats=True)
        assert not violated(Read(path.read_bytes()), tolerance=1e-12)
    assert answers["valid"] > 12


def test_what_is_proved_by_a_hair_is_cut_until_the_hair_is_seen(tmp_path):
    """A third of the room that proofs leave at first is enough where parts come to nothing."""
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        net[0].bias.zero_()
        net[2].weight.fill_(1.0)
        net[2].bias.fill_(300 * 2.0**-UNIT)
    verdict = ad.verify(net, ad.Region(-torch.ones(1), torch.ones(1)), ad.Y[0] > 0, 10)
    assert verdict.verified
    verdict.save(tmp_path / "proof")
    assert check(tmp_path / "proof")[0] == "valid"


def test_an_input_without_a_slope_is_cut_all_the_same(tmp_path):
    """Both ways from 0 the net bends alike, so that x₀ has the slope 0 there, and x₁ a little."""
    net = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0], [-1, 0], [1, 0], [-1, 0], [0, 1]]))
        net[0].bias.copy_(torch.tensor([0.0, 0, -0.5, -0.5, 0]))
        net[2].weight.copy_(torch.tensor([[1.0, 1, -2, -2, 1e-3]]))
        net[2].bias.fill_(0.1)
    region = ad.Region(torch.tensor([-1.0, 0.0]), torch.ones(2))
    verdict = ad.verify(net, region, ad.Y[0] > 0, 10)
    assert verdict.verified
    verdict.save(tmp_path / "proof", most=64)
    assert check(tmp_path / "proof")[0] == "valid"
