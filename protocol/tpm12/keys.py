# SPDX-License-Identifier: Apache-2.0
"""Structures about keys (Part 2, 10)."""

from __future__ import annotations

import functools
import hashlib
import struct
from typing import Annotated, ClassVar, NoReturn, Self

from protocol.tpm12.constants import (
    KEY_FLAGS_MASK,
    Algorithm,
    EncScheme,
    KeyUsage,
    PayloadType,
    SigScheme,
    StructureTag,
)
from protocol.tpm12.pcr import PcrInfo, PcrInfoLong
from protocol.tpm12.records import record
from protocol.tpm12.wire import (
    DIGEST,
    SIZED,
    U8,
    U16,
    U32,
    BadKeyProperty,
    BadVersion,
    Reader,
    Structure,
)

DEFAULT_EXPONENT = 65537
_KEY_VERSION = b"\x01\x01\x00\x00"
_KEY12_HEAD = StructureTag.KEY12.to_bytes(2, "big") + b"\x00\x00"
_KEY_HEAD = struct.Struct(">4sHIB")
_PARMS_HEAD = struct.Struct(">IHHI")
_KNOWN_ALGORITHMS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 10})


@record
class RsaKeyParms(Structure):
    """TPM_RSA_KEY_PARMS (10.5); an empty exponent means 65537."""

    key_length: Annotated[int, U32]
    num_primes: Annotated[int, U32]
    exponent: Annotated[bytes, SIZED]

    @property
    def exponent_value(self) -> int:
        """The public exponent as a number.

        Zero bytes at the ends do not count: clients write the number in either byte order, and the
        exponents in use read the same from both ends.
        """
        if not self.exponent:
            return DEFAULT_EXPONENT
        return int.from_bytes(self.exponent.strip(b"\0"), "big")


@functools.lru_cache(maxsize=32)
def _rsa_parms(parms: bytes) -> RsaKeyParms:
    """Decode RSA parameters: there are few, and each is asked for many times."""
    return RsaKeyParms.decode(parms)


