"""What holds for every dual layer of a function of one entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from autodual.duals import Call, Elementwise, Planes
from autodual.interval import Interval
from autodual.testing.strategies import BENDS

SILENT = "the rule says ±∞ on every box that was drawn; see reach="
"""Why a property that holds was not tried: it says something of finite numbers alone."""

SHARES = torch.linspace(0, 1, 17, dtype=torch.float64)
ZOOMS = 3
SIGNS = torch.tensor([1.0, -1.0])
"""Of what an upper and a lower bound must not be exceeded by."""


def slack(like: Tensor, *sizes: Tensor) -> Tensor:
    """Return what rounding may do to sums of numbers of these sizes."""
    relative = 1e-10 if like.dtype == torch.float64 else 2e-5
    return relative * (1 + sum((size.abs().nan_to_num(0, 0, 0) for size in sizes), 0 * sizes[0]))


def grid(box: Interval) -> Tensor:
    """Return points of the box [P, *]: evenly spaced, and where functions tend to bend."""
    alone = [-1, *[1] * box.lower.dim()]
    shares = SHARES.to(box.lower).view(alone)
    even = torch.lerp(box.lower.unsqueeze(0), box.upper.unsqueeze(0), shares)
    bends = box.lower.new_tensor(BENDS)
    sides = [torch.nextafter(bends, bends + side) for side in (1, -1)]
    near = torch.cat([bends, torch.stack(sides, 1).flatten()]).view(alone)
    ends = torch.stack([box.lower, box.upper])
    return box.nearest(torch.cat([even, ends, near.expand(-1, *box.lower.shape)]))


def worst(excess: Callable[[Tensor], Tensor], box: Interval) -> Tensor:
    """Return for each entry a point of the box where ``excess`` is about largest, [*]."""
    best, around = box.lower, box
    for zoom in range(ZOOMS):
        points = torch.cat([grid(around), best.unsqueeze(0)])
        values = excess(points).nan_to_num(-torch.inf, torch.inf)
        best = points.gather(0, values.argmax(0, keepdim=True)).squeeze(0)
        step = (box.upper - box.lower) / (len(SHARES) - 1) ** (zoom + 1)
        around = Interval(best - step, best + step).intersect(box)
    return best


def many(box: Interval, count: int) -> Interval:
    """Return a box [*] so many times, [count, *]."""
    return box.map(lambda end: end.expand(count, *end.shape))


def at(call: Call, points: Tensor) -> Tensor:
    """Return f at points [P, count, *] of many boxes, each of which it takes for one more point."""
    values: Tensor = call(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    return values


def undefined(call: Call, box: Interval) -> Tensor:
    """Return where f is NaN at some point of the box."""
    return call(grid(box)).isnan().any(0)


def first(broken: Tensor, **numbers: Tensor) -> str:
    """Write out the numbers at the first entry that is broken."""
    index = int(broken.flatten().nonzero()[0])
    shown = {k: v.expand(broken.shape).flatten()[index].item() for k, v in numbers.items()}
    letters = {"l": "ℓ", "part_l": "part_ℓ"}  # Python reads ℓ as l in a keyword
    return ", ".join(f"{letters.get(k, k)} = {v!r}" for k, v in shown.items())


def unless(told: Tensor) -> str | None:
    """Return that a rule is silent, unless it is told something anywhere."""
    return None if bool(told.any()) else SILENT


def check_enclosure(
    call: Call, box: Interval, found: Sequence[tuple[str, Planes]]
) -> list[str | None]:
    """a_l z + b_l ≤ f(z) ≤ a_u z + b_u on [ℓ, u], for each pair of lines by its name."""
    sides = [(which, side, lines) for which, lines in found for side in ("upper", "lower")]
    slope, intercept = (
        torch.stack([torch.broadcast_to(line, box.lower.shape) for line in of])
        for of in (
            [getattr(lines, f"{side}_slopes")[0] for _, side, lines in sides],
            [getattr(lines, f"{side}_intercept") for _, side, lines in sides],
        )
    )
    sign = SIGNS.to(slope).repeat(len(found)).view(-1, *[1] * box.lower.dim())

    def line(z: Tensor) -> Tensor:
        return torch.where(slope == 0, intercept, slope * z + intercept)

    z = worst(lambda z: sign * (at(call, z) - line(z)), many(box, len(sides)))
    value, end = call(z), line(z)
    unknown = slope.isnan() | intercept.isnan()
    broken = sign * (value - end) > slack(z, value, slope * z, intercept)
    claimed = undefined(call, box) & intercept.isfinite()
    for i, (which, side, _) in enumerate(sides):
        ends = {"ℓ": box.lower, "u": box.upper}
        numbers = {"a": slope[i], "b": intercept[i]}
        assert not bool(unknown[i].any()), f"{which}: the {side} line is NaN: " + first(
            unknown[i], **ends
        )
        values = {"f": value[i], f"a·z + b of the {side} line": end[i]}
        assert not bool(broken[i].any()), (
            f"{which}: violated {'f ≤ a·z + b' if side == 'upper' else 'a·z + b ≤ f'}: "
            + first(broken[i], z=z[i], **ends, **values, **numbers)
        )
        assert not bool(claimed[i].any()), (
            f"{which}: f is not defined on the whole box, and the {side} line is finite: "
            + first(claimed[i], **ends, **numbers)
        )
    told = intercept.isfinite().unflatten(0, (-1, 2)).flatten(1).any(1)
    return [None if finite else SILENT for finite in told.tolist()]


def check_fenchel(call: Call, box: Interval, lines: Planes, nu: Tensor) -> str | None:
    """−z·ν_in + f(z)·ν_out ≤ h, summed over the entries, for rows ν_out [R, *].

    Rows are 0 at entries where the line that they read is infinite.
    """
    read = torch.where(nu > 0, lines.upper_intercept, lines.lower_intercept)
    nu = torch.where(read.isfinite(), nu, 0)
    lines = lines.map(lambda t: torch.where(t.isfinite(), t, 0))
    (pulled,), h = lines.dual(nu, [box.lower.shape])
    z = worst(lambda z: at(call, z) * nu - z * pulled, many(box, len(nu)))
    value = torch.where(nu == 0, 0 * nu, call(z) * nu)
    bound = h.view(-1, *[1] * box.lower.dim())
    room = slack(z, value, z * pulled, bound).flatten(1).sum(1)
    terms = (value - z * pulled).flatten(1).sum(1)
    for total, most, kept in zip(terms.tolist(), h.tolist(), terms <= h + room, strict=True):
        assert kept, f"violated −zᵀν_in + f(z)ᵀν_out ≤ h: {total!r} > {most!r}"
    return unless(nu != 0)


def check_interval(rule: Elementwise, call: Call, box: Interval, inner: Interval) -> str | None:
    """The image holds f, says nothing where f is undefined, and shrinks with the box."""
    image, part = rule.interval(call, box), rule.interval(call, inner)
    ends = {"ℓ": box.lower, "u": box.upper}
    missing = undefined(call, box)
    assert rule.partial or not bool(missing.any()), (
        "f is not defined on the whole box, and the rule does not say where it is: "
        + first(missing, **ends)
    )
    signs = SIGNS.to(box.lower).view(-1, *[1] * box.lower.dim())
    furthest = worst(lambda z: signs * at(call, z), many(box, 2))
    values = call(furthest)
    for i, (sign, side) in enumerate(((1, "upper"), (-1, "lower"))):
        end, less, z, value = getattr(image, side), getattr(part, side), furthest[i], values[i]
        broken = sign * (value - end) > slack(z, value, end)
        assert not bool(broken.any()), f"f leaves its {side} bound: " + first(
            broken, z=z, **ends, f=value, bound=end
        )
        claimed = missing & end.isfinite()
        assert not bool(claimed.any()), (
            f"f is not defined on the whole box, and its {side} bound is finite: "
            + first(claimed, **ends, bound=end)
        )
        broken = sign * (less - end) > slack(z, less, end)
        assert not bool(broken.any()), (
            f"the {side} bound of a part of the box lies outside that of the whole: "
            + first(
                broken, **ends, part_ℓ=inner.lower, part_u=inner.upper, bound=end, part_bound=less
            )
        )
    return unless(image.lower.isfinite() | image.upper.isfinite())


def check_parts(
    box: Interval, inner: Interval, a: Tensor, whole: Planes, part: Planes
) -> str | None:
    """With one slope, the lines of a part of the box lie between those of the whole."""
    assert whole.are_parallel, "a slope given from outside must serve both lines"
    assert torch.equal(whole.lower_slopes[0], a), "the lines did not take the slope given"
    for sign, side in ((1, "upper"), (-1, "lower")):
        end, less = getattr(whole, f"{side}_intercept"), getattr(part, f"{side}_intercept")
        size = a * box.magnitude
        broken = sign * (less - end) > slack(end, less, end, size)
        assert not bool(broken.any()), (
            f"the {side} line of a part of the box lies outside that of the whole: "
            + first(broken, ℓ=box.lower, u=box.upper, a=a, b=end, part_b=less)
        )
    return unless(whole.lower_intercept.isfinite() | whole.upper_intercept.isfinite())


def check_point(rule: Elementwise, call: Call, z: Tensor) -> str | None:
    """At ℓ = u both lines and the interval are f(z)."""
    value, point = call(z), Interval(z, z)
    for which, lines in (
        ("equal slopes", rule.relax(call, point)),
        ("free slopes", rule.relax(call, point, at=[z])),
    ):
        ends = lines.ends(z)
        for end in (ends.lower, ends.upper):
            sizes = [slope * z for slope in (*lines.lower_slopes, *lines.upper_slopes)]
            broken = (end - value).abs() > slack(z, value, *sizes)
            broken = broken & value.isfinite()
            assert not bool(broken.any()), f"{which}: not exact at ℓ = u: " + first(
                broken, z=z, f=value, line=end
            )
    image = rule.interval(call, point)
    for end in (image.lower, image.upper):
        broken = ((end - value).abs() > slack(z, value)) & value.isfinite()
        assert not bool(broken.any()), "the interval is not exact at ℓ = u: " + first(
            broken, z=z, f=value, bound=end
        )
    return unless(value.isfinite())


def check_batch(
    rule: Elementwise, call: Call, boxes: Sequence[Interval], alone: Sequence[Planes]
) -> None:
    """A batch of boxes [B, *] gives what its boxes [1, *] give alone."""
    lower, upper = (
        torch.cat(list(ends)) for ends in zip(*((b.lower, b.upper) for b in boxes), strict=True)
    )
    together = rule.relax(call, Interval(lower, upper))
    for name in ("lower_slope", "lower_intercept", "upper_slope", "upper_intercept"):
        torch.testing.assert_close(
            _part(together, name),
            torch.cat([_part(lines, name) for lines in alone]),
            msg=lambda m, name=name: f"{name} of one example depends on others: {m}",  # type: ignore[misc]
        )


def _part(lines: Planes, name: str) -> Tensor:
    slopes = {"lower_slope": lines.lower_slopes, "upper_slope": lines.upper_slopes}
    found: Tensor = slopes[name][0] if name in slopes else getattr(lines, name)
    return found
