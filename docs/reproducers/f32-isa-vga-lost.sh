#!/bin/sh
# F32: a guest with the device isa-vga or isa-cirrus-vga cannot be restored: QEMU crashes or aborts.
# Usage: [ACCEL=kvm] f32-isa-vga-lost.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# The controls are guests with VGA and cirrus-vga. All are saved by an ordinary migration.
set -eu
QEMU=$1
VERDICT=3
"$QEMU" --version > /dev/null || exit 3
DIR=$(mktemp -d) || exit 3
trap 'rm -rf "$DIR"; exit $VERDICT' EXIT
# Without a trap of its own, a signal would end the shell without running the EXIT trap.
trap exit HUP INT PIPE TERM

# Run QEMU with a device and further arguments; QMP commands come from standard input.
guest() {
    DEVICE=$1
    shift
    "$QEMU" -nodefaults -display none -accel "${ACCEL:-tcg}" -m 32 -qmp stdio -device "$DEVICE" "$@" 2>&1
}

# Save a guest with a device and restore it; $DIR/out has "running": true if that went well.
restore() {
    {
        echo '{"execute": "qmp_capabilities"}'
        sleep 1
        echo '{"execute": "migrate", "arguments": {"uri": "exec:cat > '"$DIR"'/file"}}'
        sleep 2
        echo '{"execute": "query-migrate"}'
        sleep 0.5
        echo '{"execute": "quit"}'
    } | guest "$1" > "$DIR/saved" || true
    grep -q '"status": "completed"' "$DIR/saved" || { cat "$DIR/saved"; echo "The save did not complete."; exit; }
    {
        echo '{"execute": "qmp_capabilities"}'
        sleep 3
        echo '{"execute": "query-status"}'
        sleep 0.5
        echo '{"execute": "quit"}'
    } 2> /dev/null | guest "$1" -incoming "exec:cat $DIR/file" > "$DIR/out" || true
}

SHOWS=0
for DEVICE in VGA cirrus-vga isa-vga isa-cirrus-vga; do
    if ! "$QEMU" -device help 2> /dev/null | grep -q "\"$DEVICE\""; then
        echo "This QEMU has no device $DEVICE."
        VERDICT=2
        exit
    fi
done
for PAIR in VGA:isa-vga cirrus-vga:isa-cirrus-vga; do
    CONTROL=${PAIR%:*} DEVICE_OF_ISA=${PAIR#*:}
    restore "$CONTROL"
    if ! grep -q '"running": true' "$DIR/out"; then
        cat "$DIR/out"
        echo "The guest with $CONTROL, a control, was not restored."
        exit
    fi
    restore "$DEVICE_OF_ISA"
    if grep -q '"running": true' "$DIR/out"; then
        echo "The guest with $DEVICE_OF_ISA was restored, as it should be."
        continue
    fi
    # QEMU may say nothing when it crashes; it has greeted before.
    grep -q QMP "$DIR/out" || exit
    grep Assertion "$DIR/out" || true
    echo "QEMU crashed or aborted while it restored a guest with $DEVICE_OF_ISA; with $CONTROL it restores the guest."
    SHOWS=1
done
VERDICT=$SHOWS
