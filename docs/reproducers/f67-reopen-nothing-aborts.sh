#!/bin/sh
# F67: a blockdev-reopen of no block node at all aborts QEMU.
# Usage: f67-reopen-nothing-aborts.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# The control is a blockdev-reopen of a node that there is not, which QEMU refuses.
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
    echo '{"execute": "blockdev-reopen", "id": "control", 
           "arguments": {"options": [{"driver": "null-co", "node-name": "none"}]}}'
    sleep 1
    echo '{"execute": "blockdev-reopen", "id": "empty", 
           "arguments": {"options": []}}'
    sleep 1
    echo '{"execute": "quit"}'
} 2> /dev/null | "$QEMU" -machine pc -S -nodefaults -display none -m 32 -qmp stdio > "$OUT" 2>&1 &
CODE=0
wait $! || CODE=$?
if grep -q 'CommandNotFound' "$OUT"; then
    echo "This QEMU has no such command."
    VERDICT=2
elif ! grep -q '"id": "control".*none' "$OUT"; then
    cat "$OUT"
    echo "QEMU does not answer the control."
elif grep -q '"id": "empty"' "$OUT"; then
    echo "QEMU answers, as it should."
    VERDICT=0
elif [ "$CODE" -gt 128 ]; then
    grep -i 'assert' "$OUT" || true
    echo "QEMU has ended with the exit code $CODE when it was asked to reopen nothing."
    VERDICT=1
else
    cat "$OUT"
fi
