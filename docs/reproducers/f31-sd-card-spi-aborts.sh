#!/bin/sh
# F31: a guest with the device sd-card-spi cannot be restored: QEMU aborts.
# Usage: [ACCEL=kvm] f31-sd-card-spi-aborts.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# The control is a guest with sd-card. Both are saved by an ordinary migration.
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
    "$QEMU" -machine "$MACHINE" -nodefaults -display none -accel "${ACCEL:-tcg}" -m 32 -qmp stdio -device sdhci-pci \
        -blockdev driver=null-co,node-name=disk,size=67108864,read-zeroes=on -device "$DEVICE,drive=disk" "$@" 2>&1
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

MACHINE=$("$QEMU" -machine help | awk '$1 == "pc" || $1 == "virt" || $1 == "pseries" { print $1; exit }')
if [ -z "$MACHINE" ]; then
    echo "This QEMU has no machine that this script knows."
    VERDICT=2
    exit
fi
for DEVICE in sd-card sd-card-spi; do
    if ! "$QEMU" -machine "$MACHINE" -device help 2> /dev/null | grep -q "\"$DEVICE\""; then
        echo "This QEMU has no device $DEVICE."
        VERDICT=2
        exit
    fi
done
restore sd-card
if ! grep -q '"running": true' "$DIR/out"; then
    cat "$DIR/out"
    echo "The guest with sd-card, the control, was not restored."
    exit
fi
restore sd-card-spi
if grep -q '"running": true' "$DIR/out"; then
    echo "The guest with sd-card-spi was restored, as it should be."
    VERDICT=0
    exit
fi
grep Assertion "$DIR/out" || exit
echo "QEMU aborted while it restored a guest with sd-card-spi; with sd-card it restores the guest."
VERDICT=1
