#!/bin/sh
# F12: a background snapshot with the capability `block` hangs all of QEMU as soon as a device writes to RAM.
# Usage: [ACCEL=kvm] f12-block-capability-hangs.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# qtest takes the place of a device: the main loop does its writes, like those of a network card. Takes about 20 s.
set -eu
QEMU=$1
VERDICT=3
"$QEMU" --version > /dev/null || exit 3
DIR=$(mktemp -d) || exit 3
mkfifo "$DIR/in" "$DIR/test.in" "$DIR/test.out"
"$QEMU" -nodefaults -display none -accel "${ACCEL:-tcg}" -m 512 -qmp stdio -qtest "pipe:$DIR/test" -qtest-log none \
    < "$DIR/in" > "$DIR/out" 2>&1 &
PID=$!
exec 3> "$DIR/in"
exec 4<> "$DIR/test.in"
exec 5<> "$DIR/test.out"
trap 'kill -9 $PID 2> /dev/null || true; rm -r "$DIR"; exit $VERDICT' EXIT
# Without a trap of its own, a signal would end the shell without running the EXIT trap.
trap exit HUP INT PIPE TERM
# Content, so that the save takes a while.
echo 'memset 0x100000 0x1e000000 0x5a' >&4
sleep 1
echo '{"execute": "qmp_capabilities"}' >&3
echo '{"execute": "query-status", "id": "before"}' >&3
echo '{"execute": "migrate-set-capabilities", "arguments":
       {"capabilities": [{"capability": "block", "state": true},
                         {"capability": "background-snapshot", "state": true}]}}' >&3
N=0
until [ "$(grep -c '"return"\|"error"' "$DIR/out")" -ge 3 ] || [ $N -ge 100 ]; do
    N=$((N + 1))
    sleep 0.1
done
if grep 'Invalid parameter\|not accept value\|not compatible' "$DIR/out"; then
    VERDICT=2
    exit
fi
# The sink is slow: QEMU takes the lock once in each round of saving RAM, and a write must come just before.
SLOWLY='while [ $(dd bs=1M count=1 iflag=fullblock 2> /dev/null | wc -c) -gt 0 ]; do sleep 0.02; done'
echo "{\"execute\": \"migrate\", \"arguments\": {\"uri\": \"exec:$SLOWLY\"}}" >&3
N=0
while [ $N -lt 1600 ]; do
    printf 'write 0x%x 0x4 0x12345678\n' $((0x1c000000 - N * 0x10000)) >&4
    N=$((N + 1))
    sleep 0.005
done
echo '{"execute": "query-status", "id": "answered"}' >&3
sleep 3
if grep -q '"id": "answered"' "$DIR/out"; then
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
VERDICT=1
exit
