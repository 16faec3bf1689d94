"""nn.LSTM, nn.GRU and nn.RNN for captures in which sizes vary.

torch's own code for them, in C++, wants sizes as numbers. Here are the same operators in the same
order, so a plan computes the same to the last bit. An LSTM keeps its length dynamic; GRU and RNN
have a node for every element of the sequence, so their length becomes fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["Recurrent"]

_LSTM = 2  # oneDNN's number for this kind of layer

Layer = Callable[[torch.Tensor, Any, Sequence[torch.Tensor], bool], tuple[torch.Tensor, Any]]


class Recurrent(TorchFunctionMode):  # type: ignore[misc]
    """While entered, the recurrent layers of torch are recorded operator by operator."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("lstm", "gru", "rnn_tanh", "rnn_relu") and len(args) == 9 and isinstance(args[3], bool):
            if name != "lstm":
                return _layers(_CELLS[name], *args)
            if _is_fused(args[0], args[1], args[2]):
                return _lstm(*args)
        if name in _CELLS_ALONE and len(args) == 6:
            return _CELLS_ALONE[name](*args)
        return func(*args, **(kwargs or {}))


def _is_fused(inputs: torch.Tensor, states: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]) -> bool:
    """Whether torch would use oneDNN's layer; a projection (of other size than the state) prevents it."""
    return (
        torch.backends.mkldnn.is_available()
        and torch._C._get_mkldnn_enabled()
        and states[0].shape[2] == states[1].shape[2]
        and all(tensor.dtype is torch.float32 for tensor in (inputs, *states, *weights))
    )


def _between(results: Sequence[torch.Tensor], dropout: float) -> torch.Tensor:
    """The input of the next layer: the results of the directions side by side."""
    x = results[0] if len(results) == 1 else torch.cat(tuple(results), -1)
    return torch.dropout(x, dropout, True) if dropout != 0 else x


def _lstm(
    inputs: torch.Tensor,
    states: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    both: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = (inputs.transpose(0, 1) if batch_first else inputs).contiguous()
    hidden, cell = states[0].contiguous(), states[1].contiguous()
    last_hidden, last_cell = [], []
    for layer, mine in enumerate(_by_layer(weights, biases, both)):
        results = []
        for direction, own in enumerate(mine):
            index = layer * len(mine) + direction
            state = hidden[index], cell[index]
            bias = own[2:] if biases else [torch.zeros(own[0].shape), torch.zeros(own[1].shape)]
            settings: Any = (direction > 0, [], _LSTM, hidden.shape[2], layers, biases, both, batch_first, train)
            result, h, c, _ = torch.ops.aten.mkldnn_rnn_layer.default(x, own[0], own[1], *bias, *state, *settings)
            results.append(result)
            last_hidden.append(h)
            last_cell.append(c)
        x = _between(results, dropout if train and layer < layers - 1 else 0.0)
    states = torch.stack(last_hidden, 0), torch.stack(last_cell, 0)
    return x.transpose(0, 1) if batch_first else x, *states


def _layers(
    cell: Callable[[torch.Tensor, torch.Tensor, Sequence[torch.Tensor]], torch.Tensor],
    inputs: torch.Tensor,
    states: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    both: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    x = inputs.transpose(0, 1) if batch_first else inputs
    first = states.unbind(0)
    last = []
    for layer, mine in enumerate(_by_layer(weights, biases, both)):
        results = []
        for direction, own in enumerate(mine):
            result, state = _sequence(cell, x, first[layer * len(mine) + direction], own, reverse=direction > 0)
            results.append(result)
            last.append(state)
        x = _between(results, dropout if train and layer < layers - 1 else 0.0)
    state = torch.stack(last, 0)
    return x.transpose(0, 1) if batch_first else x, state


def _sequence(
    cell: Callable[[torch.Tensor, torch.Tensor, Sequence[torch.Tensor]], torch.Tensor],
    x: torch.Tensor,
    state: torch.Tensor,
    own: Sequence[torch.Tensor],
    *,
    reverse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    steps = list(functional.linear(x, own[0], own[2] if len(own) > 2 else None).unbind(0))
    results = []
    for step in reversed(steps) if reverse else steps:
        state = cell(step, state, own)
        results.append(state)
    if reverse:
        results.reverse()
    return torch.stack(results, 0), state


def _of_hidden(state: torch.Tensor, own: Sequence[torch.Tensor]) -> torch.Tensor:
    return functional.linear(state, own[1], own[3] if len(own) > 3 else None)


def _gru(step: torch.Tensor, state: torch.Tensor, own: Sequence[torch.Tensor]) -> torch.Tensor:
    size = state.shape[1]
    of_input = torch.unsafe_split(step, size, 1)
    of_hidden = torch.unsafe_split(_of_hidden(state, own), size, 1)
    reset = of_hidden[0].add_(of_input[0]).sigmoid_()
    update = of_hidden[1].add_(of_input[1]).sigmoid_()
    new = of_input[2].add(of_hidden[2].mul_(reset)).tanh_()
    return (state - new).mul_(update).add_(new)


def _tanh(step: torch.Tensor, state: torch.Tensor, own: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.tanh(_of_hidden(state, own).add_(step))


def _relu(step: torch.Tensor, state: torch.Tensor, own: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.relu(_of_hidden(state, own).add_(step))


def _weights(*own: torch.Tensor | None) -> list[torch.Tensor]:
    return [tensor for tensor in own if tensor is not None]


def _alone(cell: Callable[[torch.Tensor, torch.Tensor, Sequence[torch.Tensor]], torch.Tensor]) -> Callable[..., Any]:
    def step(x: torch.Tensor, state: torch.Tensor, *own: torch.Tensor | None) -> torch.Tensor:
        return cell(functional.linear(x, own[0], own[2]), state, _weights(*own))

    return step


def _lstm_cell(
    x: torch.Tensor, states: Sequence[torch.Tensor], *own: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    hidden, cell = states
    gates = functional.linear(hidden, own[1], own[3]).add_(functional.linear(x, own[0], own[2]))
    parts = torch.unsafe_split(gates, hidden.shape[1], 1)
    take, keep, new, give = parts[0].sigmoid_(), parts[1].sigmoid_(), parts[2].tanh_(), parts[3].sigmoid_()
    cell = (keep * cell).add_(take * new)
    return give * cell.tanh(), cell


_CELLS_ALONE = {"lstm_cell": _lstm_cell, "gru_cell": _alone(lambda *a: _gru(*a))}
_CELLS = {"gru": _gru, "rnn_tanh": _tanh, "rnn_relu": _relu}


def _by_layer(weights: Sequence[torch.Tensor], biases: bool, both: bool) -> Iterator[list[Sequence[torch.Tensor]]]:
    """The tensors of each direction of each layer: weights of input and hidden, their biases."""
    count, directions = 4 if biases else 2, 2 if both else 1
    own = [weights[first : first + count] for first in range(0, len(weights), count)]
    for first in range(0, len(own), directions):
        yield own[first : first + directions]
