# SPDX-License-Identifier: Apache-2.0
"""What a maker does to a TPM: each step looks at what is there, and nothing is replaced unasked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from daemons.runtime.errors import DaemonError
from daemons.runtime.secret import Secret
from daemons.vtpmctl.authority import Authority
from daemons.vtpmctl.manufacture import Plan, Result, manufacture
from daemons.vtpmctl.tpmstream import GuestTpm
from protocol.attestation.certificates import (
    EK_USAGE,
    PLATFORM_USAGE,
    PlatformModel,
    TpmModel,
    check_chain,
    modulus_of,
    vtpm_of,
)
from protocol.errors import WireError
from protocol.tpm12.constants import NvAttributes
from protocol.tpm12.keys import PubKey
from protocol.tpm12.storedcert import (
    EK_CERT_INDEX,
    PLATFORM_CERT_INDEX,
    decode_stored_cert,
    encode_stored_cert,
)
from tests.unit.attestation.signer import OTHER_KEY, VTPM, pubkey
from tests.unit.tpm12.world import Chip, SeededRandom, make_chip
from tpmcore import tss12
from tpmcore.tpm12.world import Profile

OWNER = Secret(b"o" * 20)
SRK = Secret(bytes(20))
MODEL = TpmModel("id:5654504D", "vTPM suite", "id:01020000")
PLATFORM = PlatformModel("A maker", "A board", "2")
PERMISSION = NvAttributes.OWNERREAD | NvAttributes.OWNERWRITE
OTHER = PubKey.decode(pubkey(OTHER_KEY))


class ChipTpm(GuestTpm):
    """A chip in this process behind the connection."""

    def __init__(self, chip: Chip) -> None:
        self._chip = chip
        self._path = Path("chip")

    async def _transact(self, command: bytes) -> bytes:
        return self._chip.send(command)


@pytest.fixture
def chip() -> Chip:
    """A chip without endorsement key, whose NV memory is open."""
    found = make_chip(Profile(make_ek=False))
    found.assert_presence()
    return found


@pytest.fixture
def ca(tmp_path: Path) -> Iterator[Authority]:
    """A CA."""
    with Authority.create(tmp_path / "ca", "A CA", 3650) as found:
        yield found


def plan(
    ca: Authority, *, owner: bool = False, locks: bool = False, overwrites: bool = False
) -> Plan:
    """Return a plan with both certificates."""
    return Plan(
        ek_cert=lambda ek: ca.certify_ek(ek, MODEL, VTPM, 365),
        platform_cert=lambda ek: ca.certify_platform(ek, MODEL, PLATFORM, VTPM, 365),
        takes_ownership=owner,
        owner_auth=OWNER,
        srk_auth=SRK,
        locks=locks,
        overwrites=overwrites,
    )


async def make(chip: Chip, wanted: Plan) -> Result:
    """Manufacture the chip."""
    return await manufacture(ChipTpm(chip), wanted, SeededRandom("maker"))


def stored(chip: Chip, index: int) -> x509.Certificate:
    """Return the certificate in an NV area, read without authorization."""
    size = chip.run(tss12.nv_public(index)).data_size
    data = b"".join(
        [
            chip.run(tss12.nv_read_value(index, min(512, size - offset), offset=offset))
            for offset in range(0, size, 512)
        ]
    )
    return x509.load_der_x509_certificate(decode_stored_cert(data))


async def test_a_new_tpm_gets_everything_and_a_second_run_changes_nothing(
    chip: Chip, ca: Authority
) -> None:
    wanted = plan(ca, owner=True, locks=True)
    result = await make(chip, wanted)
    assert result.done == [
        "endorsement key",
        "EK certificate at 0x1000f000",
        "platform certificate at 0x1000f002",
        "owner",
        "lock of the NV memory",
    ]
    before = chip.durable
    again = await make(chip, wanted)
    assert again.done == []
    assert again.kept == result.done
    assert again.ek == result.ek
    # Of the owner's proofs only the nonces stay, which are volatile.
    assert chip.durable == before
    flags = chip.run(tss12.permanent_flags())
    assert flags.nv_locked
    assert chip.run(tss12.is_owned())


async def test_the_certificates_say_whose_they_are_and_who_issued_them(
    chip: Chip, ca: Authority
) -> None:
    await make(chip, plan(ca))
    for index, usage in ((EK_CERT_INDEX, EK_USAGE), (PLATFORM_CERT_INDEX, PLATFORM_USAGE)):
        public = chip.run(tss12.nv_public(index))
        assert public.permission.attributes == PERMISSION
        found = stored(chip, index)
        encoded = found.public_bytes(Encoding.DER)
        assert check_chain([encoded], [ca.certificate], usage, datetime.now(UTC)) == found
        assert vtpm_of(found) == VTPM
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (about,) = names.get_values_for_type(x509.DirectoryName)
    said = [(each.oid.dotted_string, each.value) for each in about]
    assert said[3:] == [
        ("2.23.133.5.1.1", "A maker"),
        ("2.23.133.5.1.4", "A board"),
        ("2.23.133.5.1.5", "2"),
    ]


async def test_a_run_that_was_interrupted_is_finished_by_the_next(
    chip: Chip, ca: Authority
) -> None:
    await make(chip, replace(plan(ca), ek_cert=None, platform_cert=None))
    # Defined and never written: what a crash in between leaves.
    chip.run(tss12.nv_define_space(EK_CERT_INDEX, 700, PERMISSION))
    result = await make(chip, plan(ca))
    assert "EK certificate at 0x1000f000" in result.done
    assert modulus_of(stored(chip, EK_CERT_INDEX)) == result.ek.key


async def test_what_a_locked_tpm_cannot_have_any_more_is_said(chip: Chip, ca: Authority) -> None:
    chip.run(tss12.nv_lock())
    with pytest.raises(DaemonError, match="the NV memory is locked: 0x1000f000 cannot be made"):
        await make(chip, plan(ca))
    assert EK_CERT_INDEX not in chip.run(tss12.nv_list())


async def test_an_owner_with_another_secret_is_left_alone(chip: Chip, ca: Authority) -> None:
    await make(chip, plan(ca, owner=True))
    before = chip.durable
    wanted = replace(plan(ca, owner=True), owner_auth=Secret(b"x" * 20))
    with pytest.raises(DaemonError, match="has an owner already, with another secret"):
        await make(chip, wanted)
    assert chip.run(tss12.is_owned())
    assert len(chip.durable) == len(before)


async def test_the_certificate_of_another_key_is_replaced_only_if_asked(
    chip: Chip, ca: Authority
) -> None:
    other = ca.certify_ek(OTHER, MODEL, None, 365)
    data = encode_stored_cert(other.public_bytes(Encoding.DER))
    chip.run(tss12.nv_define_space(EK_CERT_INDEX, len(data), PERMISSION))
    chip.run(tss12.nv_write_value(EK_CERT_INDEX, data))
    with pytest.raises(DaemonError, match="it is of another key"):
        await make(chip, plan(ca))
    assert stored(chip, EK_CERT_INDEX) == other
    await make(chip, plan(ca, overwrites=True))
    assert stored(chip, EK_CERT_INDEX) != other


async def test_a_disabled_tpm_is_left_alone(chip: Chip, ca: Authority) -> None:
    chip.run(tss12.physical_disable())
    before = chip.durable
    with pytest.raises(DaemonError, match="disabled or deactivated"):
        await make(chip, plan(ca))
    assert chip.durable == before


def test_a_stored_certificate_has_the_header_of_the_pc_client_specification() -> None:
    assert encode_stored_cert(b"DER") == bytes.fromhex("1001 00 0005 1002") + b"DER"
    # An area may be longer than what is in it.
    assert decode_stored_cert(encode_stored_cert(b"DER") + b"\xff\xff") == b"DER"
    for bad in (
        "",
        "1001 00 0005 1002 4445",  # cut off
        "1002 00 0005 1002 444552",  # another tag
        "1001 01 0005 1002 444552",  # not a whole certificate
        "1001 00 0005 1003 444552",  # another tag inside
        "1001 00 0001 1002 444552",  # shorter than its own tag
    ):
        with pytest.raises(WireError):
            decode_stored_cert(bytes.fromhex(bad))
    with pytest.raises(ValueError, match="65534 bytes"):
        encode_stored_cert(bytes(65534))
