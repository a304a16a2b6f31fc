"""The inequalities that hold for every dual layer, as functions that raise when one does not.

The canaries call them on broken rules; the tests on the real ones.
"""

import itertools

import torch

from autodual.duals import Affine
from autodual.duals.base import transpose_by_vjp
from autodual.interval import Interval

WIDTHS = (0.0, 1e-9, 1e-3, 1.0, 10.0, 1e4)


def random_box(shape, generator, dtype=torch.float64):
    """Intervals of mixed widths around points of mixed sizes; some touch or straddle 0 and ±1."""
    pick = torch.randint(0, len(WIDTHS), shape, generator=generator)
    width = torch.tensor(WIDTHS, dtype=dtype)[pick] * torch.rand(shape, generator=generator)
    scale = torch.tensor([0.0, 0.3, 1.0, 3.0], dtype=dtype)
    scale = scale[torch.randint(0, 4, shape, generator=generator)]
    middle = torch.randn(shape, generator=generator, dtype=dtype) * scale
    share = torch.rand(shape, generator=generator, dtype=dtype)
    share = torch.where(torch.rand(shape, generator=generator) < 0.2, share.round(), share)
    return Interval((middle - share * width).to(dtype), (middle + (1 - share) * width).to(dtype))


def points(box, generator, count=24):
    """Both ends, the numbers where pieces meet, and random points in between."""
    ends = [box.lower, box.upper]
    bends = [torch.clamp(torch.full_like(box.lower, b), *ends) for b in (-1, -0.5, 0, 0.5, 1, 2, 6)]
    noise = [torch.rand(box.lower.shape, generator=generator) for _ in range(count)]
    inside = [box.lower + n.to(box.lower) * (box.upper - box.lower) for n in noise]
    return ends + bends + inside


def combinations(boxes, generator):
    """Points of a product of boxes: corners of every kind, and random ones."""
    tried = [points(box, generator) for box in boxes]
    if len(boxes) > 1:  # any point of one with any of the other
        yield from itertools.product(*(t[:5] for t in tried))
        shuffled = [[t[i] for i in torch.randperm(len(t), generator=generator)] for t in tried]
        yield from zip(*shuffled, strict=True)
    yield from zip(*tried, strict=True)


def check_fenchel(rule, call, shapes, generator, dtype=torch.float64):
    """sup −zᵀν_in + f(z)ᵀν_out ≤ h, and equality for affine ops."""
    slack = 1e-10 if dtype == torch.float64 else 1e-4
    boxes = [random_box(s, generator, dtype) for s in shapes]
    out = call(*(b.lower for b in boxes))
    nu = torch.randn(5, *out.shape, generator=generator, dtype=dtype)
    nu = nu * (torch.rand(nu.shape, generator=generator) > 0.2)
    pulled, h = rule.dual(call, nu, *([shapes] if isinstance(rule, Affine) else boxes))
    for z in combinations(boxes, generator):
        value = (call(*z) * nu).flatten(1).sum(1)
        size = (call(*z) * nu).abs().flatten(1).sum(1) + h.abs() + 1
        for v, p in zip(z, pulled, strict=True):
            value = value - (v * p).flatten(1).sum(1)
            size = size + (v * p).abs().flatten(1).sum(1)
        assert bool((value <= h + slack * size).all()), f"Fenchel: {float((value - h).max())} > 0"
        if isinstance(rule, Affine):
            assert bool((value >= h - slack * size).all()), "an affine dual layer is exact"


def check_adjoint(rule, call, shapes, generator):
    """⟨A z, ν⟩ = ⟨z, Aᵀν⟩, and the fast transpose equals the generic one."""
    z = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    zeros = [torch.zeros_like(v) for v in z]
    image = call(*z) - call(*zeros)
    nu = torch.randn(3, *image.shape, generator=generator, dtype=torch.float64)
    pulled = rule.transpose(call, nu, shapes)
    inner = sum((v * p).flatten(1).sum(1) for v, p in zip(z, pulled, strict=True))
    torch.testing.assert_close((image * nu).flatten(1).sum(1), inner, rtol=1e-9, atol=1e-9)
    for fast, generic in zip(pulled, transpose_by_vjp(call, nu, shapes), strict=True):
        torch.testing.assert_close(fast, generic, rtol=1e-9, atol=1e-9)


