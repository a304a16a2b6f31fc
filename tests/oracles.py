"""Independent answers to the questions the compiler answers. Imports nothing from autodual."""

import itertools

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from torch import nn


def layers(model: nn.Sequential, shape: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Write a Sequential of affine modules and ReLUs as [(W, b), ...] with ReLUs in between."""
    found, segment = [], []
    for module in [*model, None]:
        if module is not None and not isinstance(module, nn.ReLU):
            segment.append(module)
            continue
        affine = nn.Sequential(*segment)
        n = int(np.prod(shape))
        basis = torch.cat([torch.zeros(1, n), torch.eye(n)]).double().reshape(-1, *shape)
        with torch.no_grad():
            images = affine(basis)
        shape = tuple(images.shape[1:])
        images = images.flatten(1).numpy()
        found.append(((images[1:] - images[0]).T, images[0]))
        segment = []
    return found


def algorithm_1(weights, x, eps, norm=np.inf):
    """Thesis, Algorithm 1 and Theorem 1: intervals of all pre-activations, by the definition.

    For each layer the rows ±I are pulled back through the explicit matrices of the dual network.
    ``norm`` is the ball's; its dual norm measures ν₁.
    """
    boxes = []
    for depth in range(1, len(weights) + 1):
        size = len(weights[depth - 1][1])
        lower = objective(weights[:depth], boxes, x, eps, np.eye(size), norm)
        upper = -objective(weights[:depth], boxes, x, eps, -np.eye(size), norm)
        boxes.append((lower, upper))
    return boxes


def objective(weights, boxes, x, eps, spec, norm=np.inf):
    """J(x, ν) of equation 3.8 for the rows c of ``spec``, slopes u/(u − ℓ)."""
    dual = {np.inf: 1, 2: 2, 1: np.inf}[norm]
    nu, total = -spec.T, np.zeros(len(spec))
    for i in range(len(weights) - 1, -1, -1):
        w, b = weights[i]
        total -= nu.T @ b
        nu = w.T @ nu
        if i == 0:
            break
        lower, upper = boxes[i - 1]
        slopes = np.where(upper <= 0, 0.0, 1.0)
        spanning = (lower < 0) & (upper > 0)
        slopes[spanning] = upper[spanning] / (upper - lower)[spanning]
        nu = slopes[:, None] * nu
        total += (np.where(spanning, lower, 0.0)[:, None] * np.maximum(nu, 0)).sum(0)
    return total - nu.T @ x - eps * np.linalg.norm(nu, ord=dual, axis=0)


def intervals(weights, low, high):
    """Interval arithmetic: the least and largest value of every pre-activation."""
    boxes = []
    for w, b in weights:
        center, radius = w @ (low + high) / 2 + b, abs(w) @ (high - low) / 2
        boxes.append((center - radius, center + radius))
        low, high = (np.maximum(end, 0) for end in boxes[-1])
    return boxes


def optimum(weights, boxes, low, high, spec, exact, plan=None):
    """Minimum of each row of C z over a box: by LP on the triangle relaxation, or by MILP.

    With a plan = (x, C, b) only over those x′ = Πᵀ1 with Π ≥ 0, Π1 = x and ⟨Π, C⟩ ≤ b.
    """
    sizes = [len(low), *[n for w, _ in weights[:-1] for n in (len(w), len(w))], len(weights[-1][1])]
    starts = np.cumsum([0, *sizes])
    binary = [len(w) if exact else 0 for w, _ in weights[:-1]]
    pairs = 0 if plan is None else len(low) ** 2
    total = starts[-1] + sum(binary) + pairs
    at = [slice(a, b) for a, b in itertools.pairwise(starts)]
    flags = np.cumsum([starts[-1], *binary])
    rows, lows, highs = [], [], []

    def add(parts, least, most):
        row = np.zeros((len(parts[0][1]), total))
        for where, matrix in parts:
            row[:, where] += matrix
        rows.append(row)
        lows.append(np.broadcast_to(least, len(row)))
        highs.append(np.broadcast_to(most, len(row)))

    lb, ub = np.full(total, -np.inf), np.full(total, np.inf)
    lb[at[0]], ub[at[0]] = low, high
    if plan is not None:
        (mass, cost, budget), sent, one = plan, slice(total - pairs, total), np.ones((1, len(low)))
        lb[sent], ub[sent] = 0, np.where(np.isfinite(cost), np.inf, 0).ravel()
        unit, price = np.eye(len(mass)), np.where(np.isfinite(cost), cost, 0).reshape(1, -1)
        add([(sent, np.kron(unit, one))], mass, mass)
        add([(sent, np.kron(one, unit)), (at[0], -unit)], 0, 0)
        add([(sent, price)], -np.inf, budget)
    for i, (w, b) in enumerate(weights):
        source, pre = at[2 * i], at[2 * i + 1]
        n = len(b)
        add([(pre, np.eye(n)), (source, -w)], b, b)
        if i == len(weights) - 1:
            break
        post = at[2 * i + 2]
        lower, upper = boxes[i]
        lb[pre], ub[pre] = lower, upper
        lb[post], ub[post] = np.maximum(lower, 0), np.maximum(upper, 0)
        add([(post, np.eye(n)), (pre, -np.eye(n))], 0, np.maximum(0, -lower))
        on = (lower >= 0) * 1.0
        spanning = (lower < 0) & (upper > 0)
        slope = np.where(spanning, upper / np.where(spanning, upper - lower, 1), on)
        offset = np.where(spanning, -slope * lower, 0)
        add([(post, np.eye(n)), (pre, -np.diag(slope))], -np.inf, offset)
        if exact:
            flag = slice(flags[i], flags[i + 1])
            lb[flag], ub[flag] = on, np.where(upper > 0, 1, 0)
            add([(post, np.eye(n)), (flag, -np.diag(np.maximum(upper, 0)))], -np.inf, 0)
            least = np.minimum(lower, 0)
            add([(post, np.eye(n)), (pre, -np.eye(n)), (flag, -np.diag(least))], -np.inf, -least)
    matrix, lows, highs = np.concatenate(rows), np.concatenate(lows), np.concatenate(highs)
    integral = np.zeros(total)
    integral[starts[-1] : total - pairs] = 1
    values = []
    for c in spec:
        cost = np.zeros(total)
        cost[at[-1]] = c
        if exact:
            result = milp(
                cost,
                constraints=LinearConstraint(matrix, lows, highs),
                bounds=Bounds(lb, ub),
                integrality=integral,
                options={"mip_rel_gap": 0},
            )
        else:
            finite_high, finite_low = np.isfinite(highs), np.isfinite(lows)
            result = linprog(
                cost,
                A_ub=np.concatenate([matrix[finite_high], -matrix[finite_low]]),
                b_ub=np.concatenate([highs[finite_high], -lows[finite_low]]),
                bounds=np.stack([lb, ub], 1),
            )
        assert result.status == 0, result.message
        values.append(result.fun)
    return np.array(values)
