# What is built from what. Run by scripts/build, which sets CLANG, LLVM_STRIP and NODE_HEADERS and keeps two runs apart.
# Every result is written beside its place and moved there: a program that runs meanwhile never sees half a file.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-builtin-variables

STEP := @scripts/step
CC := cc
# As linux/bpf.h and libbpf's bpf_tracing.h spell the machine.
ARCH := $(or $(patsubst x86_64,x86,$(filter x86_64,$(shell uname -m))),$(patsubst aarch64,arm64,$(shell uname -m)))
MULTIARCH := $(shell $(CC) -print-multiarch)

BPF_FLAGS := -target bpf -D__TARGET_ARCH_$(ARCH) -mcpu=v3 -O2 -g -Wall -Wextra -Werror \
	-ffile-prefix-map=$(CURDIR)=. -I bpf $(if $(MULTIARCH),-I /usr/include/$(MULTIARCH))
PROGRAM_FLAGS := -O2 -Wall -Wextra -Werror -pthread

BPF_OBJECTS := build/bpf/slipstream.bpf.o build/bpf/capture.bpf.o build/bpf/adopt.bpf.o
FIXTURES := $(patsubst test/fixtures/%.bpf.c,build/fixtures/%.bpf.o,$(wildcard test/fixtures/*.bpf.c))
PROGRAM_SOURCES := $(wildcard test/programs/*.c bench/programs/*.c)
PROGRAMS := $(patsubst %.c,build/programs/%,$(notdir $(PROGRAM_SOURCES)))
# Small programs of the product itself: the kernel gate's sockets.
PROBES := $(patsubst probe/%.c,build/probe/%,$(wildcard probe/*.c))
ADDON_SOURCES := $(shell find addon -path addon/build -prune -o -type f \
	\( -name '*.cc' -o -name '*.h' -o -name 'binding.gyp' \) -print)
SCRIPT_SOURCES := $(shell find addon $(wildcard controller) -path addon/build -prune -o -type f -name '*.ts' ! -name '*.test.ts' -print)
# Pages, styles and whatever else stands beside the modules that serve it.
ASSETS := $(if $(wildcard controller),$(shell find controller -type f ! -name '*.ts' ! -name '*.md' ! -name 'tsconfig.json' ! -name '.*'))

.PHONY: all bpf fixtures probe programs addon js force
all: bpf fixtures probe programs addon js
bpf: $(BPF_OBJECTS)
fixtures: $(FIXTURES)
probe: $(PROBES)
programs: $(PROGRAMS)
addon: addon/build/Release/.built
js: build/js/.built $(ASSETS:%=build/js/%)
show-%: ; @echo '$($*)'

# What npm installed. An installed package is without it, and npm its own keeper.
PACKAGES := $(wildcard node_modules/.package-lock.json)

# Another compiler or Node.js rebuilds what it made.
TOOLCHAIN := build/toolchain scripts/build.mk
build/toolchain: force
	@mkdir -p $(@D)
	@{ node --version; uname -m; $(CLANG) --version; $(CC) --version; echo '$(NODE_HEADERS)'; } >$@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

define bpf_recipe
	@mkdir -p $(@D)
	$(STEP) 'build: $@' $(CLANG) $(BPF_FLAGS) -MMD -MP -MF $@.d -MT $@ -c $< -o $@.new
	@$(LLVM_STRIP) -g $@.new
	@mv $@.new $@
endef
build/bpf/%.bpf.o: bpf/%.bpf.c $(TOOLCHAIN)
	$(bpf_recipe)
build/fixtures/%.bpf.o: test/fixtures/%.bpf.c $(TOOLCHAIN)
	$(bpf_recipe)

define program_recipe
	@mkdir -p $(@D)
	$(STEP) 'build: $@' $(CC) $(PROGRAM_FLAGS) -MMD -MP -MF $@.d -MT $@ $< $(LIBRARIES) -o $@.new
	@mv $@.new $@
endef
build/programs/endpoint: LIBRARIES := -luring
build/programs/%: test/programs/%.c $(TOOLCHAIN)
	$(program_recipe)
build/programs/%: bench/programs/%.c $(TOOLCHAIN)
	$(program_recipe)
build/probe/%: probe/%.c $(TOOLCHAIN)
	$(program_recipe)

# node-gyp's own make, which is to know nothing of this one, compiles what changed. compile_commands.json is for clang-tidy.
NODE_GYP := env -u MAKEFLAGS node '$(or $(npm_config_node_gyp),node_modules/node-gyp/bin/node-gyp.js)' --directory addon $(if $(NODE_HEADERS),--nodedir '$(NODE_HEADERS)')
addon/build/Release/.built: $(ADDON_SOURCES) $(TOOLCHAIN) $(PACKAGES)
	@[[ build/toolchain -ot $@ ]] || rm -rf addon/build
	$(STEP) 'build: addon' bash -c "$(NODE_GYP) configure -- -f make -f compile_commands_json && \
		$(NODE_GYP) build --jobs max"
	@touch $@

# tsc compiles what changed; modules whose source is gone go, too.
build/ts-sources: force
	@mkdir -p $(@D)
	@printf '%s\n' $(sort $(SCRIPT_SOURCES)) >$@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@
build/js/.built: $(SCRIPT_SOURCES) build/ts-sources tsconfig.json tsconfig.build.json $(TOOLCHAIN) $(PACKAGES)
	$(STEP) 'build: TypeScript' node node_modules/typescript/bin/tsc -p tsconfig.build.json
	@cd build/js && find . -name '*.js' -print | while read -r file; do \
		[[ -e ../../$${file%.js}.ts || -e ../../$$file ]] || rm -f "$$file" "$$file.map"; \
	done
	@touch $@
build/js/controller/%: controller/%
	@mkdir -p $(@D)
	@cp $< $@.new
	@mv $@.new $@

-include $(BPF_OBJECTS:=.d) $(FIXTURES:=.d) $(PROBES:=.d) $(PROGRAMS:=.d)
