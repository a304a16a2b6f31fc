"""Several inputs, several outputs, and outputs that are no logits."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo.base import Net, entry


@entry(6)
def regression():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0))


@entry(6)
def quantile_regression():
    """Quantiles that never cross: sums of positive steps."""

    def forward(net, x):
        first, *steps = net.head(F.relu(net.body(x))).split(1, dim=1)
        return torch.cumsum(torch.cat([first, *map(F.softplus, steps)], dim=1), dim=1)

    return Net(forward, body=nn.Linear(6, 8), head=nn.Linear(8, 4))


@entry(6, output=1)
def encoder():
    """A variational encoder's mean and standard deviation."""

    def forward(net, x):
        z = F.relu(net.body(x))
        return net.mean(z), torch.exp(0.5 * net.log_variance(z))

    return Net(forward, body=nn.Linear(6, 8), mean=nn.Linear(8, 2), log_variance=nn.Linear(8, 2))


@entry(6, output=("classes", 1))
def several_heads():
    def forward(net, x):
        z = F.relu(net.body(x))
        return {"value": net.value(z), "classes": [net.coarse(z), net.fine(z)]}

    heads = {"coarse": nn.Linear(8, 2), "fine": nn.Linear(8, 5), "value": nn.Linear(8, 1)}
    return Net(forward, body=nn.Linear(6, 8), **heads)


@entry(6, others=((1,), (4,)))
def several_inputs():
    def forward(net, x, scale, context):
        return net.head(F.relu(net.a(x * scale) + net.b(context)))

    return Net(forward, a=nn.Linear(6, 8), b=nn.Linear(4, 8), head=nn.Linear(8, 3))


@entry(6, others=((2,),))
def action_value():
    """A critic: the value of a state under an action, the state perturbed."""

    def forward(net, x, action):
        return net.head(F.relu(net.body(torch.cat([x, action], dim=1))))

    return Net(forward, body=nn.Linear(8, 8), head=nn.Linear(8, 1))


@entry(6)
def policy():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2), nn.Tanh())


@entry(6)
def dueling():
    """A dueling Q-network."""

    def forward(net, x):
        z = F.relu(net.body(x))
        advantage = net.advantage(z)
        return net.value(z) + advantage - advantage.mean(1, keepdim=True)

    parts = {"body": nn.Linear(6, 8), "value": nn.Linear(8, 1), "advantage": nn.Linear(8, 3)}
    return Net(forward, **parts)


@entry(3, 6, 6, output="boxes")
def detector():
    """One class and one box per cell of a grid."""

    def forward(net, x):
        z = F.relu(net.body(x))
        return {"classes": net.classes(z), "boxes": torch.sigmoid(net.boxes(z)).flatten(2)}

    return Net(
        forward,
        body=nn.Conv2d(3, 4, 3, stride=2, padding=1),
        classes=nn.Conv2d(4, 3, 1),
        boxes=nn.Conv2d(4, 4, 1),
    )


@entry(3, 6, 6)
def normalised_input():
    def forward(net, x):
        x = (x - net.mean) / net.std
        return net.body(x)

    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.25])
    model = Net(forward, body=body)
    model.register_buffer("mean", mean.reshape(3, 1, 1))
    model.register_buffer("std", std.reshape(3, 1, 1))
    return model
