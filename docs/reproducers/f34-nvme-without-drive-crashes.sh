#!/bin/sh
# F34: a save of a guest with an NVMe controller that has no drive of its own crashes QEMU.
# Usage: [ACCEL=kvm] f34-nvme-without-drive-crashes.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# The namespace is a device of its own, nvme-ns. The control is a controller with the property `drive`.
set -eu
QEMU=$1
VERDICT=3
"$QEMU" --version > /dev/null || exit 3
OUT=$(mktemp) || exit 3
trap 'rm -f "$OUT"; exit $VERDICT' EXIT
# Without a trap of its own, a signal would end the shell without running the EXIT trap.
trap exit HUP INT PIPE TERM

# Save a guest with a disk and the given devices; the output has "completed" unless QEMU ended before.
save() {
    {
        echo '{"execute": "qmp_capabilities"}'
        echo '{"execute": "migrate", "arguments": {"uri": "exec:cat > /dev/null"}}'
        sleep 2
        echo '{"execute": "query-migrate"}'
        sleep 0.5
        echo '{"execute": "quit"}'
    } 2> /dev/null | "$QEMU" -machine "$MACHINE" -nodefaults -display none -accel "${ACCEL:-tcg}" -m 32 \
        -blockdev driver=null-co,node-name=disk,size=67108864,read-zeroes=on "$@" -qmp stdio > "$OUT" 2>&1 || true
}

MACHINE=$("$QEMU" -machine help | awk '$1 == "pc" || $1 == "virt" || $1 == "pseries" { print $1; exit }')
if [ -z "$MACHINE" ]; then
    echo "This QEMU has no machine that this script knows."
    VERDICT=2
    exit
fi
save -device nvme,serial=one,drive=disk
if grep -q 'non-migratable' "$OUT"; then
    echo "This QEMU does not save guests with an NVMe controller."
    VERDICT=2
    exit
fi
if ! grep -q '"status": "completed"' "$OUT"; then
    cat "$OUT"
    echo "The save of a guest with nvme,drive=..., the control, did not complete."
    exit
fi
save -device nvme,serial=one -device nvme-ns,drive=disk
if grep -q '"status": "completed"' "$OUT"; then
    echo "The guest with nvme and nvme-ns was saved, as it should be."
    VERDICT=0
    exit
fi
if ! grep -q QMP "$OUT" || grep -q '"event": "SHUTDOWN"' "$OUT"; then
    cat "$OUT"
    exit
fi
echo "QEMU crashed while it saved a guest with nvme and nvme-ns; a guest with nvme,drive=... is saved."
VERDICT=1
