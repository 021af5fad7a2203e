# SPDX-License-Identifier: Apache-2.0
"""The chip process without sockets: its store, its work on the TPM, power cuts."""
