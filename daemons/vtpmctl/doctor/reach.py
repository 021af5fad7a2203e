# SPDX-License-Identifier: Apache-2.0
"""The TPMs: whether each answers the way its clients ask it.

Unlike everything else here this executes commands: one PCRRead in each guest's TPM, by its front,
and one GetCapability in the hardware TPM, by the manager. PCRRead changes nothing, but it ends an
exclusive transport session as any command does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trio

from daemons.runtime.control import control_request
from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.doctor.finding import Finding, fail, ok
from daemons.vtpmctl.probe import NoAnswer, transact
from protocol.tis.mmio import BusLost, MmioBus, locality_socket
from protocol.tis.registers import Access, Register

# TPM_PCRRead of PCR 0 (Part 3, 16.2).
PCR_READ: Final = bytes.fromhex("00c1 0000000e 00000015 00000000")

_TIMEOUT_S: Final = 10.0


async def check_chip(tis: Path, locality: int) -> Finding:
    """Read the ACCESS register of a locality, as a driver does first."""
    path = locality_socket(tis, locality)
    remedy = "see the log of hwtpm, restart it"
    try:
        with trio.fail_after(_TIMEOUT_S):
            bus = await MmioBus.connect(path)
            try:
                access = await bus.read(Register.ACCESS)
            finally:
                bus.close()
    except (OSError, BusLost) as error:
        return fail("hardware TPM", f"locality {locality} is not reached: {error}", remedy)
    except trio.TooSlowError:
        return fail("hardware TPM", f"locality {locality} does not answer", remedy)
    if not access & Access.VALID:
        what = f"locality {locality} answers, but the chip is not ready"
        return fail("hardware TPM", what, "wait a moment; if it stays so, restart hwtpm")
    return ok("hardware TPM", f"answers at locality {locality}")


async def check_manager(control: Path) -> Finding:
    """Have the manager ask the hardware TPM."""
    try:
        await control_request(control, "probe-hardware", timeout_s=_TIMEOUT_S)
    except DaemonError as error:
        return fail("manager", str(error), "see the logs of vtpmmgr and hwtpm")
    return ok("manager", "answers, and gets answers of the hardware TPM")


async def check_guest(guest: str, path: Path) -> Finding:
    """Read a PCR of a guest's TPM by its front."""
    remedy = "see what is found about its vtpm and tpmfront"
    try:
        with trio.fail_after(_TIMEOUT_S):
            await transact(path, PCR_READ)
    except (OSError, trio.BrokenResourceError) as error:
        reason = error.strerror if isinstance(error, OSError) else "hung up"
        return fail("guests", f"{guest}: {path}: {reason}", remedy)
    except NoAnswer as error:
        return fail("guests", f"{guest}: its TPM does not read a PCR: {error}", remedy)
    except trio.TooSlowError:
        return fail("guests", f"{guest}: no answer within {_TIMEOUT_S:g} s", remedy)
    return ok("guests", f"{guest}: its TPM answers")
