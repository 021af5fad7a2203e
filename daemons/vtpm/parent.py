# SPDX-License-Identifier: Apache-2.0
"""The vTPM's parent: the hardware TPM, which quotes by way of the manager.

A quote changes nothing anywhere, so every failure of it is certain and harmless. Meanwhile this
guest's TPM stands still, as a TPM does one thing at a time; other guests have processes of their
own.
"""

from __future__ import annotations

from typing import Final

import trio

from daemons.runtime.log import Log
from daemons.vtpm.manager_client import CONNECT_WAIT_S, ManagerCommands, ManagerLink
from daemons.vtpm.store import ManagerLost
from protocol.manager.framing import ManagerRefused
from protocol.manager.messages import GetQuote
from tpmcore.engine import Done, EffectResult, Failed, ParentQuote

QUOTE_WAIT_S: Final = 60.0
"""Longest that a guest's TPM stands still for one quote: the manager serves others before, each a
few operations of a slow hardware TPM."""


class ParentQuotes:
    """Carries out `ParentQuote` effects."""

    def __init__(self, link: ManagerLink, manager: ManagerCommands, log: Log) -> None:
        """Args:
        link: to the manager, to see whether it is there.
        manager: its commands over that link.
        log: for quotes that did not come.
        """
        self._link = link
        self._manager = manager
        self._log = log

    async def quote(self, effect: ParentQuote) -> EffectResult:
        """Have the manager quote.

        Returns:
            What it gave; a refusal with its own code; without an answer, a failure that leaves the
            code to the engine. Cancelled, it withdraws the request.
        """
        with trio.move_on_after(CONNECT_WAIT_S):
            await self._link.wait_up()
        if not self._link.is_up:
            self._log.warning("no quote by the hardware TPM", reason="no manager")
            return Failed()
        request = GetQuote(effect.extern_data, effect.pcr_selection, effect.flags)
        with trio.move_on_after(QUOTE_WAIT_S):
            try:
                return Done(await self._manager.quote(request))
            except ManagerRefused as error:
                self._log.info("quote refused", reason=error)
                return Failed(error.code)
            except ManagerLost as error:
                self._log.warning("no quote by the hardware TPM", reason=error)
                return Failed()
        self._log.warning("no quote by the hardware TPM", reason=f"not within {QUOTE_WAIT_S:g} s")
        return Failed()
