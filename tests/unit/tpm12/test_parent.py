# SPDX-License-Identifier: Apache-2.0
"""DeepQuote and ParentSignEK: what the parent is asked, when, and what becomes of its answer."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from protocol.tpm12.constants import Ordinal, ProtocolId, ResourceType, ReturnCode, StartupType, Tag
from protocol.tpm12.delegation import DelegatePublic, DelegateType, Delegations
from protocol.tpm12.framing import build_message
from protocol.tpm12.pcr import PcrSelection
from protocol.tpm12.wire import U32, WireError
from tests.unit.tpm12 import keychain
from tests.unit.tpm12.keychain import WRONG_AUTH, sha1
from tests.unit.tpm12.tunnel import PLAIN, open_tunnel
from tests.unit.tpm12.world import (
    OWNER_AUTH,
    SRK_AUTH,
    Chip,
    key_pair,
    make_chip,
    make_owned_chip,
)
from tpmcore import tss12
from tpmcore.engine import Done, EffectResult, Failed, ParentQuote, PowerOn
from tpmcore.errors import EngineFault
from tpmcore.tpm12.world import Profile
from tpmcore.tss12 import Conversation, ParentEvidence, Session

PROFILE: Final = Profile(has_parent=True)
NONCE: Final = b"nonce of a verifier!"
PCR_4: Final = PcrSelection(bytes.fromhex("100000"))
PARENT_PCRS: Final = PcrSelection.of([0, 17])
EK_RESET: Final = b"secret to revoke it!"
BOTH: Final = [Ordinal.DEEP_QUOTE, Ordinal.PARENT_SIGN_EK]


@dataclass
class Parent:
    """A machine's TPM with its manager: quotes with an identity key, as Xen's does.

    Written from the formulas alone: hashlib and cryptography, none of our structures.
    """

    asked: list[ParentQuote] = field(default_factory=list)
    pcrs: list[bytes] = field(default_factory=lambda: [bytes([i]) * 20 for i in range(24)])
    uuid: bytes = b"uuid of the vTPM"
    group_key: bytes = b"\x5a" * 256
    refusal: Failed | None = None

    def __post_init__(self) -> None:
        p, q = key_pair(77, 2048, 65537)
        self.identity = rsa.RSAPrivateNumbers(
            p,
            q,
            d := pow(65537, -1, (p - 1) * (q - 1)),
            d % (p - 1),
            d % (q - 1),
            pow(q, -1, p),
            rsa.RSAPublicNumbers(65537, p * q),
        ).private_key()

    def __call__(self, effect: ParentQuote) -> EffectResult:
        self.asked.append(effect)
        if self.refusal is not None:
            return self.refusal
        values = b"".join(self.selected(effect.pcr_selection))
        composite = sha1(effect.pcr_selection, len(values).to_bytes(4, "big"), values)
        told = b"".join(self.hashes(effect.flags))
        external = sha1(effect.flags.to_bytes(4, "little"), effect.extern_data, told)
        quoted = bytes.fromhex("01010000") + b"QUOT" + composite + external
        signature = self.identity.sign(quoted, padding.PKCS1v15(), hashes.SHA1())
        return Done(signature + told + values)

    def selected(self, selection: bytes) -> list[bytes]:
        mask = int.from_bytes(selection[2:], "little")
        return [value for i, value in enumerate(self.pcrs) if mask >> i & 1]

    def hashes(self, flags: int) -> list[bytes]:
        return [sha1(x) for bit, x in ((1, self.uuid), (8, self.group_key)) if flags & bit]


@pytest.fixture
def parent() -> Parent:
    return Parent()


@pytest.fixture
def chip(parent: Parent) -> Chip:
    chip = make_owned_chip(PROFILE)
    chip.parent = parent
    return chip


def _ask(
    chip: Chip,
    ordinal: Ordinal,
    *,
    owner_auth: bytes = OWNER_AUTH,
    selection: PcrSelection = PCR_4,
    session: Session | None = None,
    flags: int = 0,
) -> Conversation[ParentEvidence]:
    random = chip.client_random
    if ordinal == Ordinal.DEEP_QUOTE:
        return tss12.deep_quote(
            NONCE,
            selection,
            PARENT_PCRS,
            flags=flags,
            owner_auth=owner_auth,
            random=random,
            session=session,
        )
    return tss12.parent_sign_ek(
        NONCE, PARENT_PCRS, owner_auth=owner_auth, random=random, session=session
    )


def _authorized(session: Session, ordinal: Ordinal, parameters: bytes) -> bytes:
    """A command with an owner's authorization, made by hand."""
    nonce_odd, goes_on = b"an odd nonce of ours", b"\x01"
    digest = sha1(ordinal.to_bytes(4, "big"), parameters)
    message = digest + session.nonce_even + nonce_odd + goes_on
    block = U32.write(session.handle) + nonce_odd + goes_on
    block += hmac.digest(OWNER_AUTH, message, "sha1")
    return build_message(Tag.RQU_AUTH1_COMMAND, ordinal, parameters + block)


