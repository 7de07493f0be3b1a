#!/bin/sh
# floors.sh - checks who may include what, and prints each include that may not be there.
#
# A file includes the public header of its own module and of modules on lower floors, no
# others; a header of a library is included only in the module that wraps it.
set -eu
cd "$(dirname "$0")/.."

floors='
7 recalld recallctl
6 http eval ctr
5 recall
4 bundle experiment behaviour journal
3 model items index
2.5 config
2 ckpt settings metrics redis blas
1 base vec
'
wrappers='
faiss/ index
hiredis redis
cblas.h blas
openblas blas
microhttpd.h http
openssl/ base
xxhash.h base
zlib.h journal
zstd.h journal
'

grep -nE '^ *# *include *[<"]' src/*/*.[ch] src/*/*.cpp include/recalld/*.h 2>/dev/null |
    awk -v floors="$floors" -v wrappers="$wrappers" '
    function complain(why) { print file ":" line ": " why; bad = 1 }
    BEGIN {
        n = split(floors, row, "\n")
        for (i = 1; i <= n; i++) {
            m = split(row[i], w, " ")
            for (j = 2; j <= m; j++) floor[w[j]] = w[1]
        }
        n_wrap = split(wrappers, row, "\n")
        for (i = 1; i <= n_wrap; i++) { split(row[i], w, " "); lib[i] = w[1]; owner[i] = w[2] }
    }
    {
        split($0, part, ":"); file = part[1]; line = part[2]
        what = $0; sub(/.*include *[<"]/, "", what); sub(/[>"].*/, "", what)
        split(file, path, "/")
        module = path[1] == "src" ? path[2] : path[3]; sub(/\.h$/, "", module)
        if (!(module in floor)) { complain("module " module " stands on no floor"); next }
        if (what ~ /^recalld\//) {
            other = what; sub(/^recalld\//, "", other); sub(/\.h$/, "", other)
            if (!(other in floor)) complain(what " is of no known module")
            else if (other != module && floor[other] >= floor[module])
                complain(what " is on floor " floor[other] ", " module " on floor " floor[module])
        } else if (what ~ /\.\.\// || what ~ /^src\//)
            complain(what " reaches into another module")
        for (i = 1; i <= n_wrap; i++)
            if (lib[i] != "" && index(what, lib[i]) == 1 && module != owner[i])
                complain(what " may be included in " owner[i] " only")
    }
    END { exit bad }'
