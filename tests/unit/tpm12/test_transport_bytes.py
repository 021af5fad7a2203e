# SPDX-License-Identifier: Apache-2.0
"""Transport sessions on raw bytes (Part 3, 24): what is hidden, authorized, logged and signed.

Everything here is computed with hashlib and `cryptography` from what went over the wire, and shares
nothing with the engine or the client.
"""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.decrepit.ciphers.modes import OFB
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocol.errors import WireError
from protocol.tpm12.constants import Algorithm, EncScheme, Ordinal, ResourceType, ReturnCode
from tests.unit.tpm12.keychain import (
    NO_AUTH,
    SRK,
    USAGE_AUTH,
    encrypt_oaep,
    make_and_load,
    sha1,
    signing_key,
    srk_modulus,
    storage_key,
    verifies,
)
from tests.unit.tpm12.tunnel import EXCLUSIVE, LOG, open_tunnel, srk_public
from tests.unit.tpm12.world import SRK_AUTH, Chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tpm12.stateformat import decode_permanent, decode_volatile
from tpmcore.tpm12.table import TABLE
from tpmcore.tpm12.transport_log import key_handles
from tpmcore.tss12.transport import HANDLES_IN, HANDLES_OUT

SECRET = b"secret of a transpor"
NONCE_ODD = b"nonce odd of client!"
ANTI_REPLAY = b"nonce-of-the-client!"

KEYS_IN_THE_LOG = {
    # ordinal in hexadecimal: number of key handles that enter the log (1.0 of the reference)
    **dict.fromkeys(
        bytes.fromhex(
            "0c 0e 0f 13 16 17 18 1b 1e 1f 20 21 22 23 24 25 28 2a 3c 3d 3e 41 7a 81 86 b4 d4 f2"
        ),
        1,
    ),
    **dict.fromkeys(bytes.fromhex("32 33"), 2),
}


@pytest.fixture
def chip() -> Chip:
    """A chip with an owner."""
    return make_owned_chip()


