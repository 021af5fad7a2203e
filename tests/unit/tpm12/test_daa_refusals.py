# SPDX-License-Identifier: Apache-2.0
"""What DAA refuses, stage by stage, and the secrets that it lives by."""

from __future__ import annotations

import dataclasses
import struct

import pytest

from protocol.errors import WireError
from protocol.tpm12.constants import (
    Ordinal,
    ResourceType,
    ReturnCode,
    SetCapabilityArea,
    StructureTag,
    Tag,
)
from protocol.tpm12.framing import build_message
from tests.unit.tpm12 import keychain
from tests.unit.tpm12.daa_issuer import (
    JOIN_END,
    SIGN_END,
    Host,
    Issuer,
    Joining,
    Signing,
    issuer,
    wide,
)
from tests.unit.tpm12.daa_journey import Moment, blobs_of, change_volatile, joined, signed
from tests.unit.tpm12.test_daa import finished, sessions
from tests.unit.tpm12.world import OWNER_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tpm12.engine import Tpm12Engine
from tpmcore.tpm12.stateformat import (
    VolatileState,
    decode_daa_session,
    decode_permanent,
    encode_permanent,
)
from tpmcore.tpm12.world import Profile, World

DATA0 = ReturnCode.DAA_INPUT_DATA0
DATA1 = ReturnCode.DAA_INPUT_DATA1
VALIDITY = ReturnCode.DAA_ISSUER_VALIDITY
GOOD = b"<as it should be>"
ANOTHER = b"another one"
"""A base or modulus. As a number it is odd, so that its digest is all that is wrong."""


def refused(moment: Moment, stage: int, data0: bytes, data1: bytes, code: int) -> None:
    """Check that a stage is refused and that the session is gone with it."""
    host = moment.again()
    durable = host.chip.durable
    good0, good1 = host.inputs(stage)
    sent = (good0 if data0 == GOOD else data0, good1 if data1 == GOOD else data1)
    assert host.code(stage, *sent) == code
    assert sessions(host.chip) == []
    assert host.code(stage, good0, good1) == ReturnCode.BAD_HANDLE
    assert host.chip.durable == durable


BASES = [(4, 9), (5, 10), (6, 11), (7, 12)]


class TestJoin:
    """Inputs of TPM_DAA_Join that are not what its stage wants."""

    @pytest.mark.parametrize("data0", ["", "000001", "0000000001", "00000000"])
    def test_a_join_begins_with_a_count(self, data0: str) -> None:
        host = Joining(make_owned_chip(), issuer())
        assert host.code(0, bytes.fromhex(data0)) == DATA0
        assert sessions(host.chip) == []

    @pytest.mark.parametrize("size", [0, 255, 257])
    def test_the_first_key_is_a_modulus_of_256_bytes(self, size: int) -> None:
        host = Joining(make_owned_chip(), issuer())
        Host.step(host, 0)
        assert host.code(1, b"\xff" * size) == DATA0
        assert sessions(host.chip) == []

    def test_the_first_key_need_be_none_but_nothing_it_signed_is_accepted(self) -> None:
        host = Joining(make_owned_chip(), issuer())
        Host.step(host, 0)
        assert host.send(1, bytes(256)) == b""
        assert host.code(1, bytes(256), bytes(256)) == VALIDITY
        assert sessions(host.chip) == []

    @pytest.mark.parametrize(
        ("stage", "data0", "data1", "code"),
        [
            (1, b"k" * 255, GOOD, DATA0),
            (1, GOOD, b"", DATA1),
            (1, GOOD, b"s" * 255, DATA1),
            (1, GOOD, b"s" * 256, VALIDITY),
            (1, b"k" * 256, GOOD, VALIDITY),
            (2, b"", GOOD, DATA0),
            (2, b"\x00\x2e" + bytes(146), GOOD, DATA0),
            (2, b"\x00\x2f" + bytes(145), GOOD, DATA0),
            (2, b"\x00\x2f" + bytes(146), GOOD, DATA0),  # q is 0
            (2, b"\x00\x2f" + bytes(145) + b"\x01", GOOD, VALIDITY),
            (2, GOOD, b"", DATA1),
            (2, GOOD, b"s" * 256, VALIDITY),
            (3, b"\0\0\0", b"", DATA0),
            (3, b"\0\0\0\0\0", b"", DATA0),
            (8, b"", b"", DATA0),
            (8, b"x" * 255, b"", DATA0),
            (8, b"x" * 256, b"", ReturnCode.DECRYPT_ERROR),
            (8, b"\xff" * 256, b"", ReturnCode.DECRYPT_ERROR),
            (22, b"u" * 127, b"", DATA0),
            (22, b"u" * 129, b"", DATA0),
            (23, b"u" * 191, b"", DATA0),
            (23, b"u" * 193, b"", DATA0),
            (23, b"\xff" * 192, b"", DATA0),  # the sum does not fit
        ],
    )
    def test_refusals(self, stage: int, data0: bytes, data1: bytes, code: int) -> None:
        refused(joined()[stage], stage, data0, data1, code)


