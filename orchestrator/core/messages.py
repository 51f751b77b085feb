"""What nodes may answer, verb by verb: the shapes of ``node/``'s messages. Everything else is refused."""

from __future__ import annotations

from orchestrator.core.shapes import (
    Shape,
    either,
    flag,
    many,
    maybe,
    number,
    one_of,
    record,
    row,
    table,
    tagged,
    text,
    whole,
    word,
)

RUN_ID = word(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NAME = word(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
TREE_ID = word(r"[0-9a-f]{32}")
SHA = word(r"[0-9a-f]{64}")
PLACE = maybe(word(r"[A-Za-z0-9]{1,64}"))
ADDRESS = word(r"[0-9A-Fa-f:.%A-Za-z0-9_-]{1,80}")
PORT = whole(1, 65535)
BYTES = whole(0, 1 << 60)
TIME = number(0, 1e11)
PATH = text(8192)
RANK = whole(0, 10_000_000)
LOCAL_RANK = whole(0, 65535)
ATTEMPT = whole(1, 1_000_000)
CODE = maybe(whole(-1024, 1024))
# An interface's name goes into files and commands: what Linux takes (dev_valid_name), less what shells read.
INTERFACE = word(r"[A-Za-z0-9_.@:+=-]{0,40}")

# follow and start
STARTED = record({"type": one_of("started")})
GPU_SAMPLE = row(number(0, 100), BYTES, BYTES)
SAMPLE = record(
    {"cpu": number(0, 1e6), "memory_used": whole(), "memory_total": whole(), "gpus": many(GPU_SAMPLE, 1024)}
)
WORKER = {"rank": maybe(RANK), "local_rank": LOCAL_RANK}
EVENT = tagged(
    "event",
    {
        "torchrun_started": record({"time": TIME, "pid": whole()}),
        "worker": record(
            {"time": TIME, **WORKER, "pid": maybe(whole()), "logs": PATH}, {"restart": whole(0, 1_000_000)}
        ),
        "rank_failed": record(
            {
                "time": TIME,
                "rank": maybe(RANK),
                "local_rank": LOCAL_RANK,
                "pid": maybe(whole()),
                "exit_code": CODE,
                "signal": CODE,
                "failed_at": maybe(number()),
                "message": maybe(text(1 << 18)),
                "full_disks": many(PATH, 16),
            }
        ),
        "stopping": record({"time": TIME, "by": text(), "grace": number(0, 1e7)}),
        "failed_to_start": record({"time": TIME, "error": text()}),
        "finished": record(
            {
                "time": TIME,
                "exit_code": CODE,
                "signal": CODE,
                "stopped": flag,
                "killed": whole(-(1 << 22), 1 << 22),
            },
            {"oom_kills": whole(-(1 << 40)), "alive": many(text(), 4096)},
        ),
    },
)
FOLLOWED = tagged(
    "type",
    {
        "following": record({"time": TIME}),
        "stream": record(
            {"id": whole(0, 65535), "name": text(64)},
            {"rank": maybe(RANK), "local_rank": LOCAL_RANK, "restart": whole(0, 1_000_000), "first": BYTES},
        ),
        "beat": record({"time": TIME}, {"sample": maybe(SAMPLE)}),
        "event": record({"event": EVENT}),
        "orphaned": record({}, {"rebooted": flag}),
        "end": record({}),
    },
)

# stop, runs, status
HELD = record({}, {"foreign": flag, "owner": text(256), "run_id": text(100), "error": text()})
STATUS = record({"running": maybe(HELD)})
STOPPED = record(
    {
        "ended": many(text(256), 10_000),
        "refused": maybe(HELD),
        "killed": whole(0, 1 << 22),
        "alive": many(text(), 4096),
    }
)
STATE = one_of("left over", "not answering", "lost", "failed", "stopping", "running", "stopped", "ok", "rebooted")
RUN = record(
    {
        "run_id": RUN_ID,
        "attempt": ATTEMPT,
        "state": STATE,
        "workload": maybe(text()),
        "owner": maybe(text(256)),
        "node": maybe(NAME),
        "nodes": maybe(many(NAME, 10_000)),
        "node_rank": maybe(whole(0, 100_000)),
        "first_rank": maybe(RANK),
        "nproc": maybe(whole(0, 100_000)),
        "min_nodes": maybe(whole(0, 100_000)),
        "leftovers": whole(0, 1 << 22),
        "last_line": maybe(text(2048)),
        "began": maybe(TIME),
        "ended": maybe(TIME),
        "exit_code": CODE,
    }
)
RUNS = record({"runs": many(RUN, 20_000), "time": TIME})

# facts, and what nodes find out about each other
CLOCK = record({"time": TIME})
ADDRESSES = many(row(INTERFACE, ADDRESS, whole(0, 128)), 4096)
DISK = record(
    {
        "path": PATH,
        "there": flag,
        "free": BYTES,
        "size": BYTES,
        "inodes": maybe(BYTES),
        "writable": flag,
        "noexec": flag,
        "kind": text(128),
    }
)
LIMIT = row(maybe(BYTES), maybe(BYTES))
PARTS: dict[str, Shape] = {
    "system": record(
        {
            "os": text(256),
            "kernel": text(256),
            "machine": text(64),
            "libc": text(64),
            "firewall": maybe(text(64)),
            "boot_id": text(64),
            "root": flag,
        },
        {"network": text(64)},
    ),
    "own_name": record({"hostname": text(256), "addresses": many(ADDRESS)}, {"error": text()}),
    "limits": record(
        {
            "ephemeral_ports": maybe(row(whole(0, 65535), whole(0, 65535))),
            **dict.fromkeys(("open_files", "processes", "locked_memory"), LIMIT),
        }
    ),
    "memory": record(
        {
            **dict.fromkeys(("total", "available", "swap", "swap_free"), BYTES),
            "limit": maybe(BYTES),
            "cores": whole(1, 100_000),
            "load": number(0, 1e7),
        }
    ),
    "disks": table(DISK, 64),
    "shm": DISK,
    "variables": record({"drift": table(text(65536), 4096)}),
    "interfaces": table(
        record({"up": flag, "speed": maybe(whole()), "mtu": maybe(whole(0, 1 << 20)), "kind": text(64)}),
        key=INTERFACE,
    ),
    "listeners": table(text(), 64, key=word("[0-9]{1,5}")),
    "torchruns": many(row(whole(), whole(), text())),
    "home": record({"path": PATH, "kind": text(128), "host": text(256)}),
    "names": table(many(ADDRESS), 65536),
    "timekeeping": record({"synchronised": maybe(flag)}),
    "logout": record({"kills": flag}, {"moves": flag}),
    "rdma": table(record({"state": text(64), "rate": text(128), "link": text(64)})),
    "locks": many(row(PATH, number())),
    "kept": record({"path": PATH, "trees": whole(), "runs": whole(), "newest": maybe(TREE_ID)}),
    "gpus": many(table(text(256), 64), 1024),
    "gpu_users": many(row(whole(), text(), text(64))),
    "gpu_peers": many(row(whole(), whole(), text(64)), 1 << 16),
    "gpu_errors": many(row(text(64), whole(), text())),
    "versions": record(
        {
            "executable": PATH,
            "version": text(64),
            "packages": table(text(256)),
            "torchvision_wants": maybe(text(256)),
            "path": PATH,
        }
    ),
    "torch": record({}, {"cuda": maybe(text(64)), "devices": whole(0, 100_000), "backends": many(text(64), 64)}),
}
NO_ANSWER = record({"error": text()})
INTERPRETER = record({"path": PATH, "error": maybe(text())}, {"version": text(64), "torch": maybe(text(64))})
FACTS = record(
    {
        "hostname": text(256), "home": PATH, "path": text(1 << 17), "user": text(256), "system": text(64),
        "python": INTERPRETER, "gpus": whole(0, 1024), "addresses": ADDRESSES, "routes": ADDRESSES,
        "ssh_address": maybe(ADDRESS), "free_port": maybe(PORT), "trees": many(flag), "running": maybe(
            record({}, {"run_id": text(100), "owner": text(256), "workload": text(), "age": number()})
        ),
        "leftovers": many(text(256)),
        "parts": record({}, {name: either(NO_ANSWER, shape) if name != "own_name" else either(shape, NO_ANSWER)
                             for name, shape in PARTS.items()}),
    }
)  # fmt: skip
LISTENING = record({"port": PORT, "udp_port": PORT, "master": maybe(text(256))})
PROBE = record(
    {
        "tcp": table(text(256), 256),
        "rtt": maybe(number(0, 1e6)),
        "loss": maybe(number(0, 1)),
        "bulk": maybe(row(BYTES, number(0, 1e6))),
        "master": maybe(text(256)),
    }
)
PROBED = record({"results": table(PROBE, 10_000), "logins": table(text(), 10_000)})

# store, relay, environment, place, verify, prune
STORE = record({"have": flag, "place": PLACE, "base": maybe(TREE_ID)})
ENTRY = row(PATH, one_of("file", "link", "dir"), whole(0, 0o7777), BYTES, PATH)
WANTED = record({"wanted": many(row(SHA, whole(0, 0o7777), BYTES), 10_000_000)})
STORED = record({"stored": TREE_ID})
LACKING = record({"place": PLACE, "addresses": ADDRESSES, "lacking": many(row(whole(), BYTES), 10_000_000)})
DOOR = record({"port": PORT})
NEXT = record({"next": maybe(text())})
RELAYED = either(
    record({"at": BYTES}),
    record({"done": flag, "complete": flag, "damaged": many(PATH, 10_000_000), "next": maybe(text())}),
)
ENVIRONMENT = either(
    record({"ready": PATH}),
    record({"ready": maybe(PATH), "place": PLACE, "version": text(64), "machine": text(64), "libc": text(64)}),
)
BUILDING = either(
    record({"line": text()}), record({"ready": PATH}), record({"failed": many(text()), "offline": flag})
)
OFFER = row(PATH, BYTES, whole(-(1 << 62), 1 << 62), maybe(PATH))
OFFERED = record({"work": PATH, "files": many(OFFER, 1_000_000)})
SENT = either(
    record({"path": PATH, "skipped": text(256)}),
    record({"path": PATH, "size": BYTES, "mode": whole(0, 0o7777)}),
    record({"done": one_of(True)}),
)
TOKEN = record({"there": flag})
PATHS = many(PATH, 10_000_000)
VERIFIED = record({"changed": PATHS, "missing": PATHS, "added": PATHS})
USED = record({"used": many(text(256), 100_000)})
PRUNED = record(dict.fromkeys(("trees", "environments", "blobs", "runs", "bytes"), BYTES))
REFUSAL = record({"error": text(1 << 16), "kind": text(64)})