DEEP_QUOTE_PARAMETERS: Final = (
    NONCE  # externData
    + bytes.fromhex("0002 1004")  # vtSel: two bytes, PCRs 4 and 10
    + bytes.fromhex("0003 010002")  # ptSel: three bytes, PCRs 0 and 17
    + bytes.fromhex("00000009")  # extraInfoFlags: HASH_UUID, GROUP_PUBKEY
)


def test_raw_deep_quote_verifies_byte_by_byte(chip: Chip, parent: Parent) -> None:
    pcr_10 = chip.run(tss12.extend(10, b"m" * 20))
    session = chip.run(tss12.oiap())
    command = _authorized(session, Ordinal.DEEP_QUOTE, DEEP_QUOTE_PARAMETERS)
    # tag, size, ordinal with the vendor bit, then the parameters and 45 bytes of authorization
    assert command[:10] == bytes.fromhex("00c2 00000058 20000016")
    chip.locality = 3
    response = chip.send(command)

    assert response[:10] == bytes.fromhex("00c5 00000183 00000000")
    body, block = response[10:-41], response[-41:]
    # Signature, H(uuid), H(key of the group), then the parent's PCRs 0 and 17: no lengths between.
    assert len(body) == 256 + 20 + 20 + 20 + 20
    assert body[256:296] == sha1(parent.uuid) + sha1(parent.group_key)
    assert body[296:] == b"\x00" * 20 + b"\x11" * 20

    # What this TPM says of itself: PCRs 4 and 10, asked for at locality 3.
    composite = sha1(bytes.fromhex("0002 1004 00000028"), bytes(20), pcr_10)
    info_short = bytes.fromhex("0002 1004 08") + composite
    told = sha1(bytes.fromhex("00000000"), b"DQUT", NONCE, info_short)
    # The manager binds flags and hashes to it, the machine's TPM its PCRs.
    external = sha1(bytes.fromhex("09000000"), told, body[256:296])
    composite = sha1(bytes.fromhex("0003 010002 00000028"), body[296:])
    quoted = bytes.fromhex("01010000") + b"QUOT" + composite + external
    parent.identity.public_key().verify(body[:256], quoted, padding.PKCS1v15(), hashes.SHA1())

    # The response's HMAC is over all of it.
    digest = sha1(bytes(4), bytes.fromhex("20000016"), body)
    message = digest + block[:20] + b"an odd nonce of ours" + block[20:21]
    assert block[20] == 1
    assert block[21:] == hmac.digest(OWNER_AUTH, message, "sha1")


def test_raw_parent_sign_ek_verifies_byte_by_byte(chip: Chip, parent: Parent) -> None:
    session = chip.run(tss12.oiap())
    command = _authorized(session, Ordinal.PARENT_SIGN_EK, NONCE + bytes.fromhex("0003 010002"))
    assert command[:10] == bytes.fromhex("00c2 00000050 2000007c")
    response = chip.send(command)
    assert response[:10] == bytes.fromhex("00c5 0000015b 00000000")
    body, block = response[10:-41], response[-41:]
    assert body[256:] == b"\x00" * 20 + b"\x11" * 20
    pubkey = bytes.fromhex(
        "00000001 0003 0001"  # RSA, OAEP, no signatures
        "0000000c 00000800 00000002 00000000"  # 2048 bits, 2 primes, the default exponent
        "00000100"  # size of the modulus
    )
    told = sha1(pubkey, keychain.ek_modulus(), NONCE)
    external = sha1(bytes(4), told)
    composite = sha1(bytes.fromhex("0003 010002 00000028"), body[256:])
    quoted = bytes.fromhex("01010000") + b"QUOT" + composite + external
    parent.identity.public_key().verify(body[:256], quoted, padding.PKCS1v15(), hashes.SHA1())
    digest = sha1(bytes(4), bytes.fromhex("2000007c"), body)
    message = digest + block[:20] + b"an odd nonce of ours" + block[20:21]
    assert block[21:] == hmac.digest(OWNER_AUTH, message, "sha1")