def _moment(join: bool, stage: int) -> Moment:
    """Return the moment before a stage, given as that of Join, of either command."""
    return joined()[stage] if join else signed()[stage - 7]


@pytest.mark.parametrize("join", [True, False], ids=["join", "sign"])
class TestBoth:
    """Stages that both commands have, numbered as those of Join."""

    @pytest.mark.parametrize("stage", [4, 5, 6, 7, 9, 10, 11, 12])
    def test_a_base_or_modulus_of_another_issuer(self, join: bool, stage: int) -> None:
        if not join and stage < 9:
            stage += 5
        number = stage if join else stage - 7
        moment = _moment(join, stage)
        refused(moment, number, ANOTHER, GOOD, DATA0)
        refused(moment, number, b"", GOOD, DATA0)
        refused(moment, number, GOOD, ANOTHER, DATA1)
        refused(moment, number, GOOD, b"", DATA1)
        # What is wrong with both is told of the first.
        refused(moment, number, ANOTHER, ANOTHER, DATA0)

    @pytest.mark.parametrize("stage", [13, 14, 15])
    def test_another_gamma(self, join: bool, stage: int) -> None:
        number = stage if join else stage - 7
        refused(_moment(join, stage), number, ANOTHER, GOOD, DATA0)

    @pytest.mark.parametrize(
        ("w", "code"),
        [
            (b"", DATA1),
            (wide(1, 255), DATA1),
            (wide(1, 257), DATA1),
            (wide(0), ReturnCode.DAA_WRONG_W),
            (wide(2), ReturnCode.DAA_WRONG_W),
        ],
        ids=["none", "short", "long", "0", "of another order"],
    )
    def test_another_w(self, join: bool, w: bytes, code: int) -> None:
        refused(_moment(join, 13), 13 if join else 6, GOOD, w, code)

    @pytest.mark.parametrize("size", [0, 19, 21])
    def test_a_challenge_is_20_bytes(self, join: bool, size: int) -> None:
        refused(_moment(join, 16), 16 if join else 9, b"c" * size, b"", DATA0)


class TestSign:
    """Inputs of TPM_DAA_Sign that are not what its stage wants."""

    @pytest.mark.parametrize(
        "data0", [b"", b"\x00\x2e" + b"i" * 146, b"\x00\x2f" + b"i" * 147, b"\x00\x2f" + bytes(146)]
    )
    def test_a_sign_begins_with_settings_of_an_issuer(self, data0: bytes) -> None:
        host = Signing(make_owned_chip(), issuer())
        assert host.code(0, data0) == DATA0
        assert sessions(host.chip) == []

    def test_settings_of_another_issuer_do_not_fit_the_chips(self) -> None:
        join = finished()
        other = dataclasses.replace(issuer(), r0=b"another")
        host = Signing(join.chip, other, blobs=blobs_of(join))
        host.step(0)
        assert host.code(1, *host.inputs(1)) == ReturnCode.DAA_ISSUER_SETTINGS
        assert sessions(join.chip) == []

    @pytest.mark.parametrize("stage", [1, 13, 14, 15])
    def test_blobs_that_are_changed_or_of_another_type(self, stage: int) -> None:
        wanted = signed()[stage].again().inputs(stage)[0]
        for blob in (*blobs_of(finished()), b"", wanted[:-1], wanted + b"\0"):
            if blob != wanted:
                refused(signed()[stage], stage, blob, b"", DATA0)
        for offset in (0, 5, 10, 25, 45, 50, 70, len(wanted) - 1):
            changed = bytearray(wanted)
            changed[offset] ^= 1
            refused(signed()[stage], stage, bytes(changed), b"", DATA0)

    def test_a_credential_of_another_join_does_not_fit(self) -> None:
        again = joined()[22].again()
        assert isinstance(again, Joining)
        again.u2, again.u3 = b"2" * 128, b"3" * 192
        again.run(22, JOIN_END)
        v0, v1, _ = blobs_of(again)
        for stage, blob in ((13, v0), (14, v0), (15, v1)):
            refused(signed()[stage], stage, blob, b"", DATA0)

    @pytest.mark.parametrize(
        ("selector", "data1", "code"),
        [
            (b"", b"m" * 20, DATA0),
            (b"\x02", b"m" * 20, DATA0),
            (b"\x01\x01", b"m" * 20, DATA0),
            (b"\x01", b"m" * 19, DATA1),
            (b"\x01", b"m" * 21, DATA1),
            (b"\x00", b"", DATA1),
            (b"\x00", b"\0\0\0\1", DATA1),
            (b"\x00", b"\x40\0\0\0", DATA1),  # the SRK is no identity
            (b"\x00", b"m" * 20, DATA1),
        ],
    )
    def test_what_is_signed(self, selector: bytes, data1: bytes, code: int) -> None:
        refused(signed()[10], 10, selector, data1, code)

    def test_a_key_that_is_no_identity_is_not_signed(self) -> None:
        host = signed()[10].again()
        _, handle = keychain.make_and_load(host.chip, keychain.signing_key())
        assert host.code(10, b"\x00", handle.to_bytes(4, "big")) == DATA1
        assert sessions(host.chip) == []


