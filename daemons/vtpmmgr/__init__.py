# SPDX-License-Identifier: Apache-2.0
"""The manager: keeps the keys of all vTPMs of a machine, sealed to its hardware TPM.

A process of its own; nothing of ours imports it. From the bottom up:

    records, hashtree         what is kept; the digest over all of it
    envelope, keyring         encryption of its secrets; the hierarchy of keys
    store, ledger             SQLite; the verified view of it with transactions
    hardware                  what is asked of the hardware TPM (tpm12hardware: of a TPM 1.2)
    turns, tpm12chip          whose command it executes next; conversations with a TPM 1.2
    sealing, freshness        the root secret; how the newest state is told from an older copy
    startup, commits          accepting or refusing a database at start; the order of a commit
    identity, service         who may be which vTPM; the commands
    config, daemon, cli       the process

Start reading at `startup`, which lists what can be found at start and why.
"""
