#!/bin/sh
# F7: QEMU does nothing else while it waits for the command of an exec: URI to end.
# Usage: [ACCEL=kvm] f7-waits-for-command.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# The command closes its input, so that the save fails, and runs for 8 s more. Takes about 12 s.
set -eu
QEMU=$1
VERDICT=3
"$QEMU" --version > /dev/null || exit 3
DIR=$(mktemp -d) || exit 3
mkfifo "$DIR/in"
"$QEMU" -nodefaults -display none -accel "${ACCEL:-tcg}" -S -m 16 -qmp stdio < "$DIR/in" > "$DIR/out" 2>&1 &
PID=$!
exec 3> "$DIR/in"
trap 'kill -9 $PID 2> /dev/null || true; rm -r "$DIR"; exit $VERDICT' EXIT
# Without a trap of its own, a signal would end the shell without running the EXIT trap.
trap exit HUP INT PIPE TERM
echo '{"execute": "qmp_capabilities"}' >&3
echo '{"execute": "query-status", "id": "before"}' >&3
echo '{"execute": "migrate", "arguments": {"uri": "exec:head -c 65536 > /dev/null; exec <&-; exec sleep 8"}}' >&3
sleep 2
echo '{"execute": "query-status", "id": "answered"}' >&3
sleep 4
if grep -q '"id": "answered"' "$DIR/out"; then
    echo "QEMU answered in time."
    VERDICT=0
    exit
fi
grep -q '"id": "before"' "$DIR/out"
kill -0 $PID
echo "No answer on QMP within 4 s."
sleep 4
grep -q '"id": "answered"' "$DIR/out" && echo "QEMU answers after the command has ended."
VERDICT=1
exit
