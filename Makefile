# A thin front: meson and ninja do the work, in build/.
BUILD ?= build
PREFIX ?= /usr/local

.PHONY: build run test test-asan test-kvm-nested fuzz bench install clean guest guest-kernels

build:
	@tools/setup
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) --prefix=$(PREFIX)
	@ninja -C $(BUILD)

guest:
	@tools/guest-linux

guest-kernels:
	@tools/guest-kernels

run: build guest
	./$(BUILD)/guise run guests/vmlinuz --initrd guests/initramfs.cpio.gz --append "console=ttyS0 quiet"

test: build guest guest-kernels
	@tools/test $(BUILD)

test-asan:
	@tools/setup
	@tools/test-asan

fuzz:
	@tools/setup
	@tools/fuzz

# KVM as on real hardware, in an emulated machine: some three minutes.
test-kvm-nested: build guest
	@tools/test-kvm-nested $(BUILD)

bench: build guest
	@tools/setup --bench
	@for b in bench/*; do if [ -f "$$b" ] && [ -x "$$b" ]; then "$$b" ./$(BUILD)/guise || exit 1; fi; done

install: build
	@ninja -C $(BUILD) install

clean:
	rm -rf $(BUILD)
