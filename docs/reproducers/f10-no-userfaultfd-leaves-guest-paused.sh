#!/bin/sh
# F10: a background snapshot that gets no userfaultfd leaves the guest paused.
# Usage: f10-no-userfaultfd-leaves-guest-paused.sh QEMU    Exit code: 1 the defect shows, 0 it does not, 2 not applicable.
# QEMU may open one more file: that of the snapshot, so that none is left for the userfaultfd. Needs
# prlimit (util-linux). Takes 5 s.
set -eu
QEMU=$1
DIR=$(mktemp -d)
mkfifo "$DIR/qmp.in" "$DIR/qmp.out"
"$QEMU" -nodefaults -display none -accel tcg -m 16 -qmp "pipe:$DIR/qmp" < /dev/null > "$DIR/out" 2>&1 &
PID=$!
exec 3<> "$DIR/qmp.in"
cat "$DIR/qmp.out" >> "$DIR/out" &
trap 'kill -9 $PID 2> /dev/null || true; rm -r "$DIR"' EXIT
echo '{"execute": "qmp_capabilities"}' >&3
echo '{"execute": "migrate-set-capabilities", "arguments":
       {"capabilities": [{"capability": "background-snapshot", "state": true}]}}' >&3
sleep 1
FREE=0
while [ -e "/proc/$PID/fd/$FREE" ]; do
    FREE=$((FREE + 1))
done
prlimit --pid "$PID" --nofile=$((FREE + 1)):
echo "{\"execute\": \"migrate\", \"arguments\": {\"uri\": \"file:$DIR/vmstate\"}}" >&3
sleep 2
echo '{"execute": "query-migrate"}' >&3
echo '{"execute": "query-status", "id": "answered"}' >&3
sleep 1
if grep 'Invalid parameter\|valid migration protocol\|unknown migration protocol' "$DIR/out"; then
    exit 2
fi
grep -o '"status": "failed".*' "$DIR/out" || true
# It was /dev/null: see F5.
echo "Descriptor 0 of QEMU is '$(readlink "/proc/$PID/fd/0" || echo closed)'."
grep '"id": "answered"' "$DIR/out"
! grep -q '"status": "paused".*"id": "answered"' "$DIR/out"
