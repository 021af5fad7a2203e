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

Every later commit n+1 is written to the database, then bound to the chip, then answered.

    database       NV area           what it means                       what is done
    -------------  ----------------  ----------------------------------  ---------------------
    none or empty  none              new, or died before 4 was durable   found: what is not done
    none or empty  there             the database is lost                refuse
    anything       anything          see `binding`

A chip that already has an owner when there is no database is used if the configured secrets open it
(step 2 was done, or the machine's owner did it). "Sequence 1 and no area" trusts no more than that:
such a database has no vTPM in it, and only with the owner's secret a chip gets rid of the area,
which NV_REKEY moves to the other index and back.

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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import apsw
import trio

from daemons.runtime.config.values import FreshnessMode
from daemons.runtime.control import Fields
from daemons.runtime.errors import DaemonError, RefusedToStart
from daemons.runtime.log import Log
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.binding import accept, bind, examine
from daemons.vtpmmgr.freshness import Freshness
from daemons.vtpmmgr.hardware import Hardware
from daemons.vtpmmgr.keyring import KeyRing
from daemons.vtpmmgr.ledger import Ledger
from daemons.vtpmmgr.records import (
    GroupRecord,
    ManagerRecord,
    PolicyRecord,
    SealRecord,
)
from daemons.vtpmmgr.rows import BadRow
from daemons.vtpmmgr.sealing import Configuration, RootSecret, nv_indices
from daemons.vtpmmgr.store import DiskFull, Store
from daemons.vtpmmgr.unsealing import (
    Unverified,
    open_groups,
    recover_root,
    unseal_root,
)
from protocol.tpm12 import ReturnCode
from tpmcore.errors import TpmError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StartOptions:
    """What a start needs to know.

    Attributes:
        database: path of the SQLite file.
        seal_pcrs: PCRs of the hardware TPM to which a new root secret is sealed, ascending.
        nv_index: of the freshness area.
        freshness: how an older copy of the database is noticed.
        vfs: name of SQLite's VFS; None is the default.
    """

    database: Path
    seal_pcrs: tuple[int, ...]
    nv_index: int
    freshness: FreshnessMode = FreshnessMode.NV
    vfs: str | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A manager that may serve.

    Attributes:
        ledger: all records, verified.
        freshness: bound to the ledger's newest commit.
    """

    ledger: Ledger
    freshness: Freshness


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


async def accept_rollback(
    options: StartOptions, hardware: Hardware, log: Log, *, dry_run: bool
) -> Fields:
    """Make the database that is there the newest, though the hardware TPM knows of a newer one.

    Everything else is verified as at a start.

    Args:
        dry_run: change nothing.

    Returns:
        What database and hardware TPM had before, see `binding.examine`.

    Raises:
        RefusedToStart: there is no database, it does not verify, or the owner's secret is wrong.
        DaemonError: the chip or the disk fails.
    """
    try:
        store = await _in_thread(lambda: Store.open(options.database, options.vfs))
        if store is None:
            raise RefusedToStart(f"no database {options.database}")
        with contextlib.ExitStack() as at_end:
            at_end.callback(store.close)
            ledger = await _accept(store, options, hardware, None)
            # Takes the owner's secret, so that a dry run tells of a wrong one.
            await hardware.ek_digest()
            found = await examine(ledger, hardware)
            if not dry_run:
                await accept(ledger, hardware, log)
            return {**found, "accepted": None if dry_run else ledger.newest.sequence}
    except TpmError as error:
        if error.code == ReturnCode.AUTHFAIL:
            raise RefusedToStart("the owner's secret is not --owner-auth") from error
        raise DaemonError(f"hardware TPM: {error}") from error


async def _start(
    options: StartOptions, hardware: Hardware, log: Log, recovered: Secret | None
) -> Started:
    with contextlib.ExitStack() as on_failure:
        store = await _in_thread(lambda: Store.open(options.database, options.vfs))
        if store is not None:
            on_failure.callback(store.close)
        if store is not None:
            ledger = await _accept(store, options, hardware, recovered)
        else:
            await _refuse_if_bound(options, hardware)
            ledger = await _found(options, hardware, log, on_failure)
        freshness = await bind(ledger, options.freshness, hardware, log)
        await open_groups(ledger, hardware, log)
        on_failure.pop_all()
        return Started(ledger, freshness)


async def _refuse_if_bound(options: StartOptions, hardware: Hardware) -> None:
    for index in nv_indices(options.nv_index):
        if await hardware.nv_area_size(index) is not None:
            raise RefusedToStart(
                f"no database {options.database}, but the hardware TPM is bound to one "
                f"(NV area {index:#x}): it was removed or is elsewhere"
            )


# --- a new database ------------------------------------------------------------------------------


async def _found(
    options: StartOptions, hardware: Hardware, log: Log, on_failure: contextlib.ExitStack
) -> Ledger:
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
        keys = KeyRing(root)
        records = ManagerRecord(root.manager, ek_digest), keys.new_group(0), seal
        return Ledger.found(store, keys, records)

    try:
        ledger = await _in_thread(found)
    except DiskFull as error:
        raise DaemonError(str(error)) from error
    log.info("founded the database", manager=root.manager, pcrs=list(options.seal_pcrs))
    return ledger


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
) -> Ledger:
    found = await _in_thread(lambda: _read_unverified(store))
    if recovered is None:
        root = await unseal_root(store.path, found, hardware)
    else:
        root = recover_root(store.path, found, recovered)
    if root.manager != found.manager.uuid:
        raise RefusedToStart(
            f"database {store.path} names manager {found.manager.uuid}, its seal is of "
            f"{root.manager}"
        )
    if root.nv_index not in nv_indices(options.nv_index):
        raise RefusedToStart(
            f"database {store.path} is bound to NV area {root.nv_index:#x}, "
            f"--nv-index says {options.nv_index:#x}"
        )
    keys = KeyRing(root)
    ledger = await _in_thread(lambda: Ledger.load(store, keys))
    if recovered is not None:
        group = found.groups[0]
        keys.open_recovered(group, found.policies[group.uuid], recovered)
    return ledger


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


async def _in_thread(function: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(function)