def check_window(rule, call, shapes, generator):
    """A unit row pulled back through the whole op is its window's, where the window lies."""
    window = rule.window(call)
    if window is None or any(len(shape) != 4 for shape in shapes):
        return
    out = call(*(torch.zeros(s, dtype=torch.float64) for s in shapes))
    if window.pointwise and any(s[2:] != out.shape[2:] for s in shapes):
        return  # spread over pixels, which rows in patches do not follow
    i, j = (int(torch.randint(n, (), generator=generator)) for n in out.shape[2:])
    values = torch.randn(out.shape[1], generator=generator, dtype=torch.float64)
    row = torch.zeros(1, *out.shape, dtype=torch.float64)
    row[..., i, j] = values
    local = [torch.Size((1, s[1], *window.kernel)) for s in shapes]
    patches = rule.transpose(call.replace(window.local), values.reshape(1, 1, -1, 1, 1), local)
    for whole, patch, shape in zip(rule.transpose(call, row, shapes), patches, shapes, strict=True):
        expected = torch.zeros(1, *shape, dtype=torch.float64)
        for a in range(window.kernel[0]):
            for b in range(window.kernel[1]):
                y = i * window.stride[0] - window.padding[0] + a
                x = j * window.stride[1] - window.padding[1] + b
                if 0 <= y < shape[2] and 0 <= x < shape[3]:
                    expected[..., y, x] = patch[..., a, b]
        torch.testing.assert_close(whole, expected, rtol=1e-9, atol=1e-9)


def check_linear_part(rule, call, shapes, generator):
    """What ``bias`` names is the whole constant part."""
    z = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    zeros = [torch.zeros_like(v) for v in z]
    linear, constant = rule.linear_part(call)
    image = linear(*z) - linear(*zeros) if constant else linear(*z)
    torch.testing.assert_close(image, call(*z) - call(*zeros), rtol=1e-9, atol=1e-9)


def check_interval(rule, call, shapes, generator):
    """Interval arithmetic contains the image, and is exact entry by entry for affine ops."""
    boxes = [random_box(s, generator) for s in shapes]
    image = rule.interval(call, *boxes)
    slack = 1e-9 * (1 + torch.maximum(image.lower.abs(), image.upper.abs()))
    for z in combinations(boxes, generator):
        value = call(*z)
        assert bool((value >= image.lower - slack).all()), "below its interval"
        assert bool((value <= image.upper + slack).all()), "above its interval"


def check_point(rule, call, shapes, generator):
    """At ℓ = u a dual layer is exact: its two lines meet in f(z)."""
    z = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    nu = torch.randn(5, *call(*z).shape, generator=generator, dtype=torch.float64)
    for rows in (nu, -nu):
        pulled, h = rule.dual(call, rows, *(Interval(v, v) for v in z))
        value = (call(*z) * rows).flatten(1).sum(1)
        for v, p in zip(z, pulled, strict=True):
            value = value - (v * p).flatten(1).sum(1)
        torch.testing.assert_close(value, h, rtol=0, atol=1e-10)


def check_given_slope(rule, call, shapes, generator):
    """Any slope from outside encloses f, and both lines take it."""
    boxes = [random_box(shape, generator) for shape in shapes]
    slopes = tuple(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    lines = rule.lines(call, *boxes, slopes if len(slopes) > 1 else slopes[0])
    assert lines.are_parallel
    torch.testing.assert_close(lines.lower_slopes, slopes)
    check_enclosure(lines, call, boxes, generator)


def check_enclosure(lines, call, boxes, generator):
    """a_l z + b_l ≤ f(z) ≤ a_u z + b_u on the box."""
    for z in combinations(boxes, generator):
        ends, value = lines.at(*z), call(*z)
        size = sum(v.abs() for v in z) + value.abs() + ends.upper.abs() + ends.lower.abs()
        slack = 1e-10 * (1 + size)
        assert bool((ends.lower <= value + slack).all()), "the lower line is above f"
        assert bool((ends.upper >= value - slack).all()), "the upper line is below f"


def vertices(box, limit=256):
    """Corners of one example's box [1, *]: all of them if few, else the first ``limit``."""
    flat = torch.stack([box.lower.flatten(), box.upper.flatten()])
    n = flat.shape[1]
    corners = itertools.islice(itertools.product((0, 1), repeat=n), limit)
    columns = torch.arange(n)
    return [flat[torch.tensor(c), columns].reshape(box.lower.shape) for c in corners]
