# SPDX-License-Identifier: Apache-2.0
"""What does not verify is refused by name, and nothing is overwritten."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import apsw
import pytest
import trio

from daemons.runtime.config.values import FreshnessMode
from daemons.runtime.errors import DaemonError, RefusedToStart
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.records import RECORD_TYPES
from daemons.vtpmmgr.startup import StartOptions
from daemons.vtpmmgr.store import Store
from protocol.manager.constants import ManagementOrdinal
from protocol.manager.descriptors import LocalTarget, StateTarget
from protocol.manager.management import VtpmNew
from protocol.tpm12 import ReturnCode
from protocol.tpm12.pcr import PcrSelection
from tests.unit.manager.agent import Agent, Operator, composite
from tests.unit.manager.fakes import Area, Chip, FakeHardware
from tests.unit.manager.harness import NV_INDEX, A, B, C, managed, options
from tests.unit.manager.moves import Running, transport_key
from tpmcore.errors import TpmError

ONE, TWO, THREE = (mark.ljust(64, b".") for mark in (b"one", b"two", b"three"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by name, without the empty log that SQLite makes when it only looks."""
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return {name: data for name, data in files.items() if data or not name.endswith("-wal")}


async def served(folder: Path, chip: Chip, *saves: bytes) -> None:
    """Let a manager found or open a database, save for A, and stop in order."""
    async with managed(options(folder), FakeHardware(chip)) as manager:
        guest = await manager.guest(A)
        for data in saves:
            await guest.save(data)
        manager.started.ledger.checkpoint()


async def expect_refusal(
    match: str,
    folder: Path,
    chip: Chip,
    *,
    hardware: FakeHardware | None = None,
    start_options: StartOptions | None = None,
) -> None:
    files, areas = contents(folder), {i: area.data for i, area in chip.areas.items()}
    with pytest.raises(RefusedToStart, match=match):
        async with managed(start_options or options(folder), hardware or FakeHardware(chip)):
            pass
    assert contents(folder) == files
    assert {i: area.data for i, area in chip.areas.items()} == areas


async def test_a_stop_and_start_finds_everything(tmp_path: Path) -> None:
    chip = Chip()
    await served(tmp_path, chip, ONE, TWO)
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        assert await (await manager.guest(A)).load() == TWO
        assert manager.started.ledger.newest.sequence == 3


async def test_changed_pcrs_are_named(tmp_path: Path) -> None:
    chip = Chip()
    await served(tmp_path, chip, ONE)
    chip.extend(4, bytes(20))
    chip.extend(10, bytes(20))
    value = hashlib.sha1(bytes(40)).hexdigest()
    await expect_refusal(
        f"does not unseal: PCR 4 is {value}, sealed to {'0' * 40}$", tmp_path, chip
    )


class BusyHardware(FakeHardware):
    """A chip that has no room for the storage root key's session just now."""

    async def unseal(self, blob: bytes) -> Secret:
        await trio.lowlevel.checkpoint()
        raise TpmError(ReturnCode.RESOURCES)


async def test_a_chip_that_cannot_unseal_now_is_a_failure_and_no_refusal(tmp_path: Path) -> None:
    # A refusal is not tried again by any supervisor.
    chip = Chip()
    await served(tmp_path, chip, ONE)
    files = contents(tmp_path)
    with pytest.raises(DaemonError, match="RESOURCES") as failure:
        async with managed(options(tmp_path), BusyHardware(chip)):
            pass
    assert not isinstance(failure.value, RefusedToStart)
    assert contents(tmp_path) == files


async def test_another_hardware_tpm_is_named(tmp_path: Path) -> None:
    await served(tmp_path, Chip(), ONE)
    other = Chip(b"chip two", True, bytes(20), bytes(20))
    await expect_refusal("another hardware TPM: its endorsement key is", tmp_path, other)


async def test_a_hardware_tpm_without_owner_is_not_taken_over(tmp_path: Path) -> None:
    await served(tmp_path, Chip(), ONE)
    other = Chip(b"chip two")
    await expect_refusal("this one has no owner", tmp_path, other)
    assert other.owner is None


