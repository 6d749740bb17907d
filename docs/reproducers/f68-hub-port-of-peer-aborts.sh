#!/bin/sh
# F68: a hub port for a network backend that a network card has already aborts QEMU.
# Usage: f68-hub-port-of-peer-aborts.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# The control is a hub port for a backend that there is not, which QEMU refuses.
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
    echo '{"execute": "netdev_add", "id": "control", 
           "arguments": {"type": "hubport", "id": "a", "hubid": 0, "netdev": "none"}}'
    sleep 1
    echo '{"execute": "netdev_add", "id": "taken", 
           "arguments": {"type": "hubport", "id": "b", "hubid": 0, "netdev": "net"}}'
    sleep 1
    echo '{"execute": "quit"}'
} 2> /dev/null | "$QEMU" -machine pc -S -nodefaults -display none -m 32 \
    -netdev hubport,id=net,hubid=1 -device e1000,netdev=net -qmp stdio > "$OUT" 2>&1 &
CODE=0
wait $! || CODE=$?
if grep -q 'CommandNotFound' "$OUT"; then
    echo "This QEMU has no such command."
    VERDICT=2
elif ! grep -q '"id": "control".*not found' "$OUT"; then
    cat "$OUT"
    echo "QEMU does not answer the control."
elif grep -q '"id": "taken"' "$OUT"; then
    echo "QEMU answers, as it should."
    VERDICT=0
elif [ "$CODE" -gt 128 ]; then
    grep -i 'assert' "$OUT" || true
    echo "QEMU has ended with the exit code $CODE when it was asked for a hub port."
    VERDICT=1
else
    cat "$OUT"
fi