@pytest.mark.parametrize("select", ["000100", "0003000000"])
def test_no_pcr_of_this_tpm_has_a_composite_of_zeros(
    chip: Chip, parent: Parent, select: str
) -> None:
    selection = bytes.fromhex(select)
    session = chip.run(tss12.oiap())
    parameters = NONCE + selection + bytes.fromhex("0000 00000000")
    response = chip.send(_authorized(session, Ordinal.DEEP_QUOTE, parameters))
    assert response[:10] == bytes.fromhex("00c5") + U32.write(10 + 256 + 41) + bytes(4)
    told = sha1(bytes(4), b"DQUT", NONCE, selection, b"\x01", bytes(20))
    assert parent.asked == [ParentQuote(told, bytes.fromhex("0000"), 0)]


@pytest.mark.parametrize("ordinal", BOTH)
def test_conversations_give_signature_hashes_and_values(
    chip: Chip, parent: Parent, ordinal: Ordinal
) -> None:
    flags = 9 if ordinal == Ordinal.DEEP_QUOTE else 0
    evidence = chip.run(_ask(chip, ordinal, flags=flags))
    assert len(evidence.signature) == 256
    assert evidence.hashes == tuple(parent.hashes(flags))
    assert evidence.pcr_values == (bytes([0]) * 20, bytes([17]) * 20)


def test_flags_go_to_the_parent_as_they_are(chip: Chip, parent: Parent) -> None:
    parent.refusal = Failed(5)  # VTPM_INVALID_REQUEST, its own to say
    assert chip.code(_ask(chip, Ordinal.DEEP_QUOTE, flags=0x80000001)) == 5
    assert parent.asked[0].flags == 0x80000001


@pytest.mark.parametrize("ordinal", BOTH)
def test_a_tpm_without_parent_does_not_know_them(ordinal: Ordinal) -> None:
    chip = make_owned_chip()
    assert chip.code(_ask(chip, ordinal)) == ReturnCode.BAD_ORDINAL
    assert not chip.run(tss12.is_implemented(ordinal))


@pytest.mark.parametrize("ordinal", BOTH)
def test_a_tpm_with_parent_says_that_it_knows_them(chip: Chip, ordinal: Ordinal) -> None:
    assert chip.run(tss12.is_implemented(ordinal))


def _refused(chip: Chip, parent: Parent, conversation: Conversation[ParentEvidence]) -> int:
    """The code of a refusal; nobody was asked and nothing permanent has changed."""
    durable = chip.durable
    code = chip.code(conversation)
    assert parent.asked == []
    assert chip.durable == durable
    return code


@pytest.mark.parametrize("ordinal", BOTH)
def test_the_parent_is_not_asked_without_the_owners_secret(
    chip: Chip, parent: Parent, ordinal: Ordinal
) -> None:
    session = chip.run(tss12.oiap())
    wrong = _ask(chip, ordinal, owner_auth=WRONG_AUTH, session=session)
    assert _refused(chip, parent, wrong) == ReturnCode.AUTHFAIL
    again = _ask(chip, ordinal, session=Session(session.handle, ProtocolId.OIAP, bytes(20)))
    assert _refused(chip, parent, again) == ReturnCode.INVALID_AUTHHANDLE


@pytest.mark.parametrize("ordinal", BOTH)
def test_another_entitys_session_does_not_do(chip: Chip, parent: Parent, ordinal: Ordinal) -> None:
    session = chip.run(tss12.osap_key(keychain.SRK, SRK_AUTH, random=chip.client_random))
    assert _refused(chip, parent, _ask(chip, ordinal, session=session)) == ReturnCode.AUTHFAIL


@pytest.mark.parametrize("ordinal", BOTH)
def test_an_owners_osap_session_does(chip: Chip, ordinal: Ordinal) -> None:
    session = chip.run(tss12.osap_owner(OWNER_AUTH, random=chip.client_random))
    chip.run(_ask(chip, ordinal, session=session))
    assert session.is_open
    chip.run(_ask(chip, ordinal, session=session))


@pytest.mark.parametrize("ordinal", BOTH)
def test_without_an_owner_there_is_nobody_to_ask(parent: Parent, ordinal: Ordinal) -> None:
    chip = make_chip(PROFILE)
    chip.parent = parent
    assert _refused(chip, parent, _ask(chip, ordinal)) == ReturnCode.NOSRK


