# SPDX-License-Identifier: Apache-2.0
"""Sessions, keys and NV of a guest's TPM up to their limits, by way of tcsd, its library and tools.

tcsd knows the limits of its TPM and makes do with them: it swaps sessions and lets go of keys. What
trousers 0.3.15 does with a key that it had to load again is its own: the command that needed the
key fails once, with TCS_E_KM_LOADFAILED, and succeeds when it is repeated. It does so with swtpm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from protocol.tpm12.constants import (
    CapabilityProperty,
    Ordinal,
    ReservedHandle,
    ResourceType,
    ReturnCode,
)
from protocol.tpm12.keys import Key
from tests.integration.stack import Stack, running_stack, transact
from tests.integration.tcs import tcs_context
from tests.integration.tcsd import Tcsd, running_tcsd
from tests.integration.tpm_tap import Seen, tapped
from tests.integration.tspi import TspiError, TspiKey, tspi_context
from tests.unit.tpm12.keychain import sha1, signing_key, verifies
from tests.unit.tpm12.world import SeededRandom
from tpmcore import tss12
from tpmcore.tss12 import Conversation

T = TypeVar("T")

WELL_KNOWN = bytes(20)
MESSAGE = sha1(b"a message")
TPM_LAYER, TCS_LAYER = 0, 2
KM_LOADFAILED = 0xCA
SWAPPING = (Ordinal.SAVE_AUTH_CONTEXT, Ordinal.LOAD_AUTH_CONTEXT)
AREA = 0x10000
AREA_OVERHEAD_BYTES = 91


@dataclass
class Desk:
    """A guest's TPM with an owner, seen from both sides."""

    stack: Stack
    tcsd: Tcsd
    seen: Seen

    def run(self, conversation: Conversation[T]) -> T:
        """Run a conversation beside tcsd, on a connection of its own."""
        with self.stack.connect("g1") as client:
            return tss12.run_sync(lambda command: transact(client, command), conversation)

    def get(self, name: CapabilityProperty) -> int:
        """Return a property."""
        return self.run(tss12.get_property(name))


@pytest.fixture
def desk(run_dir: Path) -> Iterator[Desk]:
    """One guest with the well-known owner."""
    run_dir.chmod(0o755)
    tap = run_dir / "tap.sock"
    with (
        running_stack(run_dir) as stack,
        tapped(stack.tpm_socket("g1"), tap) as seen,
        running_tcsd(tap, run_dir / "t") as tcsd,
    ):
        tcsd.run("tpm_takeownership", "-y", "-z")
        yield Desk(stack, tcsd, seen)


def _sign(key: TspiKey) -> bool:
    """Sign; whether tcsd had let go of the key."""
    signature = _signature(key)
    again = signature is None
    if signature is None:
        signature = key.sign(MESSAGE)
    assert verifies(key.modulus(), MESSAGE, signature)
    return again


def _signature(key: TspiKey) -> bytes | None:
    try:
        return key.sign(MESSAGE)
    except TspiError as error:
        if (error.layer, error.code) == (TCS_LAYER, KM_LOADFAILED):
            return None
        raise


def test_more_keys_than_slots_are_loaded_and_all_are_used(desk: Desk) -> None:
    slots = desk.get(CapabilityProperty.MAX_KEYS)
    with tspi_context(desk.tcsd.port) as tss:
        # Without a secret, so that tcsd can load its children again by itself.
        parent = tss.new_storage_key()
        parent.load()
        keys = [tss.new_signing_key(parent) for _ in range(slots + 5)]
        for key in keys:
            key.load()
        assert desk.get(CapabilityProperty.KEYS) == 0
        assert len(desk.run(tss12.handles(ResourceType.KEY))) == slots
        loaded = desk.seen.ordinals().count(Ordinal.LOAD_KEY2)
        # There and back: at each end the other end's keys are those that are out.
        again = sum([_sign(key) for key in keys + keys[::-1]])
        assert again >= 2 * 5
        assert desk.seen.ordinals().count(Ordinal.LOAD_KEY2) == loaded + again
    assert desk.get(CapabilityProperty.KEYS) == slots
    assert ReturnCode.NOSPACE not in [code for _, code in desk.seen.commands]


def test_a_full_tpm_refuses_a_key_and_takes_it_when_there_is_room(desk: Desk) -> None:
    random = SeededRandom("beside tcsd")

    def load() -> int:
        return desk.run(
            tss12.load_key2(ReservedHandle.SRK, key, parent_auth=WELL_KNOWN, random=random)
        )

    key = Key.decode(_key(desk, random))
    held = [load() for _ in range(desk.get(CapabilityProperty.KEYS))]
    with tspi_context(desk.tcsd.port) as tss:
        parent = tss.new_storage_key()
        # They are not tcsd's keys, but it takes a slot of one that it does not know.
        parent.load()
        mine = tss.new_signing_key(parent)
        mine.load()
        _sign(mine)
    left = set(desk.run(tss12.handles(ResourceType.KEY)))
    assert len(set(held) - left) >= 2


