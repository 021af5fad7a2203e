# SPDX-License-Identifier: Apache-2.0
"""Keys under which a vTPM's state leaves its daemon: STATE_KEY_NEW and STATE_KEY_OPEN.

A vTPM that is asked for its state (savevm, live migration) asks its manager for a key, encrypts
with it, and puts the descriptor that came with the key into the blob, in the clear and
authenticated. Whoever gets the blob shows the descriptor to its own manager, who gives the key if
that vTPM may have it. Only managers look into a descriptor (`protocol.manager.descriptors`).

    STATE_KEY_NEW   request   nothing
                    response  key 32, descriptor to the end
    STATE_KEY_OPEN  request   descriptor
                    response  key 32

Both are for connections that are bound to their vTPM. Ours; Xen's manager has no such commands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from protocol.errors import WireError
from protocol.manager.constants import HEADER_BYTES, ManagerTag, VtpmOrdinal
from protocol.manager.framing import decode_response, encode_request
from protocol.tpm12.wire import REST, FixedBytes, Structure

STATE_KEY_BYTES: Final = 32
DESCRIPTOR_MAX_BYTES: Final = 3000


@dataclass(frozen=True, slots=True)
class StateKey(Structure):
    """STATE_KEY_NEW's answer.

    Attributes:
        key: for AES-256, never given to anybody before.
        descriptor: by which a manager finds the key again, 1 to 3000 bytes.
    """

    key: Annotated[bytes, FixedBytes(STATE_KEY_BYTES)]
    descriptor: Annotated[bytes, REST]

    def __repr__(self) -> str:
        return f"StateKey(descriptor=<{len(self.descriptor)} bytes>)"


def encode_state_key_new() -> bytes:
    """Return the request for a new key."""
    return encode_request(ManagerTag.REQ, VtpmOrdinal.STATE_KEY_NEW)


def decode_state_key_new_response(response: bytes) -> StateKey:
    """Return the new key with its descriptor.

    Raises:
        ManagerRefused: DISABLED (this connection has no vTPM open), AUTHFAIL (the group is closed,
            or the approval of the target does not count any more), FAIL, IOERROR, a code of the
            hardware TPM.
        WireError: not a response to STATE_KEY_NEW.
    """
    made = StateKey.decode(decode_response(response))
    _check_descriptor(made.descriptor, HEADER_BYTES + STATE_KEY_BYTES)
    return made


def encode_state_key_open(descriptor: bytes) -> bytes:
    """Return the request for the key that a descriptor stands for.

    Raises:
        WireError: not 1 to 3000 bytes; it is from a blob, which anybody may have made.
    """
    return encode_request(ManagerTag.REQ, VtpmOrdinal.STATE_KEY_OPEN, decode_descriptor(descriptor))


def decode_state_key_open_response(response: bytes) -> bytes:
    """Return the key, 32 bytes.

    Raises:
        ManagerRefused: BAD_PARAMETER (no descriptor), AUTHFAIL (not for this vTPM, not approved,
            forged), DISABLED (this connection has no vTPM open), FAIL, IOERROR, a code of the
            hardware TPM.
        WireError: not a response to STATE_KEY_OPEN.
    """
    body = decode_response(response)
    if len(body) != STATE_KEY_BYTES:
        raise WireError("key", HEADER_BYTES, f"{len(body)} bytes, must be {STATE_KEY_BYTES}")
    return body


def decode_descriptor(body: bytes) -> bytes:
    """Return the descriptor that is the body of a STATE_KEY_OPEN request.

    Raises:
        WireError: not 1 to 3000 bytes.
    """
    _check_descriptor(body, HEADER_BYTES)
    return body


def _check_descriptor(descriptor: bytes, offset: int) -> None:
    if not 1 <= len(descriptor) <= DESCRIPTOR_MAX_BYTES:
        raise WireError(
            "descriptor", offset, f"{len(descriptor)} bytes, allowed 1-{DESCRIPTOR_MAX_BYTES}"
        )
