"""Every guest of the boot tests with 1, 2 and 4 processors, with little and with much memory; prints TAP. An hour or more,
so it is not part of `make test` (run.py). Each guest's own test says what it must do; here only the machine is another.

usage: [GUISE_ENGINE=NAME] [GUISE_TEST_PATIENCE=N] python3 matrix.py PATH-TO-GUISE [--cpus 1,2,4] [--memory 256M,4G] [--rounds N] [NAME...]
"""
import argparse
import os
import sys
import tempfile

import run

# Guests, and in how many MiB they fit. Debian's installer asks other questions where there is little memory, and the
# tests of what virtio gives back to the host take more than there is.
GUESTS = {
    'boot_sector_screen': 64, 'grub_cd': 128, 'grub_floppy': 128, 'memtest_64': 32, 'memtest_32': 32,
    'linux': 128, 'linux_small_cache': 128, 'power_button': 128, 'ide': 256, 'virtio': 512, 'ahci_floppy': 256,
    'generic_kernel': 256, 'kernel_32': 128, 'uefi': 256, 'uefi_memtest': 256, 'uefi_linux': 256,
    'installer_amd64': 1024, 'installer_i386': 1024, 'installer_grub': 1024, 'disk_ide': 256, 'disk_virtio': 256,
}


def mebibytes(text):
    return int(text[:-1]) * {'M': 1, 'G': 1024}[text[-1]]


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('guise')
    p.add_argument('--cpus', default='1,2,4')
    p.add_argument('--memory', default='256M,4G')
    p.add_argument('--rounds', type=int, default=1)
    p.add_argument('names', nargs='*', metavar='NAME')
    args = p.parse_intermixed_args()
    unknown = set(args.names) - GUESTS.keys()
    if unknown:
        p.error('no guest ' + ', '.join(sorted(unknown)))
    run.find(args.guise)
    tests = {t.__name__[5:]: t for t in run.TESTS}
    boots = [(name, cpus, memory) for _ in range(args.rounds) for memory in args.memory.split(',') for cpus in args.cpus.split(',')
             for name in args.names or GUESTS if GUESTS[name] <= mebibytes(memory)]
    print(f'1..{len(boots)}', flush=True)
    failed = 0
    for n, (name, cpus, memory) in enumerate(boots, 1):
        run.SHAPE.update({'--cpus': cpus, '--memory': memory})
        with tempfile.TemporaryDirectory(prefix='guise-matrix-') as run.WORK:
            os.environ['XDG_RUNTIME_DIR'] = run.WORK
            failed += run.attempt(tests[name], n, f'{name}, {cpus} processors, {memory}')
    print(f'# {len(boots) - failed} passed, {failed} failed')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
