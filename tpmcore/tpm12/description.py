# SPDX-License-Identifier: Apache-2.0
"""Commands and responses for people to read, without their secrets.

A message is walked along the structures of its row in the dispatch table. On the way two things are
made of each field: words, and whether its bytes stay in the copy that may be shown. Both follow
from one decision (`disclosure`), so that the copy never has what the words hide. Lengths stay,
whatever they are the length of is zeroed; so the copy has the shape of the message.

All or nothing: what the engine itself would not parse to the last byte is a header and zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from protocol.errors import WireError
from protocol.tpm12.constants import Algorithm, ReturnCode, Tag
from protocol.tpm12.delegation import Delegations
from protocol.tpm12.keys import Key, KeyParms, RsaKeyParms
from protocol.tpm12.migration import MsaComposite
from protocol.tpm12.pcr import LOCALITY_SELECTION, PcrInfo, PcrInfoLong, PcrSelection
from protocol.tpm12.stored import StoredData
from protocol.tpm12.wire import (
    BOOL,
    DIGEST_BYTES,
    SIZED,
    U8,
    U16,
    U32,
    U64,
    FixedBytes,
    ListOf,
    Nested,
    Reader,
    SizedStruct,
    Structure,
    WireType,
)
from tpmcore.engine import HEADER_BYTES, Description, Field, SessionUse, header_only
from tpmcore.tpm12.certify import CertifyKey2Response, CertifyKeyResponse
from tpmcore.tpm12.command import Command
from tpmcore.tpm12.disclosure import (
    DIGESTS,
    NUMBER_BYTES,
    NUMBERS,
    NUMBERS_IN_BYTES,
    SUB_CAPABILITIES,
    Words,
    code_name,
    handle_words,
    ordinal_name,
)

Table = Mapping[int, Command]

_COMMAND_AUTH_BYTES: Final = 45
"""authHandle 4, nonceOdd 20, continueAuthSession 1, auth 20."""
_RESPONSE_AUTH_BYTES: Final = 41
"""nonceEven 20, continueAuthSession 1, auth 20."""
_NUMBERS: Final = (U8, U16, U32, U64, BOOL, LOCALITY_SELECTION)
_READ_BY_LAYOUT: Final = (Delegations, MsaComposite)
"""Their own `read` only checks more than the layout says."""
_PCR_INFO_FIELDS: Final = frozenset({"pcr_info"})
"""Encoded TPM_PCR_INFO or TPM_PCR_INFO_LONG behind a length, which the table leaves as bytes."""
_PCR_INFO_LONG_TAG: Final = b"\x00\x06"
_OTHER_RESPONSES: Final[Mapping[type[Structure], type[Structure]]] = {
    # Of a key that TPM_CERTIFY_INFO cannot express (13.8, 8).
    CertifyKeyResponse: CertifyKey2Response,
}
"""What a row may answer beside its response."""


def describe(table: Table, command: bytes, response: bytes) -> Description:
    """Describe a command and its response of any bytes.

    Args:
        table: rows by ordinal; what is in none is a number and has no fields.
    """
    walk = _walked(_Walk(table, command), _walk_command)
    answer = _walked(_Walk(table, response, code_of(command)), _walk_response)
    return Description(
        command=ordinal_name(code_of(command)),
        code=code_name(code_of(response)),
        parameters=() if walk is None else tuple(walk.fields),
        results=() if answer is None else tuple(answer.fields),
        sessions=() if walk is None else tuple(walk.sessions),
        shown_command=header_only(command) if walk is None else bytes(walk.shown),
        shown_response=header_only(response) if answer is None else bytes(answer.shown),
    )


def redact(table: Table, command: bytes, response: bytes) -> tuple[bytes, bytes]:
    """Return a command and its response, as long as they were, with zeros for what is not shown."""
    description = describe(table, command, response)
    return description.shown_command, description.shown_response


def code_of(message: bytes) -> int:
    """Return the ordinal or the return code of a message, of one that is too short any number."""
    return int.from_bytes(message[6:HEADER_BYTES], "big")


class _Walk:
    """A message that is walked.

    Attributes:
        ordinal: of the command, if this is the response to it.
        reader: where the walk is.
        fields: what was found at the level where the walk is.
        sessions: what was found.
        shown: the copy that may be shown; only the header at first.
    """

    def __init__(self, table: Table, message: bytes, ordinal: int = 0) -> None:
        self.table = table
        self.message = message
        self.ordinal = ordinal
        self.reader = Reader(message, HEADER_BYTES)
        self.fields: list[Field] = []
        self.sessions: list[SessionUse] = []
        self.shown = bytearray(header_only(message))

    def keep(self, start: int, end: int) -> None:
        """Have these bytes in the copy."""
        self.shown[start:end] = self.message[start:end]

    def add(self, name: str, value: str) -> None:
        """Note a field."""
        self.fields.append(Field(spelled(name), value))

    def hide(self, name: str, size: int) -> None:
        """Note a field of which only the length is shown; its bytes stay zero."""
        self.add(name, hidden(size))

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Gather what follows as the fields of one structure."""
        outer, self.fields = self.fields, []
        yield
        outer.append(Field(spelled(name), tuple(self.fields)))
        self.fields = outer

    @contextmanager
    def within(self, size: int, field: str) -> Iterator[None]:
        """Walk so many bytes, to the last.

        Raises:
            WireError: there are fewer, or some were left.
        """
        outer = self.reader
        start = outer.position
        outer.take(size, field)
        self.reader = Reader(self.message, start, start + size)
        yield
        self.reader.finish(field)
        self.reader = outer

    def length(self, field: str, size_bytes: int = 4) -> int:
        """Take a length, which is shown."""
        start = self.reader.position
        value = int.from_bytes(self.reader.take(size_bytes, field), "big")
        self.keep(start, start + size_bytes)
        return value

    def number(self, name: str, wire: WireType[Any], words: Words | None) -> None:
        """Take a number and show it if there are words for it."""
        start = self.reader.position
        value = int(wire.read(self.reader, name))
        if words is None:
            self.hide(name, self.reader.position - start)
        else:
            self.keep(start, self.reader.position)
            self.add(name, words(value))