async def test_a_chip_whose_owner_is_not_ours_is_not_guessed_at(tmp_path: Path) -> None:
    await served(tmp_path, Chip(), ONE)
    other = Chip(b"chip two", True, b"x" * 20, bytes(20))
    await expect_refusal("may be another hardware TPM", tmp_path, other)


async def test_another_locality_is_named(tmp_path: Path) -> None:
    chip = Chip()
    await served(tmp_path, chip, ONE)
    await expect_refusal(
        "sealed to locality 2, the manager uses 0",
        tmp_path,
        chip,
        hardware=FakeHardware(chip, locality=0),
    )


async def test_a_wrong_srk_secret_is_named(tmp_path: Path) -> None:
    chip = Chip()
    await served(tmp_path, chip, ONE)
    await expect_refusal(
        "or --srk-auth is wrong", tmp_path, chip, hardware=FakeHardware(chip, srk_auth=b"s" * 20)
    )


async def test_a_wrong_owner_secret_founds_nothing(tmp_path: Path) -> None:
    chip = Chip(has_ek=True, owner=b"somebody's own sec20", srk_auth=bytes(20))
    await expect_refusal("whose secret is not the configured --owner-auth", tmp_path, chip)
    assert contents(tmp_path) == {}


async def test_an_older_database_is_refused_with_both_sequence_numbers(tmp_path: Path) -> None:
    chip = Chip()
    folder, copy = tmp_path / "now", tmp_path / "copy"
    folder.mkdir()
    await served(folder, chip, ONE)
    shutil.copytree(folder, copy)
    await served(folder, chip, TWO, THREE)
    await expect_refusal("older copy: it has sequence 2, .* has 4", copy, chip)


async def test_a_fork_is_refused_in_both_directions(tmp_path: Path) -> None:
    """Save, go back to a copy while the chip is fooled, save again, bring the first back."""
    chip = Chip()
    folder, copy = tmp_path / "now", tmp_path / "copy"
    folder.mkdir()
    await served(folder, chip, ONE)
    shutil.copytree(folder, copy)
    mark = chip.areas[NV_INDEX].data
    await served(folder, chip, TWO)
    newer = chip.areas[NV_INDEX].data
    chip.areas[NV_INDEX].data = mark
    await served(copy, chip, THREE)
    await expect_refusal("fork", folder, chip)
    chip.areas[NV_INDEX].data = newer
    await expect_refusal("fork", copy, chip)


async def test_a_successor_of_a_forks_other_branch_is_refused(tmp_path: Path) -> None:
    """One ahead of the chip by its number, but not grown out of what the chip has."""
    chip = Chip()
    folder, copy = tmp_path / "now", tmp_path / "copy"
    folder.mkdir()
    await served(folder, chip)
    shutil.copytree(folder, copy)
    older = chip.areas[NV_INDEX].data
    await served(folder, chip, ONE)
    newer = chip.areas[NV_INDEX].data
    chip.areas[NV_INDEX].data = older
    await served(copy, chip, TWO, THREE)
    chip.areas[NV_INDEX].data = newer
    await expect_refusal("has sequence 3 and does not follow on sequence 2", copy, chip)


async def test_a_database_ahead_of_the_chip_by_two_is_refused(tmp_path: Path) -> None:
    chip = Chip()
    await served(tmp_path, chip)
    mark = chip.areas[NV_INDEX].data
    await served(tmp_path, chip, ONE, TWO)
    chip.areas[NV_INDEX].data = mark
    await expect_refusal("has sequence 3 and does not follow on sequence 1", tmp_path, chip)


async def test_a_forged_successor_of_the_marked_state_is_refused(tmp_path: Path) -> None:
    """An attacker knows the mark's root and may write anything, but has no key to sign with."""
    chip = Chip()
    await served(tmp_path, chip, ONE)
    execute(
        tmp_path,
        "UPDATE commits SET sequence = sequence + 1, predecessor = root, root = zeroblob(32)",
    )
    await expect_refusal("commit record .* was not written by manager", tmp_path, chip)


