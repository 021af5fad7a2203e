# SPDX-License-Identifier: Apache-2.0
"""An NV area of the manager's TPM 1.2, and the session that is kept for it.

Every save of a vTPM writes the freshness mark; a session that stays open saves it a command.
"""

from __future__ import annotations

from contextlib import suppress

from daemons.runtime.secret import Secret
from daemons.vtpmmgr.tpm12chip import Tpm12Chip
from tpmcore import tss12
from tpmcore.engine import RandomSource
from tpmcore.errors import TpmError
from tpmcore.tss12 import Session


class Tpm12Area:
    """An NV area and the session kept for it."""

    def __init__(
        self,
        chip: Tpm12Chip,
        index: int,
        size_bytes: int,
        auth: Secret,
        random: RandomSource,
    ) -> None:
        self._chip = chip
        self._index = index
        self._size_bytes = size_bytes
        self._auth = auth
        self._random = random
        self._session: Session | None = None

    async def read(self) -> bytes:
        """Return all of it."""
        return await self._chip.converse(
            tss12.nv_read_value_auth(
                self._index, self._size_bytes, area_auth=self._auth, random=self._random
            )
        )

    async def write(self, data: bytes) -> None:
        """Replace all of it, with the kept session if it still works.

        A session may be gone without our knowing: the chip was reset, or somebody flushed it. So a
        refusal under a kept session says nothing, and the write is done again under a new one. If
        the chip survived but the answer was lost, the nonces no longer match: the old session is
        flushed first, for chips have few.
        """
        kept = self._session
        if kept is not None and kept.is_open:
            with suppress(TpmError):
                await self._write(data, kept)
                return
        elif kept is not None:
            await self._chip.converse(tss12.close_session(kept))
        self._session = None
        self._session = await self._chip.converse(tss12.oiap())
        await self._write(data, self._session)

    async def _write(self, data: bytes, session: Session) -> None:
        conversation = tss12.nv_write_value_auth(
            self._index, data, area_auth=self._auth, random=self._random, session=session
        )
        try:
            await self._chip.converse(conversation)
        except BaseException:
            # Also when cancelled or without an answer: the nonces are in doubt.
            session.is_open = False
            raise
