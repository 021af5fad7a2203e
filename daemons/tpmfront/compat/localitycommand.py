# SPDX-License-Identifier: Apache-2.0
"""swtpm's vendor command for the locality, which comes among the TPM commands and never reaches a
TPM.

    request     u16 tag 0x00C1, u32 size, u32 ordinal 0x20001000, u8 locality
    response    u16 tag 0x00C4, u32 10, u32 code
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocol.tpm12 import ReturnCode, error_response

_ORDINAL: Final = (0x20001000).to_bytes(4, "big")
_TAG: Final = b"\x00\xc1"
_HEADER_BYTES: Final = 10
_DONE: Final = b"\x00\xc4" + (10).to_bytes(4, "big") + bytes(4)


class LocalityCommand:
    """Answers the command.

    Args:
        set_locality: has every later command come from a locality.
        max_locality: the last that there is.
        is_allowed: whether it does anything; it is TPM_FAIL otherwise.
    """

    def __init__(
        self, set_locality: Callable[[int], None], max_locality: int, *, is_allowed: bool
    ) -> None:
        self._set_locality = set_locality
        self._max_locality = max_locality
        self._is_allowed = is_allowed

    def answer(self, command: bytes) -> bytes | None:
        """Return the response; None if it is another command.

        Args:
            command: whole, at least 10 bytes.
        """
        if command[6:_HEADER_BYTES] != _ORDINAL or command[:2] != _TAG:
            return None
        if not self._is_allowed:
            return error_response(ReturnCode.FAIL)
        if len(command) == _HEADER_BYTES:
            return error_response(ReturnCode.BAD_PARAMETER)
        locality = command[_HEADER_BYTES]
        if locality > self._max_locality:
            return error_response(ReturnCode.BAD_LOCALITY)
        self._set_locality(locality)
        return _DONE
