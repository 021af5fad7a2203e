# SPDX-License-Identifier: Apache-2.0
"""What is refused alike by every command that uses a key: rows for the tables of the chapters."""

from __future__ import annotations

from protocol.tpm12.constants import ReturnCode
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode


def of_key(
    key: str = "the key", *, osap: bool = False, wrong: ReturnCode = RC.AUTHFAIL
) -> tuple[ErrorPath, ...]:
    """Return the refusals that concern one key of a command and its session.

    Args:
        key: what the key is to the command.
        osap: whether its session must be an OSAP session.
        wrong: what a wrong HMAC of it ends in.
    """
    session = f"the session of {key}"
    oiap = ErrorPath(RC.BAD_MODE, f"{session} is an OIAP session", _SESSION)
    return (
        ErrorPath(RC.INVALID_KEYHANDLE, f"{key} is not loaded", _HANDLE),
        ErrorPath(RC.KEYNOTFOUND, f"{key} is the EK", _HANDLE),
        ErrorPath(RC.INVALID_RESOURCE, f"{key} is a reserved handle of no key", _HANDLE),
        ErrorPath(RC.WRONGPCRVAL, f"the PCRs of {key} are not as bound", _PCRS),
        ErrorPath(RC.BAD_LOCALITY, f"{key} is not for this locality", _LOCALITY),
        ErrorPath(RC.INVALID_AUTHHANDLE, f"{session} is not open", _SESSION),
        *((oiap,) if osap else ()),
        ErrorPath(RC.AUTHFAIL, f"{session} is an OSAP session of another key", _SESSION),
        ErrorPath(RC.AUTHFAIL, f"{session} is an OSAP session of the owner", _SESSION),
        ErrorPath(wrong, f"wrong HMAC of {session}", _SESSION),
    )


_HANDLE = "keys_that_are_not_there"
_PCRS = "keys_whose_pcrs_are_not_as_they_should_be"
_LOCALITY = "keys_at_the_wrong_locality"
_SESSION = "keys_with_a_session_that_is_wrong"
