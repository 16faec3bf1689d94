"""Allocation sites: which allocations of a part's nodes make the tensors that it sends.

See section 5 of the paper. A node may pass its input's memory on, work in place, or allocate many
buffers of which one is sent, so neither the graph nor the node alone tells where a sent tensor is
allocated. The first step is traced: each allocation is recorded by its node and its ordinal among
the node's allocations, and the record of a sent tensor's storage names its site. From the second
step on, those sites alone are served from the region, so sent tensors are born in registered memory
and nothing is copied; every other allocation goes to the ordinary allocator.

    sites = Sites([node.name for node in graph.nodes])
    with sites.tracing():  # the first step
        for number, node in enumerate(graph.nodes):
            sites.enter(number); result = ...; sites.leave()
            # and for a tensor that is sent:
            sites.found(node.name, result)
    sites.serve(region)
    # later steps: enter(number) ... leave() around the nodes in `sites.marked` alone
    again = sites.settle()  # after each step; whether the next one is to be traced

The allocator is that of `allocator.py`. A thread's site belongs to the thread, so several threads
may run nodes of one part at once.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sysconfig
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_uint32, c_uint64, c_void_p
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from rdmatensor.errors import ForkedProcessError, InvalidArgument
from rdmatensor.memory.region import Region
from rdmatensor.torch.allocator import Allocation, compiled
from rdmatensor.torch.build import built

__all__ = ["Site", "SiteStats", "Sites", "holds", "marks"]

ANY = 0
"""The size of a site that is served whatever size is asked for."""


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """An allocation in a node."""

    number: int
    """The node's number in its part."""
    ordinal: int
    """Counts the node's allocations from 0."""
    nbytes: int
    """Bytes asked for; ANY for a site whose size differs from step to step."""


@dataclass(frozen=True, slots=True)
class SiteStats:
    """Counters of a part's sites since they were made."""

    traced: int
    """Steps that were traced."""
    sites: int
    """Sites that are served."""
    served: int
    """Allocations that were born in the region, those of `clone` included."""
    served_bytes: int
    mismatched: int
    """Allocations at a site that came with another size than traced, and were made in ordinary
    memory; and those that did not come. The part is traced again.
    """
    fell_back: int
    """Allocations at a site for which the region had no room, made in ordinary memory."""
    fell_back_bytes: int
    unseen: int
    """Sent tensors that no node of the part allocates: each costs a copy in every step."""

    @staticmethod
    def sum(parts: Sequence[SiteStats]) -> SiteStats:
        """The counters of several parts together."""
        return SiteStats(*(sum(column) for column in zip(*map(astuple, parts), strict=True)))


RETRACES = 8
"""Steps traced again, at most: a part whose allocations still differ then goes on as it is."""

_WHAT = "serve allocation sites"
_SOURCE = Path(__file__).with_name("marks.cpp")


class _Record(ctypes.Structure):
    """The struct of the same name in pools.h."""

    _fields_ = (("number", c_uint32), ("ordinal", c_uint32), ("nbytes", c_uint64), ("address", c_uint64))


class _Expected(ctypes.Structure):
    """The struct of the same name in allocator.cpp."""

    _fields_ = (("number", c_uint32), ("ordinal", c_uint32), ("nbytes", c_uint64))


@cache
def marks() -> ModuleType:
    """The built-in type of `enter` and `leave`, compiled if need be."""
    python = ("-isystem", sysconfig.get_paths()["include"])
    spec = importlib.util.spec_from_file_location("rdmatensor_marks", built(_SOURCE, flags=python, libraries=()))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Table:
    """Owns the C object; referenced by `Sites` and by its `enter` and `leave`, which may outlive it."""

    def __init__(self, library: Any, nodes: int) -> None:
        self.pointer: int = library.rtt_sites_create(nodes)
        weakref.finalize(self, library.rtt_sites_drop, self.pointer).atexit = False


def holds(region: Region, tensor: torch.Tensor) -> bool:
    """Whether all of the tensor's storage lies in the region."""
    storage = tensor.untyped_storage()
    start: int = storage.data_ptr()
    size: int = storage.nbytes()
    return region.address <= start and start + size <= region.address + region.nbytes


