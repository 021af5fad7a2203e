# SPDX-License-Identifier: Apache-2.0
"""What a System Approval Agent signs, and how its signatures are checked.

The agent has an RSA-2048 key with exponent 65537 of which the manager knows the modulus. It signs
(RSASSA-PKCS1-v1_5):

| what                 | hash    | over                                                       |
|----------------------|---------|------------------------------------------------------------|
| a configuration list | SHA-256 | "vTPM CFG2", group uuid, CFG_LIST, selections, in a row    |
| the same, as in Xen  | SHA-1   | CFG_LIST; only where the manager is told to take these     |
| a registration       | SHA-1   | the agent's half of the exchange                           |
| a move of vTPMs      | SHA-256 | a MoveApproval without its signature, see `moving`         |

Xen's form names no group, so a list can be replayed into another group of the same agent, and its
hash is SHA-1; hence the form of our own. Whoever registers is protected by the exchange itself.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from protocol.manager.constants import ManagerCode
from protocol.manager.management import ConfigList
from protocol.manager.moving import MoveApproval
from protocol.tpm12.pcr import PcrSelection

EXPONENT: Final = 65537
_CONFIG_DOMAIN: Final = b"vTPM CFG2"


class BadSignature(Exception):
    """A signature that is not the agent's over these bytes.

    Args:
        code: as Xen's manager answers: ENCRYPT_ERROR for a number not below the modulus,
            INAPPROPRIATE_SIG for wrong padding, DECRYPT_ERROR for another digest.
    """

    def __init__(self, code: ManagerCode) -> None:
        super().__init__(f"not signed by the group's agent: {code.name}")
        self.code = code


def config_message(
    group: UUID, config_list: ConfigList, selections: tuple[PcrSelection, ...]
) -> bytes:
    """Return the bytes that an agent signs to approve a list for one group."""
    chosen = b"".join([selection.encode() for selection in selections])
    return _CONFIG_DOMAIN + group.bytes + config_list.encode() + chosen


def check_config_list(
    modulus: bytes,
    signature: bytes,
    group: UUID,
    config_list: ConfigList,
    selections: tuple[PcrSelection, ...],
    *,
    xen_form: bool,
) -> None:
    """Return if the agent signed this list.

    Args:
        modulus: of the agent, 256 bytes.
        xen_form: whether a signature over the list alone, with SHA-1, counts too.

    Raises:
        BadSignature: it did not.
    """
    try:
        _verify(modulus, signature, config_message(group, config_list, selections), hashes.SHA256())
    except BadSignature:
        if not xen_form:
            raise
        _verify(modulus, signature, config_list.encode(), hashes.SHA1())


def check_registration(modulus: bytes, proof: bytes, exchange: bytes) -> None:
    """Return if the agent signed its half of an exchange; BadSignature if not."""
    _verify(modulus, proof, exchange, hashes.SHA1())


def check_move(modulus: bytes, approval: MoveApproval) -> None:
    """Return if the agent signed an approval; BadSignature if not."""
    _verify(modulus, approval.signature, approval.message, hashes.SHA256())


def is_agent_modulus(modulus: bytes) -> bool:
    """Say whether 256 bytes can be the modulus of an RSA-2048 key."""
    number = int.from_bytes(modulus, "big")
    return number.bit_length() == 2048 and number % 2 == 1


def _verify(
    modulus: bytes, signature: bytes, message: bytes, algorithm: hashes.HashAlgorithm
) -> None:
    number = int.from_bytes(modulus, "big")
    if int.from_bytes(signature, "big") >= number:
        raise BadSignature(ManagerCode.ENCRYPT_ERROR)
    try:
        key = rsa.RSAPublicNumbers(EXPONENT, number).public_key()
        signed = key.recover_data_from_signature(signature, padding.PKCS1v15(), algorithm)
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(ManagerCode.INAPPROPRIATE_SIG) from error
    digest = hashes.Hash(algorithm)
    digest.update(message)
    if signed != digest.finalize():
        raise BadSignature(ManagerCode.DECRYPT_ERROR)
