#!/bin/sh
# F12: a background snapshot with the capability `block` hangs all of QEMU as soon as a device writes to RAM.
# Usage: f12-block-capability-hangs.sh QEMU    Exit code: 1 the defect shows, 0 it does not, 2 not applicable.
# The qtest protocol stands in for a device: its writes are done by the main loop, as those of a network
# card are. Takes about 10 s.
set -eu
QEMU=$1
DIR=$(mktemp -d)
mkfifo "$DIR/in" "$DIR/test.in" "$DIR/test.out"
"$QEMU" -nodefaults -display none -accel tcg -m 512 -qmp stdio -qtest "pipe:$DIR/test" -qtest-log none \
    < "$DIR/in" > "$DIR/out" 2>&1 &
PID=$!
exec 3> "$DIR/in"
exec 4<> "$DIR/test.in"
exec 5<> "$DIR/test.out"
trap 'kill -9 $PID 2> /dev/null || true; rm -r "$DIR"' EXIT
# Content, so that the save takes a while.
echo 'memset 0x100000 0x1e000000 0x5a' >&4
sleep 1
echo '{"execute": "qmp_capabilities"}' >&3
echo '{"execute": "migrate-set-capabilities", "arguments":
       {"capabilities": [{"capability": "block", "state": true},
                         {"capability": "background-snapshot", "state": true}]}}' >&3
until [ "$(grep -c '"return"\|"error"' "$DIR/out")" -ge 2 ]; do sleep 0.1; done
if grep 'Invalid parameter\|not accept value\|not compatible' "$DIR/out"; then
    exit 2
fi
echo '{"execute": "migrate", "arguments": {"uri": "exec:cat > /dev/null"}}' >&3
N=0
while [ $N -lt 400 ]; do
    printf 'write 0x%x 0x4 0x12345678\n' $((0x1c000000 - N * 0x10000)) >&4
    N=$((N + 1))
    sleep 0.005
done
echo '{"execute": "query-status", "id": "answered"}' >&3
sleep 3
if grep -q '"id": "answered"' "$DIR/out"; then
    echo "QEMU answers."
    exit 0
fi
echo "No answer on QMP within 3 s. The threads of QEMU wait in:"
for TASK in /proc/$PID/task/*; do
    echo "    $(cat "$TASK/comm"): $(cat "$TASK/wchan")"
done
exit 1
