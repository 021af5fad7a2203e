# SPDX-License-Identifier: Apache-2.0
"""The split driver without I/O: page, messages, handshake, both halves."""
