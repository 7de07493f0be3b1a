#!/bin/sh
# setup.sh FILE [--dev] - makes this machine ready to build and tells make about it.
#
# Installs missing packages, builds Faiss when there is none, and writes what the Makefile
# has to know to FILE as make variables. FILE is touched only when something changed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"

LIBRARIES="libmicrohttpd jansson hiredis openblas libcrypto libxxhash zlib libzstd"

out=$1
"$here/deps.sh" ${2+"$2"}
prefix=$("$here/faiss.sh")
level=$("$here/cpu-level.sh")

# A static Faiss, as faiss.sh makes it, leaves the programs without a tie to the cache. A shared one
# of your own is found where it is.
for libdir in "$prefix/lib" "$prefix/lib64" "$prefix/lib/$(gcc -print-multiarch)"; do
    faiss="$libdir/libfaiss_c.a $libdir/libfaiss.a"
    [ ! -e "$libdir/libfaiss_c.a" ] || [ ! -e "$libdir/libfaiss.a" ] || break
    faiss="-L$libdir -Wl,-rpath,$libdir -lfaiss_c -lfaiss"
    [ ! -e "$libdir/libfaiss_c.so" ] || break
done

# /usr/include is searched anyway, and naming it would put it before the compiler's own.
include="-isystem $prefix/include"
[ "$prefix" != /usr ] || include=
march=-march=$level
[ "$level" != arm64 ] || march=-march=armv8-a
# The loader of the C library refuses a program that the processor cannot run, and says so.
needs=
case $level in x86-64-v?) needs=-Wl,-z,$level ;; esac

mkdir -p "$(dirname "$out")"
cat >"$out.new" <<MK || die "cannot write $out: is the disk full?"
MARCH := $march
MARCH_NEEDS := $needs
FAISS_CFLAGS := $include
FAISS_LIBS := $faiss -lgomp -lstdc++
PKG_CFLAGS := $(pkg-config --cflags $LIBRARIES)
PKG_LIBS := $(pkg-config --libs $LIBRARIES)
CMOCKA_LIBS := $(pkg-config --libs cmocka)
MK
cmp -s "$out.new" "$out" && rm "$out.new" || mv "$out.new" "$out"
