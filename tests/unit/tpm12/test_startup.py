# SPDX-License-Identifier: Apache-2.0
"""A new chip to the last flag; TPM_Init, the three kinds of Startup, and what SaveState keeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from protocol.tpm12.constants import (
    CapabilityArea,
    CapabilityProperty,
    EntityType,
    NvAttributes,
    Ordinal,
    PhysicalPresenceFlags,
    ReservedHandle,
    ResourceType,
    ReturnCode,
    SetCapabilityArea,
    StartupType,
    Tag,
)
from protocol.tpm12.framing import build_message
from protocol.tpm12.wire import U32
from tests.unit.tpm12.keychain import (
    USAGE_AUTH,
    load,
    make_and_load,
    make_key,
    sha1,
    signing_key,
)
from tests.unit.tpm12.tunnel import PLAIN, open_tunnel
from tests.unit.tpm12.world import (
    OWNER_AUTH,
    Chip,
    make_chip,
    make_owned_chip,
)
from tpmcore import tss12
from tpmcore.engine import PowerOn
from tpmcore.tpm12 import selftest
from tpmcore.tpm12.lockout import THRESHOLD
from tpmcore.tpm12.stateformat import decode_permanent, encode_permanent
from tpmcore.tpm12.world import Profile

STATE = StartupType.STATE
RESETTABLE = (16, 17, 18, 19, 20, 21, 22, 23)
AUTH_AREA, OWNER_AREA = 0x10001, 0x10002
AREA_AUTH = b"secret of an area---"
COUNTER_AUTH = b"secret of a counter-"
ZERO, ONES = bytes(20), b"\xff" * 20


def _flags(chip: Chip, which: int) -> bytes:
    return chip.run(tss12.get_capability(CapabilityArea.FLAG, U32.write(which)))


class TestNewChip:
    """What a chip is before anybody has done anything to it."""

    def test_one_that_comes_as_specified_is_switched_on_by_who_is_present(self) -> None:
        chip = make_chip(Profile(enabled=False, activated=False))
        flags = chip.run(tss12.permanent_flags())
        assert (flags.disable, flags.deactivated) == (True, True)
        assert chip.code(tss12.pcr_read(0)) == ReturnCode.DISABLED
        chip.assert_presence()
        chip.run(tss12.physical_enable())
        assert chip.code(tss12.pcr_read(0)) == ReturnCode.DEACTIVATED
        chip.run(tss12.physical_set_deactivated(False))
        chip.power_cycle()
        assert chip.run(tss12.pcr_read(0)) == ZERO

    @pytest.mark.parametrize(("enabled", "activated"), [(True, False), (False, True)])
    def test_either_flag_is_chosen_alone(self, enabled: bool, activated: bool) -> None:
        chip = make_chip(Profile(enabled=enabled, activated=activated))
        flags = chip.run(tss12.permanent_flags())
        assert (flags.disable, flags.deactivated) == (not enabled, not activated)
        # What it comes with is of the chip, and not of its profile later.
        chip.profile = Profile()
        chip.power_cycle()
        assert chip.run(tss12.permanent_flags()) == flags

    @pytest.mark.parametrize("make_ek", [True, False])
    def test_permanent_flags(self, make_ek: bool) -> None:
        expected = bytes.fromhex(
            "001f"  # TPM_TAG_PERMANENT_FLAGS
            "00"  # disable
            "01"  # ownership
            "00"  # deactivated
            "01"  # readPubek
            "00"  # disableOwnerClear
            "01"  # allowMaintenance
            "00"  # physicalPresenceLifetimeLock
            "00"  # physicalPresenceHWEnable
            "00"  # physicalPresenceCMDEnable
            "00"  # CEKPUsed: a key of the factory is not one of CreateEndorsementKeyPair
            "00"  # TPMpost
            "00"  # TPMpostLock
            "00"  # FIPS
            "00"  # operator
            + ("00" if make_ek else "01")  # enableRevokeEK: an EK of the factory stays
            + "00"  # nvLocked
            "00"  # readSRKPub
            "00"  # tpmEstablished
            "00"  # maintenanceDone
            "00"  # disableFullDALogicInfo
        )
        assert _flags(make_chip(Profile(make_ek=make_ek)), 0x108) == expected

    def test_flags_of_this_start(self) -> None:
        # tag; deactivated, disableForceClear, physicalPresence, its lock, bGlobalLock
        assert _flags(make_chip(), 0x109) == bytes.fromhex("0020 0000000000")

    def test_pcrs(self) -> None:
        chip = make_chip()
        for index in range(24):
            expected = ONES if 17 <= index <= 22 else ZERO
            assert chip.run(tss12.pcr_read(index)) == expected

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            (CapabilityProperty.OWNER, 0),
            (CapabilityProperty.KEYS, 20),
            (CapabilityProperty.AUTHSESS, 16),
            (CapabilityProperty.TRANSESS, 16),
            (CapabilityProperty.DAASESS, 2),
            (CapabilityProperty.CONTEXT, 128),
            (CapabilityProperty.COUNTERS, 8),
            (CapabilityProperty.FAMILYROWS, 16),
            (CapabilityProperty.DELEGATE_ROW, 4),
            (CapabilityProperty.ACTIVE_COUNTER, 0xFFFFFFFF),
            (CapabilityProperty.CMK_RESTRICTION, 0),
            (CapabilityProperty.MAX_NV_AVAILABLE, 28672),
            (CapabilityProperty.STARTUP_EFFECT, 0x54),
            (CapabilityProperty.MIN_COUNTER, 0),
        ],
    )
    def test_properties(self, name: CapabilityProperty, value: int) -> None:
        answer = make_chip().run(tss12.get_capability(CapabilityArea.PROPERTY, U32.write(name)))
        assert int.from_bytes(answer, "big") == value

    def test_nothing_is_loaded_defined_or_audited_beyond_the_default(self) -> None:
        chip = make_chip()
        for kind in ResourceType.KEY, ResourceType.AUTH, ResourceType.TRANS, ResourceType.CONTEXT:
            assert chip.run(tss12.handles(kind)) == []
        assert chip.run(tss12.nv_list()) == []
        audit = chip.run(tss12.get_audit_digest())
        assert (audit.digest, audit.counter.counter) == (ZERO, 0)
        tables = chip.run(tss12.read_delegation_tables())
        assert (list(tables.families), list(tables.rows)) == ([], [])

    def test_the_lockout_is_at_rest(self) -> None:
        # TPM_DA_INFO: tag, inactive, count 0, threshold 5, action TIMEOUT, 0 seconds, no more
        assert _da_info(make_owned_chip()) == bytes.fromhex(
            "0037 00 0000 0005 0039 00000001 00000000 00000000"
        )


class TestInit:
    """TPM_Init: only Startup is taken, and only a good one."""

    @pytest.fixture
    def chip(self) -> Chip:
        return make_chip(startup=None)

    def test_nothing_but_startup_is_taken(self, chip: Chip) -> None:
        for command in tss12.pcr_read(0), tss12.get_test_result(), tss12.self_test_full():
            assert chip.code(command) == ReturnCode.INVALID_POSTINIT

    @pytest.mark.parametrize(
        ("tag", "body", "code"),
        [
            (Tag.RQU_COMMAND, "0000", ReturnCode.BAD_PARAMETER),
            (Tag.RQU_COMMAND, "0004", ReturnCode.BAD_PARAMETER),
            (Tag.RQU_COMMAND, "00", ReturnCode.BAD_PARAM_SIZE),
            (Tag.RQU_COMMAND, "0001 00", ReturnCode.BAD_PARAM_SIZE),
            (Tag.RQU_AUTH1_COMMAND, "0001", ReturnCode.BADTAG),
        ],
    )
    def test_a_malformed_startup_is_none(
        self, chip: Chip, tag: Tag, body: str, code: ReturnCode
    ) -> None:
        response = chip.send(build_message(tag, Ordinal.STARTUP, bytes.fromhex(body)))
        assert response[6:10] == U32.write(code)
        assert chip.code(tss12.pcr_read(0)) == ReturnCode.INVALID_POSTINIT
        chip.run(tss12.startup())
        assert chip.run(tss12.pcr_read(0)) == ZERO

    @pytest.mark.parametrize("body", ["0000", "00"])
    def test_a_malformed_startup_leaves_the_saved_state(self, body: str) -> None:
        chip = make_chip()
        value = chip.run(tss12.extend(3, b"m" * 20))
        chip.run(tss12.save_state())
        chip.power_cycle(None)
        chip.send(build_message(Tag.RQU_COMMAND, Ordinal.STARTUP, bytes.fromhex(body)))
        chip.run(tss12.startup(STATE))
        assert chip.run(tss12.pcr_read(3)) == value

    @pytest.mark.parametrize("kind", list(StartupType))
    def test_there_is_one_startup(self, kind: StartupType) -> None:
        chip = make_chip()
        chip.run(tss12.save_state())
        chip.power_cycle(kind)
        for again in StartupType:
            assert chip.code(tss12.startup(again)) == ReturnCode.INVALID_POSTINIT


class TestTicks:
    """A tick session begins with TPM_Init and not with Startup."""

    @pytest.mark.parametrize("kind", [StartupType.CLEAR, STATE])
    def test_startup_neither_stops_nor_renews_it(self, kind: StartupType) -> None:
        chip = make_chip()
        chip.ticks.advance(7)
        before = chip.run(tss12.get_ticks())
        chip.run(tss12.save_state())
        chip.power_cycle(None)
        chip.ticks.advance(2)
        chip.run(tss12.startup(kind))
        chip.ticks.advance(1)
        after = chip.run(tss12.get_ticks())
        assert after.current_ticks == 3_000_000
        assert after.tick_nonce != before.tick_nonce

    def test_a_power_on_signal_renews_it_too(self) -> None:
        chip = make_chip()
        before = chip.run(tss12.get_ticks())
        chip.ticks.advance(5)
        chip.handle(PowerOn())
        chip.run(tss12.startup())
        after = chip.run(tss12.get_ticks())
        assert (after.current_ticks, after.tick_rate) == (0, 1)
        assert after.tick_nonce != before.tick_nonce

    def test_no_command_sets_it_back(self) -> None:
        chip = make_owned_chip()
        chip.ticks.advance(4)
        nonce = chip.run(tss12.get_ticks()).tick_nonce
        for command in (
            tss12.reset(),
            tss12.self_test_full(),
            tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random),
        ):
            chip.run(command)
        chip.assert_presence()
        chip.run(tss12.physical_enable())
        ticks = chip.run(tss12.get_ticks())
        assert (ticks.current_ticks, ticks.tick_nonce) == (4_000_000, nonce)

    def test_stamps_before_and_after_a_restart_of_the_daemon_are_of_one_session(self) -> None:
        chip = make_owned_chip()
        _, handle = make_and_load(chip, signing_key())

        def stamp() -> tss12.TickStamp:
            return chip.run(
                tss12.tick_stamp_blob(
                    handle, ZERO, anti_replay=ONES, key_auth=USAGE_AUTH, random=chip.client_random
                )
            )

        first = stamp()
        chip.ticks.advance(3)
        chip.restart()
        second = stamp()
        assert second.ticks.tick_nonce == first.ticks.tick_nonce
        assert second.ticks.current_ticks - first.ticks.current_ticks == 3_000_000


class TestState:
    """SaveState and Startup(STATE): what comes back, and what does not."""

    @pytest.fixture
    def chip(self) -> Chip:
        return make_owned_chip()

    def _suspend(self, chip: Chip, *, seconds: float = 0) -> None:
        chip.run(tss12.save_state())
        chip.ticks.advance(seconds)
        chip.power_cycle(STATE)

    def test_every_pcr(self, chip: Chip) -> None:
        values = {}
        for index in range(24):
            if 17 <= index <= 22:
                continue
            values[index] = chip.run(tss12.extend(index, sha1(bytes([index]))))
        self._suspend(chip)
        for index in range(24):
            initial = ONES if 17 <= index <= 22 else ZERO
            expected = initial if index in RESETTABLE else values[index]
            assert chip.run(tss12.pcr_read(index)) == expected

    def test_keys_and_every_kind_of_session(self, chip: Chip) -> None:
        random = chip.client_random
        _, handle = make_and_load(chip, signing_key())
        oiap = chip.run(tss12.oiap())
        osap = chip.run(tss12.osap(EntityType.KEYHANDLE, handle, USAGE_AUTH, random=random))
        tunnel = open_tunnel(chip, PLAIN)
        saved = chip.run(tss12.oiap())
        blob = chip.run(tss12.save_context(saved.handle, ResourceType.AUTH))
        self._suspend(chip)
        for session in oiap, osap:
            chip.run(tss12.sign(handle, ZERO, key_auth=USAGE_AUTH, random=random, session=session))
        assert chip.run(tss12.through(tunnel, tss12.pcr_read(0))) == ZERO
        assert chip.run(tss12.load_context(blob)) == saved.handle

    def test_flags_of_this_start(self, chip: Chip) -> None:
        chip.assert_presence()
        chip.run(tss12.tsc_physical_presence(PhysicalPresenceFlags.LOCK))
        chip.run(tss12.set_capability(SetCapabilityArea.STCLEAR_FLAGS, 2, b"\x01"))
        before = _flags(chip, 0x109)
        assert before == bytes.fromhex("0020 00 01 00 01 00")
        self._suspend(chip)
        assert _flags(chip, 0x109) == before
        chip.power_cycle()
        assert _flags(chip, 0x109) == bytes.fromhex("0020 0000000000")

    def test_temporary_deactivation(self, chip: Chip) -> None:
        chip.assert_presence()
        chip.run(tss12.set_temp_deactivated())
        self._suspend(chip)
        assert chip.code(tss12.pcr_read(0)) == ReturnCode.DEACTIVATED

    def test_the_counter_of_this_boot(self, chip: Chip) -> None:
        random = chip.client_random
        one, other = [
            chip.run(
                tss12.create_counter(
                    owner_auth=OWNER_AUTH, counter_auth=COUNTER_AUTH, label=label, random=random
                )
            ).count_id
            for label in (b"one ", b"two ")
        ]

        def increment(count_id: int) -> int:
            return chip.code(
                tss12.increment_counter(count_id, counter_auth=COUNTER_AUTH, random=random)
            )

        assert increment(one) == ReturnCode.SUCCESS
        self._suspend(chip)
        assert increment(other) == ReturnCode.BAD_COUNTER
        chip.power_cycle()
        assert increment(other) == ReturnCode.SUCCESS

    def test_nv_locks_of_this_start(self, chip: Chip) -> None:
        random, attributes = chip.client_random, NvAttributes
        locking = attributes.AUTHREAD | attributes.AUTHWRITE | attributes.WRITE_STCLEAR
        chip.run(
            tss12.nv_define_space(
                AUTH_AREA,
                4,
                locking | attributes.READ_STCLEAR,
                owner_auth=OWNER_AUTH,
                area_auth=AREA_AUTH,
                random=random,
            )
        )
        read = tss12.nv_read_value_auth(AUTH_AREA, 0, area_auth=AREA_AUTH, random=random)
        write = tss12.nv_write_value_auth(AUTH_AREA, b"", area_auth=AREA_AUTH, random=random)
        chip.run(write)
        chip.run(read)
        self._suspend(chip)
        public = chip.run(tss12.nv_public(AUTH_AREA))
        assert (public.b_read_st_clear, public.b_write_st_clear) == (True, True)
        chip.power_cycle()
        public = chip.run(tss12.nv_public(AUTH_AREA))
        assert (public.b_read_st_clear, public.b_write_st_clear) == (False, False)

    def test_the_audit_chain(self, chip: Chip) -> None:
        before = chip.run(tss12.get_audit_digest()).digest
        assert before != ZERO  # TakeOwnership is audited
        self._suspend(chip)
        assert chip.run(tss12.get_audit_digest()).digest == before
        chip.power_cycle()
        assert chip.run(tss12.get_audit_digest()).digest == ZERO

    def test_failures_and_the_lockout_with_the_seconds_that_are_left(self, chip: Chip) -> None:
        for _ in range(THRESHOLD + 3):
            _guess(chip)
            chip.ticks.advance(0 if _seconds_left(chip) in (0, 4) else _seconds_left(chip))
        assert _seconds_left(chip) == 4
        self._suspend(chip, seconds=3)
        assert _guess(chip, OWNER_AUTH) == ReturnCode.DEFEND_LOCK_RUNNING
        assert _seconds_left(chip) == 1
        chip.ticks.advance(1)
        assert _guess(chip) == ReturnCode.AUTHFAIL
        assert _seconds_left(chip) == 8

    def test_the_self_tests_are_run_again(self, chip: Chip) -> None:
        chip.run(tss12.self_test_full())
        self._suspend(chip)
        assert b"only those" in chip.run(tss12.get_test_result())

    def test_it_comes_back_once(self, chip: Chip) -> None:
        self._suspend(chip)
        chip.power_cycle(None)
        assert chip.code(tss12.startup(STATE)) == ReturnCode.FAILEDSELFTEST
        assert chip.code(tss12.pcr_read(0)) == ReturnCode.FAILEDSELFTEST

    @pytest.mark.parametrize("kind", [StartupType.CLEAR, StartupType.DEACTIVATED])
    def test_another_startup_drops_it(self, chip: Chip, kind: StartupType) -> None:
        chip.run(tss12.save_state())
        chip.power_cycle(kind)
        chip.power_cycle(None)
        assert chip.code(tss12.startup(STATE)) == ReturnCode.FAILEDSELFTEST

    def test_a_damaged_one_is_failure_mode_and_no_exception(self, chip: Chip) -> None:
        chip.run(tss12.save_state())
        kept = chip.engine._tpm.permanent.saved_state
        place = chip.durable.index(kept)
        # A section number that does not exist.
        damaged = kept[:12] + b"\x00\x63" + kept[14:]
        chip.durable = chip.durable[:place] + damaged + chip.durable[place + len(kept) :]
        chip.power_cycle(None)
        assert chip.code(tss12.startup(STATE)) == ReturnCode.FAILEDSELFTEST
        assert chip.engine.fault is None
        chip.power_cycle()
        assert chip.code(tss12.pcr_read(0)) == ReturnCode.SUCCESS


class TestDeactivated:
    """Startup(DEACTIVATED): until the next Init there is little more than measuring."""

    def test_only_what_works_in_any_state_works(self) -> None:
        chip = make_owned_chip()
        chip.run(tss12.extend(1, b"m" * 20))
        chip.power_cycle(StartupType.DEACTIVATED)
        assert _flags(chip, 0x109) == bytes.fromhex("0020 01 00000000")
        assert chip.code(tss12.pcr_read(1)) == ReturnCode.DEACTIVATED
        # It measures, and does not tell what.
        assert chip.run(tss12.extend(1, b"m" * 20)) == ZERO
        assert chip.code(tss12.oiap()) == ReturnCode.SUCCESS
        assert not chip.run(tss12.permanent_flags()).deactivated
        chip.power_cycle()
        assert chip.run(tss12.pcr_read(1)) == ZERO

    @pytest.mark.parametrize("restarted", [False, True])
    def test_keys_that_the_owner_keeps_are_there(self, restarted: bool) -> None:
        chip = make_owned_chip()
        key = make_key(chip, signing_key())
        handle = load(chip, key)
        keep = tss12.key_control_owner(
            handle, key.public_key, True, owner_auth=OWNER_AUTH, random=chip.client_random
        )
        chip.run(keep)
        loaded = load(chip, key)
        chip.power_cycle(StartupType.DEACTIVATED)
        if restarted:
            chip.restart()
        assert chip.run(tss12.handles(ResourceType.KEY)) == [handle]
        evict = tss12.flush_specific(handle, ResourceType.KEY)
        assert chip.code(evict) == ReturnCode.KEY_OWNER_CONTROL
        evict = tss12.flush_specific(loaded, ResourceType.KEY)
        assert chip.code(evict) == ReturnCode.BAD_PARAMETER


def _guess(chip: Chip, owner_auth: bytes = b"a guess at the owner") -> int:
    random = chip.client_random
    return chip.code(
        tss12.owner_read_internal_pub(ReservedHandle.SRK, owner_auth=owner_auth, random=random)
    )


def _da_info(chip: Chip) -> bytes:
    return chip.run(tss12.get_capability(CapabilityArea.DA_LOGIC, b"\x00\x02"))


def _seconds_left(chip: Chip) -> int:
    return int.from_bytes(_da_info(chip)[13:17], "big")


def _count(chip: Chip) -> int:
    return int.from_bytes(_da_info(chip)[3:5], "big")


def _force_clear(chip: Chip) -> None:
    chip.assert_presence()
    chip.run(tss12.force_clear())
    # The clear has disabled it.
    chip.run(tss12.physical_enable())


class TestLockout:
    """Six wrong secrets lock out for a second, each further one twice as long."""

    @pytest.fixture
    def chip(self) -> Chip:
        return make_owned_chip()

    def test_its_times_to_the_microsecond(self, chip: Chip) -> None:
        for failure in range(1, 15):
            assert _guess(chip) == ReturnCode.AUTHFAIL
            assert _count(chip) == failure
            seconds = 1 << failure - THRESHOLD - 1 if failure > THRESHOLD else 0
            assert _seconds_left(chip) == seconds
            if seconds:
                chip.ticks.now_us += seconds * 1_000_000 - 1
                assert _guess(chip, OWNER_AUTH) == ReturnCode.DEFEND_LOCK_RUNNING
                assert _seconds_left(chip) == 1
                chip.ticks.now_us += 1
            assert _seconds_left(chip) == 0

    def test_a_success_does_not_make_up_for_failures(self, chip: Chip) -> None:
        for _ in range(THRESHOLD):
            assert _guess(chip) == ReturnCode.AUTHFAIL
            assert _guess(chip, OWNER_AUTH) == ReturnCode.SUCCESS
        assert _guess(chip) == ReturnCode.AUTHFAIL
        assert _guess(chip, OWNER_AUTH) == ReturnCode.DEFEND_LOCK_RUNNING

    def test_while_it_lasts_sessions_live_and_nothing_is_counted(self, chip: Chip) -> None:
        session = chip.run(tss12.oiap())
        for _ in range(THRESHOLD + 1):
            _guess(chip)
        handle = session.handle
        wrong = tss12.Session(handle, session.protocol, session.nonce_even)
        guess = tss12.nv_read_value(
            0x10000, 1, owner_auth=ZERO, random=chip.client_random, session=wrong
        )
        command = next(guess)
        guess.close()
        for _ in range(3):
            assert chip.send(command)[6:10] == U32.write(ReturnCode.DEFEND_LOCK_RUNNING)
        assert chip.run(tss12.handles(ResourceType.AUTH)) == [handle]
        assert _count(chip) == THRESHOLD + 1
        # What needs no secret is served.
        assert chip.run(tss12.pcr_read(0)) == ZERO
        chip.ticks.advance(1)
        assert chip.send(command)[6:10] != U32.write(ReturnCode.DEFEND_LOCK_RUNNING)

    @pytest.mark.parametrize("locked", [False, True])
    @pytest.mark.parametrize(
        "forget",
        [
            lambda chip: chip.power_cycle(),
            lambda chip: chip.run(
                tss12.reset_lock_value(owner_auth=OWNER_AUTH, random=chip.client_random)
            ),
            lambda chip: _force_clear(chip),
        ],
        ids=["Startup(CLEAR)", "ResetLockValue", "ForceClear"],
    )
    def test_what_forgets_failures(
        self, chip: Chip, locked: bool, forget: Callable[[Chip], object]
    ) -> None:
        for _ in range(THRESHOLD + locked):
            _guess(chip)
        forget(chip)
        assert (_count(chip), _seconds_left(chip)) == (0, 0)

    def test_a_wrong_hmac_of_a_transport_session_is_no_guess(self, chip: Chip) -> None:
        for _ in range(THRESHOLD + 2):
            tunnel = open_tunnel(chip, PLAIN)
            tunnel.channel.nonce_even = ZERO
            assert chip.code(tss12.through(tunnel, tss12.pcr_read(0))) == ReturnCode.AUTHFAIL
        assert _count(chip) == 0

    def test_one_counter_stands_for_all_secrets(self, chip: Chip) -> None:
        random = chip.client_random
        _, handle = make_and_load(chip, signing_key())
        chip.run(
            tss12.nv_define_space(
                AUTH_AREA,
                4,
                NvAttributes.AUTHREAD | NvAttributes.AUTHWRITE,
                owner_auth=OWNER_AUTH,
                area_auth=AREA_AUTH,
                random=random,
            )
        )
        _guess(chip)
        guesses = (
            tss12.sign(handle, ZERO, key_auth=ZERO, random=random),
            tss12.nv_read_value_auth(AUTH_AREA, 1, area_auth=ZERO, random=random),
            tss12.create_wrap_key(
                ReservedHandle.SRK,
                signing_key(),
                parent_auth=ZERO,
                usage_auth=ZERO,
                random=random,
            ),
        )
        for number, guess in enumerate(guesses, 2):
            assert chip.code(guess) == ReturnCode.AUTHFAIL
            assert _count(chip) == number


class TestSelfTest:
    """What ContinueSelfTest runs."""

    @pytest.mark.parametrize("wanted_by", ["", "fips", "tpm_post"])
    def test_all_tests_are_run_again_only_where_a_flag_wants_it(
        self, wanted_by: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chip = make_chip()
        if wanted_by:
            # No command sets these: they are the manufacturer's.
            state = decode_permanent(chip.durable)
            setattr(state.flags, wanted_by, True)
            chip.durable = encode_permanent(state)
            chip.power_cycle()
        chip.run(tss12.self_test_full())
        monkeypatch.setitem(selftest.TESTS, "SHA-1", lambda _: False)
        expected = ReturnCode.FAILEDSELFTEST if wanted_by else ReturnCode.SUCCESS
        assert chip.code(tss12.continue_self_test()) == expected
        assert chip.code(tss12.pcr_read(0)) == expected

    def test_failure_mode_says_who_and_what_and_nothing_else(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chip = make_owned_chip()
        session = chip.run(tss12.oiap())
        monkeypatch.setitem(selftest.TESTS, "SHA-1", lambda _: False)
        assert chip.code(tss12.self_test_full()) == ReturnCode.FAILEDSELFTEST
        monkeypatch.undo()
        assert b"failed" in chip.run(tss12.get_test_result())
        assert chip.run(tss12.manufacturer()) == b"VTPM"
        for refused in (
            tss12.self_test_full(),
            tss12.continue_self_test(),
            tss12.extend(0, ZERO),
            tss12.get_random(1),
            tss12.oiap(),
            tss12.save_state(),
            tss12.reset(),
            tss12.flush_specific(session.handle, ResourceType.AUTH),
            tss12.get_ticks(),
            tss12.nv_list(),
        ):
            assert chip.code(refused) == ReturnCode.FAILEDSELFTEST
        assert chip.code(tss12.startup()) == ReturnCode.INVALID_POSTINIT
        chip.handle(PowerOn())
        chip.run(tss12.startup())
        assert chip.run(tss12.pcr_read(0)) == ZERO
