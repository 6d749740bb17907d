#!/bin/sh
# F21: a newer QEMU refuses snapshots of machine type virt of aarch64, because a register of the CPU has gone.
# Usage: f21-arm-registers-refused.sh OLD-QEMU-SYSTEM-AARCH64 NEW-QEMU-SYSTEM-AARCH64
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# It needs no guest and no background snapshot: an idle machine is enough. CPU (cortex-a57) is the CPU model.
set -eu
OLD=$1
NEW=$2
VERDICT=3
"$OLD" --version > /dev/null && "$NEW" --version > /dev/null || exit 3
DIR=$(mktemp -d) || exit 3
trap 'rm -rf "$DIR"; exit $VERDICT' EXIT
# Without a trap of its own, a signal would end the shell without running the EXIT trap.
trap exit HUP INT PIPE TERM
# The versioned type of the old QEMU, which both promise to keep.
VERSION=$("$OLD" --version | sed -n 's/.*version \([0-9]*\.[0-9]*\)\..*/\1/p')
MACHINE="-nodefaults -display none -accel tcg -m 64 -machine virt-$VERSION -cpu ${CPU:-cortex-a57} -qmp stdio"
{
    echo '{"execute": "qmp_capabilities"}'
    sleep 1
    echo '{"execute": "migrate", "arguments": {"uri": "exec:cat > '"$DIR"'/vmstate"}}'
    sleep 3
    echo '{"execute": "quit"}'
} | "$OLD" $MACHINE > "$DIR/save" 2>&1 || true
{
    echo '{"execute": "qmp_capabilities"}'
    echo '{"execute": "migrate-incoming", "arguments": {"uri": "exec:cat '"$DIR"'/vmstate"}}'
    sleep 3
    echo '{"execute": "query-status"}'
    echo '{"execute": "quit"}'
} | "$NEW" $MACHINE -incoming defer > "$DIR/restore" 2>&1 || true
if grep -h 'unsupported machine type\|Use -machine help\|unable to find CPU model' "$DIR/save" "$DIR/restore"; then
    VERDICT=2
    exit
fi
[ -s "$DIR/vmstate" ]
if grep "device 'cpu'\|load of migration failed" "$DIR/restore"; then
    VERDICT=1
    exit
fi
grep -o '"status": "[a-z]*"' "$DIR/restore"
VERDICT=0
