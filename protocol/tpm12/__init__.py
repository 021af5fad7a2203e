# SPDX-License-Identifier: Apache-2.0
"""TPM 1.2 as bytes: constants, error codes, structures, request and response framing.

Everything of ours may import it. `wire` has the cursor and declared layouts, `constants` the
numbers, `framing` the ten-byte header, the other modules the structures of Part 2 by chapter.
"""

from protocol.tpm12.constants import Ordinal, ReturnCode, Tag
from protocol.tpm12.framing import (
    HEADER_BYTES,
    Header,
    build_message,
    error_response,
    parse_header,
)
from protocol.tpm12.wire import Reader, Structure, WireError

__all__ = [
    "HEADER_BYTES",
    "Header",
    "Ordinal",
    "Reader",
    "ReturnCode",
    "Structure",
    "Tag",
    "WireError",
    "build_message",
    "error_response",
    "parse_header",
]
