# SPDX-License-Identifier: Apache-2.0
"""How a command is built, a response judged and a session kept or closed."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator

import pytest

from protocol.errors import WireError
from protocol.tpm12.constants import Ordinal, ProtocolId, ReturnCode, Tag
from protocol.tpm12.framing import build_message, error_response, parse_header
from tests.unit.tpm12.world import SeededRandom
from tpmcore import tss12
from tpmcore.errors import TpmError
from tpmcore.tss12 import ResponseError, Session
from tpmcore.tss12.conversation import nothing

SECRET = b"secret-of-an-entity!"
HANDLE = 0x11223344
NONCE_EVEN = b"nonce-even-of-tpm-01"
NEXT_NONCE = b"nonce-even-of-tpm-02"

Answer = Callable[[bytes], bytes]


class Script:
    """A TPM that answers each command with the next answer of a list."""

    def __init__(self, *answers: bytes | Answer) -> None:
        self._answers: Iterator[bytes | Answer] = iter(answers)
        self.commands: list[bytes] = []

    def send(self, command: bytes) -> bytes:
        """Remember the command and give the next answer."""
        self.commands.append(command)
        answer = next(self._answers)
        return answer(command) if callable(answer) else answer

    @property
    def ordinals(self) -> list[int]:
        """Ordinals that were asked for."""
        return [parse_header(command).code for command in self.commands]


def success(body: bytes = b"") -> bytes:
    """Build a response without authorization."""
    return build_message(Tag.RSP_COMMAND, 0, body)


def oiap_answer() -> bytes:
    """Build the response of OIAP."""
    return success(HANDLE.to_bytes(4, "big") + NONCE_EVEN)


def authorized(
    ordinal: Ordinal, body: bytes = b"", *, secret: bytes = SECRET, continues: int = 0
) -> Answer:
    """Build the response of a command with one authorization block."""

    def answer(command: bytes) -> bytes:
        nonce_odd = command[-41:-21]
        digest = hashlib.sha1(bytes(4) + ordinal.to_bytes(4, "big") + body).digest()
        tail = bytes([continues])
        mac = hmac.digest(secret, digest + NEXT_NONCE + nonce_odd + tail, "sha1")
        return build_message(Tag.RSP_AUTH1_COMMAND, 0, body + NEXT_NONCE + tail + mac)

    return answer


def owner_disable(session: Session | None = None) -> tss12.Conversation[None]:
    """A command with one authorization block."""
    return tss12.with_secret(
        Ordinal.OWNER_SET_DISABLE,
        nothing,
        SECRET,
        random=SeededRandom("c"),
        parameters=b"\x01",
        session=session,
    )


class TestCommands:
    """What is sent."""

    def test_a_plain_command_is_header_and_parameters(self) -> None:
        tpm = Script(success(bytes(range(20))))
        assert tss12.run_sync(tpm.send, tss12.pcr_read(7)) == bytes(range(20))
        assert tpm.commands == [
            bytes.fromhex(
                "00c1 0000000e 00000015"  # RQU_COMMAND, 14 bytes, PCRRead
                "00000007"  # pcrIndex
            )
        ]

    def test_an_authorized_command_proves_the_secret_over_its_parameters(self) -> None:
        tpm = Script(oiap_answer(), authorized(Ordinal.OWNER_SET_DISABLE))
        tss12.run_sync(tpm.send, owner_disable())
        oiap, command = tpm.commands
        assert oiap.hex() == "00c10000000a0000000a"
        assert command[:11].hex() == "00c2000000380000006e01"  # 56 bytes, disableState
        handle, nonce_odd, flag, mac = command[11:15], command[15:35], command[35:36], command[36:]
        assert handle == HANDLE.to_bytes(4, "big")
        digest = hashlib.sha1(bytes.fromhex("0000006e 01")).digest()
        expected = hmac.digest(SECRET, digest + NONCE_EVEN + nonce_odd + flag, "sha1")
        assert (flag, mac) == (b"\0", expected)

    def test_handles_are_left_out_of_the_digest(self) -> None:
        tpm = Script(oiap_answer(), authorized(Ordinal.SIGN, bytes(4)))
        tss12.run_sync(
            tpm.send, tss12.sign(5, b"x" * 20, key_auth=SECRET, random=SeededRandom("c"))
        )
        command = tpm.commands[1]
        digest = hashlib.sha1(Ordinal.SIGN.to_bytes(4, "big") + command[14:38]).digest()
        expected = hmac.digest(SECRET, digest + NONCE_EVEN + command[42:63], "sha1")
        assert command[63:] == expected

    def test_an_osap_secret_is_derived_from_both_nonces(self) -> None:
        tpm = Script(success(HANDLE.to_bytes(4, "big") + NONCE_EVEN + NEXT_NONCE))
        session = tss12.run_sync(tpm.send, tss12.osap_owner(SECRET, random=SeededRandom("c")))
        assert tpm.commands[0][10:16].hex() == "000240000001"  # ET_OWNER, TPM_KH_OWNER
        nonce_odd = tpm.commands[0][16:]
        assert session.shared_secret == hmac.digest(SECRET, NEXT_NONCE + nonce_odd, "sha1")
        assert session.protocol is ProtocolId.OSAP

    def test_secrets_are_masked_with_the_even_and_the_odd_nonce(self) -> None:
        session = Session(HANDLE, ProtocolId.OSAP, NONCE_EVEN, b"shared-secret-of-20b")
        one = tss12.encrypt_secret(session, SECRET)
        pad = hashlib.sha1(session.shared_secret + NONCE_EVEN).digest()
        assert bytes(a ^ b for a, b in zip(one, pad, strict=True)) == SECRET
        two = tss12.encrypt_secret(session, SECRET, nonce=NEXT_NONCE)
        pad = hashlib.sha1(session.shared_secret + NEXT_NONCE).digest()
        assert bytes(a ^ b for a, b in zip(two, pad, strict=True)) == SECRET


class TestResponses:
    """What is accepted."""

    def test_an_error_is_raised_with_its_code(self) -> None:
        tpm = Script(error_response(ReturnCode.BADINDEX))
        with pytest.raises(TpmError) as raised:
            tss12.run_sync(tpm.send, tss12.pcr_read(99))
        assert raised.value.code == ReturnCode.BADINDEX

    def test_a_vendor_error_is_raised_too(self) -> None:
        with pytest.raises(TpmError) as raised:
            tss12.run_sync(Script(error_response(0x456)).send, tss12.pcr_read(0))
        assert raised.value.code == 0x456

    @pytest.mark.parametrize(
        "response",
        [
            b"",
            bytes.fromhex("00c4 0000000a 0000"),  # ends inside the header
            bytes.fromhex("00c4 00000010 00000000"),  # says more than came
            bytes.fromhex("00c4 0000000a 00000000 00"),  # says less than came
            success(bytes(19)),
            success(bytes(21)),
            build_message(Tag.RSP_AUTH1_COMMAND, 0, bytes(20)),
            build_message(Tag.RQU_COMMAND, 0, bytes(20)),
        ],
    )
    def test_a_malformed_response_is_refused(self, response: bytes) -> None:
        with pytest.raises(WireError):
            tss12.run_sync(Script(response).send, tss12.pcr_read(0))

    def test_a_wrong_response_hmac_is_refused_and_the_session_flushed(self) -> None:
        wrong = authorized(Ordinal.OWNER_SET_DISABLE, secret=bytes(20))
        tpm = Script(oiap_answer(), wrong, success())
        with pytest.raises(ResponseError):
            tss12.run_sync(tpm.send, owner_disable())
        assert tpm.ordinals == [Ordinal.OIAP, Ordinal.OWNER_SET_DISABLE, Ordinal.FLUSH_SPECIFIC]

    def test_no_changed_byte_of_an_authorized_response_goes_unnoticed(self) -> None:
        answer = authorized(Ordinal.READ_COUNTER, bytes.fromhex("000e 00000000 00000001"))

        def run(position: int) -> None:
            def damaged(command: bytes) -> bytes:
                response = bytearray(answer(command))
                response[position] ^= 0x01
                return bytes(response)

            tpm = Script(oiap_answer(), damaged, success())
            conversation = tss12.with_secret(
                Ordinal.READ_COUNTER, lambda reader: reader.rest(), SECRET, random=SeededRandom("c")
            )
            tss12.run_sync(tpm.send, conversation)

        for position in range(10 + 10 + 41):
            with pytest.raises((ResponseError, WireError, TpmError)):
                run(position)

    def test_a_success_without_authorization_block_is_refused(self) -> None:
        tpm = Script(oiap_answer(), success(), success())
        with pytest.raises(WireError):
            tss12.run_sync(tpm.send, owner_disable())

    def test_a_response_too_short_for_its_block_is_refused(self) -> None:
        short = build_message(Tag.RSP_AUTH1_COMMAND, 0, bytes(40))
        tpm = Script(oiap_answer(), short, success())
        with pytest.raises(WireError):
            tss12.run_sync(tpm.send, owner_disable())

    def test_a_checksum_over_another_nonce_is_refused(self) -> None:
        ek = bytes.fromhex(
            "00000001 0003 0001 0000000c 00000800 00000002 00000000"  # TPM_KEY_PARMS
            "00000004 01020304"  # TPM_STORE_PUBKEY
        )
        stale = hashlib.sha1(ek + bytes(20)).digest()
        with pytest.raises(ResponseError):
            tss12.run_sync(
                Script(success(ek + stale)).send, tss12.read_pubek(random=SeededRandom("c"))
            )


class TestSessions:
    """Who closes what."""

    def test_a_session_for_one_command_is_not_flushed_when_the_tpm_ended_it(self) -> None:
        tpm = Script(oiap_answer(), authorized(Ordinal.OWNER_SET_DISABLE))
        tss12.run_sync(tpm.send, owner_disable())
        assert tpm.ordinals == [Ordinal.OIAP, Ordinal.OWNER_SET_DISABLE]

    def test_a_session_that_the_tpm_left_open_is_flushed(self) -> None:
        tpm = Script(oiap_answer(), authorized(Ordinal.OWNER_SET_DISABLE, continues=1), success())
        tss12.run_sync(tpm.send, owner_disable())
        assert tpm.ordinals[-1] == Ordinal.FLUSH_SPECIFIC
        assert tpm.commands[-1][10:].hex() == "1122334400000002"  # handle, TPM_RT_AUTH

    def test_a_session_given_stays_open_with_the_new_nonce(self) -> None:
        session = Session(HANDLE, ProtocolId.OIAP, NONCE_EVEN)
        tpm = Script(authorized(Ordinal.OWNER_SET_DISABLE, continues=1))
        tss12.run_sync(tpm.send, owner_disable(session))
        assert session.is_open
        assert session.nonce_even == NEXT_NONCE
        assert tpm.commands[0][-21:-20] == b"\x01"  # continueAuthSession

    def test_a_session_given_is_closed_if_the_tpm_says_so(self) -> None:
        session = Session(HANDLE, ProtocolId.OIAP, NONCE_EVEN)
        tpm = Script(authorized(Ordinal.OWNER_SET_DISABLE, continues=0))
        tss12.run_sync(tpm.send, owner_disable(session))
        assert not session.is_open

    def test_an_error_ends_a_session_given(self) -> None:
        session = Session(HANDLE, ProtocolId.OIAP, NONCE_EVEN)
        gone = error_response(ReturnCode.INVALID_AUTHHANDLE)
        tpm = Script(error_response(ReturnCode.DEFEND_LOCK_RUNNING), gone)
        with pytest.raises(TpmError) as raised:
            tss12.run_sync(tpm.send, owner_disable(session))
        assert raised.value.code == ReturnCode.DEFEND_LOCK_RUNNING
        assert not session.is_open
        assert tpm.ordinals[-1] == Ordinal.FLUSH_SPECIFIC

    def test_the_first_of_two_sessions_is_closed_if_the_second_does_not_open(self) -> None:
        tpm = Script(oiap_answer(), error_response(ReturnCode.RESOURCES), success())
        conversation = tss12.with_secrets(
            Ordinal.CERTIFY_KEY, nothing, (SECRET, SECRET), random=SeededRandom("c")
        )
        with pytest.raises(TpmError) as raised:
            tss12.run_sync(tpm.send, conversation)
        assert raised.value.code == ReturnCode.RESOURCES
        assert tpm.ordinals == [Ordinal.OIAP, Ordinal.OIAP, Ordinal.FLUSH_SPECIFIC]

    def test_a_secret_without_a_source_of_nonces_is_a_mistake_of_the_caller(self) -> None:
        with pytest.raises(ValueError, match="random source"):
            tss12.run_sync(Script().send, tss12.sign(1, b"", key_auth=SECRET))

    def test_no_representation_shows_a_secret(self) -> None:
        session = Session(HANDLE, ProtocolId.OSAP, NONCE_EVEN, SECRET)
        block = tss12.prove(session, SeededRandom("c"))
        for text in (repr(session), repr(block)):
            assert "secret" not in text
            assert SECRET.hex() not in text


class TestRunning:
    """Transports that block and transports that are awaited."""

    async def test_both_runners_give_the_same(self) -> None:
        script = Script(success(bytes(20)))

        async def send(command: bytes) -> bytes:
            return script.send(command)

        assert await tss12.converse(send, tss12.pcr_read(1)) == bytes(20)
        assert script.commands == [bytes.fromhex("00c10000000e0000001500000001")]

    async def test_an_error_reaches_the_awaiting_caller(self) -> None:
        async def send(_command: bytes) -> bytes:
            return error_response(ReturnCode.DISABLED)

        with pytest.raises(TpmError):
            await tss12.converse(send, tss12.pcr_read(1))

    def test_a_transport_that_fails_ends_the_conversation(self) -> None:
        def send(_command: bytes) -> bytes:
            raise ConnectionResetError

        conversation = tss12.pcr_read(1)
        with pytest.raises(ConnectionResetError):
            tss12.run_sync(send, conversation)
        with pytest.raises(StopIteration):
            next(conversation)
