#!/bin/sh
# F69: an object colo-compare that is refused aborts QEMU, or hangs it.
# Usage: f69-refused-colo-compare.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# The control is a filter that is refused. A QEMU that hangs is killed after 30 s.
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
    echo '{"execute": "object-add", "id": "control", "arguments":
           {"qom-type": "filter-mirror", "id": "a", "netdev": "none", "outdev": "none"}}'
    sleep 1
    echo '{"execute": "object-add", "id": "compare", "arguments": {"qom-type": "colo-compare", "id": "b",
           "primary_in": "none", "secondary_in": "none", "outdev": "none", "iothread": "io"}}'
    sleep 1
    echo '{"execute": "quit"}'
} 2> /dev/null | timeout -s KILL 30 "$QEMU" -machine pc -S -nodefaults -display none -m 32 \
    -object iothread,id=io -qmp stdio > "$OUT" 2>&1 &
CODE=0
wait $! || CODE=$?
if grep -q 'CommandNotFound' "$OUT"; then
    echo "This QEMU has no such command."
    VERDICT=2
elif ! grep -q '"id": "control".*netdev' "$OUT"; then
    cat "$OUT"
    echo "QEMU does not answer the control."
elif grep -q '"id": "compare"' "$OUT"; then
    echo "QEMU answers, as it should."
    VERDICT=0
elif [ "$CODE" -eq 137 ]; then
    echo "QEMU does not answer, and does not quit, after an object that it had to refuse."
    VERDICT=1
elif [ "$CODE" -gt 128 ]; then
    grep -i 'assert' "$OUT" || true
    echo "QEMU has ended with the exit code $CODE after an object that it had to refuse."
    VERDICT=1
else
    cat "$OUT"
fi
