# SPDX-License-Identifier: Apache-2.0
"""What a front asks of a vTPM beside TPM commands: power, state, the hash of locality 4."""
