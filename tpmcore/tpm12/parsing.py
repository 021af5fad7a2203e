# SPDX-License-Identifier: Apache-2.0
"""Which return code bytes that do not parse become (0.2 of the engine reference, step 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from protocol.tpm12.constants import ReturnCode
from protocol.tpm12.delegation import BadDelegation
from protocol.tpm12.wire import (
    BadBool,
    BadKeyProperty,
    BadPcrSelection,
    BadTag,
    BadVersion,
    Structure,
    WireError,
)
from tpmcore.errors import TpmError

S = TypeVar("S", bound=Structure)

_CODES: Final[Mapping[type[WireError], ReturnCode]] = {
    BadBool: ReturnCode.BAD_PARAMETER,
    BadDelegation: ReturnCode.BAD_PARAMETER,
    BadTag: ReturnCode.INVALID_STRUCTURE,
    BadVersion: ReturnCode.BAD_VERSION,
    BadPcrSelection: ReturnCode.INVALID_PCR_INFO,
    BadKeyProperty: ReturnCode.BAD_KEY_PROPERTY,
}


def parse_code(error: WireError) -> ReturnCode:
    """Return the code of a parse error; what has none of its own is BAD_PARAM_SIZE."""
    return _CODES.get(type(error), ReturnCode.BAD_PARAM_SIZE)


def decode_plaintext(kind: type[S], plain: bytes) -> S:
    """Decode a structure that came out of a ciphertext.

    Raises:
        TpmError: the code of what is wrong with it, as if it had come in the clear.
    """
    try:
        return kind.decode(plain)
    except WireError as error:
        raise TpmError(parse_code(error)) from error
