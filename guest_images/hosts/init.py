"""The init script of a host: it mounts the disks that the host was given and starts an SSH server."""

from __future__ import annotations

from guest_images.guests.init_script import HOST_KEY

HOST_READY = "snapproof-host: ready"
"""Line on a host's console once its SSH server listens."""

HOST_INIT = f"""\
#!/bin/busybox sh
# PID 1 of a host: mounts its disks, then executes busybox init, which reaps orphans.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
head -c 1 /dev/random > /dev/null &
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t debugfs debugfs /sys/kernel/debug
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
for cpu in /sys/devices/system/cpu/cpu[1-9]*/online; do
    echo 1 > "$cpu"
done
# Memory moves between NUMA nodes only where a test asks for it.
[ ! -w /proc/sys/kernel/numa_balancing ] || echo 0 > /proc/sys/kernel/numa_balancing
# Tests may allocate up to 64 huge pages.
echo 64 > /proc/sys/vm/nr_overcommit_hugepages
hostname host
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2
# Disks are told apart by their serial numbers, read without a process for each.
for disk in /sys/block/vd*; do
    name=
    read -r name < "$disk/serial"
    case $name in
        disk-*) ln -s "/dev/${{disk##*/}}" "/dev/$name" ;;
        files-*) mkdir "/disks/${{name#files-}}"
            mount -t ext4 -o ro "/dev/${{disk##*/}}" "/disks/${{name#files-}}" ;;
    esac
done
dropbear -E -s -r /{HOST_KEY} -p 22 && echo "{HOST_READY}"
exec /bin/busybox init
"""
