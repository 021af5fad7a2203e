# SPDX-License-Identifier: Apache-2.0
"""Whether to start, and on what: a new database, the one that is there, or not at all.

The first start does these steps; each is durable before the next begins, so a crash leaves one of
the states below.

    1  endorsement key made            in the chip
    2  ownership taken                 in the chip
    3  database file made, no tables   on disk
    4  first commit, sequence 1        on disk: manager, group 0, root secret sealed by the chip
    5  NV area defined                 in the chip, its secret being in the root secret
    6  mark of sequence 1 written      in the NV area
    7  clients are served

Every later commit n+1 is written to the database, then to the NV area, then answered.

    database       NV area           what it means                       what is done
    -------------  ----------------  ----------------------------------  ---------------------
    none or empty  none              new, or died before 4 was durable   found: what is not done
    none or empty  there             the database is lost                refuse
    sequence 1     none              died between 4 and 5                define, write the mark
    sequence 1     never written     died between 5 and 6                write the mark
    sequence n     mark n, its root  orderly                             serve
    sequence n+1   mark n, root of   died between database and NV area   write the mark n+1
                   its predecessor
    sequence n     mark m > n        an older copy of the database       refuse
    sequence n     mark <= n,        a fork, or an older state of the    refuse
                   another root      chip
    sequence n>1   none, or never    the area was removed                refuse
                   written

A chip that already has an owner when there is no database is used if the configured secrets open it
(step 2 was done, or the machine's owner did it). "Sequence 1 and no area" trusts no more than that:
such a database has no vTPM in it, and removing an area takes the owner's secret.

The database is believed only as far as the chip and the keys vouch for it: the root secret must
unseal (chip, PCRs, locality), the commit record must carry this manager's MAC, the tree over all
rows must have the root of the commit record. Until all of that holds nothing is written anywhere. A
state that is brought up to the NV area is first made durable once more (`Store.make_durable`): a
flush that failed before the crash may have left the newest commit in memory only, and the chip must
never be ahead of the disk.

Where group 0 has an agent, "the root secret does not unseal because PCRs differ" is not the end:
`NotApproved` is raised, and the agent may give the key of group 0 back (`recovery`). With that key
`start` opens the root secret from its envelope in the policy of group 0 and goes on as above.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

import apsw
import trio

from daemons.runtime.errors import DaemonError, RefusedToStart
from daemons.runtime.log import Log
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.envelope import NotAuthentic
from daemons.vtpmmgr.freshness import NV_BYTES, BadMark, Freshness, Mark, NvFreshness
from daemons.vtpmmgr.hardware import PASSING, Hardware
from daemons.vtpmmgr.keyring import KeyRing, unwrap_recovery
from daemons.vtpmmgr.ledger import Ledger
from daemons.vtpmmgr.records import (
    PCR_COUNT,
    BadRow,
    GroupRecord,
    ManagerRecord,
    PolicyRecord,
    SealRecord,
)
from daemons.vtpmmgr.sealing import (
    Configuration,
    NotAGroupSecret,
    NotARootSecret,
    PcrValues,
    RootSecret,
    composite_of,
    decode_group_secret,
    differing_pcrs,
    explain_pcrs,
)
from daemons.vtpmmgr.store import DiskFull, Store
from protocol.tpm12 import ReturnCode
from protocol.tpm12.pcr import PcrSelection
from tpmcore.errors import TpmError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StartOptions:
    """What a start needs to know.

    Attributes:
        database: path of the SQLite file.
        seal_pcrs: PCRs of the hardware TPM to which a new root secret is sealed, ascending.
        nv_index: of the freshness area.
        vfs: name of SQLite's VFS; None is the default.
    """

    database: Path
    seal_pcrs: tuple[int, ...]
    nv_index: int
    vfs: str | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A manager that may serve.

    Attributes:
        ledger: all records, verified.
        freshness: bound to the ledger's newest commit.
        root: what the hardware TPM keeps for the manager.
    """

    ledger: Ledger
    freshness: Freshness
    root: RootSecret


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


async def start(
    options: StartOptions, hardware: Hardware, log: Log, *, recovered: Secret | None = None
) -> Started:
    """Accept the database that is there, or found a new one, or refuse.

    Args:
        recovered: the key of group 0, from its agent, where the root secret does not unseal.

    Raises:
        NotApproved: see above; nothing was written.
        RefusedToStart: likewise.
        DaemonError: the chip is unreachable or fails; starting again may help.
    """
    try:
        return await _start(options, hardware, log, recovered)
    except TpmError as error:
        raise DaemonError(f"hardware TPM: {error}") from error


