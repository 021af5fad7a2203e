# SPDX-License-Identifier: Apache-2.0
"""Commands that open sessions on something that is there just now."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import (
    Algorithm,
    AuthDataUsage,
    EncScheme,
    EntityType,
    KeyUsage,
    Ordinal,
    ReservedHandle,
    Tag,
)
from protocol.tpm12.framing import build_message
from protocol.tpm12.transport import TransportAttributes, TransportAuth, TransportPublic
from protocol.tpm12.wire import SIZED, U32
from tests.fuzz.dice import Dice
from tests.unit.tpm12.keychain import encrypt_oaep, encrypt_pkcs1v15
from tpmcore.tpm12.state import KeyBody
from tpmcore.tpm12.tpm import Tpm

OIAP: Final = build_message(Tag.RQU_COMMAND, Ordinal.OIAP)
_BLOCK: Final = bytes(45)
"""An authorization block that is still to be signed."""
_ENCRYPTING: Final = (KeyUsage.STORAGE, KeyUsage.LEGACY)
_SCHEMES: Final = (
    (Algorithm.MGF1, EncScheme.NONE),
    (Algorithm.AES128, EncScheme.SYM_CTR),
    (Algorithm.AES128, EncScheme.SYM_OFB),
)
_EXCLUSIVE_PERCENT: Final = 25


def osap(tpm: Tpm, dice: Dice) -> bytes:
    """Return OSAP for something that is there."""
    entities = [
        (EntityType.OWNER, int(ReservedHandle.OWNER)),
        (EntityType.SRK, int(ReservedHandle.SRK)),
        *[(EntityType.KEYHANDLE, handle) for handle in tpm.stclear.keys],
        *[(EntityType.NV, index) for index in tpm.permanent.nv],
        (EntityType.COUNTER, 0),
    ]
    kind, value = dice.pick(entities)
    scheme = 0x0600 if dice.chance(15) else 0
    body = (kind | scheme).to_bytes(2, "big") + value.to_bytes(4, "big") + dice.bytes(20)
    return build_message(Tag.RQU_COMMAND, Ordinal.OSAP, body)


def transport(tpm: Tpm, dice: Dice) -> bytes:
    """Return EstablishTransport, still to be signed if its key wants that.

    The session encrypts if there is a key that its secret can be sent to; logging and being
    exclusive come and go independently.
    """
    keys = dict(_encrypting_keys(tpm))
    handle = int(ReservedHandle.TRANSPORT)
    attributes = dice.pick((0, TransportAttributes.LOG))
    if dice.chance(_EXCLUSIVE_PERCENT):
        attributes |= TransportAttributes.EXCLUSIVE
    secret = dice.bytes(20)
    tag, block = Tag.RQU_COMMAND, b""
    if keys and dice.chance(70):
        handle = dice.pick(list(keys))
        key = keys[handle]
        attributes |= dice.pick((0, TransportAttributes.ENCRYPT, TransportAttributes.ENCRYPT))
        plain = TransportAuth(secret).encode()
        is_oaep = key.public.algorithm_parms.enc_scheme == EncScheme.RSAESOAEP_SHA1_MGF1
        encrypt = encrypt_oaep if is_oaep else encrypt_pkcs1v15
        secret = encrypt(key.private.modulus, plain)
        if key.public.auth_data_usage != AuthDataUsage.NEVER:
            tag, block = Tag.RQU_AUTH1_COMMAND, _BLOCK
    public = TransportPublic(attributes, *dice.pick(_SCHEMES))
    body = U32.write(handle) + public.encode() + SIZED.write(secret) + block
    return build_message(tag, Ordinal.ESTABLISH_TRANSPORT, body)


def _encrypting_keys(tpm: Tpm) -> list[tuple[int, KeyBody]]:
    """Return handles and keys that take the secret of a transport session."""
    loaded = [(handle, loaded.body) for handle, loaded in tpm.stclear.keys.items()]
    if tpm.permanent.srk is not None:
        loaded.append((int(ReservedHandle.SRK), tpm.permanent.srk))
    return [entry for entry in loaded if entry[1].public.key_usage in _ENCRYPTING]
