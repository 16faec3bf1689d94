"""A peer that shares no code with rdmatensor: python3-pyverbs, the control protocol as PROTOCOL.md has it, queue pairs
brought up by hand.

    /usr/bin/python3 stranger.py DEVICE SHIFT RIGHTS connect HOST:PORT
    /usr/bin/python3 stranger.py DEVICE SHIFT RIGHTS listen

SHIFT bytes past a page its memory of SIZE bytes begins, registered with RIGHTS (2 remote write, 4 remote read).
It prints one JSON object a line: {"port": n} when it listens, what both ends are once joined, then a reply to each
line it reads: {"do": "write" | "read", "at", "size", "key", "address"} is a work request between its memory at `at`
and ours, {"do": "fill", "seed"} and {"do": "show"} are about its memory. It ends with its standard input.
"""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import json
import mmap
import os
import random
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pyverbs.enums as e
from pyverbs.addr import GID, AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, SendWR

SIZE = 300_000
TIMEOUT = 20.0
OFFER, READY = 1, 2
ADDRESS = struct.Struct("<BBBBBBHII16sBH")
"""Version, link layer, GID kind, MTU, READs begun and served, LID, QPN, PSN, GID, placement, partition key."""
KEY = struct.Struct("<BIQQI")  # version, rkey, address, size, rights
ADDRESS_VERSION = 2
ETHERNET, V2_IPV4 = 2, 5
ORDERED = 1
DEFAULT_PARTITION = 0xFFFF


def say(**words: Any) -> None:
    print(json.dumps(words), flush=True)


# ---- the control connection: sections 1 and 2 ----


class Control:
    """A control connection after the proofs, in same-user mode."""

    def __init__(self, connection: socket.socket, role: str) -> None:
        self._connection = connection
        other = "acceptor" if role == "connector" else "connector"
        ours = struct.pack("<8sHB5x32s", b"RDMATNSR", 1, 0, os.urandom(32))
        if role == "connector":
            connection.sendall(ours)
        theirs = self._exactly(48)
        magic, version, authentication = struct.unpack("<8sHB", theirs[:11])
        assert (magic, version, authentication) == (b"RDMATNSR", 1, 0), theirs
        if role == "acceptor":
            connection.sendall(ours)
        both = ours + theirs if role == "connector" else theirs + ours

        def made(what: str, of: str) -> bytes:
            return hmac.digest(b"", f"rdmatensor {what} {of} ".encode() + both, "sha256")

        if role == "acceptor":
            assert self._exactly(32) == made("proof", other)
        connection.sendall(made("proof", role))
        if role == "connector":
            assert self._exactly(32) == made("proof", other)
        self._keys = made("key", role), made("key", other)
        self._counters = [0, 0]

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._connection.recv(size - len(data))
            assert piece, "the other end closed the connection"
            data += piece
        return data

    def _tag(self, side: int, frame: bytes) -> bytes:
        counter = struct.pack("<Q", self._counters[side])
        self._counters[side] += 1
        return hmac.digest(self._keys[side], counter + frame, "sha256")[:16]

    def send(self, kind: int, payload: bytes = b"") -> None:
        frame = struct.pack("<IHH", len(payload), kind, 0) + payload
        self._connection.sendall(frame + self._tag(0, frame))

    def receive(self, kind: int) -> bytes:
        header = self._exactly(8)
        size, came, zero = struct.unpack("<IHH", header)
        payload = self._exactly(size)
        assert self._exactly(16) == self._tag(1, header + payload)
        assert (came, zero) == (kind, 0), (came, payload)
        return payload


def text(words: str) -> bytes:
    return bytes([len(words)]) + words.encode()


def offer(device_id: bytes, address: bytes) -> bytes:
    head = text("verbs") + device_id + text("pyverbs") + struct.pack("<IH", 0, 1)
    return head + bytes([len(address)]) + address


def address_in(payload: bytes) -> bytes:
    """The address of the first link of an OFFER."""
    at = 1 + payload[0] + 16
    at += 1 + payload[at] + 4 + 2
    return payload[at + 1 : at + 1 + payload[at]]


# ---- verbs ----


def gid_index(device: str) -> int:
    """Of the RoCEv2 address that is an IPv4 address."""
    port = Path("/sys/class/infiniband", device, "ports/1")
    for index in range(16):
        gid = (port / "gids" / str(index)).read_text().strip()
        if (
            gid.startswith("0000:0000:0000:0000:0000:ffff:")
            and "v2" in (port / "gid_attrs/types" / str(index)).read_text()
        ):
            return index
    raise SystemExit(f"{device} has no RoCEv2 address")


