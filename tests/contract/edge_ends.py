"""The vocabulary of tests of edges: functions that run where a party lives, and `Wire`, an edge from there to here."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from ends import Ends

import rdmatensor as rt
from rdmatensor.memory.layout import as_dtype, as_shape, nbytes_of
from rdmatensor.testing import Party

READ = rt.Access.REMOTE_READ


def bits(dtype: str, shape: tuple[int, ...], seed: int = 0) -> bytes:
    """Random bytes for a tensor: NaNs with payloads among them, and for bool 0 and 1."""
    nbytes = nbytes_of(as_shape(shape, as_dtype(dtype)), as_dtype(dtype))
    return np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 256, nbytes, np.uint8).tobytes()


# ---- functions for party.call ----


def grouped(words: dict[str, Any]) -> dict[str, Any]:
    """The options of an edge, as the calls take them."""
    beside = {key: words[key] for key in ("shape", "dtype", "timeout") if key in words}
    return {**beside, "options": rt.EdgeOptions(**{key: words[key] for key in words.keys() - beside.keys()})}


def make_recv(party: Party, name: str, words: dict[str, Any]) -> None:
    party.kept[name] = party.device.recv_edge(name, **grouped(words))


def open_send(party: Party, name: str, words: dict[str, Any]) -> str:
    """Opens the sending end; how its flags are carried."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        edge = party.kept["channel"].send_edge(name, **grouped(words))
    party.kept[name] = edge
    return str(edge.ordering)


def tensor_of(party: Party, dtype: str, shape: tuple[int, ...], data: bytes, access: int = int(READ)) -> rt.Tensor:
    """A tensor in a region of the party that holds these bytes."""
    key = f"region {access}"
    if key not in party.kept:
        party.kept[key] = party.device.region(8 << 20, access=rt.Access(access))
    tensor: rt.Tensor = party.kept[key].empty(shape, dtype)
    tensor.view()[:] = data
    return tensor


def send_bytes(party: Party, name: str, dtype: str, shape: tuple[int, ...], data: bytes, timeout: float = 10.0) -> None:
    """Sends a tensor that lies in registered memory."""
    party.kept[name].send(tensor_of(party, dtype, shape, data), timeout)


def send_array(party: Party, name: str, dtype: str, shape: tuple[int, ...], data: bytes, step: int = 1) -> None:
    """Sends a NumPy array from ordinary memory; with a step a strided one."""
    whole = np.zeros((*shape[:-1], shape[-1] * step), dtype)
    whole[..., ::step] = np.frombuffer(data, dtype).reshape(shape)
    party.kept[name].send(whole[..., ::step], 10.0)


def bind_bytes(party: Party, name: str, dtype: str, shape: tuple[int, ...], data: bytes) -> None:
    tensor = tensor_of(party, dtype, shape, data)
    party.kept["bound tensor"], party.kept["bound"] = tensor, party.kept[name].prepare(tensor)


def send_bound(party: Party, data: bytes) -> None:
    party.kept["bound tensor"].view()[:] = data
    party.kept["bound"](10.0)


def receive(party: Party, name: str, timeout: float = 10.0) -> tuple[str, tuple[int, ...], bytes]:
    with party.kept[name].recv(timeout) as tensor:
        return tensor.dtype, tensor.shape, bytes(tensor.view())


def hold(party: Party, name: str, timeout: float = 10.0) -> None:
    """Receives without releasing."""
    party.kept.setdefault("held", []).append(party.kept[name].recv(timeout))


def drop_held(party: Party) -> None:
    for tensor in party.kept.pop("held", []):
        tensor.release()


def stats_of(party: Party, name: str) -> rt.EdgeStats:
    stats: rt.EdgeStats = party.kept[name].stats
    return stats


def call_edge(party: Party, name: str, method: str, *args: Any) -> None:
    getattr(party.kept[name], method)(*args)


class Wire:
    """An edge whose receiver is here and whose sender is there."""

    _count = 0

    def __init__(self, ends: Ends, *, sender: dict[str, Any] | None = None, **words: Any) -> None:
        Wire._count += 1
        self.name = f"edge {Wire._count}"
        self.ends = ends
        shared = {
            key: words[key]
            for key in ("shape", "dtype", "rank", "flow", "verify", "ordering", "stripes")
            if key in words
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            self.edge: rt.RecvEdge = ends.device.recv_edge(self.name, **grouped(words))
        ends.edges.append(self.edge)
        self.carried = ends.call(open_send, self.name, {**shared, **(sender or {})})

    def send(self, dtype: str, shape: tuple[int, ...], data: bytes, timeout: float = 10.0) -> None:
        self.ends.call(send_bytes, self.name, dtype, shape, data, timeout)

    def recv(self) -> rt.Tensor:
        tensor: rt.Tensor = self.edge.recv(10.0)
        return tensor

    @property
    def there(self) -> rt.EdgeStats:
        """Counters of the sender."""
        stats: rt.EdgeStats = self.ends.call(stats_of, self.name)
        return stats


class Back:
    """An edge whose sender is here and whose receiver is there."""

    def __init__(self, ends: Ends, **words: Any) -> None:
        Wire._count += 1
        self.name = f"edge {Wire._count}"
        self.ends = ends
        shared = {
            key: words[key]
            for key in ("shape", "dtype", "rank", "flow", "verify", "ordering", "stripes")
            if key in words
        }
        ends.call(make_recv, self.name, words)
        self.edge: rt.SendEdge = ends.channel.send_edge(self.name, **grouped({"timeout": 300, **shared}))
        ends.edges.append(self.edge)

    def recv(self, timeout: float = 10.0) -> tuple[str, tuple[int, ...], bytes]:
        found: tuple[str, tuple[int, ...], bytes] = self.ends.call(receive, self.name, timeout)
        return found
