# SPDX-License-Identifier: Apache-2.0
"""A TPM 1.2 as the manager's hardware: its operations as conversations over the tpm_tis driver.

Sessions are opened for one operation each, except the one of an NV area (`tpm12area`).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from daemons.runtime.log import Log
from daemons.runtime.random import OsRandom
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.hardware import (
    BindingKey,
    HardwareLost,
    KeyCertificate,
    NewIdentity,
    NvArea,
    SignedQuote,
)
from daemons.vtpmmgr.sealing import PcrValues
from daemons.vtpmmgr.tpm12area import Tpm12Area
from daemons.vtpmmgr.tpm12chip import Tpm12Chip, Transport, Turn
from daemons.vtpmmgr.turns import OWN
from protocol.errors import WireError
from protocol.manager.passthrough import IDENTIFYING_PCRS
from protocol.manager.quotes import Identification
from protocol.tpm12 import Ordinal, ReturnCode
from protocol.tpm12.constants import (
    EncScheme,
    KeyUsage,
    NvAttributes,
    ReservedHandle,
    ResourceType,
    SigScheme,
)
from protocol.tpm12.keys import Key, PubKey
from protocol.tpm12.pcr import PcrSelection, release_of
from protocol.tpm12.stored import StoredData
from protocol.tpm12.wire import DIGEST_BYTES
from tpmcore import tss12
from tpmcore.engine import RandomSource
from tpmcore.errors import TpmError

_COUNTER_LABEL: Final = b"vTPM"
_COUNTERS: Final = 16
"""Numbers among which a counter of ours is looked for; a chip must have four, libtpms has eight."""
_IDENTIFYING_LOCALITY: Final = 2
_FLUSH_S: Final = 10.0
"""How long unloading a key may take; it is not given up before, also when the daemon ends."""

# Who has the blob still needs the SRK's secret and the PCRs; Xen's manager does the same.
_BLOB_AUTH: Final = bytes(20)

_STALE_TYPES: Final = (
    ResourceType.KEY,
    ResourceType.AUTH,
    ResourceType.TRANS,
    ResourceType.COUNTER,
    ResourceType.DAA_TPM,
    ResourceType.CONTEXT,
)


class Tpm12Hardware:
    """The hardware TPM.

    Args:
        transport: to the chip.
        locality: that the transport uses.
        owner_auth: the owner's secret, given at taking ownership and used afterwards.
        srk_auth: likewise the storage root key's.
        random: for nonces.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        locality: int,
        owner_auth: Secret,
        srk_auth: Secret,
        random: RandomSource | None = None,
    ) -> None:
        self._chip = Tpm12Chip(transport)
        self._locality = locality
        self._owner_auth = owner_auth
        self._srk_auth = srk_auth
        self._random = random or OsRandom()

    @property
    def locality(self) -> int:
        """The locality at which the manager uses the chip."""
        return self._locality

    async def prepare(self, log: Log) -> None:
        """Look who is there and flush what a predecessor left loaded, as far as it can be.

        Raises:
            HardwareLost, TpmError: the chip does not even tell its version.
        """
        info = await self._chip.converse(tss12.version_info())
        log.info(
            "hardware TPM", version=info.version.hex("."), vendor=info.vendor_id.decode("latin-1")
        )
        for resource_type in _STALE_TYPES:
            with suppress(TpmError):
                for handle in await self._chip.converse(tss12.handles(resource_type)):
                    with suppress(TpmError):
                        await self._chip.converse(tss12.flush_specific(handle, resource_type))

    async def has_owner(self) -> bool:
        """Say whether somebody has taken ownership."""
        return await self._chip.converse(tss12.is_owned())

    async def take_ownership(self) -> None:
        """Take ownership with the configured secrets; make the endorsement key if need be."""
        try:
            pubek = await self._chip.converse(tss12.read_pubek(random=self._random))
        except TpmError as error:
            if error.code != ReturnCode.NO_ENDORSEMENT:
                raise
            pubek = await self._chip.converse(
                tss12.create_endorsement_key_pair(random=self._random)
            )
        await self._chip.converse(
            tss12.take_ownership(
                owner_auth=self._owner_auth,
                srk_auth=self._srk_auth,
                random=self._random,
                pubek=pubek,
            )
        )

    async def ek_digest(self) -> bytes:
        """Return SHA-256 of the modulus of the endorsement key."""
        return hashlib.sha256((await self._pubek()).key).digest()

    async def _pubek(self) -> PubKey:
        return await self._chip.converse(
            tss12.owner_read_internal_pub(
                ReservedHandle.EK, owner_auth=self._owner_auth, random=self._random
            )
        )

    async def read_pcrs(self, indices: Sequence[int]) -> PcrValues:
        """Return the values of PCRs, ascending."""
        return tuple(
            [(index, await self._chip.converse(tss12.pcr_read(index))) for index in sorted(indices)]
        )

    async def seal(self, secret: bytes, selection: PcrSelection, composite: bytes) -> bytes:
        """Return a TPM_STORED_DATA12 bound to this composite hash and to our locality.

        With TPM_Sealx where the chip has it: the secret then is encrypted on its way.
        """
        encrypted = await self._chip.converse(tss12.is_implemented(Ordinal.SEALX))
        operation = tss12.sealx if encrypted else tss12.seal
        blob = await self._chip.converse(
            operation(
                ReservedHandle.SRK,
                parent_auth=self._srk_auth,
                blob_auth=_BLOB_AUTH,
                data=secret,
                pcr_info=tss12.release_info(selection, composite, localities=1 << self._locality),
                random=self._random,
            )
        )
        return blob.encode()

    def sealed_to(self, blob: bytes) -> tuple[PcrSelection, bytes]:
        """Return the selection and composite hash that a blob names, not verified."""
        try:
            stored = StoredData.decode(blob)
        except WireError as error:
            raise TpmError(ReturnCode.NOTSEALED_BLOB) from error
        if stored.seal_info is None:
            return PcrSelection(), bytes(DIGEST_BYTES)
        release = release_of(stored.seal_info)
        return release.pcr_selection, release.digest_at_release

    async def unseal(self, blob: bytes) -> Secret:
        """Return what is in a sealed blob; a blob that does not parse is NOTSEALED_BLOB."""
        try:
            stored = StoredData.decode(blob)
        except WireError as error:
            raise TpmError(ReturnCode.NOTSEALED_BLOB) from error
        data = await self._chip.converse(
            tss12.unseal(
                ReservedHandle.SRK,
                stored,
                parent_auth=self._srk_auth,
                blob_auth=_BLOB_AUTH,
                random=self._random,
            )
        )
        return Secret(data)

    async def read_pubek(self) -> bytes:
        """Return the public endorsement key; the owner's secret reads it."""
        return (await self._pubek()).encode()

    async def make_identity(self, label_digest: bytes, auth: Secret) -> NewIdentity:
        """Make an RSA-2048 identity key (TPM_KEY 1.1) below the SRK."""
        made = await self._chip.converse(
            tss12.make_identity(
                owner_auth=self._owner_auth,
                srk_auth=self._srk_auth,
                identity_auth=auth,
                label_digest=label_digest,
                random=self._random,
            )
        )
        return NewIdentity(made.key.encode(), made.key.public_key.key, made.binding)

    async def activate_identity(
        self,
        key: bytes,
        auth: Secret,
        blob: bytes,
        *,
        identification: Identification | None = None,
    ) -> bytes:
        """Return the TPM_SYMMETRIC_KEY that a Privacy CA encrypted for this identity and chip."""
        async with self._chip.hold() as turn, self._loaded(turn, key) as handle:
            await self._identify(turn, identification)
            conversation = tss12.activate_identity(
                handle,
                blob,
                owner_auth=self._owner_auth,
                identity_auth=auth,
                random=self._random,
            )
            return (await turn.converse(conversation)).encode()

    async def quote(
        self,
        key: bytes,
        auth: Secret,
        *,
        external_data: bytes,
        selection: PcrSelection,
        identification: Identification | None = None,
        source: Hashable | None = None,
    ) -> SignedQuote:
        """Have an identity key sign PCRs; nobody else's command comes in between.

        At another locality than 2 PCRs 20-23 are not ours to set, and are not quoted (BAD_LOCALITY)
        as if they identified anybody.
        """
        wanted = selection.indices if identification is not None else ()
        if self._locality != _IDENTIFYING_LOCALITY and any(i in IDENTIFYING_PCRS for i in wanted):
            raise TpmError(ReturnCode.BAD_LOCALITY)
        held = self._chip.hold(OWN if source is None else source)
        async with held as turn, self._loaded(turn, key) as handle:
            await self._identify(turn, identification)
            quoted = await turn.converse(
                tss12.quote(
                    handle,
                    external_data=external_data,
                    selection=selection,
                    key_auth=auth,
                    random=self._random,
                ),
            )
        values = zip(selection.indices, quoted.composite.values, strict=True)
        return SignedQuote(quoted.signature, tuple(values))

    def identity_modulus(self, key: bytes) -> bytes:
        """Return the modulus of an identity key, 256 bytes."""
        return Key.decode(key).pub_key

    async def make_binding_key(
        self, auth: Secret, selection: PcrSelection, composite: bytes
    ) -> BindingKey:
        """Make an RSA-2048 binding key (TPM_KEY12) below the SRK, not migratable."""
        wanted = tss12.release_info(selection, composite, localities=1 << self._locality)
        made = await self._chip.converse(
            tss12.create_wrap_key(
                ReservedHandle.SRK,
                Key.template(
                    KeyUsage.BIND,
                    enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1,
                    sig_scheme=SigScheme.NONE,
                    pcr_info=wanted,
                    is_key12=True,
                ),
                parent_auth=self._srk_auth,
                usage_auth=auth,
                random=self._random,
            )
        )
        return BindingKey(made.encode(), made.public_key.encode())

    async def certify(
        self, key: BindingKey, auth: Secret, *, by: bytes, by_auth: Secret, nonce: bytes
    ) -> KeyCertificate:
        """Have an identity key certify a binding key."""
        async with (
            self._chip.hold() as turn,
            self._loaded(turn, by) as signer,
            self._loaded(turn, key.key) as handle,
        ):
            conversation = tss12.certify_key(
                signer,
                handle,
                cert_auth=by_auth,
                key_auth=auth,
                anti_replay=nonce,
                random=self._random,
            )
            certified = await turn.converse(conversation)
        return KeyCertificate(certified.info.encode(), certified.signature)

    async def unbind(self, key: bytes, auth: Secret, data: bytes) -> Secret:
        """Return what was encrypted with the public part of a binding key."""
        async with self._chip.hold() as turn, self._loaded(turn, key) as handle:
            conversation = tss12.unbind(handle, data, key_auth=auth, random=self._random)
            return Secret(await turn.converse(conversation))

    async def _identify(self, turn: Turn, identification: Identification | None) -> None:
        """Set PCRs 20-23, which only locality 2 may."""
        if identification is None or self._locality != _IDENTIFYING_LOCALITY:
            return
        await turn.converse(tss12.pcr_reset(identification))
        for index, digests in identification.items():
            for digest in digests:
                await turn.converse(tss12.extend(index, digest))

    @asynccontextmanager
    async def _loaded(self, turn: Turn, key: bytes) -> AsyncIterator[int]:
        """Have a key loaded; it is flushed again whatever happens, for chips have few places."""
        conversation = tss12.load_key2(
            ReservedHandle.SRK,
            Key.decode(key),
            parent_auth=self._srk_auth,
            random=self._random,
        )
        handle = await turn.converse(conversation)
        try:
            yield handle
        finally:
            with trio.CancelScope(shield=True), suppress(TpmError, HardwareLost):
                with trio.move_on_after(_FLUSH_S):
                    await turn.converse(tss12.flush_specific(handle, ResourceType.KEY))

    async def nv_area_size(self, index: int) -> int | None:
        """Return the size in bytes of an NV area, None if there is none with this index."""
        if index not in await self._chip.converse(tss12.nv_list()):
            return None
        public = await self._chip.converse(tss12.nv_public(index))
        return public.data_size

    async def nv_define(self, index: int, size_bytes: int, auth: Secret) -> None:
        """Make an NV area that its own authorization value opens, for reading and writing.

        A chip whose NV permissions are not enforced yet (nvLocked) is locked first: on such a chip
        anybody could write the area.
        """
        flags = await self._chip.converse(tss12.permanent_flags())
        if not flags.nv_locked:
            await self._chip.converse(tss12.nv_lock())
        await self._chip.converse(
            tss12.nv_define_space(
                index,
                size_bytes,
                NvAttributes.AUTHREAD | NvAttributes.AUTHWRITE,
                owner_auth=self._owner_auth,
                area_auth=auth,
                random=self._random,
            )
        )

    async def nv_delete(self, index: int) -> None:
        """Remove an NV area."""
        await self._chip.converse(
            tss12.nv_delete_space(index, owner_auth=self._owner_auth, random=self._random)
        )

    async def nv_read(self, index: int, offset: int, size_bytes: int, auth: Secret) -> bytes:
        """Return part of an NV area."""
        return await self._chip.converse(
            tss12.nv_read_value_auth(
                index, size_bytes, offset=offset, area_auth=auth, random=self._random
            )
        )

    async def nv_write(self, index: int, offset: int, data: bytes, auth: Secret) -> None:
        """Replace part of an NV area."""
        await self._chip.converse(
            tss12.nv_write_value_auth(
                index, data, offset=offset, area_auth=auth, random=self._random
            )
        )

    def nv_area(self, index: int, size_bytes: int, auth: Secret) -> NvArea:
        """Return access to an NV area; nothing is sent yet."""
        return Tpm12Area(self._chip, index, size_bytes, auth, self._random)

    async def create_counter(self, auth: Secret) -> tuple[int, int]:
        """Make a monotonic counter with a secret of its own; gives its number and value.

        A crash may have left one of which nobody knows the secret; its label tells it.
        """
        for count_id in range(_COUNTERS):
            with suppress(TpmError):
                left = await self._chip.converse(tss12.read_counter(count_id))
                if left.label == _COUNTER_LABEL:
                    await self._chip.converse(
                        tss12.release_counter_owner(
                            count_id, owner_auth=self._owner_auth, random=self._random
                        )
                    )
        made = await self._chip.converse(
            tss12.create_counter(
                owner_auth=self._owner_auth,
                counter_auth=auth,
                label=_COUNTER_LABEL,
                random=self._random,
            )
        )
        return made.count_id, made.value.counter

    async def read_counter(self, count_id: int) -> int | None:
        """Return the value of a counter, None if there is none with this number."""
        try:
            return (await self._chip.converse(tss12.read_counter(count_id))).counter
        except TpmError as error:
            if error.code != ReturnCode.BAD_COUNTER:
                raise
            return None

    async def increment_counter(self, count_id: int, auth: Secret) -> None:
        """Add one."""
        await self._chip.converse(
            tss12.increment_counter(count_id, counter_auth=auth, random=self._random)
        )

    async def active_counter(self) -> int | None:
        """Return the counter that was incremented since the chip's start; None if none was yet."""
        return await self._chip.converse(tss12.active_counter())

    async def release_counter(self, count_id: int, auth: Secret) -> None:
        """Give a counter back."""
        await self._chip.converse(
            tss12.release_counter(count_id, counter_auth=auth, random=self._random)
        )

    @property
    def answers(self) -> bool:
        """Whether the chip answered the last command."""
        return self._chip.answers

    async def probe(self) -> None:
        """Return if the chip tells its version."""
        await self._chip.converse(tss12.version_info())

    async def wait_reachable(self) -> None:
        """Return once the chip answers; at once if it answered last time."""
        if not self.answers:
            await self.probe()

    async def pass_through(self, command: bytes, source: Hashable) -> bytes:
        """Have the chip execute a client's command, in that client's turn."""
        return await self._chip.pass_through(command, source)

    def withdraw(self, source: Hashable) -> None:
        """Give up a client's command that still waits for its turn."""
        self._chip.withdraw(source)