class Stranger:
    """One queue pair and one registration."""

    def __init__(self, device: str, shift: int, rights: int) -> None:
        self.context = Context(name=device)
        self.pd = PD(self.context)
        self.cq = CQ(self.context, 16, None, None, 0)
        pages = mmap.mmap(-1, SIZE + 2 * mmap.PAGESIZE)
        self.memory = (ctypes.c_char * SIZE).from_buffer(pages, mmap.PAGESIZE + shift)
        self.address = ctypes.addressof(self.memory)
        access = e.IBV_ACCESS_LOCAL_WRITE
        access |= e.IBV_ACCESS_REMOTE_WRITE if rights & 2 else 0
        access |= e.IBV_ACCESS_REMOTE_READ if rights & 4 else 0
        self.mr = MR(self.pd, SIZE, access, address=self.address)
        cap = QPCap(max_send_wr=16, max_recv_wr=16, max_send_sge=1, max_recv_sge=1, max_inline_data=0)
        self.qp = QP(
            self.pd,
            QPInitAttr(qp_type=e.IBV_QPT_RC, scq=self.cq, rcq=self.cq, cap=cap, sq_sig_all=1),
            QPAttr(port_num=1),
        )
        self.psn = random.randrange(1 << 24)
        self.gid_index = gid_index(device)
        self.gid = self.context.query_gid(1, self.gid_index)
        self.mtu = self.context.query_port(1).active_mtu

    def address_bytes(self) -> bytes:
        gid = bytes.fromhex(str(self.gid).replace(":", ""))
        head = (ADDRESS_VERSION, ETHERNET, V2_IPV4, self.mtu, 16, 16, 0)
        return ADDRESS.pack(*head, self.qp.qp_num, self.psn, gid, ORDERED, DEFAULT_PARTITION)

    def join(self, theirs: bytes) -> dict[str, int]:
        """Goes through INIT, RTR and RTS. `theirs` is the other end's description of itself."""
        version, layer, kind, mtu, _begun, served, _lid, qpn, psn, gid, placement, partition = ADDRESS.unpack(theirs)
        assert (version, layer, kind) == (ADDRESS_VERSION, ETHERNET, V2_IPV4)
        assert (placement, partition) == (ORDERED, DEFAULT_PARTITION)
        attr = QPAttr(port_num=1)
        attr.qp_access_flags = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ
        self.qp.to_init(attr)
        written = ":".join(gid.hex()[at : at + 4] for at in range(0, 32, 4))
        route = GlobalRoute(dgid=GID(written), sgid_index=self.gid_index, hop_limit=64)
        attr.ah_attr = AHAttr(gr=route, is_global=1, port_num=1)
        attr.path_mtu, attr.dest_qp_num, attr.rq_psn = min(mtu, self.mtu), qpn, psn
        attr.max_dest_rd_atomic, attr.min_rnr_timer = 16, 12
        self.qp.to_rtr(attr)
        attr.sq_psn, attr.timeout, attr.retry_cnt, attr.rnr_retry = self.psn, 14, 6, 6
        attr.max_rd_atomic = min(served, 16)
        self.qp.to_rts(attr)
        return {"qpn": qpn, "psn": psn, "mtu": mtu}

    def work(self, opcode: int, at: int, size: int, key: int, address: int) -> dict[str, Any]:
        """One work request, and the status of its completion."""
        request = SendWR(opcode=opcode, num_sge=1, sg=[SGE(self.address + at, size, self.mr.lkey)])
        request.set_wr_rdma(key, address)
        self.qp.post_send(request)
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            count, completions = self.cq.poll(1)
            if count:
                return {"status": completions[0].status}
        return {"status": None}

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Does the act that a line of standard input asks for."""
        match command.pop("do"):
            case "write":
                return self.work(e.IBV_WR_RDMA_WRITE, **command)
            case "read":
                return self.work(e.IBV_WR_RDMA_READ, **command)
            case "fill":
                self.memory.raw = random.Random(command["seed"]).randbytes(SIZE)
        return {
            "digest": hashlib.sha256(self.memory.raw).hexdigest(),
            "state": self.qp.query(e.IBV_QP_STATE)[0].qp_state,
        }


def connection_of(words: list[str]) -> tuple[socket.socket, str]:
    """The stream, and our role on it."""
    if words[0] == "listen":
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(TIMEOUT)
            say(port=server.getsockname()[1])
            return server.accept()[0], "acceptor"
    host, _, port = words[1].rpartition(":")
    return socket.create_connection((host, int(port)), TIMEOUT), "connector"


def main() -> None:
    device, shift, rights, *how = sys.argv[1:]
    stranger = Stranger(device, int(shift), int(rights))
    device_id = os.urandom(16)
    connection, role = connection_of(how)
    connection.settimeout(TIMEOUT)
    control = Control(connection, role)
    if role == "connector":
        control.send(OFFER, offer(device_id, stranger.address_bytes()))
        theirs = control.receive(OFFER)
    else:
        theirs = control.receive(OFFER)
        control.send(OFFER, offer(device_id, stranger.address_bytes()))
    peer = stranger.join(address_in(theirs))
    control.send(READY)
    control.receive(READY)
    own = {"qpn": stranger.qp.qp_num, "psn": stranger.psn, "mtu": stranger.mtu}
    memory = {"key": stranger.mr.rkey, "address": stranger.address, "size": SIZE, "rights": int(rights)}
    key = KEY.pack(1, stranger.mr.rkey, stranger.address, SIZE, int(rights))
    handle = struct.pack("<H", 1) + text("verbs") + device_id + struct.pack("<QQIQ", 0, SIZE, int(rights), SIZE)
    say(own=own, peer=peer, memory=memory, handle=(handle + bytes([len(key)]) + key).hex())
    for line in sys.stdin:
        say(**stranger.obey(json.loads(line)))


main()
