"""Starts each peer of peers.toml in turn, measures it with mcp-bench and prints one markdown table.

Raw results go to results.json next to this file, so that single peers can be measured again with --only.
Everything listens on loopback, and only processes started here are ended, each by its id.
"""

import argparse
import json
import os
import resource
import secrets
import shlex
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent / "target")).resolve()
BENCH = TARGET / "release/mcp-bench"
PORT, UPSTREAM_PORTS = 7800, (7701, 7702)
SECRET = secrets.token_hex(24)
TAG = f"run-{secrets.token_hex(4)}"
TICKS = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count()
NOISY = 0.2  # of the machine, taken by others


# Processes, as /proc shows them.


def stat(pid):
    """(parent, start time, own CPU seconds, reaped children's CPU seconds), or none once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    times = [int(n) / TICKS for n in fields[11:15]]
    return int(fields[1]), int(fields[19]), sum(times[:2]), sum(times[2:])


def is_upstream(pid):
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return words[0] == os.fsencode(BENCH) and TAG.encode() in words
    except OSError:
        return False


def rss_mib(pid):
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


def tree(root):
    """The process and all its descendants."""
    parents = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (seen := stat(entry.name)):
            parents.setdefault(seen[0], []).append(int(entry.name))
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += parents.get(pid, [])
    return found


def busy_seconds():
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / TICKS


def wait_for_quiet(limit):
    """Waits until others leave most of the machine alone for a second, or until the limit."""
    deadline = time.monotonic() + limit
    while True:
        before = busy_seconds()
        time.sleep(1)
        if (busy_seconds() - before) / CORES < 0.15 or time.monotonic() > deadline:
            return


class Proxy:
    """A running peer: its processes, their memory and their CPU time."""

    def __init__(self, process):
        self.process = process
        self.seen = {}  # pid -> start time, of everything that was ever part of it
        self.peak = 0.0
        self.upstreams = 0
        self.stopping = threading.Event()
        self.sampler = threading.Thread(target=self.sample_on, daemon=True)
        self.sampler.start()

    def sample(self):
        """(RSS of the peer, CPU of the peer, CPU of its stdio upstreams)"""
        rss = cpu = upstream_cpu = upstreams = 0
        for pid in tree(self.process.pid):
            seen = stat(pid)
            if not seen:
                continue
            self.seen[pid] = seen[1]
            if is_upstream(pid):
                upstream_cpu += seen[2]
                upstreams += 1
            else:
                cpu += seen[2] + seen[3]
                rss += rss_mib(pid)
        self.peak = max(self.peak, rss)
        self.upstreams = max(self.upstreams, upstreams)
        return rss, cpu, upstream_cpu

    def sample_on(self):
        while not self.stopping.wait(0.3):
            self.sample()

    def stop(self):
        self.sample()
        self.stopping.set()
        self.sampler.join()
        for sig, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 2)):
            left = [pid for pid, started in self.seen.items() if (now := stat(pid)) and now[1] == started]
            for pid in left:
                try:
                    os.kill(pid, sig)
                except ProcessLookupError:
                    pass
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline and any(os.path.exists(f"/proc/{pid}") for pid in left):
                self.process.poll()
                time.sleep(0.05)


class Upstreams:
    """The fake HTTP upstreams; one that crashes is started again a second later."""

    def __init__(self, n):
        serve = [str(BENCH), "upstream", "--tag", TAG, "--listen"]
        self.commands = [[*serve, f"127.0.0.1:{port}"] for port in UPSTREAM_PORTS[:n]]
        self.processes = [subprocess.Popen(command) for command in self.commands]
        self.stopping = threading.Event()
        self.keeper = threading.Thread(target=self.keep, daemon=True)
        self.keeper.start()

    def keep(self):
        while not self.stopping.wait(0.05):
            for n, process in enumerate(self.processes):
                if process.poll() is not None and not self.stopping.wait(1):
                    self.processes[n] = subprocess.Popen(self.commands[n])

    def cpu(self):
        return sum(seen[2] for p in self.processes if (seen := stat(p.pid)))

    def stop(self):
        self.stopping.set()
        self.keeper.join()
        for process in self.processes:
            process.kill()
            process.wait()


class Run:
    """One start of one peer over one kind of upstream."""

    def __init__(self, peer, kind, n, options, template=None):
        self.peer, self.kind, self.options = peer, kind, options
        self.dir = Path(tempfile.mkdtemp(prefix="mcp-bench-"))
        if template:
            shutil.copytree(template, self.dir, dirs_exist_ok=True)
        stdio = f"{BENCH} upstream --tag {TAG} --stdio"
        alpha, beta = (f"http://127.0.0.1:{p}/mcp" for p in UPSTREAM_PORTS) if kind == "http" else (stdio, stdio)
        self.env = {
            "PEERS": str(options.peers), "BENCH": str(BENCH), "PORT": str(PORT), "DIR": str(self.dir), "KIND": kind,
            "N": str(n), "ALPHA": alpha, "BETA": beta, "SECRET": SECRET,
        }  # fmt: skip
        command, *args = stdio.split()
        common = {"url": alpha}, {"url": beta}
        servers = common if kind == "http" else [{"command": command, "args": args}] * 2
        config = {"mcpServers": dict(zip(("alpha", "beta"), servers[:n]))}
        (self.dir / "servers.json").write_text(json.dumps(config))
        self.upstreams = Upstreams(n if kind == "http" else 0)
        self.proxy = None

    def __enter__(self):
        if "start" in self.peer:
            self.log = open(self.dir / "peer.log", "w")
            started = subprocess.Popen(
                ["bash", "-euc", self.peer["start"]], cwd=self.dir, env=os.environ | self.env,
                stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True,
            )  # fmt: skip
            self.proxy = Proxy(started)
        return self

    def __exit__(self, *_):
        if self.proxy:
            self.proxy.stop()
            self.log.close()
        self.upstreams.stop()
        if not self.options.keep:
            shutil.rmtree(self.dir, ignore_errors=True)

    def prepare(self):
        subprocess.run(
            ["bash", "-euc", self.peer["prepare"]], cwd=self.dir, env=os.environ | self.env, timeout=180, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def expand(self, text):
        return string.Template(text).substitute(self.env)

    def client(self):
        own = self.dir / "client.args"
        extra = own.read_text() if own.exists() else ""
        return shlex.split(self.expand(self.peer["client"][self.kind]) + " " + extra)

    def other(self, tool):
        """A tool of the second upstream, at its own URL where the peer gives it one."""
        url = self.peer.get("other", {}).get(self.kind)
        return f"{tool}@{self.expand(url)}" if url else f"beta/{tool}"

    def bench(self, command, *args, limit=120):
        """One mcp-bench command's report, or {"failed": why}."""
        words = [str(BENCH), command, *self.client(), *map(str, args)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return {"failed": f"mcp-bench {command} did not end within {limit} s"}
        if done.returncode:
            return {"failed": done.stderr.strip()[-400:]}
        return json.loads(done.stdout)

    def watched(self, command, *args):
        """A report with the peer's CPU seconds and the share of the machine that others took meanwhile."""
        wait_for_quiet(self.options.quiet)
        before = self.cpu()
        report = self.bench(command, *args)
        peer, ours, machine, wall = (after - b for b, after in zip(before, self.cpu()))
        # An upstream spawned by the client itself ends unreaped, so its CPU time would count as others'.
        own_upstream = self.kind == "stdio" and not self.proxy
        report["others_share"] = 0 if own_upstream else round(max(0, machine - ours) / wall / CORES, 2)
        return report | {"cpu_seconds": peer}

    def load(self, clients, *extra):
        options = self.options
        words = ["--clients", clients, "--duration", options.seconds, "--warmup", 1, *extra]
        report = quietest(options.tries, lambda: self.watched("load", *words))
        calls = report.get("calls_per_s", 0) * (options.seconds + 1)
        return report | {"cpu_us_per_call": round(report["cpu_seconds"] * 1e6 / calls) if calls else None}

    def cpu(self):
        _, peer, stdio = self.proxy.sample() if self.proxy else (0, 0, 0)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        ours = peer + stdio + self.upstreams.cpu() + used.ru_utime + used.ru_stime
        return peer, ours, busy_seconds(), time.monotonic()


# The measurements.


def quietest(tries, attempt):
    """The report of the attempt that other work disturbed least; the first one undisturbed will do."""
    reports = []
    for _ in range(tries):
        reports.append(attempt())
        if reports[-1]["others_share"] <= NOISY:
            break
    return min(reports, key=lambda report: report["others_share"])


def measure(name, peer, kind, options):
    result = {"when": time.strftime("%Y-%m-%d %H:%M")}
    many = 2 if peer.get("many") and not (name == "direct" and kind == "stdio") else 1
    templates = {}

    def start(n):
        if "prepare" in peer and n not in templates:
            with Run(peer, kind, n, options) as run:
                run.prepare()
                templates[n] = Path(tempfile.mkdtemp(prefix="mcp-bench-"))
                run.proxy.stop()
                shutil.copytree(run.dir, templates[n], dirs_exist_ok=True)
        return Run(peer, kind, n, options, templates.get(n))

    def step(what):
        print(f"{time.strftime('%H:%M:%S')} {name} {kind}: {what}", file=sys.stderr, flush=True)

    wanted = options.steps.split(",")
    if "load" in wanted:
        step("load")
        with start(1) as run:
            result["ready"] = run.bench("probe", "--limit", 90)
            if "failed" in result["ready"]:
                log = run.dir / "peer.log"
                result["log"] = log.read_text(errors="replace")[-1500:] if log.exists() else ""
                return result
            time.sleep(1)
            result["rss_idle"] = round(run.proxy.sample()[0], 1) if run.proxy else None
            result["load"] = {n: run.load(n) for n in options.clients}
            result["rss_peak"] = round(run.proxy.peak, 1) if run.proxy else None
            result["upstream_processes"] = run.proxy.upstreams if run.proxy else None
            result["modern"] = run.bench("probe", "--era", "2026-07-28", "--limit", 2)
            result["dedupe"] = run.bench("dedupe", "--clients", 16)
    if "rate" in wanted:
        step("fixed rate")
        with start(1) as run:
            run.bench("probe", "--limit", 90)
            result["rate"] = run.load(16, "--rate", options.rate)
    if "isolate" in wanted:
        step("isolation")

        def isolate():
            with start(many) as run:
                run.bench("probe", "--limit", 90)
                bad = ["--bad", "alpha/hang"]
                if many == 2:
                    bad = ["--bad", run.other("hang"), *bad, "--bad", run.other("stall_stdout")]
                return run.watched("isolate", "--good", "alpha/echo", *bad, "--duration", 3)

        result["isolate"] = quietest(options.tries, isolate)
    if "fault" in wanted:
        step("faults")
        with start(many) as run:
            run.bench("probe", "--limit", 90)
            other = ["--other", "beta/echo"] if many == 2 and not peer.get("other") else []
            result["fault"] = run.bench(
                "fault", "--good", "alpha/echo", "--hang", "alpha/hang", "--crash", "alpha/crash", *other,
                "--hang-limit", options.hang, limit=options.hang + 120,
            )  # fmt: skip
    for template in templates.values():
        shutil.rmtree(template, ignore_errors=True)
    return result


# The table.


def number(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 1 else f"{value:.1f}"


def load_cell(report):
    if not report or "failed" in report:
        return "failed"
    latency = report["latency_ms"]
    noisy = "~" if report["others_share"] > NOISY else ""
    text = f"{noisy}{number(report['calls_per_s'])}; {number(latency['p50'])}/{number(latency['p99'])}"
    unsent = {"unsent": report["unsent"]} if report.get("unsent") else {}
    return text + "".join(f"; {n} {kind}" for kind, n in (report["errors"] | unsent).items())


def phase_cell(isolate, which):
    if not isolate or "failed" in isolate:
        return "failed"
    for phase in isolate["phases"]:
        tool = phase["bad"].split("@")[0].split("/")[-1]
        place = "same" if phase["bad"] == "alpha/hang" else "other"
        if which == (tool, place):
            if "skipped" in phase:
                return "failed"
            good, fresh = phase["good"], phase["fresh_session"]
            before, during = (r["latency_ms"]["p99"] for r in (isolate["alone"], good))
            noisy = "~" if isolate.get("others_share", 0) > NOISY else ""
            text = f"{noisy}{number(phase['ratio_p50'])}x; {number(before)}→{number(during)}"
            text += "".join(f"; {n} {kind}" for kind, n in good["errors"].items())
            text += "".join(f"; bad calls ended: {kind}" for kind in phase["returned"])
            return text + ("" if fresh["outcome"] == "ok" else f"; new client: {fresh['outcome']}")
    return "n/a"


def fault_cells(fault):
    if not fault or "failed" in fault:
        return "failed", "failed", "failed"
    hang, crash = fault["hang"], fault["crash"]
    hung = "no error" if hang["outcome"] == "timeout" else f"{hang['outcome']} after {hang['ms'] / 1000:.1f} s"
    if crash["outcome"] == "timeout":
        died = "no error in 30 s"
    else:
        died = f"{crash['outcome']} after {number(crash['ms'])} ms"
    back = []
    for who in ("same_session", "fresh_session"):
        seen = fault[who]
        last = (seen.get("last") or {}).get("outcome")
        # A 404 is how a session's end is told: the client has to open a new one.
        never = "404: reopen" if last == "http_404" else f"no ({last})"
        back.append(f"{seen['ms'] / 1000:.1f} s" if seen["recovered"] else never)
    other = fault.get("other_upstream")
    note = "" if not other or other["outcome"] == "ok" else f"; other upstream: {other['outcome']}"
    return hung, died + note, f"{back[0]} / {back[1]}"


def table(results, clients, rate):
    head = ["peer", "upstream", "2026-07-28", "ready ms", "RSS MiB idle/peak", "CPU µs/call"]
    head += [f"{n} client{'s' * (int(n) > 1)}: calls/s; p50/p99 ms" for n in clients]
    head += [f"open loop, 16 clients, {rate:g}/s: same"]
    head += ["other upstream hangs: good p50 ratio; p99 ms", "same upstream hangs", "other upstream stalls"]
    head += ["hang: client sees", "crash: client sees", "works again: same/new session"]
    rows = [head, ["---"] * len(head)]
    for key, result in results.items():
        name, kind = key.rsplit(":", 1)
        ready, loads = result.get("ready", {}), result.get("load", {})
        if "failed" in ready:
            rows.append([name, kind, "failed to start: " + ready["failed"][:80]] + [""] * (len(head) - 3))
            continue
        most = loads.get(clients[-2 if len(clients) > 1 else -1], {})
        isolate = result.get("isolate")
        rows.append([
            name, kind, "no" if "failed" in result.get("modern", {}) else "yes", number(ready.get("ready_ms")),
            f"{number(result.get('rss_idle'))}/{number(result.get('rss_peak'))}", number(most.get("cpu_us_per_call")),
            *(load_cell(loads.get(n)) for n in clients), load_cell(result.get("rate")),
            *(phase_cell(isolate, w) for w in (("hang", "other"), ("hang", "same"), ("stall_stdout", "other"))),
            *fault_cells(result.get("fault")),
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=os.environ.get("PEERS"), help="where the peers are installed")
    parser.add_argument("--only", action="append", help="NAME or NAME:KIND; may be given again")
    parser.add_argument("--steps", default="load,rate,isolate,fault")
    parser.add_argument("--clients", default="1,16,64", type=lambda text: text.split(","))
    parser.add_argument("--seconds", default=5.0, type=float, help="measured seconds per load run")
    parser.add_argument("--rate", default=100.0, type=float, help="calls per second of the open-loop run, 16 clients")
    parser.add_argument("--hang", default=70.0, type=float, help="seconds to wait for an error from a hung upstream")
    parser.add_argument("--quiet", default=20.0, type=float, help="seconds to wait for other work to leave the CPU")
    parser.add_argument("--tries", default=3, type=int, help="runs of a measurement that other work disturbs")
    parser.add_argument("--keep", action="store_true", help="keep the peers' working directories")
    parser.add_argument("--table", action="store_true", help="only print the table of results.json")
    options = parser.parse_args()
    if not options.peers and not options.table:
        parser.error("say where the peers are: --peers or $PEERS")
    peers = tomllib.loads((HERE / "peers.toml").read_text())
    store = HERE / "results.json"
    order = [f"{name}:{kind}" for name, peer in peers.items() for kind in peer["kinds"]]

    def stored():
        return json.loads(store.read_text()) if store.exists() else {}

    for name, peer in peers.items():
        for kind in peer["kinds"]:
            key = f"{name}:{kind}"
            if options.table or (options.only and name not in options.only and key not in options.only):
                continue
            version = subprocess.run(
                ["bash", "-c", peer["version"]], capture_output=True, text=True,
                env=os.environ | {"PEERS": str(options.peers), "BENCH": str(BENCH)},
            )  # fmt: skip
            if version.returncode:
                print(f"{name}: not installed, left out ({version.stderr.strip()[-80:]})", file=sys.stderr)
                continue
            fresh = measure(name, peer, kind, options)
            results = stored()
            results[key] = results.get(key, {}) | fresh | {"version": version.stdout.strip().split("\n")[-1]}
            kept = {key: results[key] for key in order if key in results}
            store.write_text(json.dumps(kept, indent=1))
    print(table(stored(), options.clients, options.rate))


if __name__ == "__main__":
    main()
