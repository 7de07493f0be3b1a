#!/bin/sh
# growthbook.sh BUILD - 100,000 ids: who gets which arm here, and in the npm package
# @growthbook/growthbook, which is installed below BUILD at first.
set -eu
cd "$(dirname "$0")/../.."
. scripts/common.sh

version=1.8.0
recallctl=$1/release/recallctl
mkdir -p "$1/parity/growthbook"
dir=$(cd "$1/parity/growthbook" && pwd)

command -v npm >/dev/null || die "npm is missing (apt install npm)"
if ! grep -qs "\"version\": \"$version\"" "$dir/node_modules/@growthbook/growthbook/package.json"; then
    say "installing @growthbook/growthbook $version ..."
    npm install --prefix "$dir" --no-audit --no-fund --silent "@growthbook/growthbook@$version"
fi

# Numbers, UUIDs, names, long ones, any printable character: ASCII, where both hash the same.
/usr/bin/python3 - "$dir" <<'PYTHON'
import json, random, string, sys, uuid

rng = random.Random(20261124)
printable = "".join(c for c in string.printable if c.isprintable())
ids = {str(i) for i in range(25000)}
ids |= {str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(25000)}
ids |= {"user:%d@example.org" % rng.randrange(10**12) for _ in range(25000)}
while len(ids) < 100000:
    id = "".join(rng.choices(printable, k=rng.randrange(1, 200))).strip()
    ids.add(id or "x")
with open(sys.argv[1] + "/ids", "w") as out:
    out.writelines(id + "\n" for id in sorted(ids))

def layer(name, seed, coverage, weights):
    return {"name": name, "seed": seed, "coverage": coverage,
            "arms": [{"name": "a%d" % i, "weight": w} for i, w in enumerate(weights)]}

layers = [layer("halves", "halves", 1, [0.5, 0.5]),
          layer("thirds", "model-2026-11", 1, [0.333333, 0.333333, 0.333334]),
          layer("uneven", "a b/c", 0.37, [0.1, 0.2, 0.7]),
          layer("rare", "x", 0.01, [0.5, 0.5]),
          layer("many", "\"'\\", 0.9, [1 / 32] * 32)]
json.dump({"version": 1, "hash": "growthbook-v2", "layers": layers}, open(sys.argv[1] + "/experiments.json", "w"))
PYTHON

"$recallctl" experiments assign "$dir/experiments.json" --ids "$dir/ids" >"$dir/assigned"
NODE_PATH=$dir/node_modules node tests/parity/growthbook.js "$dir/ids" "$dir/experiments.json" "$dir/assigned"
