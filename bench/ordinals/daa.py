# SPDX-License-Identifier: Apache-2.0
"""Every stage of TPM_DAA_Join and TPM_DAA_Sign, against the issuer that the tests have.

Modular exponentiations are here what private RSA operations are elsewhere. Their operands are the
chip's secrets, so each stage is watched once: its exponentiations are written down, and are timed
alone afterwards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, cast
from unittest import mock

from bench.ordinals.chip import TimedChip
from bench.ordinals.routine import Behind, Power, Routine, Rsa, Work
from tests.unit.tpm12.daa_issuer import (
    JOIN_END,
    SIGN_END,
    Joining,
    Signing,
    chain_key,
    issuer,
    public_part,
)
from tests.unit.tpm12.world import OWNER_AUTH
from tpmcore import tss12
from tpmcore.engine import KeySource
from tpmcore.tpm12 import daa_math
from tpmcore.tss12 import Conversation

if TYPE_CHECKING:
    from tests.unit.tpm12.world import Chip

_Command: TypeAlias = Callable[..., Conversation[bytes]]
"""`tss12.daa_join` or `tss12.daa_sign`."""
_RSA: Final = {
    "DAA_JOIN stage 1": (Rsa.VERIFY,),
    "DAA_JOIN stage 2": (Rsa.VERIFY,),
    "DAA_JOIN stage 8": (Rsa.DECRYPT,),
}


@dataclass(frozen=True, slots=True)
class _Stage:
    """What a host sends in a stage.

    Attributes:
        variant: tells apart what is sent more than once with one number.
    """

    number: int
    inputs: tuple[bytes, bytes]
    variant: str = ""


def routines(keys: KeySource) -> Iterator[Routine]:
    """Give the routines."""
    chip = TimedChip(keys)
    chip.run(
        tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=OWNER_AUTH, random=chip.client_random)
    )
    # What of a test chip a host uses, this one has.
    talker = cast("Chip", chip)
    joining = Joining(talker, issuer())
    join = [_Stage(stage, joining.inputs(stage)) for stage in range(JOIN_END + 1)]
    # Stage 1 comes for each key of the issuer's chain, and verifies from the second one on.
    join.insert(1, _Stage(1, (public_part(chain_key(702)), b""), ", first key"))
    works, outputs = _watch(chip, tss12.daa_join, join)
    yield _routine(chip, tss12.daa_join, join, works)
    signing = Signing(talker, issuer(), blobs=(outputs[22], outputs[23], outputs[24]))
    sign = [_Stage(stage, signing.inputs(stage)) for stage in range(SIGN_END + 1)]
    works, _ = _watch(chip, tss12.daa_sign, sign)
    yield _routine(chip, tss12.daa_sign, sign, works)


def _routine(
    chip: TimedChip, command: _Command, stages: Sequence[_Stage], works: Mapping[str, Work]
) -> Routine:
    return Routine(
        chip, lambda: _run(chip, command, stages), works, heavy=True, behind=Behind.POWERS
    )


def _run(chip: TimedChip, command: _Command, stages: Sequence[_Stage]) -> None:
    """Do all stages; their inputs are the same each time, so nothing is computed in between."""
    handle = 0
    for stage in stages:
        output = _send(chip, command, handle, stage)
        if not stage.number:
            handle = int.from_bytes(output, "big")


def _send(chip: TimedChip, command: _Command, handle: int, stage: _Stage) -> bytes:
    chip.variant = stage.variant
    output = chip.run(
        command(
            handle, stage.number, *stage.inputs, owner_auth=OWNER_AUTH, random=chip.client_random
        )
    )
    chip.variant = ""
    return output


def _watch(
    chip: TimedChip, command: _Command, stages: Sequence[_Stage]
) -> tuple[dict[str, Work], dict[int, bytes]]:
    """Do all stages once, and return what is in each, and what each gave."""
    works: dict[str, Work] = {}
    outputs: dict[int, bytes] = {}
    for stage in stages:
        powers: list[Power] = []
        with (
            mock.patch.object(daa_math, "power", _noting(daa_math.power, powers)),
            mock.patch.object(daa_math, "has_order", _noting(daa_math.has_order, powers)),
        ):
            handle = int.from_bytes(outputs.get(0, b""), "big")
            outputs[stage.number] = _send(chip, command, handle, stage)
        name = f"{command.__name__.upper()} stage {stage.number}{stage.variant}"
        works[name] = Work(_RSA.get(name, ()), tuple(powers))
    return works, outputs


def _noting(
    real: Callable[[int, int, int], object], powers: list[Power]
) -> Callable[[int, int, int], object]:
    def noting(base: int, exponent: int, modulus: int) -> object:
        powers.append(functools.partial(real, base, exponent, modulus))
        return real(base, exponent, modulus)

    return noting
