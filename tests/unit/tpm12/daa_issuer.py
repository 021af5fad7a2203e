# SPDX-License-Identifier: Apache-2.0
"""The other parties of direct anonymous attestation, for tests: an issuer, a host, a verifier.

Written from the protocol (Camenisch-Lysyanskaya credentials over an RSA modulus, and a pseudonym in
a group of prime order), with Python's own numbers: nothing is shared with the engine, so that the
equations hold only if both sides do the mathematics right.

A credential is A with A^e * R0^f0 * R1^f1 * S^v = Z mod n, where f0, f1 and a part of v are known
to the TPM only. S0 is S and S1 is S^(2^1024): the TPM keeps v as two numbers.
"""

from __future__ import annotations

import abc
import functools
import hashlib
from dataclasses import dataclass, field
from typing import Final

import gmpy2  # type: ignore[import-untyped]
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from protocol.tpm12.constants import ReservedHandle
from tests.unit.tpm12 import keychain
from tests.unit.tpm12.keychain import sha1
from tests.unit.tpm12.world import OWNER_AUTH, Chip, key_pair
from tpmcore import tss12

JOIN_END: Final = 24
SIGN_END: Final = 15
COUNT: Final = 7
"""Which f of the many that one issuer could give a credential for."""
SELECTOR_DIGEST: Final = b"\x01"
MESSAGE: Final = b"digest of a message!"
HOST_NONCE: Final = b"challenge of others-"

_EXPONENT: Final = 65537
_GAMMA_STEP: Final = 1062
"""Number of candidates before the prime gamma; it saves the search."""


