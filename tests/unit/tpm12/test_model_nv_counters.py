# SPDX-License-Identifier: Apache-2.0
"""NV storage and counters against a model that was written from the tables alone.

The model knows areas as dictionaries and judges each command by itself; engine and model must agree
on every return code and every byte read, whatever the order of commands, power cycles, restarts of
the daemon and full disks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from protocol.tpm12.constants import NvAttributes, PhysicalPresenceFlags, ResourceType, ReturnCode
from tests.unit.tpm12.world import OWNER_AUTH, Chip, make_owned_chip
from tpmcore import tss12
from tpmcore.engine import Done, Failed
from tpmcore.errors import TpmError
from tpmcore.tpm12.world import Profile
from tpmcore.tss12 import Conversation

OK = ReturnCode.SUCCESS
INDICES = (0x00000010, 0x00000011, 0x00010000)
AREA_AUTH = b"area-secret-of-model"
COUNTER_AUTH = b"counter-secret-model"
WRONG = bytes(20)
SLOTS = 3
ROOM_BYTES = 400
COST_BYTES = 91
"""What the engine's documentation says an area costs beside its data."""

A = NvAttributes
START = (A.OWNERWRITE | A.OWNERREAD, A.AUTHWRITE | A.AUTHREAD, A.PPWRITE)
PERMISSIONS = st.sampled_from(
    [
        *START,
        A.OWNERWRITE | A.AUTHREAD,
        A.AUTHWRITE | A.OWNERREAD,
        A.PPWRITE | A.PPREAD,
        A.OWNERWRITE | A.AUTHWRITE,
        A.OWNERREAD,
        A(0),
    ]
)
LOCKS = st.sampled_from(
    [
        A(0),
        A.WRITEDEFINE,
        A.WRITE_STCLEAR,
        A.READ_STCLEAR,
        A.GLOBALLOCK,
        A.WRITEALL,
        A.WRITE_STCLEAR | A.READ_STCLEAR,
        A.GLOBALLOCK | A.WRITEDEFINE,
    ]
)
HOW = st.sampled_from(["fitting", "fitting", "fitting", "owner", "area", "nobody"])
"""Which secret is used; "fitting" is the one that the area asks for."""
DATA = st.sampled_from([b"", b"a", b"bc", b"12345678", b"abcdefgh", b"123456789"])
SLOT = st.sampled_from([0, 0, 1, 1, SLOTS - 1, SLOTS])
SIZE = st.sampled_from([0, 1, 8, 9, 0xFFFFFFFF])
OFFSET = st.sampled_from([0, 0, 1, 0xFFFFFFFF, -1, -2])
"""-1: so that it ends with the area; -2: one byte beyond."""


@dataclass
class Area:
    """An area of the model."""

    attributes: NvAttributes
    data: bytearray
    defined_lock: bool = False
    write_lock: bool = False
    read_lock: bool = False