class TestHostileIssuer:
    """Parameters that hash to what the issuer signed, and are nothing to compute with."""

    @pytest.mark.parametrize(
        "modulus",
        [b"", bytes(256), wide(1), wide(1 << 2000), b"\x01" + bytes(255) + b"\x01"],
        ids=["none", "0", "1", "even", "too long"],
    )
    def test_moduli(self, modulus: bytes) -> None:
        start = joined()[2].again()
        assert isinstance(start, Joining)
        start.issuer = dataclasses.replace(issuer(), n=modulus, gamma=modulus)
        start.run(2, 3)
        assert start.code(4, *start.inputs(4)) == DATA1
        assert sessions(start.chip) == []
        for stage in (13, 14, 15):
            host = joined()[stage].again()
            host.issuer = start.issuer
            settings(host, start.issuer)
            assert host.code(stage, *host.inputs(stage)) == DATA0
            assert sessions(host.chip) == []

    def test_bases_of_any_length_are_numbers(self) -> None:
        host = joined()[2].again()
        assert isinstance(host, Joining)
        host.issuer = dataclasses.replace(
            issuer(), r0=b"\xff" * 3000, r1=b"", s0=b"\x02", n=wide(9)
        )
        host.run(2, 5)
        host.send(6, *host.inputs(6))
        # A product with 0 in it stays 0.
        assert host.send(7, *host.inputs(7)) == bytes(256)

    def test_q_of_1_leaves_nothing_secret_and_nothing_breaks(self) -> None:
        host = joined()[2].again()
        assert isinstance(host, Joining)
        host.issuer = dataclasses.replace(issuer(), q=wide(1, 26), w=wide(1))
        host.run(2, JOIN_END)
        assert host.done[14] == host.done[15] == b"\x01"


def settings(host: Host, of: Issuer) -> None:
    """Put an issuer's settings into the session of a Join, as if it had begun with them."""

    def change(state: VolatileState) -> None:
        (session,) = state.stany.daa_sessions.values()
        session.issuer = type(session.issuer).decode(of.settings)
        specific = dataclasses.replace(
            session.tpm_specific, digest_issuer=keychain.sha1(of.settings)
        )
        session.tpm_specific = specific
        session.digest_context = keychain.sha1(
            specific.encode(), session.join_u0, session.join_u1, session.digest_n0
        )

    change_volatile(host, change)


