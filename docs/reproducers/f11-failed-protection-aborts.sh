#!/bin/sh
# F11: a background snapshot that cannot protect some RAM ends QEMU, and with it the guest, by an assertion.
# Usage: [ACCEL=kvm] f11-failed-protection-aborts.sh QEMU [FOLDER]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# Memory on a disk file, which userfaultfd cannot protect, is plugged in after the capability was set.
# FOLDER (default /var/tmp) must be on a disk file system, not tmpfs. Takes 6 s.
set -eu
QEMU=$1
VERDICT=3
"$QEMU" --version > /dev/null || exit 3
DIR=$(mktemp -d "${2:-/var/tmp}/f11.XXXXXX") || exit 3
mkfifo "$DIR/qmp.in" "$DIR/qmp.out"
"$QEMU" -nodefaults -display none -accel "${ACCEL:-tcg}" -m 64,slots=1,maxmem=1G -qmp "pipe:$DIR/qmp" \
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
echo "{\"execute\": \"object-add\", \"arguments\": {\"qom-type\": \"memory-backend-file\", \"id\": \"m\",
       \"size\": 134217728, \"share\": true, \"mem-path\": \"$DIR/ram\"}}" >&3
echo '{"execute": "device_add", "arguments": {"driver": "pc-dimm", "memdev": "m"}}' >&3
sleep 2
echo '{"execute": "migrate", "arguments": {"uri": "exec:cat > /dev/null"}}' >&3
# On a busy host the save takes its time to fail.
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    sleep 1
    kill -0 $PID 2> /dev/null || break
    grep -q '"status": "failed"\|"status": "completed"\|Invalid parameter' "$DIR/out" && break
    echo '{"execute": "query-migrate"}' >&3
done
echo '{"execute": "query-status", "id": "answered"}' >&3
sleep 1
if grep "Parameter 'background-snapshot'\|Invalid parameter" "$DIR/out"; then
    VERDICT=2
    exit
fi
grep -o '"desc": .*\|"status": "failed".*\|qemu-system.*' "$DIR/out" || true
if kill -0 $PID 2> /dev/null; then
    grep '"id": "answered"' "$DIR/out"
    grep -q '"status": "failed"\|"status": "completed"' "$DIR/out"
    VERDICT=0
    exit
fi
grep -q 'Assertion' "$DIR/out"
echo "QEMU is gone."
VERDICT=1
exit
