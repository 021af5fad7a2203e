# SPDX-License-Identifier: Apache-2.0
"""What the manager's quotes are over: hashes, external data, and what PCRs 20-23 then hold.

A quote's external data is

    SHA-1(flags, 4 bytes little-endian || data of the caller, 20 || one hash for each flag)

as the code of Xen's manager has it (its header describes another); the hash for FRESHNESS is ours,
SHA-1("VMFR" || nv, counter or none). The caller's data is

    a vTPM's GET_QUOTE      what the vTPM gives: for DeepQuote the DQUT hash, for ParentSignEK that
                            of the endorsement key
    GROUP_REGISTER          SHA-1("REGR" || agent's half || our half || recoverBlob), flags 0
    GROUP_QUOTE             SHA-1("SHOW" || nonce), flags 0
    GROUP_RECOVER1          SHA-1("RCVR" || nonce || our half) is the external data itself: the key
                            that signs it belongs to no group

and before the AIK signs, PCRs 20-23 are reset and extended as `identification` says.

Source: Xen stubdom/vtpmmgr, vtpm_manager.h and its code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from uuid import UUID

from protocol.manager.constants import QuoteFlags
from protocol.manager.management import ConfigList

Identification = Mapping[int, Sequence[bytes]]
"""PCR index to the 20-byte digests that are extended into it, in order, after its reset."""

_PADDING = bytes(4)
_FRESHNESS_DOMAIN = b"VMFR"


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()


def quoted_hashes(
    flags: QuoteFlags,
    *,
    uuid: UUID,
    kern_hash: bytes,
    saa_modulus: bytes,
    config_list: ConfigList,
    freshness: str,
) -> list[bytes]:
    """Return the hashes that a quote with these flags names, 20 bytes each, in order.

    Args:
        kern_hash: of the vTPM, 20 bytes.
        saa_modulus: of the group's agent, 256 bytes.
        freshness: mode of the manager: nv, counter or none.
    """
    of_flag = {
        QuoteFlags.HASH_UUID: uuid.bytes,
        QuoteFlags.VTPM_MEASUREMENTS: kern_hash,
        QuoteFlags.GROUP_INFO: saa_modulus + config_list.encode(),
        QuoteFlags.GROUP_PUBKEY: saa_modulus,
        QuoteFlags.FRESHNESS: _FRESHNESS_DOMAIN + freshness.encode("ascii"),
    }
    return [_sha1(data) for flag, data in of_flag.items() if flag in flags]


def external_data(flags: QuoteFlags, data: bytes, hashes: Sequence[bytes]) -> bytes:
    """Return the external data of a quote, 20 bytes.

    Args:
        data: of the caller, 20 bytes.
        hashes: what `quoted_hashes` gives.
    """
    return _sha1(flags.to_bytes(4, "little") + data + b"".join(hashes))


def registration_data(peer: bytes, own: bytes, recover_blob: bytes) -> bytes:
    """Return the caller's data of GROUP_REGISTER's quote."""
    return _sha1(b"REGR" + peer + own + recover_blob)


def group_data(nonce: bytes) -> bytes:
    """Return the caller's data of GROUP_QUOTE's quote."""
    return _sha1(b"SHOW" + nonce)


def recovery_external_data(nonce: bytes, own: bytes) -> bytes:
    """Return the external data of GROUP_RECOVER1's quote."""
    return _sha1(b"RCVR" + nonce + own)


def identification(
    group: UUID,
    saa_modulus: bytes,
    config_list: ConfigList,
    *,
    vtpm: tuple[UUID, bytes] | None = None,
) -> Identification:
    """Return what PCRs 20-23 are to hold for a group.

    Args:
        vtpm: uuid and kern_hash of the vTPM that the quote is for; None if it is for the group.
    """
    found: dict[int, Sequence[bytes]] = {
        20: (_sha1(saa_modulus),),
        21: (_sha1(config_list.encode()),),
        22: (),
        23: (group.bytes + _PADDING,),
    }
    if vtpm is not None:
        uuid, kern_hash = vtpm
        found[22] = (kern_hash,)
        found[23] = (group.bytes + _PADDING, uuid.bytes + _PADDING)
    return found
