# SPDX-License-Identifier: Apache-2.0
"""Direct anonymous attestation: whole runs against an issuer of our own, sessions and contexts."""

from __future__ import annotations

import pytest

from protocol.tpm12.constants import (
    CapabilityProperty,
    ResourceType,
    ReturnCode,
    StartupType,
)
from tests.unit.tpm12 import keychain
from tests.unit.tpm12.daa_issuer import (
    JOIN_END,
    SIGN_END,
    Joining,
    Signing,
    chain_key,
    issuer,
    number,
    public_part,
    signature,
)
from tests.unit.tpm12.daa_journey import blobs_of, change_volatile, joined, signed
from tests.unit.tpm12.keychain import WRONG_AUTH
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tpm12.stateformat import decode_permanent, decode_volatile


def finished() -> Joining:
    """Return a Join that is through, on a chip of its own."""
    host = joined()[JOIN_END + 1].again()
    assert isinstance(host, Joining)
    return host


@pytest.fixture
def done() -> Joining:
    """A Join that is through."""
    return finished()


def sessions(chip: Chip) -> list[int]:
    """Return the handles of DAA sessions."""
    return chip.run(tss12.handles(ResourceType.DAA_TPM))


class TestProtocol:
    """What an issuer and a verifier see of a chip that is used as it should be."""

    def test_the_issuer_accepts_the_proof_of_a_join(self, done: Joining) -> None:
        done.check()

    def test_a_signature_proves_a_credential(self, done: Joining) -> None:
        sign = Signing(done.chip, issuer(), blobs=blobs_of(done))
        sign.run(0, SIGN_END)
        sign.check(*done.credential())
        assert sessions(done.chip) == []

    def test_a_signature_after_a_power_cycle_has_the_same_pseudonym(self, done: Joining) -> None:
        """A verifier that asks for one base recognizes a TPM; all else about it is fresh."""
        first = Signing(done.chip, issuer(), blobs=blobs_of(done))
        first.run(0, SIGN_END)
        done.chip.power_cycle()
        second = Signing(done.chip, issuer(), blobs=blobs_of(done))
        second.run(0, SIGN_END)
        second.check(*done.credential())
        assert second.done[7] == first.done[7] == done.done[14]
        assert second.done[5] != first.done[5]
        assert second.done[8] != first.done[8]

    def test_an_identity_key_is_signed_by_its_modulus(self, done: Joining) -> None:
        chip = done.chip
        identity = chip.run(
            tss12.make_identity(
                owner_auth=OWNER_AUTH,
                srk_auth=SRK_AUTH,
                identity_auth=bytes(20),
                label_digest=bytes(20),
                random=chip.client_random,
            )
        )
        handle = keychain.load(chip, identity.key)
        selected = (b"\x00", handle.to_bytes(4, "big"))
        sign = Signing(chip, issuer(), blobs=blobs_of(done), selected=selected)
        sign.signed = identity.key.pub_key
        sign.run(0, SIGN_END)
        sign.check(*done.credential())

    def test_it_goes_on_after_a_restart_between_any_two_stages(self) -> None:
        join = Joining(make_owned_chip(), issuer())
        for stage in range(JOIN_END + 1):
            join.step(stage)
            join.chip.restart()
        join.check()
        sign = Signing(join.chip, issuer(), blobs=blobs_of(join))
        for stage in range(SIGN_END + 1):
            sign.step(stage)
            sign.chip.restart()
        sign.check(*join.credential())

    def test_another_chip_and_another_count_have_another_f(self) -> None:
        pseudonyms = set()
        for count in (1, 2):
            host = joined()[3].again()
            host.done[3] = host.send(3, count.to_bytes(4, "big"))
            host.run(4, 14)
            pseudonyms.add(host.done[14])
        other = Joining(make_owned_chip(seed="another"), issuer())
        other.run(0, 14)
        pseudonyms.add(other.done[14])
        assert len(pseudonyms) == 3

    def test_a_chain_of_one_key_needs_no_certificate(self) -> None:
        join = Joining(make_owned_chip(), issuer())
        join.handle = number(join.send(0, bytes.fromhex("00000001")))
        join.send(1, public_part(chain_key(703)))
        settings = issuer().settings
        digest = keychain.sha1(public_part(chain_key(703)))
        join.send(2, settings, signature(chain_key(703), digest + settings))
        assert sessions(join.chip) == [join.handle]

    def test_every_carry_comes_through(self) -> None:
        """The numbers that are cut at 1024 bits are whole again together."""
        host = joined()[22].again()
        assert isinstance(host, Joining)
        host.u2 = b"\xff" * 128
        host.run(22, JOIN_END)
        sign = Signing(host.chip, issuer(), blobs=blobs_of(host))
        sign.run(0, SIGN_END)
        sign.check(*host.credential())


