#!/bin/sh
# F8: a save whose exec: command fails is reported as completed.
# Usage: [ACCEL=kvm] f8-failed-command-completes.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# The command reads everything and exits with 3, like a command that cannot store its input. Takes 3 s.
set -eu
QEMU=$1
VERDICT=3
"$QEMU" --version > /dev/null || exit 3
OUT=$(mktemp) || exit 3
trap 'rm -f "$OUT"; exit $VERDICT' EXIT
# Without a trap of its own, a signal would end the shell without running the EXIT trap.
trap exit HUP INT PIPE TERM
{
    echo '{"execute": "qmp_capabilities"}'
    echo '{"execute": "migrate", "arguments": {"uri": "exec:cat > /dev/null; exit 3"}}'
    sleep 2
    echo '{"execute": "query-migrate"}'
    sleep 1
    echo '{"execute": "quit"}'
} | "$QEMU" -nodefaults -display none -accel "${ACCEL:-tcg}" -m 16 -qmp stdio > "$OUT" 2> /dev/null
if grep -q '"status": "completed"' "$OUT"; then
    echo "The command failed with exit code 3, and the save is 'completed'."
    VERDICT=1
    exit
fi
grep -o '"status": "[a-z]*"' "$OUT"
VERDICT=0