def stream(label: str, bits: int) -> int:
    """Return a fixed number of that many bits at most."""
    data = b"".join(
        hashlib.sha256(f"{label}/{block}".encode()).digest() for block in range(bits // 256 + 1)
    )
    return int.from_bytes(data, "big") >> (len(data) * 8 - bits)


def wide(value: int, size_bytes: int = 256) -> bytes:
    """Return a number in a fixed length."""
    return value.to_bytes(size_bytes, "big")


def number(data: bytes) -> int:
    """Return the number in bytes."""
    return int.from_bytes(data, "big")


@functools.cache
def chain_key(serial: int) -> rsa.RSAPrivateKey:
    """Return a key of the issuer's chain, which is checked when it is made: that takes its time."""
    p, q = key_pair(serial, 2048, _EXPONENT)
    d = pow(_EXPONENT, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(_EXPONENT, p * q)
    return rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public
    ).private_key()


def public_part(key: rsa.RSAPrivateKey) -> bytes:
    """Return the modulus of a key."""
    return wide(key.public_key().public_numbers().n)


def signature(key: rsa.RSAPrivateKey, data: bytes) -> bytes:
    """Sign with PKCS#1 v1.5 and SHA-1."""
    return key.sign(data, padding.PKCS1v15(), hashes.SHA1())


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer's parameters; what is sent can be replaced by what no honest issuer sends."""

    r0: bytes
    r1: bytes
    s0: bytes
    s1: bytes
    n: bytes
    gamma: bytes
    q: bytes
    z: int
    order: int
    w: bytes

    @property
    def settings(self) -> bytes:
        """TPM_DAA_ISSUER: tag, six digests, q."""
        public = (self.r0, self.r1, self.s0, self.s1, self.n, self.gamma)
        return bytes.fromhex("002f") + b"".join([sha1(value) for value in public]) + self.q

    def credential(self, commitment: int, v_issuer: int) -> tuple[int, int]:
        """Return A and e for what a TPM committed to.

        Args:
            commitment: U = R0^f0 * R1^f1 * S0^u0 * S1^u1.
            v_issuer: the issuer's part of v.
        """
        n = number(self.n)
        e = int(gmpy2.next_prime(1 << 367))
        base = self.z * pow(commitment * pow(number(self.s0), v_issuer, n), -1, n) % n
        return pow(base, pow(e, -1, self.order), n), e


@functools.cache
def issuer() -> Issuer:
    """Return the issuer of the tests."""
    p, q_n = key_pair(701, 2048, _EXPONENT)
    n = p * q_n
    order = (p - 1) * (q_n - 1)
    s = pow(stream("daa s", 2040), 2, n)
    r0, r1, z = [pow(s, stream(f"daa x{i}", 2040), n) for i in range(3)]
    q = int(gmpy2.next_prime(stream("daa q", 208) | 3 << 206))
    k = (stream("daa gamma", 1840) | 3 << 1838) & ~1
    gamma = (k + 2 * _GAMMA_STEP) * q + 1
    assert gmpy2.is_prime(gamma)
    assert gamma.bit_length() == 2048
    w = pow(stream("daa w", 2040), (gamma - 1) // q, gamma)
    s1 = pow(s, 1 << 1024, n)
    return Issuer(
        wide(r0), wide(r1), wide(s), wide(s1), wide(n), wide(gamma), wide(q, 26), z, order, wide(w)
    )


@dataclass(slots=True)
class Host(abc.ABC):
    """Who carries stages to a chip; remembers inputs and outputs.

    Attributes:
        handle: of the DAA session.
        done: outputs by stage.
    """

    chip: Chip
    issuer: Issuer
    handle: int = 0
    done: dict[int, bytes] = field(default_factory=dict)

    @abc.abstractmethod
    def send(self, stage: int, data0: bytes = b"", data1: bytes = b"") -> bytes:
        """Send one stage of this host's command."""

    @abc.abstractmethod
    def code(self, stage: int, data0: bytes = b"", data1: bytes = b"") -> int:
        """Return the code that one stage ends in."""

    @abc.abstractmethod
    def inputs(self, stage: int) -> tuple[bytes, bytes]:
        """Return what a host that follows the protocol sends in a stage."""

    def step(self, stage: int) -> bytes:
        """Do a stage as the protocol wants it."""
        output = self.send(stage, *self.inputs(stage))
        self.done[stage] = output
        if stage == 0:
            self.handle = number(output)
        return output

    def run(self, first: int, last: int) -> None:
        """Do some stages."""
        for stage in range(first, last + 1):
            self.step(stage)

    @property
    @abc.abstractmethod
    def challenge(self) -> bytes:
        """The number c of the proof, as the chip must have computed it."""

    def responses(self, first: int) -> tuple[int, int]:
        """Return s0 and s1, which begin at a stage."""
        return number(self.done[first]), number(self.done[first + 1])

    def check_pseudonym(self, at: int, s0: int, s1: int) -> None:
        """Verify E and E1 of stages `at` and `at + 1`: the same f is in the pseudonym."""
        gamma, w = number(self.issuer.gamma), number(self.issuer.w)
        e, e1 = number(self.done[at]), number(self.done[at + 1])
        c = number(self.challenge)
        assert e1 == pow(e, -c, gamma) * pow(w, s0 + (s1 << 104), gamma) % gamma


@dataclass(slots=True)
class Joining(Host):
    """A Join, with the issuer behind it."""

    u2: bytes = wide(stream("daa u2", 1024), 128)
    u3: bytes = wide(stream("daa u3", 1528), 192)
    nonce_of_issuer: bytes = b"n" * 20

    def send(self, stage: int, data0: bytes = b"", data1: bytes = b"") -> bytes:
        """Send one stage of a Join."""
        return self.chip.run(
            tss12.daa_join(
                self.handle,
                stage,
                data0,
                data1,
                owner_auth=OWNER_AUTH,
                random=self.chip.client_random,
            )
        )

    def code(self, stage: int, data0: bytes = b"", data1: bytes = b"") -> int:
        """Return the code that one stage of a Join ends in."""
        return self.chip.code(
            tss12.daa_join(
                self.handle,
                stage,
                data0,
                data1,
                owner_auth=OWNER_AUTH,
                random=self.chip.client_random,
            )
        )

    @property
    def digest_n0(self) -> bytes:
        """Digest of the issuer's first key."""
        return sha1(public_part(chain_key(702)))

    def certificate(self) -> tuple[bytes, bytes]:
        """Return the second key of the chain and the first one's signature over it."""
        second = public_part(chain_key(703))
        return second, signature(chain_key(702), second)

    def signed_settings(self, settings: bytes | None = None) -> tuple[bytes, bytes]:
        """Return settings and the chain's signature over them."""
        settings = settings or self.issuer.settings
        return settings, signature(chain_key(703), self.digest_n0 + settings)

    def step(self, stage: int) -> bytes:
        """Do a stage; stage 1 comes twice, since the chain has two keys."""
        if stage == 1:
            self.first_key()
        return Host.step(self, stage)

    def first_key(self) -> None:
        """Do stage 1 for the first time."""
        self.send(1, public_part(chain_key(702)))

    def inputs(self, stage: int) -> tuple[bytes, bytes]:
        """Return what is sent in a stage; in stage 1 what is sent the second time."""
        i = self.issuer
        by_stage = {
            0: (bytes.fromhex("00000002"), b""),
            3: (COUNT.to_bytes(4, "big"), b""),
            13: (i.gamma, i.w),
            14: (i.gamma, b""),
            15: (i.gamma, b""),
            16: (HOST_NONCE, b""),
            22: (self.u2, b""),
            23: (self.u3, b""),
        }
        if stage in by_stage:
            return by_stage[stage]
        if stage == 1:
            return self.certificate()
        if stage == 2:
            return self.signed_settings()
        if stage == 8:
            return keychain.encrypt_oaep(self.endorsement_key(), self.nonce_of_issuer), b""
        bases = {4: i.r0, 5: i.r1, 6: i.s0, 7: i.s1, 9: i.r0, 10: i.r1, 11: i.s0, 12: i.s1}
        return (bases[stage], i.n) if stage in bases else (b"", b"")

    def endorsement_key(self) -> bytes:
        """Return the modulus of the chip's endorsement key."""
        public = self.chip.run(
            tss12.owner_read_internal_pub(
                ReservedHandle.EK, owner_auth=OWNER_AUTH, random=self.chip.client_random
            )
        )
        return public.key

    @property
    def challenge(self) -> bytes:
        """SHA-1 over the host's and the chip's number."""
        return sha1(HOST_NONCE, self.done[16])

    def check(self) -> None:
        """Verify what an issuer verifies before it gives a credential."""
        i = self.issuer
        n = number(i.n)
        assert len(self.done[7]) == len(self.done[12]) == 256
        binding = sha1(self.done[7], COUNT.to_bytes(4, "big"), self.digest_n0)
        assert self.done[8] == sha1(binding, self.nonce_of_issuer)
        s0, s1 = self.responses(17)
        s2, s3 = number(self.done[19]), number(self.done[21])
        assert len(self.done[19]) == 128
        assert self.done[20] == self.challenge
        u, c = number(self.done[7]), number(self.challenge)
        expected = (
            pow(u, -c, n)
            * pow(number(i.r0), s0, n)
            * pow(number(i.r1), s1, n)
            * pow(number(i.s0), s2, n)
            * pow(number(i.s1), s3, n)
            % n
        )
        assert number(self.done[12]) == expected
        self.check_pseudonym(14, s0, s1)

    def credential(self) -> tuple[int, int]:
        """Return A and e."""
        v_issuer = number(self.u2) + (number(self.u3) << 1024)
        return self.issuer.credential(number(self.done[7]), v_issuer)


@dataclass(slots=True)
class Signing(Host):
    """A Sign with the blobs of a Join.

    Attributes:
        selected: inputs of stage 10.
    """

    blobs: tuple[bytes, bytes, bytes] = (b"", b"", b"")
    selected: tuple[bytes, bytes] = (SELECTOR_DIGEST, MESSAGE)
    signed: bytes = MESSAGE

    def send(self, stage: int, data0: bytes = b"", data1: bytes = b"") -> bytes:
        """Send one stage of a Sign."""
        return self.chip.run(
            tss12.daa_sign(
                self.handle,
                stage,
                data0,
                data1,
                owner_auth=OWNER_AUTH,
                random=self.chip.client_random,
            )
        )

    def code(self, stage: int, data0: bytes = b"", data1: bytes = b"") -> int:
        """Return the code that one stage of a Sign ends in."""
        return self.chip.code(
            tss12.daa_sign(
                self.handle,
                stage,
                data0,
                data1,
                owner_auth=OWNER_AUTH,
                random=self.chip.client_random,
            )
        )

    def inputs(self, stage: int) -> tuple[bytes, bytes]:
        """Return what is sent in a stage."""
        i = self.issuer
        v0, v1, settings = self.blobs
        return {
            0: (i.settings, b""),
            1: (settings, b""),
            2: (i.r0, i.n),
            3: (i.r1, i.n),
            4: (i.s0, i.n),
            5: (i.s1, i.n),
            6: (i.gamma, i.w),
            7: (i.gamma, b""),
            8: (i.gamma, b""),
            9: (HOST_NONCE, b""),
            10: self.selected,
            13: (v0, b""),
            14: (v0, b""),
            15: (v1, b""),
        }.get(stage, (b"", b""))

    @property
    def challenge(self) -> bytes:
        """SHA-1 over the host's and the chip's number, and then over what is signed."""
        return sha1(sha1(HOST_NONCE, self.done[9]), self.selected[0], self.signed)

    def check(self, a: int, e: int) -> None:
        """Verify the proof that there is a credential with the f of the pseudonym.

        The host's part, the proof that it knows e, is left open: it can be computed by everybody
        who knows A and e, and the chip has no share in it.
        """
        i = self.issuer
        n = number(i.n)
        s0, s1 = self.responses(11)
        s2, s3 = number(self.done[13]), number(self.done[15])
        c = number(self.challenge)
        assert self.done[10] == self.challenge
        assert self.done[14] == b""
        expected = (
            pow(i.z, -c, n)
            * pow(a, c * e, n)
            * pow(number(i.r0), s0, n)
            * pow(number(i.r1), s1, n)
            * pow(number(i.s0), s2 + (s3 << 1024), n)
            % n
        )
        assert number(self.done[5]) == expected
        self.check_pseudonym(7, s0, s1)
