#!/bin/sh
# faiss.sh - builds Faiss with its C API for this machine, once, and prints where it is.
#
# Debian and Ubuntu ship Faiss without its C library and without AVX2. This fetches the
# distribution's own source package, with an apt configuration of its own (nothing is
# written below /etc/apt or to the machine's package lists, and no root is needed), has
# apt verify it, builds libfaiss.a and libfaiss_c.a, and keeps them in
#     ~/.cache/recalld/faiss-VERSION-RELEASE-LEVEL       (or below $XDG_CACHE_HOME)
# which later calls find at once. They are static: an installed program needs no cache.
# FAISS_PREFIX= names another Faiss, 1.7.3 or later, built with its C API, static or shared.
# The only line on stdout is the prefix.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"

FAISS_OLDEST=1.7.3
BUILD_MEGABYTES=150 # package lists, source and objects, until they are removed again

# The headers know the version even where there is no pkg-config file.
version_of() {
    header=$1/include/faiss/Index.h
    [ -r "$header" ] || return 1
    sed -n 's/^#define FAISS_VERSION_\(MAJOR\|MINOR\|PATCH\) *\([0-9]*\).*/\2/p' "$header" |
        paste -s -d . -
}

has_libraries() {
    for libdir in "$1/lib" "$1/lib64" "$1/lib/$(gcc -print-multiarch)"; do
        for kind in a so; do
            [ ! -e "$libdir/libfaiss.$kind" ] || [ ! -e "$libdir/libfaiss_c.$kind" ] || return 0
        done
    done
    return 1
}

# Explains what a prefix lacks, or prints nothing.
defect_of() {
    version=$(version_of "$1") || { echo "has no include/faiss/Index.h"; return; }
    if [ "$(printf '%s\n%s\n' $FAISS_OLDEST "$version" | sort -V | head -n 1)" != $FAISS_OLDEST ]; then
        echo "is Faiss $version, older than $FAISS_OLDEST"
    elif [ ! -r "$1/include/faiss/c_api/Index_c.h" ]; then
        echo "has no include/faiss/c_api: build Faiss with FAISS_ENABLE_C_API=ON"
    elif ! has_libraries "$1"; then
        echo "lacks libfaiss and libfaiss_c, both as .a or both as .so"
    fi
}

# ---- the machine's apt sources, turned into source-package sources ------------------

# Which suites are the distribution itself: "bookworm", "bookworm-updates", ... Backports
# and the archives of third parties are left out.
is_suite='function is_suite(s) {
    return s == code || s == code "-updates" || s == code "-security" || s == code "/updates" ||
           (code == "" && s ~ /^(sid|unstable|testing|stable)/)
}'

