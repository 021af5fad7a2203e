# SPDX-License-Identifier: Apache-2.0
"""A chip, a disk and the power that both run on, for tests of the manager in one process.

`Power` counts steps: each write, flush, truncation and deletion on the disk, and each operation of
the chip twice (before and after it is carried out, so that an answer can be lost). At the step it
is told to fail at, everything stops: the step does not happen, nothing later does, and the disk
keeps of what was not flushed what the `Loss` says.
"""

from __future__ import annotations

import enum
import hashlib
import os
import random as seeded  # noqa: TID251 - repeatable choices of a test, no secrets
import zlib
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import apsw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1

from daemons.runtime.log import Level, Log
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.hardware import (
    BindingKey,
    HardwareLost,
    KeyCertificate,
    NewIdentity,
    NvArea,
    SignedQuote,
)
from daemons.vtpmmgr.sealing import PcrValues
from protocol.manager.quotes import Identification
from protocol.tpm12 import ReturnCode
from protocol.tpm12.attestation import CertifyInfo2
from protocol.tpm12.constants import EncScheme, KeyUsage, PayloadType
from protocol.tpm12.keys import KeyParms, PubKey
from protocol.tpm12.pcr import PcrInfoShort, PcrSelection, composite_hash
from tpmcore.errors import TpmError

WELL_KNOWN = Secret(20)
_BOUND_BYTES = 24  # selection 3, composite hash 20, locality 1


class Died(Exception):
    """The power is gone."""


class Loss(enum.Enum):
    """What a stop does to writes that were not flushed."""

    NONE = "none"  # the process was killed, the system lives: all of them are there
    ALL = "all"
    SOME = "some"  # each by itself is there, missing, or there with garbage


class Power:
    """Steps, and the one at which they stop.

    Args:
        limit: the step that fails, from 1; None never fails.
        loss: what the disk then keeps.
        seed: of the choices under Loss.SOME.
    """

    def __init__(self, limit: int | None = None, loss: Loss = Loss.NONE, seed: int = 0) -> None:
        self.limit = limit
        self.loss = loss
        self.choices = seeded.Random(seed)
        self.steps = 0
        self.dead = False
        self.disks: list[FaultyDisk] = []

    def step(self) -> None:
        """Take a step."""
        if self.dead:
            raise Died
        self.steps += 1
        if self.steps == self.limit:
            self.dead = True
            for disk in self.disks:
                disk.cut()
            raise Died


# --- the disk ------------------------------------------------------------------------------------


@dataclass
class _Pending:
    """One write (or truncation, if data is None) that was not flushed."""

    offset: int
    data: bytes | None
    # A flush of it failed: the system shows it still and will never write it.
    clean: bool = False


@dataclass
class _Contents:
    """A file by path: what is durable is in the real file, the rest is pending."""

    durable: bool
    pending: list[_Pending] = field(default_factory=list)


