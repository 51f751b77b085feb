"""DistributedDataParallel over MPI: the training of ``multinode`` with ranks that mpirun starts.

    orch run --launcher mpirun mpi-ddp -- 20 5

Gradients travel over MPI: torch's own if it was built with one, else mpi4py's (``_mpi.py``). Ranks train on GPUs
if their node has some. Snapshots are those of ``multinode``: it goes on from them, over gloo or nccl, and this
script from its. Also runs under plain ``mpirun python mpi_ddp.py 20 5``, and as a single process.
"""

from __future__ import annotations

from _mpi import adopt_ranks
from multinode import main

if __name__ == "__main__":
    adopt_ranks()
    main(__doc__, backend="mpi")
