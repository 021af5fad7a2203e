# SPDX-License-Identifier: Apache-2.0
"""A System Approval Agent: who decides which configurations and labels a group may have.

It has an RSA-2048 key, needs no TPM and no network, and works on the files of `exchanges`. What it
has to keep to itself, the group keys in escrow and its side of an exchange that is under way, is
encrypted under a key that is derived from its RSA key: whoever can sign for the agent can read
them, nobody else.

    AES-256-GCM, key = HKDF-SHA256(p || q of the RSA key, salt, "vtpm agent " || kind)
    additional data = kind || 00 || group uuid || SHA-1 of the agent's modulus
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Final, Self, TypeVar
from uuid import UUID

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from daemons.runtime.errors import DaemonError
from daemons.runtime.secret import Secret
from daemons.vtpmctl.documents import UUID_TEXT, Document, data, read_file, write_file
from daemons.vtpmctl.exchanges import (
    Challenge,
    IdentityFile,
    RecoveryAnswer,
    RecoveryRequest,
    Registered,
    Registration,
    SignedList,
)
from daemons.vtpmctl.pcrs import Configuration, show_selection
from protocol.attestation import identity as identities
from protocol.manager import quotes
from protocol.manager.approval import EXPONENT, config_message, is_agent_modulus
from protocol.manager.constants import QuoteFlags
from protocol.manager.exchange import BadExchange, Exchange
from protocol.manager.management import EXCHANGE_BYTES, MODULUS_BYTES, ConfigList
from protocol.manager.moving import MoveApproval
from protocol.manager.signatures import is_quote
from protocol.tpm12.attestation import AsymCaContents, SymmetricKey
from protocol.tpm12.constants import Algorithm, EncScheme
from protocol.tpm12.keys import PubKey
from protocol.tpm12.pcr import PcrSelection

_SALT_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_PRIME_BYTES: Final = MODULUS_BYTES // 2
_CREDENTIAL_BYTES: Final = 16
_DIGEST_BYTES: Final = 20


# --- what only the agent reads -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sealed(Document):
    """What an agent keeps to itself about a group.

    Attributes:
        group: that it is about.
        agent: SHA-1 of the agent's modulus.
        salt: of the key's derivation.
        nonce: of AES-GCM.
        sealed: ciphertext and tag.
    """

    KIND: ClassVar[str] = ""
    group: Annotated[UUID, UUID_TEXT]
    agent: Annotated[bytes, data(_DIGEST_BYTES)]
    salt: Annotated[bytes, data(_SALT_BYTES)]
    nonce: Annotated[bytes, data(_NONCE_BYTES)]
    sealed: Annotated[bytes, data()]


class PendingRegistration(Sealed):
    """The secret of an exchange that a registration has begun."""

    __slots__ = ()
    KIND: ClassVar[str] = "vtpm-pending-registration"


class PendingRecovery(Sealed):
    """What a challenge has been made with."""

    __slots__ = ()
    KIND: ClassVar[str] = "vtpm-pending-recovery"


class Escrow(Sealed):
    """The key of a group."""

    __slots__ = ()
    KIND: ClassVar[str] = "vtpm-escrow"


_S = TypeVar("_S", bound=Sealed)


# --- keys ----------------------------------------------------------------------------------------


def agent_digest(modulus: bytes) -> bytes:
    """Return the hash by which an agent is named, as Xen does: SHA-1 of its modulus, 20 bytes."""
    return hashlib.sha1(modulus).digest()


def read_agent_pub(path: Path) -> bytes:
    """Return the modulus of an agent's public key, 256 bytes, from a PEM file.

    Raises:
        DaemonError: it is no RSA key of 2048 bits with exponent 65537.
    """
    try:
        key = serialization.load_pem_public_key(read_file(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DaemonError(f"{path}: no public key in PEM") from error
    return _modulus(path, key)


def _modulus(path: Path, key: object) -> bytes:
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        if numbers.e == EXPONENT and key.key_size == 8 * MODULUS_BYTES:
            modulus = numbers.n.to_bytes(MODULUS_BYTES, "big")
            if is_agent_modulus(modulus):
                return modulus
    raise DaemonError(f"{path}: not an RSA key of 2048 bits with exponent {EXPONENT}")


class KeyIsEncrypted(DaemonError):
    """The key's file takes a passphrase."""


