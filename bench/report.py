# From the raw results to medians, a Markdown table and an SVG chart. Results are a list of dictionaries with
# engine, round, case and either wall, cpu, status, hash, output or error.
import math
import statistics

import cases as case_list

# Group, against native at most, against TCG at least.
TARGETS = {"integer": (1.4, 3.5), "float": (1.2, 20), "os": (None, 2), "boot": (None, 2.5)}
# Groups of one case that the host cannot run.
BOOTS = ("boot", "login")
WORST_COMPUTE_CASE = 2.5
ALL_AGAINST_TCG = 5


def mismatches(results):
    """Cases whose output differs between a guest and the host: (engine, case, here, there, command)."""
    native = {r["case"]: r for r in results if r["engine"] == "native" and r.get("hash")}
    found = {}
    for r in results:
        other = native.get(r["case"])
        if r.get("hash") and other and r["status"] == 0 and r["hash"] != other["hash"]:
            r["error"] = "wrong result"
            found[r["engine"], r["case"]] = (r["engine"], r["case"], r["output"], other["output"], r.get("command", ""))
    return list(found.values())


def times(results, clock):
    """engine -> case -> round -> nanoseconds."""
    table = {}
    for r in results:
        if "error" not in r:
            table.setdefault(r["engine"], {}).setdefault(r["case"], {})[r["round"]] = r[clock]
    return table


def ratios(table, upper, lower, case):
    """upper/lower of each round that both have: the rounds are interleaved, so that a slow minute hits both."""
    a, b = table.get(upper, {}).get(case, {}), table.get(lower, {}).get(case, {})
    return sorted(a[n] / b[n] for n in a if n in b and b[n])


def middle(values):
    return statistics.median(values) if values else None


def geometric_mean(values):
    values = [v for v in values if v]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def number(value):
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def with_spread(values):
    if not values:
        return "-"
    return number(middle(values)) + (f" ({number(values[0])}..{number(values[-1])})" if len(values) > 1 else "")


def duration(nanoseconds):
    if nanoseconds is None:
        return "-"
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"


def failure(results, engine, case):
    """The error of a case that failed in every round it ran, shortened for a table."""
    runs = [r for r in results if r["engine"] == engine and r["case"] == case]
    errors = [r["error"] for r in runs if "error" in r]
    if not errors:
        return None
    return errors[0].split(":")[0] + (f" in {len(errors)} of {len(runs)}" if len(errors) < len(runs) else "")


def group_order(results):
    """(group, its cases in the order of the list that any engine ran)."""
    ran = {r["case"] for r in results}
    for group in case_list.GROUP_TITLES:
        names = [group] if group in BOOTS else [c.name for c in case_list.all_cases() if c.group == group]
        names = [n for n in names if n in ran]
        if names:
            yield group, names


def best_tcg(table, case):
    """The faster of the TCG engines in this case: the one to beat."""
    present = [(middle(list(table[e][case].values())), e) for e in table if e.startswith("tcg-") and case in table[e]]
    return min(present)[1] if present else None