class TestWhatNoCommandBringsAbout:
    """Checks of the specification that hold by construction here, tried with changed memory."""

    @pytest.mark.parametrize(
        ("moment", "stage", "field", "code"),
        [
            (1, 1, "digest_n0", ReturnCode.DAA_TPM_SETTINGS),
            (12, 12, "join_u0", ReturnCode.DAA_TPM_SETTINGS),
            (24, 24, "join_u1", ReturnCode.DAA_TPM_SETTINGS),
            (3, 3, "issuer", ReturnCode.DAA_ISSUER_SETTINGS),
            (24, 24, "issuer", ReturnCode.DAA_ISSUER_SETTINGS),
        ],
    )
    def test_a_changed_session(self, moment: int, stage: int, field: str, code: int) -> None:
        host = joined()[moment].again()

        def change(state: VolatileState) -> None:
            (session,) = state.stany.daa_sessions.values()
            value = getattr(session, field)
            if field == "issuer":
                session.issuer = dataclasses.replace(value, digest_s0=bytes(20))
            else:
                setattr(session, field, bytes(len(value)))

        change_volatile(host, change)
        assert host.code(stage, *host.inputs(stage)) == code
        assert sessions(host.chip) == []

    def test_a_sign_that_waits_for_a_stage_of_join(self) -> None:
        host = signed()[15].again()

        def change(state: VolatileState) -> None:
            (session,) = state.stany.daa_sessions.values()
            session.stage = 16

        change_volatile(host, change)
        assert host.code(16) == ReturnCode.DAA_STAGE
        assert sessions(host.chip) == []

    def test_a_join_without_endorsement_key(self) -> None:
        host = joined()[8].again()
        sent = host.inputs(8)
        permanent = decode_permanent(host.chip.durable)
        permanent.ek = None
        restore(host.chip, encode_permanent(permanent))
        assert host.code(8, *sent) == ReturnCode.NO_ENDORSEMENT

    @pytest.mark.parametrize("stage", [0, 25, 255])
    def test_a_stage_that_no_session_waits_for_is_not_read(self, stage: int) -> None:
        host = joined()[9].again()
        seen: list[bytes] = []
        change_volatile(
            host, lambda state: seen.extend(s.encode() for s in state.stany.daa_sessions.values())
        )
        (record,) = seen
        assert decode_daa_session(record).encode() == record
        with pytest.raises(WireError, match="stage"):
            decode_daa_session(record[:4] + bytes([stage]) + record[5:])
        for wrong in (record[:-1], record + b"\0"):
            with pytest.raises(WireError):
                decode_daa_session(wrong)

    def test_a_handle_that_stands_twice_is_refused(self) -> None:
        host = joined()[9].again()
        with pytest.raises(WireError, match="twice"):
            change_volatile(host, _double)


def _double(state: VolatileState) -> None:
    (session,) = state.stany.daa_sessions.values()
    state.stany.daa_sessions[1] = session


def restore(chip: Chip, permanent: bytes) -> None:
    """Let a chip go on from another permanent state."""
    volatile = chip.engine.volatile_state()
    world = World(chip.random, chip.ticks, chip.keys)
    chip.engine = Tpm12Engine.restore(world, chip.profile, permanent, volatile)
    chip.durable = permanent


def new_secrets(chip: Chip, *, owner_auth: bytes | None = OWNER_AUTH) -> int:
    """Have the owner ask for new DAA secrets, with a value that is of no meaning."""
    return chip.code(
        tss12.set_capability(
            SetCapabilityArea.PERM_DATA,
            25,
            b"whatever it says",
            owner_auth=owner_auth,
            random=chip.client_random,
        )
    )


