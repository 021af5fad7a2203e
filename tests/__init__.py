# SPDX-License-Identifier: Apache-2.0
"""Tests of the suite: unit (no I/O, seconds), conformance (a reference TPM), integration (real processes)."""
