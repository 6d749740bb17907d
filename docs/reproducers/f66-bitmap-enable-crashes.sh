#!/bin/sh
# F66: a transaction that enables a dirty bitmap that there is not crashes QEMU.
# Usage: f66-bitmap-enable-crashes.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# The control is a transaction that disables the same bitmap, which QEMU refuses.
set -eu
QEMU=$1
VERDICT=3
"$QEMU" --version > /dev/null || exit 3
OUT=$(mktemp) || exit 3
trap 'rm -f "$OUT"; exit $VERDICT' EXIT
# Without a trap of its own, a signal would end the shell without running the EXIT trap.
trap exit HUP INT PIPE TERM

transaction() {
    echo '{"execute": "transaction", "id": "'"$1"'", "arguments": {"actions":
           [{"type": "block-dirty-bitmap-'"$1"'", "data": {"node": "disk", "name": "none"}}]}}'
}

{
    echo '{"execute": "qmp_capabilities"}'
    transaction disable
    sleep 1
    transaction enable
    sleep 1
    echo '{"execute": "quit"}'
} 2> /dev/null | "$QEMU" -machine pc -S -nodefaults -display none -m 32 \
    -blockdev null-co,node-name=disk,size=1048576,read-zeroes=on -qmp stdio > "$OUT" 2>&1 &
CODE=0
wait $! || CODE=$?
if ! grep -q '"id": "disable".*not found' "$OUT"; then
    cat "$OUT"
    echo "QEMU does not refuse to disable a bitmap that there is not."
elif grep -q '"id": "enable".*not found' "$OUT"; then
    echo "QEMU refuses to enable a bitmap that there is not, as it should."
    VERDICT=0
elif [ "$CODE" -gt 128 ]; then
    echo "QEMU has ended with the exit code $CODE when it was asked to enable a bitmap that there is not."
    VERDICT=1
else
    cat "$OUT"
fi
