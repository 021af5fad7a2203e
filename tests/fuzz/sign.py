# SPDX-License-Identifier: Apache-2.0
"""Putting right HMACs under commands, so that what is behind the authorization is reached.

Which secret an ordinal wants is not told but learned: of the ways to sign a block, those that did
not end in an authorization error are taken more often.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from protocol.tpm12.constants import ProtocolId, ReturnCode, Tag
from protocol.tpm12.framing import HEADER_BYTES, parse_header
from tests.fuzz.corpus import ROWS
from tests.fuzz.dice import Dice
from tpmcore.tpm12.state import Session
from tpmcore.tpm12.tpm import Tpm

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
    session: Session
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
        handle = int.from_bytes(command[HEADER_BYTES : HEADER_BYTES + 4], "big")
        ways = list(self._ways(tpm, handle))
        if not ways:
            return command
        digest = hashlib.sha1(
            header.code.to_bytes(4, "big") + command[HEADER_BYTES + row.handles_in : body_end]
        ).digest()
        signed = command[:body_end]
        for block in range(count):
            way = self._choose(ways, (header.code, block))
            nonce_odd = self.dice.bytes(20)
            flag = b"\x01" if self.dice.chance(70) else b"\x00"
            mac = hmac.digest(way.key, digest + way.session.nonce_even + nonce_odd + flag, "sha1")
            signed += way.session.handle.to_bytes(4, "big") + nonce_odd + flag + mac
            if len(ways) > 1 and self.dice.chance(90):
                # Two blocks seldom share a session.
                ways = [other for other in ways if other.session is not way.session] or ways
        return signed

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
        key = tpm.stclear.keys.get(handle)
        for session in tpm.stany.sessions.values():
            if session.protocol == ProtocolId.OIAP:
                if key is not None:
                    yield _Way("oiap own", session, key.body.usage_auth)
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