async def _start(
    options: StartOptions, hardware: Hardware, log: Log, recovered: Secret | None
) -> Started:
    with contextlib.ExitStack() as on_failure:
        store = await _in_thread(lambda: Store.open(options.database, options.vfs))
        if store is not None:
            on_failure.callback(store.close)
        area_bytes = await hardware.nv_area_size(options.nv_index)
        if store is not None:
            ledger, root = await _accept(store, options, hardware, recovered)
        elif area_bytes is None:
            ledger, root = await _found(options, hardware, log, on_failure)
        else:
            raise RefusedToStart(
                f"no database {options.database}, but the hardware TPM is bound to one "
                f"(NV area {options.nv_index:#x}): it was removed or is elsewhere"
            )
        freshness = await _bind(ledger, root, area_bytes, hardware, log)
        await _open_groups(ledger, hardware, log)
        on_failure.pop_all()
        return Started(ledger, freshness, root)


# --- a new database ------------------------------------------------------------------------------


async def _found(
    options: StartOptions, hardware: Hardware, log: Log, on_failure: contextlib.ExitStack
) -> tuple[Ledger, RootSecret]:
    if await hardware.has_owner():
        log.info("hardware TPM has an owner, no database yet")
    else:
        await hardware.take_ownership()
        log.info("took ownership of the hardware TPM")
    try:
        ek_digest = await hardware.ek_digest()
    except TpmError as error:
        if error.code != ReturnCode.AUTHFAIL:
            raise
        raise RefusedToStart(
            "the hardware TPM has an owner whose secret is not the configured --owner-auth"
        ) from error
    root = RootSecret.new(options.nv_index)
    seal = await _seal_root(root, options, hardware)
    store = await _in_thread(lambda: Store.create(options.database, options.vfs))
    on_failure.callback(store.close)

    def found() -> Ledger:
        keys = KeyRing(root.manager, root.manager_key)
        records = ManagerRecord(root.manager, ek_digest), keys.new_group(0), seal
        return Ledger.found(store, keys, records)

    try:
        ledger = await _in_thread(found)
    except DiskFull as error:
        raise DaemonError(str(error)) from error
    log.info("founded the database", manager=root.manager, pcrs=list(options.seal_pcrs))
    return ledger, root


async def _seal_root(root: RootSecret, options: StartOptions, hardware: Hardware) -> SealRecord:
    now = Configuration.of(await hardware.read_pcrs(options.seal_pcrs))
    secret = root.encode()
    try:
        blob = await hardware.seal(secret, now.selection, now.composite)
        # a seal that cannot be opened would be found out at the next start, when it is too late
        opened = await hardware.unseal(blob)
    except TpmError as error:
        if error.code != ReturnCode.AUTHFAIL:
            raise
        raise RefusedToStart(
            "the storage root key of the hardware TPM has another secret than --srk-auth"
        ) from error
    if opened != secret:
        raise DaemonError("hardware TPM: what it sealed does not come out again")
    return SealRecord(uuid4(), root.manager, hardware.locality, now.values, blob)


# --- a database that is there --------------------------------------------------------------------


async def _accept(
    store: Store, options: StartOptions, hardware: Hardware, recovered: Secret | None
) -> tuple[Ledger, RootSecret]:
    found = await _in_thread(lambda: _read_unverified(store))
    if recovered is None:
        root = await _unseal_root(store.path, found, hardware)
    else:
        root = _recover_root(store.path, found, recovered)
    if root.manager != found.manager.uuid:
        raise RefusedToStart(
            f"database {store.path} names manager {found.manager.uuid}, its seal is of "
            f"{root.manager}"
        )
    if root.nv_index != options.nv_index:
        raise RefusedToStart(
            f"database {store.path} is bound to NV area {root.nv_index:#x}, "
            f"--nv-index says {options.nv_index:#x}"
        )
    keys = KeyRing(root.manager, root.manager_key)
    ledger = await _in_thread(lambda: Ledger.load(store, keys))
    if recovered is not None:
        group = found.groups[0]
        keys.open_recovered(group, found.policies[group.uuid], recovered)
    return ledger, root


