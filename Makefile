# Makefile - every target of recalld, in one file and without recursion into folders.
#
# `make run` and `make test` are all a newcomer needs; `make help` lists the rest. Set-up
# comes first: make includes $(BUILD)/setup.mk, so it makes that file, and making it
# installs missing packages and builds Faiss. Each variant (release, debug, asan, tsan,
# coverage, fuzz) has its own objects below $(BUILD)/<variant>/.
#
#   V=1        show the commands            WERROR=0     warnings do not stop the build
#   BUILD=     where everything is built    LEVEL=       machine code level (x86-64-v3, ...)
#   PORT=      port of `make run`           FAISS_PREFIX= a Faiss of your own
#   DESTDIR=   prefix= bindir= sysconfdir= unitdir=     where `make install` puts things
#   TARGET=    what `make fuzz` tries       SECONDS=     how long it tries each

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
ifeq ($(findstring j,$(firstword -$(MAKEFLAGS)))$(filter -j%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc)
endif

BUILD ?= build
ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin CXX),default)
CXX := g++
endif
export LEVEL FAISS_PREFIX BUILD PORT

Q := $(if $(filter 1,$(V)),,@)
say = $(if $(Q),@printf '  %-6s %s\n' $1 $(@:$(BUILD)/%=%))

# Writes $1 to the target unless it says just that already: what depends on it is made
# again only when the text changes.
remember = @mkdir -p $(@D); echo '$1' | cmp -s - $@ || echo '$1' >$@

# ---- set-up ------------------------------------------------------------------------------

goals := $(or $(MAKECMDGOALS),all)
dev_goals := format format-check lint check-valgrind check-valgrind-daemon check-ctr coverage fuzz fuzz-smoke
ifneq ($(filter-out help clean install uninstall image-check,$(goals)),)
include $(BUILD)/setup.mk
endif

$(BUILD)/setup.mk: FORCE
	@scripts/setup.sh $@ $(if $(filter $(dev_goals),$(goals)),--dev)

# ---- flags -------------------------------------------------------------------------------

# An overlong message is cut on purpose, hence no -Wformat-truncation.
WARNINGS := -Wall -Wextra -Wshadow -Wvla -Wformat=2 -Wconversion -Wno-sign-conversion
WARNINGS += -Wno-format-truncation
WARNINGS_C := -Wstrict-prototypes -Wmissing-prototypes
ifneq ($(WERROR),0)
WARNINGS += -Werror
endif

# Floating-point results are the same bits at every level and in every variant: no
# contraction, and never -ffast-math.
FLOATS := -ffp-contract=off -fno-math-errno -fno-trapping-math

CPPFLAGS += -Iinclude -D_GNU_SOURCE $(FAISS_CFLAGS) $(PKG_CFLAGS)
COMMON = $(CPPFLAGS) -g $(MARCH) $(FLOATS) $(WARNINGS) -pthread
COMPILE_C = $(CC) -std=c11 $(COMMON) $(WARNINGS_C)
COMPILE_CXX = $(CXX) -std=c++17 $(COMMON)
LIBS = $(MARCH_NEEDS) $(FAISS_LIBS) $(PKG_LIBS) -lm -pthread

VARIANTS := release debug asan tsan coverage fuzz
sanitize := -O1 -fno-omit-frame-pointer -fno-sanitize-recover=all
FLAGS_release := -O3
FLAGS_debug := -O0 -g3
FLAGS_asan := $(sanitize) -fsanitize=address,undefined
FLAGS_tsan := $(sanitize) -fsanitize=thread
FLAGS_coverage := -O0 --coverage
FLAGS_fuzz := $(sanitize) -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize=vptr
FLAGS_fuzz += -Wno-unknown-warning-option

# libFuzzer is a part of clang.
$(BUILD)/fuzz/%: CC := clang
$(BUILD)/fuzz/%: CXX := clang++
$(BUILD)/fuzz/tests/fuzz_%: LDFLAGS += -fsanitize=fuzzer

# ---- sources -----------------------------------------------------------------------------

