#!/bin/sh
# F6: while the sink of a background snapshot does not read, one write by a device hangs all of QEMU.
# Usage: [ACCEL=kvm] f6-stalled-sink-hangs-monitor.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# qtest takes the place of a device: the main loop does its write, like that of a network card. Takes about 6 s.
set -eu
QEMU=$1
VERDICT=3
"$QEMU" --version > /dev/null || exit 3
DIR=$(mktemp -d) || exit 3
mkfifo "$DIR/in" "$DIR/test.in" "$DIR/test.out"
"$QEMU" -nodefaults -display none -accel "${ACCEL:-tcg}" -m 256 -qmp stdio -qtest "pipe:$DIR/test" -qtest-log none \
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
echo '{"execute": "migrate", "arguments": {"uri": "exec:exec sleep 30"}}' >&3
sleep 2
if grep 'Invalid parameter' "$DIR/out"; then
    VERDICT=2
    exit
fi
echo 'write 0xc000000 0x4 0x12345678' >&4
sleep 1
echo '{"execute": "query-status", "id": "answered"}' >&3
sleep 3
SINK=$(pgrep -P $PID sleep || true)
if grep -q '"id": "answered"' "$DIR/out"; then
    kill $SINK || true
    echo "QEMU answers."
    VERDICT=0
    exit
fi
grep -q '"id": "before"' "$DIR/out"
kill -0 $PID
echo "No answer on QMP within 3 s. The threads of QEMU wait in:"
for TASK in /proc/$PID/task/*; do
    echo "    $(cat "$TASK/comm"): $(cat "$TASK/wchan")"
done
kill $SINK || true
sleep 1
grep -q '"id": "answered"' "$DIR/out" && echo "QEMU answers after the sink was killed."
VERDICT=1
exit
