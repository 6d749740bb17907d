#!/bin/sh
# F14: QEMU says that the host kernel does not support background snapshots when it only forbids them.
# Usage: [ACCEL=kvm] f14-forbidden-called-unsupported.sh QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# QEMU may open no further file at first; then the limit is as before. Needs prlimit (util-linux) and a user
# who may create a userfaultfd with the system call. Takes 3 s.
set -eu
QEMU=$1
VERDICT=3
"$QEMU" --version > /dev/null || exit 3
DIR=$(mktemp -d) || exit 3
mkfifo "$DIR/in"
"$QEMU" -nodefaults -display none -accel "${ACCEL:-tcg}" -m 16 -qmp stdio < "$DIR/in" > "$DIR/out" 2>&1 &
PID=$!
trap 'kill -9 $PID 2> /dev/null || true; rm -r "$DIR"; exit $VERDICT' EXIT
# Without a trap of its own, a signal would end the shell without running the EXIT trap.
trap exit HUP INT PIPE TERM
exec 3> "$DIR/in"
set_capability() {
    echo "{\"execute\": \"migrate-set-capabilities\", \"id\": \"$1\", \"arguments\":
           {\"capabilities\": [{\"capability\": \"background-snapshot\", \"state\": true}]}}" >&3
    sleep 0.5
}
echo '{"execute": "qmp_capabilities"}' >&3
sleep 1
BEFORE=$(prlimit --pid "$PID" --nofile --noheadings --output SOFT)
FREE=0
while [ -e "/proc/$PID/fd/$FREE" ]; do
    FREE=$((FREE + 1))
done
prlimit --pid "$PID" --nofile="$FREE:"
set_capability without-descriptors
prlimit --pid "$PID" --nofile="$BEFORE:"
set_capability with-descriptors
grep '"id"' "$DIR/out"
if ! grep -q '"return": {}.*"id": "with-descriptors"\|"id": "with-descriptors".*"return": {}' "$DIR/out"; then
    VERDICT=2
    exit
fi
VERDICT=0
if grep -q 'without-descriptors.*not supported by host kernel' "$DIR/out"; then
    VERDICT=1
fi
