# SPDX-License-Identifier: Apache-2.0
"""Putting right HMACs under commands, so that what is behind the authorization is reached.

Which secret an ordinal wants is not told but learned: of the ways to sign a block, those that did
not end in an authorization error are taken more often. Of a transport session the secret is known,
and it is put around whatever command is inside of ExecuteTransport.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from protocol.tpm12.constants import Ordinal, ProtocolId, ReservedHandle, ReturnCode, Tag
from protocol.tpm12.framing import HEADER_BYTES, build_message, parse_header
from protocol.tpm12.transport import TransportAttributes
from protocol.tpm12.wire import U32
from tests.fuzz.corpus import ROWS
from tests.fuzz.dice import Dice
from tpmcore.tpm12.state import Session, TransportSession
from tpmcore.tpm12.tpm import Tpm
from tpmcore.tpm12.transport_cipher import REQUEST, SCHEMES, crypt

AUTH_BYTES: Final = 45
_REFUSED: Final = frozenset(
    {
        ReturnCode.AUTHFAIL,
        ReturnCode.AUTH2FAIL,
        ReturnCode.BAD_MODE,
        ReturnCode.INVALID_AUTHHANDLE,
        ReturnCode.AUTH_CONFLICT,
    }
)
_EXPLORE_PERCENT: Final = 15
_WELL_KNOWN: Final = 50


@dataclass(frozen=True, slots=True, repr=False)
class _Way:
    """A session and the key to sign with."""

    label: str
    session: Session | TransportSession
    key: bytes


class Signer:
    """Signs commands with what a client may know, and learns from what comes of it.

    Args:
        secrets: of entities, by name.
    """

    def __init__(self, dice: Dice, secrets: Mapping[str, bytes]) -> None:
        self.dice = dice
        self._secrets = secrets
        self._good: dict[tuple[int, int], dict[str, int]] = {}
        self._tried: list[tuple[tuple[int, int], str]] = []

    def sign(self, command: bytes, tpm: Tpm) -> bytes:
        """Return the command with handles and HMACs of open sessions in its blocks, or as it was
        if it has no blocks or there are no sessions."""
        self._tried = []
        header = parse_header(command)
        count = header.tag - Tag.RQU_COMMAND
        row = ROWS.get(header.code)
        body_end = len(command) - AUTH_BYTES * count
        if row is None or count not in (1, 2) or body_end < HEADER_BYTES + row.handles_in:
            return command
        transports = list(tpm.stany.transports.values())
        if header.code == Ordinal.EXECUTE_TRANSPORT and transports:
            return self._sign_around(command, body_end, self.dice.pick(transports), tpm)
        handle = int.from_bytes(command[HEADER_BYTES : HEADER_BYTES + 4], "big")
        ways = list(self._ways(tpm, handle))
        digest = hashlib.sha1(
            header.code.to_bytes(4, "big") + command[HEADER_BYTES + row.handles_in : body_end]
        ).digest()
        signed = command[:body_end]
        for block in range(count):
            choices = ways
            if header.code == Ordinal.RELEASE_TRANSPORT_SIGNED and block == count - 1:
                choices = [_Way("transport", each, each.auth_data) for each in transports] or ways
            if not choices:
                return command
            way = self._choose(choices, (header.code, block))
            signed += self._block(way, digest, self.dice.bytes(20))
            if len(ways) > 1 and self.dice.chance(90):
                # Two blocks seldom share a session.
                ways = [other for other in ways if other.session is not way.session] or ways
        return signed

    def _block(self, way: _Way, digest: bytes, nonce_odd: bytes) -> bytes:
        """Return an authorization block, mostly of a session that is to be kept."""
        is_transport = isinstance(way.session, TransportSession)
        flag = b"\x01" if self.dice.chance(90 if is_transport else 70) else b"\x00"
        mac = hmac.digest(way.key, digest + way.session.nonce_even + nonce_odd + flag, "sha1")
        return way.session.handle.to_bytes(4, "big") + nonce_odd + flag + mac

    def _sign_around(
        self, command: bytes, body_end: int, transport: TransportSession, tpm: Tpm
    ) -> bytes:
        """Return ExecuteTransport in a session: the command inside signed, encrypted if the session
        encrypts, and the whole under the session's secret (24.2)."""
        wrapped = command[HEADER_BYTES + 4 : body_end]
        if len(wrapped) < HEADER_BYTES:
            return command
        if parse_header(wrapped).code != Ordinal.EXECUTE_TRANSPORT and self.dice.chance(85):
            wrapped = self.sign(wrapped, tpm)
            # What comes of the command inside is not what the outer one ends in.
            self._tried = []
        header = parse_header(wrapped)
        row = ROWS.get(header.code)
        start = min(HEADER_BYTES + (row.handles_in if row else 0), len(wrapped))
        end = max(start, len(wrapped) - AUTH_BYTES * (header.tag - Tag.RQU_COMMAND))
        parameters = wrapped[start:end]
        digest_in = hashlib.sha1(U32.write(header.code) + parameters).digest()
        size = U32.write(len(wrapped))
        digest = hashlib.sha1(U32.write(Ordinal.EXECUTE_TRANSPORT) + size + digest_in).digest()
        nonce_odd = self.dice.bytes(20)
        if transport.has(TransportAttributes.ENCRYPT) and transport.public.alg_id in SCHEMES:
            nonces = transport.nonce_even + nonce_odd
            hidden = crypt(transport.public, transport.auth_data, nonces, REQUEST, parameters)
            wrapped = wrapped[:start] + hidden + wrapped[end:]
        way = _Way("transport", transport, transport.auth_data)
        return build_message(
            Tag.RQU_AUTH1_COMMAND,
            Ordinal.EXECUTE_TRANSPORT,
            size + wrapped + self._block(way, digest, nonce_odd),
        )

    def learn(self, code: int) -> None:
        """Take note of what came of the command that was signed last."""
        for place, label in self._tried:
            known = self._good.setdefault(place, {})
            right = code == ReturnCode.SUCCESS or (code == ReturnCode.AUTH2FAIL and not place[1])
            if right:
                known[label] = min(known.get(label, 0) + 1, _WELL_KNOWN)
            elif code in _REFUSED:
                known[label] = known.get(label, 0) // 2
        self._tried = []

    def _ways(self, tpm: Tpm, handle: int) -> Iterator[_Way]:
        loaded = tpm.stclear.keys.get(handle)
        key = None if loaded is None else loaded.body
        if handle == ReservedHandle.SRK:
            key = tpm.permanent.srk
        for session in tpm.stany.sessions.values():
            if session.protocol == ProtocolId.OIAP:
                if key is not None:
                    yield _Way("oiap own", session, key.usage_auth)
                for name, secret in self._secrets.items():
                    yield _Way(f"oiap {name}", session, secret)
            else:
                label = f"{session.protocol.name} {session.entity_kind.name}"
                yield _Way(label, session, session.shared_secret)

    def _choose(self, ways: list[_Way], place: tuple[int, int]) -> _Way:
        known = self._good.get(place, {})
        liked = [way for way in ways if known.get(way.label)]
        way = self.dice.pick(ways)
        if liked and not self.dice.chance(_EXPLORE_PERCENT):
            way = self.dice.pick(liked)
        self._tried.append((place, way.label))
        return way
