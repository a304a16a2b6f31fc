"""Nets on graphs: features perturbed, the graph a constant."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo.base import Net, entry

EDGES = torch.tensor([[0, 1, 2, 3, 0, 2], [1, 2, 3, 0, 2, 0]])


def adjacency():
    matrix = torch.eye(4)
    matrix[EDGES[0], EDGES[1]] = 1
    return matrix / matrix.sum(1, keepdim=True)


def with_graph(forward, **modules):
    model = Net(forward, **modules)
    model.register_buffer("adjacency", adjacency())
    model.register_buffer("edges", EDGES)
    return model


@entry(4, 3)
def graph_convolution():
    def forward(net, x):
        z = F.relu(net.adjacency @ net.first(x))
        return net.last(net.adjacency @ z).mean(1)

    return with_graph(forward, first=nn.Linear(3, 5), last=nn.Linear(5, 3))


@entry(4, 3)
def graph_sage():
    def forward(net, x):
        z = F.relu(net.own(x) + net.others(net.adjacency @ x))
        return net.head(z.mean(1))

    return with_graph(forward, own=nn.Linear(3, 5), others=nn.Linear(3, 5), head=nn.Linear(5, 3))


@entry(4, 3)
def graph_isomorphism():
    """Messages gathered along edges and summed at their ends."""

    def forward(net, x):
        messages = x.index_select(1, net.edges[0])
        total = torch.zeros_like(x).index_add(1, net.edges[1], messages)
        return net.head(F.relu(net.body(1.1 * x + total)).sum(1))

    return with_graph(forward, body=nn.Linear(3, 5), head=nn.Linear(5, 3))


@entry(4, 3)
def graph_attention():
    def forward(net, x):
        z = net.lift(x)
        scores = F.leaky_relu(net.left(z) + net.right(z).transpose(1, 2), 0.2)
        scores = scores.masked_fill(net.adjacency == 0, -1e9)
        return net.head(F.elu(scores.softmax(2) @ z).mean(1))

    parts = {"left": nn.Linear(4, 1), "right": nn.Linear(4, 1), "head": nn.Linear(4, 3)}
    return with_graph(forward, lift=nn.Linear(3, 4), **parts)


@entry(4, 3)
def edge_network():
    """A message from both ends of each edge, the largest kept."""

    def forward(net, x):
        a, b = x[:, net.edges[0]], x[:, net.edges[1]]
        return net.head(F.relu(net.message(torch.cat([a, b - a], dim=2))).amax(1))

    return with_graph(forward, message=nn.Linear(6, 5), head=nn.Linear(5, 3))


@entry(5, 2)
def point_net():
    """One net for each point of a cloud, and the maximum over points."""

    def forward(net, x):
        return net.head(F.relu(net.point(x)).amax(1))

    return Net(forward, point=nn.Linear(2, 6), head=nn.Linear(6, 3))