class TestSessions:
    """Slots, and what ends a session."""

    def test_two_sessions_fit_and_a_third_does_not(self) -> None:
        chip = make_owned_chip()
        assert chip.run(tss12.get_property(CapabilityProperty.MAX_DAASESS)) == 2
        join, sign = Joining(chip, issuer()), Signing(chip, issuer())
        join.step(0)
        assert chip.run(tss12.get_property(CapabilityProperty.DAASESS)) == 1
        sign.step(0)
        assert sorted(sessions(chip)) == sorted([join.handle, sign.handle])
        assert chip.run(tss12.get_property(CapabilityProperty.DAASESS)) == 0
        for host in (Joining(chip, issuer()), Signing(chip, issuer())):
            assert host.code(0, *host.inputs(0)) == ReturnCode.RESOURCES
        chip.run(tss12.flush_specific(join.handle, ResourceType.DAA_TPM))
        assert sessions(chip) == [sign.handle]
        join.step(0)
        join.step(1)

    def test_two_joins_do_not_disturb_each_other(self) -> None:
        chip = make_owned_chip()
        one, two = Joining(chip, issuer()), Joining(chip, issuer())
        for stage in range(JOIN_END + 1):
            one.step(stage)
            two.step(stage)
        one.check()
        two.check()

    @pytest.mark.parametrize("stage", [1, 2, 24, 25, 255])
    def test_an_unknown_handle_is_bad_handle(self, stage: int) -> None:
        chip = make_owned_chip()
        for host in (Joining(chip, issuer(), handle=1), Signing(chip, issuer(), handle=1)):
            assert host.code(stage) == ReturnCode.BAD_HANDLE

    @pytest.mark.parametrize(("waiting", "sent"), [(3, 2), (3, 4), (3, 25), (10, 9), (24, 1)])
    def test_a_stage_out_of_order_ends_the_session(self, waiting: int, sent: int) -> None:
        host = joined()[waiting].again()
        assert host.code(sent, *host.inputs(sent)) == ReturnCode.DAA_STAGE
        assert sessions(host.chip) == []
        assert host.code(waiting, *host.inputs(waiting)) == ReturnCode.BAD_HANDLE

    def test_a_stage_of_sign_out_of_order_ends_the_session(self) -> None:
        host = signed()[11].again()
        assert host.code(10, *host.inputs(10)) == ReturnCode.DAA_STAGE
        assert sessions(host.chip) == []

    def test_stage_0_always_begins_anew(self) -> None:
        host = joined()[10].again()
        old = host.handle
        host.step(0)
        assert sorted(sessions(host.chip)) == sorted([old, host.handle])

    def test_a_wrong_owner_ends_the_session_but_begins_none(self) -> None:
        host = joined()[5].again()
        chip = host.chip
        for stage, left in ((0, [host.handle]), (5, [])):
            code = chip.code(
                tss12.daa_join(
                    host.handle,
                    stage,
                    *host.inputs(stage),
                    owner_auth=WRONG_AUTH,
                    random=chip.client_random,
                )
            )
            assert code == ReturnCode.AUTHFAIL
            assert sessions(chip) == left

    def test_a_wrong_owner_ends_a_sign(self) -> None:
        host = signed()[5].again()
        chip = host.chip
        sign = tss12.daa_sign(
            host.handle, 5, *host.inputs(5), owner_auth=WRONG_AUTH, random=chip.client_random
        )
        assert chip.code(sign) == ReturnCode.AUTHFAIL
        assert sessions(chip) == []

    def test_without_an_owner_there_is_none(self) -> None:
        chip = make_chip()
        for host in (Joining(chip, issuer()), Signing(chip, issuer())):
            assert host.code(0, *host.inputs(0)) == ReturnCode.NOSRK

    def test_flushing_a_session_ends_it_once(self) -> None:
        host = joined()[9].again()
        for code in (ReturnCode.SUCCESS, ReturnCode.BAD_PARAMETER):
            flush = tss12.flush_specific(host.handle, ResourceType.DAA_TPM)
            assert host.chip.code(flush) == code
        assert host.code(9, *host.inputs(9)) == ReturnCode.BAD_HANDLE

    def test_a_new_boot_and_a_new_owner_end_all(self) -> None:
        host = joined()[9].again()
        host.chip.power_cycle()
        assert sessions(host.chip) == []
        host = joined()[9].again()
        chip = host.chip
        before = chip.engine.volatile_state()
        chip.run(tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random))
        assert sessions(chip) == []
        # Killed between the two states: the old volatile one meets the new permanent one.
        state = decode_volatile(before, decode_permanent(chip.durable), chip.ticks.now_us)
        assert state.stany.daa_sessions == {}

    def test_a_saved_state_keeps_a_session(self) -> None:
        host = joined()[9].again()
        assert isinstance(host, Joining)
        host.chip.run(tss12.save_state())
        host.chip.power_cycle(StartupType.STATE)
        host.run(9, JOIN_END)
        host.check()

    @pytest.mark.parametrize("stage", [1, 2, 3, 9, 24])
    def test_a_session_of_one_command_is_of_no_use_to_the_other(self, stage: int) -> None:
        join = joined()[stage].again()
        sign = Signing(join.chip, issuer(), handle=join.handle, blobs=blobs_of(finished()))
        code = sign.code(stage, *sign.inputs(stage))
        expected = ReturnCode.DAA_ISSUER_SETTINGS if stage == 1 else ReturnCode.DAA_TPM_SETTINGS
        assert code == expected
        assert sessions(join.chip) == []
        if stage <= SIGN_END:
            other = signed()[stage].again()
            join = Joining(other.chip, issuer(), handle=other.handle)
            assert join.code(stage, *join.inputs(stage)) == ReturnCode.DAA_TPM_SETTINGS
            assert sessions(other.chip) == []