@record
class KeyParms(Structure):
    """TPM_KEY_PARMS (10.1).

    Attributes:
        parms: encoded TPM_RSA_KEY_PARMS or TPM_SYMMETRIC_KEY_PARMS, as given.
    """

    is_exact: ClassVar[bool] = True
    algorithm_id: Annotated[int, U32]
    enc_scheme: Annotated[int, U16]
    sig_scheme: Annotated[int, U16]
    parms: Annotated[bytes, SIZED]

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Take one; an unknown algorithm, or RSA parameters that do not parse, are refused here."""
        start = reader.position
        algorithm_id, enc_scheme, sig_scheme, size = reader.unpack(_PARMS_HEAD, "keyParms")
        value = cls(algorithm_id, enc_scheme, sig_scheme, reader.take(size, "parms"))
        if value.algorithm_id not in _KNOWN_ALGORITHMS:
            raise BadKeyProperty("algorithmID", start, f"{value.algorithm_id:#x} is unknown")
        if value.algorithm_id == Algorithm.RSA:
            _rsa_parms(value.parms)
        value.keep_encoding(reader.since(start))
        return value

    def encode(self) -> bytes:
        """Return the wire form."""
        head = _PARMS_HEAD.pack(
            self.algorithm_id, self.enc_scheme, self.sig_scheme, len(self.parms)
        )
        return head + self.parms

    @property
    def rsa(self) -> RsaKeyParms:
        """The RSA parameters; only meaningful for algorithm RSA."""
        return _rsa_parms(self.parms)

    @classmethod
    def for_rsa(
        cls,
        *,
        enc_scheme: int = EncScheme.NONE,
        sig_scheme: int = SigScheme.NONE,
        bits: int = 2048,
        exponent: bytes = b"",
    ) -> Self:
        """Make RSA parameters; the default exponent is left implicit."""
        return cls(Algorithm.RSA, enc_scheme, sig_scheme, RsaKeyParms(bits, 2, exponent).encode())


@record
class PubKey(Structure):
    """TPM_PUBKEY (10.8): parameters and modulus (TPM_STORE_PUBKEY, most significant byte first)."""

    algorithm_parms: KeyParms
    key: Annotated[bytes, SIZED]

    def digest(self) -> bytes:
        """Return SHA-1 of the structure."""
        return hashlib.sha1(self.encode()).digest()


def _is_key12(head: bytes, start: int) -> bool:
    """Judge the first four bytes of a key, which is at `start`."""
    if head == _KEY12_HEAD:
        return True
    if head[0] != 0x01:
        raise BadKeyProperty("tag", start, f"{_KEY12_HEAD.hex()} wanted, found {head.hex()}")
    if head[1] != 0x01:
        raise BadVersion("version", start, f"01 01 wanted, found {head.hex()}")
    return False


def _check_flags(flags: int, start: int) -> None:
    if flags & ~KEY_FLAGS_MASK:
        raise BadKeyProperty("keyFlags", start + 6, f"{flags:#x} has unknown bits")


def _refuse_cut_key(reader: Reader) -> NoReturn:
    """Say what is wrong with a key that ends in its head: what is there is judged in its order."""
    start = reader.position
    _is_key12(reader.take(4, "version"), start)
    reader.u16("keyUsage")
    _check_flags(reader.u32("keyFlags"), start)
    reader.u8("authDataUsage")
    raise AssertionError("the key is not cut")


@record
class Key(Structure):
    """TPM_KEY (10.2) and TPM_KEY12 (10.3), which differ in the head and in the PCR structure.

    Attributes:
        is_key12: which of the two.
        key_flags: bits of KeyFlags, no others.
        pcr_info: None, PcrInfo in a TPM_KEY, PcrInfoLong in a TPM_KEY12.
        pub_key: modulus, empty in a key that is still to be made.
        enc_data: private part encrypted for the parent, or empty.
    """

    is_key12: bool
    key_usage: int
    key_flags: int
    auth_data_usage: int
    algorithm_parms: KeyParms
    pcr_info: PcrInfo | PcrInfoLong | None = None
    pub_key: bytes = b""
    enc_data: bytes = b""

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Take a TPM_KEY or TPM_KEY12; the first byte tells which."""
        start = reader.position
        if reader.remaining < _KEY_HEAD.size:
            _refuse_cut_key(reader)
        head, usage, flags, auth_data_usage = reader.unpack(_KEY_HEAD, "key")
        is_key12 = _is_key12(head, start)
        _check_flags(flags, start)
        parms = KeyParms.read(reader)
        info = reader.sized("PCRInfo")
        pcr_info: PcrInfo | PcrInfoLong | None = None
        if info:
            pcr_info = PcrInfoLong.decode(info) if is_key12 else PcrInfo.decode(info)
        value = cls(
            is_key12,
            usage,
            flags,
            auth_data_usage,
            parms,
            pcr_info,
            reader.sized("pubKey"),
            reader.sized("encData"),
        )
        if is_key12 or head == _KEY_VERSION:
            # Minor and revision of a version are not kept, so it has to be as we would write it.
            value.keep_encoding(reader.since(start))
        return value

    def encode_public(self) -> bytes:
        """Return the structure through pubKey, which is what pubDataDigest covers."""
        return self.encode_once()[: -4 - len(self.enc_data)]

    def encode(self) -> bytes:
        """Return the wire form."""
        info = b"" if self.pcr_info is None else self.pcr_info.encode_once()
        head = _KEY12_HEAD if self.is_key12 else _KEY_VERSION
        return b"".join(
            (
                _KEY_HEAD.pack(head, self.key_usage, self.key_flags, self.auth_data_usage),
                self.algorithm_parms.encode_once(),
                SIZED.write(info),
                SIZED.write(self.pub_key),
                SIZED.write(self.enc_data),
            )
        )

    def public_digest(self) -> bytes:
        """Return pubDataDigest: SHA-1 without encDataSize and encData (10.6)."""
        return hashlib.sha1(self.encode_public()).digest()

    @property
    def public_key(self) -> PubKey:
        """The TPM_PUBKEY of this key, parameters as stored."""
        return PubKey(self.algorithm_parms, self.pub_key)

    def public_key_digest(self) -> bytes:
        """Return SHA-1 of that TPM_PUBKEY."""
        encoded = self.algorithm_parms.encode_once() + SIZED.write(self.pub_key)
        return hashlib.sha1(encoded).digest()

    # Both are written out, dataclasses.replace takes three times as long: every key passes here.

    def with_private(self, enc_data: bytes) -> Key:
        """Return a copy with another encData."""
        changed = Key(
            self.is_key12,
            self.key_usage,
            self.key_flags,
            self.auth_data_usage,
            self.algorithm_parms,
            self.pcr_info,
            self.pub_key,
            enc_data,
        )
        changed.keep_encoding(self.encode_public() + SIZED.write(enc_data))
        return changed

    def with_public(self, pub_key: bytes, pcr_info: PcrInfo | PcrInfoLong | None) -> Key:
        """Return a copy with another modulus and PCR structure, and with empty encData."""
        return Key(
            self.is_key12,
            self.key_usage,
            self.key_flags,
            self.auth_data_usage,
            self.algorithm_parms,
            pcr_info,
            pub_key,
        )

    @classmethod
    def template(
        cls,
        usage: KeyUsage,
        *,
        enc_scheme: int,
        sig_scheme: int,
        bits: int = 2048,
        flags: int = 0,
        auth_data_usage: int = 1,
        pcr_info: PcrInfo | PcrInfoLong | None = None,
        is_key12: bool = False,
        exponent: bytes = b"",
    ) -> Self:
        """Make the description of a key that a TPM is asked to generate."""
        parms = KeyParms.for_rsa(
            enc_scheme=enc_scheme, sig_scheme=sig_scheme, bits=bits, exponent=exponent
        )
        return cls(is_key12, usage, flags, auth_data_usage, parms, pcr_info)


@record
class StoreAsymKey(Structure):
    """TPM_STORE_ASYMKEY (10.6): the plaintext of a key's encData.

    Attributes:
        private_key: one prime factor, half as long as the modulus.
    """

    payload: Annotated[int, U8]
    usage_auth: Annotated[bytes, DIGEST]
    migration_auth: Annotated[bytes, DIGEST]
    pub_data_digest: Annotated[bytes, DIGEST]
    private_key: Annotated[bytes, SIZED]

    def __repr__(self) -> str:
        return f"StoreAsymKey(payload={self.payload}, <secret>)"


PAYLOADS_OF_LOADABLE_KEYS = frozenset(
    {PayloadType.ASYM, PayloadType.MIGRATE_RESTRICTED, PayloadType.MIGRATE_EXTERNAL}
)