# One-line format: "deb [options] uri suite component ...".
from_list() {
    awk -v code="$codename" "$is_suite"'
        { sub(/#.*/, "") }
        $1 != "deb" && $1 != "deb-src" || /cdrom:/ { next }
        {
            options = ""
            if (match($0, /\[[^]]*\]/)) {
                options = substr($0, RSTART, RLENGTH) " "
                $0 = substr($0, 1, RSTART - 1) " " substr($0, RSTART + RLENGTH)
            }
            parts = ""
            for (i = 4; i <= NF; i++)
                if ($i == "main" || $i == "universe") parts = parts " " $i
            if (is_suite($3) && parts != "") print "deb-src " options $2 " " $3 parts
        }' "$@"
}

# deb822 format: stanzas of fields. Only Types, Suites and Components change; the rest
# (URIs, Signed-By, an embedded key, options) is passed on as it stands.
from_deb822() {
    awk -v code="$codename" "$is_suite"'
        function flush(   n, w, i, suites, parts) {
            n = split(field["suites"], w, /[ \t\n]+/)
            for (i = 1; i <= n; i++) if (is_suite(w[i])) suites = suites " " w[i]
            n = split(field["components"], w, /[ \t\n]+/)
            for (i = 1; i <= n; i++)
                if (w[i] == "main" || w[i] == "universe") parts = parts " " w[i]
            if (suites != "" && parts != "" && !off)
                printf "Types: deb-src\nSuites:%s\nComponents:%s\n%s\n", suites, parts, rest
            split("", field); rest = ""; off = 0; name = ""
        }
        /^#/ { next }
        /^[ \t]*$/ { flush() }
        /^[ \t]*$/ { next }
        /^[^ \t]/ {
            name = tolower($0); sub(/:.*/, "", name)
            value = $0; sub(/^[^:]*:/, "", value)
            if (name == "enabled" && tolower(value) ~ /^[ \t]*(no|false|0|off)/) off = 1
            field[name] = value
        }
        /^[ \t]/ { field[name] = field[name] " " $0 }
        name != "types" && name != "suites" && name != "components" && name != "enabled" &&
            name != "architectures" { rest = rest $0 "\n" }
        END { flush() }' "$@"
}

write_sources() {
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME-}")
    for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ ! -r "$f" ] || from_list "$f"
    done | sort -u >"$work/parts/distribution.list"
    for f in /etc/apt/sources.list.d/*.sources; do
        [ ! -r "$f" ] || from_deb822 "$f"
    done >"$work/parts/distribution.sources"
    [ -s "$work/parts/distribution.list" ] || [ -s "$work/parts/distribution.sources" ] ||
        die "no enabled apt source below /etc/apt is of this distribution ($codename)"
}

# Read after the machine's own apt.conf, whose proxies and logins stay in force. Hooks are
# for the machine's own lists, not for these. What is not signed is refused.
write_apt_conf() {
    cat >"$work/apt.conf" <<CONF
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$work/parts";
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
Acquire::Languages "none";
Acquire::IndexTargets::deb-src::Sources::DefaultEnabled "true";
Acquire::AllowInsecureRepositories "false";
APT::Get::AllowUnauthenticated "false";
CONF
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/source"
}

free_megabytes() { df --output=avail -B 1M "$cache" | tail -n 1 | tr -d ' '; }

private_apt() { (cd "$work/source" && LC_ALL=C apt-get -q -c "$work/apt.conf" "$@") >>"$log" 2>&1; }

fail() {
    why=$(why_failed "$log" "$2")
    [ "$(free_megabytes)" -gt 0 ] || why="the disk is full"
    kept=$cache/faiss-build.log
    cp "$log" "$kept" 2>/dev/null && die "$1: $why (see $kept)" || die "$1: $why"
}

fetch_source() {
    say "fetching the source of Faiss from this machine's package archive"
    mkdir "$work/parts"
    write_sources
    write_apt_conf
    # One suite that fails does no harm as long as another has the source.
    private_apt update || true
    private_apt source --download-only faiss ||
        fail "cannot fetch Faiss" "the archive has no source package called faiss"
    version=$(sed -n 's/^Version: *//p' "$work"/source/faiss_*.dsc | head -n 1 | sed 's/[-+~].*//')
    (cd "$work/source" && dpkg-source --no-copy -x faiss_*.dsc tree) >>"$log" 2>&1 ||
        fail "cannot unpack the source of Faiss" "dpkg-source failed"
}

# ---- building -------------------------------------------------------------------------

# Faiss chooses its vector code by what the compiler says it may use, so -march decides.
march() { [ "$level" = arm64 ] && echo -march=armv8-a || echo "-march=$level"; }

configure() {
    cmake -S "$work/source/tree" -B "$work/build" \
        -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS="$(march)" \
        -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_INSTALL_LIBDIR=lib \
        -DBUILD_SHARED_LIBS=OFF -DBUILD_TESTING=OFF \
        -DBLA_VENDOR=OpenBLAS -DCMAKE_DISABLE_FIND_PACKAGE_MKL=ON \
        -DFAISS_OPT_LEVEL=generic -DFAISS_ENABLE_C_API=ON -DFAISS_ENABLE_GPU=OFF \
        -DFAISS_ENABLE_PYTHON=OFF -DFAISS_ENABLE_EXTRAS=OFF >>"$log" 2>&1 ||
        fail "cannot configure Faiss" "cmake failed"
}

