# SPDX-License-Identifier: Apache-2.0
"""What the maker of a TPM does before anybody has it: endorsement key, certificates in NV, owner,
and the lock of the NV memory.

Each step looks first at what is there, so that a run that was interrupted is simply repeated; the
steps are in such an order that none takes away what a later one needs. What is there and is not
what was wanted is an error, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from daemons.runtime.errors import DaemonError
from daemons.runtime.secret import Secret
from daemons.vtpmctl.tpmstream import GuestTpm, TpmRefused
from protocol.attestation.certificates import BadCertificate, public_key
from protocol.errors import WireError
from protocol.tpm12.constants import NvAttributes, ReservedHandle, ReturnCode
from protocol.tpm12.keys import PubKey
from protocol.tpm12.storedcert import (
    EK_CERT_INDEX,
    PLATFORM_CERT_INDEX,
    decode_stored_cert,
    encode_stored_cert,
)
from tpmcore import tss12
from tpmcore.engine import RandomSource

_CHUNK_BYTES: Final = 1024
_CERT_LIMIT_BYTES: Final = 8192
_PERMISSION: Final = NvAttributes.OWNERREAD | NvAttributes.OWNERWRITE
_BLANK: Final = 0xFF
"""What an area holds that was defined and never written."""

Certify = Callable[[PubKey], x509.Certificate]
"""Gives the certificate for an endorsement key."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is wanted.

    Attributes:
        ek_cert: gives the endorsement key's certificate; None: none is wanted.
        platform_cert: gives the platform's; likewise.
        takes_ownership: whether there is to be an owner.
        owner_auth: the owner's secret, of the one that there is or that is to be.
        srk_auth: of the storage root key, for a new owner.
        locks: whether NV permissions are enforced from then on.
        overwrites: whether certificates of other keys are replaced.
    """

    ek_cert: Certify | None
    platform_cert: Certify | None
    takes_ownership: bool
    owner_auth: Secret
    srk_auth: Secret
    locks: bool
    overwrites: bool = False


@dataclass(slots=True)
class Result:
    """What came of it.

    Attributes:
        ek: the endorsement key.
        done: what was done, in order.
        kept: what was there already.
    """

    ek: PubKey
    done: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def note(self, is_new: bool, what: str) -> None:
        """Say of a step whether there was anything to do."""
        (self.done if is_new else self.kept).append(what)


async def manufacture(tpm: GuestTpm, plan: Plan, random: RandomSource) -> Result:
    """Bring a TPM to what a plan wants.

    Raises:
        DaemonError: it refuses, or what is there is in the way.
    """
    work = _Work(tpm, plan, random)
    return await work.run()


class _Work:
    """One run."""

    def __init__(self, tpm: GuestTpm, plan: Plan, random: RandomSource) -> None:
        self._tpm = tpm
        self._plan = plan
        self._random = random
        self._is_owned = False
        self._is_locked = False

    async def run(self) -> Result:
        """Do all steps."""
        tpm, plan = self._tpm, self._plan
        self._is_owned = await tpm.run("tell whether it has an owner", tss12.is_owned())
        flags = await tpm.run("tell its flags", tss12.permanent_flags())
        self._is_locked = flags.nv_locked
        if flags.disable or flags.deactivated:
            raise DaemonError(
                "the TPM is disabled or deactivated: its owner, or somebody with physical "
                "presence, must enable it"
            )
        ek, is_new = await self._endorsement_key()
        result = Result(ek)
        result.note(is_new, "endorsement key")
        for certify, index, what in (
            (plan.ek_cert, EK_CERT_INDEX, "EK certificate"),
            (plan.platform_cert, PLATFORM_CERT_INDEX, "platform certificate"),
        ):
            if certify is not None:
                is_new = await self._certificate(index, what, ek, certify)
                result.note(is_new, f"{what} at {index:#010x}")
        if plan.takes_ownership:
            result.note(await self._ownership(ek), "owner")
        if plan.locks:
            if not self._is_locked:
                await tpm.run("lock its NV memory", tss12.nv_lock())
            result.note(not self._is_locked, "lock of the NV memory")
        return result

    async def _endorsement_key(self) -> tuple[PubKey, bool]:
        """Return the key, and whether it was made."""
        try:
            ek = await self._tpm.run(
                "tell its endorsement key", tss12.read_pubek(random=self._random)
            )
            return ek, False
        except TpmRefused as error:
            if error.code == ReturnCode.NO_ENDORSEMENT:
                made = await self._tpm.run(
                    "make an endorsement key",
                    tss12.create_endorsement_key_pair(random=self._random),
                )
                return made, True
            if error.code != ReturnCode.DISABLED_CMD:
                raise
        return await self._ask_owner(), False

    async def _ask_owner(self) -> PubKey:
        """Return the endorsement key, which only the owner is told.

        Raises:
            DaemonError: the secret is not the owner's.
        """
        try:
            return await self._tpm.run(
                "tell its endorsement key",
                tss12.owner_read_internal_pub(
                    ReservedHandle.EK, owner_auth=self._plan.owner_auth, random=self._random
                ),
            )
        except TpmRefused as error:
            if error.code == ReturnCode.AUTHFAIL:
                raise DaemonError(
                    "the TPM has an owner already, with another secret than --owner-auth"
                ) from error
            raise

    async def _certificate(self, index: int, what: str, ek: PubKey, certify: Certify) -> bool:
        """See to a certificate in its NV area; whether it was written."""
        found = await self._read(index, what)
        if found is not None:
            problem = _problem(found, ek)
            if not problem:
                return False
            is_blank = all(byte == _BLANK for byte in found)
            if not is_blank and not self._plan.overwrites:
                raise DaemonError(
                    f"the NV area {index:#010x} has no {what} of this TPM ({problem}); "
                    "--overwrite replaces it"
                )
        if self._is_locked:
            raise DaemonError(
                f"the NV memory is locked: {index:#010x} cannot be made any more. The {what} must "
                "come before the lock, which a new TPM has already unless nvlock = false in its "
                "guest's file"
            )
        data = encode_stored_cert(certify(ek).public_bytes(Encoding.DER))
        if len(data) > _CERT_LIMIT_BYTES:
            raise DaemonError(f"the {what} is too long: {len(data)} bytes")
        if found is not None:
            await self._tpm.run(f"remove the old {what}", tss12.nv_delete_space(index))
        await self._tpm.run(
            f"make room for the {what}", tss12.nv_define_space(index, len(data), _PERMISSION)
        )
        for offset in range(0, len(data), _CHUNK_BYTES):
            chunk = data[offset : offset + _CHUNK_BYTES]
            await self._tpm.run(
                f"store the {what}", tss12.nv_write_value(index, chunk, offset=offset)
            )
        return True

    async def _read(self, index: int, what: str) -> bytes | None:
        """Return what is in an NV area; None if there is none."""
        if index not in await self._tpm.run("tell its NV areas", tss12.nv_list()):
            return None
        public = await self._tpm.run("describe an NV area", tss12.nv_public(index))
        size = min(public.data_size, _CERT_LIMIT_BYTES)
        auth = self._plan.owner_auth if self._is_owned and self._is_locked else None
        data = b""
        while len(data) < size:
            data += await self._tpm.run(
                f"read the {what}",
                tss12.nv_read_value(
                    index,
                    min(_CHUNK_BYTES, size - len(data)),
                    offset=len(data),
                    owner_auth=auth,
                    random=self._random,
                ),
            )
        return data

    async def _ownership(self, ek: PubKey) -> bool:
        """See to an owner with the plan's secret; whether it was installed."""
        if self._is_owned:
            await self._ask_owner()
            return False
        await self._tpm.run(
            "take an owner",
            tss12.take_ownership(
                owner_auth=self._plan.owner_auth,
                srk_auth=self._plan.srk_auth,
                random=self._random,
                pubek=ek,
            ),
        )
        return True


def _problem(area: bytes, ek: PubKey) -> str:
    """Say why an area has no certificate of an endorsement key; "" if it has one."""
    try:
        # Its key, and no more: what swtpm_localca writes for a platform has extensions that are
        # not well formed.
        certificate = x509.load_der_x509_certificate(decode_stored_cert(area))
        is_same = certificate.public_key() == public_key(ek)
    except (WireError, BadCertificate, ValueError, TypeError, UnsupportedAlgorithm) as error:
        return str(error)
    return "" if is_same else "it is of another key"


def summary(result: Result) -> Sequence[str]:
    """Return lines for the operator."""
    return [
        *[f"made: {what}" for what in result.done],
        *[f"there already: {what}" for what in result.kept],
    ]