class TestContexts:
    """Sessions swapped out and in."""

    @pytest.mark.parametrize("stage", [1, 10, 24])
    def test_a_saved_join_goes_on(self, stage: int) -> None:
        host = joined()[stage].again()
        assert isinstance(host, Joining)
        chip = host.chip
        blob = chip.run(tss12.save_context(host.handle, ResourceType.DAA_TPM))
        assert sessions(chip) == []
        assert len(chip.run(tss12.handles(ResourceType.CONTEXT))) == 1
        assert host.code(stage, *host.inputs(stage)) == ReturnCode.BAD_HANDLE
        assert chip.run(tss12.load_context(blob, keep_handle=True)) == host.handle
        assert chip.run(tss12.handles(ResourceType.CONTEXT)) == []
        if stage == 1:
            host.done[1] = host.send(1, *host.inputs(1))
        host.run(max(stage, 2), JOIN_END)
        host.check()

    def test_a_saved_session_is_loaded_once(self) -> None:
        host = joined()[10].again()
        chip = host.chip
        blob = chip.run(tss12.save_context(host.handle, ResourceType.DAA_TPM))
        chip.run(tss12.load_context(blob))
        assert chip.code(tss12.load_context(blob)) == ReturnCode.BADCONTEXT
        assert sessions(chip) == [host.handle]

    def test_the_handle_is_another_one_if_its_own_is_taken(self) -> None:
        host, other = joined()[10].again(), joined()[11].again()
        chip = host.chip
        blob = chip.run(tss12.save_context(host.handle, ResourceType.DAA_TPM))
        # The same handle again, as chance could have it.
        taken = other.chip.engine.volatile_state()
        (session,) = decode_volatile(
            taken, decode_permanent(chip.durable), 0
        ).stany.daa_sessions.values()
        change_volatile(host, lambda state: state.stany.daa_sessions.update({host.handle: session}))
        assert chip.code(tss12.load_context(blob, keep_handle=True)) == ReturnCode.BAD_HANDLE
        handle = chip.run(tss12.load_context(blob))
        assert handle != host.handle
        assert sorted(sessions(chip)) == sorted([handle, host.handle])
        host.handle = handle
        host.step(10)

    def test_there_must_be_a_slot(self) -> None:
        host = joined()[10].again()
        chip = host.chip
        blob = chip.run(tss12.save_context(host.handle, ResourceType.DAA_TPM))
        others = [Joining(chip, issuer()) for _ in range(2)]
        for other in others:
            other.step(0)
        assert chip.code(tss12.load_context(blob)) == ReturnCode.RESOURCES
        chip.run(tss12.flush_specific(others[0].handle, ResourceType.DAA_TPM))
        assert chip.run(tss12.load_context(blob)) == host.handle

    def test_what_is_no_session_is_not_saved(self) -> None:
        host = joined()[10].again()
        chip = host.chip
        for handle, kind in (
            (host.handle ^ 1, ResourceType.DAA_TPM),
            (host.handle, ResourceType.AUTH),
            (host.handle, ResourceType.DAA_V0),
            (host.handle, ResourceType.DAA_V1),
        ):
            code = chip.code(tss12.save_context(handle, kind))
            assert code == ReturnCode.INVALID_RESOURCE
        assert sessions(chip) == [host.handle]

    def test_a_changed_blob_and_one_of_another_boot_are_refused(self) -> None:
        host = joined()[10].again()
        chip = host.chip
        blob = chip.run(tss12.save_context(host.handle, ResourceType.DAA_TPM))
        changed = blob[:-1] + bytes([blob[-1] ^ 1])
        assert chip.code(tss12.load_context(changed)) == ReturnCode.BADCONTEXT
        # Another type, which is under the HMAC: as AUTH, and as one that is none of a context.
        for kind, code in (
            (ResourceType.AUTH, ReturnCode.BADCONTEXT),
            (ResourceType.DAA_V0, ReturnCode.INVALID_RESOURCE),
        ):
            typed = blob[:2] + kind.to_bytes(4, "big") + blob[6:]
            assert chip.code(tss12.load_context(typed)) == code
        chip.power_cycle()
        assert chip.code(tss12.load_context(blob)) == ReturnCode.BADCONTEXT
