#!/bin/sh
# F16: if the kernel refuses a userfaultfd call, the background snapshot fails without a reason.
# Usage: [ACCEL=kvm] f16-failed-without-reason.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# QEMU may open only one more file, the snapshot, so that no descriptor is left for the userfaultfd. A QEMU
# without "file:" instead gets memory on a disk file after the capability was set; userfaultfd cannot protect it.
# Needs prlimit (util-linux), and /var/tmp on a disk. Takes 5 to 9 s.
set -eu
QEMU=$1
VERDICT=3
"$QEMU" --version > /dev/null || exit 3
DIR=$(mktemp -d /var/tmp/f16.XXXXXX) || exit 3
# QMP is not on standard input because QEMU may close it; see F5.
mkfifo "$DIR/qmp.in" "$DIR/qmp.out"
"$QEMU" -nodefaults -display none -accel "${ACCEL:-tcg}" -m 16,slots=1,maxmem=1G -qmp "pipe:$DIR/qmp" \
    < /dev/null > "$DIR/out" 2>&1 &
PID=$!
exec 3<> "$DIR/qmp.in"
cat "$DIR/qmp.out" >> "$DIR/out" &
CAT=$!
trap 'kill -9 $PID $CAT 2> /dev/null || true; rm -r "$DIR"; exit $VERDICT' EXIT
# Without a trap of its own, a signal would end the shell without running the EXIT trap.
trap exit HUP INT PIPE TERM
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
if grep "Invalid parameter 'background-snapshot'" "$DIR/out"; then
    VERDICT=2
    exit
fi
if grep -q 'valid migration protocol\|unknown migration protocol' "$DIR/out"; then
    prlimit --pid "$PID" --nofile=1024:
    echo "{\"execute\": \"object-add\", \"arguments\": {\"qom-type\": \"memory-backend-file\", \"id\": \"m\",
           \"size\": 134217728, \"share\": true, \"mem-path\": \"$DIR/ram\"}}" >&3
    echo '{"execute": "device_add", "arguments": {"driver": "pc-dimm", "memdev": "m"}}' >&3
    sleep 2
    echo '{"execute": "migrate", "arguments": {"uri": "exec:cat > /dev/null"}}' >&3
    sleep 2
fi
echo '{"execute": "query-migrate", "id": "answered"}' >&3
sleep 1
ANSWER=$(grep '"id": "answered"' "$DIR/out" | grep '"status": "failed"')
echo "$ANSWER" | cut -c1-300
VERDICT=0
if ! echo "$ANSWER" | grep -q '"error-desc"'; then
    VERDICT=1
fi
