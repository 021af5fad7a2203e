# SPDX-License-Identifier: Apache-2.0
"""How the state of a TPM becomes bytes: two documented, versioned, canonical formats.

Both begin with 8 magic bytes, u16 major and u16 minor version, and go on with sections, each u16
number, u32 length and so many bytes, in ascending order of the numbers. Integers are big-endian. A
reader refuses another major version, a newer minor version, an unknown or repeated section, and
trailing bytes; a section that an older minor version did not have gets its default. The layouts of
the sections are the dataclasses and functions of `permanent` and `volatile`, and of `keys` and
`sessions`, which are in the blobs of SaveContext too; `docs/formats.md` has them as tables.
"""

from __future__ import annotations

from tpmcore.tpm12.stateformat.frame import MAJOR, MINOR
from tpmcore.tpm12.stateformat.keys import decode_key, encode_key
from tpmcore.tpm12.stateformat.permanent import PERMANENT_MAGIC, decode_permanent, encode_permanent
from tpmcore.tpm12.stateformat.sessions import (
    decode_daa_session,
    decode_session,
    decode_transport,
    encode_session,
    encode_transport,
)
from tpmcore.tpm12.stateformat.volatile import (
    VOLATILE_MAGIC,
    VolatileState,
    decode_volatile,
    encode_volatile,
)

__all__ = [
    "MAJOR",
    "MINOR",
    "PERMANENT_MAGIC",
    "VOLATILE_MAGIC",
    "VolatileState",
    "decode_daa_session",
    "decode_key",
    "decode_permanent",
    "decode_session",
    "decode_transport",
    "decode_volatile",
    "encode_key",
    "encode_permanent",
    "encode_session",
    "encode_transport",
    "encode_volatile",
]
