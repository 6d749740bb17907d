#!/bin/sh
# F9: after a background snapshot whose sink broke, guest RAM stays protected and QEMU hangs for good.
# Usage: [ACCEL=kvm] f9-failed-save-hangs-guest.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# A write by qtest takes the place of a write by the guest or a device. Takes about 8 s.
set -eu
QEMU=$1
VERDICT=3
"$QEMU" --version > /dev/null || exit 3
DIR=$(mktemp -d) || exit 3
mkfifo "$DIR/in" "$DIR/test.in" "$DIR/test.out"
"$QEMU" -nodefaults -display none -accel "${ACCEL:-tcg}" -m 64 -qmp stdio -qtest "pipe:$DIR/test" -qtest-log none \
    < "$DIR/in" > "$DIR/out" 2>&1 &
PID=$!
exec 3> "$DIR/in"
exec 4<> "$DIR/test.in"
exec 5<> "$DIR/test.out"
trap 'kill -9 $PID 2> /dev/null || true; rm -r "$DIR"; exit $VERDICT' EXIT
# Without a trap of its own, a signal would end the shell without running the EXIT trap.
trap exit HUP INT PIPE TERM
echo '{"execute": "qmp_capabilities"}' >&3
echo '{"execute": "query-status", "id": "before"}' >&3
echo '{"execute": "migrate-set-capabilities", "arguments":
       {"capabilities": [{"capability": "background-snapshot", "state": true}]}}' >&3
sleep 1
echo '{"execute": "migrate", "arguments": {"uri": "exec:head -c 65536 > /dev/null"}}' >&3
sleep 2
if grep 'Invalid parameter' "$DIR/out"; then
    VERDICT=2
    exit
fi
echo '{"execute": "query-migrate"}' >&3
sleep 1
grep -o '"status": "failed"' "$DIR/out"
echo 'write 0x3000000 0x4 0x12345678' >&4
sleep 1
echo '{"execute": "query-status", "id": "answered"}' >&3
sleep 3
if grep '"id": "answered"' "$DIR/out"; then
    VERDICT=0
    exit
fi
grep -q '"id": "before"' "$DIR/out"
kill -0 $PID
echo "No answer on QMP within 3 s. The threads of QEMU wait in:"
for TASK in /proc/$PID/task/*; do
    echo "    $(cat "$TASK/comm"): $(cat "$TASK/wchan")"
done
VERDICT=1
exit
