#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Become PID 1 of the machine of one test: a real systemd, in namespaces of its own.
#
#   unshare --pid --fork --mount --mount-proc --uts --ipc --cgroup --kill-child machine.sh STAGE REPO
#
# STAGE is a folder of the host with `root` (what `make install DESTDIR=` made), `sysusers` (a further
# sysusers.d file) and `etc` (laid over a copy of the host's). The machine has its own /etc, /opt,
# /usr/local, /var, /run and /tmp, the repository read-only at /mnt/source for root alone, and the
# host's network and programs. It tells NOTIFY_SOCKET when it is up.
set -euo pipefail
stage=$1 repository=$2

mount --make-rprivate /
mount -t cgroup2 cgroup2 /sys/fs/cgroup

# A place for what is needed after its own folder has been covered; it stays reachable as the
# working directory.
mkdir "$stage/private"
mount -t tmpfs -o mode=755 tmpfs "$stage/private"
cd "$stage/private"
mkdir source root
mount --bind "$repository" source
mount -o remount,bind,ro source
mount --bind "$stage/root" root
cp -a "$stage/sysusers" .

# No unit of the host is enabled here, no file system of it is mounted.
cp -a /etc etc
rm -rf etc/systemd/system etc/fstab
mkdir -p etc/systemd/system
cp -a "$stage/etc/." etc
mount --bind etc /etc
for wants in sysinit sockets local-fs timers; do
    folder=/usr/lib/systemd/system/$wants.target.wants
    [ ! -d "$folder" ] || mount -t tmpfs -o mode=755 tmpfs "$folder"
done
ln -s ../systemd-journald.service /usr/lib/systemd/system/sysinit.target.wants

mount -t tmpfs -o mode=700 tmpfs /mnt
mkdir /mnt/source
mount --move source /mnt/source
for folder in /opt /usr/local; do
    mount -t tmpfs -o mode=755 tmpfs "$folder"
    cp -a "root$folder/." "$folder"
done

for folder in /run /var; do
    mount -t tmpfs -o mode=755 tmpfs "$folder"
done
mkdir -p /var/lib/tpm /var/log /run/systemd/system
ln -s /run /var/run
chown tss:tss /var/lib/tpm
systemd-sysusers /usr/local/lib/sysusers.d/vtpm.conf "$PWD/sysusers"
systemd-tmpfiles --create /usr/local/lib/tmpfiles.d/vtpm.conf

# Last, since STAGE is usually below it.
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -m 1777 /var/tmp
cd /
# In a container systemd leaves this to who made it: credentials reach a service by propagation.
mount --make-rshared /
export container=unshare
exec /lib/systemd/systemd --system --unit=basic.target
