"""Recurrent nets, unrolled, and other nets on sequences."""

import torch
from torch import nn

from tests.zoo.base import Net, entry


def classifier(layer, width=4):
    """Return a classifier of the layer's last state."""

    def forward(net, x):
        states, _ = net.layer(x)
        return net.head(states[:, -1])

    return Net(forward, layer=layer, head=nn.Linear(width, 3))


@entry(3, 2)
def rnn():
    return classifier(nn.RNN(2, 4, batch_first=True))


@entry(3, 2)
def rnn_relu():
    return classifier(nn.RNN(2, 4, nonlinearity="relu", batch_first=True))


@entry(3, 2)
def gru():
    return classifier(nn.GRU(2, 4, batch_first=True))


@entry(3, 2)
def lstm():
    return classifier(nn.LSTM(2, 4, batch_first=True))


@entry(2, 2)
def lstm_two_layers():
    return classifier(nn.LSTM(2, 3, num_layers=2, batch_first=True), 3)


@entry(3, 2)
def lstm_both_ways():
    return classifier(nn.LSTM(2, 3, bidirectional=True, batch_first=True), 6)


@entry(3, 2)
def lstm_cells():
    """A loop over cells, with states of its own."""

    def forward(net, x):
        h, c = (x.new_zeros(x.shape[0], 4) for _ in range(2))
        for t in range(x.shape[1]):
            h, c = net.cell(x[:, t], (h, c))
        return net.head(h)

    return Net(forward, cell=nn.LSTMCell(2, 4), head=nn.Linear(4, 3))


@entry(3, 2)
def gru_cells():
    def forward(net, x):
        h = x.new_zeros(x.shape[0], 4)
        for step in x.unbind(1):
            h = net.cell(step, h)
        return net.head(h)

    return Net(forward, cell=nn.GRUCell(2, 4), head=nn.Linear(4, 3))


@entry(4, 2)
def minimal_gated_unit():
    def forward(net, x):
        h = x.new_zeros(x.shape[0], 4)
        for step in x.unbind(1):
            gate = torch.sigmoid(net.gate(torch.cat([step, h], dim=1)))
            h = (1 - gate) * h + gate * torch.tanh(net.state(torch.cat([step, h], dim=1)))
        return net.head(h)

    return Net(forward, gate=nn.Linear(6, 4), state=nn.Linear(6, 4), head=nn.Linear(4, 3))


@entry(5, 2)
def state_space():
    """A linear recurrence, then a gate: the core of a state-space model."""

    def forward(net, x):
        h, states = x.new_zeros(x.shape[0], 4), []
        for step in x.unbind(1):
            h = net.decay.sigmoid() * h + net.inject(step)
            states.append(h)
        return net.head(torch.relu(torch.stack(states, dim=1)).mean(1))

    return Net(
        forward, decay=nn.Parameter(torch.randn(4)), inject=nn.Linear(2, 4), head=nn.Linear(4, 3)
    )


@entry(4, 2)
def attention_over_states():
    """A recurrent encoder whose states are averaged by attention."""

    def forward(net, x):
        states, _ = net.layer(x)
        weights = net.score(states).softmax(1)
        return net.head((weights * states).sum(1))

    layer = nn.RNN(2, 4, batch_first=True)
    return Net(forward, layer=layer, score=nn.Linear(4, 1), head=nn.Linear(4, 3))
