# SPDX-License-Identifier: Apache-2.0
"""Certification of keys (Part 3, 13.8 and 13.9): one key signs what another one is."""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Final

from protocol.tpm12.attestation import CertifyInfo, CertifyInfo2
from protocol.tpm12.constants import (
    LOCALITY_ALL,
    AuthDataUsage,
    KeyFlags,
    KeyUsage,
    Ordinal,
    PayloadType,
    ReservedHandle,
    ReturnCode,
    SigScheme,
)
from protocol.tpm12.migration import CmkMigAuth
from protocol.tpm12.pcr import PcrInfo, PcrInfoShort
from protocol.tpm12.records import record
from protocol.tpm12.wire import DIGEST, SIZED, U32, Structure
from tpmcore.errors import TpmError
from tpmcore.tpm12.command import AUTH_ANY, Command, Gate
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.primitives import hmac_sha1
from tpmcore.tpm12.state import ZERO_DIGEST, KeyBody

_CERTIFYING_SCHEMES: Final = frozenset(
    {SigScheme.RSASSAPKCS1V15_SHA1, SigScheme.RSASSAPKCS1V15_INFO}
)
_CERTIFYING_USAGES: Final = frozenset({KeyUsage.SIGNING, KeyUsage.IDENTITY, KeyUsage.LEGACY})
_CERTIFIED_USAGES: Final = _CERTIFYING_USAGES | {KeyUsage.STORAGE, KeyUsage.BIND}
_RESTRICTED_PAYLOADS: Final = frozenset(
    {PayloadType.MIGRATE_RESTRICTED, PayloadType.MIGRATE_EXTERNAL}
)
_OLD_PCRS: Final = 16
"""Number of PCRs that TPM 1.1 had; what concerns others needs the newer structure."""


@record
class CertifyKeyRequest(Structure):
    """certHandle u32, keyHandle u32, antiReplay 20."""

    cert_handle: Annotated[int, U32]
    key_handle: Annotated[int, U32]
    anti_replay: Annotated[bytes, DIGEST]


@record
class CertifyKeyResponse(Structure):
    """certifyInfo TPM_CERTIFY_INFO, outData sized."""

    certify_info: CertifyInfo
    out_data: Annotated[bytes, SIZED]


@record
class CertifyKey2Response(Structure):
    """certifyInfo TPM_CERTIFY_INFO2, outData sized."""

    certify_info: CertifyInfo2
    out_data: Annotated[bytes, SIZED]


def certify_key(
    ctx: Context, request: CertifyKeyRequest
) -> CertifyKeyResponse | CertifyKey2Response:
    """Sign the description of a key that cannot migrate (13.8)."""
    cert = ctx.key(request.cert_handle)
    key = ctx.key(request.key_handle, reads_public=True)
    _check_scheme(cert)
    both = ctx.auth_count == 2
    ctx.authorize_key_if_present(0, cert, present=both)
    _authorize_certified(ctx, int(both), key, present=ctx.auth_count > 0)
    if key.payload != PayloadType.ASYM:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    if cert.public.key_usage == KeyUsage.IDENTITY and key.is_migratable:
        raise TpmError(ReturnCode.MIGRATEFAIL)
    _check_usages(cert, key)
    inherits_pcrs = _inherits_pcrs(ctx, request.key_handle)
    release = key.release
    if release is not None and _needs_info2(release):
        info2 = _certify_info2(key, request.anti_replay, inherits_pcrs=inherits_pcrs)
        return CertifyKey2Response(info2, _signature(cert, info2))
    pcr_info = b""
    if release is not None:
        # digestAtCreation is not told (13.8, 9).
        pcr_info = PcrInfo(release.pcr_selection, release.digest_at_release, ZERO_DIGEST).encode()
    public = key.public
    info = CertifyInfo(
        public.key_usage,
        public.key_flags,
        public.auth_data_usage,
        public.algorithm_parms,
        hashlib.sha1(public.pub_key).digest(),
        request.anti_replay,
        inherits_pcrs,
        pcr_info,
    )
    return CertifyKeyResponse(info, _signature(cert, info))


@record
class CertifyKey2Request(Structure):
    """keyHandle u32, certHandle u32, migrationPubDigest 20, antiReplay 20."""

    key_handle: Annotated[int, U32]
    cert_handle: Annotated[int, U32]
    migration_pub_digest: Annotated[bytes, DIGEST]
    anti_replay: Annotated[bytes, DIGEST]