class FaultyDisk(apsw.VFS):
    """A VFS on real files that hold durable bytes only."""

    def __init__(self, name: str, power: Power) -> None:
        self.name = name
        self.power = power
        # Out of space from this step of the power on.
        self.full_from: int | None = None
        # No flush succeeds any more; what should have been flushed is only in the system's cache.
        self.broken = False
        self._files: dict[str, _Contents] = {}
        super().__init__(name, base="unix")
        power.disks.append(self)

    def xOpen(  # noqa: N802
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> FaultyFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None:
            raise AssertionError("temporary files are kept in memory")
        there = Path(path).exists()
        contents = self._files.setdefault(path, _Contents(durable=there))
        return FaultyFile(self, path, contents, name, flags)

    def xDelete(self, name: str, sync: bool) -> None:  # noqa: N802
        self.power.step()
        self._files.pop(name, None)
        super().xDelete(name, sync)

    def cut(self) -> None:
        """Apply the loss to every file."""
        for path, contents in self._files.items():
            real = Path(path)
            if not contents.durable and self._gone():
                real.unlink(missing_ok=True)
            elif real.exists():
                self._settle(real, contents)
        self._files.clear()

    def _gone(self) -> bool:
        match self.power.loss:
            case Loss.NONE:
                return False
            case Loss.ALL:
                return True
            case Loss.SOME:
                return self.power.choices.random() < 0.5

    def _settle(self, real: Path, contents: _Contents) -> None:
        with real.open("r+b") as file:
            for write in contents.pending:
                if self._gone():
                    continue
                if write.data is None:
                    file.truncate(write.offset)
                    continue
                data = write.data
                if self.power.loss is Loss.SOME and self.power.choices.random() < 0.3:
                    data = self.power.choices.randbytes(len(data))
                file.seek(write.offset)
                file.write(data)


class FaultyFile(apsw.VFSFile):
    """An open file of a FaultyDisk."""

    def __init__(
        self,
        disk: FaultyDisk,
        path: str,
        contents: _Contents,
        name: str | apsw.URIFilename | None,
        flags: list[int],
    ) -> None:
        self._disk = disk
        self._path = path
        self._contents = contents
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.power.step()
        full = self._disk.full_from
        if full is not None and self._disk.power.steps >= full:
            raise apsw.FullError("no space left on the test's disk")
        self._contents.pending.append(_Pending(offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._disk.power.step()
        self._contents.pending.append(_Pending(newsize, None))

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.power.step()
        if self._disk.broken:
            for write in self._contents.pending:
                write.clean = True
            raise apsw.IOError("the test's disk does not flush")
        for write in self._contents.pending:
            if write.clean:
                continue
            if write.data is None:
                super().xTruncate(write.offset)
            else:
                super().xWrite(write.data, write.offset)
        self._contents.pending[:] = [write for write in self._contents.pending if write.clean]
        self._contents.durable = True

    def xFileSize(self) -> int:  # noqa: N802
        size = super().xFileSize()
        for write in self._contents.pending:
            end = write.offset + len(write.data or b"")
            size = end if write.data is None else max(size, end)
        return size

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        end = min(offset + amount, self.xFileSize())
        if end <= offset:
            return b""
        image = bytearray(super().xRead(amount, offset).ljust(end - offset, b"\0")[: end - offset])
        for write in self._contents.pending:
            if write.data is None:
                cut = max(0, write.offset - offset)
                image[cut:] = bytes(max(0, len(image) - cut))
                continue
            first = max(offset, write.offset)
            last = min(end, write.offset + len(write.data))
            if first < last:
                image[first - offset : last - offset] = write.data[
                    first - write.offset : last - write.offset
                ]
        return bytes(image)


_names = iter(range(10**9))


@contextmanager
def faulty_disk(power: Power) -> Iterator[FaultyDisk]:
    """Register a FaultyDisk under a name of its own."""
    disk = FaultyDisk(f"faulty{next(_names)}", power)
    try:
        yield disk
    finally:
        disk.unregister()


@cache
def rsa_key(number: int) -> RSAPrivateKey:
    """Return one of a few RSA-2048 keys, made once for all tests of the process."""
    return generate_private_key(public_exponent=65537, key_size=2048)


def modulus_of(key: RSAPrivateKey) -> bytes:
    """Return the modulus of an RSA-2048 key, 256 bytes."""
    return key.public_key().public_numbers().n.to_bytes(256, "big")


# --- the chip ------------------------------------------------------------------------------------


@dataclass
class Area:
    """An NV area."""

    size: int
    auth: bytes
    data: bytes


@dataclass
class Binding:
    """A binding key.

    Attributes:
        number: of its `rsa_key`.
        flags: TPM_KEY_FLAGS that certificates name.
    """

    number: int
    auth: bytes
    selection: PcrSelection
    composite: bytes
    flags: int = 0

    @property
    def public_key(self) -> PubKey:
        """As the chip shows it."""
        parms = KeyParms.for_rsa(enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1)
        return PubKey(parms, modulus_of(rsa_key(self.number)))


@dataclass
class Chip:
    """What a hardware TPM remembers without power."""

    name: bytes = b"chip one"
    has_ek: bool = False
    owner: bytes | None = None
    srk_auth: bytes | None = None
    srk: bytes = field(default_factory=lambda: os.urandom(32))
    pcrs: dict[int, bytes] = field(default_factory=lambda: {i: bytes(20) for i in range(24)})
    areas: dict[int, Area] = field(default_factory=dict)
    identities: dict[bytes, bytes] = field(default_factory=dict)
    bindings: dict[bytes, Binding] = field(default_factory=dict)
    counters: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    active_counter: int | None = None
    highest: int = 0

    @property
    def ek_digest(self) -> bytes:
        """Names the chip."""
        return hashlib.sha256(self.name).digest()

    def extend(self, index: int, digest: bytes) -> None:
        """Change a PCR."""
        self.pcrs[index] = hashlib.sha1(self.pcrs[index] + digest).digest()

    def composite(self, selection: PcrSelection) -> bytes:
        """What a seal is bound to, beside the locality."""
        return composite_hash(selection, [self.pcrs[index] for index in range(24)])


class FakeHardware:
    """A chip as the manager sees it.

    Attributes:
        unreachable: every operation is answered with HardwareLost.
        lose_answers: so many further operations are carried out and not answered.
        writes: how often an NV area was written.
        quotes_for: in whose turn each quote was asked for.
    """

    def __init__(
        self,
        chip: Chip,
        power: Power | None = None,
        *,
        locality: int = 2,
        owner_auth: bytes = WELL_KNOWN,
        srk_auth: bytes = WELL_KNOWN,
    ) -> None:
        self.chip = chip
        self.power = power or Power()
        self.unreachable = False
        self.lose_answers = 0
        self.writes = 0
        self.quotes_for: list[Hashable | None] = []
        self._locality = locality
        self._owner_auth = owner_auth
        self._srk_auth = srk_auth

    @property
    def locality(self) -> int:
        return self._locality

    @contextmanager
    def operation(self) -> Iterator[None]:
        """Surround what an operation does."""
        self.power.step()
        if self.unreachable:
            raise HardwareLost("the test's chip is away")
        yield
        self.power.step()
        if self.lose_answers:
            self.lose_answers -= 1
            raise HardwareLost("the test's chip lost the answer")

    async def has_owner(self) -> bool:
        with self.operation():
            return self.chip.owner is not None

    async def take_ownership(self) -> None:
        with self.operation():
            self.chip.has_ek = True
        with self.operation():
            if self.chip.owner is not None:
                raise TpmError(ReturnCode.OWNER_SET)
            self.chip.owner, self.chip.srk_auth = self._owner_auth, self._srk_auth

    async def ek_digest(self) -> bytes:
        with self.operation():
            if self.chip.owner != self._owner_auth:
                raise TpmError(ReturnCode.AUTHFAIL)
            return self.chip.ek_digest

    async def read_pcrs(self, indices: Sequence[int]) -> PcrValues:
        with self.operation():
            return tuple((index, self.chip.pcrs[index]) for index in sorted(indices))

    async def seal(self, secret: bytes, selection: PcrSelection, composite: bytes) -> bytes:
        with self.operation():
            if self.chip.srk_auth != self._srk_auth:
                raise TpmError(ReturnCode.AUTHFAIL)
            nonce = os.urandom(12)
            bound = selection.select + composite + bytes([self._locality])
            return bound + nonce + AESGCM(self.chip.srk).encrypt(nonce, secret, bound)

    def sealed_to(self, blob: bytes) -> tuple[PcrSelection, bytes]:
        if len(blob) < _BOUND_BYTES:
            raise TpmError(ReturnCode.NOTSEALED_BLOB)
        return PcrSelection(blob[:3]), blob[3:23]

    async def unseal(self, blob: bytes) -> Secret:
        with self.operation():
            if self.chip.srk_auth is None:
                raise TpmError(ReturnCode.NOSRK)
            if self.chip.srk_auth != self._srk_auth:
                raise TpmError(ReturnCode.AUTHFAIL)
            selection, composite = self.sealed_to(blob)
            bound, box = blob[:_BOUND_BYTES], blob[_BOUND_BYTES:]
            try:
                secret = AESGCM(self.chip.srk).decrypt(box[:12], box[12:], bound)
            except (InvalidTag, ValueError):
                raise TpmError(ReturnCode.DECRYPT_ERROR) from None
            if bound[23] != self._locality or composite != self.chip.composite(selection):
                raise TpmError(ReturnCode.WRONGPCRVAL)
            return Secret(secret)

    async def read_pubek(self) -> bytes:
        with self.operation():
            return b"public endorsement key of " + self.chip.name

    async def make_identity(self, label_digest: bytes, auth: Secret) -> NewIdentity:
        with self.operation():
            if self.chip.owner != self._owner_auth:
                raise TpmError(ReturnCode.AUTHFAIL)
            key = rsa_key(len(self.chip.identities))
            name = b"identity %d" % len(self.chip.identities)
            self.chip.identities[name] = bytes(auth)
            return NewIdentity(name, modulus_of(key), key.sign(label_digest, PKCS1v15(), SHA1()))

    async def activate_identity(
        self,
        key: bytes,
        auth: Secret,
        blob: bytes,
        *,
        identification: Identification | None = None,
    ) -> bytes:
        with self.operation():
            self._check_identity(key, auth)
            self._identify(identification)
            if blob != b"for " + key:
                raise TpmError(ReturnCode.DECRYPT_ERROR)
            return b"symmetric key of " + key

    async def quote(
        self,
        key: bytes,
        auth: Secret,
        *,
        external_data: bytes,
        selection: PcrSelection,
        identification: Identification | None = None,
        source: Hashable | None = None,
    ) -> SignedQuote:
        self.quotes_for.append(source)
        with self.operation():
            self._check_identity(key, auth)
            self._identify(identification)
            info = b"\x01\x01\0\0QUOT" + self.chip.composite(selection) + external_data
            signer = rsa_key(list(self.chip.identities).index(key))
            values = tuple((index, self.chip.pcrs[index]) for index in selection.indices)
            return SignedQuote(signer.sign(info, PKCS1v15(), SHA1()), values)

    def identity_modulus(self, key: bytes) -> bytes:
        return modulus_of(rsa_key(list(self.chip.identities).index(key)))

    async def make_binding_key(
        self, auth: Secret, selection: PcrSelection, composite: bytes
    ) -> BindingKey:
        with self.operation():
            name = b"binding key %d" % len(self.chip.bindings)
            # another for each chip
            number = 1000 + zlib.crc32(self.chip.name + name)
            made = Binding(number, bytes(auth), selection, composite)
            self.chip.bindings[name] = made
            return BindingKey(name, made.public_key.encode())

    async def certify(
        self, key: BindingKey, auth: Secret, *, by: bytes, by_auth: Secret, nonce: bytes
    ) -> KeyCertificate:
        with self.operation():
            self._check_identity(by, by_auth)
            found = self._binding(key.key, auth)
            info = CertifyInfo2(
                payload_type=PayloadType.ASYM,
                key_usage=KeyUsage.BIND,
                key_flags=found.flags,
                auth_data_usage=1,
                algorithm_parms=found.public_key.algorithm_parms,
                pubkey_digest=hashlib.sha1(found.public_key.key).digest(),
                data=nonce,
                parent_pcr_status=False,
                pcr_info=PcrInfoShort(
                    found.selection, 1 << self._locality, found.composite
                ).encode(),
                migration_authority=b"",
            ).encode()
            signer = rsa_key(list(self.chip.identities).index(by))
            return KeyCertificate(info, signer.sign(info, PKCS1v15(), SHA1()))

    async def unbind(self, key: bytes, auth: Secret, data: bytes) -> Secret:
        with self.operation():
            found = self._binding(key, auth)
            if found.composite != self.chip.composite(found.selection):
                raise TpmError(ReturnCode.WRONGPCRVAL)
            try:
                bound = rsa_key(found.number).decrypt(data, OAEP(MGF1(SHA1()), SHA1(), b"TCPA"))
            except ValueError:
                raise TpmError(ReturnCode.DECRYPT_ERROR) from None
            return Secret(bound[5:])

    def _binding(self, key: bytes, auth: Secret) -> Binding:
        found = self.chip.bindings.get(key)
        if found is None:
            raise TpmError(ReturnCode.DECRYPT_ERROR)
        if found.auth != bytes(auth):
            raise TpmError(ReturnCode.AUTHFAIL)
        return found

    def _identify(self, identification: Identification | None) -> None:
        for index, digests in (identification or {}).items():
            self.chip.pcrs[index] = b"\xff" * 20 if index < 23 else bytes(20)
            for digest in digests:
                self.chip.extend(index, digest)

    def _check_identity(self, key: bytes, auth: Secret) -> None:
        if self.chip.identities.get(key) != bytes(auth):
            raise TpmError(ReturnCode.AUTHFAIL)

    async def nv_area_size(self, index: int) -> int | None:
        with self.operation():
            area = self.chip.areas.get(index)
            return None if area is None else area.size

    async def nv_define(self, index: int, size_bytes: int, auth: Secret) -> None:
        with self.operation():
            if self.chip.owner != self._owner_auth:
                raise TpmError(ReturnCode.AUTHFAIL)
            self.chip.areas[index] = Area(size_bytes, bytes(auth), b"\xff" * size_bytes)

    async def nv_delete(self, index: int) -> None:
        with self.operation():
            if self.chip.owner != self._owner_auth:
                raise TpmError(ReturnCode.AUTHFAIL)
            if self.chip.areas.pop(index, None) is None:
                raise TpmError(ReturnCode.BADINDEX)

    async def nv_read(self, index: int, offset: int, size_bytes: int, auth: Secret) -> bytes:
        data = await _FakeArea(self, index, auth).read()
        if offset + size_bytes > len(data):
            raise TpmError(ReturnCode.NOSPACE)
        return data[offset : offset + size_bytes]

    async def nv_write(self, index: int, offset: int, data: bytes, auth: Secret) -> None:
        area = _FakeArea(self, index, auth)
        old = await area.read()
        if offset + len(data) > len(old):
            raise TpmError(ReturnCode.NOSPACE)
        await area.write(old[:offset] + data + old[offset + len(data) :])

    async def create_counter(self, auth: Secret) -> tuple[int, int]:
        with self.operation():
            if self.chip.owner != self._owner_auth:
                raise TpmError(ReturnCode.AUTHFAIL)
            self.chip.highest += 1
            self.chip.counters = {0: (bytes(auth), self.chip.highest)}
            return 0, self.chip.highest

    async def read_counter(self, count_id: int) -> int | None:
        with self.operation():
            found = self.chip.counters.get(count_id)
            return None if found is None else found[1]

    async def increment_counter(self, count_id: int, auth: Secret) -> None:
        with self.operation():
            if self.chip.active_counter not in (None, count_id):
                raise TpmError(ReturnCode.BAD_COUNTER)
            known, value = self.chip.counters[count_id]
            if known != bytes(auth):
                raise TpmError(ReturnCode.AUTHFAIL)
            self.chip.counters[count_id] = (known, value + 1)
            self.chip.highest = max(self.chip.highest, value + 1)
            self.chip.active_counter = count_id

    async def active_counter(self) -> int | None:
        with self.operation():
            return self.chip.active_counter

    async def release_counter(self, count_id: int, auth: Secret) -> None:
        with self.operation():
            if self.chip.counters[count_id][0] != bytes(auth):
                raise TpmError(ReturnCode.AUTHFAIL)
            del self.chip.counters[count_id]

    def nv_area(self, index: int, size_bytes: int, auth: Secret) -> NvArea:
        return _FakeArea(self, index, auth)

    @property
    def answers(self) -> bool:
        return not self.unreachable

    async def probe(self) -> None:
        with self.operation():
            pass

    async def wait_reachable(self) -> None:
        if self.unreachable:
            await self.probe()

    async def pass_through(self, command: bytes, source: Hashable) -> bytes:
        with self.operation():
            body = b"\0\0\0\x04rand"
            return b"\x00\xc4" + (10 + len(body)).to_bytes(4, "big") + bytes(4) + body

    def withdraw(self, source: Hashable) -> None:
        """Nothing ever waits here."""


class _FakeArea:
    def __init__(self, hardware: FakeHardware, index: int, auth: Secret) -> None:
        self._hardware = hardware
        self._index = index
        self._auth = auth

    def _open(self) -> Area:
        area = self._hardware.chip.areas.get(self._index)
        if area is None:
            raise TpmError(ReturnCode.BADINDEX)
        if area.auth != bytes(self._auth):
            raise TpmError(ReturnCode.AUTHFAIL)
        return area

    async def read(self) -> bytes:
        with self._hardware.operation():
            return self._open().data

    async def write(self, data: bytes) -> None:
        with self._hardware.operation():
            self._open().data = data
            self._hardware.writes += 1


class Lines:
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.log = Log("vtpmmgr", level=Level.DEBUG, sink=self.lines.append)

    def __str__(self) -> str:
        return "".join(self.lines)
