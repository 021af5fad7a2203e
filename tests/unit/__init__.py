# SPDX-License-Identifier: Apache-2.0
"""Tests without I/O; the whole folder runs in seconds."""
