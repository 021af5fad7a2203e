# SPDX-License-Identifier: Apache-2.0
"""Every ordinal against everything that is judged before its own checks.

That is the framing, the request tag, and the states in which a command is refused: not started up,
in failure mode, disabled, deactivated, without an owner. Requests are made from the dispatch table:
well-formed, with zeros where nothing better is known, and with sessions that do not exist.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, get_args, get_origin, get_type_hints

from protocol.tpm12.constants import EncScheme, Ordinal, ReturnCode, StartupType, Tag
from protocol.tpm12.delegation import DelegateOwnerBlob, DelegatePublic, Delegations
from protocol.tpm12.keys import Key, KeyParms, PubKey
from protocol.tpm12.migration import MsaComposite
from protocol.tpm12.pcr import PcrInfoShort, PcrSelection
from protocol.tpm12.resources import ContextBlob
from protocol.tpm12.stored import StoredData
from protocol.tpm12.wire import SIZED, Structure
from tests.conformance.comparison import size
from tests.conformance.machines import World
from tests.conformance.script import KEYS, Chapter, Script, message
from tpmcore.tpm12.command import Command, Gate
from tpmcore.tpm12.table import TABLE

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
UNOWNED, OWNED = World.UNOWNED, World.OWNED

_TAGS: Final = (Tag.RQU_COMMAND, Tag.RQU_AUTH1_COMMAND, Tag.RQU_AUTH2_COMMAND)
_BLOCK: Final = bytes.fromhex("dead0000") + bytes(41)
_PARMS: Final = KeyParms.for_rsa(enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1)
_DELEGATED: Final = DelegatePublic(
    1, PcrInfoShort(PcrSelection(bytes(3)), 0x1F, bytes(20)), Delegations(1, 0), 1, 1
)
_KNOWN: Final[Mapping[type[object], Structure]] = {
    Key: KEYS["sign"],
    KeyParms: _PARMS,
    PubKey: PubKey(_PARMS, b"\x80" + bytes(255)),
    PcrSelection: PcrSelection.of([16]),
    PcrInfoShort: PcrInfoShort(PcrSelection(bytes(3)), 0x1F, bytes(20)),
    DelegatePublic: _DELEGATED,
    DelegateOwnerBlob: DelegateOwnerBlob(_DELEGATED, bytes(20), b"", b""),
    MsaComposite: MsaComposite((bytes(20),)),
    StoredData: StoredData(False, 0, None, bytes(256)),
}
_CONTEXT: Final = SIZED.write(ContextBlob(1, 0, bytes(16), 0, bytes(20), b"", b"").encode())
_BODIES: Final[Mapping[int, bytes]] = {
    Ordinal.LOAD_CONTEXT: bytes(5) + _CONTEXT,
    Ordinal.LOAD_KEY_CONTEXT: _CONTEXT,
    Ordinal.LOAD_AUTH_CONTEXT: _CONTEXT,
}
"""Requests with a structure that the layout does not tell."""


def sample(kind: type[Structure]) -> bytes:
    """Return the bytes of a well-formed request."""
    known = _KNOWN.get(kind)
    if known is not None:
        return known.encode()
    prefix = b"" if kind.prefix is None else kind.prefix.value
    hints = get_type_hints(kind, include_extras=True)
    parts = [_field(hints[each.name]) for each in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return prefix + b"".join(parts)


def _field(hint: object) -> bytes:
    if isinstance(hint, type) and issubclass(hint, Structure):
        return sample(hint)
    if get_origin(hint) is Annotated:
        python, wire = get_args(hint)[:2]
        if get_origin(python) is not None:
            return bytes(wire.write(()))
        for value in (0, False, b"", b"\0", bytes(4), bytes(10), bytes(16), bytes(20)):
            if isinstance(value, python):
                try:
                    return bytes(wire.write(value))
                except ValueError:
                    continue
        if isinstance(python, type) and issubclass(python, Structure):
            return bytes(wire.write(python.decode(sample(python))))
    raise TypeError(f"no sample of {hint}")


def requests() -> Iterator[tuple[Command, bytes]]:
    """Yield every row of the dispatch table with a well-formed request."""
    for row in TABLE.values():
        yield row, _BODIES.get(row.ordinal) or sample(row.request)


def _command(row: Command, body: bytes, blocks: int) -> bytes:
    return message(row.ordinal, body + _BLOCK * blocks, _TAGS[blocks])


def _probe_all(tpm: Script, refusals: dict[Gate, ReturnCode]) -> None:
    codes = {Gate.STARTUP: RC.INVALID_POSTINIT, **refusals}
    # Startup last: the reference counts itself as started after one that it refused.
    for row, body in sorted(requests(), key=lambda each: each[0].gate is Gate.STARTUP):
        for blocks in sorted(row.auth_blocks):
            # The audit digest covers responses with random keys.
            masks = {"audit_digest": size}
            tpm.probe(_command(row, body, blocks), codes.get(row.gate), masks=masks)


@case(OWNED, start_up=False)
def every_ordinal_before_startup(tpm: Script) -> None:
    # The one that may come is of no type that there is.
    refusals = dict.fromkeys(Gate, RC.INVALID_POSTINIT) | {Gate.STARTUP: RC.BAD_PARAMETER}
    _probe_all(tpm, refusals)


@case(OWNED, start_up=False)
def every_ordinal_in_failure_mode(tpm: Script) -> None:
    tpm.call(Ordinal.STARTUP, StartupType.STATE, code=RC.FAILEDSELFTEST)
    free = (Gate.STARTUP, Gate.ALWAYS_AND_FAILED)
    _probe_all(tpm, {gate: RC.FAILEDSELFTEST for gate in Gate if gate not in free})


@case(UNOWNED)
def every_ordinal_without_an_owner(tpm: Script) -> None:
    _probe_all(tpm, {Gate.OPERATIONAL: RC.NOSRK})


@case(OWNED)
def every_ordinal_while_disabled(tpm: Script) -> None:
    tpm.presence()
    tpm.call(Ordinal.PHYSICAL_DISABLE)
    tpm.presence(asserted=False)
    gates: tuple[Gate, ...] = (Gate.ENABLED, Gate.ENABLED_ACTIVATED, Gate.OPERATIONAL)
    _probe_all(tpm, dict.fromkeys(gates, RC.DISABLED))


@case(OWNED)
def every_ordinal_while_deactivated(tpm: Script) -> None:
    tpm.presence()
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED)
    tpm.presence(asserted=False)
    gates: tuple[Gate, ...] = (Gate.ACTIVATED, Gate.ENABLED_ACTIVATED, Gate.OPERATIONAL)
    _probe_all(tpm, dict.fromkeys(gates, RC.DEACTIVATED))


@case(OWNED)
def every_ordinal_with_sessions_that_do_not_exist(tpm: Script) -> None:
    for row, body in requests():
        for blocks in sorted(row.auth_blocks - {0}):
            tpm.probe(_command(row, body, blocks))


@case(OWNED)
def every_ordinal_with_the_wrong_tag(tpm: Script) -> None:
    for row, body in requests():
        # The state comes before the tag, and Startup was done.
        code = RC.INVALID_POSTINIT if row.gate is Gate.STARTUP else RC.BADTAG
        for blocks in sorted({0, 1, 2} - row.auth_blocks):
            tpm.probe(_command(row, body, blocks), code)


@case(OWNED)
def every_ordinal_with_too_few_or_too_many_bytes(tpm: Script) -> None:
    for row, body in requests():
        for blocks in sorted(row.auth_blocks):
            tag = _TAGS[blocks]
            if body:
                tpm.probe(message(row.ordinal, body[:-1], tag), RC.BAD_PARAM_SIZE)
                tpm.probe(message(row.ordinal, b"", tag), RC.BAD_PARAM_SIZE)
            tail = _BLOCK * blocks + b"\0"
            code = RC.INVALID_POSTINIT if row.gate is Gate.STARTUP else RC.BAD_PARAM_SIZE
            tpm.probe(message(row.ordinal, body + tail, tag), code)
            if blocks:
                short = (body + _BLOCK * blocks)[:-1]
                tpm.probe(message(row.ordinal, short, tag), RC.BAD_PARAM_SIZE)
