"""The checker's arithmetic where rounding shows: few bits, and networks on which bounds are tight.

On a chain of affine nodes, and on ReLUs of single inputs that are summed with negative weights, the
relaxation loses nothing: what a bound lies below the truth is what rounding took, and it must never
lie above.
"""

from copy import copy
from fractions import Fraction
from functools import cache

import numpy as np
import pytest

import autodual_check.network as network
from autodual_check.checking import Bounds, Proof, check
from autodual_check.network import Numbers, Relu, Values
from autodual_check.reading import Unproved
from tests.proofs import Read, derived
from tests.test_proofs import LEAF, X, Z, exact, one_input, saved, void


def proof(kind, seed, unit=5, dual=4, scale=1, floats=False):
    """Return a proof of margins of two classes whose second logit is 0, and the least margins."""
    generator = np.random.default_rng(seed)
    n, N = 6, 8
    x, eps = generator.integers(-16, 17, (N, n)) / 8, generator.integers(1, 9, N) / 8
    dense, zero = np.arange(n).reshape(1, n, 1), np.zeros((1, 1, 1))
    V = -scale * generator.random((1, 1, n)) * [[[1], [0]]]
    c = zero + generator.normal(size=(1, 2, 1)) * [[[1], [0]]]
    dense = dense.astype(np.int32)
    arrays = {"x": x, "eps": eps, "head": np.array([unit, dual, n, 0], np.int32)}
    if kind == "relu":
        nodes = [[0], [1]]
        arrays |= {"W2": V, "I2": dense, "b2": c}
        worst = np.maximum(x + eps[:, None], 0)
        least = worst @ V[0, 0] + c[0, 0]
    else:
        W, b = generator.normal(size=(2, 1, n, n)), generator.normal(size=(1, n, 1))
        W = np.where(generator.random(W.shape) < 0.5, W, W / 64)
        nodes = [[0], [1], [1, 2]]
        arrays |= {"W1": W[0], "I1": dense, "b1": b, "W2": W[1], "I2": dense, "b2": b}
        arrays |= {"W3": np.concatenate([V, 0.3 * V], 2), "b3": c}
        arrays["I3"] = np.arange(2 * n).reshape(1, -1, 1).astype(np.int32)
        one = W[0, 0].T @ V[0, 0]
        row = one + 0.3 * (W[1, 0] @ W[0, 0]).T @ V[0, 0]
        first = b[0, :, 0]
        at = V[0, 0] @ first + 0.3 * V[0, 0] @ (W[1, 0] @ first + first) + c[0, 0]
        least = x @ row + at - eps * np.abs(row).sum()
    return Proof(nodes, arrays, floats=floats), least.ravel()


def margins(found):
    """Return the bounds that the checker derives of the first logit less the second."""
    N, nothing = found.count, np.zeros(len(found.sizes))
    bounds = Bounds(found, found.numbers, np.arange(N), True, nothing, [], np.zeros((6, 0)))
    y, k, one = np.zeros(N, np.int64), np.ones(N, np.int64), np.ones(N)
    return bounds.least(len(found.ops), y, k, np.arange(N), one) / found.numbers.unit


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
                    gaps.append(least - margins(found))
                assert np.min(gaps) > -1e-9, (
                    f"{kind}: a margin lies {-np.min(gaps)} above the truth"
                )
        finally:
            for name, bits in kept.items():
                setattr(network, name, bits)

    check.__name__ = f"few bits for {what}"
    return check


few_for_all = few("all", unit=5, dual=4, WEIGHT=5, SLOPE=3)
few_for_values = few("values", unit=3, scale=64)
few_for_rows = few("rows", dual=2)
few_for_weights = few("weights", ("chain",), WEIGHT=5)
few_for_slopes = few("slopes", ("relu",), SLOPE=3)
few_for_errors = few("errors", dual=36)


def bounds_with_all_bits_are_tight():
    for kind in ("chain", "relu"):
        found, least = proof(kind, 0, unit=30, dual=22)
        gap = least - margins(found)
        assert gap.min() > -1e-12, f"{kind}: a margin lies {-gap.min()} above the truth"
        assert gap.max() < 1e-4, f"{kind}: a margin lies {gap.max()} below the truth"


def floats_are_rounded_outward():
    """By more than sums are off here, which is more than those of float64 ever are."""
    plain = np.matmul

    def blurred(A, X):
        found, size = plain(A, X), plain(np.abs(A), np.abs(X))
        return found + np.random.default_rng(0).uniform(-1, 1, found.shape) * size * 2.0**-44

    for kind in ("chain", "relu"):
        for seed in range(20):
            found, least = proof(kind, seed, floats=True)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(np, "matmul", blurred)
                gap = least - margins(found)
            assert gap.min() > -5e-14, f"{kind}: a margin lies {-gap.min()} above the truth"
            assert gap.max() < 1e-9, f"{kind}: a margin lies {gap.max()} below the truth"