async def test_a_missing_database_is_not_founded_again(tmp_path: Path) -> None:
    chip = Chip()
    await served(tmp_path, chip, ONE)
    for path in tmp_path.iterdir():
        path.unlink()
    await expect_refusal("no database .* the hardware TPM is bound to one", tmp_path, chip)
    assert contents(tmp_path) == {}


async def test_an_empty_database_in_place_of_ours_is_not_founded_again(tmp_path: Path) -> None:
    chip = Chip()
    await served(tmp_path, chip, ONE)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    await expect_refusal("no database", tmp_path, chip)


@pytest.mark.parametrize("erase", [True, False])
async def test_a_removed_nv_area_is_refused(tmp_path: Path, erase: bool) -> None:
    chip = Chip()
    await served(tmp_path, chip, ONE)
    if erase:
        area = chip.areas[NV_INDEX]
        area.data = b"\xff" * area.size
        await expect_refusal("was never written", tmp_path, chip)
    else:
        del chip.areas[NV_INDEX]
        await expect_refusal("is gone; it must name sequence 2", tmp_path, chip)


async def test_an_nv_area_of_somebody_else_is_refused(tmp_path: Path) -> None:
    chip = Chip()
    await served(tmp_path, chip, ONE)
    mine = chip.areas[NV_INDEX]
    chip.areas[NV_INDEX] = Area(mine.size, b"another's secret 20b", mine.data)
    await expect_refusal("belongs to another manager", tmp_path, chip)
    chip.areas[NV_INDEX] = Area(mine.size, mine.auth, bytes(mine.size))
    await expect_refusal("holds no mark", tmp_path, chip)
    chip.areas[NV_INDEX] = Area(10, mine.auth, bytes(10))
    await expect_refusal("has 10 bytes", tmp_path, chip)


async def test_the_database_of_another_manager_is_refused(tmp_path: Path) -> None:
    """Two machines; the second's database, and then only its rows, in the first's place."""
    chips = Chip(b"chip one"), Chip(b"chip two")
    folders = tmp_path / "one", tmp_path / "two"
    for folder, chip in zip(folders, chips, strict=True):
        folder.mkdir()
        await served(folder, chip, ONE)
    shutil.copytree(folders[1], tmp_path / "swapped")
    await expect_refusal("another hardware TPM", tmp_path / "swapped", chips[0])
    execute(
        folders[0],
        f"ATTACH '{folders[1] / 'manager.db'}' AS other",
        "DELETE FROM vtpms",
        "INSERT INTO vtpms SELECT * FROM other.vtpms",
        "DETACH other",
    )
    await expect_refusal(f"changed: row {A} of table vtpms", folders[0], chips[0])


def execute(folder: Path, *statements: str) -> None:
    """Do what an attacker does who has SQLite and no keys."""
    connection = apsw.Connection(str(folder / "manager.db"))
    for statement in statements:
        connection.execute(statement)
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()


TABLES = [(kind.TABLE.name, column) for kind in RECORD_TYPES for column, _ in kind.TABLE.columns]


