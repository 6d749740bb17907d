#!/bin/sh
# F72: qom-list-properties of some types ends QEMU.
# Usage: f72-properties-of-types-crash.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# The control is the same question about another type.
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
    echo '{"execute": "qom-list-properties", "id": "control", 
           "arguments": {"typename": "iothread"}}'
    sleep 1
    echo '{"execute": "qom-list-properties", "id": "remote", 
           "arguments": {"typename": "x-remote-object"}}'
    sleep 1
    echo '{"execute": "quit"}'
} 2> /dev/null | "$QEMU" -machine pc -S -nodefaults -display none -m 32 -qmp stdio > "$OUT" 2>&1 &
CODE=0
wait $! || CODE=$?
if grep -q 'CommandNotFound' "$OUT"; then
    echo "This QEMU has no such command."
    VERDICT=2
elif ! grep -q 'poll-max-ns' "$OUT"; then
    cat "$OUT"
    echo "QEMU does not answer the control."
elif grep -q '"id": "remote"' "$OUT"; then
    echo "QEMU answers, as it should."
    VERDICT=0
elif [ "$CODE" -gt 128 ]; then
    grep -i 'assert' "$OUT" || true
    echo "QEMU has ended with the exit code $CODE when it was asked for the properties of a type."
    VERDICT=1
else
    cat "$OUT"
fi