def test_a_client_without_a_session_slot_is_told_so_and_goes_on_when_there_is_one(
    desk: Desk,
) -> None:
    with tspi_context(desk.tcsd.port) as tss:
        parent = tss.new_storage_key()
        parent.load()
        key = tss.new_signing_key(parent)
        key.load()
        held = [desk.run(tss12.oiap()) for _ in range(desk.get(CapabilityProperty.AUTHSESS))]
        assert len(held) >= 16
        with pytest.raises(TspiError) as refusal:
            key.sign(MESSAGE)
        assert (refusal.value.layer, refusal.value.code) == (TPM_LAYER, ReturnCode.RESOURCES)
        no_slot = desk.tcsd.run("tpm_nvdefine", *_area(AREA, 8), fails=True)
        assert "layer=tpm, code=0015" in no_slot

        desk.run(tss12.flush_specific(held.pop().handle, ResourceType.AUTH))
        assert verifies(key.modulus(), MESSAGE, key.sign(MESSAGE))
        desk.tcsd.run("tpm_nvdefine", *_area(AREA, 8))
        # Those of the others were not touched.
        handles = desk.run(tss12.handles(ResourceType.AUTH))
        assert sorted(handles) == sorted([session.handle for session in held])


def _key(desk: Desk, random: SeededRandom) -> bytes:
    """Have the TPM make a key under the SRK, beside tcsd."""
    create = tss12.create_wrap_key(
        ReservedHandle.SRK,
        signing_key(),
        parent_auth=WELL_KNOWN,
        usage_auth=WELL_KNOWN,
        random=random,
    )
    return desk.run(create).encode()


def test_more_sessions_than_slots_are_open_and_all_are_used(desk: Desk) -> None:
    slots = desk.get(CapabilityProperty.MAX_AUTHSESS)
    random = SeededRandom("keys of tcs")
    # tcsd lets one context have half of the slots.
    keys = [_key(desk, random) for _ in range(3 * (slots // 2))]
    with ExitStack() as stack:
        contexts = [stack.enter_context(tcs_context(desk.tcsd.port)) for _ in range(3)]
        sessions = [(context, context.oiap()) for context in contexts for _ in range(slots // 2)]
        outside = len(sessions) - slots
        assert desk.seen.ordinals().count(Ordinal.SAVE_AUTH_CONTEXT) == outside
        assert len(desk.run(tss12.handles(ResourceType.CONTEXT))) == outside
        # The one for which it makes its table of sessions larger is lost to tcsd itself.
        del sessions[slots]
        for (context, session), key in zip(sessions, keys, strict=False):
            context.load_key(session, key, WELL_KNOWN)
        assert desk.seen.ordinals().count(Ordinal.LOAD_AUTH_CONTEXT) >= outside
    assert {code for ordinal, code in desk.seen.commands if ordinal in SWAPPING} <= {
        ReturnCode.SUCCESS,
        ReturnCode.RESOURCES,
    }
    left = desk.run(tss12.handles(ResourceType.AUTH))
    assert len(left) <= 1
    assert desk.get(CapabilityProperty.AUTHSESS) == slots - len(left)
    assert desk.run(tss12.handles(ResourceType.CONTEXT)) == []


def _area(index: int, size: int) -> tuple[str, ...]:
    return ("-i", hex(index), "-s", str(size), "-p", "OWNERWRITE|OWNERREAD", "-y")


def test_nv_is_defined_to_the_last_byte_released_and_defined_again(desk: Desk) -> None:
    tcsd, folder = desk.tcsd, desk.tcsd.folder
    sizes: dict[int, int] = {}
    free = desk.get(CapabilityProperty.MAX_NV_AVAILABLE)
    while free:
        index = AREA + len(sizes)
        size = min(8000, free - AREA_OVERHEAD_BYTES)
        tcsd.run("tpm_nvdefine", *_area(index, size))
        sizes[index] = size
        free -= AREA_OVERHEAD_BYTES + size
        assert desk.get(CapabilityProperty.MAX_NV_AVAILABLE) == free
    no_room = tcsd.run("tpm_nvdefine", *_area(AREA + 99, 1), fails=True)
    assert "layer=tpm, code=0011" in no_room
    assert (Ordinal.NV_DEFINE_SPACE, ReturnCode.NOSPACE) in desk.seen.commands

    last = max(sizes)
    (folder / "end").write_bytes(b"the end!")
    at_end = ("-i", hex(last), "-n", str(sizes[last] - 8), "-s", "8")
    tcsd.run("tpm_nvwrite", *at_end, "-f", "end", "-z")

    tcsd.run("tpm_nvrelease", "-i", hex(AREA), "-y")
    assert desk.get(CapabilityProperty.MAX_NV_AVAILABLE) == AREA_OVERHEAD_BYTES + sizes[AREA]
    tcsd.run("tpm_nvdefine", *_area(AREA, sizes[AREA] + 1), fails=True)
    tcsd.run("tpm_nvdefine", *_area(AREA, sizes[AREA]))
    assert desk.get(CapabilityProperty.MAX_NV_AVAILABLE) == 0
    tcsd.run("tpm_nvread", *at_end, "-f", "read", "-z")
    assert (folder / "read").read_bytes() == b"the end!"
    assert desk.run(tss12.nv_list()) == [*sorted(set(sizes) - {AREA}), AREA]
