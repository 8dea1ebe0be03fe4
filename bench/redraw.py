#!/usr/bin/env python3
"""A guest that draws its whole screen over and over: guise against QEMU's TCG with the same kernel, the same initramfs and
the standard VGA. Both machines stay up and take turns. Prints the median of the rounds' ratios, and pictures a second and
their ratio in the round that each was disturbed least in; seconds are those of processor time that the machine's process
took, unless --clock wall. The exit status is 1 when guise is behind by both in any case.

usage: redraw.py PATH-TO-GUISE [--engine E] [--clock cpu|wall] [--rounds N] [--ms N] [--cases WORD,...] [--peer tcg,thread=single]
"""
import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from disk import Guest  # noqa: E402
from machine import process_cpu  # noqa: E402
from net import HERE, entry  # noqa: E402

SIZES = ((1024, 768), (2560, 1600))
CASES = [(name, *size) for size in SIZES for name in ('pixels', 'fill', 'copy', 'scroll')] + [('banked', 1024, 768), ('text', 0, 0)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('guise')
    parser.add_argument('--engine', default='bt')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--ms', type=int, default=500)
    parser.add_argument('--clock', choices=('cpu', 'wall'), default='cpu')
    parser.add_argument('--cases', default='')
    parser.add_argument('--peer', default='tcg')
    args = parser.parse_args()
    kernel = os.path.join(HERE, 'guests', 'vmlinuz')
    if not shutil.which('qemu-system-x86_64') or not shutil.which('gcc') or not os.path.exists(kernel):
        print('bench/redraw: needs QEMU, gcc and the guest of tools/guest-linux')
        return 0
    append = 'console=ttyS0 quiet panic=-1 iomem=relaxed'
    guests, ratios = [], []
    with tempfile.TemporaryDirectory(prefix='guise-bench-') as work:
        program, initrd = os.path.join(work, 'init'), os.path.join(work, 'initrd')
        subprocess.run(['gcc', '-O2', '-static', '-o', program, os.path.join(HERE, 'bench', 'redraw.c')], check=True)
        with open(initrd, 'wb') as f:
            for folder in ('dev', 'sys'):
                f.write(entry(folder, 0o40755, b''))
            f.write(entry('init', 0o100755, open(program, 'rb').read()) + entry('TRAILER!!!', 0, b''))
        try:
            guests.append(Guest([os.path.abspath(args.guise), 'run', kernel, '--engine', args.engine, '--initrd', initrd, '--append',
                                 append, '--memory', '256M', '--no-reboot', '--display', 'none', '--serial', 'stdio', '--net', 'none']))
            guests.append(Guest(['qemu-system-x86_64', '-accel', args.peer, '-cpu', 'max', '-m', '256M', '-kernel', kernel, '-initrd',
                                 initrd, '-append', append, '-no-reboot', '-display', 'none', '-serial', 'stdio', '-monitor', 'none',
                                 '-nic', 'none', '-vga', 'std']))
            for name, width, height in CASES:
                if not all(word in f'{name}-{width}' for word in args.cases.split(',')):
                    continue
                rates = ([], [])
                for i in range(args.rounds):
                    for which in ((0, 1) if i % 2 == 0 else (1, 0)):
                        before = process_cpu(guests[which].process.pid)
                        count, seconds = guests[which].ask(f'{name} {width} {height} {args.ms}', args.ms // 1000 + 120).split()
                        cpu = (process_cpu(guests[which].process.pid) - before) * 1e-9
                        rates[which].append(int(count) / (cpu if args.clock == 'cpu' else float(seconds)))
                median = statistics.median(a / b for a, b in zip(*rates))
                best = max(rates[0]) / max(rates[1])
                ratios.append(max(median, best))
                what = f'{name} {width}x{height}' if width else name
                print(f'{what:20s} median ratio {median:6.2f}, best round: guise {max(rates[0]):8.1f}/s, '
                      f'TCG {max(rates[1]):8.1f}/s, ratio {best:6.2f}', flush=True)
        finally:
            for guest in guests:
                guest.end()
    return min(ratios) < 1


if __name__ == '__main__':
    sys.exit(main())
