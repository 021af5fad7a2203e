# SPDX-License-Identifier: Apache-2.0
"""What a vTPM is to the manager, for a process that would be it."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Final
from uuid import UUID

import trio

from daemons.tpmfront.compat.errors import Refusal
from daemons.tpmfront.compat.managerplace import no_manager
from protocol.errors import WireError
from protocol.manager.constants import ManagerCode
from protocol.manager.framing import ManagerRefused
from protocol.manager.messages import (
    NO_IMAGE,
    decode_load_hash_key_response,
    encode_load_hash_key,
)
from protocol.tpmif.errors import BackendRefused, TpmifError
from protocol.tpmif.unix import open_frontend

_MANAGER_S: Final = 30.0
_OPEN_ELSEWHERE_S: Final = 5.0
"""How long a vTPM may be open on another connection that is about to end."""
_PAUSE_S: Final = 0.1


class Standing(enum.Enum):
    """What a vTPM of ours is to the manager."""

    FREE = "free"
    """It knows none, or has no image of it."""
    USED = "used"
    """It has an image of it; or it is open elsewhere, or has moved to another manager."""


async def is_admitted(manager: Path, uuid: UUID) -> bool:
    """Say whether this process may be a vTPM.

    Raises:
        Refusal: there is no manager.
    """
    try:
        with trio.fail_after(_MANAGER_S):
            async with open_frontend(manager, uuid=uuid, linger=False):
                return True
    except BackendRefused:
        return False
    except (OSError, TpmifError, trio.TooSlowError) as error:
        raise no_manager(manager, error) from None


async def standing_of(manager: Path, uuid: UUID) -> Standing:
    """Return what a vTPM is that this process may be.

    Raises:
        Refusal: there is no manager, or it does not say now.
    """
    refused_since = trio.current_time()
    while True:
        try:
            return Standing.FREE if await _is_blank(manager, uuid) else Standing.USED
        except ManagerRefused as error:
            if error.code != ManagerCode.DISABLED:
                raise Refusal(
                    f"the manager at {manager} does not say whether vTPM {uuid} has an image "
                    f"({error})"
                ) from None
        except WireError as error:
            raise no_manager(manager, error) from None
        if trio.current_time() - refused_since >= _OPEN_ELSEWHERE_S:
            return Standing.USED
        await trio.sleep(_PAUSE_S)


async def _is_blank(manager: Path, uuid: UUID) -> bool:
    """Say whether the manager knows of no image.

    The answer has the key of an image too if there is one. It is let go at once, and opens nothing
    that is still there: this is asked for folders without an image only.

    Raises:
        Refusal: there is no manager.
        ManagerRefused, WireError: it does not say.
    """
    try:
        with trio.fail_after(_MANAGER_S):
            async with open_frontend(manager, uuid=uuid, linger=False) as device:
                response = await device.transact(encode_load_hash_key(), 0)
    except (OSError, TpmifError, trio.TooSlowError) as error:
        raise no_manager(manager, error) from None
    try:
        return decode_load_hash_key_response(response) == NO_IMAGE
    except ManagerRefused as error:
        if error.code == ManagerCode.BAD_PARAMETER:
            return True  # it has never heard of it
        raise
