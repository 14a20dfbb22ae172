"""Messages between the process that captures and the one that writes: a JSON head and raw bytes, over a socket."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

_SIZES = struct.Struct("<IQ")
RECORD = struct.Struct("<IIQQQ")
"""Bytes in a slot: run, site, where they begin in the site, where in the slot, how many."""


def send(end: socket.socket, head: dict[str, Any], body: bytes | bytearray = b"") -> None:
    """Send a message.

    Raises:
        OSError: the other end is gone.
    """
    text = json.dumps(head, separators=(",", ":")).encode()
    end.sendall(_SIZES.pack(len(text), len(body)) + text)
    if body:
        end.sendall(body)


def receive(end: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    """Wait for a message; None if the other end is gone."""
    sizes = _exactly(end, _SIZES.size)
    if sizes is None:
        return None
    head_nbytes, body_nbytes = _SIZES.unpack(sizes)
    head, body = _exactly(end, head_nbytes), _exactly(end, body_nbytes)
    if head is None or body is None:
        return None
    return json.loads(head), body


def _exactly(end: socket.socket, nbytes: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < nbytes:
        try:
            part = end.recv(min(nbytes - len(parts), 1 << 20))
        except ConnectionError:
            return None
        if not part:
            return None
        parts += part
    return bytes(parts)
