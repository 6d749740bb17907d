#!/bin/sh
# F33: at times QEMU refuses to restore a guest with the device uefi-vars-x64, from a file that it takes at other times.
# Usage: [ACCEL=kvm] f33-uefi-vars-refused.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# One file, saved by an ordinary migration, is restored up to 40 times. It shows in about one of 15 to 60.
set -eu
QEMU=$1
VERDICT=3
"$QEMU" --version > /dev/null || exit 3
DIR=$(mktemp -d) || exit 3
trap 'rm -rf "$DIR"; exit $VERDICT' EXIT
# Without a trap of its own, a signal would end the shell without running the EXIT trap.
trap exit HUP INT PIPE TERM

# Run QEMU with further arguments; QMP commands come from standard input.
guest() {
    "$QEMU" -nodefaults -display none -accel "${ACCEL:-tcg}" -m 16 -qmp stdio -device uefi-vars-x64 "$@" 2>&1
}

if ! "$QEMU" -device help 2> /dev/null | grep -q '"uefi-vars-x64"'; then
    echo "This QEMU has no device uefi-vars-x64."
    VERDICT=2
    exit
fi
{
    echo '{"execute": "qmp_capabilities"}'
    echo '{"execute": "migrate", "arguments": {"uri": "exec:cat > '"$DIR"'/file"}}'
    sleep 2
    echo '{"execute": "query-migrate"}'
    sleep 0.5
    echo '{"execute": "quit"}'
} | guest > "$DIR/saved" || true
grep -q '"status": "completed"' "$DIR/saved" || { cat "$DIR/saved"; echo "The save did not complete."; exit; }
TAKEN=0
for TRY in $(seq 40); do
    {
        echo '{"execute": "qmp_capabilities"}'
        sleep 1
        echo '{"execute": "query-status"}'
        sleep 0.2
        echo '{"execute": "quit"}'
    } 2> /dev/null | guest -incoming "exec:cat $DIR/file" > "$DIR/out" || true
    if grep -q 'invalid uefi variable' "$DIR/out"; then
        grep -o 'invalid uefi variable\|load of migration failed.*' "$DIR/out"
        echo "QEMU refused the file at the restore number $TRY, and took it in $TAKEN before."
        VERDICT=1
        exit
    fi
    if grep -q '"running": true' "$DIR/out"; then
        TAKEN=$((TAKEN + 1))
    fi
done
if [ "$TAKEN" -eq 0 ]; then
    cat "$DIR/out"
    exit
fi
echo "QEMU took the file in each of $TAKEN restores."
VERDICT=0
