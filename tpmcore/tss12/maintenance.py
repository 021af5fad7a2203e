# SPDX-License-Identifier: Apache-2.0
"""Maintenance (Part 3, 12): all of a TPM to another one, by way of the manufacturer."""

from __future__ import annotations

from protocol.tpm12.constants import Ordinal
from protocol.tpm12.keys import Key, PubKey
from protocol.tpm12.records import record
from protocol.tpm12.wire import BOOL, SIZED, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation, execute, nothing
from tpmcore.tss12.sessions import with_secret


@record(repr=False)
class MaintenanceArchive:
    """A storage root key on its way.

    Attributes:
        random: what masks it; empty if that is made of the owner's secret.
        key: its encData is encrypted for the manufacturer.
    """

    random: bytes
    key: Key


def create_maintenance_archive(
    *, generate_random: bool, owner_auth: bytes, random: RandomSource
) -> Conversation[MaintenanceArchive]:
    """Give out what the TPM protects (12.1)."""

    def parse(reader: Reader) -> MaintenanceArchive:
        return MaintenanceArchive(reader.sized("random"), Key.decode(reader.sized("archive")))

    return with_secret(
        Ordinal.CREATE_MAINTENANCE_ARCHIVE,
        parse,
        owner_auth,
        random=random,
        parameters=BOOL.write(generate_random),
    )


def load_maintenance_archive(
    archive: bytes, signature: bytes, mask: bytes, *, owner_auth: bytes, random: RandomSource
) -> Conversation[None]:
    """Make of a TPM the one that the archive is of (12.2); the parameters are this vendor's.

    Args:
        archive: encoded key, its encData encrypted for the storage root key of now.
        signature: of the manufacturer over SHA-1 of the archive.
        mask: `random` of the archive; empty if it is made of this owner's secret.
    """
    return with_secret(
        Ordinal.LOAD_MAINTENANCE_ARCHIVE,
        nothing,
        owner_auth,
        random=random,
        parameters=SIZED.write(archive) + SIZED.write(signature) + SIZED.write(mask),
    )


def kill_maintenance_feature(*, owner_auth: bytes, random: RandomSource) -> Conversation[None]:
    """Forbid archives until there is another owner (12.3)."""
    return with_secret(Ordinal.KILL_MAINTENANCE_FEATURE, nothing, owner_auth, random=random)


def load_manu_maint_pub(key: PubKey, anti_replay: bytes) -> Conversation[bytes]:
    """Store the manufacturer's key; returns the checksum, 20 bytes (12.4)."""
    return execute(
        Ordinal.LOAD_MANU_MAINT_PUB,
        lambda reader: reader.take(20, "checksum"),
        parameters=anti_replay + key.encode(),
    )


def read_manu_maint_pub(anti_replay: bytes) -> Conversation[bytes]:
    """Return the checksum of the manufacturer's key, 20 bytes (12.5)."""
    return execute(
        Ordinal.READ_MANU_MAINT_PUB,
        lambda reader: reader.take(20, "checksum"),
        parameters=anti_replay,
    )
