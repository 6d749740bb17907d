#!/bin/sh
# F3: a `migrate` right after a completed background snapshot is refused or aborts QEMU.
# Usage: [ACCEL=kvm] f3-migrate-after-completed.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# This depends on timing: one of 1000 commands, a few milliseconds apart, has to arrive between the status
# "completed" and the end of QEMU's clean-up. Takes at most 10 s.
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
    N=0
    while [ $N -lt 1000 ] && ! grep -q 'duplicate yank\|Invalid parameter' "$OUT"; do
        echo '{"execute": "migrate", "arguments": {"uri": "exec:cat > /dev/null"}}'
        N=$((N + 1))
        sleep 0.003
    done
    sleep 2
    echo '{"execute": "query-migrate"}'
    sleep 1
    echo '{"execute": "quit"}'
} 2> /dev/null | "$QEMU" -nodefaults -display none -accel "${ACCEL:-tcg}" -m 16 -qmp stdio > "$OUT" 2>&1 || echo "QEMU ended by itself."
if grep 'Invalid parameter' "$OUT"; then
    VERDICT=2
    exit
fi
if grep 'duplicate yank instance' "$OUT"; then
    grep '"return": {"status"' "$OUT" | grep -o '"status": "[a-z]*"' || true
    VERDICT=1
    exit
fi
grep -o '"return": {"status": "[a-z]*"' "$OUT"
echo "QEMU accepted every save, or refused it with a clear reason."
VERDICT=0