def mgf1(seed: bytes, size: int) -> bytes:
    """Return the mask of PKCS#1."""
    blocks = [sha1(seed, i.to_bytes(4, "big")) for i in range(size // 20 + 1)]
    return b"".join(blocks)[:size]


def crypt(mode: str, nonce_even: bytes, direction: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt."""
    nonces = nonce_even + NONCE_ODD + direction
    if mode == "mgf1":
        return bytes(a ^ b for a, b in zip(data, mgf1(nonces + SECRET, len(data)), strict=True))
    start = mgf1(nonces, 16)
    how = modes.CTR(start) if mode == "ctr" else OFB(start)
    cipher = Cipher(algorithms.AES(SECRET[:16]), how).encryptor()
    return cipher.update(data) + cipher.finalize()


SCHEMES = {
    "mgf1": f"{Algorithm.MGF1:08x} {EncScheme.NONE:04x}",
    "ctr": f"{Algorithm.AES128:08x} {EncScheme.SYM_CTR:04x}",
    "ofb": f"{Algorithm.AES128:08x} {EncScheme.SYM_OFB:04x}",
}


def establish(chip: Chip, mode: str, attributes: int) -> tuple[bytes, bytes, bytes, bytes]:
    """Open a session for a storage key that needs no secret.

    Returns: handle, nonce, the parameters of request and response as they are digested.
    """
    key, handle = make_and_load(chip, storage_key(auth_data_usage=NO_AUTH))
    secret = encrypt_oaep(key.pub_key, bytes.fromhex("001d") + SECRET)
    parameters = (
        bytes.fromhex(f"001e {attributes:08x} {SCHEMES[mode]}")
        + len(secret).to_bytes(4, "big")
        + secret
    )
    body = handle.to_bytes(4, "big") + parameters
    head = bytes.fromhex("00c1") + (10 + len(body)).to_bytes(4, "big") + bytes.fromhex("000000e6")
    response = chip.send(head + body)
    assert response[:10].hex() == "00c40000004600000000"
    # transHandle 4, locality 4, currentTicks 32, transNonceEven 20
    assert response[14:18] == bytes(4)
    assert response[18:20].hex() == "0014"
    return response[10:14], response[50:70], parameters, response[14:]


def execute(
    chip: Chip, handle: bytes, nonce_even: bytes, wrapped: bytes, digest_in: bytes
) -> bytes:
    """Send an ExecuteTransport that goes on."""
    size = len(wrapped).to_bytes(4, "big")
    in_param_digest = sha1(bytes.fromhex("000000e7"), size, digest_in)
    mac = hmac.digest(SECRET, in_param_digest + nonce_even + NONCE_ODD + b"\x01", "sha1")
    body = size + wrapped + handle + NONCE_ODD + b"\x01" + mac
    head = bytes.fromhex("00c2") + (10 + len(body)).to_bytes(4, "big") + bytes.fromhex("000000e7")
    return chip.send(head + body)


def check_answer(response: bytes, code: bytes, ordinal: bytes, clear: bytes) -> tuple[bytes, bytes]:
    """Check head and authorization of an answer; return its nonce and digest."""
    assert response[:2].hex() == "00c5"
    assert int.from_bytes(response[2:6], "big") == len(response)
    assert response[6:10] == bytes(4)
    ticks, locality, size = response[10:18], response[18:22], response[22:26]
    nonce_even, flag, mac = response[-41:-21], response[-21:-20], response[-20:]
    assert int.from_bytes(size, "big") == len(response) - 26 - 41
    digest_out = sha1(code, ordinal, clear)
    out = sha1(bytes(4), bytes.fromhex("000000e7"), ticks, locality, size, digest_out)
    assert mac == hmac.digest(SECRET, out + nonce_even + NONCE_ODD + flag, "sha1")
    return nonce_even, digest_out


@pytest.mark.parametrize("mode", ["mgf1", "ctr", "ofb"])
def test_parameters_are_hidden_and_headers_and_handles_are_not(chip: Chip, mode: str) -> None:
    handle, nonce, _, _ = establish(chip, mode, 1)
    # Extend of PCR 5: 00c1 00000022 00000014, then pcrNum and inDigest, hidden.
    clear = bytes.fromhex("00000005") + b"m" * 20
    ordinal = bytes.fromhex("00000014")
    head = bytes.fromhex("00c1 00000022") + ordinal
    digest_in = sha1(ordinal, clear)
    response = execute(chip, handle, nonce, head + crypt(mode, nonce, b"in", clear), digest_in)
    wrapped = response[26:-41]
    assert wrapped[:10].hex() == "00c40000001e00000000"
    new_nonce = response[-41:-21]
    value = crypt(mode, new_nonce, b"out", wrapped[10:])
    assert value == sha1(bytes(20), b"m" * 20)
    nonce, _ = check_answer(response, bytes(4), ordinal, value)
    assert chip.run(tss12.pcr_read(5)) == value

    # A refusal is not hidden: PCRRead of PCR 99.
    clear, ordinal = bytes.fromhex("00000063"), bytes.fromhex("00000015")
    head = bytes.fromhex("00c1 0000000e") + ordinal
    hidden = crypt(mode, nonce, b"in", clear)
    response = execute(chip, handle, nonce, head + hidden, sha1(ordinal, clear))
    assert response[26:-41].hex() == "00c40000000a00000002"
    check_answer(response, bytes.fromhex("00000002"), ordinal, b"")


@pytest.mark.parametrize("mode", ["mgf1", "ctr", "ofb"])
def test_all_of_oiap_and_the_handle_of_a_loaded_key_are_in_the_clear(chip: Chip, mode: str) -> None:
    handle, nonce, _, _ = establish(chip, mode, 1)
    ordinal = bytes.fromhex("0000000a")
    head = bytes.fromhex("00c1 0000000a") + ordinal
    response = execute(chip, handle, nonce, head, sha1(ordinal))
    nonce, _ = check_answer(response, bytes(4), ordinal, b"")
    session = response[36:40]
    assert chip.run(tss12.handles(ResourceType.AUTH)) == [int.from_bytes(session, "big")]


def test_the_log_is_what_was_executed_and_is_signed(chip: Chip) -> None:
    key, signing = make_and_load(chip, signing_key(auth_data_usage=NO_AUTH))
    handle, nonce, asked, answered = establish(chip, "ctr", 3)
    digest = bytes(20)

    def log(*entry: bytes) -> None:
        nonlocal digest
        digest = sha1(digest, *entry)

    e6 = bytes.fromhex("000000e6")
    ticks = answered[4:36]
    log(bytes.fromhex("0010"), sha1(e6, asked), bytes(20))
    log(bytes.fromhex("0011"), ticks, sha1(bytes(4), e6, answered), bytes(4))

    def run(ordinal: bytes, head: bytes, clear: bytes, key_hash: bytes, locality: int) -> None:
        nonlocal nonce
        chip.locality = locality
        chip.ticks.advance(1)
        digest_in = sha1(ordinal, clear)
        size = (10 + len(head) + len(clear)).to_bytes(4, "big")
        wrapped = bytes.fromhex("00c1") + size + ordinal + head + crypt("ctr", nonce, b"in", clear)
        response = execute(chip, handle, nonce, wrapped, digest_in)
        code = response[32:36]
        assert response[18:22] == locality.to_bytes(4, "big")
        open_answer = crypt("ctr", response[-41:-21], b"out", response[36:-41])
        nonce, digest_out = check_answer(response, code, ordinal, open_answer)
        log(bytes.fromhex("0010"), digest_in, key_hash)
        now = bytes.fromhex("0014") + response[10:18] + ticks[10:]
        log(bytes.fromhex("0011"), now, digest_out, locality.to_bytes(4, "big"))

    # PCRRead names no key, GetPubKey one, Sign one, FlushSpecific of a session none.
    store_pub_key = sha1(len(key.pub_key).to_bytes(4, "big"), key.pub_key)
    session = chip.run(tss12.oiap())
    raw_handle = signing.to_bytes(4, "big")
    run(bytes.fromhex("00000015"), b"", bytes(4), bytes(20), 0)
    run(bytes.fromhex("00000021"), raw_handle, b"", sha1(store_pub_key), 2)
    to_sign = bytes.fromhex("00000014") + b"d" * 20
    run(bytes.fromhex("0000003c"), raw_handle, to_sign, sha1(store_pub_key), 0)
    flushed = session.handle.to_bytes(4, "big")
    run(bytes.fromhex("000000ba"), flushed, bytes.fromhex("00000002"), bytes(20), 0)

    # ReleaseTransportSigned: keyHandle, antiReplay; transHandle, nonceOdd, FALSE, HMAC
    e8 = bytes.fromhex("000000e8")
    released = sha1(e8, ANTI_REPLAY)
    mac = hmac.digest(SECRET, released + nonce + NONCE_ODD + b"\x00", "sha1")
    command = bytes.fromhex("00c2 0000004f") + e8 + raw_handle + ANTI_REPLAY
    response = chip.send(command + handle + NONCE_ODD + b"\x00" + mac)
    assert response[6:10] == bytes(4)
    log(bytes.fromhex("0011"), response[14:46], released, bytes(4))
    signature = response[50:-41]
    signed = sha1(b"\x00\x05TRAN" + ANTI_REPLAY + (20).to_bytes(4, "big") + digest)
    assert verifies(key.pub_key, signed, signature)
    nonce_even, flag, mac = response[-41:-21], response[-21:-20], response[-20:]
    assert flag == b"\x00"
    out = sha1(bytes(4), e8, response[10:-41])
    assert mac == hmac.digest(SECRET, out + nonce_even + NONCE_ODD + flag, "sha1")


def test_a_logged_command_must_name_keys_that_are_there(chip: Chip) -> None:
    transport = open_tunnel(chip, LOG)
    transport.keys[0x12345678] = srk_public()
    code = chip.code(tss12.through(transport, tss12.get_pub_key(0x12345678, key_auth=None)))
    assert code == ReturnCode.INVALID_KEYHANDLE
    assert chip.run(tss12.handles(ResourceType.TRANS)) == []


def test_two_keys_are_logged_as_one_digest_over_both(chip: Chip) -> None:
    certifier, certifying = make_and_load(chip, signing_key())
    certified, other = make_and_load(chip, signing_key())
    transport = open_tunnel(chip, LOG)
    transport.keys |= {certifying: certifier.public_key, other: certified.public_key}
    conversation = tss12.certify_key(
        certifying,
        other,
        cert_auth=USAGE_AUTH,
        key_auth=USAGE_AUTH,
        random=chip.client_random,
    )
    chip.run(tss12.through(transport, conversation))
    # The client computes the same log from its own table; the signature shows that they agree.
    chip.run(
        tss12.release_transport_signed(
            transport,
            certifying,
            certifier.public_key,
            anti_replay=ANTI_REPLAY,
            key_auth=USAGE_AUTH,
        )
    )


def test_the_srk_is_a_key_of_the_log(chip: Chip) -> None:
    key, handle = make_and_load(chip, signing_key())
    transport = open_tunnel(chip, LOG)
    srk = chip.engine._tpm.permanent.srk
    assert srk is not None
    assert srk.public.pub_key == srk_modulus()
    transport.keys[SRK] = srk.public.public_key
    seal = tss12.seal(
        SRK,
        parent_auth=SRK_AUTH,
        blob_auth=bytes(20),
        data=b"data",
        pcr_info=None,
        random=chip.client_random,
    )
    chip.run(tss12.through(transport, seal))
    chip.run(
        tss12.release_transport_signed(
            transport, handle, key.public_key, anti_replay=ANTI_REPLAY, key_auth=USAGE_AUTH
        )
    )


def test_engine_and_client_agree_on_what_handles_are() -> None:
    for ordinal, row in TABLE.items():
        assert row.handles_in == HANDLES_IN.get(ordinal, 0), row.ordinal.name
        assert row.handles_out == HANDLES_OUT.get(ordinal, 0), row.ordinal.name


def test_the_log_counts_the_keys_that_the_overview_counts() -> None:
    special = {Ordinal.FLUSH_SPECIFIC, Ordinal.SAVE_CONTEXT, Ordinal.DSAP}
    unwrapped = {Ordinal.ESTABLISH_TRANSPORT, Ordinal.RELEASE_TRANSPORT_SIGNED}
    for ordinal, row in TABLE.items():
        if ordinal in special | unwrapped:
            continue
        expected = KEYS_IN_THE_LOG.get(ordinal, 0)
        assert len(key_handles(row, bytes(64))) == expected, row.ordinal.name


@pytest.mark.parametrize("ordinal", [Ordinal.FLUSH_SPECIFIC, Ordinal.SAVE_CONTEXT])
def test_a_typed_handle_is_a_key_only_with_that_type(ordinal: Ordinal) -> None:
    for kind in (*ResourceType, 0):
        command = bytes(10) + bytes.fromhex("11223344") + int(kind).to_bytes(4, "big") + bytes(16)
        expected = [0x11223344] if kind == ResourceType.KEY else []
        assert key_handles(TABLE[ordinal], command) == expected


def test_a_volatile_state_with_nonsense_about_transport_sessions_is_refused(chip: Chip) -> None:
    transport = open_tunnel(chip, EXCLUSIVE)
    state = chip.engine.volatile_state()
    permanent = decode_permanent(chip.durable)
    raw = transport.channel.handle.to_bytes(4, "big")
    # Section 9: u32 exclusive handle, u16 number, records of 76 bytes.
    at = state.index(bytes.fromhex("0009 00000052") + raw)
    assert (
        decode_volatile(state, permanent, 0).stany.transport_exclusive == transport.channel.handle
    )
    for changed in (
        state[: at + 6] + b"\xee" + state[at + 7 :],
        state[: at + 11] + b"\x02" + state[at + 12 :],
        state[: at + 5] + b"\x51" + state[at + 6 : at + 6 + 0x51],
    ):
        with pytest.raises(WireError):
            decode_volatile(changed, permanent, 0)
    assert hashlib.sha1(transport.auth_data).hexdigest() not in repr(chip.engine._tpm.stany)
    assert repr(transport.auth_data) not in repr(chip.engine._tpm.stany.transports)
