"""VNN-LIB files: what their cases mean, and what is said of files that are not what they should be.

Numbers are dyadic where a case's meaning is compared, so that no rounding blurs it.
"""

import gzip
import math
import random
import time
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autodual.errors import InputError
from autodual.formats.vnnlib import parse, read_vnnlib
from autodual.formats.vnnlib import text as reading
from autodual.formats.vnnlib.formula import OPPOSITE
from autodual.formats.vnnlib.linear import above

N, K = 3, 2

DECLARED = "".join(f"(declare-const X_{i} Real)\n" for i in range(N)) + "".join(
    f"(declare-const Y_{i} Real)\n" for i in range(K)
)

BOX = "".join(f"(assert (<= X_{i} 2))(assert (>= X_{i} -2))\n" for i in range(N))

NETWORK = """(vnnlib-version <2.0>)
(declare-network net
    (declare-input X float32 [1,2])
    (declare-input Z Real [])
    (declare-output Y float64 [2,1])
)
"""


@pytest.fixture
def read(tmp_path):
    def reader(text, **expected):
        path = tmp_path / "property.vnnlib"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_vnnlib(path, **expected)

    return reader


# ---- meaning -------------------------------------------------------------------------------------


def value(term, x, z):
    """Evaluate a term, a nested tuple."""
    if isinstance(term, float):
        return term
    if isinstance(term, str):
        return float((x if term[0] == "X" else z)[int(term[2:])])
    head, *rest = term
    numbers = [value(part, x, z) for part in rest]
    if head == "+":
        return sum(numbers)
    if head == "*":
        return math.prod(numbers)
    if head == "/":
        return numbers[0] / numbers[1]
    return -numbers[0] if len(numbers) == 1 else numbers[0] - sum(numbers[1:])


def holds(formula, x, z):
    """Evaluate a formula; points where a comparison attains equality are left to no one."""
    head, *rest = formula
    if head == "not":
        return not holds(rest[0], x, z)
    if head in ("and", "or"):
        return (all if head == "and" else any)([holds(part, x, z) for part in rest])
    left, right = (value(part, x, z) for part in rest)
    return left < right if head in ("<", "<=") else left > right


def written(formula):
    if isinstance(formula, tuple):
        return "(" + " ".join(map(written, formula)) + ")"
    return str(formula)


def inside(query, x, z):
    x, z = (torch.tensor(v, dtype=torch.float64) for v in (x, z))
    return any(
        bool(((case.lower <= x) & (x <= case.upper)).all())
        and bool((case.excess(x[None], z[None]) <= 0).all())
        for case in query.cases
    )


NUMBERS = st.integers(-12, 12).map(lambda i: i / 4)
VARIABLES = st.sampled_from([f"X_{i}" for i in range(N)] + [f"Y_{i}" for i in range(K)])
TERMS = st.recursive(
    NUMBERS | VARIABLES,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from("+-"), inner, inner),
        st.tuples(st.just("-"), inner),
        st.tuples(st.just("*"), NUMBERS, inner),
        st.tuples(st.just("*"), inner, NUMBERS, NUMBERS),
        st.tuples(st.just("/"), inner, st.sampled_from([-4.0, 0.5, 2.0])),
    ),
    max_leaves=4,
)
FORMULAS = st.recursive(
    st.tuples(st.sampled_from(["<=", ">=", "<", ">"]), TERMS, TERMS),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: ("and", *parts)),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: ("or", *parts)),
        st.tuples(st.just("not"), inner),
    ),
    max_leaves=6,
)


def points(seed, count=12):
    """Points off the lattice on which a drawn comparison could attain equality, mostly."""
    draw = random.Random(seed)
    for _ in range(count):
        yield [draw.uniform(-3, 3) for _ in range(N)], [draw.uniform(-3, 3) for _ in range(K)]


def agrees(path, formulas, seed, reader=read_vnnlib):
    text = DECLARED + "\n".join(f"(assert {written(formula)})" for formula in formulas)
    path.write_text(text)
    query = reader(path, N, K)
    for x, z in points(seed):
        expected = all(holds(formula, x, z) for formula in formulas)
        assert inside(query, x, z) == expected, f"{formulas} at {x}, {z}"