class Summary:
    """Everything the two outputs share, computed once."""

    def __init__(self, results, engine, clock):
        self.results, self.engine, self.clock = results, engine, clock
        self.wrong = mismatches(results)
        self.cpu, self.wall = times(results, "cpu"), times(results, "wall")
        self.tcg = sorted({r["engine"] for r in results if r["engine"].startswith("tcg-")}, reverse=True)
        self.groups = list(group_order(results))

    def table(self, group):
        """The group's times by the clock that the run is for."""
        return self.cpu if self.clock == "cpu" else self.wall

    def native_ratio(self, engine, group, case):
        return ratios(self.table(group), engine, "native", case)

    def tcg_ratio(self, group, case):
        table = self.table(group)
        peer = best_tcg(table, case)
        return ratios(table, peer, self.engine, case) if peer else []

    def speed_up(self, engine):
        """How much more two threads get done than one, in each round: only the clock on the wall shows it."""
        one, two = (self.wall.get(engine, {}).get(case, {}) for case in ("thread-1", "thread-2"))
        return sorted(2 * one[n] / two[n] for n in one if two.get(n))

    def group_means(self, group, names):
        return (geometric_mean([middle(self.native_ratio(self.engine, group, n)) for n in names]),
                geometric_mean([middle(self.tcg_ratio(group, n)) for n in names]))

    def verdicts(self):
        """(what, figure, target, reached) for each figure that this run can tell."""
        out = []
        for group, names in self.groups:
            native, tcg = self.group_means(group, names)
            most, least = TARGETS.get(group, (None, None))
            title = case_list.GROUP_TITLES[group]
            if most and native:
                out.append((f"{title}, against native", native, f"at most {most}", native <= most))
            if least and tcg and group != "os":
                out.append((f"{title}, times faster than TCG", tcg, f"at least {least}", tcg >= least))
            if group == "os":
                each = [(middle(self.tcg_ratio(group, n)), n) for n in names if self.tcg_ratio(group, n)]
                if each:
                    value, name = min(each)
                    out.append((f"Slowest operation of the system ({name}), times faster than TCG", value, f"at least {least}",
                                value >= least))
        compute = [(middle(self.native_ratio(self.engine, g, n)), n) for g, names in self.groups
                   if g in ("integer", "programs", "float", "memory") for n in names if self.native_ratio(self.engine, g, n)]
        if compute:
            value, name = max(compute)
            out.append((f"Worst compute case ({name}), against native", value, f"at most {WORST_COMPUTE_CASE}",
                        value <= WORST_COMPUTE_CASE))
        every = [(middle(self.tcg_ratio(g, n)), n) for g, names in self.groups for n in names if self.tcg_ratio(g, n)]
        if every:
            mean = geometric_mean([v for v, _ in every])
            out.append(("All figures, times faster than TCG", mean, f"at least {ALL_AGAINST_TCG}", mean >= ALL_AGAINST_TCG))
            value, name = min(every)
            out.append((f"Slowest against TCG ({name})", value, "at least 1", value >= 1))
        return out


