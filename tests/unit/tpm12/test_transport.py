# SPDX-License-Identifier: Apache-2.0
"""Transport sessions (Part 3, 24): what they do and refuse."""

from __future__ import annotations

import hashlib

import pytest

from protocol.tpm12.constants import (
    Algorithm,
    CapabilityArea,
    CapabilityProperty,
    EncScheme,
    NvAttributes,
    Ordinal,
    ProtocolId,
    ReservedHandle,
    ResourceType,
    ReturnCode,
    SigScheme,
    StartupType,
    Tag,
)
from protocol.tpm12.framing import build_message
from protocol.tpm12.transport import TransportAuth, TransportPublic
from protocol.tpm12.wire import SIZED, U16, U32
from tests.unit.tpm12.keychain import (
    NO_AUTH,
    SRK,
    USAGE_AUTH,
    WRONG_AUTH,
    binding_key,
    encrypt_oaep,
    encrypt_pkcs1v15,
    make_and_load,
    signing_key,
    srk_modulus,
    storage_key,
)
from tests.unit.tpm12.tunnel import ENCRYPT, EXCLUSIVE, LOG, MODES, PLAIN, open_tunnel, srk_public
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.engine import Duration, Failed, HashStart
from tpmcore.tpm12.world import Profile
from tpmcore.tss12 import Conversation, TransportSession
from tpmcore.tss12.conversation import nothing

NONCE = b"nonce-of-the-client!"
NV_INDEX = 0x00011234
READ_PCR_3 = bytes.fromhex("00c1 0000000e 00000015 00000003")


@pytest.fixture
def chip() -> Chip:
    """A chip with an owner."""
    return make_owned_chip()


def inside(transport: TransportSession, command: bytes) -> Conversation[bytes]:
    """Execute one raw command."""
    return tss12.execute_transport(transport, command)


def establish(
    chip: Chip,
    handle: int,
    secret: bytes,
    attributes: int = 0,
    alg: int = Algorithm.MGF1,
    scheme: int = EncScheme.NONE,
    key_auth: bytes | None = None,
) -> int:
    """Return the code of an EstablishTransport of any content."""
    parameters = TransportPublic(attributes, alg, scheme).encode() + SIZED.write(secret)
    ordinal, handles = Ordinal.ESTABLISH_TRANSPORT, U32.write(handle)
    if key_auth is None:
        return chip.code(
            tss12.execute(
                ordinal, lambda r: r.take(60), handles=handles, parameters=parameters, handles_out=4
            )
        )
    return chip.code(
        tss12.with_secret(
            ordinal,
            lambda reader: reader.take(60),
            key_auth,
            random=chip.client_random,
            handles=handles,
            parameters=parameters,
            handles_out=4,
        )
    )


def transports(chip: Chip) -> list[int]:
    """Return the handles of the open transport sessions."""
    return chip.run(tss12.handles(ResourceType.TRANS))


def is_alive(chip: Chip, transport: TransportSession) -> bool:
    """Whether the session still executes commands."""
    return chip.code(tss12.through(transport, tss12.pcr_read(0))) == ReturnCode.SUCCESS


