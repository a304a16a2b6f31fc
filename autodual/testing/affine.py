"""What holds for every dual layer of an affine op."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autodual.duals import Affine, Call
from autodual.duals.affine import transpose_by_vjp
from autodual.interval import Interval
from autodual.testing.elementwise import first, slack

Shapes = Sequence[torch.Size]


def normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw from the normal distribution, in float64."""
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)


def check_fenchel(
    rule: Affine, call: Call, boxes: Sequence[Interval], generator: torch.Generator
) -> None:
    """−zᵀν_in + f(z)ᵀν_out = h at every point, for rows ν_out [R, *]; rows do not mix."""
    shapes = [box.lower.shape for box in boxes]
    points = [
        b.lower + torch.rand(b.lower.shape, generator=generator) * (b.upper - b.lower)
        for b in boxes
    ]
    points = [p.to(b.lower) for p, b in zip(points, boxes, strict=True)]
    for z in ([box.lower for box in boxes], [box.upper for box in boxes], points):
        out = call(*z)
        nu = normal((3, *out.shape), generator).to(out)
        pulled, h = rule.relax(call).dual(nu, shapes)
        value, size = (out * nu).flatten(1).sum(1), (out * nu).abs().flatten(1).sum(1)
        for v, p in zip(z, pulled, strict=True):
            value = value - (v * p).flatten(1).sum(1)
            size = size + (v * p).abs().flatten(1).sum(1)
        broken = (value - h).abs() > slack(value, size, h)
        assert not bool(broken.any()), "violated −zᵀν_in + f(z)ᵀν_out = h: " + first(
            broken, sum=value, h=h
        )
        for i in range(len(nu)):
            alone = rule.transpose(call, nu[i : i + 1], shapes)
            for one, all_ in zip(alone, pulled, strict=True):
                torch.testing.assert_close(
                    one[0], all_[i], msg=lambda m: f"one row's Aᵀν depends on the others: {m}"
                )


def check_adjoint(rule: Affine, call: Call, shapes: Shapes, generator: torch.Generator) -> None:
    """⟨A z, ν⟩ = ⟨z, Aᵀν⟩, and Aᵀν is what differentiation gives."""
    z = [normal(s, generator) for s in shapes]
    image = call(*z) - call(*(torch.zeros_like(v) for v in z))
    nu = normal((3, *image.shape), generator)
    pulled = rule.transpose(call, nu, shapes)
    there = (image * nu).flatten(1).sum(1)
    back = torch.stack([(v * p).flatten(1).sum(1) for v, p in zip(z, pulled, strict=True)]).sum(0)
    broken = (there - back).abs() > 1e-8 * (1 + there.abs())
    assert not bool(broken.any()), "violated ⟨A z, ν⟩ = ⟨z, Aᵀν⟩: " + first(
        broken, there=there, back=back
    )
    for fast, generic in zip(pulled, transpose_by_vjp(call, nu, shapes), strict=True):
        torch.testing.assert_close(
            fast, generic, rtol=1e-9, atol=1e-9, msg=lambda m: f"Aᵀν is not the derivative's: {m}"
        )


def check_interval(
    rule: Affine, call: Call, boxes: Sequence[Interval], generator: torch.Generator
) -> None:
    """The image is exact: each of its ends is the value at some corner of the box."""
    image = rule.interval(call, *boxes)
    shapes = [box.lower.shape for box in boxes]
    picks = torch.randint(image.lower.numel(), (3,), generator=generator)
    nu = torch.eye(image.lower.numel()).to(image.lower)[picks].reshape(3, *image.lower.shape)
    rows = transpose_by_vjp(call, nu, shapes)
    for i, unit in enumerate(picks):
        for sign, ends in ((1, image.upper), (-1, image.lower)):
            corner = [
                torch.where(sign * row[i] > 0, box.upper, box.lower)
                for row, box in zip(rows, boxes, strict=True)
            ]
            size = torch.stack(
                [(row[i].abs() * b.magnitude).sum() for row, b in zip(rows, boxes, strict=True)]
            ).sum()
            value, end = call(*corner).flatten()[unit], ends.flatten()[unit]
            assert bool((value - end).abs() <= slack(value, value, size)), (
                f"the interval's {'upper' if sign > 0 else 'lower'} end {end.item()!r} is not "
                f"the extreme value {value.item()!r}, at entry {int(unit)}"
            )


def check_linear_part(rule: Affine, call: Call, shapes: Shapes, generator: torch.Generator) -> None:
    """What ``bias`` names is the whole constant part."""
    z = [normal(s, generator) for s in shapes]
    zeros = [torch.zeros_like(v) for v in z]
    linear, constant = rule.linear_part(call)
    image = linear(*z) - linear(*zeros) if constant else linear(*z)
    torch.testing.assert_close(
        image,
        call(*z) - call(*zeros),
        rtol=1e-9,
        atol=1e-9,
        msg=lambda m: f"a constant part is left in the linear part: {m}",
    )


def check_window(
    rule: Affine, call: Call, shapes: Shapes, generator: torch.Generator
) -> str | None:
    """A unit row pulled back through the whole op is its window's, where the window lies.

    Returns why that says nothing here, if so.
    """
    window = rule.window(call)
    if window is None:
        return "the rule names none for such a call (window=)"
    if any(len(shape) != 4 for shape in shapes):
        return "these are no images [1, C, H, W]"
    out = call(*(torch.zeros(s, dtype=torch.float64) for s in shapes))
    if window.pointwise and any(s[2:] != out.shape[2:] for s in shapes):
        return "spread over pixels, which rows in patches do not follow"
    i, j = (int(torch.randint(n, (), generator=generator)) for n in out.shape[2:])
    values = normal(out.shape[1:2], generator)
    row = torch.zeros(1, *out.shape, dtype=torch.float64)
    row[..., i, j] = values
    local = [torch.Size((1, s[1], *window.kernel)) for s in shapes]
    try:
        patches = rule.transpose(call.replace(window.local), values.reshape(1, 1, -1, 1, 1), local)
    except RuntimeError as error:
        raise AssertionError(f"no window of this op is as the rule says: {error}") from error
    for whole, patch, shape in zip(rule.transpose(call, row, shapes), patches, shapes, strict=True):
        expected = torch.zeros(1, *shape, dtype=torch.float64)
        for a in range(window.kernel[0]):
            for b in range(window.kernel[1]):
                y = i * window.stride[0] - window.padding[0] + a
                x = j * window.stride[1] - window.padding[1] + b
                if 0 <= y < shape[2] and 0 <= x < shape[3]:
                    expected[..., y, x] = patch[..., a, b]
        torch.testing.assert_close(
            whole, expected, rtol=1e-9, atol=1e-9, msg=lambda m: f"the window is not there: {m}"
        )
    return None