def certify_key2(ctx: Context, request: CertifyKey2Request) -> CertifyKey2Response:
    """Sign the description of a key, also of one whose migration an authority controls (13.9)."""
    key = ctx.key(request.key_handle, reads_public=True)
    cert = ctx.key(request.cert_handle)
    _check_scheme(cert)
    both = ctx.auth_count == 2
    _authorize_certified(ctx, 0, key, present=both)
    ctx.authorize_key_if_present(int(both), cert, present=ctx.auth_count > 0)
    is_restricted = key.payload in _RESTRICTED_PAYLOADS
    if cert.public.key_usage == KeyUsage.IDENTITY and key.is_migratable:
        controlled = key.public.key_flags & KeyFlags.MIGRATE_AUTHORITY and is_restricted
        if not controlled:
            raise TpmError(ReturnCode.MIGRATEFAIL)
    _check_usages(cert, key)
    authority = b""
    if is_restricted:
        authority = _migration_authority(ctx, key, request.migration_pub_digest)
    inherits_pcrs = _inherits_pcrs(ctx, request.key_handle)
    info = _certify_info2(
        key, request.anti_replay, inherits_pcrs=inherits_pcrs, authority=authority
    )
    return CertifyKey2Response(info, _signature(cert, info))


def _check_scheme(cert: KeyBody) -> None:
    if cert.public.algorithm_parms.sig_scheme not in _CERTIFYING_SCHEMES:
        raise TpmError(ReturnCode.BAD_KEY_PROPERTY)


def _authorize_certified(ctx: Context, index: int, key: KeyBody, *, present: bool) -> None:
    """Authorize the use of the key that is certified, of which only the public part is read."""
    if present:
        ctx.authorize_key(index, key)
    elif key.public.auth_data_usage == AuthDataUsage.ALWAYS:
        raise TpmError(ReturnCode.AUTHFAIL)


def _check_usages(cert: KeyBody, key: KeyBody) -> None:
    if (
        cert.public.key_usage not in _CERTIFYING_USAGES
        or key.public.key_usage not in _CERTIFIED_USAGES
    ):
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)


def _inherits_pcrs(ctx: Context, handle: int) -> bool:
    """Return parentPCRStatus of a key: of its ancestors, not of itself."""
    return handle != ReservedHandle.SRK and ctx.find_loaded(handle).parent_pcr_status


def _needs_info2(release: PcrInfoShort) -> bool:
    """Whether a release condition says more than a TPM_CERTIFY_INFO can (13.8, 8)."""
    return release.locality_at_release != LOCALITY_ALL or any(
        index >= _OLD_PCRS for index in release.pcr_selection.indices
    )


def _certify_info2(
    key: KeyBody, anti_replay: bytes, *, inherits_pcrs: bool, authority: bytes = b""
) -> CertifyInfo2:
    public, release = key.public, key.release
    return CertifyInfo2(
        key.payload,
        public.key_usage,
        public.key_flags,
        public.auth_data_usage,
        public.algorithm_parms,
        hashlib.sha1(public.pub_key).digest(),
        anti_replay,
        inherits_pcrs,
        b"" if release is None else release.encode(),
        authority,
    )


def _migration_authority(ctx: Context, key: KeyBody, migration_pub_digest: bytes) -> bytes:
    """Check who may allow the key to migrate, and return migrationAuthority.

    Raises:
        TpmError: MA_SOURCE if it is not the one that the caller names.
    """
    migration = CmkMigAuth(migration_pub_digest, key.public.public_key_digest()).encode()
    expected = hmac_sha1(ctx.tpm.permanent.tpm_proof, migration)
    if not hmac.compare_digest(expected, key.migration_auth):
        raise TpmError(ReturnCode.MA_SOURCE)
    return hashlib.sha1(migration_pub_digest + bytes([key.payload])).digest()


def _signature(cert: KeyBody, info: CertifyInfo | CertifyInfo2) -> bytes:
    return cert.private.sign_sha1_digest(hashlib.sha1(info.encode()).digest())


COMMANDS: Final = (
    Command(
        Ordinal.CERTIFY_KEY,
        source="3:13.8",
        auth_blocks=AUTH_ANY,
        gate=Gate.OPERATIONAL,
        request=CertifyKeyRequest,
        response=CertifyKeyResponse,
        handler=certify_key,
        handles_in=8,
        volatile=False,
        key_bit=12,
    ),
    Command(
        Ordinal.CERTIFY_KEY2,
        source="3:13.9",
        auth_blocks=AUTH_ANY,
        gate=Gate.OPERATIONAL,
        request=CertifyKey2Request,
        response=CertifyKey2Response,
        handler=certify_key2,
        handles_in=8,
        volatile=False,
        key_bit=13,
    ),
)
