"""The checker's arithmetic where rounding shows: few bits, and networks on which bounds are tight.

On a chain of affine nodes, and on ReLUs of single inputs that are summed with negative weights, the
relaxation loses nothing: what a bound lies below the truth is what rounding took, and it must never
lie above.
"""

from functools import cache

import numpy as np
import pytest

import autodual_check.network as network
from autodual_check.checking import Proof, check, margins
from autodual_check.network import Relu, Values
from autodual_check.reading import Unsupported
from tests.proofs import Read, derived
from tests.test_proofs import saved, tree


def proof(kind, seed, unit=5, dual=4, scale=1):
    """Return a proof of margins of two classes whose second logit is 0, and the least margins."""
    generator = np.random.default_rng(seed)
    n, N = 6, 8
    x, eps = generator.integers(-16, 17, (N, n)) / 8, generator.integers(1, 9, N) / 8
    dense, zero = np.arange(n).reshape(1, n, 1), np.zeros((1, 1, 1))
    arrays = {
        **{"x": x, "eps": eps, "labels": np.zeros(N, np.int32), "way": np.zeros(N, np.int32)},
        **{"I": dense.astype(np.int32), "V": -scale * generator.random((1, 1, n)) * [[[1], [0]]]},
        "c": zero + generator.normal(size=(1, 2, 1)) * [[[1], [0]]],
    }
    if kind == "relu":
        nodes = [["relu", [0]], ["affine", [1], "V", "I", "c"]]
        worst = np.maximum(x + eps[:, None], 0)
        least = worst @ arrays["V"][0, 0] + arrays["c"][0, 0]
    else:
        W, b = generator.normal(size=(2, 1, n, n)), generator.normal(size=(1, n, 1))
        W = np.where(generator.random(W.shape) < 0.5, W, W / 64)
        arrays |= {"W": W[0], "U": W[1], "b": b}
        nodes = [["affine", [0], "W", "I", "b"], ["affine", [1], "U", "I", "b"]]
        nodes += [["affine", [1, 2], "T", "J", "c"]]
        arrays["T"] = np.concatenate([arrays["V"], 0.3 * arrays["V"]], 2)
        arrays["J"] = np.arange(2 * n).reshape(1, -1, 1).astype(np.int32)
        one = W[0, 0].T @ arrays["T"][0, 0, :n]
        row = one + (W[1, 0] @ W[0, 0]).T @ arrays["T"][0, 0, n:]
        first = b[0, :, 0]
        at = arrays["T"][0, 0] @ np.append(first, W[1, 0] @ first + first) + arrays["c"][0, 0]
        least = x @ row + at - eps * np.abs(row).sum()
    header = {
        **{"unit": unit, "dual": dual, "input": n, "nodes": nodes, "ways": [["equal", []]]},
        "set": {"kind": "linf", "x": "x", "eps": "eps"},
    }
    return Proof(header, arrays), least.ravel()


def few(what, kinds=("chain", "relu"), unit=30, dual=22, scale=1, **constants):
    """Return the check that bounds hold where these have few bits, and nothing else loses much."""

    def check():
        kept = {name: getattr(network, name) for name in constants}
        try:
            for name, bits in constants.items():
                setattr(network, name, bits)
            for kind in kinds:
                gaps = []
                for seed in range(30):
                    found, least = proof(kind, seed, unit, dual, scale)
                    names = {"labels": "labels", "way": "way"}
                    lower = margins(found, names)[:, 1] * 2.0**-found.unit
                    gaps.append(least - lower)
                assert np.min(gaps) > -1e-9, (
                    f"{kind}: a margin lies {-np.min(gaps)} above the truth"
                )
        finally:
            for name, bits in kept.items():
                setattr(network, name, bits)

    check.__name__ = f"few bits for {what}"
    return check


few_for_all = few("all", unit=5, dual=4, WEIGHT=5, PARTS=2, SLOPE=3)
few_for_values = few("values", unit=3, scale=64)
few_for_rows = few("rows", dual=2)
few_for_weights = few("weights", ("chain",), WEIGHT=5, PARTS=8)
few_for_last_parts = few("the last parts of weights", ("chain",), WEIGHT=5, PARTS=1)
few_for_slopes = few("slopes", ("relu",), SLOPE=3)
few_for_errors = few("errors", dual=36)


