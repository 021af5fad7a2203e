# SPDX-License-Identifier: Apache-2.0
"""Getting the manager's secrets out of the hardware TPM's seals, or saying why they stay in.

The database is not verified yet when this begins: what it says of itself only chooses which blob
the chip is asked to open, and words refusals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

import trio

from daemons.runtime.errors import RefusedToStart
from daemons.runtime.log import Log
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.envelope import NotAuthentic
from daemons.vtpmmgr.hardware import PASSING, Hardware
from daemons.vtpmmgr.keyring import unwrap_recovery
from daemons.vtpmmgr.ledger import Ledger
from daemons.vtpmmgr.records import (
    PCR_COUNT,
    GroupRecord,
    ManagerRecord,
    PolicyRecord,
    SealRecord,
)
from daemons.vtpmmgr.sealing import (
    NotAGroupSecret,
    NotARootSecret,
    PcrValues,
    RootSecret,
    composite_of,
    decode_group_secret,
    differing_pcrs,
    explain_pcrs,
)
from protocol.tpm12 import ReturnCode
from protocol.tpm12.pcr import PcrSelection
from tpmcore.errors import TpmError


@dataclass(frozen=True, slots=True)
class Unverified:
    """What a database says while there is no key yet to verify it with.

    Attributes:
        manager: whose database it is.
        root_seals: of the root secret, at least one.
        groups: by number.
        policies: by group.
    """

    manager: ManagerRecord
    root_seals: tuple[SealRecord, ...]
    groups: Mapping[int, GroupRecord]
    policies: Mapping[UUID, PolicyRecord]


class NotApproved(RefusedToStart):
    """The platform is in no configuration that group 0's agent approved; the agent may help."""

    def __init__(self, reason: str, unverified: Unverified) -> None:
        super().__init__(reason)
        self.unverified = unverified


def recover_root(path: Path, found: Unverified, key: Secret) -> RootSecret:
    """Return the root secret that the key of group 0 opens; RefusedToStart if it does not."""
    group = found.groups.get(0)
    policy = None if group is None else found.policies.get(group.uuid)
    if policy is None:
        raise RefusedToStart(f"database {path}: group 0 has no agent who could recover it")
    try:
        return RootSecret.decode(unwrap_recovery(found.manager.uuid, policy, key))
    except (NotAuthentic, NotARootSecret) as error:
        raise RefusedToStart(f"database {path}: not the key of group 0: {error}") from error


async def unseal_root(path: Path, found: Unverified, hardware: Hardware) -> RootSecret:
    """Return the root secret.

    Raises:
        NotApproved: PCRs differ from those of every seal, and group 0 has an agent.
        RefusedToStart: it does not come out for that or another reason.
        TpmError: the chip is busy.
        HardwareLost: no answer.
    """
    manager = found.manager
    if not await hardware.has_owner():
        raise RefusedToStart(
            f"database {path} belongs to the hardware TPM with endorsement key "
            f"{_short(manager.ek_digest)}; this one has no owner: it is another, or was cleared"
        )
    seals = found.root_seals
    fitting, others, now = await _sort_seals(seals, hardware)
    refusals: list[tuple[SealRecord, TpmError]] = []
    # those first that name the present configuration; one other only so that the chip itself says
    # no, for there may be many
    for seal in (*fitting, *others[:1]):
        try:
            return RootSecret.decode(await hardware.unseal(seal.blob))
        except NotARootSecret as error:
            raise RefusedToStart(f"database {path}: the sealed root secret: {error}") from error
        except TpmError as error:
            if error.code in PASSING:
                raise  # says nothing of the seal: to be tried again, and not a refusal
            refusals.append((seal, error))
    reason = await _why_not_unsealed(manager, refusals, hardware)
    if not reason and (differences := "" if fitting else explain_pcrs(seals, now)):
        text = f"database {path}: the root secret does not unseal: {differences}"
        group = found.groups.get(0)
        if group is not None and group.uuid in found.policies:
            raise NotApproved(text, found)
        raise RefusedToStart(text)
    if not reason:
        answer = refusals[0][1]
        reason = f"the chip answers {answer}: the seal was changed, or --srk-auth is wrong"
    raise RefusedToStart(f"database {path}: the root secret does not unseal: {reason}")


async def _sort_seals(
    seals: Sequence[SealRecord], hardware: Hardware
) -> tuple[list[SealRecord], list[SealRecord], PcrValues]:
    """Return the seals that name the present configuration, the others, and the PCRs of now.

    The others come with those first that differ in the fewest PCRs.
    """
    named: list[tuple[SealRecord, PcrSelection, bytes]] = []
    damaged: list[SealRecord] = []
    for seal in seals:
        try:
            named.append((seal, *hardware.sealed_to(seal.blob)))
        except TpmError:
            damaged.append(seal)
    indices = {index for _, selection, _ in named for index in selection.indices}
    indices |= {index for seal in seals for index, _ in seal.pcr_values}
    now = tuple(await hardware.read_pcrs(sorted(indices)))
    fitting: list[SealRecord] = []
    others: list[SealRecord] = []
    for seal, selection, composite in named:
        fits = composite_of(selection, now) == composite and seal.locality == hardware.locality
        (fitting if fits else others).append(seal)
    others.sort(key=lambda seal: len(differing_pcrs(seal, now)) if seal.pcr_values else PCR_COUNT)
    return fitting, [*others, *damaged], now


async def open_groups(ledger: Ledger, hardware: Hardware, log: Log) -> None:
    """Unseal the secrets of the groups that have one; groups that stay closed are told of."""
    keys = ledger.keys
    for group in await trio.to_thread.run_sync(ledger.groups):
        if keys.is_open(group):
            continue
        seals = await trio.to_thread.run_sync(partial(ledger.seals_of, group.uuid))
        fitting, _others, now = await _sort_seals(seals, hardware)
        for seal in fitting:
            try:
                data = await hardware.unseal(seal.blob)
                keys.open_sealed(group, decode_group_secret(keys.manager, group.uuid, data))
                break
            except (NotAGroupSecret, NotAuthentic) as error:
                raise RefusedToStart(f"the seal of group {group.number}: {error}") from error
            except TpmError as error:
                if error.code in PASSING:
                    raise
                log.warning("seal of a group refused", group=group.number, reason=error)
        else:
            log.warning("group is closed", group=group.number, reason=explain_pcrs(seals, now))


async def _why_not_unsealed(
    manager: ManagerRecord, refusals: list[tuple[SealRecord, TpmError]], hardware: Hardware
) -> str:
    """Name a difference other than PCRs; empty if there is none to be seen."""
    try:
        ek_digest = await hardware.ek_digest()
    except TpmError as error:
        if error.code != ReturnCode.AUTHFAIL:
            raise
        return (
            "and the owner's secret is not --owner-auth, so this may be another hardware TPM "
            f"(the database's has endorsement key {_short(manager.ek_digest)})"
        )
    if ek_digest != manager.ek_digest:
        return (
            f"another hardware TPM: its endorsement key is {_short(ek_digest)}, "
            f"the database's is {_short(manager.ek_digest)}"
        )
    localities = sorted({seal.locality for seal, _ in refusals})
    if hardware.locality not in localities:
        named = ", ".join(str(locality) for locality in localities)
        return f"it is sealed to locality {named}, the manager uses {hardware.locality}"
    return ""


def _short(digest: bytes) -> str:
    return digest[:8].hex()