def bounds_of_parts_hold_at_their_points():
    """Random nets, cuts, slopes and multipliers, of few bits, of many, and in floats."""
    for seed in range(45):
        floats, few = seed % 3 == 2, seed % 3 == 0
        generator = np.random.default_rng(seed)
        n, B, index = 3, 40, np.arange(3, dtype=np.int32).reshape(1, 3, 1)
        W, b = generator.normal(size=(3, 1, n, n)), generator.normal(size=(3, 1, n, 1))
        nodes, arrays = [[0], [1], [2], [3], [1, 4]], {}
        for layer, i in enumerate((1, 3)):
            arrays |= {f"W{i}": W[layer], f"I{i}": index, f"b{i}": b[layer]}
        arrays |= {"W5": np.concatenate([W[2], W[0]], 2), "b5": b[2]}
        arrays["I5"] = np.arange(6, dtype=np.int32).reshape(1, 6, 1)
        arrays["head"] = np.array([7, 6, n, 0] if few else [27, 22, n, 0], np.int32)
        arrays |= {"lower": -np.ones((1, n)), "upper": np.ones((1, n))}
        found = Proof(nodes, arrays, floats=floats)
        N, more = copy(found.numbers), 2.0 ** (seed % 4)
        N.unit *= more
        values, x = [generator.uniform(-1, 1, (4000, n))], generator.random((4000, n)) < 0.3
        values[0] = np.where(x, np.sign(values[0]), values[0])
        for i, inputs in enumerate(nodes, 1):
            z = np.concatenate([values[j] for j in inputs], 1)
            dense = f"W{i}" in arrays
            z = z @ arrays[f"W{i}"][0].T + arrays[f"b{i}"][0, :, 0] if dense else np.maximum(z, 0)
            values.append(z)
        count = 3 * B
        node, entry = generator.integers(0, 6, count), generator.integers(0, n, count)
        sign = generator.choice([-1.0, 1.0], count)
        t = np.array([generator.choice(values[i][:, u]) for i, u in zip(node, entry, strict=True)])
        beta = np.rint(generator.exponential(size=count) * N.dual) if not floats else 1.0 * (t > 0)
        cuts = np.stack([node, entry, np.repeat(np.arange(B), 3), sign, t, beta])
        alpha = generator.integers(0, 129, (6, B)) / 128
        way = np.array([0, 0, 0, 1, 0, 0]) * (seed % 2)
        first, base = np.zeros(B, np.int64), []
        if seed % 2:
            whole = Bounds(found, found.numbers, first, False, way, [], cuts[:, :0])
            base = [np.stack([z.lo, z.hi]) * more for z in whole.values]
        bounds = Bounds(found, N, first, alpha, way, base, cuts)
        y, k = generator.integers(0, n, B), generator.integers(-1, n, B)
        scale = generator.integers(0, 2, B)
        lower = bounds.least(len(nodes), y, k, np.arange(B), scale, True) / N.unit
        for leaf in range(B):
            inside = np.ones(4000, bool)
            for i, u, _, s, end, _ in cuts[:, cuts[2] == leaf].T:
                inside &= s * (values[int(i)][:, int(u)] - end) >= 0
            z = np.concatenate([values[-1], np.zeros((4000, 1))], 1)[inside]
            least = (scale[leaf] * (z[:, y[leaf]] - z[:, k[leaf]])).min(initial=np.inf)
            gap = least - lower[leaf]
            assert gap > -1e-9, f"a part's bound lies {-gap} above the truth"
            assert not (bounds.empty[leaf] and inside.any()), "above the truth: a part has points"


def lines_enclose_the_relu():
    generator = np.random.default_rng(0)
    N = Numbers([30, 22], False)
    for slopes in (True, False, generator.integers(0, 129, (50, 40)) / 128):
        lo = generator.integers(-200, 50, (50, 40)).astype(float)
        hi = lo + generator.integers(0, 250, lo.shape)
        c = generator.integers(lo, hi + 1).astype(float)
        value = Values(N, c, lo, hi)
        out = Relu(50, 0).forward([value], slopes)
        for t in np.linspace(0, 1, 21):
            z = lo + t * (hi - lo)
            step, rest = z - c, np.maximum(z, 0) - out.c
            below, above = rest - (out.a * step - out.below), out.s * step + out.above - rest
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
        exact().save(Path(folder) / "proof")
        found["tree"] = (Path(folder) / "proof").read_bytes()
        found["void"] = void(Path(folder) / "proof")
    return found


def bounds_are_those_of_a_second_reading():
    for name, raw in files().items():
        second = Read(raw)
        for equal in (0, 1):
            for rows in (0, 1):
                way = np.full_like(second.arrays["way"], rows)
                way[0] = equal
                second.arrays["way"] = way
                compare(second, f"{name} with equal={equal}, rows={rows}")


