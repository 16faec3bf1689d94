"""The models of the paper, and a transformer, in plain torch.nn.

Each function gives (model, batch, loss_fn) with `batch = (*inputs, target)`. The architecture is the
real one at every size; the defaults are tiny, `PAPER` has the paper's sizes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Batch = tuple[torch.Tensor, ...]
Example = tuple[nn.Module, Batch, Callable[..., torch.Tensor]]


def _images(batch: int, size: int, classes: int) -> Batch:
    return torch.randn(batch, 3, size, size), torch.randint(0, classes, (batch,))


def _words(batch: int, length: int, vocabulary: int) -> torch.Tensor:
    return torch.randint(0, vocabulary, (batch, length))


def each_word(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross entropy of (batch, length, vocabulary) against (batch, length)."""
    return functional.cross_entropy(output.flatten(0, 1), target.flatten())


def fcn5(*, batch: int = 3, width: int = 8, inputs: int = 12, classes: int = 5) -> Example:
    """A fully connected network of five layers."""
    sizes = [inputs, width, width, width, width, classes]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return (
        nn.Sequential(*layers[:-1]),
        (torch.randn(batch, inputs), torch.randint(0, classes, (batch,))),
        functional.cross_entropy,
    )


def alexnet(*, batch: int = 2, size: int = 63, width: int = 4, classes: int = 5) -> Example:
    """AlexNet ("One weird trick", 2014); `width` is 64 in the original, its hidden layers 64 times as wide."""
    hidden = 64 * width
    model = nn.Sequential(
        nn.Conv2d(3, width, 11, stride=4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(width, 3 * width, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(3 * width, 6 * width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(6 * width, 4 * width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4 * width, 4 * width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2),
        nn.AdaptiveAvgPool2d((6, 6)),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(4 * width * 36, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, classes),
    )
    return model, _images(batch, size, classes), functional.cross_entropy


def vgg16(*, batch: int = 2, size: int = 32, width: int = 2, hidden: int = 16, classes: int = 5) -> Example:
    """VGG-16 (configuration D); `width` is 64 and `hidden` 4096 in the original."""
    layers: list[nn.Module] = []
    channels = 3
    for factor, repeats in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
        for _ in range(repeats):
            layers += [nn.Conv2d(channels, factor * width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = factor * width
        layers.append(nn.MaxPool2d(2, stride=2))
    layers += [
        nn.AdaptiveAvgPool2d((7, 7)),
        nn.Flatten(),
        nn.Linear(channels * 49, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(hidden, classes),
    ]
    return nn.Sequential(*layers), _images(batch, size, classes), functional.cross_entropy


def _conv(inputs: int, outputs: int, kernel: int | tuple[int, int], **options: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, bias=False, **options),
        nn.BatchNorm2d(outputs, eps=0.001),
        nn.ReLU(inplace=True),
    )


class _Branches(nn.Module):
    """The results of several branches on one input, side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def _mixed_a(inputs: int, pool: int, s: Callable[[int], int]) -> nn.Module:
    return _Branches(
        _conv(inputs, s(64), 1),
        nn.Sequential(_conv(inputs, s(48), 1), _conv(s(48), s(64), 5, padding=2)),
        nn.Sequential(_conv(inputs, s(64), 1), _conv(s(64), s(96), 3, padding=1), _conv(s(96), s(96), 3, padding=1)),
        nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), _conv(inputs, pool, 1)),
    )


def _mixed_c(inputs: int, middle: int, s: Callable[[int], int]) -> nn.Module:
    flat: dict[str, Any] = {"kernel": (1, 7), "padding": (0, 3)}
    tall: dict[str, Any] = {"kernel": (7, 1), "padding": (3, 0)}
    last = s(192)
    return _Branches(
        _conv(inputs, last, 1),
        nn.Sequential(_conv(inputs, middle, 1), _conv(middle, middle, **flat), _conv(middle, last, **tall)),
        nn.Sequential(
            _conv(inputs, middle, 1),
            _conv(middle, middle, **tall),
            _conv(middle, middle, **flat),
            _conv(middle, middle, **tall),
            _conv(middle, last, **flat),
        ),
        nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), _conv(inputs, last, 1)),
    )


def _mixed_e(inputs: int, s: Callable[[int], int]) -> nn.Module:
    def both() -> nn.Module:
        return _Branches(_conv(s(384), s(384), (1, 3), padding=(0, 1)), _conv(s(384), s(384), (3, 1), padding=(1, 0)))

    return _Branches(
        _conv(inputs, s(320), 1),
        nn.Sequential(_conv(inputs, s(384), 1), both()),
        nn.Sequential(_conv(inputs, s(448), 1), _conv(s(448), s(384), 3, padding=1), both()),
        nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), _conv(inputs, s(192), 1)),
    )


def inception3(*, batch: int = 2, size: int = 75, divisor: int = 16, classes: int = 5) -> Example:
    """Inception-v3 without the auxiliary head; channels are the original's divided by `divisor`."""

    def s(channels: int) -> int:
        return max(1, channels // divisor)

    a1 = s(64) + s(64) + s(96) + s(32)
    a2 = s(64) + s(64) + s(96) + s(64)
    b = s(384) + s(96) + a2
    c = 4 * s(192)
    d = s(320) + s(192) + c
    e = s(320) + 2 * s(384) + 2 * s(384) + s(192)
    model = nn.Sequential(
        _conv(3, s(32), 3, stride=2),
        _conv(s(32), s(32), 3),
        _conv(s(32), s(64), 3, padding=1),
        nn.MaxPool2d(3, stride=2),
        _conv(s(64), s(80), 1),
        _conv(s(80), s(192), 3),
        nn.MaxPool2d(3, stride=2),
        _mixed_a(s(192), s(32), s),
        _mixed_a(a1, s(64), s),
        _mixed_a(a2, s(64), s),
        _Branches(
            _conv(a2, s(384), 3, stride=2),
            nn.Sequential(_conv(a2, s(64), 1), _conv(s(64), s(96), 3, padding=1), _conv(s(96), s(96), 3, stride=2)),
            nn.MaxPool2d(3, stride=2),
        ),
        *(_mixed_c(b if index == 0 else c, s(middle), s) for index, middle in enumerate((128, 160, 160, 192))),
        _Branches(
            nn.Sequential(_conv(c, s(192), 1), _conv(s(192), s(320), 3, stride=2)),
            nn.Sequential(
                _conv(c, s(192), 1),
                _conv(s(192), s(192), (1, 7), padding=(0, 3)),
                _conv(s(192), s(192), (7, 1), padding=(3, 0)),
                _conv(s(192), s(192), 3, stride=2),
            ),
            nn.MaxPool2d(3, stride=2),
        ),
        _mixed_e(d, s),
        _mixed_e(e, s),
        nn.AdaptiveAvgPool2d(1),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(e, classes),
    )
    return model, _images(batch, size, classes), functional.cross_entropy


class Recurrent(nn.Module):
    """Predicts the next word: embedding, a recurrent layer, a projection to the vocabulary."""

    def __init__(self, cell: type[nn.RNNBase], vocabulary: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.cell = cell(hidden, hidden, layers, batch_first=True)
        self.project = nn.Linear(hidden, vocabulary)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        states, _ = self.cell(self.embedding(words))
        result: torch.Tensor = self.project(states)
        return result


def recurrent(
    cell: type[nn.RNNBase], *, batch: int = 2, length: int = 4, vocabulary: int = 20, hidden: int = 6, layers: int = 1
) -> Example:
    """Predicts the next word, with LSTM or GRU."""
    words = (_words(batch, length, vocabulary), _words(batch, length, vocabulary))
    return Recurrent(cell, vocabulary, hidden, layers), words, each_word


lstm = partial(recurrent, nn.LSTM)
gru = partial(recurrent, nn.GRU)


class Seq2SeqModel(nn.Module):
    """Encoder and decoder with attention."""

    def __init__(self, cell: type[nn.RNNBase], vocabulary: int, hidden: int) -> None:
        super().__init__()
        self.embed_source = nn.Embedding(vocabulary, hidden)
        self.embed_target = nn.Embedding(vocabulary, hidden)
        self.encoder = cell(hidden, hidden, batch_first=True)
        self.decoder = cell(hidden, hidden, batch_first=True)
        self.project = nn.Linear(2 * hidden, vocabulary)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        encoded, last = self.encoder(self.embed_source(source))
        decoded, _ = self.decoder(self.embed_target(target), last)
        attended = torch.softmax(decoded @ encoded.transpose(1, 2), -1) @ encoded
        result: torch.Tensor = self.project(torch.cat([decoded, attended], -1))
        return result


def seq2seq(
    *,
    batch: int = 2,
    source: int = 4,
    target: int = 5,
    vocabulary: int = 20,
    hidden: int = 6,
    cell: type[nn.RNNBase] = nn.GRU,
) -> Example:
    """A translation model; sentences of both languages vary in length."""
    words = (
        _words(batch, source, vocabulary),
        _words(batch, target, vocabulary),
        _words(batch, target, vocabulary),
    )
    return Seq2SeqModel(cell, vocabulary, hidden), words, each_word


class SentenceModel(nn.Module):
    """The mean state of a recurrent layer as the embedding of a sentence; two sentences at a time."""

    def __init__(self, cell: type[nn.RNNBase], vocabulary: int, hidden: int, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.cell = cell(hidden, hidden, batch_first=True)
        self.project = nn.Linear(hidden, size)

    def embed(self, words: torch.Tensor) -> torch.Tensor:
        states, _ = self.cell(self.embedding(words))
        return functional.normalize(self.project(states.mean(1)), dim=-1)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.embed(first), self.embed(second)


def pairs(output: tuple[torch.Tensor, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    """Each first sentence must find its second among all."""
    first, second = output
    return functional.cross_entropy(10 * first @ second.t(), target)


def sentence(
    *,
    batch: int = 3,
    first: int = 4,
    second: int = 5,
    vocabulary: int = 20,
    hidden: int = 6,
    size: int = 4,
    cell: type[nn.RNNBase] = nn.GRU,
) -> Example:
    """An RNN sentence embedding."""
    words = (_words(batch, first, vocabulary), _words(batch, second, vocabulary), torch.arange(batch))
    return SentenceModel(cell, vocabulary, hidden, size), words, pairs


class TransformerModel(nn.Module):
    """Predicts the next word from the earlier ones: positions, pre-norm blocks, output tied to the embedding."""

    def __init__(self, vocabulary: int, longest: int, hidden: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.positions = nn.Embedding(longest, hidden)
        self.blocks = nn.ModuleList(_Block(hidden, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.project = nn.Linear(hidden, vocabulary, bias=False)
        self.project.weight = self.embedding.weight

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.embedding(words) + self.positions(torch.arange(words.shape[1]))
        for block in self.blocks:
            x = block(x)
        result: torch.Tensor = self.project(self.norm(x))
        return result


class _Block(nn.Module):
    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.queries = nn.Linear(hidden, 3 * hidden)
        self.merge = nn.Linear(hidden, hidden)
        self.widen, self.narrow = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, hidden = x.shape
        parts = self.queries(self.first(x)).view(batch, length, 3, self.heads, hidden // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.drop(self.merge(attended.transpose(1, 2).reshape(batch, length, hidden)))
        result: torch.Tensor = x + self.drop(self.narrow(functional.gelu(self.widen(self.second(x)))))
        return result


def transformer(
    *,
    batch: int = 2,
    length: int = 4,
    vocabulary: int = 20,
    longest: int = 32,
    hidden: int = 8,
    heads: int = 2,
    layers: int = 2,
    dropout: float = 0.1,
) -> Example:
    """A small transformer whose batch and length may vary."""
    model = TransformerModel(vocabulary, longest, hidden, heads, layers, dropout)
    return model, (_words(batch, length, vocabulary), _words(batch, length, vocabulary)), each_word


ALL: Mapping[str, Callable[..., Example]] = {
    "fcn5": fcn5,
    "alexnet": alexnet,
    "vgg16": vgg16,
    "inception3": inception3,
    "lstm": lstm,
    "gru": gru,
    "seq2seq": seq2seq,
    "sentence": sentence,
    "transformer": transformer,
}

PAPER: Mapping[str, Mapping[str, Any]] = {
    "fcn5": {"batch": 32, "width": 4096, "inputs": 784, "classes": 10},
    "alexnet": {"batch": 4, "size": 224, "width": 64, "classes": 1000},
    "vgg16": {"batch": 1, "size": 224, "width": 64, "hidden": 4096, "classes": 1000},
    "inception3": {"batch": 2, "size": 299, "divisor": 1, "classes": 1000},
    "lstm": {"batch": 8, "length": 16, "vocabulary": 10000, "hidden": 1024},
    "gru": {"batch": 8, "length": 16, "vocabulary": 10000, "hidden": 1024},
    "seq2seq": {"batch": 8, "source": 12, "target": 14, "vocabulary": 8000, "hidden": 512},
    "sentence": {"batch": 8, "first": 11, "second": 13, "vocabulary": 10000, "hidden": 512, "size": 128},
    "transformer": {
        "batch": 8,
        "length": 64,
        "vocabulary": 8000,
        "longest": 512,
        "hidden": 512,
        "heads": 8,
        "layers": 6,
    },
}
"""The sizes of the paper (and of a usual small transformer) as arguments of these functions."""
