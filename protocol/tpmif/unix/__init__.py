# SPDX-License-Identifier: Apache-2.0
"""The split driver over Unix sockets: the only part of `protocol.tpmif` that does I/O.

One SOCK_SEQPACKET connection is one device. The grant is a memfd that the frontend makes, seals
and passes; the event channel and xenstore are datagrams on the connection (`messages`); end of
file is the death of the peer.

Frontend:

    async with open_frontend(path, uuid=uuid) as device:     # OSError, BackendRefused, BackendLost
        response = await device.transact(request, locality)  # RequestCancelled, BackendLost

Backend:

    await nursery.start(partial(serve_backend, listener, admit=admit, handler=handler))
"""

from protocol.tpmif.unix.backend import (
    BackendDevice,
    BackendLimits,
    Handler,
    serve_backend,
)
from protocol.tpmif.unix.channel import PeerCredentials, peer_credentials
from protocol.tpmif.unix.frontend import FrontendDevice, open_frontend

__all__ = [
    "BackendDevice",
    "BackendLimits",
    "FrontendDevice",
    "Handler",
    "PeerCredentials",
    "open_frontend",
    "peer_credentials",
    "serve_backend",
]