programs := recalld recallctl
library := $(filter-out $(programs:%=src/%/%),$(wildcard src/*/*.c src/*/*.cpp))
support := $(wildcard tests/unit/support*.c)
tests := $(basename $(notdir $(wildcard tests/unit/test_*.c)))
fuzzers := $(basename $(notdir $(wildcard tests/fuzz/fuzz_*.c)))
benches := $(basename $(notdir $(wildcard tests/bench/bench_*.c)))
bench_tools := $(filter-out $(benches),$(basename $(notdir $(wildcard tests/bench/*.c))))

# What runs under ThreadSanitizer: the unit tests of what threads share, and the daemon on
# exact search. Faiss is left out: its OpenMP threads meet in ways the sanitizer cannot see.
shared := queue poller snapshot metrics recall behaviour redis registry journal experiment
TSAN_TESTS ?= $(filter $(shared:%=test_%),$(tests))
TSAN_PYTEST ?= $(wildcard $(patsubst %,tests/integration/test_%.py,http admin lifecycle experiments journal))

objects = $(patsubst %,$(BUILD)/$1/%.o,$(basename $2))
test_programs = $(patsubst %,$(BUILD)/$1/tests/%,$(or $2,$(tests) $(fuzzers)))
# A fuzz target is a test over the inputs that are kept for it, unless libFuzzer brings its own.
fuzz_main = $(if $(filter fuzz,$1),,tests/fuzz/replay.c)
product = $(programs:%=$(BUILD)/$1/%)

# ---- rules, once per variant ---------------------------------------------------------------

define variant_rules
$(BUILD)/$1/flags: FORCE
	$$(call remember,$$(COMPILE_C) $$(COMPILE_CXX) $$(FLAGS_$1) $$(LIBS))

$(BUILD)/$1/%.o: %.c $(BUILD)/$1/flags
	$$(call say,CC)
	@mkdir -p $$(@D)
	$$(Q)$$(COMPILE_C) $$(FLAGS_$1) $$(CFLAGS) -MMD -MP -c -o $$@ $$<

$(BUILD)/$1/%.o: %.cpp $(BUILD)/$1/flags
	$$(call say,CXX)
	@mkdir -p $$(@D)
	$$(Q)$$(COMPILE_CXX) $$(FLAGS_$1) $$(CXXFLAGS) -MMD -MP -c -o $$@ $$<

# The assembler takes it in, which -MMD does not see.
$(BUILD)/$1/src/http/route_probe.o: docs/openapi.json

$(BUILD)/$1/members: FORCE
	$$(call remember,$(library))

$(BUILD)/$1/librecalld.a: $(call objects,$1,$(library)) $(BUILD)/$1/members
	$$(call say,AR)
	$$(Q)rm -f $$@ && ar rcs $$@ $$(filter %.o,$$^)

$(foreach p,$(programs),$(eval $(call program_rule,$1,$p,$(wildcard src/$p/*.c))))
$(foreach t,$(tests),$(eval $(call program_rule,$1,tests/$t,tests/unit/$t.c $(support),$$(CMOCKA_LIBS))))
$(foreach f,$(fuzzers),$(eval $(call program_rule,$1,tests/$f,tests/fuzz/$f.c $(call fuzz_main,$1))))
$(foreach b,$(benches) $(bench_tools),$(eval $(call program_rule,$1,bench/$b,tests/bench/$b.c)))
endef

# A program $2 of variant $1 from the sources $3 and the library.
define program_rule
$(BUILD)/$1/$2: $(call objects,$1,$3) $(BUILD)/$1/librecalld.a
	$$(call say,LINK)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(FLAGS_$1) $$(LDFLAGS) -o $$@ $$^ $4 $$(LIBS)
endef

$(foreach v,$(VARIANTS),$(eval $(call variant_rules,$v)))
-include $(wildcard $(BUILD)/*/src/*/*.d $(BUILD)/*/tests/*/*.d)

# ---- for everyone --------------------------------------------------------------------------

all: $(call product,release) ## build recalld and recallctl

run: all demo-bundle ## set up, start a Redis and recalld with the demo, ask one question
	@scripts/run.sh $(BUILD)

test: all demo-bundle $(call test_programs,release) ## every unit and integration test
	@scripts/test.sh $(BUILD)/release $(call test_programs,release) tests/integration

# What the demo serves, and many tests: made again when the data or recallctl changes. So small a
# catalogue needs no Faiss; its two shards are there to show that shards are searched and merged.
demo_version := 2026-11-24
demo_bundles := debian-mind debian-mind-k1
demo_files := $(addprefix demo/,items.tsv popular.txt behaviour.tsv)

demo-bundle: $(demo_bundles:%=$(BUILD)/demo/%/manifest.json)

$(BUILD)/demo/%/manifest.json: demo/%.safetensors $(demo_files) $(BUILD)/release/recallctl
	$(call say,BUNDLE)
	@rm -rf $(@D) && mkdir -p $(dir $(@D))
	$(Q)$(BUILD)/release/recallctl bundle build --weights $< \
		--items demo/items.tsv --popular demo/popular.txt --histories demo/behaviour.tsv \
		--engine faiss --factory Flat --shards 2 --name $* --version $(demo_version) --out $(@D)

# Installs what `make` has built and builds nothing, so that root can do it. The programs are those
# in FROM=; a configuration that is there already is kept.
prefix := /usr/local
bindir := $(prefix)/bin
sysconfdir := /etc
unitdir := $(prefix)/lib/systemd/system
FROM := $(BUILD)/release
to_bin = "$(DESTDIR)$(bindir)"
to_conf = "$(DESTDIR)$(sysconfdir)/recalld"
to_unit = "$(DESTDIR)$(unitdir)"

install: $(filter all,$(goals)) ## put what was built in place: DESTDIR=, prefix=/usr/local, sysconfdir=/etc, ...
	@test -x "$(FROM)/recalld" || { echo 'recalld: nothing was built in $(FROM): run "make" first' >&2; exit 1; }
	$(Q)install -d $(to_bin) $(to_conf) $(to_unit)
	$(Q)install -m 755 $(programs:%="$(FROM)/%") $(to_bin)
	$(Q)test -e $(to_conf)/recalld.ini || install -m 644 conf/recalld.ini $(to_conf)
	$(Q)sed 's|/usr/local/bin|$(bindir)|; s|/etc/recalld|$(sysconfdir)/recalld|' \
		deploy/recalld.service | install -m 644 /dev/stdin $(to_unit)/recalld.service

uninstall: ## remove what was installed; a configuration that was changed stays
	$(Q)rm -f $(programs:%=$(to_bin)/%) $(to_unit)/recalld.service
	$(Q)! cmp -s conf/recalld.ini $(to_conf)/recalld.ini || rm $(to_conf)/recalld.ini
	$(Q)rmdir $(to_conf) 2>/dev/null || true

# ---- for us --------------------------------------------------------------------------------

debug: $(call product,debug) ## build without optimisation, for gdb

check-unit: $(call test_programs,release) ## unit tests
	@scripts/test.sh $(BUILD)/release $(call test_programs,release)

check-integration: all demo-bundle ## integration tests
	@scripts/test.sh $(BUILD)/release tests/integration

check-asan check-ubsan: demo-bundle $(call product,asan) $(call test_programs,asan) ## every test under AddressSanitizer and UBSan
	@scripts/test.sh $(BUILD)/asan $(call test_programs,asan) tests/integration

check-tsan: $(call product,tsan) $(call test_programs,tsan,$(TSAN_TESTS)) ## what threads share, and the daemon, under ThreadSanitizer
	@scripts/test.sh $(BUILD)/tsan $(call test_programs,tsan,$(TSAN_TESTS)) $(TSAN_PYTEST)

check-data: all ## figures of real checkpoints, where their data is: ../shared/data or RECALLD_DATA
	@RECALLCTL_BIN=$(BUILD)/release/recallctl PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 tests/eval/check.py

# What the frameworks compute is what we must: they write the models, run them, and recalld reads them.
# PARITY_WRITE=1 also keeps the cases for `make test`, which has no frameworks. tf_keras has the layers of
# TensorFlow 1, and would bring a second TensorFlow.
PARITY_VENV ?= $(BUILD)/parity/venv
parity: all parity-growthbook $(PARITY_VENV)/installed ## compare with Paddle, TensorFlow and PyTorch, installed below build/ at first: 8 GB
	@scripts/parity.sh $(PARITY_VENV) $(BUILD)

$(PARITY_VENV)/installed: tests/parity/requirements.txt
	$(Q)python3 -m venv $(@D)
	$(Q)$(@D)/bin/pip install -r $<
	$(Q)$(@D)/bin/pip install --no-deps tf_keras
	$(Q)cp $< $@

parity-growthbook: all ## who gets which arm, compared with the npm package @growthbook/growthbook
	@tests/parity/growthbook.sh $(BUILD)

check-ctr: all ## figures of experiments against simulated truth, scipy and statsmodels: 600 journals
	@RECALLCTL_BIN=$(BUILD)/release/recallctl PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 tests/ctr/truth.py

# Valgrind knows no AVX-512: where that is what we build for, all is built once more, apart.
VALGRIND := valgrind -q --error-exitcode=99 --leak-check=full
# A daemon that is stopped while it loads leaves that thread behind: its stack is "possibly lost".
valgrind_daemon = $(VALGRIND) --errors-for-leak-kinds=definite --show-leak-kinds=definite \
	--log-file=$(abspath $(BUILD)/valgrind)/results/sanitizer.%p
ifeq ($(MARCH),-march=x86-64-v4)
check-valgrind check-valgrind-daemon:
	@$(MAKE) LEVEL=portable BUILD=$(BUILD)/portable $@
else
check-valgrind: $(call test_programs,debug) ## unit tests under valgrind
	@TEST_SECONDS=1200 TEST_UNDER="$(VALGRIND)" scripts/test.sh $(BUILD)/debug $(call test_programs,debug)

# What asks one daemon much, and one test of each thing that can happen to a daemon: where every test
# starts its own, one waits for little else than starts.
memcheck_files := http.py recall.py
memcheck_files += admin.py::test_a_bundle_is_loaded_named_and_made_the_default
memcheck_files += admin.py::test_a_bundle_that_does_not_verify_is_refused_with_the_reason
memcheck_files += admin.py::test_what_is_referenced_cannot_be_deleted
memcheck_files += behaviour.py::test_a_stopped_redis_costs_no_request_and_comes_back_by_itself
memcheck_files += behaviour.py::test_a_redis_that_hangs_is_waited_for_no_longer_than_its_timeout
memcheck_files += lifecycle.py::test_a_stop_under_load_loses_no_request
memcheck_files += lifecycle.py::test_a_reload_changes_what_may_change
memcheck_files += lifecycle.py::test_a_reload_can_change_where_behaviour_is_read
memcheck_files += lifecycle.py::test_a_bad_reload_changes_nothing_and_says_why
VALGRIND_PYTEST ?= $(memcheck_files:%=tests/integration/test_%)
check-valgrind-daemon: demo-bundle $(BUILD)/valgrind/recalld ## integration tests, the daemon under valgrind
	@scripts/test.sh $(BUILD)/valgrind $(VALGRIND_PYTEST)
endif

$(BUILD)/valgrind/recalld: $(call product,release)
	@mkdir -p $(@D)
	@ln -sf ../release/recallctl $(@D)/recallctl
	@printf '%s\n' '#!/bin/sh' 'exec $(valgrind_daemon) $(abspath $(BUILD)/release/recalld) "$$@"' >$@
	@chmod +x $@

soak: all bench-tools ## SOAK_SECONDS=600 of load: nothing grows, nothing fails, swaps cost little
	@PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 tests/soak/soak.py $(BUILD)/release

fuzz: SECONDS ?= 300
fuzz-smoke: SECONDS ?= 5
fuzz fuzz-smoke: $(call test_programs,fuzz,$(or $(TARGET:%=fuzz_%),$(fuzzers))) ## look for inputs that break the readers of outside bytes
	@scripts/fuzz.sh $(SECONDS) $^

coverage: demo-bundle $(call product,coverage) $(call test_programs,coverage) ## lines that the tests run
	@find $(BUILD)/coverage -name '*.gcda' -delete
	@scripts/test.sh $(BUILD)/coverage $(call test_programs,coverage) tests/integration; \
	status=$$?; gcovr --root . --filter src/ $(BUILD)/coverage; exit $$status

BENCH := report shares serving border compare journal
bench: bench-tools $(benches:%=$(BUILD)/release/bench/%) ## measure, write docs/performance.md: half an hour and more; BENCH= names some
	@for b in $(BENCH); do echo "== $$b" && BENCH_BIN=$(BUILD)/release PYTHONDONTWRITEBYTECODE=1 \
	/usr/bin/python3 tests/bench/$$b.py || exit 1; done

image-check: ## as root: build docker/Dockerfile, run the image and the systemd unit as they will be run
	@scripts/image-check.sh

bench-tools: all $(bench_tools:%=$(BUILD)/release/bench/%) ## build what measurements use, such as the load generator

c_files = $(wildcard include/recalld/*.h src/*/*.[ch] src/*/*.cpp tests/*/*.[ch])

format: ## lay out the C sources
	clang-format -i $(c_files)

format-check: ## complain where `make format` would change something
	@clang-format --dry-run -Werror $(c_files)

lint: all $(call test_programs,release) ## format, cppcheck, gcc and clang, headers, floors, shell scripts
	@COMPILE_C='$(COMPILE_C)' COMPILE_CXX='$(COMPILE_CXX)' scripts/lint.sh

clean: ## remove everything that was built here (Faiss stays)
	rm -rf $(BUILD)

help: ## this list
	@sed -n 's/^\([a-z][a-z -]*\):.*## \(.*\)/\1|\2/p' Makefile | \
	while IFS='|' read -r name what; do printf '  %-24s %s\n' "$$name" "$$what"; done

FORCE:
.PHONY: all run test demo-bundle install uninstall debug check-unit check-integration check-asan check-ubsan check-tsan \
	check-data check-ctr parity parity-growthbook check-valgrind check-valgrind-daemon soak fuzz fuzz-smoke coverage bench bench-tools image-check format format-check lint clean help FORCE
