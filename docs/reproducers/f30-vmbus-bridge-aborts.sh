#!/bin/sh
# F30: a save of a guest with the device vmbus-bridge aborts QEMU.
# Usage: [ACCEL=kvm] f30-vmbus-bridge-aborts.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# The control is the same save of a guest with pvpanic.
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
    } 2> /dev/null | "$QEMU" -nodefaults -display none -accel "${ACCEL:-tcg}" -m 32 -device "$1" -qmp stdio \
        > "$OUT" 2>&1 || true
}

if ! "$QEMU" -device help 2> /dev/null | grep -q '"vmbus-bridge"'; then
    echo "This QEMU has no device vmbus-bridge."
    VERDICT=2
    exit
fi
save pvpanic
if ! grep -q '"status": "completed"' "$OUT"; then
    cat "$OUT"
    echo "The save of a guest with pvpanic, the control, did not complete."
    exit
fi
save vmbus-bridge
if grep -q '"status": "completed"' "$OUT"; then
    echo "The guest with vmbus-bridge was saved, as it should be."
    VERDICT=0
    exit
fi
if ! grep -q '"status": "setup"\|"return": {}' "$OUT" || grep -q '"event": "SHUTDOWN"' "$OUT"; then
    cat "$OUT"
    exit
fi
echo "QEMU aborted while it saved a guest with vmbus-bridge; with pvpanic it saves the guest."
VERDICT=1