class Sites:
    """The allocation sites of one part: which there are, and which are served from its region.

    `names` are the names of the part's nodes by number; a node is whatever `enter` and `leave` are
    called around: an operator, or a compiled segment. Methods other than `enter` and `leave` are for
    one thread, between steps; `found` and `clone` are called in a step. `close` ends the serving;
    tensors in the region stay valid. In a child made by fork the marks do nothing, and the other
    methods raise ForkedProcessError.
    """

    enter: Callable[[int], None]
    """Marks that this thread runs node `number` from here on. Cheap (tens of nanoseconds), for
    generated code. It replaces the mark of the node before, so an exception needs no clean-up before
    the next node; at the end of a step call `leave`.
    """
    leave: Callable[[], None]
    """Marks that this thread runs no node. Twice is fine."""

    def __init__(self, names: Sequence[str]) -> None:
        self._process = os.getpid()
        self.names = tuple(names)
        self._library = compiled()
        self._table = _Table(self._library, len(self.names) + 1)  # the last one is `clone`
        enter, leave = (
            ctypes.cast(getattr(self._library, name), c_void_p).value for name in ("rtt_sites_enter", "rtt_sites_leave")
        )
        made = marks().Marks(self._table, self._table.pointer, enter, leave)
        self.enter, self.leave = made.enter, made.leave
        self._found: dict[str, Site | None] = {}
        self._sizes: dict[tuple[int, int], int] = {}  # of the sites of all traces; ANY where they differed
        self._allocation: Allocation | None = None
        self._served: tuple[Site, ...] = ()
        self._tracing = False
        self._traced = self._differed = self._told = 0

    def _check(self, what: str) -> None:
        if os.getpid() != self._process:
            raise ForkedProcessError(what, repr(self), ForkedProcessError.WHY, status="forked")

    # ---- the traced step ----

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Records every allocation of the marked nodes, in all threads, while it is entered.

        The findings of an earlier trace are forgotten, and found anew. Sites that are served go on being
        served meanwhile. InvalidArgument when the part is being traced already.
        """
        self._check("trace allocations")
        if self._tracing:
            raise InvalidArgument("trace allocations", repr(self), "they are being traced already")
        self._found.clear()
        self._tracing = True
        self._library.rtt_sites_record(self._table.pointer, 1)
        try:
            yield
        finally:
            self._library.rtt_sites_record(self._table.pointer, 0)
            self._tracing = False
            self._traced += 1

    def found(self, sent: str, tensor: torch.Tensor, *, any_size: bool = False) -> Site | None:
        """The site at which the storage of a tensor was allocated that is sent as `sent`; called in
        the traced step, at the send. None when no node of the part allocated it, as with an input, a
        received tensor, or memory of an operator's own: then send `clone(tensor)`.

        `any_size`: the tensor's size varies (a dynamic edge), and the site serves whatever size is
        asked for. So does a site that two traces found with different sizes.
        """
        self._check("find where a tensor was allocated")
        if not self._tracing:
            why = "this step is not traced: call it inside tracing()"
            raise InvalidArgument(f"find where {sent} was allocated", repr(self), why)
        record = _Record()
        address = tensor.untyped_storage().data_ptr()
        site: Site | None = None
        if address and self._library.rtt_sites_find(self._table.pointer, address, ctypes.byref(record)):
            key = (record.number, record.ordinal)
            nbytes = record.nbytes
            if any_size or self._sizes.get(key, nbytes) != nbytes:
                nbytes = ANY
            self._sizes[key] = nbytes
            site = Site(*key, nbytes)
        self._found[sent] = site
        return site

    @property
    def allocations(self) -> tuple[Site, ...]:
        """All allocations of the last trace, in order, with their bytes."""
        records = self._library.rtt_sites_records
        count = records(self._table.pointer, None, 0)
        out = (_Record * count)()
        records(self._table.pointer, out, count)
        return tuple(Site(record.number, record.ordinal, record.nbytes) for record in out)

    # ---- later steps ----

    def serve(self, region: Region, *, when_full: str = "ordinary") -> None:
        """From here on, what is allocated at the sites found is allocated in the region, while there
        is room. `when_full` is as for `Region.allocating`. After another trace it is called again.
        """
        self._check("serve allocation sites")
        if self._allocation is None or self._allocation.region is not region:
            self._allocation = Allocation(region, when_full)
        keys = sorted({(site.number, site.ordinal) for site in self._found.values() if site is not None})
        self._served = tuple(Site(*key, self._sizes[key]) for key in keys)
        all_served = (*self._served, Site(len(self.names), 0, ANY))
        expected = (_Expected * len(all_served))(
            *(_Expected(site.number, site.ordinal, site.nbytes) for site in all_served)
        )
        self._library.rtt_sites_serve(self._table.pointer, self._allocation._pool, expected, len(all_served))

    @property
    def marked(self) -> tuple[int, ...]:
        """The nodes with a site that is served, in ascending order: `enter` and `leave` are needed
        around these only.
        """
        return tuple(sorted({site.number for site in self._served}))

    def settle(self) -> bool:
        """Ends a step: warns of allocations that found no room. Gives whether the next step is to be
        traced, since allocations differed from the trace.
        """
        self.leave()
        stats = self.stats
        if stats.fell_back > self._told and self._allocation is not None:
            text = (
                f"{stats.fell_back - self._told} sent tensors found no room in {self._allocation.region!r} and are "
                f"copied ({stats.fell_back_bytes} bytes in all so far): make it that much larger"
            )
            self._told = stats.fell_back
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        again = stats.mismatched > self._differed and self._traced <= RETRACES
        self._differed = stats.mismatched
        return again

    def clone(self, tensor: torch.Tensor) -> torch.Tensor:
        """A contiguous copy of a tensor that no node allocates, born in the region once it serves."""
        self.enter(len(self.names))
        try:
            return tensor.clone(memory_format=torch.contiguous_format)
        finally:
            self.leave()

    def born(self, sent: str) -> str:
        """Where a sent tensor is allocated, in words: "node conv_backward, allocation 16", or
        "copied: …" with the reason. Allocations count from 0.
        """
        if sent not in self._found:
            return "copied: its allocation has not been traced"
        site = self._found[sent]
        if site is None:
            return "copied: no node of this part allocates it"
        return f"node {self.names[site.number]}, allocation {site.ordinal}"

    @property
    def stats(self) -> SiteStats:
        """Counters since the sites were made."""
        out = (c_uint64 * 5)()
        self._library.rtt_sites_stats(self._table.pointer, out)
        served, served_bytes, mismatched, fell_back, fell_back_bytes = out
        unseen = sum(site is None for site in self._found.values())
        return SiteStats(
            self._traced, len(self._served), served, served_bytes, mismatched, fell_back, fell_back_bytes, unseen
        )

    def close(self) -> None:
        """Ends the serving. Twice is fine."""
        self._library.rtt_sites_serve(self._table.pointer, None, None, 0)
        self._served, self._allocation = (), None

    def __repr__(self) -> str:
        return f"<Sites of {len(self.names)} nodes, {len(self._served)} served>"
