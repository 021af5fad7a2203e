# SPDX-License-Identifier: Apache-2.0
"""The TSS library of trousers, libtspi, as far as tests need it: keys under the SRK and signatures.

    with tspi_context(tcsd.port) as tss:
        key = tss.new_signing_key()
        key.load()
        signature = key.sign(digest)

Names and numbers are those of the TSS 1.2 specification (tss_defines.h). The library talks to tcsd
over TCP; tcsd talks to the TPM.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, c_ubyte, c_uint32
from dataclasses import dataclass

WELL_KNOWN = bytes(20)

_OBJECT_TYPE_RSAKEY = 0x02
_OBJECT_TYPE_HASH = 0x05
_POLICY_USAGE = 0x01
_SECRET_MODE_SHA1 = 0x1000
_KEY_TYPE_SIGNING, _KEY_TYPE_STORAGE = 0x10, 0x20
_KEY_SIZE_1024, _KEY_SIZE_2048 = 0x200, 0x300
_KEY_AUTHORIZATION = 0x01
_PS_TYPE_SYSTEM = 2
_HASH_SHA1 = 1
_SRK_UUID = bytes(15) + b"\x01"
_ERROR_CODE = 0xFFF
"""A TSS_RESULT has the layer above the code; layer 0 is the TPM."""

_Handle = c_uint32
_Bytes = POINTER(c_ubyte)


class TspiError(Exception):
    """A function of the library ended with an error.

    Attributes:
        layer: 0 the TPM, 1 TDDL, 2 TCS, 3 TSP.
        code: within the layer.
    """

    def __init__(self, function: str, result: int) -> None:
        self.layer, self.code = result >> 12 & 0xF, result & _ERROR_CODE
        super().__init__(f"{function}: layer {self.layer}, code {self.code:#x}")


class Tspi:
    """A context of the library, connected to a tcsd."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libtspi.so.1")
        self._context = _Handle()
        self._call("Tspi_Context_Create", byref(self._context))
        self._call("Tspi_Context_Connect", self._context, None)
        self._srk = _Handle()
        uuid = (c_ubyte * 16)(*_SRK_UUID)
        self._load_by_uuid(uuid)

    def _load_by_uuid(self, uuid: ctypes.Array[c_ubyte]) -> None:
        # TSS_UUID goes by value: as a structure of sixteen bytes.
        self._call(
            "Tspi_Context_LoadKeyByUUID",
            self._context,
            c_uint32(_PS_TYPE_SYSTEM),
            _Uuid.from_buffer_copy(uuid),
            byref(self._srk),
        )
        self.set_secret(self._srk, WELL_KNOWN)

    def _call(self, function: str, *arguments: object) -> None:
        result = getattr(self._library, function)(*arguments)
        if result:
            raise TspiError(function, result & 0xFFFFFFFF)

    def set_secret(self, object_: c_uint32, secret: bytes) -> None:
        """Give an object's own policy a secret, 20 bytes."""
        policy = _Handle()
        self._call("Tspi_GetPolicyObject", object_, c_uint32(_POLICY_USAGE), byref(policy))
        self._call(
            "Tspi_Policy_SetSecret",
            policy,
            c_uint32(_SECRET_MODE_SHA1),
            c_uint32(len(secret)),
            (c_ubyte * len(secret))(*secret),
        )

    def new_object(self, kind: int, flags: int) -> c_uint32:
        """Make an object of the library."""
        made = _Handle()
        self._call(
            "Tspi_Context_CreateObject",
            self._context,
            c_uint32(kind),
            c_uint32(flags),
            byref(made),
        )
        return made

    def new_storage_key(self) -> TspiKey:
        """Have the TPM make a storage key under the SRK that is used without a secret."""
        handle = self.new_object(_OBJECT_TYPE_RSAKEY, _KEY_TYPE_STORAGE | _KEY_SIZE_2048)
        return self._create(handle, self._srk)

    def new_signing_key(self, parent: TspiKey) -> TspiKey:
        """Have the TPM make a signing key of 1024 bits under a storage key."""
        flags = _KEY_TYPE_SIGNING | _KEY_SIZE_1024 | _KEY_AUTHORIZATION
        handle = self.new_object(_OBJECT_TYPE_RSAKEY, flags)
        self.set_secret(handle, WELL_KNOWN)
        return self._create(handle, parent.handle)

    def _create(self, handle: c_uint32, parent: c_uint32) -> TspiKey:
        self._call("Tspi_Key_CreateKey", handle, parent, _Handle(0))
        return TspiKey(self, handle, parent)

    def load(self, key: c_uint32, parent: c_uint32) -> None:
        """Load a key under another."""
        self._call("Tspi_Key_LoadKey", key, parent)

    def public_key(self, key: c_uint32) -> bytes:
        """Return TPM_PUBKEY of a key."""
        size, data = c_uint32(), _Bytes()
        self._call("Tspi_Key_GetPubKey", key, byref(size), byref(data))
        return self._take(size, data)

    def sign(self, key: c_uint32, digest: bytes) -> bytes:
        """Sign a SHA-1 digest."""
        hash_ = self.new_object(_OBJECT_TYPE_HASH, _HASH_SHA1)
        value = (c_ubyte * len(digest))(*digest)
        self._call("Tspi_Hash_SetHashValue", hash_, c_uint32(len(digest)), value)
        size, data = c_uint32(), _Bytes()
        self._call("Tspi_Hash_Sign", hash_, key, byref(size), byref(data))
        self._call("Tspi_Context_CloseObject", self._context, hash_)
        return self._take(size, data)

    def _take(self, size: c_uint32, data: ctypes._Pointer[c_ubyte]) -> bytes:
        taken = bytes(data[: size.value])
        self._call("Tspi_Context_FreeMemory", self._context, data)
        return taken

    def close(self) -> None:
        """Let tcsd forget it."""
        self._call("Tspi_Context_Close", self._context)


class _Uuid(ctypes.Structure):
    _fields_ = [("bytes", c_ubyte * 16)]


@dataclass(frozen=True, slots=True)
class TspiKey:
    """A key of the library's."""

    tss: Tspi
    handle: c_uint32
    parent: c_uint32

    def load(self) -> None:
        """Load it."""
        self.tss.load(self.handle, self.parent)

    def sign(self, digest: bytes) -> bytes:
        """Sign a SHA-1 digest."""
        return self.tss.sign(self.handle, digest)

    def modulus(self) -> bytes:
        """Return its modulus, 128 bytes."""
        return self.tss.public_key(self.handle)[-128:]


@contextmanager
def tspi_context(port: int) -> Iterator[Tspi]:
    """Give a context of the tcsd at a port of 127.0.0.1."""
    before = os.environ.get("TSS_TCSD_PORT")
    os.environ["TSS_TCSD_PORT"] = str(port)
    try:
        tss = Tspi()
    finally:
        if before is None:
            del os.environ["TSS_TCSD_PORT"]
        else:
            os.environ["TSS_TCSD_PORT"] = before
    try:
        yield tss
    finally:
        tss.close()