@pytest.mark.parametrize("ordinal", BOTH)
@pytest.mark.parametrize("tag", [Tag.RQU_COMMAND, Tag.RQU_AUTH2_COMMAND])
def test_they_have_one_authorization(chip: Chip, ordinal: Ordinal, tag: Tag) -> None:
    parameters = NONCE + bytes.fromhex("0003 010002")
    if ordinal == Ordinal.DEEP_QUOTE:
        parameters += bytes.fromhex("0003 010002 00000000")
    response = chip.send(build_message(tag, ordinal, parameters))
    assert response == bytes.fromhex("00c4 0000000a") + U32.write(ReturnCode.BADTAG)


@pytest.mark.parametrize("select", ["0000", "0004 01000000"])
def test_a_selection_of_none_or_four_bytes_is_refused(
    chip: Chip, parent: Parent, select: str
) -> None:
    parameters = NONCE + bytes.fromhex(select + "0003 010000 00000000")
    session = chip.run(tss12.oiap())
    response = chip.send(_authorized(session, Ordinal.DEEP_QUOTE, parameters))
    assert response == bytes.fromhex("00c4 0000000a") + U32.write(ReturnCode.INVALID_PCR_INFO)
    assert parent.asked == []


@pytest.mark.parametrize("change", [-1, 1])
def test_bytes_too_few_or_too_many_are_refused(chip: Chip, parent: Parent, change: int) -> None:
    session = chip.run(tss12.oiap())
    body = _authorized(session, Ordinal.DEEP_QUOTE, DEEP_QUOTE_PARAMETERS)[10:]
    body = body[:change] if change < 0 else body + b"\0"
    response = chip.send(build_message(Tag.RQU_AUTH1_COMMAND, Ordinal.DEEP_QUOTE, body))
    assert response[6:10] == U32.write(ReturnCode.BAD_PARAM_SIZE)
    assert parent.asked == []


@pytest.mark.parametrize("locality", [5, 7, 8, 255])
def test_a_locality_that_has_no_bit_is_refused_and_never_quoted(
    chip: Chip, parent: Parent, locality: int
) -> None:
    session = chip.run(tss12.oiap())
    command = _authorized(session, Ordinal.DEEP_QUOTE, DEEP_QUOTE_PARAMETERS)
    chip.locality = locality
    assert chip.send(command)[6:10] == U32.write(ReturnCode.BAD_LOCALITY)
    assert parent.asked == []


@pytest.mark.parametrize("ordinal", BOTH)
@pytest.mark.parametrize("code", [ReturnCode.RETRY, ReturnCode.BAD_ORDINAL, 5, 0x12345])
def test_a_refusal_of_the_parent_goes_on_unchanged_and_ends_the_session(
    chip: Chip, parent: Parent, ordinal: Ordinal, code: int
) -> None:
    parent.refusal = Failed(code)
    session = chip.run(tss12.oiap())
    durable, handle = chip.durable, session.handle
    assert chip.code(_ask(chip, ordinal, session=session)) == code
    assert chip.durable == durable
    parent.refusal = None
    dead = Session(handle, ProtocolId.OIAP, bytes(20))
    assert chip.code(_ask(chip, ordinal, session=dead)) == ReturnCode.INVALID_AUTHHANDLE
    chip.run(_ask(chip, ordinal))


@pytest.mark.parametrize("refusal", [Failed(), Failed(0)])
def test_a_refusal_without_a_code_is_an_io_error(
    chip: Chip, parent: Parent, refusal: Failed
) -> None:
    parent.refusal = refusal
    assert chip.code(_ask(chip, Ordinal.DEEP_QUOTE)) == ReturnCode.IOERROR


def test_an_answer_that_fits_no_response_is_an_error(chip: Chip) -> None:
    chip.parent = lambda _: Done(bytes(5000))
    session = chip.run(tss12.oiap())
    assert chip.code(_ask(chip, Ordinal.DEEP_QUOTE, session=session)) == ReturnCode.SIZE


def test_while_the_parent_is_asked_nothing_else_runs(chip: Chip) -> None:
    session = chip.run(tss12.oiap())
    command = _authorized(session, Ordinal.DEEP_QUOTE, DEEP_QUOTE_PARAMETERS)
    before = chip.engine.volatile_state()
    step = chip.engine.execute(command, 0)
    assert isinstance(step, ParentQuote)
    assert chip.engine.volatile_state() == before
    with pytest.raises(EngineFault, match="pending"):
        chip.engine.execute(command, 0)
    chip.engine.cancel()
    response = chip.engine.resume(Done(bytes(336)))
    assert isinstance(response, bytes)
    assert response[6:10] == bytes(4)