class TestEstablish:
    """TPM_EstablishTransport."""

    @pytest.mark.parametrize("mode", MODES)
    def test_a_session_with_a_secret_for_a_key_executes_commands(
        self, chip: Chip, mode: tuple[Algorithm, EncScheme]
    ) -> None:
        transport = open_tunnel(chip, ENCRYPT, mode)
        chip.run(tss12.through(transport, tss12.extend(3, b"m" * 20)))
        assert chip.run(tss12.pcr_read(3)) == hashlib.sha1(bytes(20) + b"m" * 20).digest()
        assert transports(chip) == [transport.channel.handle]

    def test_a_secret_in_the_clear_is_enough_for_what_is_not_encrypted(self, chip: Chip) -> None:
        transport = open_tunnel(chip, LOG)
        assert is_alive(chip, transport)

    def test_a_secret_in_the_clear_is_20_bytes_and_for_no_encryption(self, chip: Chip) -> None:
        handle = ReservedHandle.TRANSPORT
        assert establish(chip, handle, bytes(20), ENCRYPT) == ReturnCode.BAD_SCHEME
        assert establish(chip, handle, bytes(19)) == ReturnCode.BAD_PARAM_SIZE
        assert establish(chip, handle, bytes(21)) == ReturnCode.BAD_PARAM_SIZE
        assert transports(chip) == []

    def test_an_authorization_for_no_key_is_a_wrong_tag_and_ends_no_session(
        self, chip: Chip
    ) -> None:
        session = chip.run(tss12.oiap())
        auth = tss12.prove(session, chip.client_random, secret=bytes(20), keep=True)
        block = U32.write(session.handle) + auth.nonce_odd + b"\x01" + bytes(20)
        body = U32.write(ReservedHandle.TRANSPORT) + TransportPublic(0, 7, 1).encode()
        command = build_message(
            Tag.RQU_AUTH1_COMMAND,
            Ordinal.ESTABLISH_TRANSPORT,
            body + SIZED.write(bytes(20)) + block,
        )
        assert int.from_bytes(chip.send(command)[6:10], "big") == ReturnCode.BADTAG
        assert chip.run(tss12.handles(ResourceType.AUTH)) == [session.handle]

    def test_the_key_must_be_there_and_for_encryption(self, chip: Chip) -> None:
        secret = encrypt_oaep(srk_modulus(), TransportAuth(bytes(20)).encode())
        assert establish(chip, 0x12345678, secret) == ReturnCode.INVALID_KEYHANDLE
        _, signing = make_and_load(chip, signing_key())
        assert establish(chip, signing, secret) == ReturnCode.INVALID_KEYUSAGE

    def test_the_key_wants_its_secret_unless_it_needs_none(self, chip: Chip) -> None:
        secret = encrypt_oaep(srk_modulus(), TransportAuth(bytes(20)).encode())
        assert establish(chip, SRK, secret) == ReturnCode.AUTHFAIL
        assert establish(chip, SRK, secret, key_auth=WRONG_AUTH) == ReturnCode.AUTHFAIL
        assert establish(chip, SRK, secret, key_auth=SRK_AUTH) == ReturnCode.SUCCESS
        key, free = make_and_load(chip, storage_key(auth_data_usage=NO_AUTH))
        secret = encrypt_oaep(key.pub_key, TransportAuth(bytes(20)).encode())
        assert establish(chip, free, secret) == ReturnCode.SUCCESS

    def test_a_legacy_key_decrypts_in_its_own_scheme(self, chip: Chip) -> None:
        key, handle = make_and_load(chip, binding_key(EncScheme.RSAESPKCSV15, legacy=True))
        secret = encrypt_pkcs1v15(key.pub_key, TransportAuth(bytes(20)).encode())
        assert establish(chip, handle, secret, key_auth=USAGE_AUTH) == ReturnCode.SUCCESS

    def test_what_does_not_decrypt_to_a_transport_auth_is_refused(self, chip: Chip) -> None:
        def code(plain: bytes) -> int:
            secret = encrypt_oaep(srk_modulus(), plain)
            return establish(chip, SRK, secret, key_auth=SRK_AUTH)

        assert code(bytes.fromhex("001e") + bytes(20)) == ReturnCode.INVALID_STRUCTURE
        assert code(bytes.fromhex("001d") + bytes(19)) == ReturnCode.BAD_PARAM_SIZE
        assert code(bytes.fromhex("001d") + bytes(21)) == ReturnCode.BAD_PARAM_SIZE
        garbled = establish(chip, SRK, bytes(256), key_auth=SRK_AUTH)
        assert garbled == ReturnCode.DECRYPT_ERROR
        assert transports(chip) == []

    @pytest.mark.parametrize(
        ("alg", "scheme", "code"),
        [
            (Algorithm.MGF1, EncScheme.SYM_CTR, ReturnCode.INAPPROPRIATE_ENC),
            (Algorithm.AES128, EncScheme.NONE, ReturnCode.INAPPROPRIATE_ENC),
            (Algorithm.AES128, EncScheme.RSAESOAEP_SHA1_MGF1, ReturnCode.INAPPROPRIATE_ENC),
            (Algorithm.AES128, 0x00FF, ReturnCode.INAPPROPRIATE_ENC),
            (Algorithm.AES256, EncScheme.SYM_CTR, ReturnCode.BAD_KEY_PROPERTY),
            (0, EncScheme.NONE, ReturnCode.BAD_KEY_PROPERTY),
        ],
    )
    def test_only_some_encryptions_are_offered(
        self, chip: Chip, alg: int, scheme: int, code: ReturnCode
    ) -> None:
        secret = encrypt_oaep(srk_modulus(), TransportAuth(bytes(20)).encode())
        assert establish(chip, SRK, secret, ENCRYPT, alg, scheme, SRK_AUTH) == code
        assert establish(chip, SRK, secret, 0, alg, scheme, SRK_AUTH) == ReturnCode.SUCCESS

    def test_fips_forbids_the_mask(self, chip: Chip) -> None:
        chip.engine._tpm.permanent.flags.fips = True
        chip.durable = chip.engine.permanent_state()
        secret = encrypt_oaep(srk_modulus(), TransportAuth(bytes(20)).encode())
        code = establish(chip, SRK, secret, ENCRYPT, key_auth=SRK_AUTH)
        assert code == ReturnCode.INAPPROPRIATE_ENC

    def test_slots_run_out_and_come_back(self) -> None:
        chip = make_owned_chip(Profile(max_transports=2))

        def free() -> int:
            return chip.run(tss12.get_property(CapabilityProperty.TRANSESS))

        first, _ = open_tunnel(chip, PLAIN), open_tunnel(chip, PLAIN)
        assert free() == 0
        code = establish(chip, ReservedHandle.TRANSPORT, bytes(20))
        assert code == ReturnCode.RESOURCES
        chip.run(tss12.flush_specific(first.channel.handle, ResourceType.TRANS))
        assert free() == 1
        assert is_alive(chip, open_tunnel(chip, PLAIN))

    def test_there_is_none_without_an_owner(self) -> None:
        code = establish(make_chip(), ReservedHandle.TRANSPORT, bytes(20))
        assert code == ReturnCode.NOSRK

    def test_16_sessions_of_each_kind(self, chip: Chip) -> None:
        opened = [open_tunnel(chip, PLAIN) for _ in range(16)]
        sessions = [chip.run(tss12.oiap()) for _ in range(16)]
        assert establish(chip, ReservedHandle.TRANSPORT, bytes(20)) == ReturnCode.RESOURCES
        assert all(is_alive(chip, transport) for transport in opened)
        assert len({s.handle for s in sessions} | set(transports(chip))) == 32


