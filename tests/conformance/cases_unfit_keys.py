# SPDX-License-Identifier: Apache-2.0
"""Keys that are neither made nor loaded: unfit, unparsed, forged (Part 3, 10.4 and 10.5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import (
    KeyUsage,
    Ordinal,
    ReturnCode,
)
from protocol.tpm12.keys import Key, KeyParms, RsaKeyParms
from protocol.tpm12.pcr import PcrInfo
from protocol.tpm12.wire import SIZED, U32
from tests.conformance.cases_keys import create_key
from tests.conformance.machines import World
from tests.conformance.script import (
    AT_RESET,
    KEYS,
    PCR_16,
    SRK,
    USAGE_AUTH,
    Chapter,
    Script,
    release_info,
)
from tests.unit.tpm12.keychain import craft_key
from tests.unit.tpm12.world import SRK_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED


_PROPERTIES: Final[Mapping[KeyUsage, tuple[set[int], set[int]]]] = {
    KeyUsage.SIGNING: ({1}, {2, 3, 4}),
    KeyUsage.STORAGE: ({3}, {1}),
    KeyUsage.IDENTITY: ({1}, {2}),
    KeyUsage.AUTHCHANGE: ({3}, {1}),
    KeyUsage.BIND: ({2, 3}, {1}),
    KeyUsage.LEGACY: ({2, 3}, {2, 3}),
    KeyUsage.MIGRATE: ({3}, {1}),
}
"""Encryption and signature schemes by usage: the table of key properties."""

_STRONG: Final = frozenset({KeyUsage.STORAGE, KeyUsage.IDENTITY, KeyUsage.MIGRATE})
"""Usages that ask for 2048 bits and the exponent 65537."""


def _unfit_keys() -> Iterator[Key]:
    """Give keys that no table allows: each usage with every other scheme, length and exponent."""
    for usage, (enc_schemes, sig_schemes) in _PROPERTIES.items():
        fit = KeyParms.for_rsa(enc_scheme=max(enc_schemes), sig_scheme=min(sig_schemes))
        template = Key(False, usage, 0, 1, fit)

        def unfit(parms: KeyParms, template: Key = template) -> Key:
            return replace(template, algorithm_parms=parms)

        for enc in range(7):
            for sig in range(6):
                if enc not in enc_schemes or sig not in sig_schemes:
                    yield unfit(KeyParms.for_rsa(enc_scheme=enc, sig_scheme=sig))
        lengths = (0, 256, 1000, 1025, 2047, 2049, 2064, 4096)
        for bits in (*lengths, 512, 1024, 2032) if usage in _STRONG else lengths:
            yield unfit(replace(fit, parms=RsaKeyParms(bits, 2, b"").encode()))
        exponents = (b"\0", b"\1", b"\2", b"\x0b", b"\1\0\3", b"\1\1\0\1")
        weak = (b"\3", b"\5", b"\7", b"\x11", b"\1\1") if usage in _STRONG else ()
        for exponent in (*exponents, *weak):
            yield unfit(replace(fit, parms=RsaKeyParms(2048, 2, exponent).encode()))
        for primes in (0, 1, 3):
            yield unfit(replace(fit, parms=RsaKeyParms(2048, primes, b"").encode()))
        for algorithm in (6, 8, 9):
            parms = bytes.fromhex("00000080 00000080 00000000")
            yield unfit(replace(fit, algorithm_id=algorithm, parms=parms))
    for number in (0, 0x0F, 0x17, 0x1010):
        yield replace(KEYS["sign"], key_usage=number)


@case(OWNED, Ordinal.CREATE_WRAP_KEY)
def keys_of_no_allowed_property_cannot_be_made(tpm: Script) -> None:
    for template in _unfit_keys():
        create_key(tpm, template, RC.BAD_KEY_PROPERTY)


@case(OWNED, Ordinal.LOAD_KEY2)
def keys_of_no_allowed_property_cannot_be_loaded(tpm: Script) -> None:
    data = tpm.wrapped("sign").enc_data
    for template in _unfit_keys():
        key = replace(template, pub_key=bytes(128), enc_data=data)
        tpm.call(Ordinal.LOAD_KEY2, SRK, key, auth=[tpm.oiap(SRK_AUTH)], code=RC.BAD_KEY_PROPERTY)


def unparsed_keys() -> Iterator[tuple[bytes, ReturnCode]]:
    """Give keys that do not parse, with the code of what is wrong."""
    old, new = KEYS["sign"].encode(), KEYS["sign-bound"].encode()
    info = release_info().encode()
    yield b"\1\2" + old[2:], RC.BAD_VERSION
    yield b"\0\x27" + new[2:], RC.BAD_KEY_PROPERTY
    yield new[:2] + b"\0\1" + new[4:], RC.BAD_KEY_PROPERTY
    for flags in (0x20, 0x80000000):
        yield old[:6] + flags.to_bytes(4, "big") + old[10:], RC.BAD_KEY_PROPERTY
    yield old[:11] + b"\0\0\0\x0b" + old[15:], RC.BAD_KEY_PROPERTY
    for bad, code in (
        (b"\0\7" + info[2:], RC.INVALID_STRUCTURE),
        (info[:2] + b"\0" + info[3:], RC.INVALID_STRUCTURE),
        (info[:3] + b"\x20" + info[4:], RC.INVALID_STRUCTURE),
        (info[:4] + b"\0\4" + bytes(4) + info[9:], RC.INVALID_PCR_INFO),
        (info[:-1], RC.BAD_PARAM_SIZE),
    ):
        yield new[:35] + SIZED.write(bad) + new[39 + len(info) :], code
    yield old[:35] + SIZED.write(b"\0\4" + bytes(44)) + old[39:], RC.INVALID_PCR_INFO


@case(OWNED, Ordinal.CREATE_WRAP_KEY, Ordinal.LOAD_KEY2)
def keys_that_do_not_parse(tpm: Script) -> None:
    for key, code in unparsed_keys():
        body = U32.write(SRK) + bytes(40) + key
        tpm.call(Ordinal.CREATE_WRAP_KEY, body=body, auth=[tpm.osap_key()], code=code)
        body = U32.write(SRK) + key
        tpm.call(Ordinal.LOAD_KEY2, body=body, auth=[tpm.oiap(SRK_AUTH)], code=code)


@case(OWNED, Ordinal.CREATE_WRAP_KEY, Ordinal.LOAD_KEY2)
def keys_with_bytes_behind_their_pcr_info(tpm: Script) -> None:
    info = PcrInfo(PCR_16, AT_RESET, bytes(20)).encode() + b"\0"
    old = KEYS["sign"].encode()
    key = old[:35] + SIZED.write(info) + old[39:]
    body = U32.write(SRK) + bytes(40) + key
    auth = [tpm.osap_key()]
    tpm.call(Ordinal.CREATE_WRAP_KEY, body=body, auth=auth, code=RC.BAD_PARAM_SIZE)
    auth = [tpm.oiap(SRK_AUTH)]
    tpm.call(Ordinal.LOAD_KEY2, body=U32.write(SRK) + key, auth=auth, code=RC.BAD_PARAM_SIZE)


@case(OWNED, Ordinal.LOAD_KEY2)
def loading_keys_that_were_made_outside(tpm: Script) -> None:
    srk = tpm.public().key
    migratable = KEYS["sign-migratable"]

    def load(template: Key, code: ReturnCode, **wrong: object) -> None:
        key = craft_key(template, parent=srk, **wrong)  # type: ignore[arg-type]
        tpm.call(Ordinal.LOAD_KEY2, SRK, key, auth=[tpm.oiap(SRK_AUTH)], code=code)

    load(migratable, RC.SUCCESS)
    for payload in (6, 7):
        load(migratable, RC.SUCCESS, payload=payload)
    for payload in (0, 2, 3, 4, 5, 8, 9, 0x80):
        load(migratable, RC.INVALID_STRUCTURE, payload=payload)
    load(migratable, RC.BAD_PARAM_SIZE, cut=60)
    load(migratable, RC.BAD_PARAM_SIZE, cut=64)
    load(migratable, RC.BAD_PARAMETER, prime=b"\xc1" * 64)
    load(migratable, RC.AUTHFAIL, digest=bytes(20))
    load(replace(migratable, key_flags=0), RC.INVALID_KEYUSAGE)
    identity = replace(tss12.identity_template(), key_flags=2)
    load(identity, RC.INVALID_KEYUSAGE)
    parms = KeyParms.for_rsa(enc_scheme=3, bits=512)
    change = replace(migratable, key_usage=KeyUsage.AUTHCHANGE, algorithm_parms=parms)
    load(change, RC.INVALID_KEYUSAGE)
    blob = tpm.run(
        tss12.seal(
            SRK,
            parent_auth=SRK_AUTH,
            blob_auth=USAGE_AUTH,
            data=bytes(64),
            pcr_info=None,
            random=tpm.random,
        )
    )
    key = replace(tpm.wrapped("sign"), enc_data=blob.enc_data)
    auth = [tpm.oiap(SRK_AUTH)]
    tpm.call(Ordinal.LOAD_KEY2, SRK, key, auth=auth, code=RC.INVALID_STRUCTURE)


@case(OWNED, Ordinal.LOAD_KEY2)
def keys_that_were_made_outside_with_two_faults(tpm: Script) -> None:
    srk, migratable = tpm.public().key, KEYS["sign-migratable"]
    identity = replace(tss12.identity_template(), key_flags=2)
    wrong_prime, no_digest = b"\xc1" * 64, bytes(20)
    for key, code in (
        (craft_key(migratable, parent=srk, payload=2, prime=wrong_prime), RC.INVALID_STRUCTURE),
        (craft_key(migratable, parent=srk, prime=wrong_prime, digest=no_digest), RC.BAD_PARAMETER),
        (craft_key(identity, parent=srk, digest=no_digest), RC.AUTHFAIL),
        (craft_key(replace(migratable, key_flags=0), parent=srk, digest=no_digest), RC.AUTHFAIL),
    ):
        tpm.call(Ordinal.LOAD_KEY2, SRK, key, auth=[tpm.oiap(SRK_AUTH)], code=code)
