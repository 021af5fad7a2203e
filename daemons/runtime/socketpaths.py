# SPDX-License-Identifier: Apache-2.0
"""What a path of a Unix socket may be; apart from `sockets` for those who must not wait for all
that it imports."""

from __future__ import annotations

from typing import Final

PATH_LIMIT_BYTES: Final = 107
"""sun_path is 108 bytes with its final zero (unix(7))."""