class TestExecute:
    """TPM_ExecuteTransport."""

    def test_errors_of_the_command_inside_leave_the_session_alone(self, chip: Chip) -> None:
        transport = open_tunnel(chip)
        assert chip.code(tss12.through(transport, tss12.pcr_read(24))) == ReturnCode.BADINDEX
        assert transport.channel.is_open
        assert is_alive(chip, transport)

    def test_a_wrong_secret_inside_counts_and_one_of_the_session_does_not(self, chip: Chip) -> None:
        state = chip.engine._tpm.stclear
        wrong = tss12.owner_set_disable(True, owner_auth=WRONG_AUTH, random=chip.client_random)
        assert chip.code(tss12.through(open_tunnel(chip), wrong)) == ReturnCode.AUTHFAIL
        assert state.failure_count == 1
        transport = open_tunnel(chip)
        transport.auth_data = WRONG_AUTH
        assert not is_alive(chip, transport)
        assert state.failure_count == 1

    def test_a_wrong_authorization_ends_the_session_and_runs_nothing(self, chip: Chip) -> None:
        transport = open_tunnel(chip, PLAIN)
        transport.auth_data = WRONG_AUTH
        extend = tss12.through(transport, tss12.extend(3, b"m" * 20))
        assert chip.code(extend) == ReturnCode.AUTHFAIL
        assert chip.run(tss12.pcr_read(3)) == bytes(20)
        assert transports(chip) == []

    def test_a_repeated_command_does_not_authenticate(self, chip: Chip) -> None:
        transport = open_tunnel(chip, PLAIN)
        chip.run(tss12.through(transport, tss12.extend(3, b"m" * 20)))
        extended = chip.run(tss12.pcr_read(3))
        command = next(c for c, _ in reversed(chip.log) if c[9] == Ordinal.EXECUTE_TRANSPORT)
        assert int.from_bytes(chip.send(command)[6:10], "big") == ReturnCode.AUTHFAIL
        assert chip.run(tss12.pcr_read(3)) == extended

    def test_an_unknown_session_is_no_session(self, chip: Chip) -> None:
        transport = open_tunnel(chip, PLAIN)
        transport.channel.handle ^= 1
        code = chip.code(tss12.through(transport, tss12.pcr_read(0)))
        assert code == ReturnCode.INVALID_AUTHHANDLE
        session = chip.run(tss12.oiap())
        transport.channel.handle = session.handle
        code = chip.code(tss12.through(transport, tss12.pcr_read(0)))
        assert code == ReturnCode.INVALID_AUTHHANDLE

    def test_a_transport_session_authorizes_nothing_else(self, chip: Chip) -> None:
        transport = open_tunnel(chip, PLAIN)
        command = tss12.with_secret(
            Ordinal.OWNER_CLEAR,
            nothing,
            OWNER_AUTH,
            random=chip.client_random,
            session=transport.channel,
        )
        assert chip.code(command) == ReturnCode.INVALID_AUTHHANDLE

    @pytest.mark.parametrize(
        "wrapped",
        [
            "",
            "00c1 0000000e 000000",
            "00c1 0000000f 00000015 00000003",
            "00c1 0000000d 00000015 00000003",
            "00c0 0000000e 00000015 00000003",
            "00c4 0000000e 00000015 00000003",
            "00c1 0000000e 00001234 00000003",
            "00c1 0000000d 00000021 000000",
            "00c2 0000000e 00000021 00000003",
        ],
        ids=["empty", "short", "long", "cut", "tag", "answer", "ordinal", "handle", "no-block"],
    )
    def test_what_is_no_command_is_a_bad_parameter_and_ends_the_session(
        self, chip: Chip, wrapped: str
    ) -> None:
        transport = open_tunnel(chip, PLAIN)
        data = bytes.fromhex(wrapped)
        handle = U32.write(transport.channel.handle)
        command = build_message(
            Tag.RQU_AUTH1_COMMAND,
            Ordinal.EXECUTE_TRANSPORT,
            SIZED.write(data) + handle + bytes(20) + b"\x00" + bytes(20),
        )
        assert int.from_bytes(chip.send(command)[6:10], "big") == ReturnCode.BAD_PARAMETER
        assert transports(chip) == []

    @pytest.mark.parametrize(
        "ordinal",
        [
            Ordinal.ESTABLISH_TRANSPORT,
            Ordinal.EXECUTE_TRANSPORT,
            Ordinal.RELEASE_TRANSPORT_SIGNED,
        ],
    )
    def test_nothing_nests(self, chip: Chip, ordinal: Ordinal) -> None:
        transport = open_tunnel(chip)
        command = build_message(Tag.RQU_AUTH1_COMMAND, ordinal, bytes(100))
        assert chip.code(inside(transport, command)) == ReturnCode.NO_WRAP_TRANSPORT
        assert transports(chip) == []

    def test_the_state_is_not_saved_inside(self, chip: Chip) -> None:
        transport = open_tunnel(chip)
        code = chip.code(tss12.through(transport, tss12.save_state()))
        assert code == ReturnCode.NO_WRAP_TRANSPORT
        assert is_alive(chip, transport)

    def test_executing_drops_a_saved_state(self, chip: Chip) -> None:
        transport = open_tunnel(chip)
        chip.run(tss12.save_state())
        assert is_alive(chip, transport)
        chip.power_cycle(startup=None)
        assert chip.code(tss12.startup(StartupType.STATE)) == ReturnCode.FAILEDSELFTEST

    def test_a_session_that_is_not_kept_ends_with_the_answer(self, chip: Chip) -> None:
        transport = open_tunnel(chip)
        chip.run(tss12.through(transport, tss12.pcr_read(0), keep=False))
        assert not transport.channel.is_open
        assert transports(chip) == []

    def test_a_command_that_ends_its_own_session_is_answered(self, chip: Chip) -> None:
        transport = open_tunnel(chip)
        flush = tss12.flush_specific(transport.channel.handle, ResourceType.TRANS)
        chip.run(tss12.through(transport, flush))
        assert not transport.channel.is_open
        assert transports(chip) == []

    def test_the_command_is_judged_by_its_own_gate_and_locality(self, chip: Chip) -> None:
        transport = open_tunnel(chip)
        startup = tss12.through(transport, tss12.startup())
        assert chip.code(startup) == ReturnCode.INVALID_POSTINIT
        code = chip.code(tss12.through(transport, tss12.extend(20, bytes(20))), locality=0)
        assert code == ReturnCode.BAD_LOCALITY
        chip.run(tss12.through(transport, tss12.extend(20, bytes(20))), locality=2)

    def test_permanent_changes_inside_are_made_durable(self, chip: Chip) -> None:
        transport = open_tunnel(chip)
        define = tss12.nv_define_space(
            NV_INDEX,
            4,
            NvAttributes.OWNERWRITE,
            owner_auth=OWNER_AUTH,
            random=chip.client_random,
        )
        chip.run(tss12.through(transport, define))
        chip.power_cycle()
        assert NV_INDEX in chip.run(tss12.nv_list())

    def test_a_change_that_cannot_be_stored_is_undone_and_ends_the_session(
        self, chip: Chip
    ) -> None:
        transport = open_tunnel(chip, PLAIN)
        chip.persist_result = Failed(ReturnCode.IOERROR)
        clear = tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random)
        assert chip.code(tss12.through(transport, clear)) == ReturnCode.IOERROR
        assert transports(chip) == []
        assert chip.run(tss12.handles(ResourceType.AUTH)) == []
        assert chip.run(tss12.is_owned())

    def test_a_wrapped_command_is_as_long_as_it_is_alone(self, chip: Chip) -> None:
        def of(ordinal: Ordinal) -> Duration:
            wrapped = build_message(Tag.RQU_COMMAND, ordinal)
            body = SIZED.write(wrapped) + bytes(45)
            return chip.engine.duration(
                build_message(Tag.RQU_AUTH1_COMMAND, Ordinal.EXECUTE_TRANSPORT, body)
            )

        assert of(Ordinal.CREATE_WRAP_KEY) is Duration.LONG
        assert of(Ordinal.PCR_READ) is Duration.SHORT

    def test_an_answer_that_does_not_fit_the_envelope_is_an_error_inside(self) -> None:
        chip = make_owned_chip(Profile(input_buffer_bytes=1024))
        transport = open_tunnel(chip)
        chip.run(
            tss12.nv_define_space(
                NV_INDEX,
                920,
                NvAttributes.OWNERWRITE | NvAttributes.OWNERREAD,
                owner_auth=OWNER_AUTH,
                random=chip.client_random,
            )
        )

        def read(size_bytes: int) -> Conversation[bytes]:
            return tss12.nv_read_value(
                NV_INDEX, size_bytes, owner_auth=OWNER_AUTH, random=chip.client_random
            )

        assert len(chip.run(read(920))) == 920
        assert chip.code(tss12.through(transport, read(920))) == ReturnCode.SIZE
        assert len(chip.run(tss12.through(transport, read(800)))) == 800
        assert is_alive(chip, transport)


