# SPDX-License-Identifier: Apache-2.0
"""The operator's command: starts and watches the whole stack, asks the daemons how they are.

Start reading at `supervisor` (the order of things), then `child` (one daemon's restarts) and `plan`
(which daemons with which options); for single guests at `guests`, which adds and removes them on
any `host`. The daemons do not know of it: to them it is a service manager that speaks sd_notify(3)
and sd_listen_fds(3), as systemd is.
"""
