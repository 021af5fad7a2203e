# SPDX-License-Identifier: Apache-2.0
"""Every stage of TPM_DAA_Join and TPM_DAA_Sign, against the issuer that the tests have.

Modular exponentiations are here what private RSA operations are elsewhere. Their operands are the
chip's secrets, so each stage is watched once: its exponentiations are written down, and are timed
alone afterwards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, cast
from unittest import mock

from bench.ordinals.chip import TimedChip
from bench.ordinals.routine import Power, Routine, Rsa, Work
from tests.unit.tpm12.daa_issuer import JOIN_END, SIGN_END, Host, Joining, Signing, issuer
from tests.unit.tpm12.world import OWNER_AUTH
from tpmcore import tss12
from tpmcore.engine import KeySource
from tpmcore.tpm12 import daa_math

if TYPE_CHECKING:
    from tests.unit.tpm12.world import Chip

_FIRST_KEY: Final = ", first key"
_RSA: Final = {
    "DAA_JOIN stage 1": (Rsa.VERIFY,),
    "DAA_JOIN stage 2": (Rsa.VERIFY,),
    "DAA_JOIN stage 8": (Rsa.DECRYPT,),
}


def routines(keys: KeySource) -> Iterator[Routine]:
    """Give the routines."""
    chip = TimedChip(keys)
    chip.run(
        tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=OWNER_AUTH, random=chip.client_random)
    )
    # What of a test chip a host uses, this one has.
    talker = cast("Chip", chip)

    def join() -> Joining:
        return Joining(talker, issuer())

    host = join()
    works = _watch(host, "DAA_JOIN", JOIN_END)
    blobs = host.done[22], host.done[23], host.done[24]

    def sign() -> Signing:
        return Signing(talker, issuer(), blobs=blobs)

    yield Routine(chip, lambda: _run(join(), JOIN_END), works, heavy=True)
    works = _watch(sign(), "DAA_SIGN", SIGN_END)
    yield Routine(chip, lambda: _run(sign(), SIGN_END), works, heavy=True)


def _run(host: Host, last: int) -> None:
    for stage in range(last + 1):
        _step(host, stage)


def _step(host: Host, stage: int) -> None:
    """Do a stage; the one that comes for each key of the issuer's chain has two names."""
    if isinstance(host, Joining) and stage == 1:
        chip = cast("TimedChip", host.chip)
        chip.variant = _FIRST_KEY
        host.first_key()
        chip.variant = ""
    Host.step(host, stage)


def _watch(host: Host, command: str, last: int) -> dict[str, Work]:
    """Do all stages once, and return what is in each."""
    works = {}
    for stage in range(last + 1):
        powers: list[Power] = []
        with (
            mock.patch.object(daa_math, "power", _noting(daa_math.power, powers)),
            mock.patch.object(daa_math, "has_order", _noting(daa_math.has_order, powers)),
        ):
            _step(host, stage)
        name = f"{command} stage {stage}"
        works[name] = Work(_RSA.get(name, ()), tuple(powers))
    if command == "DAA_JOIN":
        works[f"{command} stage 1{_FIRST_KEY}"] = Work()
    return works


def _noting(
    real: Callable[[int, int, int], object], powers: list[Power]
) -> Callable[[int, int, int], object]:
    def noting(base: int, exponent: int, modulus: int) -> object:
        powers.append(functools.partial(real, base, exponent, modulus))
        return real(base, exponent, modulus)

    return noting