def _walked(walk: _Walk, go: Callable[[_Walk], None]) -> _Walk | None:
    """Walk; None if the message is not what it should be."""
    try:
        go(walk)
    except WireError:
        return None
    return walk


def _walk_command(walk: _Walk) -> None:
    message = walk.message
    tag, size = int.from_bytes(message[:2], "big"), int.from_bytes(message[2:6], "big")
    row = walk.table.get(code_of(message))
    auth_count = tag - Tag.RQU_COMMAND
    if row is None or size != len(message) or auth_count not in row.auth_blocks:
        raise WireError("header", 0, "of no command")
    end = len(message) - auth_count * _COMMAND_AUTH_BYTES
    _check(row.request, message, end)
    with walk.within(end - HEADER_BYTES, "parameters"):
        _walk_fields(walk, row.request)
    _walk_auths(walk, end, auth_count)


def _walk_response(walk: _Walk) -> None:
    message = walk.message
    tag, size = int.from_bytes(message[:2], "big"), int.from_bytes(message[2:6], "big")
    row = walk.table.get(walk.ordinal)
    auth_count = tag - Tag.RSP_COMMAND
    if (
        row is None
        or len(message) < HEADER_BYTES
        or code_of(message) != ReturnCode.SUCCESS
        or size != len(message)
        or auth_count not in row.auth_blocks
    ):
        raise WireError("header", 0, "of no successful response")
    end = len(message) - auth_count * _RESPONSE_AUTH_BYTES
    kind = row.response
    try:
        _check(kind, message, end)
    except WireError:
        other = _OTHER_RESPONSES.get(kind)
        if other is None:
            raise
        kind = other
        _check(kind, message, end)
    with walk.within(end - HEADER_BYTES, "parameters"):
        _walk_fields(walk, kind)
    for index in range(auth_count):
        flag = end + index * _RESPONSE_AUTH_BYTES + DIGEST_BYTES
        walk.keep(flag, flag + 1)


def _check(kind: type[Structure], message: bytes, end: int) -> None:
    """See that the engine would take these parameters.

    Raises:
        WireError: it would not.
    """
    reader = Reader(message, HEADER_BYTES, end)
    kind.read(reader)
    reader.finish()


def _walk_auths(walk: _Walk, start: int, count: int) -> None:
    """Show handle and continueAuthSession of each authorization block of a command."""
    for position in range(start, start + count * _COMMAND_AUTH_BYTES, _COMMAND_AUTH_BYTES):
        flag = position + 4 + DIGEST_BYTES
        walk.keep(position, position + 4)
        walk.keep(flag, flag + 1)
        handle = int.from_bytes(walk.message[position : position + 4], "big")
        walk.sessions.append(SessionUse(handle_words(handle), walk.message[flag] == 1))