class TestSha1Threads:
    """One thread, which belongs to where it was started."""

    def test_a_thread_goes_on_inside_of_its_session(self, chip: Chip) -> None:
        transport = open_tunnel(chip)
        chip.run(tss12.through(transport, tss12.sha1_start()))
        chip.run(tss12.through(transport, tss12.sha1_update(bytes(64))))
        digest = chip.run(tss12.through(transport, tss12.sha1_complete(b"end")))
        assert digest == hashlib.sha1(bytes(64) + b"end").digest()

    def test_a_thread_does_not_cross_the_border_of_its_session(self, chip: Chip) -> None:
        one, other = open_tunnel(chip), open_tunnel(chip)
        update = tss12.sha1_update

        chip.run(tss12.through(one, tss12.sha1_start()))
        assert chip.code(update(bytes(64))) == ReturnCode.SHA_THREAD
        chip.run(tss12.sha1_start())
        assert chip.code(tss12.through(one, update(bytes(64)))) == ReturnCode.SHA_THREAD
        chip.run(tss12.through(one, tss12.sha1_start()))
        assert chip.code(tss12.through(other, update(bytes(64)))) == ReturnCode.SHA_THREAD
        assert chip.code(tss12.through(one, update(bytes(64)))) == ReturnCode.SHA_THREAD

    def test_any_other_command_inside_drops_the_thread(self, chip: Chip) -> None:
        transport = open_tunnel(chip)
        chip.run(tss12.through(transport, tss12.sha1_start()))
        chip.run(tss12.through(transport, tss12.pcr_read(0)))
        code = chip.code(tss12.through(transport, tss12.sha1_update(bytes(64))))
        assert code == ReturnCode.SHA_THREAD