def constant(formula):
    """Whether a comparison has no variable left: equality may be attained everywhere."""
    head, *rest = formula
    if head in ("and", "or", "not"):
        return any(constant(part) for part in rest)
    values = {value(rest[0], x, z) - value(rest[1], x, z) for x, z in points(7, 3)}
    return max(values) - min(values) < 1e-9


@settings(max_examples=60, deadline=None)
@given(st.lists(FORMULAS, min_size=1, max_size=3), st.integers(0, 99))
def test_cases_mean_what_the_file_says(tmp_path_factory, formulas, seed):
    formulas = [formula for formula in formulas if not constant(formula)]
    path = tmp_path_factory.getbasetemp() / "formula.vnnlib"
    agrees(path, formulas, seed)


@pytest.mark.parametrize("broken", ["sign", "not", "and"])
def test_another_meaning_is_noticed(tmp_path, monkeypatch, broken):
    from autodual.formats.vnnlib import formula

    path = tmp_path / "formula.vnnlib"
    formulas = [
        ("or", ("not", ("<=", "X_0", 0.5)), ("and", ("<=", "Y_0", "Y_1"), (">=", "X_1", -1.0))),
        ("<=", ("+", "X_0", ("*", 2.0, "Y_1")), ("-", 1.0, "Y_0")),
    ]
    agrees(path, formulas, 1)
    if broken == "sign":
        right = formula.Rows.compare
        monkeypatch.setattr(formula.Rows, "compare", lambda s, h, a, b, n: right(s, h, b, a, n))
    elif broken == "not":
        monkeypatch.setattr(formula, "OPPOSITE", {head: head for head in OPPOSITE})
    else:
        monkeypatch.setattr(
            formula.Conjunction,
            "add",
            lambda self, groups: self.rows.extend([g[0] for g in groups][1:]),
        )
    with pytest.raises(AssertionError, match="at"):
        agrees(path, formulas, 1)


# ---- form ----------------------------------------------------------------------------------------


def test_bounds_make_the_box_and_all_else_is_rows(read):
    query = read(
        DECLARED + "(assert (<= X_0 1.5)) (assert (>= 1e1 X_0)) (assert (>= X_0 (- 1.0)))"
        "(assert (= X_1 .25)) (assert (<= (+ X_0 (* -2 X_2)) 3)) ; a remark (\n"
        "(assert (and (<= Y_0 Y_1) (>= (* 2 Y_0) (/ X_1 4))))"
    )
    (case,) = query.cases
    assert (query.inputs, query.outputs) == (N, K)
    assert case.lower.tolist() == [-1, 0.25, -math.inf]
    assert case.upper.tolist() == [1.5, 0.25, math.inf]
    assert case.A.tolist() == [[1, 0, -2], [0, 0, 0], [0, 0.25, 0]]
    assert case.C.tolist() == [[0, 0], [1, -1], [-2, 0]]
    assert case.d.tolist() == [3, 0, 0]
    assert case.lower.dtype == case.A.dtype == case.C.dtype == torch.float64


def test_bounds_of_scaled_inputs_go_outwards(read):
    (case,) = read(DECLARED + "(assert (= (* 3 X_0) 1)) (assert (<= (* -7 X_1) 1))").cases
    assert case.lower[0] < case.upper[0] == math.nextafter(float(case.lower[0]), 1)
    assert 3 * case.lower[0] <= 1 <= 3 * case.upper[0]
    assert float(case.lower[1]) * 7 <= -1
    assert case.upper[0] == above(Fraction(1, 3))


def test_right_hand_sides_of_sums_go_outwards(read):
    (case,) = read(DECLARED + "(assert (<= (+ Y_0 1e-30) 1))(assert (>= (+ Y_0 1e-30) 1))").cases
    assert case.d.tolist() == [1.0, -math.nextafter(1.0, 0)]