# cmake's "[ 42%] Building ..." becomes a line per tenth.
percent() {
    shown=0
    tee -a "$log" | while IFS= read -r line; do
        case $line in '['*%']'*) ;; *) continue ;; esac
        done=${line%%\%*}
        done=$((${done#\[} / 10))
        [ $done -gt $shown ] || continue
        shown=$done
        say "  Faiss ${done}0 %"
    done
}

# A compiler per core, as long as each has a gigabyte.
jobs() {
    fit=$(awk '/^MemAvailable/ { print int($2 / 1000000) }' /proc/meminfo)
    cores=$(nproc)
    [ "$fit" -ge "$cores" ] && echo "$cores" || echo $((fit > 0 ? fit : 1))
}

compile() {
    say "building Faiss $version for $level (a minute or two, once)"
    { cmake --build "$work/build" --target faiss_c --parallel "$(jobs)" 2>&1 ||
        echo "recalld: build failed"; } | percent
    ! tail -n 1 "$log" | grep -q '^recalld: build failed$' ||
        fail "cannot build Faiss" "the compiler failed"
}

# The prefix appears complete or not at all: it is filled elsewhere and renamed.
install_prefix() {
    # cmake's own install step would insist on programs that were not built.
    for part in faiss c_api; do
        DESTDIR=$work/root cmake --install "$work/build/$part" >>"$log" 2>&1 ||
            fail "cannot install Faiss" "cmake failed"
    done
    # 1.7.3 installs the headers of its C API but forgets the library.
    [ -e "$work/root$prefix/lib/libfaiss_c.a" ] ||
        cp "$work/build/c_api/libfaiss_c.a" "$work/root$prefix/lib/" 2>>"$log" ||
        fail "cannot install Faiss" "there is no libfaiss_c.a"
    why=$(defect_of "$work/root$prefix")
    [ -z "$why" ] || die "the Faiss just built $why"
    rm -rf "$prefix" # there is one only if it is of no use
    mv -T "$work/root$prefix" "$prefix" 2>>"$log" || fail "cannot install Faiss" "$prefix cannot be written"
}

# ---- one call -------------------------------------------------------------------------

find_cached() {
    for prefix in $(ls -d "$cache"/faiss-*-"$release-$level" 2>/dev/null | sort -rV); do
        [ -e "$prefix/lib/libfaiss_c.a" ] && [ -z "$(defect_of "$prefix")" ] || continue
        echo "$prefix"
        return 0
    done
    return 1
}

if [ -n "${FAISS_PREFIX-}" ]; then
    why=$(defect_of "$FAISS_PREFIX")
    [ -z "$why" ] || die "FAISS_PREFIX=$FAISS_PREFIX $why"
    cd "$FAISS_PREFIX" && pwd
    exit 0
fi

level=$("$here/cpu-level.sh")
release=$(. /etc/os-release && echo "$ID${VERSION_ID-}")
cache=$(cache_dir)
find_cached && exit 0

mkdir -p "$cache" 2>/dev/null || die "cannot create $cache: is the disk full?"
exec 8>"$cache/faiss.lock"
flock -n 8 || { say "waiting for another build of Faiss to finish"; flock 8; }
find_cached && exit 0

[ "$(free_megabytes)" -ge $BUILD_MEGABYTES ] ||
    die "building Faiss takes $BUILD_MEGABYTES MB of disk below $cache; $(free_megabytes) MB are free"

# On the cache's own disk, so that the last step is a rename. apt downloads as the user
# _apt, who has to be able to walk in.
work=$(mktemp -d "$cache/faiss-building.XXXXXX" 2>/dev/null) ||
    die "cannot write to $cache: is the disk full?"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT HUP TERM
chmod 755 "$work"
log=$work/log
fetch_source
prefix=$cache/faiss-$version-$release-$level
configure
compile
install_prefix
say "Faiss $version is in $prefix"
echo "$prefix"