class TestExclusive:
    """The EXCLUSIVE attribute."""

    def test_what_is_inside_does_not_end_it(self, chip: Chip) -> None:
        transport = open_tunnel(chip, EXCLUSIVE)
        assert is_alive(chip, transport)
        assert is_alive(chip, transport)

    @pytest.mark.parametrize("command", [READ_PCR_3, bytes.fromhex("00c1 0000000a 00009999")])
    def test_any_other_command_ends_it_and_is_executed(self, chip: Chip, command: bytes) -> None:
        transport = open_tunnel(chip, EXCLUSIVE)
        chip.send(command)
        assert not is_alive(chip, transport)

    def test_another_session_ends_it_and_goes_on(self, chip: Chip) -> None:
        other = open_tunnel(chip, PLAIN)
        transport = open_tunnel(chip, EXCLUSIVE)
        assert is_alive(chip, other)
        assert not is_alive(chip, transport)

    def test_another_exclusive_one_takes_its_place(self, chip: Chip) -> None:
        first = open_tunnel(chip, EXCLUSIVE)
        second = open_tunnel(chip, EXCLUSIVE)
        assert is_alive(chip, second)
        assert not is_alive(chip, first)

    def test_the_hash_sequence_ends_it(self, chip: Chip) -> None:
        transport = open_tunnel(chip, EXCLUSIVE)
        assert chip.handle(HashStart()) == ReturnCode.SUCCESS
        assert not is_alive(chip, transport)

    def test_a_restart_keeps_it_exclusive(self, chip: Chip) -> None:
        transport = open_tunnel(chip, EXCLUSIVE)
        chip.restart()
        assert is_alive(chip, transport)
        chip.restart()
        chip.send(READ_PCR_3)
        assert not is_alive(chip, transport)

    def test_flushing_it_leaves_none(self, chip: Chip) -> None:
        transport = open_tunnel(chip, EXCLUSIVE)
        flush = tss12.flush_specific(transport.channel.handle, ResourceType.TRANS)
        chip.run(tss12.through(transport, flush))
        other = open_tunnel(chip, PLAIN)
        chip.send(READ_PCR_3)
        assert is_alive(chip, other)


