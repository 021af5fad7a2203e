# SPDX-License-Identifier: Apache-2.0
"""Deep quotes through a real vtpm, with a manager of the test's own at the other end."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from daemons.runtime.sockets import listen_unix
from protocol.manager.constants import ManagerCode, VtpmOrdinal
from protocol.manager.framing import error_response, parse_request, success_response
from protocol.manager.messages import (
    NO_IMAGE,
    decode_save_hash_key,
    encode_load_hash_key_body,
)
from protocol.tpm12 import Ordinal, Tag, build_message
from protocol.tpm12 import error_response as tpm_error
from protocol.tpm12.constants import ReturnCode
from protocol.tpm12.pcr import PcrSelection
from protocol.tpmif.errors import BackendLost
from protocol.tpmif.unix import BackendDevice, FrontendDevice, serve_backend
from tests.integration.vtpm_lab import Lab, Vtpm, kept_memory, open_lab
from tests.unit.tpm12.world import SeededRandom
from tpmcore import tss12
from tpmcore.errors import TpmError
from tpmcore.tss12 import Conversation, ParentEvidence

OWNER_AUTH = b"owner of the guest--"
NONCE = b"nonce of a verifier!"
PCRS = PcrSelection.of([0, 10])
PARENT_PCRS = PcrSelection.of([17])
PCR_17 = b"\x17" * 20
LIMIT_S = 60.0


def _sha1(*parts: bytes) -> bytes:
    return hashlib.sha1(b"".join(parts)).digest()


class ManagerInTest:
    """Keeps keys, and answers quotes as it is told to.

    Attributes:
        quote: makes the response to GET_QUOTE.
        asked: set when one came.
        cancelled: set when one was withdrawn.
    """

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.quote: Callable[[bytes], Awaitable[bytes | None]] = self.sign
        self.asked = trio.Event()
        self.cancelled = trio.Event()
        self.identity = rsa.generate_private_key(65537, 2048)

    async def opened(self, device: BackendDevice) -> None:
        """Let it in."""

    async def closed(self, device: BackendDevice) -> None:
        """Forget it."""

    def cancel(self, device: BackendDevice) -> None:
        """Note it."""
        self.cancelled.set()

    async def request(self, device: BackendDevice, request: bytes, locality: int) -> bytes | None:
        """Answer as a manager."""
        message = parse_request(request)
        if message.tag == Tag.RQU_COMMAND:
            assert message.ordinal == Ordinal.GET_RANDOM
            size = int.from_bytes(message.body, "big")
            body = size.to_bytes(4, "big") + os.urandom(size)
            return build_message(Tag.RSP_COMMAND, 0, body)
        guest = str(device.uuid)
        match message.ordinal:
            case VtpmOrdinal.SAVEHASHKEY:
                self.data[guest] = decode_save_hash_key(message.body)
                return success_response()
            case VtpmOrdinal.LOADHASHKEY:
                known = self.data.setdefault(guest, NO_IMAGE)
                return success_response(encode_load_hash_key_body(known))
            case VtpmOrdinal.GET_QUOTE:
                self.asked.set()
                return await self.quote(message.body)
            case _:
                return error_response(ManagerCode.BAD_ORDINAL)

    async def sign(self, body: bytes) -> bytes:
        """Quote PCR 17 with no more said."""
        assert body[20:] == bytes.fromhex("0003 000002 00000000")
        composite = _sha1(bytes.fromhex("0003 000002 00000014"), PCR_17)
        external = _sha1(bytes(4), body[:20])
        quoted = bytes.fromhex("01010000") + b"QUOT" + composite + external
        signature = self.identity.sign(quoted, padding.PKCS1v15(), hashes.SHA1())
        return success_response(signature + PCR_17)

    async def wait_for_withdrawal(self, _body: bytes) -> bytes | None:
        """Answer nothing until nobody wants it any more."""
        await self.cancelled.wait()
        return None


@pytest.fixture
async def lab(run_dir: Path) -> AsyncIterator[Lab]:
    """A lab without a machine."""
    async with open_lab(run_dir) as lab:
        yield lab


@asynccontextmanager
async def _manager(lab: Lab) -> AsyncIterator[ManagerInTest]:
    manager = ManagerInTest()
    with listen_unix(lab.manager_socket, kind=socket.SOCK_SEQPACKET) as listener:
        async with trio.open_nursery() as nursery:
            await nursery.start(
                partial(serve_backend, listener, admit=lambda *_: None, handler=manager)
            )
            yield manager
            nursery.cancel_scope.cancel()


async def _own(vtpm: Vtpm) -> None:
    random = SeededRandom("owner")
    await vtpm.run(tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=bytes(20), random=random))


def _deep_quote() -> Conversation[ParentEvidence]:
    return tss12.deep_quote(
        NONCE, PCRS, PARENT_PCRS, owner_auth=OWNER_AUTH, random=SeededRandom(os.urandom(4).hex())
    )


def _sign_ek() -> Conversation[ParentEvidence]:
    return tss12.parent_sign_ek(
        NONCE, PARENT_PCRS, owner_auth=OWNER_AUTH, random=SeededRandom(os.urandom(4).hex())
    )


async def _code(vtpm: Vtpm, conversation: Conversation[ParentEvidence]) -> int:
    try:
        await vtpm.run(conversation)
    except TpmError as error:
        return error.code
    return ReturnCode.SUCCESS


async def test_a_deep_quote_verifies_with_hashlib_and_rsa(lab: Lab) -> None:
    async with _manager(lab) as manager, lab.vtpm("g1", "--ek", "create") as vtpm:
        await _own(vtpm)
        pcr_10 = await vtpm.run(tss12.extend(10, b"m" * 20))
        evidence = await vtpm.run(_deep_quote())
        assert (evidence.hashes, evidence.pcr_values) == ((), (PCR_17,))
        composite = _sha1(bytes.fromhex("0003 010400 00000028"), bytes(20), pcr_10)
        told = _sha1(bytes(4), b"DQUT", NONCE, bytes.fromhex("0003 010400"), b"\x01", composite)
        composite = _sha1(bytes.fromhex("0003 000002 00000014"), PCR_17)
        quoted = bytes.fromhex("01010000") + b"QUOT" + composite + _sha1(bytes(4), told)
        manager.identity.public_key().verify(
            evidence.signature, quoted, padding.PKCS1v15(), hashes.SHA1()
        )


async def test_the_manager_refuses_in_its_own_words_and_the_guest_goes_on(lab: Lab) -> None:
    async with _manager(lab) as manager, lab.vtpm("g1", "--ek", "create") as vtpm:
        await _own(vtpm)

        async def refuse(_body: bytes) -> bytes:
            return error_response(ManagerCode.BAD_ORDINAL)

        manager.quote = refuse
        assert await _code(vtpm, _deep_quote()) == ManagerCode.BAD_ORDINAL
        manager.quote = manager.sign
        assert await _code(vtpm, _deep_quote()) == ReturnCode.SUCCESS


async def test_an_ek_is_vouched_for_until_the_vtpm_is_another_process_without_its_memory(
    lab: Lab,
) -> None:
    async with _manager(lab):
        with kept_memory() as memory:
            async with lab.vtpm("g1", "--ek", "create", memory=memory) as vtpm:
                await _own(vtpm)
                assert await _code(vtpm, _sign_ek()) == ReturnCode.SUCCESS
                await vtpm.kill()
            async with lab.vtpm("g1", memory=memory) as vtpm:
                assert await _code(vtpm, _sign_ek()) == ReturnCode.SUCCESS
                await vtpm.control("reset")
                assert await _code(vtpm, _sign_ek()) == ReturnCode.SUCCESS
        async with lab.vtpm("g1") as vtpm:
            assert await _code(vtpm, _sign_ek()) == ReturnCode.DISABLED_CMD


async def test_another_guest_is_served_while_one_waits_for_its_quote(lab: Lab) -> None:
    async with (
        _manager(lab) as manager,
        lab.vtpm("g1", "--ek", "create") as waiting,
        lab.vtpm("g2") as other,
    ):
        await _own(waiting)
        may_answer = trio.Event()

        async def late(body: bytes) -> bytes:
            await may_answer.wait()
            return await manager.sign(body)

        manager.quote = late
        async with trio.open_nursery() as nursery:
            codes: list[int] = []

            async def ask() -> None:
                codes.append(await _code(waiting, _deep_quote()))

            nursery.start_soon(ask)
            await manager.asked.wait()
            await other.run(tss12.extend(10, b"m" * 20))
            status = await waiting.control("status")
            assert status["state"] == "serving"
            assert codes == []
            may_answer.set()
        assert codes == [ReturnCode.SUCCESS]


async def _signed_command(device: FrontendDevice) -> bytes:
    """A deep quote with the authorization of a session that is open."""
    conversation = _deep_quote()
    command = conversation.send(await device.transact(next(conversation), 0))
    conversation.close()
    return command


async def test_a_guest_that_gives_up_takes_its_quote_back_and_has_its_tpm_again(lab: Lab) -> None:
    async with _manager(lab) as manager, lab.vtpm("g1", "--ek", "create") as vtpm:
        await _own(vtpm)
        manager.quote = manager.wait_for_withdrawal
        async with vtpm.front() as device:
            command = await _signed_command(device)
            async with trio.open_nursery() as nursery:

                async def give_up() -> None:
                    await manager.asked.wait()
                    device.cancel_nowait()

                nursery.start_soon(give_up)
                # The answer to a request that was given up: an error, and the page is free again.
                answer = await device.transact(command, 0)
            assert answer == tpm_error(ReturnCode.IOERROR)
            assert manager.cancelled.is_set()
            # Not the same session: an error has ended it.
            assert await device.transact(command, 0) == tpm_error(ReturnCode.INVALID_AUTHHANDLE)
        manager.quote = manager.sign
        assert await _code(vtpm, _deep_quote()) == ReturnCode.SUCCESS


async def test_a_guest_that_vanishes_takes_its_quote_back(lab: Lab) -> None:
    async with _manager(lab) as manager, lab.vtpm("g1", "--ek", "create") as vtpm:
        await _own(vtpm)
        manager.quote = manager.wait_for_withdrawal
        async with vtpm.front() as device, trio.open_nursery() as nursery:
            nursery.start_soon(device.transact, await _signed_command(device), 0)
            await manager.asked.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(LIMIT_S):
            await manager.cancelled.wait()
        manager.quote = manager.sign
        assert await _code(vtpm, _deep_quote()) == ReturnCode.SUCCESS


async def test_a_stop_does_not_wait_for_a_quote(lab: Lab) -> None:
    async with _manager(lab) as manager, lab.vtpm("g1", "--ek", "create") as vtpm:
        await _own(vtpm)
        manager.quote = manager.wait_for_withdrawal
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with suppress(BackendLost):
                    async with vtpm.front() as device:
                        await device.transact(await _signed_command(device), 0)

            nursery.start_soon(ask)
            await manager.asked.wait()
            vtpm.signal(signal.SIGTERM)
            assert await vtpm.wait_end() == 0
