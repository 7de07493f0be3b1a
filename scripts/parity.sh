#!/bin/sh
# parity.sh VENV BUILD - has the frameworks in VENV write and run their models (tests/parity), and holds recalld
# against that. With PARITY_WRITE=1 the cases that agree become those of tests/golden/parity.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

python=$1/bin/python
cases=$2/parity/cases
log=$2/parity/log
rm -rf "$cases"
mkdir -p "$cases"
export PYTHONDONTWRITEBYTECODE=1

# TensorFlow first: the others write one of its models in formats of their own.
for framework in tensorflow torch paddle; do
    say "$framework writes and runs its models ..."
    "$python" "tests/parity/${framework}_models.py" "$cases" >"$log" 2>&1 || {
        cat "$log" >&2
        die "$framework failed"
    }
done
"$python" -m pip list --format=freeze | grep -iE '^(paddlepaddle|tensorflow.cpu|tf.keras|torch|torch.rechub|numpy)='
/usr/bin/python3 tests/parity/check.py "$2/release/recallctl" "$cases"

[ "${PARITY_WRITE-}" = 1 ] || exit 0
rm -rf tests/golden/parity
cp -r "$cases" tests/golden/parity
say "wrote tests/golden/parity"