class TestLifetime:
    """What ends sessions and what does not."""

    def test_a_restart_leaves_them(self, chip: Chip) -> None:
        transport = open_tunnel(chip, LOG | ENCRYPT)
        chip.run(tss12.through(transport, tss12.pcr_read(1)))
        chip.restart()
        assert is_alive(chip, transport)
        _, handle = make_and_load(chip, signing_key(auth_data_usage=NO_AUTH))
        key = chip.run(tss12.get_pub_key(handle, key_auth=None))
        chip.run(
            tss12.release_transport_signed(transport, handle, key, anti_replay=NONCE, key_auth=None)
        )

    def test_a_saved_state_has_them(self, chip: Chip) -> None:
        transport = open_tunnel(chip)
        chip.run(tss12.save_state())
        chip.power_cycle(StartupType.STATE)
        assert is_alive(chip, transport)

    def test_a_start_anew_ends_them(self, chip: Chip) -> None:
        open_tunnel(chip)
        chip.power_cycle()
        assert transports(chip) == []

    def test_the_owner_ends_them_even_from_inside(self, chip: Chip) -> None:
        other, transport = open_tunnel(chip), open_tunnel(chip)
        clear = tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random)
        chip.run(tss12.through(transport, clear))
        assert not transport.channel.is_open
        assert not chip.run(tss12.is_owned())
        assert transports(chip) == []
        assert other.channel.is_open

    def test_a_clear_that_was_saved_reaches_a_volatile_state_from_before_it(
        self, chip: Chip
    ) -> None:
        open_tunnel(chip, EXCLUSIVE)
        before = chip.engine.volatile_state()
        chip.run(tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random))
        chip.engine = type(chip.engine).restore(chip._world(), chip.profile, chip.durable, before)
        assert transports(chip) == []

    def test_flushing_knows_its_own_kind(self, chip: Chip) -> None:
        transport, session = open_tunnel(chip), chip.run(tss12.oiap())

        def code(handle: int, kind: ResourceType) -> int:
            return chip.code(tss12.flush_specific(handle, kind))

        assert code(transport.channel.handle, ResourceType.AUTH) == ReturnCode.INVALID_AUTHHANDLE
        assert code(session.handle, ResourceType.TRANS) == ReturnCode.INVALID_AUTHHANDLE
        assert code(0, ResourceType.TRANS) == ReturnCode.INVALID_AUTHHANDLE
        terminate = tss12.terminate_handle(transport.channel.handle)
        assert chip.code(terminate) == ReturnCode.INVALID_AUTHHANDLE
        chip.run(tss12.reset())
        assert is_alive(chip, transport)
        assert code(transport.channel.handle, ResourceType.TRANS) == ReturnCode.SUCCESS
        assert transports(chip) == []


