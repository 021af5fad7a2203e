# SPDX-License-Identifier: Apache-2.0
"""Tests that start the real commands, each in a folder of its own, and end them by pid."""
