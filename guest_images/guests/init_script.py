"""The /init scripts of initramfs images: one starts a guest with SSH, the other boots a disk."""

from __future__ import annotations

READY_LINE = "snapproof-guest: ready"
"""Printed on the console once SSH answers."""

MODULES_FOLDER = "lib/modules"
"""Folder of the modules in the image, with a file `order` that lists them; deleted after loading."""

HOST_KEY = "etc/dropbear/host_key"
"""Path of dropbear's private host key, relative to the root."""

PAGES_STAY = """\
set_kernel() {
    [ ! -w "$1" ] || echo "$2" > "$1"
}
# The agent's directory has the guest-physical address of each page, so pages must not move.
set_kernel /proc/sys/vm/compact_unevictable_allowed 0
set_kernel /proc/sys/vm/compaction_proactiveness 0
# NUMA balancing moves pages towards the CPU that uses them.
set_kernel /proc/sys/kernel/numa_balancing 0
# The agent may map all of memory: it locks what it maps, so a shortage shows at once.
set_kernel /proc/sys/vm/overcommit_memory 1
# Huge pages hide faults of single pages. Enabling them raises min_free_kbytes, so it is set after this.
set_kernel /sys/kernel/mm/transparent_hugepage/enabled never
"""
"""Shell commands, for root in any guest, that keep the agent's pages in place and of the smallest size."""

INIT = f"""\
#!/bin/busybox sh
# PID 1: sets up the guest, then executes busybox init, which reaps orphans and does poweroff.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
/bin/busybox --install -s

mount -t devtmpfs dev /dev
# A waiting reader makes the kernel gather entropy now, while modules load. Without it dropbear's first
# connection waits 1.2 s for entropy, on a CPU without RDRAND and without a virtio-rng.
head -c 1 /dev/random > /dev/null &
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp

while read -r module; do
    insmod "/{MODULES_FOLDER}/$module" || echo "snapproof-guest: cannot load $module"
done < /{MODULES_FOLDER}/order
# The root file system is memory that the agent can use.
rm -rf /{MODULES_FOLDER}

{PAGES_STAY}
# Reserves and per-CPU free lists are memory that the agent cannot lock.
set_kernel /proc/sys/vm/watermark_boost_factor 0
set_kernel /proc/sys/vm/watermark_scale_factor 1
set_kernel /proc/sys/vm/min_free_kbytes 1024
set_kernel /proc/sys/vm/lowmem_reserve_ratio "99999 99999 99999 99999 99999"
set_kernel /proc/sys/vm/percpu_pagelist_high_fraction 10000
set_kernel /proc/sys/vm/admin_reserve_kbytes 0
set_kernel /proc/sys/vm/user_reserve_kbytes 0

hostname guest
ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
    # The addresses of QEMU's user-mode network (QEMU net/slirp.c); without DHCP the boot is a second shorter.
    ip addr add 10.0.2.15/24 dev eth0
    ip link set eth0 up
    ip route add default via 10.0.2.2
else
    echo "snapproof-guest: no network card"
fi

# dropbear goes into the background once it listens, so `ready` is true.
dropbear -E -s -r /{HOST_KEY} -p 22 && echo "{READY_LINE}"
exec /bin/busybox init
"""

INITTAB = """\
::ctrlaltdel:/bin/busybox poweroff
::shutdown:/bin/busybox sync
"""

DISK_INIT = f"""\
#!/bin/busybox sh
# PID 1 of the initramfs of a VM with a disk: loads drivers, mounts the disk and executes its init.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
while read -r module; do
    insmod "/{MODULES_FOLDER}/$module" || echo "@SPEAKER: cannot load $module"
done < /{MODULES_FOLDER}/order
root=$(sed -n 's/.*\\<root=\\([^ ]*\\).*/\\1/p' /proc/cmdline)
tries=0
until [ -b "$root" ] || [ $tries -eq 100 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
mount -t ext4 "$root" /mnt || echo "@SPEAKER: cannot mount $root"
mount --move /dev /mnt/dev
umount /proc
exec switch_root /mnt @INIT
"""
"""In it `@SPEAKER` stands for the beginning of lines on the console, and `@INIT` for the disk's init."""
