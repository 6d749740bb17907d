#!/bin/sh
# F29: a save of a guest with the device pci-serial-2x crashes QEMU.
# Usage: [ACCEL=kvm] f29-pci-serial-2x-crashes.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# The control is the same save of a guest with pci-serial-4x.
set -eu
QEMU=$1
VERDICT=3
"$QEMU" --version > /dev/null || exit 3
OUT=$(mktemp) || exit 3
trap 'rm -f "$OUT"; exit $VERDICT' EXIT
# Without a trap of its own, a signal would end the shell without running the EXIT trap.
trap exit HUP INT PIPE TERM

# Save a guest with a device; the output has "completed" unless QEMU ended before.
save() {
    {
        echo '{"execute": "qmp_capabilities"}'
        echo '{"execute": "migrate", "arguments": {"uri": "exec:cat > /dev/null"}}'
        sleep 2
        echo '{"execute": "query-migrate"}'
        sleep 0.5
        echo '{"execute": "quit"}'
    } 2> /dev/null | "$QEMU" -machine "$MACHINE" -nodefaults -display none -accel "${ACCEL:-tcg}" -m 32 -device "$1" -qmp stdio \
        > "$OUT" 2>&1 || true
}

MACHINE=$("$QEMU" -machine help | awk '$1 == "pc" || $1 == "virt" || $1 == "pseries" { print $1; exit }')
if [ -z "$MACHINE" ]; then
    echo "This QEMU has no machine that this script knows."
    VERDICT=2
    exit
fi
if ! "$QEMU" -machine "$MACHINE" -device help 2> /dev/null | grep -q '"pci-serial-2x"'; then
    echo "This QEMU has no device pci-serial-2x."
    VERDICT=2
    exit
fi
save pci-serial-4x
if ! grep -q '"status": "completed"' "$OUT"; then
    cat "$OUT"
    echo "The save of a guest with pci-serial-4x, the control, did not complete."
    exit
fi
save pci-serial-2x
if grep -q '"status": "completed"' "$OUT"; then
    echo "The guest with pci-serial-2x was saved, as it should be."
    VERDICT=0
    exit
fi
if ! grep -q '"status": "setup"\|"return": {}' "$OUT" || grep -q '"event": "SHUTDOWN"' "$OUT"; then
    cat "$OUT"
    exit
fi
echo "QEMU crashed while it saved a guest with pci-serial-2x; with pci-serial-4x it saves the guest."
VERDICT=1