def _read_unverified(store: Store) -> Unverified:
    """Read what is needed before there is a key to verify with."""
    try:
        managers = [ManagerRecord.from_row(row) for row, _ in store.scan(ManagerRecord.TABLE)]
        seals = [SealRecord.from_row(row) for row, _ in store.scan(SealRecord.TABLE)]
        groups = [GroupRecord.from_row(row) for row, _ in store.scan(GroupRecord.TABLE)]
        policies = [PolicyRecord.from_row(row) for row, _ in store.scan(PolicyRecord.TABLE)]
    except (BadRow, apsw.Error) as error:
        raise RefusedToStart(f"database {store.path} is damaged: {error}") from error
    if len(managers) != 1:
        raise RefusedToStart(f"database {store.path} names {len(managers)} managers")
    root_seals = tuple(seal for seal in seals if seal.scope == managers[0].uuid)
    if not root_seals:
        raise RefusedToStart(f"database {store.path}: the sealed root secret is missing")
    return Unverified(
        managers[0],
        root_seals,
        {group.number: group for group in groups},
        {policy.group: policy for policy in policies},
    )


def _recover_root(path: Path, found: Unverified, key: Secret) -> RootSecret:
    group = found.groups.get(0)
    policy = None if group is None else found.policies.get(group.uuid)
    if policy is None:
        raise RefusedToStart(f"database {path}: group 0 has no agent who could recover it")
    try:
        return RootSecret.decode(unwrap_recovery(found.manager.uuid, policy, key))
    except (NotAuthentic, NotARootSecret) as error:
        raise RefusedToStart(f"database {path}: not the key of group 0: {error}") from error


async def _unseal_root(path: Path, found: Unverified, hardware: Hardware) -> RootSecret:
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


async def _open_groups(ledger: Ledger, hardware: Hardware, log: Log) -> None:
    """Unseal the secrets of the groups that have one; groups that stay closed are told of."""
    keys = ledger.keys
    for group in await _in_thread(ledger.groups):
        if keys.is_open(group):
            continue
        seals = await _in_thread(partial(ledger.seals_of, group.uuid))
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


# --- freshness -----------------------------------------------------------------------------------


async def _bind(
    ledger: Ledger, root: RootSecret, area_bytes: int | None, hardware: Hardware, log: Log
) -> Freshness:
    """Compare the newest commit with the mark in the hardware TPM; bring that up where allowed."""
    newest = ledger.newest
    where = f"NV area {root.nv_index:#x} of the hardware TPM"
    if area_bytes is None:
        if newest.sequence != 1:
            raise RefusedToStart(
                f"{where} is gone; it must name sequence {newest.sequence}: without it nobody "
                "can tell whether this database is the newest"
            )
        await hardware.nv_define(root.nv_index, NV_BYTES, root.nv_auth)
        area_bytes = NV_BYTES
    if area_bytes != NV_BYTES:
        raise RefusedToStart(f"{where} has {area_bytes} bytes, not {NV_BYTES}: it is not ours")
    freshness = NvFreshness(hardware.nv_area(root.nv_index, NV_BYTES, root.nv_auth))
    try:
        mark = await freshness.read()
    except TpmError as error:
        if error.code != ReturnCode.AUTHFAIL:
            raise
        raise RefusedToStart(f"{where} belongs to another manager: {error}") from error
    except BadMark as error:
        raise RefusedToStart(f"{where} holds no mark of a manager: {error}") from error
    if mark == Mark.of(newest):
        return freshness
    _check_behind_by_one(ledger, mark, where)
    await _in_thread(ledger.make_durable)
    await freshness.bind(Mark.of(newest))
    log.info("brought the hardware TPM up to the database", sequence=newest.sequence)
    return freshness


def _check_behind_by_one(ledger: Ledger, mark: Mark | None, where: str) -> None:
    newest = ledger.newest
    if mark is None:
        if newest.sequence != 1:
            raise RefusedToStart(f"{where} was never written; the database has {newest.sequence}")
        return
    if mark.sequence > newest.sequence:
        raise RefusedToStart(
            f"the database is an older copy: it has sequence {newest.sequence}, "
            f"{where} has {mark.sequence}"
        )
    if mark.sequence == newest.sequence:
        raise RefusedToStart(
            f"the database is a fork: {where} has another state with sequence {mark.sequence}"
        )
    if mark.sequence + 1 != newest.sequence or mark.root != newest.predecessor:
        raise RefusedToStart(
            f"the database has sequence {newest.sequence} and does not follow on sequence "
            f"{mark.sequence} in {where}"
        )


def _short(digest: bytes) -> str:
    return digest[:8].hex()


async def _in_thread(function: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(function)
