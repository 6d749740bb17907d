"""The guest's /init: from the kernel's hand-over to a guest that answers SSH."""

from __future__ import annotations

READY_LINE = "snapproof-guest: ready"
"""Printed on the console once SSH answers."""

MODULES_FOLDER = "lib/modules"
"""Where the image keeps the modules, with a file `order` that lists them; emptied after loading."""

HOST_KEY = "etc/dropbear/host_key"

PAGES_STAY = """\
set_kernel() {
    [ ! -w "$1" ] || echo "$2" > "$1"
}
# A page of the writer stays where the directory says it is.
set_kernel /proc/sys/vm/compact_unevictable_allowed 0
set_kernel /proc/sys/vm/compaction_proactiveness 0
# So does a guest with several NUMA nodes, whose balancing moves pages towards the CPU that uses them.
set_kernel /proc/sys/kernel/numa_balancing 0
# The writer may map all of memory: it locks what it maps, so a shortage shows at once.
set_kernel /proc/sys/vm/overcommit_memory 1
# Huge pages would hide single-page faults; and enabling them raises min_free_kbytes, so this comes first.
set_kernel /sys/kernel/mm/transparent_hugepage/enabled never
"""
"""Shell commands, for root in any guest, that keep the writer's pages in place and small."""

INIT = f"""\
#!/bin/busybox sh
# PID 1: sets the guest up, then hands over to busybox init, which reaps orphans and does poweroff.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
/bin/busybox --install -s

mount -t devtmpfs dev /dev
# A waiting reader makes the kernel gather entropy now, while modules load; else dropbear's first
# connection would wait 1.2 s for it, on a CPU without RDRAND and without a virtio-rng.
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
# The root file system is memory that the writer can use.
rm -rf /{MODULES_FOLDER}

{PAGES_STAY}
# Reserves and per-CPU free lists are memory that the writer cannot lock.
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
    # QEMU's user-mode network hands out these; no DHCP saves a second.
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

HAND_OVER = f"""\
#!/bin/busybox sh
# PID 1 of the initramfs of a system with a disk: loads drivers, mounts the disk and hands over to its init.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
while read -r module; do
    insmod "/{MODULES_FOLDER}/$module" || echo "@WHO: cannot load $module"
done < /{MODULES_FOLDER}/order
root=$(sed -n 's/.*\\<root=\\([^ ]*\\).*/\\1/p' /proc/cmdline)
tries=0
until [ -b "$root" ] || [ $tries -eq 100 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
mount -t ext4 "$root" /mnt || echo "@WHO: cannot mount $root"
mount --move /dev /mnt/dev
umount /proc
exec switch_root /mnt @INIT
"""
"""Where `@WHO` stands for a name on the console, and `@INIT` for the disk's init."""
