# SPDX-License-Identifier: Apache-2.0
"""Sessions as bytes: in the volatile state and in the blobs of SaveContext."""

from __future__ import annotations

import struct
from typing import Annotated, Final

from protocol.errors import WireError
from protocol.tpm12.constants import AdipScheme, ProtocolId, ReservedHandle
from protocol.tpm12.delegation import DelegatePublic
from protocol.tpm12.records import record
from protocol.tpm12.transport import TransportPublic
from protocol.tpm12.wire import DIGEST, U16, U32, ListOf, Nested, Reader, Structure
from tpmcore.tpm12.daa_session import LAST_STAGE, DaaSession
from tpmcore.tpm12.state import EntityKind, Session, StanyState, StclearState, TransportSession
from tpmcore.tpm12.stateformat.frame import MAX_LIST, check_handles, check_there

_SESSION = struct.Struct(">IBB20s20s20sB")


@record(repr=False)
class _TransportRecord(Structure):
    """TransportSession."""

    handle: Annotated[int, U32]
    public: TransportPublic
    auth_data: Annotated[bytes, DIGEST]
    nonce_even: Annotated[bytes, DIGEST]
    digest: Annotated[bytes, DIGEST]


@record
class _DelegatedSessionRecord(Structure):
    """What a session of section 5 may do."""

    handle: Annotated[int, U32]
    public: DelegatePublic


@record
class _DelegatedRecord(Structure):
    """The owner pointer, and the sessions with delegated authority in the order of section 5."""

    owner_reference: Annotated[int, U32]
    sessions: Annotated[
        tuple[_DelegatedSessionRecord, ...],
        ListOf(Nested(_DelegatedSessionRecord), U16, MAX_LIST),
    ]


_TRANSPORTS: Final = ListOf(Nested(_TransportRecord), U16, MAX_LIST)


def encode_session(session: Session) -> bytes:
    """Return a session as 67 bytes and, if it has one, its delegation; the secrets of an OIAP
    session are zero."""
    delegation = session.delegation
    return pack_session(session) + (b"" if delegation is None else delegation.encode())


def pack_session(session: Session) -> bytes:
    """Return what a section of sessions has of one: all but its delegation, 67 bytes."""
    return _SESSION.pack(
        session.handle,
        session.protocol,
        session.entity_kind,
        session.nonce_even,
        session.shared_secret,
        session.entity_digest,
        session.adip,
    )


def decode_session(data: bytes) -> Session:
    """Read what encode_session wrote.

    Raises:
        WireError: wrong length, or numbers that are none of ours.
    """
    reader = Reader(data)
    session = _unpack_session(reader.take(_SESSION.size, "session"))
    if reader.remaining:
        _delegate(session, DelegatePublic.read(reader))
        reader.finish("session")
    _check_delegated(session)
    return session


def _delegate(session: Session, public: DelegatePublic) -> None:
    if session.protocol != ProtocolId.DSAP:
        raise WireError("session", 0, f"{session.handle:#x} is not one of DSAP")
    session.delegation = public


def _check_delegated(session: Session) -> None:
    """Refuse a DSAP session without its limits: it could do everything."""
    if session.protocol == ProtocolId.DSAP and session.delegation is None:
        raise WireError("session", 0, f"{session.handle:#x} lacks its delegation")


def _unpack_session(data: bytes) -> Session:
    handle, protocol, kind, nonce_even, shared_secret, digest, adip = _SESSION.unpack(data)
    try:
        session = Session(handle, ProtocolId(protocol), nonce_even)
        if session.protocol != ProtocolId.OIAP:
            session.entity_kind = EntityKind(kind)
            session.shared_secret = shared_secret
            session.entity_digest = digest
            session.adip = AdipScheme(adip)
    except ValueError as error:
        raise WireError("session", 0, str(error)) from error
    if session.protocol == ProtocolId.OIAP and pack_session(session) != data:
        raise WireError("session", 0, f"{handle:#x} is one of OIAP, which is bound to nothing")
    check_handles([handle], "session")
    return session


def _transport_record(transport: TransportSession) -> _TransportRecord:
    return _TransportRecord(
        transport.handle,
        transport.public,
        transport.auth_data,
        transport.nonce_even,
        transport.digest,
    )