def compare(second, told):
    """Compare what the checker derives of each leaf with what the second reading does."""
    lowers, plain = [], Bounds.least

    def noted(self, i, y, k, b, sign, pull=False):
        lower = plain(self, i, y, k, b, sign, pull)
        if pull:
            lowers.append(lower / self.N.unit)
        return lower

    found = Proof(second.header["nodes"], dict(second.arrays))
    found.together, found.arrays["least"] = 10**6, np.full_like(second["least"], -1e6)
    try:
        Bounds.least = noted
        found.check()
    except Unproved:
        pass  # a leaf whose scale is 0
    finally:
        Bounds.least = plain
    other = list(derived(second))
    kinds = [4 * finer + 2 * (a >= 0) + again for a, again, _, finer in second.arrays["leaves"]]
    order = np.argsort(kinds, kind="stable")
    lower, other = np.concatenate(lowers), np.concatenate([other[i][3] for i in order])
    other = other[: len(lower)]
    more, less = (lower - other).max(), (other - lower).max()
    assert more < 1e-8, f"{told}: a bound is {more} more than the other's"
    assert less < 1e-3, f"{told}: a bound is {less} less than the other's"


def answers(make):
    """Return what the checker makes of a file that ``make`` writes."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "proof"
        make(path)
        return check(path)


def parts_cover_their_set():
    right = answers(lambda path: one_input(path, [X, LEAF, LEAF], [0.3, 0, 0], [0, 0]))
    assert right[0] == "valid", f"the right tree is {right}"
    for cuts, at, beta in (
        ([X, LEAF], [0.3, 0], [0]),
        ([LEAF], [0], None),
        ([X, LEAF, LEAF], [0.5, 0, 0], [0, 0]),
        ([Z, LEAF, LEAF], [0, 0, 0], [1, -1]),
        ([Z, LEAF, LEAF], [0.5, 0, 0], [1, 1]),
    ):
        answer = answers(lambda path, cuts=cuts, at=at, beta=beta: one_input(path, cuts, at, beta))
        assert answer[0] == "invalid", f"a tree that lacks a proof is {answer}"


def claims_are_compared():
    second = Read(files()["mlp"])
    claims = second.arrays["least"].copy()
    claims[2] += 1e-3
    second.arrays["least"] = claims
    answer = answers(lambda path: path.write_bytes(second.packed()))
    assert answer[0] == "invalid", f"a claim of more is {answer}"


def emptiness_needs_multipliers():
    assert answers(void)[0] == "valid"
    for beta, last in (
        ((1, 1, 0, 0, 0.5, 0.5, 1, 0, 0), 0.6),
        ((1, 1, 0, 1, 0.5, 0.5, 1, 0, 0), 0.9),
    ):
        answer = answers(lambda path, beta=beta, last=last: void(path, beta, last=last))
        assert answer[0] == "invalid", f"a leaf that has points and no proof is {answer}"


CHECKS = (
    few_for_all,
    few_for_values,
    few_for_rows,
    few_for_weights,
    few_for_slopes,
    few_for_errors,
    bounds_with_all_bits_are_tight,
    floats_are_rounded_outward,
    bounds_of_parts_hold_at_their_points,
    lines_enclose_the_relu,
    bounds_are_those_of_a_second_reading,
    parts_cover_their_set,
    claims_are_compared,
    emptiness_needs_multipliers,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_checker(check):
    check()


def test_numbers_that_do_not_fit_are_refused():
    found, _ = proof("chain", 0, unit=45)
    with pytest.raises(Unproved, match="too large"):
        margins(found)
    found, _ = proof("chain", 0)
    with pytest.raises(Unproved, match="too large"):
        found.ops[0].product(found.ops[0].W, np.full((6, 1), 2.0**28))


def test_digits_add_up_to_what_they_are_of():
    x = np.random.default_rng(0).integers(-(2**50), 2**50, 100).astype(np.float64)
    for terms in (1, 7, 200, 2**20):
        t, parts = Numbers([30, 22], False).digits(x, terms)
        assert all(np.abs(part).max() < t for part in parts)
        assert np.array_equal(sum(p * float(t) ** i for i, p in enumerate(parts)), x)


def test_long_rows_are_rounded_by_no_more_than_is_charged():
    """Rows of up to 46 bits, times slopes of 16: against fractions."""
    rng = np.random.default_rng(0)
    z = Values(N := Numbers([30, 22], False), *np.zeros((3, 4, 1)))
    for bits, times in ((36, 1), (38, 2), (45, 2)):
        z.a = rng.integers(0, 2**16 + 1, (4, 1)) * 2.0**-16
        z.s = rng.integers(0, 2**16 + 1, (4, 1)) * 2.0**-16
        V = rng.integers(-(2**bits), 2**bits, (4, 500)).astype(np.float64)
        V[0, 0] = 2.0**bits
        _, found, count = Relu(4, 0).back(z, np.arange(4), V, np.zeros(500, np.int64))
        assert count == times
        for i, j in np.ndindex(V.shape):
            slope = z.a[i, 0] if V[i, j] > 0 else z.s[i, 0]
            off = Fraction(found[i, j]) - Fraction(V[i, j]) * Fraction(slope)
            assert abs(off) <= Fraction(count, 2)
    with pytest.raises(Unproved, match="too large"):
        Relu(4, 0).back(z, np.arange(4), N.row * np.ones((4, 1)), np.zeros(1, np.int64))