def test_a_daemon_killed_while_the_parent_is_asked_comes_back_as_before(chip: Chip) -> None:
    session = chip.run(tss12.oiap())
    command = _authorized(session, Ordinal.DEEP_QUOTE, DEEP_QUOTE_PARAMETERS)
    assert isinstance(chip.engine.execute(command, 0), ParentQuote)
    chip.restart()
    assert chip.send(command)[6:10] == bytes(4)


def test_the_state_that_save_state_kept_goes_as_with_any_command(chip: Chip) -> None:
    session = chip.run(tss12.oiap())
    chip.run(tss12.save_state())
    persisted = chip.persisted
    chip.run(_ask(chip, Ordinal.DEEP_QUOTE, session=session))
    assert chip.persisted == persisted + 1
    chip.power_cycle(startup=None)
    assert chip.code(tss12.startup(StartupType.STATE)) == ReturnCode.FAILEDSELFTEST


def test_they_are_not_wrapped_in_a_transport_session(chip: Chip, parent: Parent) -> None:
    for ordinal in BOTH:
        transport = open_tunnel(chip, PLAIN)
        conversation = tss12.through(transport, _ask(chip, ordinal))
        assert chip.code(conversation) == ReturnCode.NO_WRAP_TRANSPORT
    assert parent.asked == []


def test_no_delegation_covers_them(chip: Chip, parent: Parent) -> None:
    random, secret = chip.client_random, b"secret of a delegate"
    family = chip.run(tss12.create_family(1, owner_auth=OWNER_AUTH, random=random))
    everything = Delegations(DelegateType.OWNER, 0x7FFFFFFF)
    public = DelegatePublic(1, tss12.pcr_info_short({}), everything, family, 0)
    blob = chip.run(
        tss12.create_owner_delegation(
            public, owner_auth=OWNER_AUTH, delegate_auth=secret, random=random
        )
    )
    chip.run(tss12.load_owner_delegation(0, blob, owner_auth=OWNER_AUTH, random=random))
    for ordinal in BOTH:
        session = chip.run(tss12.dsap_row(0, secret, random=random))
        assert chip.code(_ask(chip, ordinal, session=session)) == ReturnCode.AUTHFAIL
    assert parent.asked == []


@pytest.mark.parametrize("ordinal", BOTH)
def test_they_can_be_audited(chip: Chip, ordinal: Ordinal) -> None:
    random = chip.client_random
    audit = tss12.set_ordinal_audit_status(ordinal, True, owner_auth=OWNER_AUTH, random=random)
    chip.run(audit)
    before = chip.run(tss12.get_audit_digest())
    assert ordinal in before.ordinals
    evidence = chip.run(_ask(chip, ordinal))
    body = evidence.signature + b"".join(evidence.hashes) + b"".join(evidence.pcr_values)
    number = ordinal.to_bytes(4, "big")
    parameters = NONCE + bytes.fromhex("0003 010002")
    if ordinal == Ordinal.DEEP_QUOTE:
        parameters = NONCE + bytes.fromhex("0003 100000 0003 010002 00000000")
    after = chip.run(tss12.get_audit_digest())
    count = bytes.fromhex("000e 00000000") + after.counter.counter.to_bytes(4, "big")
    event_in = bytes.fromhex("0012") + sha1(number, parameters) + count
    event_out = bytes.fromhex("0013") + sha1(bytes(4), number, body) + count
    assert after.digest == sha1(sha1(before.digest, event_in), event_out)


def test_an_audited_one_that_could_not_be_saved_is_an_error_and_audits_nothing(
    chip: Chip, parent: Parent
) -> None:
    random, ordinal = chip.client_random, Ordinal.DEEP_QUOTE
    chip.run(tss12.set_ordinal_audit_status(ordinal, True, owner_auth=OWNER_AUTH, random=random))
    # The first event of a chain is one that is saved.
    chip.power_cycle()
    before = chip.run(tss12.get_audit_digest())
    assert before.digest == bytes(20)
    session = chip.run(tss12.oiap())
    chip.persist_result = Failed()
    assert chip.code(_ask(chip, ordinal, session=session)) == ReturnCode.IOERROR
    assert len(parent.asked) == 1
    chip.persist_result = Done()
    after = chip.run(tss12.get_audit_digest())
    assert (after.digest, after.counter) == (before.digest, before.counter)
    assert chip.run(tss12.handles(ResourceType.AUTH)) == []


