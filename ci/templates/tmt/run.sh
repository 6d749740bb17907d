#!/bin/sh
# One shard of the tests. tmt gives it TMT_*, the plan PROFILE, QEMU and SHARD.
set -u
PATH=$TMT_PLAN_DATA/venv/bin:$PATH
# Below $TMT_TEST_DATA, so that tmt fetches the logs, but not in it: tmt would read our results.json as its own.
results=$TMT_TEST_DATA/snapproof
snapproof run --profile "$PROFILE" --qemu "$QEMU" --shard "$SHARD" --results "$results"
code=$?
# Where there are no results there is no results.yaml either, and tmt calls the test an error.
snapproof report render "$results" --format tmt --output "$TMT_TEST_DATA/results.yaml"
exit "$code"
