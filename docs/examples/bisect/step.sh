#!/bin/sh
# One step of a bisection: build, then test what was built. Run by `git bisect run`.
# Without this git would take a missing command for a bad commit.
command -v snapproof >/dev/null || exit 255
# A commit that does not build cannot be tested: 125.
./build.sh || exit 125
exec snapproof run --bisect --profile nightly --filter snapshot.live-sequential-1-vcpus --seed 1 --qemu ./qemu
