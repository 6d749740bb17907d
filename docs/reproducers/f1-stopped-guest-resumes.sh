#!/bin/sh
# F1: a guest that was stopped before a background snapshot is running after it.
# Usage: f1-stopped-guest-resumes.sh QEMU    Exit code: 1 the defect shows, 0 it does not, 2 not applicable.
set -eu
QEMU=$1
OUT=$(mktemp)
trap 'rm -f "$OUT"' EXIT
{
    echo '{"execute": "qmp_capabilities"}'
    echo '{"execute": "migrate-set-capabilities", "arguments":
           {"capabilities": [{"capability": "background-snapshot", "state": true}]}}'
    sleep 1
    echo '{"execute": "stop"}'
    echo '{"execute": "migrate", "arguments": {"uri": "exec:cat > /dev/null"}}'
    sleep 2
    echo '{"execute": "query-status"}'
    sleep 1
    echo '{"execute": "quit"}'
} | "$QEMU" -nodefaults -display none -accel tcg -m 64 -qmp stdio > "$OUT" 2>&1
if grep -q '"desc"' "$OUT"; then
    grep -o '"desc": "[^"]*"' "$OUT"
    exit 2
fi
if grep '"return"' "$OUT" | grep -Eq '"running": true'; then
    echo "The stopped guest is running after the snapshot: QEMU resumed it by itself."
    exit 1
fi
echo "The stopped guest is still stopped after the snapshot, as it should be."
