"""A table of output lines that identify a failure, each with its cause and its remedy.

Most lines were seen with torch 2.15 and Gloo; those of NCCL and GPUs come from the issues named beside them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntEnum


class Kind(IntEnum):
    """How close a kind of line is to the cause of a failure, the closest first."""

    CAUSE = 0
    DEATH = 1
    NETWORK = 2
    TIMEOUT = 3
    PEER = 4


@dataclass(frozen=True)
class Signature:
    """A failure that a line of output identifies. ``{0}`` in ``cause`` stands for the first group that matches.

    ``example`` is a matching line, ``source`` the issue that describes the failure.
    """

    name: str
    kind: Kind
    pattern: str
    cause: str
    remedy: str
    example: str
    source: str = ""
    regex: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "regex", re.compile(self.pattern))


# The first signature that matches a line counts, so specific ones come before general ones.
SIGNATURES: tuple[Signature, ...] = (
    Signature(
        "data-not-here",
        Kind.CAUSE,
        r"(\S+) is not (?:in \S+|here): send it with orch sync --data",
        "the script's input {0} is not on this node",
        "send it with orch sync --data, or name one that is on every node, as the line says",
        "train: MNIST is not in data/MNIST/raw: send it with orch sync --data mnist, or name a folder",
    ),
    Signature(
        "threads-at-exit",
        Kind.CAUSE,
        r"^terminate called without an active exception",
        "a thread of torch was still at work when Python ended",
        "run it again: the ranks had finished; to rule it out, import torch.distributed.nn before "
        "init_process_group, and let no DDP model outlive dist.destroy_process_group()",
        "terminate called without an active exception",
        "pytorch/pytorch#190489",
    ),
    Signature(
        "no-such-interface",
        Kind.CAUSE,
        r"Unable to find address for: (\S+)",
        "the network interface {0} does not exist on this node",
        "correct interface: for this host in the inventory, or leave GLOO_SOCKET_IFNAME to orch",
        "RuntimeError: [enforce fail at /pytorch/third_party/gloo/gloo/transport/tcp/device.cc:84] "
        "ifa != nullptr. Unable to find address for: eth9",
    ),
    Signature(
        "loopback-advertised",
        Kind.CAUSE,
        r"Connection refused, remote=\[127\.",
        "a rank advertised a loopback address, which leads every other node to itself",
        "set rendezvous.interface, or interface: for this host, to one on the network that all nodes share",
        "SO_ERROR: Connection refused, remote=[127.0.1.1]:41593",
    ),
    Signature(
        "docker-bridge-advertised",
        Kind.CAUSE,
        r"remote=\[172\.17\.",
        "a rank advertised the address of docker's bridge, which no other machine can reach",
        "set rendezvous.interface, or interface: for this host, to one on the network that all nodes share",
        "SO_ERROR: Connection refused, remote=[172.17.0.1]:40112",
    ),
    Signature(
        "hostname-not-local",
        Kind.CAUSE,
        r"Unable to resolve hostname to a \(local\) address",
        "this node's host name resolves to none of its own addresses",
        "set fabric_address: or interface: for this host in the inventory, or correct its /etc/hosts",
        "Unable to resolve hostname to a (local) address. Using the loopback address as fallback.",
    ),
    Signature(
        "port-taken",
        Kind.CAUSE,
        r"EADDRINUSE|code: -98\b|Address already in use",
        "the master port is in use on this node",
        "leave --port out, so that orch picks a free one, or pass another --port",
        "The server socket has failed to bind to [::]:29500 (errno: 98 - Address already in use).",
    ),
    Signature(
        "sizes-differ",
        Kind.CAUSE,
        r"Received data size doesn't match expected size",
        "ranks disagree about a collective: its shape, its type or the call itself",
        "make all ranks call the same collectives in the same order with the same shapes",
        "op.preamble.length <= op.nbytes. Received data size doesn't match expected size. Is there a mismatch",
    ),
    Signature(
        "collectives-differ",
        Kind.CAUSE,
        r"Detected mismatch between collectives on ranks",
        "ranks call different collectives: their code took different branches",
        "look for a branch that only some ranks take; the message names both calls",
        "Detected mismatch between collectives on ranks. Rank 1 is running collective: ALLREDUCE, but Rank 0 is "
        "running collective: BROADCAST",
    ),
    Signature(
        "cuda-out-of-memory",
        Kind.CAUSE,
        r"CUDA out of memory|CUDA error: out of memory",
        "a GPU of this node has too little free memory",
        "end leftovers first (orch ps, nvidia-smi), then lower the batch size",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of",
    ),
    Signature(
        "shared-memory-full",
        Kind.CAUSE,
        r"unable to allocate shared memory|posix_fallocate failed|Bus error.*(?:shm|shared memory)",
        "/dev/shm is full on this node",
        "enlarge it (mount -o remount,size=16G /dev/shm; docker: --shm-size), or use fewer loader workers",
        "RuntimeError: unable to allocate shared memory(shm) for file </torch_123>: No space left on device (28)",
        "nccl#290",
    ),
    Signature(
        "disk-full",
        Kind.CAUSE,
        r"No space left on device|Disk quota exceeded",
        "a disk of this node is full",
        "make room there (old runs are in ~/.orch and the workdir), or set workdir: to a larger disk",
        "OSError: [Errno 28] No space left on device: 'snapshot.pt'",
    ),
    Signature(
        "module-missing",
        Kind.CAUSE,
        r"ModuleNotFoundError: No module named '([^']+)'",
        "the Python module {0} is not installed for this node's interpreter",
        "add it to the file of packages that env: names, and run again; without such a file, install it with the "
        "interpreter shown under environment",
        "ModuleNotFoundError: No module named 'einops'",
    ),
    Signature(
        "library-mismatch",
        Kind.CAUSE,
        r"version `(GLIBC\S*|CXXABI\S*)' not found|ImportError: (lib\S+|\S+\.so\S*): cannot open shared object",
        "a compiled package does not fit this node's system libraries",
        "build the environment on the node itself, or use one built for its distribution",
        "ImportError: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.34' not found (required by ext.so)",
    ),
    Signature(
        "arguments-refused",
        Kind.CAUSE,
        r"error: (unrecognized arguments: .*|argument .*|the following arguments are required: .*)",
        "the script rejects its command line ({0})",
        "correct the options after the script's name: -- --help lists the script's, orch run --help those of orch",
        "train.py: error: unrecognized arguments: --epoch 3",
    ),
    Signature(
        "file-missing",
        Kind.CAUSE,
        r"FileNotFoundError: \[Errno 2\] No such file or directory: (.+)|can't open file (.+): \[Errno 2\]",
        "a file that the script needs ({0}) is not on this node",
        "put it into the project folder, outside .gitignore and .orchignore, or give a path that all nodes have",
        "FileNotFoundError: [Errno 2] No such file or directory: '/data/train.bin'",
    ),
    Signature(
        "permission-denied",
        Kind.CAUSE,
        r"PermissionError: \[Errno 13\] Permission denied: (.+)",
        "the login user may not use the path {0} on this node",
        "change the owner or mode of the path there, or set user: or workdir: for this host",
        "PermissionError: [Errno 13] Permission denied: '/scratch/out'",
    ),
    Signature(
        "gpu-driver",
        Kind.CAUSE,
        r"NVIDIA driver on your system is too old|Found no NVIDIA driver|CUDA driver version is insufficient"
        r"|no kernel image is available",
        "this node's NVIDIA driver, or its GPU, does not fit the installed torch",
        "update the driver there, or install a torch built for its CUDA version",
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).",
    ),
    Signature(
        "no-gpu",
        Kind.CAUSE,
        r"ProcessGroupNCCL is only supported with GPUs|requires at least one CUDA device"
        r"|No CUDA GPUs are available|Torch not compiled with CUDA enabled|no CUDA-capable device",
        "the script needs a GPU and none is usable on this node",
        "run with --backend gloo, or check nvidia-smi and CUDA_VISIBLE_DEVICES there",
        "ValueError: ProcessGroupNCCL is only supported with GPUs, no GPUs found!",
    ),
    Signature(
        "invalid-device",
        Kind.CAUSE,
        r"invalid device ordinal",
        "a rank asks for a GPU that this node does not have: more processes than GPUs",
        "lower --nproc, or correct gpus: or nproc: for this host",
        "RuntimeError: CUDA error: invalid device ordinal",
    ),
    Signature(
        "duplicate-gpu",
        Kind.CAUSE,
        r"Duplicate GPU detected",
        "two ranks use the same GPU, which NCCL does not allow",
        "call torch.cuda.set_device(int(os.environ['LOCAL_RANK'])) before anything uses CUDA; start at most one "
        "rank per GPU (--nproc), and no second host on the same machine",
        "NCCL WARN Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000",
    ),
    Signature(
        "fabric-manager",
        Kind.CAUSE,
        r"Error 802|system not yet initialized",
        "the GPUs of this node are not ready: NVIDIA's fabric manager is not running",
        "run there: sudo systemctl restart nvidia-fabricmanager; its version must match the driver's",
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized",
    ),
    Signature(
        "gpu-hardware",
        Kind.CAUSE,
        r"\bXid\b|fallen off the bus|uncorrectable ECC error",
        "a GPU of this node has failed",
        "leave the node out (--nodes), check dmesg and nvidia-smi -q there, and reboot the node",
        "NVRM: Xid (PCI:0000:41:00): 79, pid=1234, GPU has fallen off the bus.",
    ),
    Signature(
        "device-assert",
        Kind.CAUSE,
        r"device-side assert triggered|an illegal memory access was encountered",
        "a CUDA kernel failed, often because of an index out of range (a label, a token)",
        "run with --env CUDA_LAUNCH_BLOCKING=1 to see which call fails",
        "RuntimeError: CUDA error: device-side assert triggered",
    ),
    Signature(
        "nccl-versions-differ",
        Kind.CAUSE,
        r"Mismatched NCCL version detected",
        "nodes have different versions of NCCL",
        "install the same torch on all nodes (orch doctor names the nodes that differ)",
        "NCCL WARN Mismatched NCCL version detected : rank 0 has 22703, rank 1 has 22602",
    ),
    Signature(
        "nccl-message-truncated",
        Kind.CAUSE,
        r"Message truncated : received",
        "ranks disagree about NCCL's messages: different versions or different NCCL_* variables",
        "give all nodes the same torch and the same NCCL_* variables",
        "NCCL WARN Message truncated : received 2048 bytes instead of 1024",
        "nccl#1176, nccl#1328",
    ),
    Signature(
        "nccl-adapters-differ",
        Kind.CAUSE,
        r"Detected mixed local Net device counts",
        "nodes have different sets of network adapters",
        "name the adapters that all nodes have, for example --env NCCL_IB_HCA=mlx5_0",
        "NCCL WARN Detected mixed local Net device counts",
        "nccl#2428",
    ),
    Signature(
        "nccl-no-interface",
        Kind.CAUSE,
        r"No usable listening interface found|no socket interface found",
        "NCCL_SOCKET_IFNAME names no interface of this node",
        "correct interface: for this host, or leave NCCL_SOCKET_IFNAME to orch",
        "NCCL WARN Bootstrap : no socket interface found",
        "nccl#929",
    ),
    Signature(
        "locked-memory",
        Kind.CAUSE,
        r"ibv_reg_mr\S* failed|ibv_reg_mr.*Cannot allocate memory",
        "this node lets processes lock too little memory for InfiniBand",
        "set memlock to unlimited there (/etc/security/limits.conf, and LimitMEMLOCK of the ssh service)",
        "NCCL WARN Call to ibv_reg_mr failed with error Cannot allocate memory",
    ),
    Signature(
        "roce-path",
        Kind.CAUSE,
        r"vendor err 129",
        "InfiniBand or RoCE packets are lost on the way",
        "check the GID index (NCCL_IB_GID_INDEX) and the switches, or try --env NCCL_IB_DISABLE=1",
        "NCCL WARN NET/IB : Got completion with status=12 opcode=0 len=0 vendor err 129",
        "nccl#426",
    ),
    Signature(
        "open-files",
        Kind.CAUSE,
        r"Too many open files",
        "a process on this node has reached its limit of open files",
        "raise ulimit -n there (/etc/security/limits.conf), or use fewer loader workers",
        "OSError: [Errno 24] Too many open files",
    ),
    Signature(
        "process-limit",
        Kind.CAUSE,
        r"can't start new thread|Resource temporarily unavailable",
        "the user has reached the limit of processes and threads on this node",
        "raise ulimit -u or the container's pids limit, or set OMP_NUM_THREADS",
        "RuntimeError: can't start new thread",
    ),
    Signature(
        "host-memory",
        Kind.CAUSE,
        r"MemoryError|DefaultCPUAllocator: can't allocate memory|\[Errno 12\] Cannot allocate memory",
        "this node has no memory left for the process",
        "lower the batch size or the number of loader workers, or run fewer processes per node",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory",
    ),
    Signature(
        "unused-parameters",
        Kind.CAUSE,
        r"Expected to have finished reduction in the prior iteration",
        "on some rank, parameters of the model did not contribute to the loss",
        "pass find_unused_parameters=True to DistributedDataParallel, or use every output in the loss",
        "RuntimeError: Expected to have finished reduction in the prior iteration before starting a new one.",
    ),
    Signature(
        "snapshot-mismatch",
        Kind.CAUSE,
        r"Error\(s\) in loading state_dict",
        "the snapshot does not fit the model: another version of the model wrote it",
        "start without the old snapshot, or with the code that wrote it",
        "RuntimeError: Error(s) in loading state_dict for Classifier:",
    ),
    Signature(
        "dns",
        Kind.NETWORK,
        r"gai error: -\d|Temporary failure in name resolution|Name or service not known",
        "this node cannot resolve the name of another",
        "give numeric addresses in the inventory (fabric_address:), or correct the node's DNS",
        "The client socket has failed to resolve the address of node1, gai error: -3",
    ),
    Signature(
        "no-route",
        Kind.NETWORK,
        r"No route to host|Network is unreachable",
        "this node cannot reach another: a firewall rejects the connection, or no route leads there",
        "allow all TCP between the nodes, and set interface: to one on a network that they share",
        "SO_ERROR: No route to host, remote=[10.0.0.3]:41593",
        "nccl#1105",
    ),
    Signature(
        "refused",
        Kind.NETWORK,
        r"SO_ERROR: Connection refused|Connection refused",
        "another node refused the connection: its rank has ended, or its firewall rejects the port",
        "read that node's log; if its rank was running, allow all TCP between the nodes",
        "SO_ERROR: Connection refused, remote=[10.0.0.2]:41593",
    ),
    Signature(
        "mesh-timeout",
        Kind.TIMEOUT,
        r"(?:connectFullMesh failed.*)?Connect timeout \[none\]|connectFullMesh failed",
        "ranks cannot connect to each other: a firewall drops their packets",
        "allow all TCP ports between the nodes: the system chooses the ranks' own ports",
        "Gloo connectFullMesh failed with [pair.cc:144] timed out connecting: SO_ERROR: Connect timeout [none]",
    ),
    Signature(
        "receive-timeout",
        Kind.TIMEOUT,
        r"Timed out waiting \d+ms for (?:recv|send) operation",
        "a rank waited in vain for another's data",
        "if it happens right after the start, check the MTU; if later, check the network and ranks that stalled",
        "[unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete",
    ),
    Signature(
        "nodes-missing",
        Kind.TIMEOUT,
        r"waiting for clients\.? ?\(?(\d+/\d+)",
        "not all ranks ({0}) reached the master: a node is missing, or a firewall blocks it",
        "allow TCP to the master port on the master node (orch plan shows it)",
        "DistStoreError: Timed out after 61 seconds waiting for clients. 1/2 clients joined.",
    ),
    Signature(
        "master-unreachable",
        Kind.TIMEOUT,
        r"client socket has timed out after \d+\S* while trying to connect to \(([^)]+)\)",
        "the master ({0}) does not answer: a firewall drops the connection, or torchrun did not start there",
        "allow TCP to the master port on the master node, or set interface: to another",
        "The client socket has timed out after 60000ms while trying to connect to (10.0.0.1, 29500).",
    ),
    Signature(
        "ranks-disagree",
        Kind.TIMEOUT,
        r"assigned_ranks",
        "the nodes disagree about their number or their ranks",
        "start all nodes with one orch run, and start nothing else at the same master port",
        "wait timeout after 300000ms, keys: /none/torchelastic/role_info/assigned_ranks/1",
    ),
    Signature(
        "rendezvous-timeout",
        Kind.TIMEOUT,
        r"RendezvousTimeoutError",
        "too few nodes joined the rendezvous in time",
        "check the clocks of the nodes and the firewall of the endpoint, or use --rdzv-backend static",
        "torch.distributed.elastic.rendezvous.api.RendezvousTimeoutError",
    ),
    Signature(
        "collective-timeout",
        Kind.TIMEOUT,
        r"Watchdog caught collective operation timeout(?:.*?SeqNum=(\d+))?",
        "a collective did not end in time",
        "find the rank that is missing: it stalled, or took another branch",
        "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=42, OpType=ALLREDUCE, Timeout",
        "pytorch#118369",
    ),
    Signature(
        "rendezvous-lost",
        Kind.PEER,
        r"failed to send a keep-alive heartbeat",
        "the node that hosts the rendezvous has left",
        "read the log of that node, and check that all clocks agree",
        "The node 'node2_123_0' has failed to send a keep-alive heartbeat to the rendezvous",
    ),
    Signature(
        "closed-by-peer",
        Kind.PEER,
        r"Connection (?:reset|closed) by peer|Broken pipe|Socket closed|recvValue failed|Failed to recv, got 0",
        "another rank ended while this one was connected to it",
        "find the rank that ended first; if none failed, the ranks made different numbers of steps",
        "RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:13471",
    ),
)

BY_NAME = {signature.name: signature for signature in SIGNATURES}
# Healthy runs print these lines too (pytorch#77523); they mean nothing if IPv4 works afterwards.
HARMLESS = re.compile(r"errno: 97|hostname of the client socket cannot be retrieved")
