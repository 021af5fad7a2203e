# SPDX-License-Identifier: Apache-2.0
"""A client of tcsd below its library: contexts that keep authorization sessions open.

libtspi opens a session for each command and ends it with it. A client that keeps its sessions, as
this one, makes tcsd swap them.

A packet is seven u32 (size of all, ordinal or result, number of parameters, size and offset of
their types, size and offset of the parameters), a byte of type per parameter, the parameters;
big-endian. What is said here was seen between libtspi and tcsd of trousers 0.3.15.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from protocol.tpm12.constants import Ordinal, ReservedHandle

_HEADER: Final = struct.Struct(">7I")
_OPEN_CONTEXT, _CLOSE_CONTEXT, _LOAD_KEY_BY_BLOB, _OIAP = 0x01, 0x02, 0x0B, 0x17
_U32, _BYTES, _NONCE, _AUTH = 3, 4, 6, 7
_AUTH_BYTES: Final = 41
_LIMIT_S: Final = 60.0


class TcsError(Exception):
    """tcsd answered with an error; `result` is a TSS_RESULT."""

    def __init__(self, result: int) -> None:
        super().__init__(f"tcsd: {result:#x}")
        self.result = result


@dataclass(slots=True)
class TcsSession:
    """An OIAP session of a context, as the TPM knows it."""

    handle: int
    nonce_even: bytes


@contextmanager
def tcs_context(port: int) -> Iterator[TcsContext]:
    """Give a context of the tcsd at a port of 127.0.0.1."""
    with socket.create_connection(("127.0.0.1", port), _LIMIT_S) as connection:
        context = TcsContext(connection)
        yield context
        context.close()


class TcsContext:
    """A context of a tcsd, with a connection of its own."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._context = self._ask(_OPEN_CONTEXT, ())[:4]

    def close(self) -> None:
        """Have tcsd forget it and what it has opened."""
        self._ask(_CLOSE_CONTEXT, ((_U32, self._context),))

    def oiap(self) -> TcsSession:
        """Open a session."""
        data = self._ask(_OIAP, ((_U32, self._context),))
        return TcsSession(int.from_bytes(data[:4], "big"), data[4:24])

    def load_key(self, session: TcsSession, key: bytes, srk_auth: bytes) -> None:
        """Load a key under the SRK with a session, which ends; the TPM's HMAC is checked.

        Args:
            key: encoded TPM_KEY.
        """
        nonce_odd, ends = os.urandom(20), b"\0"
        ordinal = Ordinal.LOAD_KEY2.to_bytes(4, "big")
        digest = hashlib.sha1(ordinal + key).digest()
        proof = hmac.digest(srk_auth, digest + session.nonce_even + nonce_odd + ends, "sha1")
        auth = session.handle.to_bytes(4, "big") + nonce_odd + ends + proof
        answer = self._ask(
            _LOAD_KEY_BY_BLOB,
            (
                (_U32, self._context),
                (_U32, ReservedHandle.SRK.to_bytes(4, "big")),
                (_U32, len(key).to_bytes(4, "big")),
                (_BYTES, key),
                (_AUTH, auth),
            ),
        )
        block = answer[:_AUTH_BYTES]
        digest = hashlib.sha1(bytes(4) + ordinal).digest()
        proof = hmac.digest(srk_auth, digest + block[:20] + nonce_odd + block[20:21], "sha1")
        assert hmac.compare_digest(proof, block[21:])

    def _ask(self, ordinal: int, parameters: tuple[tuple[int, bytes], ...]) -> bytes:
        types = bytes([kind for kind, _ in parameters])
        data = b"".join([value for _, value in parameters])
        start = _HEADER.size + len(types)
        self._connection.sendall(
            _HEADER.pack(
                *(start + len(data), ordinal, len(parameters)),
                *(len(types), _HEADER.size, len(data), start),
            )
            + types
            + data
        )
        size, result, _, _, _, _, answer_at = _HEADER.unpack(self._receive(_HEADER.size))
        rest = self._receive(size - _HEADER.size)
        if result:
            raise TcsError(result)
        return rest[answer_at - _HEADER.size :] if rest else b""

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self._connection.recv(size - len(data))
            assert chunk, "tcsd has closed the connection"
            data += chunk
        return data
