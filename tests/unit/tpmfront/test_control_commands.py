# SPDX-License-Identifier: Apache-2.0
"""Requests of the control channel to a vTPM that does not answer."""

from __future__ import annotations

from typing import cast

import pytest
import trio
from trio.testing import MockClock

from daemons.runtime.log import Log
from daemons.tpmfront.controlcommands import ControlCommands, Source
from daemons.tpmfront.datachannel import DataChannel
from daemons.tpmfront.link import RECONNECT_WAIT_S, VtpmLink
from protocol import swtpm
from protocol.tpm12 import ReturnCode, error_response


class NoVtpm:
    """A link to a vTPM that is away."""

    connections = 0

    async def transact(self, _command: bytes, _locality: int, _submission: object) -> bytes:
        """Wait for it in vain."""
        await trio.sleep(RECONNECT_WAIT_S)
        return error_response(ReturnCode.RETRY)


@pytest.mark.parametrize("retries", [0, 300, 0xFFFFFFFF])
async def test_a_lock_takes_no_longer_than_was_asked_for(
    retries: int, autojump_clock: MockClock
) -> None:
    link = cast(VtpmLink, NoVtpm())
    commands = ControlCommands(link, cast(DataChannel, None), Log("tpmfront", sink=lambda _: None))
    begun = trio.current_time()
    answer = await commands.execute(swtpm.LockStorage(retries), cast(Source, None))
    assert answer.data == ReturnCode.FAIL.to_bytes(4, "big")
    # At most a minute, and the last answer.
    assert trio.current_time() - begun <= 2 * RECONNECT_WAIT_S + 1