def test_a_shared_box_is_one_tensor(read):
    some = " ".join(f"(and (<= Y_0 {i}) (>= Y_1 {i}))" for i in range(50))
    cases = read(DECLARED + BOX + f"(assert (or {some} (and (<= X_0 0) (<= Y_0 Y_1))))").cases
    assert len(cases) == 51
    assert len({(case.lower.data_ptr(), case.upper.data_ptr()) for case in cases}) == 2
    assert cases[0].upper.tolist() == [2, 2, 2]
    assert cases[-1].upper.tolist() == [0, 2, 2]
    assert [case.d[0].item() for case in cases[:50]] == list(range(50))
    assert all(case.A.shape == (len(case.d), N) for case in cases)


def test_cases_are_multiplied_out(read):
    pair = "(assert (or (<= Y_0 {0}) (<= Y_1 {0})))"
    cases = read(DECLARED + pair.format(1) + pair.format(2) + BOX).cases
    assert [(case.C.argmax(1).tolist(), case.d.tolist()) for case in cases] == [
        ([0, 0], [1, 2]),
        ([0, 1], [1, 2]),
        ([1, 0], [1, 2]),
        ([1, 1], [1, 2]),
    ]


def test_empty_cases_are_left_out_unless_there_are_no_others(read):
    halves = "(assert (or (<= X_0 -1) (>= X_0 1)))"
    assert [c.upper[0] for c in read(DECLARED + halves + "(assert (<= X_0 0))").cases] == [-1]
    (case,) = read(DECLARED + halves + "(assert (= X_0 0))").cases
    assert case.empty
    assert read(DECLARED + "(assert (<= 2 1))").cases == ()
    assert read(DECLARED + "(assert (or (<= 2 1) (= 1 2)))").cases == ()
    assert len(read(DECLARED + "(assert (or (<= 1 2) (<= X_0 X_0)))" + BOX).cases) == 2
    (case,) = read(DECLARED).cases
    assert not case.empty
    assert case.A.shape == (0, N)


def test_equality_and_its_opposite(read):
    (case,) = read(DECLARED + "(assert (= Y_0 (+ Y_1 1)))").cases
    assert case.d.tolist() == [1, -1]
    assert case.C.tolist() == [[1, -1], [-1, 1]]
    for opposite in ("(not (= Y_0 1))", "(!= Y_0 1)", "(not (== Y_0 1))"):
        assert [c.d.item() for c in read(DECLARED + f"(assert {opposite})").cases] == [1, -1]


def test_version_two(read):
    query = read(
        NETWORK + "(assert (<= X[0,1] 3.0)) (assert (>= Z -1.0)) (assert (== X[ 0, 0 ] 2))"
        "(assert (or (< Y[0,0] Y [1,0]) (> (* 2 Y[1,0]) Z)))",
        inputs=3,
        outputs=2,
    )
    assert query.cases[0].upper.tolist() == [2, 3, math.inf]
    assert query.cases[0].lower.tolist() == [2, -math.inf, -1]
    assert query.cases[0].C.tolist() == [[1, -1]]
    assert query.cases[1].C.tolist() == [[0, -2]]
    assert query.cases[1].A.tolist() == [[0, 0, 1]]


def test_gzip_is_known_by_its_bytes(tmp_path):
    path = tmp_path / "plain.vnnlib"
    path.write_bytes(gzip.compress((DECLARED + BOX).encode()))
    assert read_vnnlib(path).cases[0].upper.tolist() == [2, 2, 2]
    assert read_vnnlib(str(path)).inputs == N


# ---- mistakes ------------------------------------------------------------------------------------

