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
from autodual.proof.write import pack
from autodual_check.checking import Proof, check, margins
from autodual_check.reading import read
from tests.mutants import mutant
from tests.proofs import Read, derived, violated


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
        case "linear":
            model, shape = nn.Sequential(nn.Linear(5, 3)), (5,)
    return model.eval(), torch.rand(6, *shape)


NETS = "mlp", "conv", "mixed", "signal", "linear"

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
    second = Read(path.read_bytes())
    claims = second["margins"]
    safe = torch.from_numpy(claims > 0).scatter(1, certificate.labels.unsqueeze(1), True).all(1)
    assert (safe | ~certificate.verified).all()
    for i in range(len(claims)):
        other = derived(second, i)
        scale = np.abs(other).max() + 1
        assert (claims[i] <= other + 1e-9 * scale).all()
        assert (claims[i] >= other - 1e-4 * scale).all()
    assert not violated(second)


@pytest.mark.parametrize("threat", SETS)
@pytest.mark.parametrize("slopes", ["equal", "free"])
def test_all_sets_and_ways(threat, slopes, tmp_path):
    path = tmp_path / "proof"
    model, x = net("mlp")
    ad.certify(model, SETS[threat], slopes=slopes)(x).save(path, tight=True)
    second = Read(path.read_bytes())
    assert check(path)[0] == "valid"
    assert second.header["ways"][-1][0] == slopes
    assert not violated(second)
    for i in range(6):
        other = derived(second, i)
        assert np.allclose(second["margins"][i], other, rtol=1e-4, atol=1e-4)


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
    claims = Read((tmp_path / "proof").read_bytes())["margins"]
    assert np.allclose(claims, certificate.margins.numpy(), atol=1e-4)


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


def test_what_only_programs_verify_is_not_written(tmp_path):
    model, x = net("mlp")
    exact = ad.certify(model, 0.15, bounds=ad.MILP())(x)
    loose = ad.certify(model, 0.15)(x)
    assert (exact.verified & ~loose.verified).any()
    refused(exact, tmp_path, "not proved by what the checker derives")
    exact[loose.verified].save(tmp_path / "proof")
    assert check(tmp_path / "proof")[0] == "valid"


def test_margins_do_not_depend_on_the_order_of_sums(tmp_path, monkeypatch):
    """In whole numbers every order gives the same: here that of einsum, and of a reversed one."""
    saved(tmp_path / "proof", "conv")
    proof = Proof(*read(tmp_path / "proof"))
    said = proof.header["property"]
    found = margins(proof, said)

    def reversed_(A, X, out=None):
        result = np.einsum("gij,gjk->gik", A[..., ::-1], X[..., ::-1, :])
        return result if out is None else np.copyto(out, result)

    monkeypatch.setattr(np, "matmul", reversed_)
    assert np.array_equal(margins(Proof(proof.header, proof.arrays), said), found)


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

    files = Path(autodual_check.__file__).parent.glob("*.py")
    text = "\n".join(f.read_text() for f in files)
    parts = text.split('"""')
    code = "".join(parts[::2])
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 500


def test_no_mutant_that_claims_too_much_is_accepted(tmp_path):
    """``PROOF_MUTANTS=10000`` tries more."""
    originals = []
    for name, threat in (("mlp", "clipped"), ("mixed", "l2"), ("signal", "l1")):
        saved(tmp_path / "proof", name, threat)
        originals.append((tmp_path / "proof").read_bytes())
    count, answers = int(os.environ.get("PROOF_MUTANTS", "400")), Counter()
    for seed in range(count):
        path = tmp_path / "mutant"
        path.write_bytes(mutant(originals[seed % 3], np.random.default_rng(seed)))
        answer, why = check(path, 60)
        answers[answer] += 1
        assert "\n" not in why
        if answer == "valid":
            assert not violated(Read(path.read_bytes())), f"mutant {seed} claims too much"
    assert min(answers[a] for a in ("valid", "invalid", "unsupported")) > count // 100


def question():
    """A network that a few cuts verify: the first output stays below the second plus a margin."""
    model, _ = net("mlp")
    low, high = torch.zeros(4), torch.full((4,), 1.5)
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.5])] * 4)
    z = model(torch.cat([corners, 1.5 * torch.rand(500, 4)])).detach()
    gap = (z[:, 0] - z[:, 1]).max() + 0.01
    return model, (low, high), ad.Y[0] - ad.Y[1] < float(gap)


