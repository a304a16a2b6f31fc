"""Prove limits of a closed loop: a cart under a learned controller, from every state of a box.

The model is the controller with the dynamics around it, unrolled, so that one bound follows a
state through all steps. Cells of the box that intervals cannot prove go to dearer rungs:

    python examples/controller.py
"""

import itertools

import torch
from torch import Tensor, nn

import autodual as ad

A = torch.tensor([[1.0, 0.2], [0.0, 1.0]])  # position and speed after 0.2 s
B = torch.tensor([0.02, 0.2])  # and what a force of 1 adds to them
LOW, HIGH = torch.tensor([0.5, -0.3]), torch.tensor([1.0, 0.3])  # where the cart may start


class Loop(nn.Module):
    """State s → force, position and speed after each of some steps, [N, steps, 3]."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.controller = nn.Sequential(
            *(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1), nn.Hardtanh())
        )

    def forward(self, s: Tensor) -> Tensor:
        path = []
        for _ in range(self.steps):
            u = self.controller(s)
            s = s @ A.T + u * B
            path.append(torch.cat([u, s], 1))
        return torch.stack(path, 1)


def starts(count: int) -> Tensor:
    return LOW + (HIGH - LOW) * torch.rand(count, 2)


def learn(model: Loop, steps: int) -> None:
    """Bring the cart to rest at 0 with little force, as simulated."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    cost = torch.tensor([0.1, 1.0, 0.5])
    for _ in range(steps):
        optimizer.zero_grad()
        (model(starts(50)).square() * cost).mean().backward()
        optimizer.step()


def cells(count: int) -> tuple[Tensor, Tensor]:
    """Return lower and upper corners [count², 2] of cells that cover the box."""
    size = (HIGH - LOW) / count
    lower = LOW + size * torch.tensor([*itertools.product(range(count), repeat=2)])
    return lower, lower + size


def limits(steps: int, fastest: float, nearest: float) -> ad.Property:
    """Say that after every step speed is within ± fastest and position above nearest."""
    _, position, speed = torch.eye(3 * steps).reshape(steps, 3, steps, 3).unbind(1)
    return ad.All(torch.cat([speed, -speed]), -fastest) & ad.All(position, nearest)


def main(
    steps: int = 8,
    training: int = 200,
    grid: int = 3,
    fastest: float = 0.6,
    nearest: float = 0.05,
    seed: int = 0,
) -> tuple[Loop, ad.Interval, list[int]]:
    """Return the loop, what each cell can lead to, [grid², steps, 3], and how many are proved."""
    torch.manual_seed(seed)
    model = Loop(steps)
    learn(model, training)
    lower, upper = cells(grid)
    ranges = ad.certify(model, ad.Box(lower, upper)).bounds(lower)
    low, high = ranges.lower.amin((0, 1)).tolist(), ranges.upper.amax((0, 1)).tolist()
    for name, a, b in zip(("force", "position", "speed"), low, high, strict=True):
        print(f"{name} stays within [{a:.3f}, {b:.3f}] for {steps} steps")
    safe, left, counts = limits(steps, fastest, nearest), torch.arange(len(lower)), []
    for rung in (ad.IBP(), ad.Dual(), ad.Optimised(10)):
        if len(left) > 0:
            net = ad.certify(model, ad.Box(lower[left], upper[left]), bounds=rung)
            left = left[~net.holds(lower[left], safe).verified]
        counts.append(len(lower) - len(left))
        print(f"{counts[-1]} of {len(lower)} cells proved to stay in limits, up to {rung}")
    return model, ranges, counts


if __name__ == "__main__":
    main()
