#!/bin/sh
# F2: background-snapshot with mapped-ram completes and loses all of RAM.
# Usage: [ACCEL=kvm] f2-mapped-ram-loses-ram.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
set -eu
QEMU=$1
VERDICT=3
"$QEMU" --version > /dev/null || exit 3
DIR=$(mktemp -d) || exit 3
trap 'rm -rf "$DIR"; exit $VERDICT' EXIT
# Without a trap of its own, a signal would end the shell without running the EXIT trap.
trap exit HUP INT PIPE TERM
# Asks until the answers in file $1 say that the migration is over; where QEMU has ended, writing ends this too.
ask_until_over() {
    until grep -q -e '"status": "completed"' -e '"status": "failed"' -e '"desc"' "$1"; do
        echo '{"execute": "query-migrate"}'
        sleep 0.1
    done
}
MACHINE="-nodefaults -display none -accel ${ACCEL:-tcg} -m 64 -qmp stdio -S"
{
    echo '{"execute": "qmp_capabilities"}'
    echo '{"execute": "cont"}'
    sleep 3
    echo '{"execute": "stop"}'
    echo '{"execute": "pmemsave", "arguments": {"val": 0, "size": 1048576, "filename": "'"$DIR"'/before"}}'
    echo '{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [
           {"capability": "background-snapshot", "state": true}, {"capability": "mapped-ram", "state": true}]}}'
    echo '{"execute": "migrate", "arguments": {"uri": "file:'"$DIR"'/vmstate"}}'
    ask_until_over "$DIR/save"
    echo '{"execute": "quit"}'
} | "$QEMU" $MACHINE > "$DIR/save" 2>&1
if grep -q '"desc"' "$DIR/save"; then
    grep -o '"desc": "[^"]*"' "$DIR/save"
    VERDICT=2
    exit
fi
grep -o '"status": "completed"' "$DIR/save"
{
    echo '{"execute": "qmp_capabilities"}'
    echo '{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [
           {"capability": "mapped-ram", "state": true}]}}'
    echo '{"execute": "migrate-incoming", "arguments": {"uri": "file:'"$DIR"'/vmstate"}}'
    ask_until_over "$DIR/restore"
    echo '{"execute": "pmemsave", "arguments": {"val": 0, "size": 1048576, "filename": "'"$DIR"'/after"}}'
    echo '{"execute": "quit"}'
} | "$QEMU" $MACHINE -incoming defer > "$DIR/restore" 2>&1 || true
if grep 'load of migration failed' "$DIR/restore"; then
    VERDICT=1
    exit
fi
[ -s "$DIR/after" ]
DIFFERENT=$(cmp -l "$DIR/before" "$DIR/after" | wc -l)
if [ "$DIFFERENT" -gt 0 ]; then
    echo "$DIFFERENT bytes of the first MiB of RAM differ after the restore."
    VERDICT=1
    exit
fi
echo "RAM is the same after the restore."
VERDICT=0
