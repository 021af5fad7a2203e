# SPDX-License-Identifier: Apache-2.0
"""Tests: unit (no I/O), conformance (a reference TPM), integration (real processes)."""
