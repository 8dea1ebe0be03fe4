# A thin front: meson and ninja do the work, in build/.
BUILD ?= build
PREFIX ?= /usr/local

.PHONY: build run test test-boot-all test-boot-matrix test-loads test-asan test-kvm-nested fuzz fuzz-proof fuzz-tools bench install clean guest guest-kernels guest-tools guest-installer guest-disk guest-desktop test-desktop test-install

build:
	@tools/setup
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) --prefix=$(PREFIX)
	@ninja -C $(BUILD)

guest:
	@tools/guest-linux

guest-kernels:
	@tools/guest-kernels

# What cannot be had here (status 77) is missing in the boot tests, which are then skipped.
guest-tools:
	@tools/setup --guests || echo "some boot tests will be skipped"

guest-installer: guest-tools
	@tools/guest-installer || [ $$? = 77 ]

guest-disk: build guest-tools
	@tools/guest-disk $(BUILD)/guise || [ $$? = 77 ]

guest-desktop: build guest-tools
	@tools/guest-desktop $(BUILD)/guise || [ $$? = 77 ]

run: build guest
	./$(BUILD)/guise run guests/vmlinuz --initrd guests/initramfs.cpio.gz --append "console=ttyS0 quiet"

# Without clang the tests leave the fuzz targets out.
fuzz-tools:
	@tools/setup --fuzz || echo "the fuzz targets will be skipped"

# Under CI also the desktop's disks, and the fuzz targets for a minute each (tools/test).
test: build fuzz-tools guest guest-kernels guest-installer guest-disk $(if $(CI),guest-desktop)
	@tools/test $(BUILD)

# Every boot test on both engines, one after the other: half an hour.
test-boot-all: build guest guest-kernels guest-installer guest-disk
	@failed=0; for engine in bt interp; do \
		echo "boot tests on $$engine"; GUISE_ENGINE=$$engine tests/boot/run.py $(BUILD)/guise || failed=1; \
	done; exit $$failed

# Every guest with 1, 2 and 4 processors, with 256 MiB and 4 GiB, on the translator: an hour.
test-boot-matrix: build guest guest-kernels guest-installer guest-disk
	@GUISE_ENGINE=bt python3 tests/boot/matrix.py $(BUILD)/guise

# Real loads on the translator, ten minutes each: stress-ng, a compiler, Linux's selftests, memtest86+ (tests/loads).
test-loads: build guest guest-kernels
	@tools/guest-loads && tests/loads/run.py $(BUILD)/guise

test-asan:
	@tools/setup
	@tools/test-asan

fuzz:
	@tools/setup --fuzz
	@tools/fuzz

# Puts old faults back in a copy and has the fuzz targets find them.
fuzz-proof:
	@tools/setup --fuzz
	@tools/fuzz-proof

# KVM as on real hardware, in an emulated machine: some three minutes.
test-kvm-nested: build guest
	@tools/test-kvm-nested $(BUILD)

# A desktop, 64-bit and 32-bit: its two disks are made once, for some 300 MB of packages.
test-desktop: guest-desktop
	@tests/boot/run.py $(BUILD)/guise desktop_amd64 desktop_i386

# Debian's installer onto an empty disk, from a package mirror on this host; some five minutes (docs/installation-test.md).
test-install: build
	@python3 tests/boot/install.py $(BUILD)/guise || [ $$? = 77 ]

bench: build guest guest-disk
	@tools/setup --bench
	@for b in bench/*; do if [ -f "$$b" ] && [ -x "$$b" ]; then "$$b" ./$(BUILD)/guise || exit 1; fi; done

install: build
	@ninja -C $(BUILD) install

clean:
	rm -rf $(BUILD)