@dataclass
class Model:
    """What a chip with an owner and nvLocked should be like."""

    areas: dict[int, Area] = field(default_factory=dict)
    counters: dict[int, int] = field(default_factory=dict)
    highest: int = 0
    active: int | None = None
    blocked: bool = False
    present: bool = False
    global_lock: bool = False

    def define(self, index: int, attributes: NvAttributes, size: int) -> ReturnCode:
        """Judge and carry out a definition by the owner; size 0 deletes."""
        old = self.areas.get(index)
        if old is not None:
            if A.GLOBALLOCK in old.attributes and self.global_lock:
                return ReturnCode.AREA_LOCKED
            if A.WRITE_STCLEAR in old.attributes and old.write_lock:
                return ReturnCode.AREA_LOCKED
            del self.areas[index]
            if size == 0:
                return OK
        for one, other in ((A.OWNERWRITE, A.AUTHWRITE), (A.OWNERREAD, A.AUTHREAD)):
            if one in attributes and other in attributes:
                return ReturnCode.AUTH_CONFLICT
        writers = A.OWNERWRITE | A.AUTHWRITE | A.PPWRITE | A.WRITEDEFINE
        if not attributes & writers:
            return ReturnCode.PER_NOWRITE
        if size == 0:
            return ReturnCode.BAD_PARAM_SIZE
        used = sum(COST_BYTES + len(area.data) for area in self.areas.values())
        if used + COST_BYTES + size > ROOM_BYTES:
            return ReturnCode.NOSPACE
        self.areas[index] = Area(attributes, bytearray(b"\xff" * size))
        return OK

    def _judge(
        self, index: int, how: str, owner: NvAttributes, area_auth: NvAttributes, pp: NvAttributes
    ) -> ReturnCode:
        area = self.areas.get(index)
        if area is None:
            return ReturnCode.BADINDEX
        wanted = {"owner": owner, "area": area_auth}.get(how)
        if wanted is None:
            if area.attributes & (owner | area_auth):
                return ReturnCode.AUTH_CONFLICT
        elif wanted not in area.attributes:
            return ReturnCode.AUTH_CONFLICT
        if pp in area.attributes and not self.present:
            return ReturnCode.BAD_PRESENCE
        return OK

    def write(self, index: int, how: str, offset: int, data: bytes) -> ReturnCode:
        """Judge and carry out a write."""
        code = self._judge(index, how, A.OWNERWRITE, A.AUTHWRITE, A.PPWRITE)
        if code != OK:
            return code
        area = self.areas[index]
        for attribute, locked in (
            (A.WRITEDEFINE, area.defined_lock),
            (A.GLOBALLOCK, self.global_lock),
            (A.WRITE_STCLEAR, area.write_lock),
        ):
            if attribute in area.attributes and locked:
                return ReturnCode.AREA_LOCKED
        if not data:
            area.defined_lock = area.write_lock = True
        elif offset + len(data) > len(area.data):
            return ReturnCode.NOSPACE
        elif A.WRITEALL in area.attributes and len(data) != len(area.data):
            return ReturnCode.NOT_FULLWRITE
        else:
            area.data[offset : offset + len(data)] = data
        area.read_lock = False
        return OK

    def read(self, index: int, how: str, offset: int, size: int) -> ReturnCode | bytes:
        """Judge and carry out a read."""
        code = self._judge(index, how, A.OWNERREAD, A.AUTHREAD, A.PPREAD)
        if code != OK:
            return code
        area = self.areas[index]
        if A.READ_STCLEAR in area.attributes and area.read_lock:
            return ReturnCode.DISABLED_CMD
        if size == 0:
            area.read_lock = True
            return b""
        if offset + size > len(area.data):
            return ReturnCode.NOSPACE
        return bytes(area.data[offset : offset + size])

    def create_counter(self) -> ReturnCode | int:
        """Make a counter; returns its first value."""
        free = [slot for slot in range(SLOTS) if slot not in self.counters]
        if not free:
            return ReturnCode.RESOURCES
        self.highest += 1
        self.counters[free[0]] = self.highest
        return self.highest

    def increment(self, slot: int) -> ReturnCode | int:
        """Add one; returns the value."""
        if self.blocked or self.active not in (None, slot) or slot not in self.counters:
            return ReturnCode.BAD_COUNTER
        self.active = slot
        self.counters[slot] += 1
        self.highest = max(self.highest, self.counters[slot])
        return self.counters[slot]

    def release(self, slot: int) -> ReturnCode:
        """Give a counter up."""
        if slot not in self.counters:
            return ReturnCode.BAD_COUNTER
        del self.counters[slot]
        if self.active == slot:
            self.blocked = True
        return OK

    def startup(self) -> None:
        """Startup(CLEAR)."""
        self.active, self.blocked, self.present, self.global_lock = None, False, False, False
        for area in self.areas.values():
            area.write_lock = area.read_lock = False


class ChipAndModel(RuleBasedStateMachine):
    """A chip and the model, side by side."""

    chip: Chip
    model: Model

    def begin(self) -> None:
        """Manufacture a chip, take ownership, lock NV, allow presence by command."""
        self.chip = make_owned_chip(Profile(max_counters=SLOTS, nv_space_bytes=ROOM_BYTES))
        self.chip.run(tss12.nv_lock())
        self.chip.run(tss12.tsc_physical_presence(PhysicalPresenceFlags.CMD_ENABLE))
        self.model = Model()

    def outcome(self, conversation: Conversation[object]) -> object:
        """Return the result of a conversation, or its return code if it is an error."""
        # Far enough for every lockout to be over.
        self.chip.ticks.advance(3600)
        try:
            result = self.chip.run(conversation)
        except TpmError as error:
            return error.code
        return OK if result is None else result

    @rule()
    def power_cycle(self) -> None:
        """Cut the power and start up with CLEAR."""
        self.chip.power_cycle()
        self.model.startup()

    @rule()
    def restart(self) -> None:
        """Kill the daemon and take everything up again."""
        self.chip.restart()


