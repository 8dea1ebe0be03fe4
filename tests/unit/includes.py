#!/usr/bin/env python3
"""Rejects upward includes: a folder includes only from itself and from the rows above it."""
import os
import re
import sys

BASE = {'base'}
MAY = {
    'base': set(), 'host': BASE, 'mem': BASE, 'bus': {'base', 'host', 'mem'}, 'x86': {'base', 'mem'},
    'accel': {'base', 'mem', 'x86'}, 'accel/kvm': {'base', 'mem', 'x86', 'accel'},
    'accel/interp': {'base', 'mem', 'x86', 'accel'}, 'accel/bt': {'base', 'mem', 'x86', 'accel', 'accel/interp'},
    'block': {'base', 'host'}, 'net': {'base', 'host', 'mem'}, 'display': {'base', 'host'},
    'dev': {'base', 'host', 'mem', 'bus', 'x86', 'block', 'net', 'display'}, 'fw': {'base', 'mem', 'x86'},
}
MAY['machine'] = set(MAY) - {'accel/kvm', 'accel/interp', 'accel/bt'}
MAY['monitor'] = MAY['machine'] | {'machine'}
MAY['cli'] = MAY['monitor'] | {'monitor'}



def folder(path):
    d = os.path.dirname(path)
    return d if d in MAY else d.split('/')[0]


def main(root):
    bad = checked = 0
    for at, _, files in os.walk(root):
        for name in files:
            if not name.endswith(('.c', '.h')):
                continue
            path = os.path.relpath(os.path.join(at, name), root)
            here = folder(path)
            checked += 1
            for n, line in enumerate(open(os.path.join(at, name)), 1):
                m = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
                if not m:
                    continue
                there = folder(m.group(1))
                if there != here and there not in MAY[here]:
                    print(f'{path}:{n}: {here}/ may not include {m.group(1)}')
                    bad += 1
    if not checked:
        print('no sources found')
        return 1
    print(f'{checked} files, {bad} upward includes')
    return 1 if bad else 0


sys.exit(main(sys.argv[1]))
