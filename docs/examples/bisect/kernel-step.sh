#!/bin/sh
# One step of a bisection of Linux: compile, then run feature tests in a VM with it. Run by `git bisect run`.
# A commit that does not compile cannot be tested: 125.
make -s -j"$(nproc)" bzImage || exit 125
exec snapproof kernel --bisect --host vm:arch/x86/boot/bzImage --filter 'coverage.anon.*'