class NvStorage(ChipAndModel):
    """Commands of chapter 20."""

    @initialize()
    def begin_with_areas(self) -> None:
        """Define one area of each kind, so that the first steps find something."""
        self.begin()
        for index, permission in zip(INDICES, START, strict=True):
            self.define(index, permission, A(0), 8)

    def fitting(self, index: int, how: str, owner: NvAttributes, area_auth: NvAttributes) -> str:
        """Return the secret to use."""
        area = self.model.areas.get(index)
        if how != "fitting":
            return how
        if area is None or owner in area.attributes:
            return "owner"
        return "area" if area_auth in area.attributes else "nobody"

    @rule(index=st.sampled_from(INDICES), permission=PERMISSIONS, lock=LOCKS,
          size=st.sampled_from([8, 8, 8, 8, 1, 0, 111, 112, 300]))  # fmt: skip
    def define(self, index: int, permission: NvAttributes, lock: NvAttributes, size: int) -> None:
        """Define, redefine or delete."""
        attributes = permission | lock
        conversation = tss12.nv_define_space(
            index,
            size,
            attributes,
            owner_auth=OWNER_AUTH,
            area_auth=AREA_AUTH,
            random=self.chip.client_random,
        )
        assert self.outcome(conversation) == self.model.define(index, attributes, size)

    def _write(self, index: int, how: str, offset: int, data: bytes) -> Conversation[None]:
        random = self.chip.client_random
        if how == "area":
            return tss12.nv_write_value_auth(
                index, data, offset=offset, area_auth=AREA_AUTH, random=random
            )
        owner_auth = OWNER_AUTH if how == "owner" else None
        return tss12.nv_write_value(
            index, data, offset=offset, owner_auth=owner_auth, random=random
        )

    def place(self, index: int, offset: int, size: int) -> int:
        """Return the offset that is meant."""
        area = self.model.areas.get(index)
        if offset >= 0 or area is None:
            return max(offset, 0)
        return max(0, len(area.data) - size - offset - 1)

    @rule(index=st.sampled_from(INDICES), how=HOW, offset=OFFSET, data=DATA)
    def write(self, index: int, how: str, offset: int, data: bytes) -> None:
        """Write in one of the three ways."""
        how = self.fitting(index, how, A.OWNERWRITE, A.AUTHWRITE)
        offset = self.place(index, offset, len(data))
        outcome = self.outcome(self._write(index, how, offset, data))
        assert outcome == self.model.write(index, how, offset, data)

    @rule(index=st.sampled_from(INDICES), how=HOW, data=st.binary(min_size=8, max_size=8))
    def write_with_a_full_disk(self, index: int, how: str, data: bytes) -> None:
        """A write that cannot be made durable changes nothing but what an error changes."""
        how = self.fitting(index, how, A.OWNERWRITE, A.AUTHWRITE)
        area = self.model.areas.get(index)
        before = None if area is None else (bytes(area.data), area.read_lock)
        expected = self.model.write(index, how, 0, data)
        self.chip.persist_result = Failed()
        outcome = self.outcome(self._write(index, how, 0, data))
        self.chip.persist_result = Done()
        if expected == OK and area is not None and before is not None and before[0] != area.data:
            area.data[:], area.read_lock = before
            expected = ReturnCode.IOERROR
        assert outcome == expected

    @rule(index=st.sampled_from(INDICES), how=HOW, offset=OFFSET, size=SIZE)
    def read(self, index: int, how: str, offset: int, size: int) -> None:
        """Read in one of the three ways."""
        how = self.fitting(index, how, A.OWNERREAD, A.AUTHREAD)
        offset = self.place(index, offset, size)
        random = self.chip.client_random
        if how == "area":
            conversation = tss12.nv_read_value_auth(
                index, size, offset=offset, area_auth=AREA_AUTH, random=random
            )
        else:
            owner_auth = OWNER_AUTH if how == "owner" else None
            conversation = tss12.nv_read_value(
                index, size, offset=offset, owner_auth=owner_auth, random=random
            )
        assert self.outcome(conversation) == self.model.read(index, how, offset, size)

    @rule(index=st.sampled_from(INDICES), reading=st.booleans(), owner=st.booleans())
    def guess(self, index: int, reading: bool, owner: bool) -> None:
        """A wrong secret opens nothing."""
        random = self.chip.client_random
        conversation: Conversation[object]
        if owner:
            flag = A.OWNERREAD if reading else A.OWNERWRITE
            conversation = (
                tss12.nv_read_value(index, 1, owner_auth=WRONG, random=random)
                if reading
                else tss12.nv_write_value(index, b"!", owner_auth=WRONG, random=random)
            )
        else:
            flag = A.AUTHREAD if reading else A.AUTHWRITE
            conversation = (
                tss12.nv_read_value_auth(index, 1, area_auth=WRONG, random=random)
                if reading
                else tss12.nv_write_value_auth(index, b"!", area_auth=WRONG, random=random)
            )
        area = self.model.areas.get(index)
        if area is None:
            expected = ReturnCode.BADINDEX
        elif flag in area.attributes:
            expected = ReturnCode.AUTHFAIL
        else:
            expected = ReturnCode.AUTH_CONFLICT
        assert self.outcome(conversation) == expected

    @rule()
    def lock_globally(self) -> None:
        """Set bGlobalLock."""
        assert self.outcome(tss12.nv_write_value(0, b"")) == OK
        self.model.global_lock = True

    @rule(present=st.booleans())
    def presence(self, present: bool) -> None:
        """Assert or take back physical presence."""
        flag = PhysicalPresenceFlags.PRESENT if present else PhysicalPresenceFlags.NOTPRESENT
        assert self.outcome(tss12.tsc_physical_presence(flag)) == OK
        self.model.present = present

    @invariant()
    def areas_are_told_as_they_are(self) -> None:
        """What capabilities say is what the model has."""
        chip, model = self.chip, self.model
        assert sorted(chip.run(tss12.nv_list())) == sorted(model.areas)
        for index, area in model.areas.items():
            public = chip.run(tss12.nv_public(index))
            assert public.data_size == len(area.data)
            assert (public.b_write_define, public.b_write_st_clear, public.b_read_st_clear) == (
                area.defined_lock,
                area.write_lock,
                area.read_lock,
            )
        assert chip.run(tss12.handles(ResourceType.AUTH)) == []


