#!/bin/sh
# F1: a guest that was stopped before a background snapshot is running after it.
# Usage: [ACCEL=kvm] f1-stopped-guest-resumes.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
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
    echo '{"execute": "migrate-set-capabilities", "arguments":
           {"capabilities": [{"capability": "background-snapshot", "state": true}]}}'
    sleep 1
    echo '{"execute": "stop"}'
    echo '{"execute": "migrate", "arguments": {"uri": "exec:cat > /dev/null"}}'
    sleep 2
    echo '{"execute": "query-migrate"}'
    echo '{"execute": "query-status"}'
    sleep 1
    echo '{"execute": "quit"}'
} | "$QEMU" -nodefaults -display none -accel "${ACCEL:-tcg}" -m 64 -qmp stdio > "$OUT" 2>&1
if grep -q '"desc"' "$OUT"; then
    grep -o '"desc": "[^"]*"' "$OUT"
    VERDICT=2
    exit
fi
grep -o '"status": "completed"' "$OUT"
RUNNING=$(grep -o '"running": [a-z]*' "$OUT")
if [ "$RUNNING" = '"running": true' ]; then
    echo "The stopped guest is running after the snapshot: QEMU resumed it by itself."
    VERDICT=1
    exit
fi
echo "The stopped guest is still stopped after the snapshot, as it should be."
VERDICT=0