def bounds_with_all_bits_are_tight():
    for kind in ("chain", "relu"):
        found, least = proof(kind, 0, unit=30, dual=22)
        lower = margins(found, {"labels": "labels", "way": "way"})[:, 1] * 2.0**-30
        gap = least - lower
        assert gap.min() > -1e-12, f"{kind}: a margin lies {-gap.min()} above the truth"
        assert gap.max() < 1e-4, f"{kind}: a margin lies {gap.max()} below the truth"


def lines_enclose_the_relu():
    generator = np.random.default_rng(0)
    for free in (False, True):
        lo = generator.integers(-200, 50, (50, 40))
        hi = lo + generator.integers(0, 250, lo.shape)
        op = Relu(50)
        op.free = free
        c = generator.integers(lo, hi + 1)
        out = op.forward([Values(c, lo, hi)])
        for t in np.linspace(0, 1, 21):
            z = lo + t * (hi - lo)
            step, rest = z - c, np.maximum(z, 0) - out.c
            below, above = rest - (op.a * step - op.below), op.s * step + op.above - rest
            if not free:
                below = rest - (op.a * step - np.maximum(op.below, op.above))
            worst = min(below.min(), above.min())
            assert worst >= -1e-9, f"a line is crossed by {-worst}"
            outside = np.maximum(out.lo - np.maximum(z, 0), np.maximum(z, 0) - out.hi).max()
            assert outside <= 0, f"the ReLU leaves its interval by {outside}"


@cache
def files():
    """Return files as they are written by what is not broken."""
    import tempfile
    from pathlib import Path

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, threat in (("mlp", "l2"), ("conv", "linf"), ("mixed", "l1")):
            saved(Path(folder) / "proof", name, threat)
            found[name] = (Path(folder) / "proof").read_bytes()
    return found


def margins_are_those_of_a_second_reading():
    for name, raw in files().items():
        second = Read(raw)
        header, arrays = dict(second.header), dict(second.arrays)
        for way, (slopes, rows) in enumerate(header["ways"]):
            arrays["way"] = np.full(6, way, np.int32)
            second.arrays = arrays
            found = Proof(header, arrays)
            lower = margins(found, header["property"]) * 2.0**-found.unit
            other = np.stack([derived(second, i) for i in range(6)])
            more, less = (lower - other).max(), (other - lower).max()
            told = f"{name} with {slopes} slopes and rows for {rows}"
            assert more < 1e-9, f"{told}: a margin is {more} more than the other's"
            assert less < 1e-3, f"{told}: a margin is {less} less than the other's"


def parts_cover_their_set():
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "proof"
        right = tree(path, [0, -1, -1], [0.3, 0, 0])
        assert right[0] == "valid", f"the right tree is {right}"
        for cuts, at in (([0, -1], [0.3, 0]), ([-1], [0]), ([0, -1, -1], [0.5, 0, 0])):
            answer = tree(path, cuts, at)
            assert answer[0] == "invalid", f"a tree that lacks a proof is {answer}"


def claims_are_compared():
    import tempfile
    from pathlib import Path

    second = Read(files()["mlp"])
    claims = second.arrays["margins"].copy()
    claims[2, (int(second.arrays["labels"][2]) + 1) % 3] += 1e-3
    second.arrays["margins"] = claims
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "proof"
        path.write_bytes(second.packed())
        answer = check(path)
    assert answer[0] == "invalid", f"a claim of more is {answer}"


CHECKS = (
    few_for_all,
    few_for_values,
    few_for_rows,
    few_for_weights,
    few_for_last_parts,
    few_for_slopes,
    few_for_errors,
    bounds_with_all_bits_are_tight,
    lines_enclose_the_relu,
    margins_are_those_of_a_second_reading,
    parts_cover_their_set,
    claims_are_compared,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_checker(check):
    check()


def test_numbers_that_do_not_fit_are_refused():
    found, _ = proof("chain", 0, unit=45)
    with pytest.raises(Unsupported, match="too large"):
        margins(found, {"labels": "labels", "way": "way"})
    with pytest.raises(Unsupported, match="too large"):
        network.product(np.full((1, 4), 2.0**26), np.full((4, 1), 2.0**26), 4)


def test_digits_add_up_to_what_they_are_of():
    x = np.random.default_rng(0).integers(-(2**50), 2**50, 100).astype(np.float64)
    for bits in (4, 11, 22, 51):
        parts = network.digits(x, bits)
        assert all(np.abs(part).max() < 2.0**bits for part in parts)
        assert np.array_equal(sum(p * 2.0 ** (t * bits) for t, p in enumerate(parts)), x)
