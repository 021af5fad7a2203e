# SPDX-License-Identifier: Apache-2.0
"""Non-volatile storage (Part 3, chapter 20)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_UNPARSED: Final = "definitions_that_do_not_parse"
_NOT_AREAS: Final = "definitions_of_indices_that_are_not_for_areas"
_ATTRIBUTES: Final = "definitions_of_every_attribute"
_BY_OWNER: Final = "definitions_by_the_owner_with_a_session_that_is_wrong"
_OWNERLESS: Final = "definitions_without_an_owner"
_LOCKED: Final = "definitions_of_areas_that_are_locked"
_DISABLED: Final = "definitions_while_disabled_or_deactivated"

_WHO: Final = "areas_by_who_may_use_them"
_SPECIAL: Final = "special_indices"
_OFF: Final = "areas_of_the_owner_while_disabled"
_DIR_OFF: Final = "the_dir_while_disabled_or_deactivated"
_OWNER_SESSION: Final = "owner_areas_with_a_session_that_is_wrong"
_AREA_SESSION: Final = "areas_with_a_secret_and_a_session_that_is_wrong"
_SIZES: Final = "sizes_and_offsets"
_WHOLE: Final = "areas_that_are_written_whole"
_WRITING: Final = "locks_on_writing"
_READING: Final = "locks_on_reading"
_CONDITIONS: Final = "conditions_of_areas"
_SECRET_CONDITIONS: Final = "conditions_of_areas_with_a_secret_before_the_lock"

_WRAPPING: Final = "test_nv.py::test_beyond_the_end_is_refused_and_nothing_wraps"
_BEHIND_THE_END: Final = (
    ErrorPath(RC.NOSPACE, "offset behind the end", _SIZES),
    ErrorPath(RC.NOSPACE, "offset and size behind the end", _SIZES),
    ErrorPath(RC.NOSPACE, "size above that of the area", _SIZES),
    ErrorPath(RC.NOSPACE, "offset far behind the end", _SIZES),
)
_INDICES: Final = ("LOCK", "TRIAL", "not defined")


def _conditions(tried_by: str) -> tuple[ErrorPath, ...]:
    """Return what the PCR structures of an area refuse."""
    return (
        ErrorPath(RC.WRONGPCRVAL, "the PCRs are not as the area names them", tried_by),
        ErrorPath(RC.BAD_LOCALITY, "the area is not for this locality", tried_by),
        ErrorPath(RC.WRONGPCRVAL, "neither PCRs nor locality are as named", tried_by),
    )


def _owner_session(tried_by: str) -> tuple[ErrorPath, ...]:
    """Return what is refused of a session of the owner."""
    return (
        ErrorPath(RC.INVALID_AUTHHANDLE, "the session is not open", tried_by),
        ErrorPath(RC.AUTHFAIL, "the session is an OSAP session of the SRK", tried_by),
        ErrorPath(RC.AUTHFAIL, "the session is an OSAP session of the area", tried_by),
        ErrorPath(RC.AUTHFAIL, "the HMAC is keyed with the area's secret", tried_by),
    )


def _area_session() -> tuple[ErrorPath, ...]:
    """Return what is refused of a session of an area with a secret."""
    return (
        ErrorPath(RC.INVALID_AUTHHANDLE, "the session is not open", _AREA_SESSION),
        ErrorPath(RC.AUTHFAIL, "the session is an OSAP session of the SRK", _AREA_SESSION),
        ErrorPath(RC.AUTHFAIL, "the session is an OSAP session of the owner", _AREA_SESSION),
        ErrorPath(RC.AUTHFAIL, "the session is an OSAP session of another area", _AREA_SESSION),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "areas_with_a_secret"),
    )


def _unknown(indices: tuple[str, ...]) -> tuple[ErrorPath, ...]:
    return tuple(ErrorPath(RC.BADINDEX, f"nvIndex is {index}", _SPECIAL) for index in indices)


PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.NV_DEFINE_SPACE: (
        ErrorPath(RC.INVALID_STRUCTURE, "another tag of TPM_NV_DATA_PUBLIC", _UNPARSED),
        ErrorPath(RC.INVALID_STRUCTURE, "another tag of TPM_NV_ATTRIBUTES", _UNPARSED),
        *[
            ErrorPath(code, f"{info}, {what}", _UNPARSED)
            for info in ("pcrInfoRead", "pcrInfoWrite")
            for code, what in (
                (RC.INVALID_PCR_INFO, "a selection of more than 3 bytes"),
                (RC.INVALID_STRUCTURE, "no locality"),
                (RC.INVALID_STRUCTURE, "a locality above 4"),
            )
        ],
        *[
            ErrorPath(RC.BAD_PARAMETER, f"{flag} is neither 0 nor 1", _UNPARSED)
            for flag in ("bReadSTClear", "bWriteSTClear", "bWriteDefine")
        ],
        ErrorPath(RC.DISABLED, "nvLocked, and disabled", _DISABLED),
        ErrorPath(RC.DEACTIVATED, "nvLocked, and deactivated", _DISABLED),
        ErrorPath(RC.DISABLED, "the lock again, and disabled", _DISABLED),
        ErrorPath(RC.DEACTIVATED, "the lock again, and deactivated", _DISABLED),
        ErrorPath(RC.BADINDEX, "the lock with a size", _NOT_AREAS),
        ErrorPath(RC.BADINDEX, "the lock as owner, without a size", _NOT_AREAS),
        ErrorPath(RC.BADINDEX, "the lock as owner, with a size", _NOT_AREAS),
        ErrorPath(RC.BADINDEX, "nvIndex is 0, before nvLocked", _NOT_AREAS),
        ErrorPath(RC.BADINDEX, "nvIndex is 0, nvLocked", _NOT_AREAS),
        ErrorPath(RC.BADINDEX, "nvIndex is that of the DIR, before nvLocked", _NOT_AREAS),
        ErrorPath(RC.BADINDEX, "nvIndex is that of the DIR, nvLocked", _NOT_AREAS),
        *[
            ErrorPath(RC.BADINDEX, f"reserved bit {bit} of nvIndex", _NOT_AREAS)
            for bit in (24, 25, 26, 27)
        ],
        ErrorPath(RC.BADINDEX, "the D bit of nvIndex, nvLocked", _NOT_AREAS),
        ErrorPath(
            RC.AUTHFAIL,
            "C2, before nvLocked, and there is no owner",
            "definitions_by_an_owner_who_is_not_there",
        ),
        ErrorPath(
            RC.AUTHFAIL,
            "C2, nvLocked, and there is no owner",
            "definitions_by_an_owner_who_is_not_there",
        ),
        *[
            ErrorPath(code, f"{what}, {when}", _BY_OWNER)
            for when in ("before nvLocked", "nvLocked")
            for code, what in (
                (RC.INVALID_AUTHHANDLE, "the session is not open"),
                (RC.BAD_MODE, "the session is an OIAP session"),
                (RC.AUTHFAIL, "the session is an OSAP session of the SRK"),
                (RC.AUTHFAIL, "wrong HMAC"),
            )
        ],
        ErrorPath(RC.BAD_PRESENCE, "C1, nvLocked, and nobody is present", _OWNERLESS),
        ErrorPath(RC.OWNER_SET, "C1, nvLocked, and there is an owner", "defining_what_cannot_be"),
        ErrorPath(RC.BAD_DATASIZE, "C1, nvLocked, size 0 of a new area", _OWNERLESS),
        ErrorPath(RC.BAD_DATASIZE, "C1, nvLocked, size 0 of an area", _OWNERLESS),
        ErrorPath(
            RC.MAXNVWRITES,
            "C1, the 65th write or definition without an owner",
            "definitions_without_an_owner_are_counted",
        ),
        ErrorPath(RC.AREA_LOCKED, "GLOBALLOCK and bGlobalLock, defined again", _LOCKED),
        ErrorPath(RC.AREA_LOCKED, "GLOBALLOCK and bGlobalLock, deleted", _LOCKED),
        ErrorPath(RC.AREA_LOCKED, "WRITE_STCLEAR and bWriteSTClear, defined again", _LOCKED),
        ErrorPath(RC.AREA_LOCKED, "WRITE_STCLEAR and bWriteSTClear, deleted", _LOCKED),
        ErrorPath(
            RC.BADINDEX, "the D bit, defined again, nvLocked", "areas_that_outlive_the_owner"
        ),
        ErrorPath(RC.BADINDEX, "the D bit, deleted, nvLocked", "areas_that_outlive_the_owner"),
        ErrorPath(RC.AUTH_CONFLICT, "OWNERWRITE and AUTHWRITE", _ATTRIBUTES),
        ErrorPath(RC.AUTH_CONFLICT, "OWNERREAD and AUTHREAD", _ATTRIBUTES),
        ErrorPath(
            RC.AUTH_CONFLICT,
            "the same where it would replace an area",
            "an_area_that_is_defined_again_with_a_conflict",
        ),
        ErrorPath(RC.PER_NOWRITE, "no attribute, writable from every locality", _ATTRIBUTES),
        *[
            ErrorPath(RC.PER_NOWRITE, f"{attribute} alone", _ATTRIBUTES)
            for attribute in (
                "READ_STCLEAR",
                "AUTHREAD",
                "OWNERREAD",
                "PPREAD",
                "GLOBALLOCK",
                "WRITE_STCLEAR",
                "WRITEALL",
                "an undefined attribute",
            )
        ],
        ErrorPath(
            RC.PER_NOWRITE,
            "the same where it would replace an area",
            "an_area_that_is_defined_again_for_everybody",
        ),
        ErrorPath(
            RC.BAD_PARAM_SIZE, "size 0 of an area that is not there", "definitions_before_the_lock"
        ),
        ErrorPath(
            RC.BAD_PARAM_SIZE, "C2, size 0 of an area that is not there", "areas_of_the_owner"
        ),
        ErrorPath(RC.BAD_PARAM_SIZE, "TRIAL with size 0", "definitions_on_trial"),
        ErrorPath(RC.NOSPACE, "there is no room", "defining_what_cannot_be"),
        ErrorPath(
            RC.NOSPACE,
            "the same where it would replace an area",
            "an_area_that_is_defined_again_and_does_not_fit",
        ),
    ),
    Ordinal.NV_WRITE_VALUE: (
        *_unknown(_INDICES),
        ErrorPath(RC.DISABLED, "nvLocked, OWNERWRITE, disabled", _OFF),
        ErrorPath(RC.DEACTIVATED, "nvLocked, OWNERWRITE, deactivated", _OFF),
        ErrorPath(RC.DISABLED, "nvLocked, the DIR, disabled", _DIR_OFF),
        ErrorPath(RC.DEACTIVATED, "nvLocked, the DIR, deactivated", _DIR_OFF),
        *[
            ErrorPath(RC.AUTH_CONFLICT, f"C2, {area}, {when}", _WHO)
            for when in ("before nvLocked", "nvLocked")
            for area in ("an area of nobody", "AUTHWRITE", "PPWRITE")
        ],
        *_owner_session(_OWNER_SESSION),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "areas_of_the_owner"),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC, index 0", _SPECIAL),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC, the DIR", _SPECIAL),
        ErrorPath(RC.AUTH_CONFLICT, "C1, AUTHWRITE, before nvLocked", _WHO),
        ErrorPath(RC.AUTH_CONFLICT, "C1, AUTHWRITE, nvLocked", _WHO),
        ErrorPath(RC.AUTH_CONFLICT, "C1, OWNERWRITE, nvLocked", _WHO),
        ErrorPath(RC.AUTH_CONFLICT, "C1, the DIR, nvLocked", _SPECIAL),
        ErrorPath(
            RC.MAXNVWRITES,
            "C1, the 65th write without an owner",
            "writes_without_an_owner_are_counted",
        ),
        ErrorPath(RC.BADINDEX, "C1, index 0 with data", _SPECIAL),
        ErrorPath(RC.BADINDEX, "C2, index 0 with data", _SPECIAL),
        ErrorPath(RC.BAD_PRESENCE, "nvLocked, PPWRITE, and nobody is present", _WHO),
        ErrorPath(RC.AREA_LOCKED, "WRITE_STCLEAR and bWriteSTClear", _WRITING),
        ErrorPath(RC.AREA_LOCKED, "WRITEDEFINE and bWriteDefine", _WRITING),
        ErrorPath(RC.AREA_LOCKED, "GLOBALLOCK and bGlobalLock", _WRITING),
        ErrorPath(RC.AREA_LOCKED, "size 0 of what size 0 locked until startup", _WRITING),
        ErrorPath(RC.AREA_LOCKED, "size 0 of what size 0 locked for good", _WRITING),
        ErrorPath(RC.AREA_LOCKED, "WRITEDEFINE and bWriteDefine after a startup", _WRITING),
        ErrorPath(RC.AREA_LOCKED, "bWriteSTClear after a saved state", "locks_and_saved_states"),
        ErrorPath(RC.AREA_LOCKED, "bGlobalLock after a saved state", "locks_and_saved_states"),
        *_conditions(_CONDITIONS),
        *_BEHIND_THE_END,
        ErrorPath(RC.NOSPACE, "offset and size are above 32 bits together", _WRAPPING),
        ErrorPath(RC.NOT_FULLWRITE, "WRITEALL, less than the area", _WHOLE),
        ErrorPath(RC.NOT_FULLWRITE, "WRITEALL, from an offset", _WHOLE),
        ErrorPath(RC.NOT_FULLWRITE, "the DIR, less than 20 bytes", _SPECIAL),
        ErrorPath(RC.NOT_FULLWRITE, "the DIR, less than 20 bytes from an offset", _SPECIAL),
        ErrorPath(RC.NOT_FULLWRITE, "the DIR, more than 20 bytes", _SPECIAL),
        ErrorPath(RC.NOT_FULLWRITE, "the DIR, from an offset", _SPECIAL),
    ),
    Ordinal.NV_WRITE_VALUE_AUTH: (
        *_unknown((*_INDICES, "0", "that of the DIR")),
        *[
            ErrorPath(RC.AUTH_CONFLICT, f"{area}, {when}", _WHO)
            for when in ("before nvLocked", "nvLocked")
            for area in ("an area of nobody", "OWNERWRITE", "PPWRITE")
        ],
        *_area_session(),
        ErrorPath(RC.BAD_PRESENCE, "PPWRITE, and nobody is present", _SECRET_CONDITIONS),
        ErrorPath(RC.WRONGPCRVAL, "the PCRs are not as named, before nvLocked", _SECRET_CONDITIONS),
        *_conditions(_CONDITIONS),
        ErrorPath(
            RC.AREA_LOCKED, "GLOBALLOCK and bGlobalLock, before nvLocked", _SECRET_CONDITIONS
        ),
        ErrorPath(RC.AREA_LOCKED, "WRITE_STCLEAR and bWriteSTClear", _WRITING),
        ErrorPath(RC.AREA_LOCKED, "WRITEDEFINE and bWriteDefine", _WRITING),
        ErrorPath(RC.AREA_LOCKED, "GLOBALLOCK and bGlobalLock", _WRITING),
        ErrorPath(RC.AREA_LOCKED, "WRITEDEFINE and bWriteDefine after a startup", _WRITING),
        *_BEHIND_THE_END,
        ErrorPath(RC.NOT_FULLWRITE, "WRITEALL, less than the area", _WHOLE),
    ),
    Ordinal.NV_READ_VALUE: (
        *_unknown((*_INDICES, "0")),
        ErrorPath(RC.DISABLED, "nvLocked, OWNERREAD, disabled", _OFF),
        ErrorPath(RC.DEACTIVATED, "nvLocked, OWNERREAD, deactivated", _OFF),
        *[
            ErrorPath(RC.AUTH_CONFLICT, f"C2, {area}, {when}", _WHO)
            for when in ("before nvLocked", "nvLocked")
            for area in ("an area of nobody", "AUTHREAD", "PPREAD")
        ],
        *_owner_session(_OWNER_SESSION),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC, nvLocked", "areas_of_the_owner"),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC, before nvLocked", "reading_as_owner_before_the_lock"),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC, the DIR", "reading_the_dir_as_owner"),
        ErrorPath(RC.AUTH_CONFLICT, "C1, AUTHREAD, before nvLocked", _WHO),
        ErrorPath(RC.AUTH_CONFLICT, "C1, AUTHREAD, nvLocked", _WHO),
        ErrorPath(RC.AUTH_CONFLICT, "C1, OWNERREAD, nvLocked", _WHO),
        ErrorPath(RC.BAD_PRESENCE, "nvLocked, PPREAD, and nobody is present", _WHO),
        ErrorPath(RC.DISABLED_CMD, "READ_STCLEAR and bReadSTClear", _READING),
        ErrorPath(RC.DISABLED_CMD, "size 0 of what size 0 locked", _READING),
        ErrorPath(RC.DISABLED_CMD, "bReadSTClear after a saved state", "locks_and_saved_states"),
        *_conditions(_CONDITIONS),
        *_BEHIND_THE_END,
        ErrorPath(RC.NOSPACE, "offset and size are above 32 bits together", _WRAPPING),
        ErrorPath(RC.NOSPACE, "the DIR, more than 20 bytes", _SPECIAL),
        ErrorPath(RC.NOSPACE, "the DIR, offset behind the end", _SPECIAL),
        ErrorPath(RC.NOSPACE, "the DIR, size 0 and offset behind the end", _SPECIAL),
        ErrorPath(RC.NOSPACE, "the DIR, offset and size behind the end", _SPECIAL),
    ),
    Ordinal.NV_READ_VALUE_AUTH: (
        *_unknown((*_INDICES, "0", "that of the DIR")),
        *[
            ErrorPath(RC.AUTH_CONFLICT, f"{area}, {when}", _WHO)
            for when in ("before nvLocked", "nvLocked")
            for area in ("an area of nobody", "OWNERREAD", "PPREAD")
        ],
        *_area_session(),
        ErrorPath(RC.BAD_PRESENCE, "PPREAD, and nobody is present", _SECRET_CONDITIONS),
        ErrorPath(RC.WRONGPCRVAL, "the PCRs are not as named, before nvLocked", _SECRET_CONDITIONS),
        *_conditions(_CONDITIONS),
        ErrorPath(RC.DISABLED_CMD, "READ_STCLEAR and bReadSTClear", _READING),
        ErrorPath(RC.DISABLED_CMD, "size 0 of what size 0 locked", _READING),
        ErrorPath(RC.DISABLED_CMD, "bReadSTClear before nvLocked", _SECRET_CONDITIONS),
        *_BEHIND_THE_END,
    ),
}