class Counters(ChipAndModel):
    """Commands of chapter 25."""

    @initialize()
    def begin_with_counters(self) -> None:
        """Make two counters, so that the first steps find something."""
        self.begin()
        self.create_counter()
        self.create_counter()

    @rule()
    def create_counter(self) -> None:
        """Make a counter."""
        outcome = self.outcome(
            tss12.create_counter(
                owner_auth=OWNER_AUTH,
                counter_auth=COUNTER_AUTH,
                label=b"modl",
                random=self.chip.client_random,
            )
        )
        value = outcome.value.counter if isinstance(outcome, tss12.NewCounter) else outcome
        assert value == self.model.create_counter()

    @rule(slot=SLOT)
    def increment(self, slot: int) -> None:
        """Add one to a counter."""
        outcome = self.outcome(
            tss12.increment_counter(slot, counter_auth=COUNTER_AUTH, random=self.chip.client_random)
        )
        expected = self.model.increment(slot)
        assert getattr(outcome, "counter", outcome) == expected

    @rule()
    def release_the_active_counter(self) -> None:
        """Increment a counter, give it up and look for another that moves: none does."""
        for slot in list(self.model.counters):
            self.increment(slot)
        if self.model.active is not None:
            self.release(self.model.active, False)
        for slot in range(SLOTS):
            self.increment(slot)

    @rule(slot=SLOT, as_owner=st.booleans())
    def release(self, slot: int, as_owner: bool) -> None:
        """Give a counter up."""
        random = self.chip.client_random
        conversation = (
            tss12.release_counter_owner(slot, owner_auth=OWNER_AUTH, random=random)
            if as_owner
            else tss12.release_counter(slot, counter_auth=COUNTER_AUTH, random=random)
        )
        assert self.outcome(conversation) == self.model.release(slot)

    @invariant()
    def counters_are_told_as_they_are(self) -> None:
        """What can be read is what the model has."""
        for slot in range(SLOTS):
            expected = self.model.counters.get(slot, ReturnCode.BAD_COUNTER)
            outcome = self.outcome(tss12.read_counter(slot))
            assert getattr(outcome, "counter", outcome) == expected
        assert self.chip.run(tss12.handles(ResourceType.AUTH)) == []


TestNvStorage = NvStorage.TestCase
TestNvStorage.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCounters = Counters.TestCase
TestCounters.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