class TestContexts:
    """SaveContext and LoadContext."""

    def load(self, blob: bytes, *, keep_handle: bool = True) -> Conversation[int]:
        return tss12.load_context(blob, keep_handle=keep_handle)

    def test_a_saved_session_is_gone_and_comes_back_once(self, chip: Chip) -> None:
        transport = open_tunnel(chip, LOG | ENCRYPT)
        blob = chip.run(tss12.save_context(transport.channel.handle, ResourceType.TRANS))
        assert transports(chip) == []
        assert chip.run(self.load(blob)) == transport.channel.handle
        assert is_alive(chip, transport)
        assert chip.code(self.load(blob)) == ReturnCode.BADCONTEXT

    def test_a_flushed_context_does_not_come_back(self, chip: Chip) -> None:
        transport = open_tunnel(chip)
        blob = chip.run(tss12.save_context(transport.channel.handle, ResourceType.TRANS))
        (count,) = chip.run(tss12.handles(ResourceType.CONTEXT))
        chip.run(tss12.flush_specific(count, ResourceType.CONTEXT))
        assert chip.code(self.load(blob)) == ReturnCode.BADCONTEXT

    def test_each_changed_byte_is_noticed(self, chip: Chip) -> None:
        transport = open_tunnel(chip)
        blob = chip.run(tss12.save_context(transport.channel.handle, ResourceType.TRANS))
        for at in range(10, len(blob), 7):
            changed = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
            assert chip.code(self.load(changed)) == ReturnCode.BADCONTEXT
        chip.run(self.load(blob))

    def test_no_slot_and_no_session_are_told(self) -> None:
        chip = make_owned_chip(Profile(max_transports=1))
        first = open_tunnel(chip)
        blob = chip.run(tss12.save_context(first.channel.handle, ResourceType.TRANS))
        gone = tss12.save_context(first.channel.handle, ResourceType.TRANS)
        assert chip.code(gone) == ReturnCode.INVALID_RESOURCE
        second = open_tunnel(chip)
        assert chip.code(self.load(blob)) == ReturnCode.RESOURCES
        chip.run(tss12.flush_specific(second.channel.handle, ResourceType.TRANS))
        chip.run(self.load(blob))
        assert is_alive(chip, first)

    def test_a_session_that_saves_itself_goes_on_with_the_nonce_that_was_answered(
        self, chip: Chip
    ) -> None:
        transport = open_tunnel(chip)
        handle = transport.channel.handle
        save = tss12.save_context(handle, ResourceType.TRANS)
        blob = chip.run(tss12.through(transport, save))
        assert not transport.channel.is_open
        assert chip.run(self.load(blob)) == handle
        assert is_alive(chip, transport)


