# What is measured, made ready: the static programs, the work directory with the real programs' inputs, and
# initial RAM disks that hold the same files for the guests.
import os
import random
import re
import shutil
import stat
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
CFLAGS = ["-std=gnu17", "-O2", "-g", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers",
          "-D_GNU_SOURCE", "-ffp-contract=off", "-static", "-pthread"]
SOURCES = ["main.c", "serve.c", "integer.c", "float.c", "memory.c", "os.c", "threads.c", "scale.c"]


def newer(target, sources):
    return os.path.exists(target) and all(os.path.getmtime(target) >= os.path.getmtime(s) for s in sources)


def build_programs(directory):
    """Compiles bench/programs into one static binary; returns its path."""
    os.makedirs(directory, exist_ok=True)
    source = os.path.join(HERE, "programs")
    names = [os.path.join(source, n) for n in SOURCES]
    binary = os.path.join(directory, "bench")
    if not newer(binary, [*names, os.path.join(source, "bench.h"), __file__]):
        subprocess.run(["gcc", *CFLAGS, "-o", binary + ".new", *names, "-lm"], check=True)
        os.rename(binary + ".new", binary)
    return binary


def make_text(size):
    """Words by a skewed law, the same text every time."""
    choose = random.Random(2024)
    words = ["".join(choose.choice("abcdefghijklmnoprstuvwxyz") for _ in range(choose.randint(2, 9))) for _ in range(3000)]
    lines, length = [], 0
    while length < size:
        line = " ".join(words[int(choose.paretovariate(0.8)) % len(words)] for _ in range(12))
        lines.append(line)
        length += len(line) + 1
    return "\n".join(lines) + "\n"


def prepare_work(directory):
    """The work directory: scripts, a text, the text compressed, a preprocessed C source."""
    os.makedirs(directory, exist_ok=True)
    scripts = os.path.join(HERE, "workloads")
    for name in os.listdir(scripts):
        shutil.copy(os.path.join(scripts, name), directory)
    with open(os.path.join(directory, "text"), "w") as f:
        f.write(make_text(400000))
    for tool in (["xz", "-6", "-T1"], ["zstd", "-9", "-q"]):
        if shutil.which(tool[0]):
            with open(os.path.join(directory, "text"), "rb") as i, open(os.path.join(directory, "text." + tool[0]), "wb") as o:
                subprocess.run([*tool, "-c"], stdin=i, stdout=o, check=True)
    source = os.path.join(HERE, "programs", "integer.c")
    subprocess.run(["/usr/bin/gcc", "-std=gnu17", "-D_GNU_SOURCE", "-E", "-P", source, "-o", os.path.join(directory, "integer.i")],
                   check=True)
    return directory


def libraries(path):
    """The shared objects that ldd names, by the names that the loader will use."""
    run = subprocess.run(["ldd", path], capture_output=True, text=True)
    return re.findall(r"(?:=>\s*|^\s+)(/\S+)", run.stdout, re.M)


def with_libraries(paths):
    files = {}
    for path in paths:
        for each in [path, *libraries(path)]:
            files[each.lstrip("/")] = each
    return files


def tree(directory, skip):
    files = {}
    for base, subdirs, names in os.walk(directory):
        subdirs[:] = [d for d in subdirs if d not in skip]
        for name in names:
            path = os.path.join(base, name)
            if os.path.isfile(path):
                files[path.lstrip("/")] = path
    return files


def program_files(programs):
    """Everything the real programs need in a guest: name in the archive -> file here."""
    present = [p for p in programs if os.path.exists(p)]
    files = with_libraries(present)
    if "/usr/bin/gcc" in present:
        compiler = subprocess.run(["/usr/bin/gcc", "-print-prog-name=cc1"], capture_output=True, text=True).stdout.strip()
        files.update(with_libraries([compiler, "/usr/bin/as"]))
    if "/usr/bin/python3" in present:
        library = subprocess.run(["/usr/bin/python3", "-c", "import os; print(os.path.dirname(os.__file__))"],
                                 capture_output=True, text=True).stdout.strip()
        skip = {"test", "tests", "idlelib", "tkinter", "lib2to3", "ensurepip", "distutils", "unittest", "pydoc_data", "turtledemo",
                "dist-packages"}
        modules = tree(library, skip)
        files.update(modules)
        for path in modules.values():
            if re.search(r"_(hashlib|json|bz2|lzma|ctypes)\.", path) and path.endswith(".so"):
                files.update(with_libraries([path]))
    return files


class Archive:
    """A cpio archive in the "newc" form, as the kernel unpacks it."""

    def __init__(self):
        self.entries = {}

    def add(self, name, data, mode):
        parent = os.path.dirname(name)
        if parent and parent not in self.entries:
            self.add(parent, b"", stat.S_IFDIR | 0o755)
        self.entries[name] = (mode, data)

    def add_file(self, name, path):
        with open(path, "rb") as f:
            self.add(name, f.read(), stat.S_IFREG | stat.S_IMODE(os.stat(path).st_mode))

    def encode(self):
        out = bytearray()
        for number, name in enumerate([*sorted(self.entries), "TRAILER!!!"]):
            mode, data = self.entries.get(name, (0, b""))
            fields = [number + 1 if mode else 0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
            out += b"070701" + "".join(f"{v:08X}" for v in fields).encode() + name.encode() + b"\0"
            out += bytes(-len(out) % 4) + data
            out += bytes(-len(out) % 4)
        return bytes(out)


def write_initrd(path, base, files):
    """Appends an archive of `files` to the RAM disk `base`: the kernel unpacks one after the other."""
    archive = Archive()
    for name, source in files.items():
        archive.add_file(name, source)
    with open(base, "rb") as f:
        data = f.read()
    with open(path + ".new", "wb") as f:
        f.write(data + bytes(-len(data) % 4) + archive.encode())
    os.rename(path + ".new", path)
    return path


def prepare(build, guests, programs):
    """Builds everything below `build`. Returns binary, work directory, small and full RAM disk."""
    binary = build_programs(build)
    work = prepare_work(os.path.join(build, "work"))
    base = os.path.join(guests, "initramfs.cpio.gz")
    small = {"bench": binary, "work/text": os.path.join(work, "text"), **with_libraries(["/usr/bin/dash"])}
    small["bin/sh"] = "/usr/bin/dash"
    full = {**small, **program_files(programs)}
    for name in os.listdir(work):
        full["work/" + name] = os.path.join(work, name)
    return (binary, work, write_initrd(os.path.join(build, "small.img"), base, small),
            write_initrd(os.path.join(build, "full.img"), base, full))
