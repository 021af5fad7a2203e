# SPDX-License-Identifier: Apache-2.0
"""The Privacy CA in a folder: what it certifies, what it refuses, and what it never does twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding

from daemons.runtime.errors import DaemonError
from daemons.runtime.secret import Secret
from daemons.vtpmctl.authority import Authority
from daemons.vtpmctl.certfiles import read_certificates
from daemons.vtpmctl.cli import main
from daemons.vtpmctl.exchanges import IdentityFile
from protocol.attestation.certificates import TpmModel, vtpm_of
from protocol.attestation.identity import authority_key, chosen_id_hash, identity_key
from protocol.tpm12.attestation import IdentityContents
from protocol.tpm12.constants import Ordinal
from protocol.tpm12.keys import PubKey
from tests.unit.attestation.signer import (
    AIK_KEY,
    CA_KEY,
    EK_KEY,
    EK_OID,
    OTHER_KEY,
    VTPM,
    certificate,
    der,
    modulus,
    pubkey,
)

MODEL = TpmModel("id:5654504D", "vTPM suite", "id:01020000")
EK = PubKey.decode(pubkey(EK_KEY))


def identity(
    label: str = "web", digest: bytes | None = None, key: RSAPrivateKey = AIK_KEY
) -> IdentityFile:
    """Return what a TPM says of an identity key."""
    aik = identity_key(modulus(AIK_KEY))
    digest = chosen_id_hash(label, None) if digest is None else digest
    contents = IdentityContents(Ordinal.MAKE_IDENTITY, digest, aik).encode()
    binding = key.sign(contents, PKCS1v15(), SHA1())
    return IdentityFile(None, label, digest, aik, binding, EK, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give the folder of a CA."""
    with Authority.create(tmp_path / "ca", "A Privacy CA", 3650):
        pass
    return tmp_path / "ca"