def markdown(summary, header, amounts):
    """The report. `header` is text about the run, `amounts` tells each case's number of operations."""
    s = summary
    lines = [f"# {s.engine} against native and TCG", "", header, ""]
    verdicts = s.verdicts()
    if verdicts:
        lines += ["| figure | measured | to reach | |", "|---|---|---|---|"]
        lines += [f"| {what} | {number(value)} | {target} | {'reached' if ok else '**not reached**'} |"
                  for what, value, target, ok in verdicts]
        lines.append("")
    for group, names in s.groups:
        head = ["case", "native, each", f"{s.engine} / native", *(f"{e} / native" for e in s.tcg), f"TCG / {s.engine}"]
        if group in BOOTS:
            head = ["case", s.engine, *s.tcg, f"TCG / {s.engine}"]
        lines += [f"## {case_list.GROUP_TITLES[group]}", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for name in names:
            lines.append("| " + " | ".join(row(s, group, name, amounts)) + " |")
        if group not in BOOTS:
            native, tcg = s.group_means(group, names)
            others = [number(geometric_mean([middle(s.native_ratio(e, group, n)) for n in names])) for e in s.tcg]
            lines.append("| " + " | ".join(["**geometric mean**", "", number(native), *others, number(tcg)]) + " |")
        lines.append("")
        if group == "threads":
            lines += two_against_one(s)
    lines += problems(s)
    return "\n".join(lines)


def two_against_one(s):
    engines = [e for e in ("native", s.engine, *s.tcg) if s.speed_up(e)]
    if not engines:
        return []
    return ["What two threads get done in the time in which one does its part, by the clock on the wall (2 is ideal):", "",
            "| " + " | ".join(engines) + " |", "|---" * len(engines) + "|",
            "| " + " | ".join(with_spread(s.speed_up(e)) for e in engines) + " |", ""]


def row(s, group, name, amounts):
    table = s.table(group)
    if group in BOOTS:
        def cell(engine):
            bad = failure(s.results, engine, name)
            by_clock = [middle(list(t.get(engine, {}).get(name, {}).values())) for t in (s.wall, s.cpu)]
            return bad or " / ".join(map(duration, by_clock))
        return [name, cell(s.engine), *(cell(e) for e in s.tcg), with_spread(s.tcg_ratio(group, name))]

    def ratio(engine):
        good, bad = s.native_ratio(engine, group, name), failure(s.results, engine, name)
        return " ".join(([with_spread(good)] if good or not bad else []) + ([f"**{bad}**"] if bad else []))
    native = middle(list(table.get("native", {}).get(name, {}).values()))
    bad = failure(s.results, "native", name)
    each = bad or duration(native / amounts.get(name, 1) if native else None)
    return [name, each, ratio(s.engine), *(ratio(e) for e in s.tcg), with_spread(s.tcg_ratio(group, name))]


def problems(s):
    lines = []
    if s.wrong:
        lines += ["## Wrong results", ""]
        lines += [f"- {engine}, {case}: `{here}` where the host says `{there}` (`{command}`)"
                  for engine, case, here, there, command in s.wrong]
        lines.append("")
    errors = {(r["engine"], r["case"], r["error"]) for r in s.results if "error" in r and r["error"] != "wrong result"}
    if errors:
        lines += ["## What failed", ""]
        lines += [f"- {engine}, {case}: {error}" for engine, case, error in sorted(errors)]
        lines.append("")
    return lines


COLOURS = {"guise": "#1f6f5c", "tcg-single": "#d08c3a", "tcg-multi": "#a35a2a"}
LEFT, WIDTH, BAR, RIGHT = 130, 620, 9, 60


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def chart(summary, title):
    """Bars of time relative to native on a logarithmic scale, one group of bars a case."""
    s = summary
    engines = [s.engine, *s.tcg]
    rows = [(g, n, [middle(s.native_ratio(e, g, n)) for e in engines]) for g, names in s.groups if g not in BOOTS for n in names]
    values = [v for _, _, each in rows for v in each if v] or [1]
    low, high = min(0.8, *values), max(2, *values) * 1.1

    def x(value):
        return LEFT + WIDTH * math.log(value / low) / math.log(high / low)
    body, y, group_before = [], 66, None
    for group, name, each in rows:
        if group != group_before:
            y += 14
            body.append(f'<text x="{LEFT}" y="{y}" font-weight="bold">{escape(case_list.GROUP_TITLES[group])}</text>')
            y, group_before = y + 8, group
        body.append(f'<text x="{LEFT - 8}" y="{y + BAR * len(engines) / 2 + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        for engine, value in zip(engines, each):
            colour = COLOURS.get(engine, COLOURS["guise"])
            if value:
                start, end = sorted((x(1), x(value)))
                body.append(f'<rect x="{start:.1f}" y="{y}" width="{max(end - start, 1):.1f}" height="{BAR - 1}" fill="{colour}"/>'
                            f'<text x="{end + 4:.1f}" y="{y + BAR - 1}" font-size="9">{number(value)}</text>')
            else:
                bad = failure(s.results, engine, name) or "not run"
                body.append(f'<text x="{x(1) + 4:.1f}" y="{y + BAR - 1}" font-size="9" fill="#b00020">{escape(bad)}</text>')
            y += BAR
        y += 5
    grid = []
    for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500):
        if low <= tick <= high:
            grid.append(f'<line x1="{x(tick):.1f}" y1="56" x2="{x(tick):.1f}" y2="{y}" stroke="{"#333" if tick == 1 else "#ddd"}"/>'
                        f'<text x="{x(tick):.1f}" y="52" text-anchor="middle" font-size="10">{tick}</text>')
    legend = "".join(f'<rect x="{LEFT + 150 * i}" y="26" width="10" height="10" fill="{COLOURS.get(e, COLOURS["guise"])}"/>'
                     f'<text x="{LEFT + 150 * i + 14}" y="35">{escape(e)}</text>' for i, e in enumerate(engines))
    total = LEFT + WIDTH + RIGHT
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{y + 20}" viewBox="0 0 {total} {y + 20}" '
            f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
            f'<text x="{LEFT}" y="18" font-size="14">{escape(title)}</text>{legend}' + "".join(grid + body) + "</svg>\n")
