#!/bin/sh
# F47: the QMP command x-query-virtio-status aborts QEMU.
# Usage: f47-query-virtio-status-aborts.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# The control is x-query-virtio, which names the device that is asked about.
set -eu
QEMU=$1
VERDICT=3
"$QEMU" --version > /dev/null || exit 3
OUT=$(mktemp) || exit 3
trap 'rm -f "$OUT"; exit $VERDICT' EXIT
# Without a trap of its own, a signal would end the shell without running the EXIT trap.
trap exit HUP INT PIPE TERM

{
    echo '{"execute": "qmp_capabilities"}'
    echo '{"execute": "x-query-virtio"}'
    sleep 1
    echo '{"execute": "x-query-virtio-status", "arguments": {"path": "/machine/peripheral/rng/virtio-backend"}}'
    sleep 1
    echo '{"execute": "quit"}'
} 2> /dev/null | "$QEMU" -machine pc -S -nodefaults -display none -m 32 -device virtio-rng-pci,id=rng -qmp stdio \
    > "$OUT" 2>&1 || true
if grep -q '"CommandNotFound"' "$OUT"; then
    echo "This QEMU has no such command."
    VERDICT=2
elif ! grep -q '"name": "virtio-rng"' "$OUT"; then
    cat "$OUT"
    echo "QEMU does not list the device."
elif grep -q '"broken": false' "$OUT"; then
    echo "QEMU tells the state of the device, as it should."
    VERDICT=0
elif grep -q 'Assertion' "$OUT"; then
    grep 'Assertion' "$OUT"
    echo "QEMU aborted when it was asked about the device."
    VERDICT=1
else
    cat "$OUT"
fi