def test_a_verdict_as_a_tree_of_parts(tmp_path):
    model, region, statement = question()
    verdict = ad.verify(model, region, statement)
    parts = verdict.save(tmp_path / "proof")
    assert parts > 5
    answer, why = check(tmp_path / "proof")
    assert answer == "valid", why
    assert why.startswith(f"1 sets in {parts} parts")
    assert not violated(Read((tmp_path / "proof").read_bytes()))


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


def tree(path, cuts, at, room=0.1, first=0, last=1):
    """Write that x − 0.3 + room or 0.3 − x + room is positive on [0, 1], cut like this."""
    arrays = {
        "W": np.array([[[1.0], [-1.0]]]),
        "I": np.zeros((1, 1, 1), np.int32),
        "b": np.array([[[room - 0.3], [room + 0.3]]]),
        **{"lower": np.zeros((1, 1)), "upper": np.ones((1, 1))},
        **{"first": np.array([first], np.int32), "last": np.array([last], np.int32)},
        **{"cuts": np.array(cuts, np.int32), "at": np.array(at, np.float64)},
        "way": np.zeros(sum(c < 0 for c in cuts), np.int32),
    }
    names = "first", "last", "cuts", "at", "way"
    header = {
        **{"unit": 30, "dual": 22, "input": 1, "nodes": [["affine", [0], "W", "I", "b"]]},
        **{"ways": [["equal", []]], "set": {"kind": "box", "lower": "lower", "upper": "upper"}},
        "property": {"kind": "positive", **{name: name for name in names}},
    }
    path.write_bytes(pack(header, arrays))
    return check(path)


@pytest.mark.parametrize(
    ("cuts", "at", "says"),
    [
        ([0, -1, -1], [0.3, 0, 0], "valid"),
        ([0, 0, -1, -1, -1], [5, 0.3, 0, 0, 0], "valid"),
        ([0, -1, 0, -1, -1], [-5, 0, 0.3, 0, 0], "valid"),
        ([0, -1, -1], [5, 0, 0], "no output is proved"),
        ([-1], [0], "no output is proved"),
        ([0, -1], [0.3, 0], "parts are missing"),
        ([0, -1, -1, -1], [0.3, 0, 0, 0], "belongs to no set"),
        ([0], [0.3], "not a shape"),
        ([1, -1, -1], [0.3, 0, 0], "not inputs"),
    ],
)
def test_parts_cover_their_set(cuts, at, says, tmp_path):
    assert says in ": ".join(tree(tmp_path / "proof", cuts, at))


def test_parts_need_a_positive_output(tmp_path):
    cuts, at = [0, -1, -1], [0.3, 0, 0]
    for other in ({"room": 0.0}, {"first": 1}, {"last": 0}, {"first": 1, "last": 0}):
        answer, why = tree(tmp_path / "proof", cuts, at, **other)
        assert (answer, "positive" in why) == ("invalid", True)


def test_a_file_that_unpacks_to_much_or_is_cut(tmp_path):
    path, one = tmp_path / "proof", np.ones(1)
    tree(path, [-1], [0])
    raw = path.read_bytes()
    bomb = zlib.compress(bytes(2**26))
    start = raw.index(b"\x78", 25 + int.from_bytes(raw[17:25], "little"))
    path.write_bytes(raw[:start] + bomb)
    assert check(path) == ("invalid", "arrays: wrong length")
    read = Read(raw)
    read.arrays["more"] = one
    packed = read.packed().replace(b'["more", "<f8", [1]]', b'["more", "<f8", [2000000000]]')
    size = int.from_bytes(packed[17:25], "little") + 9
    path.write_bytes(packed[:17] + size.to_bytes(8, "little") + packed[25:])
    assert check(path) == ("unsupported", "the arrays are too large")
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
            net_(torch.rand(3, 4, dtype=torch.float64)).save(path)
        except InputError as error:
            answers[str(error)[:24]] += 1
            continue
        answers[check(path)[0]] += 1
        assert not violated(Read(path.read_bytes()), tolerance=1e-12)
    assert answers["valid"] > 12