def _transport(record: _TransportRecord) -> TransportSession:
    return TransportSession(
        record.handle, record.public, record.auth_data, record.nonce_even, record.digest
    )


def encode_transport(transport: TransportSession) -> bytes:
    """Return a transport session as 76 bytes."""
    return _transport_record(transport).encode()


def decode_transport(data: bytes) -> TransportSession:
    """Read what encode_transport wrote.

    Raises:
        WireError: the bytes do not form a transport session.
    """
    record = _TransportRecord.decode(data)
    check_handles([record.handle], "transport")
    return _transport(record)


def write_delegated(stclear: StclearState, delegated: list[Session]) -> bytes:
    """Return a section of the owner pointer, and of what these sessions may do."""
    records = [
        _DelegatedSessionRecord(s.handle, s.delegation)
        for s in delegated
        if s.delegation is not None
    ]
    return _DelegatedRecord(stclear.owner_reference, tuple(records)).encode()


def read_sessions(data: bytes) -> dict[int, Session]:
    """Return the sessions of a section by handle, without their delegations.

    Raises:
        WireError: the bytes do not form sessions.
    """
    if len(data) % _SESSION.size:
        raise WireError("sessions", 0, f"{len(data)} bytes, {_SESSION.size} each")
    sessions = [
        _unpack_session(data[i : i + _SESSION.size]) for i in range(0, len(data), _SESSION.size)
    ]
    check_handles([session.handle for session in sessions], "sessions")
    return {session.handle: session for session in sessions}


def read_delegated(data: bytes | None, stclear: StclearState, stany: StanyState) -> None:
    """Set the owner pointer, and what the sessions may do.

    Raises:
        WireError: the bytes do not say that, or not of these sessions.
    """
    if data is not None:
        record = _DelegatedRecord.decode(data)
        stclear.owner_reference = record.owner_reference
        if record.owner_reference == ReservedHandle.OWNER:
            check_there(record.sessions, "delegated")
        check_handles([delegated.handle for delegated in record.sessions], "delegated")
        for delegated in record.sessions:
            session = stany.sessions.get(delegated.handle)
            if session is None:
                raise WireError("delegated", 0, f"there is no session {delegated.handle:#x}")
            _delegate(session, delegated.public)
    for session in stany.sessions.values():
        _check_delegated(session)


def write_transports(stany: StanyState) -> bytes:
    """Return a section of all transport sessions."""
    records = tuple([_transport_record(t) for t in stany.transports.values()])
    return U32.write(stany.transport_exclusive) + _TRANSPORTS.write(records)


def read_transports(data: bytes, stany: StanyState) -> None:
    """Set the transport sessions to those of a section.

    Raises:
        WireError: the bytes do not form transport sessions.
    """
    reader = Reader(data)
    stany.transport_exclusive = reader.u32("exclusive")
    records = _TRANSPORTS.read(reader, "transports")
    reader.finish("transports")
    check_there(records, "transports")
    check_handles([*stany.sessions, *[record.handle for record in records]], "transports")
    stany.transports = {record.handle: _transport(record) for record in records}
    if stany.transport_exclusive not in (0, *stany.transports):
        raise WireError("transports", 0, "the exclusive session is not among them")


def decode_daa_session(data: bytes) -> DaaSession:
    """Read what DaaSession.encode wrote.

    Raises:
        WireError: the bytes do not form a session.
    """
    reader = Reader(data)
    session = _read_daa_session(reader)
    reader.finish("daaSession")
    return session


def _read_daa_session(reader: Reader) -> DaaSession:
    session = DaaSession.read(reader)
    if not 1 <= session.stage <= LAST_STAGE:
        raise WireError("stage", 0, f"{session.stage} is no stage that a session waits for")
    check_handles([session.handle], "daaSession")
    return session


def read_daa_sessions(data: bytes) -> dict[int, DaaSession]:
    """Return the DAA sessions of a section by handle.

    Raises:
        WireError: the bytes do not form DAA sessions.
    """
    reader = Reader(data)
    found: dict[int, DaaSession] = {}
    while reader.remaining:
        session = _read_daa_session(reader)
        if session.handle in found:
            raise WireError("daaSessions", reader.position, "a handle stands twice")
        found[session.handle] = session
    return found