class TestRelease:
    """TPM_ReleaseTransportSigned."""

    def release(
        self, chip: Chip, transport: TransportSession, handle: int, key_auth: bytes | None
    ) -> int:
        return chip.code(
            tss12.release_transport_signed(
                transport, handle, srk_public(), anti_replay=NONCE, key_auth=key_auth
            )
        )

    @pytest.mark.parametrize(
        "scheme", [SigScheme.RSASSAPKCS1V15_SHA1, SigScheme.RSASSAPKCS1V15_INFO]
    )
    def test_it_signs_the_log_and_ends_the_session(self, chip: Chip, scheme: SigScheme) -> None:
        transport = open_tunnel(chip, LOG)
        chip.run(tss12.through(transport, tss12.pcr_read(1)))
        key, handle = make_and_load(chip, signing_key(scheme))
        chip.run(
            tss12.release_transport_signed(
                transport, handle, key.public_key, anti_replay=NONCE, key_auth=USAGE_AUTH
            )
        )
        assert transports(chip) == []
        assert chip.run(tss12.handles(ResourceType.AUTH)) == []

    def test_each_refusal_ends_the_session(self, chip: Chip) -> None:
        _, signing = make_and_load(chip, signing_key())
        _, der = make_and_load(chip, signing_key(SigScheme.RSASSAPKCS1V15_DER))
        _, legacy = make_and_load(chip, binding_key(legacy=True))
        _, free = make_and_load(chip, signing_key(auth_data_usage=NO_AUTH))
        for handle, auth, code in (
            (0x12345678, USAGE_AUTH, ReturnCode.INVALID_KEYHANDLE),
            (der, USAGE_AUTH, ReturnCode.INAPPROPRIATE_SIG),
            (SRK, SRK_AUTH, ReturnCode.INAPPROPRIATE_SIG),
            (signing, None, ReturnCode.AUTHFAIL),
            (legacy, USAGE_AUTH, ReturnCode.INVALID_KEYUSAGE),
            (signing, WRONG_AUTH, ReturnCode.AUTHFAIL),
        ):
            assert self.release(chip, open_tunnel(chip, LOG), handle, auth) == code
            assert transports(chip) == []
        for auth, code in ((USAGE_AUTH, ReturnCode.AUTH2FAIL), (None, ReturnCode.AUTHFAIL)):
            transport = open_tunnel(chip, LOG)
            transport.auth_data = WRONG_AUTH
            assert self.release(chip, transport, free, auth) == code
            assert transports(chip) == []
        assert self.release(chip, open_tunnel(chip, PLAIN), free, None) == ReturnCode.BAD_MODE
        transport = open_tunnel(chip, LOG)
        transport.channel.handle ^= 1
        assert self.release(chip, transport, free, None) == ReturnCode.INVALID_AUTHHANDLE


class TestCapabilities:
    """What the TPM says of transport sessions."""

    def yes(self, chip: Chip, area: CapabilityArea, sub_cap: bytes) -> bool:
        return chip.run(tss12.get_capability(area, sub_cap)) == b"\x01"

    def test_algorithms_schemes_and_the_protocol(self, chip: Chip) -> None:
        algorithms = [
            a for a in Algorithm if self.yes(chip, CapabilityArea.TRANS_ALG, U32.write(a))
        ]
        assert algorithms == [Algorithm.AES128, Algorithm.MGF1]
        schemes = [s for s in EncScheme if self.yes(chip, CapabilityArea.TRANS_ES, U16.write(s))]
        assert schemes == [EncScheme.SYM_CTR, EncScheme.SYM_OFB]
        assert self.yes(chip, CapabilityArea.PID, U16.write(ProtocolId.TRANSPORT))

    def test_slots(self, chip: Chip) -> None:
        def prop(which: CapabilityProperty) -> int:
            return chip.run(tss12.get_property(which))

        open_tunnel(chip)
        assert prop(CapabilityProperty.MAX_TRANSESS) == 16
        assert prop(CapabilityProperty.TRANSESS) == 15
        assert prop(CapabilityProperty.MAX_SESSIONS) == 32
        assert prop(CapabilityProperty.SESSIONS) == 31
