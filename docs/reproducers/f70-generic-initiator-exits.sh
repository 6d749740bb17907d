#!/bin/sh
# F70: an object acpi-generic-initiator with a node that is too large has QEMU exit.
# Usage: f70-generic-initiator-exits.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# The control is an object of that type with an argument that it does not have, which QEMU refuses.
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
    echo '{"execute": "object-add", "id": "control", 
           "arguments": {"qom-type": "acpi-generic-initiator", "id": "a", "pci-dev": "none", "wrong": 1}}'
    sleep 1
    echo '{"execute": "object-add", "id": "node", 
           "arguments": {"qom-type": "acpi-generic-initiator", "id": "b", "pci-dev": "none", "node": 255}}'
    sleep 1
    echo '{"execute": "quit"}'
} 2> /dev/null | "$QEMU" -machine pc -S -nodefaults -display none -m 32 -qmp stdio > "$OUT" 2>&1 &
CODE=0
wait $! || CODE=$?
if grep -q "does not accept value 'acpi-generic-initiator'" "$OUT"; then
    echo "This QEMU has no such object."
    VERDICT=2
elif ! grep -q '"id": "control"' "$OUT"; then
    cat "$OUT"
    echo "QEMU does not answer the control."
elif grep -q '"id": "node"' "$OUT"; then
    echo "QEMU answers, as it should."
    VERDICT=0
elif [ "$CODE" -eq 1 ] && grep 'Invalid NUMA node' "$OUT"; then
    echo "QEMU has ended with the exit code $CODE when it was asked for an object that it had to refuse."
    VERDICT=1
else
    cat "$OUT"
fi