@pytest.mark.parametrize(("table", "column"), TABLES)
async def test_a_changed_value_in_any_column_is_refused(
    tmp_path: Path, table: str, column: str
) -> None:
    chip, agent = Chip(), Agent()
    await served(tmp_path, chip, ONE)
    counted = options(tmp_path, freshness=FreshnessMode.COUNTER)
    async with managed(counted, FakeHardware(chip)) as manager:
        op = Operator(manager.parts.management)
        made = await op.new_group(agent)
        selection = PcrSelection.of(range(8))
        approved = [(selection, composite(selection, chip.pcrs))]
        await op.send(ManagementOrdinal.GROUP_UPDATE, agent.sign_list(made.uuid, approved))
        await op.send(ManagementOrdinal.VTPM_NEW, VtpmNew(0, B))
        running = Running(manager, op)
        own, target = await running.transport_key(), await transport_key(Chip(b"chip two"))
        approval = agent.approve(own, target, sequence=1)
        await running.export(B, target, approval)
        guest = await manager.guest(A)
        await guest.save(bytes(64))
        await guest.new_state_key()
        await op.send(ManagementOrdinal.STATE_TARGET_SET, StateTarget(A, target, approval))
        await op.send(ManagementOrdinal.VTPM_NEW, VtpmNew(0, C))
        await op.send(ManagementOrdinal.STATE_TARGET_LOCAL, LocalTarget(C, A))
    changed = f"{column} + 1"
    blob = f"SELECT typeof({column}), {column} FROM {table} WHERE length({column}) LIMIT 1"
    connection = apsw.Connection(str(tmp_path / "manager.db"))
    kind, value = next(iter(connection.execute(blob)))
    connection.close()
    found = str(value)
    if kind == "blob":
        flipped = bytes([value[0] ^ 1]) + value[1:]
        changed, found = f"x'{flipped.hex()}'", f"x'{value.hex()}'"
    execute(tmp_path, f"UPDATE {table} SET {column} = {changed} WHERE {column} = {found}")
    named = {
        ("manager", "uuid"): "sealed root secret is missing",
        # whichever comes first: that of the root secret or that of a group
        ("seals", "scope"): "sealed root secret is missing|changed: row",
        ("seals", "blob"): "the seal was changed|sealed root secret|changed: row",
        ("seals", "pcr_values"): "changed: row|no list of PCR values",
    }
    await expect_refusal(
        named.get((table, column), f"changed: row .* of table {table}"), tmp_path, chip
    )


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM vtpms",
        "DELETE FROM groups",
        "DELETE FROM seals",
        "DELETE FROM manager",
        "DELETE FROM commits",
        "INSERT INTO manager SELECT zeroblob(16), ek_digest, mac FROM manager",
        "UPDATE commits SET mac = zeroblob(32)",
        "UPDATE commits SET root = zeroblob(31)",
        "UPDATE commits SET sequence = sequence - 1",
        "CREATE TABLE other (a)",
        "CREATE TRIGGER t AFTER UPDATE ON vtpms BEGIN DELETE FROM vtpms; END",
        "DROP TABLE groups",
        *(f"PRAGMA user_version = {version}" for version in (1, 2, 3, 5)),
        "PRAGMA application_id = 1",
        "PRAGMA journal_mode = DELETE",
    ],
)
async def test_a_missing_row_or_another_shape_is_refused(tmp_path: Path, statement: str) -> None:
    chip = Chip()
    await served(tmp_path, chip, ONE)
    execute(tmp_path, statement)
    await expect_refusal("database", tmp_path, chip)


async def test_an_older_row_of_the_same_manager_is_refused(tmp_path: Path) -> None:
    chip = Chip()
    folder, copy = tmp_path / "now", tmp_path / "copy"
    folder.mkdir()
    await served(folder, chip, ONE)
    shutil.copytree(folder, copy)
    await served(folder, chip, TWO)
    execute(
        folder,
        f"ATTACH '{copy / 'manager.db'}' AS other",
        "INSERT OR REPLACE INTO vtpms SELECT * FROM other.vtpms",
        "DETACH other",
    )
    await expect_refusal("come from an older copy", folder, chip)


async def test_a_database_cut_short_is_refused_at_every_length(tmp_path: Path) -> None:
    chip = Chip()
    folder = tmp_path / "whole"
    folder.mkdir()
    await served(folder, chip, ONE)
    whole = (folder / "manager.db").read_bytes()
    for size in [1, 99, 100, 4095, *range(4096, len(whole), 4096), len(whole) - 1]:
        cut = tmp_path / f"cut{size}"
        cut.mkdir()
        (cut / "manager.db").write_bytes(whole[:size])
        await expect_refusal("database", cut, chip)


async def test_any_changed_byte_is_refused_or_does_not_matter(tmp_path: Path) -> None:
    """Unused room in a page may hold anything; everything else counts."""
    chip = Chip()
    folder = tmp_path / "whole"
    folder.mkdir()
    await served(folder, chip, ONE, TWO)
    whole = (folder / "manager.db").read_bytes()
    refused = 0
    for offset in [*range(100), *range(100, len(whole), 131)]:
        (folder / "manager.db").write_bytes(
            whole[:offset] + bytes([whole[offset] ^ 0x41]) + whole[offset + 1 :]
        )
        try:
            async with managed(options(folder), FakeHardware(chip)) as manager:
                assert await (await manager.guest(A)).load() == TWO, offset
        except RefusedToStart:
            refused += 1
    assert refused > 40


