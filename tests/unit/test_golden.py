# SPDX-License-Identifier: Apache-2.0
"""State files of every released format version still load and mean what they meant.

What they must mean is in each folder's `facts.json`, and is asked by commands, as a client would:
a format whose fields moved can decode and still be another TPM.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from daemons.hwtpm.store import decode_record
from daemons.vtpm.image import Content, HashKey, open_image, parse_slot
from daemons.vtpm.selection import Image, select
from protocol.tpm12.constants import (
    ProtocolId,
    ReservedHandle,
    ResourceType,
    ReturnCode,
    SetCapabilityArea,
    StartupType,
)
from protocol.tpm12.pcr import PcrSelection
from tests.golden.make import maintainer
from tests.unit.tpm12.world import Chip, FixedKeys, ManualTicks, SeededRandom
from tpmcore import tss12
from tpmcore.engine import Done, EffectResult, ParentQuote
from tpmcore.tpm12.engine import Tpm12Engine
from tpmcore.tpm12.stateformat import decode_permanent, encode_permanent
from tpmcore.tpm12.world import Profile, World
from tpmcore.tss12 import Session

READ_SRK_PUB = 17
MESSAGE = hashlib.sha1(b"golden").digest()
FOLDERS = sorted(
    path.parent for path in (Path(__file__).parents[1] / "golden").glob("*/facts.json")
)

SECTIONS = {
    "1.0": (range(1, 10), range(1, 9)),
    "1.1": (range(1, 14), (*range(1, 11), 12)),
    "1.2": (range(1, 14), (*range(1, 11), 12, 13, 14)),
}
"""Numbers of the sections of the permanent and the volatile state, by version."""


@dataclass(frozen=True, slots=True)
class Golden:
    """One folder of golden files."""

    folder: Path
    facts: dict[str, str | int]

    def file(self, name: str) -> bytes:
        """The content of a file."""
        return (self.folder / name).read_bytes()

    def text(self, name: str) -> str:
        """A fact that is text."""
        fact = self.facts[name]
        assert isinstance(fact, str)
        return fact

    def data(self, name: str) -> bytes:
        """A fact that is bytes."""
        return bytes.fromhex(self.text(name))

    def number(self, name: str) -> int:
        """A fact that is a number."""
        fact = self.facts[name]
        assert isinstance(fact, int)
        return fact

    def session(self, name: str, secret: bytes = b"") -> Session:
        """An open session of the TPM, as its client knows it."""
        protocol = ProtocolId.OSAP if secret else ProtocolId.OIAP
        handle, nonce = self.number(f"{name}_handle"), self.data(f"{name}_nonce")
        return Session(handle, protocol, nonce, secret)

    def chip(self, *, running: bool) -> Chip:
        """The TPM of the files: as it ran, or as after TPM_Init."""
        permanent = self.file("permanent")
        random, ticks, keys = SeededRandom("later"), ManualTicks(60_000_000), FixedKeys()
        profile = Profile(maintenance_commands=True, has_parent=True)
        engine = Tpm12Engine.restore(
            World(random, ticks, keys),
            profile,
            permanent,
            self.file("volatile") if running else None,
        )
        return Chip(random, ticks, keys, profile, engine, permanent)


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def golden(request: pytest.FixtureRequest) -> Golden:
    """Each folder in turn."""
    folder: Path = request.param
    return Golden(folder, json.loads((folder / "facts.json").read_text()))


def test_there_is_a_folder_for_the_first_version() -> None:
    assert "1.0" in [folder.name for folder in FOLDERS]


def test_the_owner_and_the_public_keys_are_there(golden: Golden) -> None:
    chip = golden.chip(running=False)
    chip.run(tss12.startup())
    assert chip.run(tss12.is_owned())
    for handle, name in ((ReservedHandle.EK, "ek_modulus"), (ReservedHandle.SRK, "srk_modulus")):
        public = chip.run(
            tss12.owner_read_internal_pub(
                handle, owner_auth=golden.data("owner_auth"), random=chip.client_random
            )
        )
        assert public.key == golden.data(name)


def test_the_operator_is_known_by_the_secret(golden: Golden) -> None:
    chip = golden.chip(running=True)
    chip.run(
        tss12.set_temp_deactivated(
            operator_auth=golden.data("operator_auth"), random=chip.client_random
        )
    )
    assert chip.run(tss12.stclear_flags()).deactivated


def test_keys_pinned_and_loaded_sign_under_their_handles(golden: Golden) -> None:
    chip = golden.chip(running=True)
    for name in ("pinned", "loaded"):
        signature = chip.run(
            tss12.sign(
                golden.number(f"{name}_handle"),
                MESSAGE,
                key_auth=golden.data("key_auth"),
                random=chip.client_random,
            )
        )
        modulus = int.from_bytes(golden.data(f"{name}_modulus"), "big")
        opened = pow(int.from_bytes(signature, "big"), 65537, modulus)
        assert opened.to_bytes(256, "big").endswith(MESSAGE)


def test_a_power_cycle_keeps_only_the_pinned_key(golden: Golden) -> None:
    chip = golden.chip(running=False)
    chip.run(tss12.startup())
    assert chip.run(tss12.handles(ResourceType.KEY)) == [golden.number("pinned_handle")]


def test_areas_have_their_data_and_their_locks(golden: Golden) -> None:
    chip = golden.chip(running=True)
    random, owner, area = chip.client_random, golden.data("owner_auth"), golden.data("area_auth")
    owned, authed = golden.number("owner_area"), golden.number("auth_area")
    data = golden.data("owner_area_data")
    read = chip.run(tss12.nv_read_value(owned, len(data), owner_auth=owner, random=random))
    assert read == data
    data = golden.data("auth_area_data")
    read = chip.run(tss12.nv_read_value_auth(authed, len(data), area_auth=area, random=random))
    assert read == data
    write_owned = tss12.nv_write_value(owned, b"x", owner_auth=owner, random=random)
    assert chip.code(write_owned) == ReturnCode.AREA_LOCKED
    write_authed = tss12.nv_write_value_auth(authed, b"x", area_auth=area, random=random)
    assert chip.code(write_authed) == ReturnCode.AREA_LOCKED
    # The one lock is of the permanent state, the other of the volatile one.
    chip.power_cycle()
    write_owned = tss12.nv_write_value(owned, b"x", owner_auth=owner, random=random)
    assert chip.code(write_owned) == ReturnCode.AREA_LOCKED
    chip.run(tss12.nv_write_value_auth(authed, b"x", area_auth=area, random=random))


def test_counters_go_on_and_only_the_active_one_does_in_this_boot(golden: Golden) -> None:
    chip = golden.chip(running=True)
    count_id, auth = golden.number("counter"), golden.data("counter_auth")
    value = chip.run(tss12.read_counter(count_id))
    assert (value.label, value.counter) == (
        golden.data("counter_label"),
        golden.number("counter_value"),
    )
    idle = tss12.increment_counter(
        golden.number("idle_counter"), counter_auth=auth, random=chip.client_random
    )
    assert chip.code(idle) == ReturnCode.BAD_COUNTER
    chip.ticks.advance(10)
    value = chip.run(
        tss12.increment_counter(count_id, counter_auth=auth, random=chip.client_random)
    )
    assert value.counter == golden.number("counter_value") + 1


def test_pcrs_are_those_of_the_volatile_state(golden: Golden) -> None:
    index, value = golden.number("pcr"), golden.data("pcr_value")
    chip = golden.chip(running=True)
    assert chip.run(tss12.pcr_read(index)) == value
    chip.power_cycle()
    assert chip.run(tss12.pcr_read(index)) == bytes(20)


def test_what_save_state_kept_comes_back_with_startup_state(golden: Golden) -> None:
    chip = golden.chip(running=False)
    chip.run(tss12.startup(StartupType.STATE))
    assert chip.run(tss12.pcr_read(golden.number("pcr"))) == golden.data("pcr_value")


def test_sessions_open_and_saved_go_on(golden: Golden) -> None:
    chip = golden.chip(running=True)
    random, key_auth = chip.client_random, golden.data("key_auth")
    handle = golden.number("loaded_handle")
    for session in (
        golden.session("oiap"),
        golden.session("osap", golden.data("osap_secret")),
    ):
        chip.run(tss12.sign(handle, MESSAGE, key_auth=key_auth, random=random, session=session))
    loaded = chip.run(tss12.load_context(golden.data("saved_session_context")))
    saved = Session(loaded, ProtocolId.OIAP, golden.data("saved_session_nonce"))
    chip.run(tss12.sign(handle, MESSAGE, key_auth=key_auth, random=random, session=saved))


def test_time_does_not_run_backwards(golden: Golden) -> None:
    chip = golden.chip(running=True)
    before = chip.run(tss12.get_ticks()).current_ticks
    chip.ticks.advance(1)
    assert chip.run(tss12.get_ticks()).current_ticks == before + 1_000_000


def test_the_image_of_a_vtpm_opens_with_its_key(golden: Golden) -> None:
    record = HashKey.decode(golden.data("hash_and_key"))
    assert record is not None
    slot, uuid = golden.file("slot"), UUID(golden.text("uuid"))
    assert record.digest == hashlib.sha256(slot).digest()
    assert parse_slot(slot).sequence == golden.number("sequence")
    content = Content(golden.file("permanent"))
    assert open_image(slot, record.key) == content
    chosen = select(record, (None, slot), uuid)
    assert isinstance(chosen, Image)
    assert (chosen.index, chosen.content) == (1, content)


def test_the_state_file_of_a_chip_opens(golden: Golden) -> None:
    assert decode_record(golden.file("chip.state")) == golden.file("permanent")


def test_an_old_state_is_written_in_the_format_of_now_and_stays_the_same(golden: Golden) -> None:
    now = encode_permanent(decode_permanent(golden.file("permanent")))
    assert encode_permanent(decode_permanent(now)) == now


def test_the_files_have_something_in_every_section(golden: Golden) -> None:
    permanent, volatile = SECTIONS[golden.folder.name]
    assert _sections(golden.file("permanent")) == list(permanent)
    assert _sections(golden.file("volatile")) == list(volatile)


@pytest.fixture(params=[folder for folder in FOLDERS if folder.name != "1.0"], ids=lambda f: f.name)
def golden_1_1(request: pytest.FixtureRequest) -> Golden:
    """From the first version on with auditing, delegation, transport sessions, DAA and
    maintenance."""
    folder: Path = request.param
    return Golden(folder, json.loads((folder / "facts.json").read_text()))


def test_audit_status_and_digest_are_there(golden_1_1: Golden) -> None:
    audit = golden_1_1.chip(running=True).run(tss12.get_audit_digest())
    assert golden_1_1.number("audited_ordinal") in audit.ordinals
    assert audit.counter.counter == golden_1_1.number("audit_counter")
    assert audit.digest == golden_1_1.data("audit_digest")


def test_delegations_and_their_sessions_are_there(golden_1_1: Golden) -> None:
    chip = golden_1_1.chip(running=True)
    tables = chip.run(tss12.read_delegation_tables())
    assert [family.label for family in tables.families] == [golden_1_1.number("family_label")]
    assert tables.rows[0].label == golden_1_1.number("row_label")
    assert tables.rows[0].family_id == golden_1_1.number("family_id")
    session = golden_1_1.session("dsap", golden_1_1.data("dsap_secret"))
    chip.run(
        tss12.set_capability(
            SetCapabilityArea.PERM_FLAGS,
            READ_SRK_PUB,
            b"\x01",
            owner_auth=bytes(20),
            random=chip.client_random,
            session=session,
        )
    )
    assert chip.run(tss12.permanent_flags()).read_srk_pub


def test_transport_and_daa_sessions_are_there(golden_1_1: Golden) -> None:
    chip = golden_1_1.chip(running=True)
    for kind, name in ((ResourceType.TRANS, "transport"), (ResourceType.DAA_TPM, "daa")):
        handle = golden_1_1.number(f"{name}_handle")
        assert chip.run(tss12.handles(kind)) == [handle]
        chip.run(tss12.flush_specific(handle, kind))
        assert chip.run(tss12.handles(kind)) == []


def test_the_manufacturers_maintenance_key_is_there(golden_1_1: Golden) -> None:
    chip = golden_1_1.chip(running=True)
    checksum = chip.run(tss12.read_manu_maint_pub(bytes(20)))
    assert checksum == hashlib.sha1(maintainer().encode() + bytes(20)).digest()


def test_only_a_state_that_says_so_has_an_ek_of_its_run(golden: Golden) -> None:
    asked: list[ParentQuote] = []

    def parent(effect: ParentQuote) -> EffectResult:
        asked.append(effect)
        return Done(bytes(256))

    codes = []
    for running in (True, False):
        chip = golden.chip(running=running)
        chip.parent = parent
        if not running:
            chip.run(tss12.startup())
        sign_ek = tss12.parent_sign_ek(
            bytes(20),
            PcrSelection(bytes(3)),
            owner_auth=golden.data("owner_auth"),
            random=chip.client_random,
        )
        codes.append(chip.code(sign_ek))
    old = golden.folder.name in ("1.0", "1.1")
    assert codes == [
        ReturnCode.DISABLED_CMD if old else ReturnCode.SUCCESS,
        ReturnCode.DISABLED_CMD,
    ]
    assert len(asked) == (0 if old else 1)


def test_a_session_of_the_deprecated_command_goes_on_until_a_reset() -> None:
    (folder,) = (folder for folder in FOLDERS if folder.name == "1.2")
    golden = Golden(folder, json.loads((folder / "facts.json").read_text()))
    blob = golden.data("deprecated_context")
    chip = golden.chip(running=True)
    assert chip.run(tss12.load_auth_context(blob)) == golden.number("deprecated_session")
    chip = golden.chip(running=True)
    chip.run(tss12.reset())
    assert chip.code(tss12.load_auth_context(blob)) == ReturnCode.BADCONTEXT


def _sections(state: bytes) -> list[int]:
    found = []
    offset = 12
    while offset < len(state):
        number, length = struct.unpack_from(">HI", state, offset)
        found.append(number)
        offset += 6 + length
    return found