class TestSecrets:
    """daaProof, tpmDAASeed and daaBlobKey."""

    def test_every_chip_has_its_own(self) -> None:
        chips = [make_chip(), make_chip(seed="2"), make_chip(Profile(make_ek=False), seed="3")]
        secrets = [decode_permanent(chip.durable).daa for chip in chips]
        assert None not in secrets
        assert len({s.encode() for s in secrets if s is not None}) == 3

    def test_new_ones_at_the_owners_wish_make_blobs_useless(self) -> None:
        join = finished()
        chip = join.chip
        before = decode_permanent(chip.durable).daa
        assert new_secrets(chip, owner_auth=None) == ReturnCode.AUTHFAIL
        assert new_secrets(chip, owner_auth=bytes(20)) == ReturnCode.AUTHFAIL
        assert decode_permanent(chip.durable).daa == before
        assert new_secrets(chip) == ReturnCode.SUCCESS
        after = decode_permanent(chip.durable).daa
        assert before is not None
        assert after is not None
        assert after.proof != before.proof
        assert after.seed != before.seed
        assert after.blob_key != before.blob_key
        sign = Signing(chip, issuer(), blobs=blobs_of(join))
        sign.step(0)
        assert sign.code(1, *sign.inputs(1)) == DATA0
        again = Joining(chip, issuer())
        again.run(0, 14)
        assert again.done[14] != join.done[14]

    def test_a_disabled_chip_renews_them_too(self) -> None:
        join = finished()
        chip = join.chip
        chip.run(tss12.owner_set_disable(True, owner_auth=OWNER_AUTH, random=chip.client_random))
        before = decode_permanent(chip.durable).daa
        assert new_secrets(chip) == ReturnCode.SUCCESS
        assert decode_permanent(chip.durable).daa != before

    def test_a_clear_keeps_them(self) -> None:
        chip = make_owned_chip()
        before = decode_permanent(chip.durable).daa
        chip.run(tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random))
        assert decode_permanent(chip.durable).daa == before

    def test_a_new_endorsement_key_and_its_end_renew_them(self) -> None:
        chip = make_chip(Profile(make_ek=False))
        seen = [decode_permanent(chip.durable).daa]
        key = chip.run(tss12.create_revocable_ek(random=chip.client_random))
        seen.append(decode_permanent(chip.durable).daa)
        chip.assert_presence()
        chip.run(tss12.revoke_trust(key.ek_reset))
        seen.append(decode_permanent(chip.durable).daa)
        assert len({s.encode() for s in seen if s is not None}) == 3

    def test_a_chip_of_a_version_without_daa_gets_them_when_it_joins(self) -> None:
        chip = make_owned_chip()
        permanent = decode_permanent(chip.durable)
        permanent.daa = None
        restore(chip, encode_permanent(permanent))
        sign = Signing(chip, issuer(), blobs=blobs_of(finished()))
        sign.step(0)
        assert sign.code(1, *sign.inputs(1)) == DATA0
        assert decode_permanent(chip.durable).daa is None
        join = Joining(chip, issuer())
        Host.step(join, 0)
        assert decode_permanent(chip.durable).daa is None
        join.send(1, b"\xff" * 256)
        made = decode_permanent(chip.durable).daa
        assert made is not None
        chip.power_cycle()
        join = Joining(chip, issuer())
        join.run(0, JOIN_END)
        join.check()
        assert decode_permanent(chip.durable).daa == made
        sign.blobs = blobs_of(join)
        sign.run(0, SIGN_END)
        sign.check(*join.credential())

    def test_nothing_secret_shows(self) -> None:
        host = joined()[9].again()
        shown: list[str] = []
        change_volatile(host, lambda state: shown.append(repr(state.stany.daa_sessions)))
        shown.append(repr(decode_permanent(host.chip.durable).daa))
        assert all("object at" in text for text in shown)

    def test_blobs_hide_what_is_in_them(self) -> None:
        host = joined()[22].again()
        u0: list[bytes] = []
        change_volatile(
            host, lambda state: u0.extend(s.join_u0 for s in state.stany.daa_sessions.values())
        )
        output = host.send(22, bytes(128))
        head = struct.pack(">HI16x", StructureTag.DAA_BLOB, ResourceType.DAA_V0)
        # blobIntegrity, additionalData, and of sensitiveData: tag, size of 128 bytes, v0
        assert output.startswith(head)
        assert len(output) == len(head) + 20 + (4 + 16) + (4 + 2 + 4 + 128)
        assert u0[0] not in output


class TestParsing:
    """Requests that are no DAA request, which touch no session."""

    @pytest.mark.parametrize("ordinal", [Ordinal.DAA_JOIN, Ordinal.DAA_SIGN])
    @pytest.mark.parametrize("size", [0, 4, 5, 8, 12])
    def test_a_short_request(self, ordinal: Ordinal, size: int) -> None:
        host = joined()[9].again()
        body = host.handle.to_bytes(4, "big") + b"\x09" + bytes(8)
        response = host.chip.send(build_message(Tag.RQU_AUTH1_COMMAND, ordinal, body[:size]))
        assert int.from_bytes(response[6:10], "big") == ReturnCode.BAD_PARAM_SIZE
        assert sessions(host.chip) == [host.handle]

    @pytest.mark.parametrize("ordinal", [Ordinal.DAA_JOIN, Ordinal.DAA_SIGN])
    def test_the_owner_is_always_needed(self, ordinal: Ordinal) -> None:
        host = joined()[9].again()
        body = host.handle.to_bytes(4, "big") + b"\x09" + bytes(8)
        response = host.chip.send(build_message(Tag.RQU_COMMAND, ordinal, body))
        assert int.from_bytes(response[6:10], "big") == ReturnCode.BADTAG
        assert sessions(host.chip) == [host.handle]
