# SPDX-License-Identifier: Apache-2.0
"""The Diffie-Hellman exchange by which an agent takes a group's key into escrow and gives it back.

Group 14 of RFC 3526 (2048 bits, generator 2). Both sides compute s, 256 bytes with leading zeros,
and K = SHA-256(s); the group key (32 bytes) travels as K xor key. K is used for one key only, since
each exchange has fresh values. Through gmpy2, since `cryptography` gives up Diffie-Hellman over
finite fields; powers take some milliseconds, so everything here belongs into a thread.

Source: Xen stubdom/vtpmmgr, GROUP_REGISTER; RECOVER1 and RECOVER2 as its header sketches them.
"""

from __future__ import annotations

import hashlib
from typing import Final

import gmpy2  # type: ignore[import-untyped]  # it comes without type stubs

from protocol.manager.management import EXCHANGE_BYTES

# RFC 3526, 3: 2^2048 - 2^1984 - 1 + 2^64 * (floor(2^1918 pi) + 124476)
PRIME: Final = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
    "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
    "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F"
    "83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B"
    "E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510"
    "15728E5A8AACAA68FFFFFFFFFFFFFFFF",
    16,
)
GENERATOR: Final = 2
_ORDER: Final = (PRIME - 1) // 2


class BadExchange(Exception):
    """A value outside of the group that 2 generates: 0, 1, p - 1, p or more, or no square."""


class Exchange:
    """One side of one exchange.

    Args:
        random: 256 fresh random bytes, the secret exponent.
    """

    def __init__(self, random: bytes) -> None:
        self._exponent = gmpy2.mpz(int.from_bytes(random, "big") % _ORDER + 1)
        self.public = _power(gmpy2.mpz(GENERATOR), self._exponent)
        """This side's half, 256 bytes."""

    def __repr__(self) -> str:
        return "Exchange()"

    def mask(self, peer: bytes, data: bytes) -> bytes:
        """Return 32 bytes hidden from all but the owner of the peer's half, or found again.

        Raises:
            BadExchange: the peer's half, 256 bytes, is none.
        """
        return bytes(one ^ other for one, other in zip(self._shared(peer), data, strict=True))

    def _shared(self, peer: bytes) -> bytes:
        number = gmpy2.mpz(int.from_bytes(peer, "big"))
        # a value outside of the subgroup would tell bits of the exponent
        if not 1 < number < PRIME - 1 or gmpy2.powmod(number, _ORDER, PRIME) != 1:
            raise BadExchange("a half that is not of the group")
        return hashlib.sha256(_power(number, self._exponent)).digest()


def _power(base: gmpy2.mpz, exponent: gmpy2.mpz) -> bytes:
    # powmod_sec: its time does not depend on the exponent
    return int(gmpy2.powmod_sec(base, exponent, PRIME)).to_bytes(EXCHANGE_BYTES, "big")