def _walk_fields(walk: _Walk, kind: type[Structure]) -> None:
    """Walk what a structure consists of."""
    own = _WALKERS.get(kind)
    if own is not None:
        own(walk)
        return
    if kind.prefix is not None:
        start = walk.reader.position
        kind.prefix.check(walk.reader, kind.__name__)
        walk.keep(start, walk.reader.position)
    if kind.reads_itself() and kind not in _READ_BY_LAYOUT:
        # Only it knows where it ends.
        start = walk.reader.position
        kind.read(walk.reader)
        walk.hide("data", walk.reader.position - start)
        return
    for name, wire in kind.layout():
        _walk_field(walk, kind, name, wire)


def _walk_field(walk: _Walk, owner: type[Structure], name: str, wire: WireType[Any]) -> None:
    """Walk one field."""
    if wire in _NUMBERS:
        walk.number(name, wire, NUMBERS.get(f"{owner.__name__}.{name}", NUMBERS.get(name)))
    elif isinstance(wire, FixedBytes):
        _walk_bytes(walk, name, wire.size)
    elif wire is SIZED:
        _walk_sized(walk, name)
    elif isinstance(wire, Nested):
        if wire.kind is PcrSelection:
            _walk_selection(walk, name)
        else:
            with walk.inside(name):
                _walk_fields(walk, wire.kind)
    elif isinstance(wire, SizedStruct):
        with walk.within(walk.length(name), name), walk.inside(name):
            if walk.reader.remaining:
                _walk_fields(walk, wire.kind)
    elif isinstance(wire, ListOf):
        start = walk.reader.position
        wire.count.read(walk.reader, name)
        head = walk.reader.position
        walk.keep(start, head)
        walk.reader.position = start
        wire.read(walk.reader, name)
        walk.hide(name, walk.reader.position - head)
    else:
        _walk_other(walk, name, wire)


def _walk_other(walk: _Walk, name: str, wire: WireType[Any]) -> None:
    """Walk a field of a wire type of its own: a length, and behind it bytes or a structure."""
    start = walk.reader.position
    value = wire.read(walk.reader, name)
    end = walk.reader.position
    content = value.encode() if isinstance(value, Structure) else value
    if not isinstance(content, bytes) or not walk.message[start:end].endswith(content):
        walk.hide(name, end - start)
        return
    walk.keep(start, end - len(content))
    if not isinstance(value, Structure):
        walk.hide(name, len(content))
        return
    walk.reader.position = end - len(content)
    with walk.within(len(content), name), walk.inside(name):
        _walk_fields(walk, type(value))


def _walk_bytes(walk: _Walk, name: str, size: int) -> None:
    """Walk bytes whose number is known."""
    start = walk.reader.position
    data = walk.reader.take(size, name)
    if name in DIGESTS and size % DIGEST_BYTES == 0:
        walk.keep(start, start + size)
        walk.add(name, data.hex())
    else:
        walk.hide(name, size)


def _walk_sized(walk: _Walk, name: str) -> None:
    """Walk bytes behind their length; some are known to be more than bytes."""
    size = walk.length(name)
    content = walk.reader.position
    if name in NUMBERS_IN_BYTES and size in NUMBER_BYTES:
        value = int.from_bytes(walk.reader.take(size, name), "big")
        walk.keep(content, content + size)
        walk.add(name, _number_in_bytes(walk, name)(value))
    elif name in _WRAPPED:
        with walk.within(size, name):
            _WRAPPED[name](walk, name)
    elif name in _PCR_INFO_FIELDS:
        _walk_pcr_info(walk, name, size)
    else:
        _walk_bytes(walk, name, size)


def _number_in_bytes(walk: _Walk, name: str) -> Words:
    area = walk.fields[0].value if walk.fields else ""
    if name == "sub_cap" and isinstance(area, str):
        return SUB_CAPABILITIES.get(area, hex)
    return hex


def _walk_selection(walk: _Walk, name: str) -> None:
    """Walk a TPM_PCR_SELECTION."""
    start = walk.reader.position
    selection = PcrSelection.read(walk.reader)
    walk.keep(start, walk.reader.position)
    walk.add(name, ",".join(map(str, selection.indices)) or "none")


def _walk_pcr_info(walk: _Walk, name: str, size: int, *, is_long: bool | None = None) -> None:
    """Walk a TPM_PCR_INFO or TPM_PCR_INFO_LONG whose length was taken; hidden if it is neither.

    Args:
        is_long: which; None: its tag tells.
    """
    start = walk.reader.position
    data = walk.message[start : start + size]
    if is_long is None:
        is_long = data.startswith(_PCR_INFO_LONG_TAG)
    kind = PcrInfoLong if is_long else PcrInfo
    try:
        kind.decode(data)
    except WireError:
        _walk_bytes(walk, name, size)
        return
    with walk.within(size, name), walk.inside(name):
        _walk_fields(walk, kind)


