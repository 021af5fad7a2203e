# SPDX-License-Identifier: Apache-2.0
"""PCRs and quotes (Part 3, 16)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Self

from protocol.errors import WireError
from protocol.tpm12.attestation import QuoteInfo, QuoteInfo2
from protocol.tpm12.constants import LOCALITY_ALL, Ordinal
from protocol.tpm12.pcr import PcrInfo, PcrInfoLong, PcrInfoShort, PcrSelection
from protocol.tpm12.records import record
from protocol.tpm12.wire import BOOL, DIGEST_BYTES, SIZED, U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation, Session, execute, nothing
from tpmcore.tss12.errors import ResponseError
from tpmcore.tss12.sessions import with_optional_secret


@record
class PcrComposite:
    """TPM_PCR_COMPOSITE (Part 2, 8.2): which PCRs, and their values in ascending order."""

    selection: PcrSelection
    values: tuple[bytes, ...]

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Take one; the values must be as many as the selection says."""
        selection = PcrSelection.read(reader)
        start = reader.position
        data = reader.sized("pcrValue")
        if len(data) != DIGEST_BYTES * len(selection.indices):
            raise WireError("pcrValue", start, f"{len(data)} bytes for {selection.indices}")
        return cls(
            selection,
            tuple(data[i : i + DIGEST_BYTES] for i in range(0, len(data), DIGEST_BYTES)),
        )

    @classmethod
    def of(cls, values: Mapping[int, bytes]) -> Self:
        """Make the composite of known values, with a three-byte selection."""
        return cls(PcrSelection.of(values), tuple(values[i] for i in sorted(values)))

    def encode(self) -> bytes:
        """Return the wire form."""
        return self.selection.encode() + SIZED.write(b"".join(self.values))

    def digest(self) -> bytes:
        """Return the composite hash; 20 zero bytes if nothing is selected."""
        if self.selection.is_empty:
            return bytes(DIGEST_BYTES)
        return hashlib.sha1(self.encode()).digest()


_ANY_CREATION_LOCALITY = 0x01
"""The TPM overwrites localityAtCreation, but refuses 0 there."""


def pcr_info(release: Mapping[int, bytes]) -> PcrInfo:
    """Describe PCR values that must hold at release, in the older form.

    Args:
        release: PCR index to wanted value, 20 bytes each.
    """
    composite = PcrComposite.of(release)
    return PcrInfo(composite.selection, composite.digest(), bytes(DIGEST_BYTES))


def pcr_info_long(release: Mapping[int, bytes], *, localities: int = LOCALITY_ALL) -> PcrInfoLong:
    """Describe PCR values and localities that must hold at release.

    Args:
        release: PCR index to wanted value, 20 bytes each; may be empty.
        localities: bit n admits locality n.
    """
    composite = PcrComposite.of(release)
    return release_info(composite.selection, composite.digest(), localities=localities)


def release_info(
    selection: PcrSelection, composite: bytes, *, localities: int = LOCALITY_ALL
) -> PcrInfoLong:
    """Describe what must hold at release where only the composite hash is known, 20 bytes."""
    return PcrInfoLong(
        _ANY_CREATION_LOCALITY,
        localities,
        selection,
        selection,
        bytes(DIGEST_BYTES),
        composite,
    )


def pcr_info_short(
    release: Mapping[int, bytes] | None = None, *, localities: int = LOCALITY_ALL
) -> PcrInfoShort:
    """Describe PCR values and localities that an NV area needs; the default is no restriction."""
    composite = PcrComposite.of(release or {})
    return PcrInfoShort(composite.selection, localities, composite.digest())


def extend(index: int, digest: bytes) -> Conversation[bytes]:
    """Fold a digest into a PCR and return its new value (16.1)."""
    return execute(Ordinal.EXTEND, _digest, parameters=U32.write(index) + digest)


def pcr_read(index: int) -> Conversation[bytes]:
    """Return the value of a PCR, 20 bytes (16.2)."""
    return execute(Ordinal.PCR_READ, _digest, parameters=U32.write(index))


def pcr_reset(indices: Iterable[int]) -> Conversation[None]:
    """Reset PCRs that can be reset from this locality (16.5)."""
    return execute(Ordinal.PCR_RESET, nothing, parameters=PcrSelection.of(indices).encode())


def _digest(reader: Reader) -> bytes:
    return reader.take(DIGEST_BYTES, "digest")


@record
class Quote:
    """Answer of TPM_Quote.

    Attributes:
        signed: digest that the signature is over, computed here from composite and nonce.
    """

    composite: PcrComposite
    signature: bytes
    signed: bytes


def quote(
    key_handle: int,
    *,
    external_data: bytes,
    selection: PcrSelection,
    key_auth: bytes | None,
    random: RandomSource | None = None,
    session: Session | None = None,
) -> Conversation[Quote]:
    """Have a key sign PCR values (16.3).

    Args:
        external_data: nonce of who asks, 20 bytes.
        key_auth: None if the key needs none.
    """

    def parse(reader: Reader) -> Quote:
        composite = PcrComposite.read(reader)
        if composite.selection.indices != selection.indices:
            raise ResponseError(f"quote of PCRs {composite.selection.indices} was not asked for")
        info = QuoteInfo(b"QUOT", composite.digest(), external_data)
        return Quote(composite, reader.sized("sig"), hashlib.sha1(info.encode()).digest())

    return with_optional_secret(
        Ordinal.QUOTE,
        parse,
        key_auth,
        random=random,
        session=session,
        handles=U32.write(key_handle),
        parameters=external_data + selection.encode(),
    )


@record
class Quote2:
    """Answer of TPM_Quote2.

    Attributes:
        version_info: encoded TPM_CAP_VERSION_INFO, or empty.
        signed: digest that the signature is over.
    """

    info: PcrInfoShort
    version_info: bytes
    signature: bytes
    signed: bytes


def quote2(
    key_handle: int,
    *,
    external_data: bytes,
    selection: PcrSelection,
    key_auth: bytes | None,
    add_version: bool = False,
    random: RandomSource | None = None,
    session: Session | None = None,
) -> Conversation[Quote2]:
    """Have a key sign PCR values, locality and, if wanted, the TPM's version (16.4)."""

    def parse(reader: Reader) -> Quote2:
        info = PcrInfoShort.read(reader)
        version_info = reader.sized("versionInfo")
        signed = QuoteInfo2(external_data, info).encode() + version_info
        return Quote2(info, version_info, reader.sized("sig"), hashlib.sha1(signed).digest())

    return with_optional_secret(
        Ordinal.QUOTE2,
        parse,
        key_auth,
        random=random,
        session=session,
        handles=U32.write(key_handle),
        parameters=external_data + selection.encode() + BOOL.write(add_version),
    )