ASSERTS = {
    "(assert (<= X_0 1)": r"line 6: \(assert is never closed",
    "(assert (<= X_0 1))\n)": r"line 7: there is a \) without",
    "(assert (<= X_9 1))": "line 6: 'X_9' is neither declared nor a number",
    "\n\n(assert (<= X_0 q))": "line 8: 'q' is neither",
    "(assert (<= X_0))": "compares two terms, not 1",
    "(assert (<= X_0 1 2))": "compares two terms, not 3",
    "(assert (>= (* X_0 X_0) 1))": r"\(\* …\) of variables is not linear",
    "(assert (>= (* X_0 (+ 1 Y_0)) 1))": "not linear",
    "(assert (>= (/ 1 X_0) 1))": "not linear",
    "(assert (>= (/ X_0 (- 1 1)) 1))": "divides by zero",
    "(assert (>= (/ X_0) 1))": "or by nothing",
    "(assert (>= (+) 1))": "has no operand",
    "(assert (<= X_0 nan))": "'nan' is neither",
    "(assert (<= X_0 inf))": "'inf' is neither",
    "(assert (<= X_0 1_0))": "'1_0' is neither",
    "(assert (<= X_0 1e999))": "'1e999' is beyond",
    "(assert (<= X_0 -1e-999))": "'-1e-999' is beyond",
    "(assert (<= (* 1e300 1e300 Y_0) 1))": "coefficient is beyond",
    "(assert (<= (* 1e-300 1e-300 Y_0) 1))": "coefficient is beyond",
    "(assert (<= (+ Y_0 1e308) (* -1e308 10)))": "right-hand side is beyond",
    "(assert (<= X_0 " + "1" * 2000 + "))": "'1' is unexpected",
    "(assert (<= X_0 " + "(* 1e300 " * 40 + "1" + ")" * 42: "go far beyond",
    "(assert X_0)": "'X_0' cannot stand here; in .assert …. there are comparisons",
    "(assert)": r"\(assert …\) has 0 formulas",
    "(assert (<= X_0 1) (<= X_1 1))": "has 2 formulas",
    "(assert (not (<= X_0 1) (<= X_1 1)))": r"\(not …\) has 2 formulas",
    "(assert (or))": r"\(or …\) has 0 formulas",
    "(assert (=> (<= X_0 1) (<= X_1 1)))": "there is no .=> ….; in .assert",
    "(assert (+ X_0 1))": r"\(\+ …\) cannot stand here",
    "(assert (<= (and X_0 1) 1))": r"\(and …\) cannot stand here",
    "(assert (<= (<= X_0 1) 1))": r"\(<= …\) cannot stand here",
    "(<= X_0 1)": "cannot stand here; at the top there are declarations and asserts",
    "(check-sat)": r"there is no \(check-sat …\)",
    "()": r"there is no \( …\)",
    "X_0": "'X_0' cannot stand here; at the top",
    '(assert "X_0")': "cannot stand here",
    "(assert (<= X[0] 1))": "is neither declared",
    "(assert (<= X_0 1)) ]": "']' is unexpected",
    "(declare-const X_0 Real)": "X_0 is declared twice",
    "(declare-const X_4 Real)": "X_3 is not declared, but a later one is",
    "(declare-const Z_4 Real)": "'Z_4' is declared; names are",
    "(declare-const X_04 Real)": "'X_04' is declared; names are",
    "(declare-const X_3 Int)": "a declaration is like",
    "(declare-const X_3 Real Real Real Real Real)": "too many words",
    "(vnnlib-version <2.0>)": "must be said once, before",
    "(declare-network N)": "comes after .vnnlib-version",
    "(declare-input X Real [2])": "cannot stand here",
}


@pytest.mark.parametrize("wrong", ASSERTS)
def test_what_is_wrong_is_said_with_its_line(read, wrong):
    with pytest.raises(InputError, match=ASSERTS[wrong]) as error:
        read(DECLARED + wrong)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


