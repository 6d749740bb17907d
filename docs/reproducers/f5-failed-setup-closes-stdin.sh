#!/bin/sh
# F5: a background snapshot that fails while it is set up closes QEMU's file descriptor 0.
# Usage: [ACCEL=kvm] f5-failed-setup-closes-stdin.sh QEMU [next]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# The sink ends at once, so that QEMU's first write fails. Since QEMU's write races with the end of the sink,
# there are up to 20 saves. With "next", three snapshots to a good sink follow; nothing else takes descriptor 0,
# and the question is whether they succeed. Takes at most 15 s.
set -eu
QEMU=$1
NEXT=${2:-}
VERDICT=3
"$QEMU" --version > /dev/null || exit 3
DIR=$(mktemp -d) || exit 3
mkfifo "$DIR/in" "$DIR/qmp.in" "$DIR/qmp.out"
if [ "$NEXT" ]; then
    # QMP is not on standard input, which will be closed.
    cat < "$DIR/qmp.out" > "$DIR/out" &
    "$QEMU" -nodefaults -display none -accel "${ACCEL:-tcg}" -m 16 -qmp "pipe:$DIR/qmp" \
        < /dev/null > "$DIR/log" 2>&1 &
    PID=$!
    trap 'kill -9 $PID 2> /dev/null || true; rm -r "$DIR"; exit $VERDICT' EXIT
    exec 3<> "$DIR/qmp.in"
else
    "$QEMU" -nodefaults -display none -accel "${ACCEL:-tcg}" -m 16 -qmp stdio < "$DIR/in" > "$DIR/out" 2>&1 &
    PID=$!
    trap 'kill -9 $PID 2> /dev/null || true; rm -r "$DIR"; exit $VERDICT' EXIT
    exec 3> "$DIR/in"
fi
# Without a trap of its own, a signal would end the shell without running the EXIT trap.
trap exit HUP INT PIPE TERM
trap '' PIPE
echo '{"execute": "qmp_capabilities"}' >&3
echo '{"execute": "migrate-set-capabilities", "arguments":
       {"capabilities": [{"capability": "background-snapshot", "state": true}]}}' >&3
sleep 1
BEFORE=$(readlink "/proc/$PID/fd/0")
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    echo '{"execute": "migrate", "arguments": {"uri": "exec:exit 1"}}' >&3 || break
    sleep 0.4
    AFTER=$(readlink "/proc/$PID/fd/0" || true)
    [ "$AFTER" = "$BEFORE" ] || break
done
if grep 'Invalid parameter' "$DIR/out"; then
    VERDICT=2
    exit
fi
kill -0 $PID
grep -q '"return"' "$DIR/out"
grep 'ram_save_setup\|"error"' "$DIR/out" || true
if [ "$AFTER" = "$BEFORE" ]; then
    echo "Descriptor 0 of QEMU is still '$AFTER'."
    VERDICT=0
    exit
fi
echo "Descriptor 0 of QEMU was '$BEFORE' and is now '${AFTER:-closed}'."
if [ ! "$NEXT" ]; then
    VERDICT=1
    exit
fi
FAILED=0
for NUMBER in 1 2 3; do
    echo "{\"execute\": \"migrate\", \"arguments\": {\"uri\":
           \"exec:readlink /proc/self/fd/0 > $DIR/stdin; cat > $DIR/vmstate\"}}" >&3
    sleep 1
    echo "{\"execute\": \"query-migrate\", \"id\": \"next-$NUMBER\"}" >&3
    sleep 0.3
    if grep "\"id\": \"next-$NUMBER\"" "$DIR/out" | grep -q '"status": "failed"'; then
        FAILED=$((FAILED + 1))
    fi
done
kill -0 $PID
grep -q '"id": "next-3"' "$DIR/out"
echo "$FAILED of 3 snapshots that followed failed; the standard input of their command was '$(cat "$DIR/stdin")'."
VERDICT=$((FAILED > 0))
