# SPDX-License-Identifier: Apache-2.0
"""The manager: its protocol, records, commits and refusals."""