async def test_a_log_cut_short_is_an_older_database(tmp_path: Path) -> None:
    chip = Chip()
    folder = tmp_path / "whole"
    folder.mkdir()
    async with managed(options(folder), FakeHardware(chip)) as manager:
        guest = await manager.guest(A)
        for data in (ONE, TWO, THREE):
            await guest.save(data)
    log = (folder / "manager.db-wal").read_bytes()
    frame = 24 + 4096
    assert (len(log) - 32) % frame == 0
    for frames in range((len(log) - 32) // frame):
        cut = tmp_path / f"cut{frames}"
        shutil.copytree(folder, cut)
        (cut / "manager.db-wal").write_bytes(log[: 32 + frames * frame + 100])
        await expect_refusal("older copy|no database", cut, chip)


async def test_a_log_without_its_database_is_refused(tmp_path: Path) -> None:
    chip = Chip()
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        await (await manager.guest(A)).save(ONE)
    (tmp_path / "manager.db").write_bytes(b"")
    await expect_refusal("its log is there", tmp_path, chip)


async def test_a_planted_rollback_journal_is_not_played(tmp_path: Path) -> None:
    chip = Chip()
    await served(tmp_path, chip, ONE)
    (tmp_path / "manager.db-journal").write_bytes(b"\xd9\xd5\x05\xf9 and so on")
    await expect_refusal("rollback journal", tmp_path, chip)


async def test_any_other_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manager.db").write_bytes(b"My letters to the editor. " * 1000)
    await expect_refusal("cannot be read", tmp_path, Chip())


async def test_a_database_in_use_is_refused(tmp_path: Path) -> None:
    chip = Chip()
    async with managed(options(tmp_path), FakeHardware(chip)):
        with pytest.raises(RefusedToStart, match="locked"):
            async with managed(options(tmp_path), FakeHardware(chip)):
                pass


async def test_another_nv_index_than_the_database_was_bound_to_is_refused(tmp_path: Path) -> None:
    chip = Chip()
    await served(tmp_path, chip, ONE)
    await expect_refusal(
        "bound to NV area 0x15654, --nv-index says 0x20000",
        tmp_path,
        chip,
        start_options=options(tmp_path, nv=0x20000),
    )


async def test_a_row_changed_under_a_running_manager_ends_it(tmp_path: Path) -> None:
    chip = Chip()
    with pytest.RaisesGroup(DaemonError, allow_unwrapped=True, flatten_subgroups=True):
        async with managed(options(tmp_path), FakeHardware(chip)) as manager:
            guest = await manager.guest(A)
            await guest.save(ONE)
            swap_row(manager.started.ledger._store)
            await guest.load()


def swap_row(store: Store) -> None:
    """Write past the ledger, as an attacker who ignores locks does."""
    store._connection.execute("UPDATE vtpms SET flags = 1")


async def test_no_secret_lies_in_the_files_in_the_clear(tmp_path: Path) -> None:
    chip = Chip()
    seen: list[bytes] = []

    class Watching(FakeHardware):
        async def seal(self, secret: bytes, selection: PcrSelection, composite: bytes) -> bytes:
            seen.append(bytes(secret))
            return await super().seal(secret, selection, composite)

    async with managed(options(tmp_path), Watching(chip)) as manager:
        await (await manager.guest(A)).save(b"key of A that nobody may see".ljust(64, b"!"))
        await (await manager.guest(B)).save(THREE)
        log = str(manager.lines)
    root = seen[0]
    for secret in (b"key of A that nobody", root[20:52], root[56:76]):
        for name, data in contents(tmp_path).items():
            assert secret not in data, name
        assert secret.hex() not in log
        assert repr(secret) not in log
    assert "Secret(<" in repr(Secret(root))
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