def test_a_ca_keeps_its_key_to_itself(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
    with pytest.raises(DaemonError, match="already"):
        Authority.create(folder, "Another", 1)
    with pytest.raises(DaemonError, match="no CA"):
        Authority.open(folder / "nothing")
    assert not (folder / "nothing").exists()
    with Authority.open(folder), pytest.raises(DaemonError):
        Authority.open(folder)


def test_a_key_with_a_passphrase_opens_with_it_alone(tmp_path: Path) -> None:
    with Authority.create(tmp_path / "ca", "A CA", 10, Secret(b"secret words")):
        pass
    assert b"ENCRYPTED" in (tmp_path / "ca/ca.key").read_bytes()
    for wrong in (None, Secret(b"other words")):
        with pytest.raises(DaemonError, match="cannot be read"):
            Authority.open(tmp_path / "ca", wrong)
    with Authority.open(tmp_path / "ca", Secret(b"secret words")):
        pass


def test_no_serial_number_is_given_twice(folder: Path) -> None:
    with Authority.open(folder) as authority:
        serials = [authority.certificate.serial_number]
        serials += [authority.certify_ek(EK, MODEL, None, 1).serial_number for _ in range(2)]
    with Authority.open(folder) as authority:
        serials.append(authority.certify_ek(EK, MODEL, VTPM, 1).serial_number)
    assert serials == [1, 2, 3, 4]
    (kept,) = read_certificates(folder / "4.crt")
    assert vtpm_of(kept) == VTPM
    # a folder that has lost count certifies nothing more
    (folder / "serial").write_text("many")
    with Authority.open(folder) as authority, pytest.raises(DaemonError, match="no number"):
        authority.certify_ek(EK, MODEL, None, 1)


def test_a_certificate_does_not_outlast_the_ca(tmp_path: Path) -> None:
    with Authority.create(tmp_path / "ca", "A CA", 10) as authority:
        found = authority.certify_ek(EK, MODEL, None, 3650)
        assert found.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_an_identity_is_certified_if_binding_label_and_ek_are_right(folder: Path) -> None:
    with Authority.open(folder) as authority:
        ek = authority.certify_ek(EK, MODEL, VTPM, 10)
        chain = [ek.public_bytes(Encoding.DER)]

        def certify(asked: IdentityFile, chain: list[bytes]) -> int:
            return authority.certify_aik(asked, chain, [], 10, anonymous=False).serial

        serial = certify(identity(), chain)
        own = authority_key(authority.certificate.public_key())  # type: ignore[arg-type]  # RSA
        serial = certify(identity(digest=chosen_id_hash("web", own)), chain)
        other_ca = chosen_id_hash("web", authority_key(CA_KEY.public_key()))
        other_ek = replace(identity(), ek=PubKey.decode(pubkey(OTHER_KEY)))
        foreign = [der(certificate(EK_KEY, EK_OID, by=CA_KEY))]
        aik = authority.certify_ek(identity_key(modulus(AIK_KEY)), MODEL, None, 10)
        before = aik.serial_number
        for asked, ek_chain in (
            (identity(key=OTHER_KEY), chain),
            (identity(digest=other_ca), chain),
            (replace(identity(), label="other"), chain),
            (other_ek, chain),
            (identity(), foreign),
            (identity(), []),
            (identity(), [b"no certificate"]),
        ):
            with pytest.raises(DaemonError, match="not certified"):
                certify(asked, ek_chain)
        # what is refused costs no number
        assert certify(identity(), chain) == before + 1
        assert serial < before


def test_the_certificate_of_a_vtpms_identity_says_so_even_when_it_names_none(folder: Path) -> None:
    with Authority.open(folder) as authority:
        chain = [authority.certify_ek(EK, MODEL, VTPM, 10).public_bytes(Encoding.DER)]
        for anonymous, expected in ((False, VTPM.int), (True, 0)):
            made = authority.certify_aik(identity(), chain, [], 10, anonymous=anonymous)
            (leaf,) = read_certificates(folder / f"{made.serial}.crt")
            found = vtpm_of(leaf)
            assert found is not None
            assert found.int == expected
            # the certificate is for its TPM alone
            assert leaf.public_bytes(Encoding.DER) not in made.attestation


def test_an_ek_of_another_authority_is_taken_if_that_is_trusted(folder: Path) -> None:
    # valid whenever this test runs
    since = datetime(2020, 1, 1, tzinfo=UTC)
    maker = certificate(CA_KEY, None, is_ca=True, days=36500, start=since)
    chain = [der(certificate(EK_KEY, EK_OID, days=36000, start=since))]
    with Authority.open(folder) as authority:
        with pytest.raises(DaemonError, match="not certified"):
            authority.certify_aik(identity(), chain, [], 10, anonymous=False)
        assert authority.certify_aik(identity(), chain, [maker], 10, anonymous=False).blob


@pytest.mark.parametrize(
    "options",
    [
        ("--ek", "ek.pub"),
        ("--ek", "ek.pub", "--hardware", "--vtpm", str(VTPM)),
        ("--ek-proof", "ek.pub", "--hardware"),
        ("--hardware",),
        ("--ek", "ek.pub", "--ek-proof", "ek.pub", "--vtpm", str(VTPM)),
    ],
)
def test_nobody_certifies_an_ek_without_saying_what_it_is_of(
    folder: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "ek.pub").write_bytes(EK.encode())
    words = [str(tmp_path / word) if word == "ek.pub" else word for word in options]
    out = tmp_path / "ek.crt"
    arguments = ["ca", "certify-ek", "--dir", str(folder), "--out", str(out), *words]
    assert CliRunner().invoke(main, arguments).exit_code == 2
    assert not out.exists()
    right = ["--ek", str(tmp_path / "ek.pub"), "--vtpm", str(VTPM)]
    done = CliRunner().invoke(main, [*arguments[:6], *right])
    assert done.exit_code == 0, done.output
    assert x509.load_pem_x509_certificate(out.read_bytes()).serial_number == 2
