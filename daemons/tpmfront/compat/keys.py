# SPDX-License-Identifier: Apache-2.0
"""Keys that are given to swtpm: read, checked, and let go.

The state of a TPM here is encrypted under keys that the manager keeps, and leaves a machine only
under such keys; a key of the command line encrypts nothing. But a script whose key file is missing
or damaged gets the same refusal as from swtpm, and `remove` removes it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from daemons.tpmfront.compat.errors import BadLine
from daemons.tpmfront.compat.options import KeyFile

_HEX: Final = re.compile(rb"(?:0x)?([0-9A-Fa-f]+)(?:\s.*)?", re.DOTALL)
_READ_BYTES: Final = 2 + 64 + 1
"""0x, the digits of 256 bits, and what separates them from the rest."""
_HEX_BYTES: Final = (16, 32)


def check(key: KeyFile) -> None:
    """Read a key and see that it is one; remove its file if that is wanted.

    Raises:
        BadLine: it cannot be read, or is no key of its kind.
    """
    data = _read(key, _READ_BYTES)
    if key.is_passphrase:
        pass  # every text gives a key, as with swtpm
    elif key.is_binary:
        if len(data) > key.size_bytes:
            raise BadLine(f"Key is larger than buffer ({len(data)} > {key.size_bytes})")
    else:
        _check_hex(data, key.size_bytes)
    if key.removes and key.file is not None:
        key.file.unlink(missing_ok=True)


def _check_hex(data: bytes, size_bytes: int) -> None:
    match = _HEX.fullmatch(data)
    digits = len(match[1]) if match else 0
    if match is None or digits % 2 or digits > 2 * size_bytes:
        raise BadLine(f"Could not parse key hex string into {size_bytes} byte buffer")
    if digits // 2 not in _HEX_BYTES:
        raise BadLine(f"Unsupported key length with {digits} digits")
    if digits // 2 < size_bytes:
        raise BadLine(f"The provided key is too short. Got {digits // 2} bytes, need {size_bytes}")


def _read(key: KeyFile, limit_bytes: int) -> bytes:
    if key.file is None:
        assert key.fd is not None
        return _read_fd(key.fd, limit_bytes, f"descriptor {key.fd}")
    try:
        fd = os.open(key.file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise BadLine(f"Unable to open file {key.file}: {error.strerror}") from None
    return _read_fd(fd, limit_bytes, str(key.file))


def _read_fd(fd: int, limit_bytes: int, what: str | Path) -> bytes:
    """Read and close a descriptor."""
    try:
        with open(fd, "rb", buffering=0) as file:
            data = b""
            while len(data) < limit_bytes and (chunk := file.read(limit_bytes - len(data))):
                data += chunk
            return data
    except OSError as error:
        raise BadLine(f"Unable to read key: {what}: {error.strerror}") from None
