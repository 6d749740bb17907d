#!/bin/sh
# F13: a suspended guest (ACPI S3) runs after a background snapshot, and restored from it never wakes up.
# Usage: [ACCEL=kvm] f13-suspended-guest-lost.sh QEMU [plain]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# qtest takes the place of the guest: it writes to the register that suspends the machine. With "plain", or if
# QEMU has no background snapshots, an ordinary migration is used instead. Takes about 10 s.
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
# The firmware sets up the register's address, 0x600 + 4 (SeaBIOS, machine type "pc").
sleep 3
echo 'outw 0x604 0x2400' >&4
sleep 1
echo '{"execute": "qmp_capabilities"}' >&3
[ "${2:-}" = plain ] || echo '{"execute": "migrate-set-capabilities", "arguments":
    {"capabilities": [{"capability": "background-snapshot", "state": true}]}}' >&3
echo '{"execute": "query-status", "id": "before"}' >&3
echo "{\"execute\": \"migrate\", \"arguments\": {\"uri\": \"exec:cat > $DIR/vmstate\"}}" >&3
sleep 3
echo '{"execute": "query-status", "id": "after"}' >&3
echo '{"execute": "quit"}' >&3
wait $PID || true
PLAIN=${2:-}
if grep 'Invalid parameter' "$DIR/out"; then
    PLAIN=plain
fi
[ -s "$DIR/vmstate" ]
{
    echo '{"execute": "qmp_capabilities"}'
    sleep 2
    echo '{"execute": "query-status", "id": "restored"}'
    echo '{"execute": "system_wakeup", "id": "woken"}'
    sleep 1
    echo '{"execute": "quit"}'
} | "$QEMU" -nodefaults -display none -accel "${ACCEL:-tcg}" -m 64 -qmp stdio -incoming "exec:cat $DIR/vmstate" \
    >> "$DIR/out" 2>&1 || true
grep '"id"' "$DIR/out"
if grep '"id": "before"' "$DIR/out" | grep -q '"suspended"' && grep -q '"id": "woken"' "$DIR/out"; then
    [ "$PLAIN" = plain ] || LOOK="\"id\": \"after\"\\|"
    VERDICT=0
    if grep "${LOOK:-}\"id\": \"restored\"" "$DIR/out" | grep -qv "\"suspended\""; then
        VERDICT=1
    fi
    exit
fi
echo "The machine could not be suspended, or could not be restored."
