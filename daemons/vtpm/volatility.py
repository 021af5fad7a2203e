# SPDX-License-Identifier: Apache-2.0
"""What tells a restart of the daemon from a power-on of the guest.

A daemon that dies and returns is not a reboot of its guest. What the guest measured lives in a
memfd that somebody else holds while we are dead. When that is gone too, only a file says that we
had served in this boot of the machine and did not end in order (`daemons.runtime.marker`). It is
written when the volatile memory has been filled and before the first guest is served, and removed
by an orderly stop.

| memory | marker of this boot | the TPM                                          |
|--------|---------------------|--------------------------------------------------|
| filled | any                 | goes on where it was                             |
| "off"  | any                 | stays switched off, until its machine starts it  |
| empty  | present             | is started up, and PCRs 0-7 are capped           |
| empty  | absent              | is powered on                                    |

Capped means extended with `CAP_DIGEST`: whoever measured before can see that measurements are
missing, and nobody can bring about a chosen value by killing the daemon.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Final

from daemons.runtime.errors import DaemonError
from daemons.runtime.inherited import VOLATILE
from daemons.runtime.log import Log
from daemons.runtime.notify import Notifier
from daemons.runtime.volatile import VolatileMemory

CAP_TEXT: Final = b"vtpm: the record of what was measured is lost"
CAP_DIGEST: Final = hashlib.sha1(CAP_TEXT).digest()
"""ba5b9a99e775c114af7b1a6dca6be2968a466cd7: the last event of such a PCR's log."""


def take_memory(
    inherited: Mapping[str, Sequence[int]], notifier: Notifier, log: Log
) -> VolatileMemory:
    """Return the memory that the supervisor keeps for us, or a new one that it is asked to keep.

    A descriptor that is no memory of ours is put aside: the TPM then starts without what it held,
    and the marker says whether PCRs have to be capped for it.
    """
    first, *others = inherited.get(VOLATILE, ()) or (None,)
    for fd in others:
        if fd is not None:
            os.close(fd)
    if first is not None:
        try:
            return VolatileMemory.adopt(first)
        except DaemonError as error:
            log.error("volatile memory not usable", reason=error)
            with contextlib.suppress(OSError):
                os.close(first)
            notifier.remove_fd(VOLATILE)
    memory = VolatileMemory.create("vtpm-volatile")
    notifier.store_fd(VOLATILE, memory.fd)
    return memory