class Agent:
    """Who signs, with his key in memory."""

    def __init__(self, key: rsa.RSAPrivateKey, modulus: bytes) -> None:
        self._key = key
        self.modulus = modulus
        """256 bytes."""

    def __repr__(self) -> str:
        return f"Agent({agent_digest(self.modulus).hex()})"

    @classmethod
    def generate(cls, path: Path, passphrase: Secret | None) -> Self:
        """Make a key and its file: PKCS#8 in PEM, encrypted if there is a passphrase."""
        key = rsa.generate_private_key(EXPONENT, 8 * MODULUS_BYTES)
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            encryption = serialization.BestAvailableEncryption(bytes(passphrase))
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
        write_file(path, pem)
        return cls(key, _modulus(path, key.public_key()))

    @classmethod
    def load(cls, path: Path, passphrase: Secret | None) -> Self:
        """Read a key's file.

        Raises:
            KeyIsEncrypted: it takes a passphrase, and none was given.
            DaemonError: the passphrase is wrong, or it is no such key.
        """
        pem = read_file(path)
        try:
            key = serialization.load_pem_private_key(
                pem, None if passphrase is None else bytes(passphrase)
            )
        except TypeError as error:
            if passphrase is None:
                raise KeyIsEncrypted(f"{path}: the key takes --passphrase") from error
            raise DaemonError(f"{path}: the key takes no passphrase") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise DaemonError(f"{path}: no private key in PEM, or a wrong passphrase") from error
        if not isinstance(key, rsa.RSAPrivateKey):
            raise DaemonError(f"{path}: not an RSA key")
        return cls(key, _modulus(path, key.public_key()))

    @property
    def public_pem(self) -> str:
        """The public key, SubjectPublicKeyInfo in PEM."""
        pem = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return pem.decode()

    # --- lists -------------------------------------------------------------------------------

    def sign_list(
        self,
        group: UUID,
        sequence: int,
        configurations: Sequence[Configuration],
        labels: Sequence[str],
        kernels: Sequence[bytes],
    ) -> SignedList:
        """Approve configurations and labels for a group.

        Args:
            sequence: above that of every earlier list of the group.
            labels: of vTPMs; `*:` at the beginning stands for any user.
            kernels: hashes of further labels, 20 bytes each.
        """
        hashed = (*(hashlib.sha1(label.encode()).digest() for label in labels), *kernels)
        composites = tuple(composite for _, composite in configurations)
        selections = tuple(selection for selection, _ in configurations)
        message = config_message(group, ConfigList(sequence, composites, hashed), selections)
        signature = self._key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return SignedList(group, sequence, tuple(configurations), hashed, tuple(labels), signature)

    def approve_move(self, approval: MoveApproval) -> MoveApproval:
        """Sign an approval of a move."""
        signature = self._key.sign(approval.message, padding.PKCS1v15(), hashes.SHA256())
        return replace(approval, signature=signature)

    # --- registration ------------------------------------------------------------------------

    def begin_registration(
        self, group: UUID, pcrs: PcrSelection
    ) -> tuple[Registration, PendingRegistration]:
        """Return the request to a group, and what `finish_registration` needs."""
        secret = os.urandom(EXCHANGE_BYTES)
        exchange = Exchange(secret)
        proof = self._key.sign(exchange.public, padding.PKCS1v15(), hashes.SHA1())
        kept = {"secret": secret.hex(), "pcrs": show_selection(pcrs)}
        request = Registration(group, pcrs, exchange.public, proof)
        return request, self._seal(PendingRegistration, group, kept)

    def finish_registration(
        self,
        pending: PendingRegistration,
        answer: Registered,
        aik: PubKey,
        expected: Configuration,
    ) -> Escrow:
        """Return the group's key in escrow, if the quote says that this platform made it.

        Args:
            aik: of the group, certified by whom the agent trusts.
            expected: PCRs that the request named, and their composite.

        Raises:
            DaemonError: answer and request do not belong together, or the quote does not verify.
        """
        kept = self._open(pending)
        if answer.group != pending.group:
            raise DaemonError(f"the answer is of group {answer.group}, not of {pending.group}")
        selection, composite = expected
        if show_selection(selection) != kept["pcrs"]:
            raise DaemonError(f"values are needed for the PCRs of the request, {kept['pcrs']}")
        exchange = Exchange(bytes.fromhex(kept["secret"]))
        told = quotes.registration_data(exchange.public, answer.exchange, answer.recover_blob)
        external = quotes.external_data(QuoteFlags(0), told, ())
        check_quote(aik, answer.signature, composite, external)
        key = _unmask(exchange, answer.exchange, answer.recover_blob)
        return self._seal(Escrow, pending.group, {"key": key.hex()})

    # --- recovery ----------------------------------------------------------------------------

    def begin_recovery(
        self, group: UUID, identity: IdentityFile, ek: PubKey, pcrs: PcrSelection
    ) -> tuple[Challenge, PendingRecovery]:
        """Return the challenge to a manager, and what `recover` needs.

        Args:
            identity: that the manager has made for this.
            ek: of the machine's TPM, noted when it was trusted.

        Raises:
            DaemonError: the identity is none of that TPM, or did not sign its own binding.
        """
        check_binding(identity)
        if identity.ek.key != ek.key:
            raise DaemonError("the identity says that it is of another TPM than --ek")
        # With it comes the whole engine, whose import most commands of vtpmctl need not wait for.
        from tpmcore import tss12

        credential = os.urandom(_CREDENTIAL_BYTES)
        symmetric = SymmetricKey(Algorithm.AES128, EncScheme.NONE, credential)
        contents = AsymCaContents(symmetric, identity.aik.digest())
        nonce = os.urandom(_DIGEST_BYTES)
        challenge = Challenge(group, pcrs, nonce, tss12.encrypt_oaep(ek, contents.encode()))
        kept = {
            "credential": credential.hex(),
            "nonce": nonce.hex(),
            "pcrs": show_selection(pcrs),
            "aik": identity.aik.encode().hex(),
        }
        return challenge, self._seal(PendingRecovery, group, kept)

    def recover(
        self,
        pending: PendingRecovery,
        request: RecoveryRequest,
        escrow: Escrow,
        expected: Configuration,
    ) -> RecoveryAnswer:
        """Return the group's key for the manager that asks, if its TPM and its PCRs are right.

        Raises:
            DaemonError: the files do not belong together, the identity is not in the TPM, or the
                quote does not verify.
        """
        kept = self._open(pending)
        for what, group in (("request", request.group), ("escrow", escrow.group)):
            if group != pending.group:
                raise DaemonError(f"the {what} is of group {group}, not of {pending.group}")
        selection, composite = expected
        if show_selection(selection) != kept["pcrs"]:
            raise DaemonError(f"values are needed for the PCRs of the challenge, {kept['pcrs']}")
        if Secret(request.credential) != bytes.fromhex(kept["credential"]):
            raise DaemonError("the credential was not opened: the identity is not in that TPM")
        aik = PubKey.decode(bytes.fromhex(kept["aik"]))
        external = quotes.recovery_external_data(bytes.fromhex(kept["nonce"]), request.exchange)
        check_quote(aik, request.signature, composite, external)
        exchange = Exchange(os.urandom(EXCHANGE_BYTES))
        key = Secret(bytes.fromhex(self._open(escrow)["key"]))
        blob = _unmask(exchange, request.exchange, key)
        return RecoveryAnswer(pending.group, exchange.public, bytes(blob))

    # --- what only the agent reads -----------------------------------------------------------

    def _seal(self, kind: type[_S], group: UUID, kept: dict[str, str]) -> _S:
        salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
        cipher, aad = self._cipher(kind.KIND, salt, group)
        sealed = cipher.encrypt(nonce, json.dumps(kept).encode(), aad)
        return kind(group, agent_digest(self.modulus), salt, nonce, sealed)

    def _open(self, sealed: Sealed) -> dict[str, str]:
        if sealed.agent != agent_digest(self.modulus):
            raise DaemonError(f"a {sealed.KIND} of another agent, {sealed.agent.hex()}")
        cipher, aad = self._cipher(sealed.KIND, sealed.salt, sealed.group)
        try:
            kept: dict[str, str] = json.loads(cipher.decrypt(sealed.nonce, sealed.sealed, aad))
        except InvalidTag as error:
            raise DaemonError(f"the {sealed.KIND} was changed") from error
        return kept

    def _cipher(self, kind: str, salt: bytes, group: UUID) -> tuple[AESGCM, bytes]:
        numbers = self._key.private_numbers()
        primes = sorted((numbers.p, numbers.q))
        secret = b"".join([prime.to_bytes(_PRIME_BYTES, "big") for prime in primes])
        info = b"vtpm agent " + kind.encode()
        key = HKDF(hashes.SHA256(), 32, salt, info).derive(secret)
        aad = kind.encode() + b"\0" + group.bytes + agent_digest(self.modulus)
        return AESGCM(key), aad


# --- checks that need no key ---------------------------------------------------------------------


def check_quote(aik: PubKey, signature: bytes, composite: bytes, external_data: bytes) -> None:
    """Return if an identity key signed PCRs with this composite and this external data.

    Raises:
        DaemonError: it did not.
    """
    if not is_quote(aik.key, signature, composite, external_data):
        raise DaemonError(
            "the quote does not verify: another identity key, other PCR values than expected, or "
            "something was changed on the way"
        )


def check_binding(identity: IdentityFile) -> None:
    """Return if an identity key signed its own binding.

    Raises:
        DaemonError: it did not.
    """
    try:
        identities.check_binding(identity.aik, identity.label_digest, identity.binding)
    except identities.BadIdentity as error:
        raise DaemonError(str(error)) from error


def _unmask(exchange: Exchange, peer: bytes, masked: bytes) -> Secret:
    try:
        return Secret(exchange.mask(peer, masked))
    except BadExchange as error:
        raise DaemonError("the manager's half of the exchange is none") from error