def _sign_ek_code(chip: Chip) -> int:
    return chip.code(_ask(chip, Ordinal.PARENT_SIGN_EK))


def _take_ownership(chip: Chip) -> None:
    random = chip.client_random
    chip.run(tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=random))


def test_an_ek_is_vouched_for_in_the_run_that_made_it_and_never_again(chip: Chip) -> None:
    assert _sign_ek_code(chip) == ReturnCode.SUCCESS
    chip.power_cycle()
    assert _sign_ek_code(chip) == ReturnCode.DISABLED_CMD


def test_a_restart_of_the_daemon_and_a_reset_of_the_guest_are_the_same_run(chip: Chip) -> None:
    chip.restart()
    assert _sign_ek_code(chip) == ReturnCode.SUCCESS
    chip.handle(PowerOn())
    chip.run(tss12.startup())
    assert _sign_ek_code(chip) == ReturnCode.SUCCESS
    chip.restart()
    assert _sign_ek_code(chip) == ReturnCode.SUCCESS


def test_what_save_state_kept_does_not_make_an_ek_young_again(chip: Chip) -> None:
    chip.run(tss12.save_state())
    chip.power_cycle(StartupType.STATE)
    assert _sign_ek_code(chip) == ReturnCode.DISABLED_CMD
    chip.restart()
    assert _sign_ek_code(chip) == ReturnCode.DISABLED_CMD


def test_an_ek_made_by_command_is_vouched_for_as_well(parent: Parent) -> None:
    chip = make_chip(Profile(has_parent=True, make_ek=False))
    chip.parent = parent
    chip.power_cycle()
    chip.run(tss12.create_endorsement_key_pair(random=chip.client_random))
    _take_ownership(chip)
    assert _sign_ek_code(chip) == ReturnCode.SUCCESS


def test_an_ek_that_could_not_be_saved_leaves_no_trace() -> None:
    chip = make_chip(Profile(has_parent=True, make_ek=False))
    chip.persist_result = Failed()
    create = tss12.create_endorsement_key_pair(random=chip.client_random)
    assert chip.code(create) == ReturnCode.IOERROR
    assert _sections(chip.engine.volatile_state())[-1] != FRESH_EK


def test_revoked_trust_is_gone_and_a_new_ek_is_young(parent: Parent) -> None:
    chip = make_chip(Profile(has_parent=True, make_ek=False))
    chip.parent, random = parent, chip.client_random
    chip.assert_presence()
    chip.run(tss12.create_revocable_ek(random=random, ek_reset=EK_RESET))
    chip.power_cycle()
    chip.assert_presence()
    chip.run(tss12.revoke_trust(EK_RESET))
    assert _sections(chip.engine.volatile_state())[-1] != FRESH_EK
    # The clear has disabled the TPM; activation takes a Startup.
    chip.run(tss12.physical_enable())
    chip.run(tss12.physical_set_deactivated(False))
    chip.power_cycle()
    chip.run(tss12.create_revocable_ek(random=random))
    _take_ownership(chip)
    assert _sign_ek_code(chip) == ReturnCode.SUCCESS


def test_a_volatile_state_of_another_ek_says_nothing_of_this_one(chip: Chip) -> None:
    """As when a daemon was killed between the saves of its two states."""
    other = make_chip(Profile(has_parent=True, make_ek=False))
    other.keys.made = 40
    other.run(tss12.create_endorsement_key_pair(random=other.client_random))
    volatile = chip.engine.volatile_state()
    head, theirs = volatile[:-32], other.engine.volatile_state()[-32:]
    assert _sections(volatile)[-1] == FRESH_EK
    assert volatile[-32:] == hashlib.sha256(keychain.ek_modulus()).digest()
    chip.engine = chip.restored(head + theirs)
    assert _sign_ek_code(chip) == ReturnCode.DISABLED_CMD


def test_a_fingerprint_of_another_length_is_no_volatile_state(chip: Chip) -> None:
    volatile = chip.engine.volatile_state()
    short = volatile[:-36] + (31).to_bytes(4, "big") + volatile[-31:]
    with pytest.raises(WireError, match="freshEk"):
        chip.restored(short)


FRESH_EK: Final = 13
"""Its section in the volatile state."""


def _sections(state: bytes) -> list[int]:
    """Numbers of the sections of a state."""
    found, offset = [], 12
    while offset < len(state):
        found.append(int.from_bytes(state[offset : offset + 2], "big"))
        offset += 6 + int.from_bytes(state[offset + 2 : offset + 6], "big")
    return found
