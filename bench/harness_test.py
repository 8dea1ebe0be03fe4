#!/usr/bin/env python3
# Tests the harness without a clock: what it reads from a console, what it makes of results, and that every
# program gives the same checksum twice (and sha256 the standard's). Prints TAP.
import os
import subprocess
import sys
import tempfile

import cases
import image
import machine
import report


def test_lines(check):
    check(machine.parse_line("@ready\r") == ("ready",), "a ready line")
    check(machine.parse_line("[ 1.0] noise @end 12 34\r") == ("end", 12, 34), "a line behind a kernel message")
    check(machine.parse_line("@end 12") is None, "half a line is none")
    check(machine.parse_line("@end 12 x") is None, "a line with a bad number is none")
    check(machine.parse_line("@done 0 3 00ff 6f6b0a.") == ("done", 0, 3, "00ff", "ok\n"), "a command's end")
    check(machine.parse_line("@done 0 3 00ff 6f6b0") is None, "a truncated end is none")


def result(engine, case, number, nanoseconds, checksum="1"):
    return {"engine": engine, "case": case, "round": number, "wall": nanoseconds, "cpu": nanoseconds, "status": 0,
            "hash": checksum, "output": checksum, "command": "c"}


def test_report(check):
    results = []
    for number, slow in enumerate((1, 3, 1)):	# the second round is three times slower for everyone
        results += [result("native", "fib", number, 100 * slow), result("bt", "fib", number, 200 * slow),
                    result("tcg-single", "fib", number, 1000 * slow)]
    results += [result("native", "syscall", 0, 10), {"engine": "bt", "case": "syscall", "round": 0, "error": "timeout: it hung"}]
    s = report.Summary(results, "bt", "wall")
    check(s.native_ratio("bt", "integer", "fib") == [2, 2, 2], "ratios are taken within a round")
    check(s.tcg_ratio("integer", "fib") == [5, 5, 5], "TCG's ratio")
    text = report.markdown(s, "header", {"fib": 10, "syscall": 1})
    check("| fib | 10 ns | 2.00 (2.00..2.00) | 10.0 (10.0..10.0) | 5.00 (5.00..5.00) |" in text, "the row of a case")
    check("**timeout**" in text and "it hung" in text, "a hang is shown")
    check("**not reached**" in text and "| reached |" in text, "verdicts")
    check(report.chart(s, "a < b").count("<rect") >= 4 and "a &lt; b" in report.chart(s, "a < b"), "the chart")


def test_boots_and_threads(check):
    results = [result(engine, "login", 0, n * 10**9) for engine, n in (("bt", 10), ("tcg-single", 50), ("tcg-multi", 40))]
    for engine, one, two in (("native", 100, 100), ("bt", 120, 160), ("tcg-multi", 300, 300)):
        results += [result(engine, "thread-1", 0, one), result(engine, "thread-2", 0, two)]
    s = report.Summary(results, "bt", "cpu")
    text = report.markdown(s, "header", {})
    check("| login | 10 s / 10 s | 50 s / 50 s | 40 s / 40 s | 4.00 |" in text, "a boot by both clocks, against the faster TCG")
    check("| native | bt | tcg-multi |" in text and "| 2.00 | 1.50 | 2.00 |" in text, "two threads against one")


def test_mismatch(check):
    results = [result("native", "crc32", 0, 1, "good"), result("bt", "crc32", 0, 1, "bad"), result("interp", "crc32", 0, 1, "good")]
    s = report.Summary(results, "bt", "wall")
    check(s.wrong == [("bt", "crc32", "bad", "good", "c")], "a wrong checksum is found")
    check(not s.native_ratio("bt", "integer", "crc32"), "and its time does not count")
    check("**wrong result**" in report.markdown(s, "", {}), "and is shown")


def test_archive(check):
    a = image.Archive()
    a.add("work/text", b"hello", 0o100644)
    data = a.encode()
    check(data.startswith(b"070701") and b"TRAILER!!!" in data and len(data) % 4 == 0, "an archive's form")
    check(data.index(b"work\0") < data.index(b"work/text\0"), "directories come before their files")


def test_programs(check, directory):
    binary = image.build_programs(directory)
    out = subprocess.run([binary, "sha256", "1"], capture_output=True, text=True).stdout
    check(out.split()[2] == "ba7816bf8f01cfea", "sha256 of abc")
    listed = subprocess.run([binary, "list"], capture_output=True, text=True).stdout
    names = [line.split("\t")[0] for line in listed.splitlines()]
    check(sorted(names) == sorted(c.name for c in cases.all_cases() if c.kind == "self"), "the programs' cases are the harness's")
    for name in names:
        run = [subprocess.run([binary, name, "7"], cwd=directory, capture_output=True, text=True) for _ in range(2)]
        if run[0].returncode == 77:
            check(True, f"{name}: # SKIP this CPU cannot")
            continue
        check(run[0].returncode == 0 and run[0].stdout == run[1].stdout, f"{name} gives the same result twice")


def test_service(check, directory):
    """The protocol end to end, with the host in the guest's place."""
    binary = os.path.abspath(image.build_programs(directory))
    m = machine.Machine([binary, "serve", directory], False, machine.ENVIRONMENT)
    try:
        m.boot(10)
        case = cases.Case("fib", "integer", "self", "small", 1, f"exec {binary} fib 1", None)
        r = m.run(case, 10)
        check("error" not in r and r["output"] == "fib 1 00000000000003db" and r["wall"] > 0, "a case runs")
        r = m.run(case._replace(kind="whole", command="echo hello; exit 3"), 10)
        check(r["status"] == 3 and r["output"] == "hello" and "status 3" in r["error"], "a failure is seen")
        r = m.run(case._replace(command="true"), 10)
        check("not measured" in r["error"], "a case that measures nothing is seen")
        try:
            m.run(case._replace(kind="whole", command="exec sleep 60"), 0.3)
            check(False, "a hang ends in a timeout")
        except machine.Trouble as trouble:
            check("timeout" in str(trouble), "a hang ends in a timeout")
    finally:
        m.close()


def main():
    count, failed = 0, 0

    def check(good, what):
        nonlocal count, failed
        count += 1
        failed += not good
        print(f"{'ok' if good else 'not ok'} {count} {what}" if "# SKIP" in what else f"{'ok' if good else 'not ok'} {count} - {what}")
    with tempfile.TemporaryDirectory() as directory:
        test_lines(check)
        test_report(check)
        test_boots_and_threads(check)
        test_mismatch(check)
        test_archive(check)
        test_programs(check, directory)
        test_service(check, directory)
    print(f"1..{count}")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