NETWORKS = {
    "(vnnlib-version <1.0>)": "version <1.0> is unknown",
    "(vnnlib-version 2)": "a version is like",
    NETWORK + "(assert (<= X[0,2] 1))": r"'X\[0,2\]' is not in X, which is \[1, 2\]",
    NETWORK + "(assert (<= X[0] 1))": r"'X\[0\]' is not in X",
    NETWORK + "(assert (<= X 1))": "'X' is not in X",
    NETWORK + "(assert (<= X[0,] 1))": "no list of sizes or indices",
    NETWORK + "(assert (<= Z[0] 1))": "is not in Z",
    NETWORK + "(assert (<= W[0] 1))": "neither declared",
    NETWORK + "(assert (<= X[0,-1] 1))": "'X' is not in X",
    NETWORK + "(declare-const X_0 Real)": "not declare-const",
    NETWORK + "(declare-network b (declare-input X Real [1]))": "several networks",
    NETWORK.replace("net\n", "net (equal-to b)\n"): r"\(equal-to …\) relates several",
    NETWORK.replace("net\n", "net (isomorphic-to b)\n"): r"\(isomorphic-to …\) relates several",
    NETWORK.replace("net\n", 'net (declare-hidden H Real [2] "node")\n'): "'H' is a hidden node",
    NETWORK.replace("Real []", "Real [] initialized"): "'Z' is initialized",
    NETWORK.replace("Real []", "int8 []"): "none of real, float",
    NETWORK.replace("Real []", "Real"): "'Z' is 'Real', none of",
    NETWORK.replace("Real []", "Real [0]"): "0 numbers",
    NETWORK.replace("Real []", "Real [99999,99999]"): "'Z' has 9999800001 numbers",
    NETWORK.replace("Z Real", "X Real"): "'X' is declared twice",
    NETWORK.replace("net\n", "\n"): "has one name",
    NETWORK.replace("declare-output", "declare-input"): "0 outputs are declared",
}


@pytest.mark.parametrize("wrong", NETWORKS)
def test_what_is_wrong_with_version_two_is_said(read, wrong):
    with pytest.raises(InputError, match=NETWORKS[wrong]):
        read(wrong)


def test_the_networks_sizes_must_be_the_files(read):
    with pytest.raises(InputError, match="3 inputs are declared, and the network has 4"):
        read(DECLARED, inputs=4)
    with pytest.raises(InputError, match="2 outputs are declared, and the network has 1"):
        read(DECLARED, inputs=3, outputs=1)
    with pytest.raises(InputError, match="0 inputs are declared"):
        read("; nothing")


def test_files_that_are_no_text(tmp_path, monkeypatch):
    path = tmp_path / "f"
    for raw, said in (
        (b"\xff\xfe\x00(", "no text in UTF-8"),
        (b"; caf\xc3", "no text in UTF-8"),
        (gzip.compress(DECLARED.encode())[:-9], "no whole gzip file"),
        (b"\x1f\x8bnonsense", "no whole gzip file"),
        (b"\x00\x01\x02", "line 1: .* cannot stand here"),
        ("(assert é)".encode(), "cannot stand here"),
    ):
        path.write_bytes(raw)
        with pytest.raises(InputError, match=said):
            read_vnnlib(path)
    with pytest.raises(InputError, match="is a folder"):
        read_vnnlib(tmp_path)
    with pytest.raises(InputError, match="is missing"):
        read_vnnlib(tmp_path / "none")
    with pytest.raises(InputError, match=r"missing|cannot be read"):
        read_vnnlib("a\0b")
    monkeypatch.setattr(reading, "BYTES", 2**20)
    monkeypatch.setattr(reading, "CHUNK", 2**16)
    path.write_bytes(gzip.compress(b" " * 2**22))
    assert path.stat().st_size < 2**14
    with pytest.raises(InputError, match="larger than 1 MiB"):
        read_vnnlib(path)
    path.write_bytes(b" " * 2**21)
    with pytest.raises(InputError, match="larger than 1 MiB"):
        read_vnnlib(path)


def chain(kind, depth):
    """Nest deep, or have a lot to multiply out."""
    if kind == "sum":
        return "(assert (<= " + "(+ Y_0 " * depth + "1" + ")" * depth + " 0))"
    if kind == "not":
        return "(assert " + "(not " * depth + "(<= Y_0 0)" + ")" * depth + ")"
    if kind == "or":
        return (
            "(assert "
            + "(or (<= Y_0 1) (and (<= Y_1 0) " * depth
            + "(<= Y_0 0)"
            + "))" * depth
            + ")"
        )
    if kind == "negated sums":
        inner = "(+ " + "X_0 " * 9 + "X_1 Y_0 Y_1)"
        return "(assert (<= " + "(- " * depth + inner + ")" * depth + " 0))"
    return "(assert (or (<= Y_0 0) (<= Y_0 1)))" * depth