def _walk_key_parms(walk: _Walk) -> None:
    """Walk a TPM_KEY_PARMS; of those of RSA the sizes are shown."""
    start = walk.reader.position
    parms = KeyParms.read(walk.reader)
    walk.reader.position = start
    for name, wire in KeyParms.layout()[:-1]:
        _walk_field(walk, KeyParms, name, wire)
    size = walk.length("parms")
    if parms.algorithm_id == Algorithm.RSA:
        with walk.within(size, "parms"), walk.inside("parms"):
            _walk_fields(walk, RsaKeyParms)
    else:
        _walk_bytes(walk, "parms", size)


def _walk_key(walk: _Walk) -> None:
    """Walk a TPM_KEY or TPM_KEY12."""
    start = walk.reader.position
    is_key12 = walk.reader.take(4, "version")[0] == 0
    walk.keep(start, start + 4)
    for name, wire in (("key_usage", U16), ("key_flags", U32), ("auth_data_usage", U8)):
        _walk_field(walk, Key, name, wire)
    with walk.inside("algorithm_parms"):
        _walk_key_parms(walk)
    _walk_optional_pcr_info(walk, "pcr_info", is_long=is_key12)
    _walk_sized(walk, "pub_key")
    _walk_sized(walk, "enc_data")


def _walk_stored_data(walk: _Walk) -> None:
    """Walk a TPM_STORED_DATA or TPM_STORED_DATA12."""
    start = walk.reader.position
    is_12 = walk.reader.take(4, "version")[0] == 0
    walk.keep(start, start + 4)
    _walk_optional_pcr_info(walk, "seal_info", is_long=is_12)
    _walk_sized(walk, "enc_data")


def _walk_optional_pcr_info(walk: _Walk, name: str, *, is_long: bool) -> None:
    size = walk.length(name)
    if size:
        _walk_pcr_info(walk, name, size, is_long=is_long)
    else:
        walk.add(name, "none")


def _walk_wrapped_command(walk: _Walk, name: str) -> None:
    """Show of the command inside of ExecuteTransport what is never encrypted: which one it is, and
    its sessions, if that command can have so many. Whether its parameters are encrypted is not to
    be seen, so they are hidden."""
    reader = walk.reader
    start, end = reader.position, reader.end
    inner = reader.rest()
    if len(inner) < HEADER_BYTES or int.from_bytes(inner[2:6], "big") != len(inner):
        walk.hide(name, len(inner))
        return
    row = walk.table.get(code_of(inner))
    auth_count = int.from_bytes(inner[:2], "big") - Tag.RQU_COMMAND
    if row is None or auth_count not in row.auth_blocks:
        auth_count = 0
    auths = end - auth_count * _COMMAND_AUTH_BYTES
    if auths < start + HEADER_BYTES:
        walk.hide(name, len(inner))
        return
    walk.keep(start, start + HEADER_BYTES)
    with walk.inside(name):
        walk.add("ordinal", ordinal_name(code_of(inner)))
        walk.hide("parameters", auths - start - HEADER_BYTES)
    _walk_auths(walk, auths, auth_count)


def _walk_wrapped_response(walk: _Walk, name: str) -> None:
    """Show the return code of the response inside of ExecuteTransport's."""
    start = walk.reader.position
    inner = walk.reader.rest()
    if len(inner) < HEADER_BYTES or int.from_bytes(inner[2:6], "big") != len(inner):
        walk.hide(name, len(inner))
        return
    walk.keep(start, start + HEADER_BYTES)
    with walk.inside(name):
        walk.add("return_code", code_name(code_of(inner)))
        walk.hide("parameters", len(inner) - HEADER_BYTES)


_WALKERS: Final[Mapping[type[Structure], Callable[[_Walk], None]]] = {
    Key: _walk_key,
    KeyParms: _walk_key_parms,
    StoredData: _walk_stored_data,
}
"""Structures whose layout depends on what is in them."""

_WRAPPED: Final[Mapping[str, Callable[[_Walk, str], None]]] = {
    "wrapped_cmd": _walk_wrapped_command,
    "wrapped_rsp": _walk_wrapped_response,
}


def hidden(size: int) -> str:
    """Return what is shown of bytes that are not."""
    return f"<{size} byte{'' if size == 1 else 's'}>"


def spelled(name: str) -> str:
    """Return a field's name as the specification spells it: "pcr_index" is "pcrIndex"."""
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)