@pytest.mark.parametrize(
    ("kind", "depth", "said"),
    [
        ("sum", 8_000, None),
        ("not", 20_000, None),
        ("or", 100, None),
        ("or", 2_000, "parts of cases"),
        ("negated sums", 8_000, None),
        ("cases", 10, None),
        ("cases", 40, "more than 100,000 cases"),
        ("not", 25_000, "nested more than 22,000 deep"),
    ],
)
def test_deep_and_large_formulas_end_soon(read, monkeypatch, kind, depth, said):
    monkeypatch.setattr(parse, "DEPTH", 22_000)
    start = time.process_time()
    if said is None:
        query = read(DECLARED + chain(kind, depth))
        assert len(query.cases) == {"or": depth + 1, "cases": 2**depth}.get(kind, 1)
    else:
        with pytest.raises(InputError, match=said):
            read(DECLARED + chain(kind, depth))
    assert time.process_time() - start < 5


def test_thousands_of_cases_share_a_large_box(read):
    inputs = 3000
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(10)]
    declared = "".join(f"(declare-const {name} Real)" for name in names)
    box = "".join(f"(assert (<= X_{i} 1))(assert (>= X_{i} 0))" for i in range(inputs))
    some = "".join(f"(and (<= Y_{i % 10} {i})(>= Y_{i % 9} 0.5))" for i in range(4_000))
    start = time.process_time()
    query = read(f"{declared}{box}(assert (or {some}))")
    assert time.process_time() - start < 5
    assert len(query.cases) == 4_000
    assert query.cases[-1].upper is query.cases[0].upper


def test_entries_are_bounded(read):
    declared = NETWORK.replace("[1,2]", "[1,99999]")
    some = "".join(f"(<= X[0,{i}] 0)" for i in range(700))
    with pytest.raises(InputError, match=r"entries; .* fit into memory"):
        read(declared + f"(assert (or {some}))")
    with pytest.raises(InputError, match=r"entries; .* fit into memory"):
        read(declared + "(assert (<= (+ X[0,1] Y[0,0]) 0))" * 700)


# ---- fuzz ----------------------------------------------------------------------------------------

SEEDS = (
    DECLARED
    + BOX
    + "(assert (or (and (<= Y_0 (* 2 Y_1)) (>= X_0 1.5e-1)) (not (= Y_0 (/ X_1 4)))))",
    NETWORK + '(assert (or (< Y[0,0] Y[1,0]) (== (- 1.5) (* 2 Z)) (!= X[0,1] 3))) ; "end"\n',
)
PIECES = (
    *'()[];"\n\0é=*/-0',
    *("X_0", "Y_1", "X[0,1]", "1e999", "1e-320", "nan", "or", "and", "not", "<=", "assert"),
)


def read_or_refused(path):
    start, said = time.process_time(), ""
    try:
        query = read_vnnlib(path)
    except InputError as error:
        said = str(error)
    assert time.process_time() - start < 1
    assert "\n" not in said
    assert said or (query.inputs > 0 and query.outputs > 0)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SEEDS), st.randoms(use_true_random=False))
def test_any_file_is_read_or_refused(tmp_path_factory, text, draw):
    for _ in range(draw.randint(1, 5)):
        start = draw.randrange(len(text))
        end = min(len(text), start + draw.choice([0, 1, 2, 5, 40]))
        other = draw.randrange(len(text))
        insert = draw.choice([draw.choice(PIECES), text[other : other + 30], ""])
        text = text[:start] + insert + text[end:]
    path = tmp_path_factory.getbasetemp() / "fuzz.vnnlib"
    path.write_bytes(text.encode())
    read_or_refused(path)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_or_refused(tmp_path_factory, raw, packed):
    path = tmp_path_factory.getbasetemp() / "bytes.vnnlib"
    path.write_bytes(gzip.compress(raw)[: len(raw) + 10] if packed else raw)
    read_or_refused(path)
