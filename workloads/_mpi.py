"""A process group over MPI, for ranks that mpirun starts.

torch has an MPI backend only where it was built from source beside an MPI. Elsewhere this file registers one that
calls MPI through mpi4py, under the name ``mpi4py``. It is written in Python and knows the collectives of
torch.distributed on the CPU; tensors on a GPU are copied there and back. DistributedDataParallel trains over it.

The scripts in this folder import this file as ``_mpi``; copy it together with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

NAME = "mpi4py"
INSTALL = "install mpi4py on every node (pip install mpi4py), for the MPI of its mpirun, or pass --backend gloo"
# Types that MPI has no name for; they are reduced as the type on the right.
WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.bool: torch.uint8}
# The variables of rank, size and local rank that Open MPI and MPICH set.
VARIABLES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)


class NoMpi(Exception):
    """Ranks cannot exchange tensors over MPI, for the reason in the message."""


def adopt_ranks() -> None:
    """Set RANK, WORLD_SIZE and LOCAL_RANK for a process that plain mpirun has started; orch sets them itself."""
    for names in VARIABLES:
        if "RANK" not in os.environ and all(name in os.environ for name in names):
            rank, size, local_rank = (os.environ[name] for name in names)
            os.environ.update(RANK=rank, WORLD_SIZE=size, LOCAL_RANK=local_rank)


def init_process_group(timeout: timedelta | None = None) -> None:
    """Make the default group, over torch's own MPI if it has one. Raises NoMpi."""
    if dist.is_mpi_available():
        dist.init_process_group("mpi", timeout=timeout)
        return
    mpi = _mpi()
    world, expected = mpi.COMM_WORLD.Get_size(), int(os.environ["WORLD_SIZE"])
    if world != expected:
        library = mpi.Get_library_version().splitlines()[0].strip()
        raise NoMpi(
            f"mpi4py uses {library}, which sees {world} of {expected} ranks: start them with that MPI's mpirun "
            "(orch: --launcher mpirun), or install mpi4py for this one"
        )
    if NAME not in dist.Backend.backend_list:
        dist.Backend.register_backend(NAME, _made, extended_api=True, devices=["cpu", "cuda"])
    # torch wants a store; MPI needs none, and no other rank reads this one.
    dist.init_process_group(
        NAME,
        timeout=timeout,
        rank=mpi.COMM_WORLD.Get_rank(),
        world_size=world,
        store=dist.HashStore(),  # type: ignore[attr-defined]
    )


def finish() -> None:
    """End MPI. Without it mpirun takes the end of a process for a failure, which it is after an exception."""
    if not dist.is_mpi_available():
        _mpi().Finalize()


def _mpi() -> Any:
    """Return mpi4py's module MPI, initialised for calls from several threads. Raises NoMpi."""
    try:
        import mpi4py

        # At the end of a rank that failed, MPI_Finalize would wait for the others, which wait for this one.
        mpi4py.rc.finalize = False
        from mpi4py import MPI
    except ImportError:
        raise NoMpi(f"this torch has no MPI: {INSTALL}") from None
    except RuntimeError as error:
        raise NoMpi(f"mpi4py finds no MPI library ({str(error).splitlines()[0]}): {INSTALL}") from None
    return MPI


def _made(options: Any, _more: object) -> MpiGroup:
    """Return the group that torch asks for: all ranks, or the ranks of ``new_group``."""
    world = _mpi().COMM_WORLD
    ranks = list(options.global_ranks_in_group)
    members = world.Create_group(world.Get_group().Incl(ranks)) if ranks else world
    return MpiGroup(options.group_rank, options.group_size, members)


class Done(dist._Work):  # type: ignore[name-defined,misc]
    """An exchange that is complete."""

    def __init__(self, result: list[Tensor]) -> None:
        super().__init__()
        self.future: torch.futures.Future[list[Tensor]] = torch.futures.Future()
        self.future.set_result(result)
        self.tensors = result

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Return True."""
        return True

    def is_completed(self) -> bool:
        """Return True."""
        return True

    def get_future(self) -> torch.futures.Future[list[Tensor]]:
        """Return a future that has the tensors."""
        return self.future

    def result(self) -> list[Tensor]:
        """Return the tensors."""
        return self.tensors


class Pending(Done):
    """A message under way. ``after``: called once when it has been sent or has arrived."""

    def __init__(self, request: Any, tensors: list[Tensor], after: Callable[[], object]) -> None:
        super().__init__(tensors)
        self.request, self.after = request, after

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Wait until the message has been sent or has arrived, and return True."""
        if self.request is not None:
            self.request.Wait()
            self.request = None
            self.after()
        return True

    def is_completed(self) -> bool:
        """Return whether the message has been sent or has arrived."""
        if self.request is not None and self.request.Test():
            self.request = None
            self.after()
        return self.request is None


# torch calls these methods with lists and options; its declarations have further forms.
# mypy: disable-error-code="override, assignment"
class MpiGroup(dist.ProcessGroup):
    """The collectives of ``dist.ProcessGroup``, each as one call of MPI. They return when they are complete.

    A group's ranks must call them in the same order, as always in torch.distributed. ``members``: communicator.
    """

    def __init__(self, rank: int, size: int, members: Any) -> None:
        super().__init__(rank, size)  # type: ignore[call-arg]
        self.members = members
        mpi = _mpi()
        self.operations = {
            dist.ReduceOp.SUM: mpi.SUM,
            dist.ReduceOp.AVG: mpi.SUM,
            dist.ReduceOp.PRODUCT: mpi.PROD,
            dist.ReduceOp.MIN: mpi.MIN,
            dist.ReduceOp.MAX: mpi.MAX,
            dist.ReduceOp.BAND: mpi.BAND,
            dist.ReduceOp.BOR: mpi.BOR,
            dist.ReduceOp.BXOR: mpi.BXOR,
        }

    def getBackendName(self) -> str:
        """Return the name under which the group is registered."""
        return NAME

    def _get_backend(self, device: torch.device) -> Any:
        """Return what exchanges tensors of a device: this group itself."""
        return self

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> Done:
        """Reduce each tensor over all ranks, in place."""
        operation = _operation(opts)
        for tensor in tensors:
            numbers = _numbers(tensor)
            self.members.Allreduce(_in_place(), numbers.numpy(), self._mpi_operation(operation))
            self._keep(tensor, numbers, operation)
        return Done(tensors)

    def allreduce_coalesced(self, tensors: list[Tensor], opts: Any = None) -> Done:
        """Reduce each tensor over all ranks, in place."""
        return self.allreduce(tensors, opts)

    def reduce(self, tensors: list[Tensor], opts: Any) -> Done:
        """Reduce each tensor over all ranks, in place on the root; elsewhere it stays as it is."""
        operation, root = _operation(opts), opts.rootRank
        for tensor in tensors:
            numbers = _numbers(tensor)
            if self.rank() == root:
                self.members.Reduce(_in_place(), numbers.numpy(), self._mpi_operation(operation), root)
                self._keep(tensor, numbers, operation)
            else:
                self.members.Reduce(numbers.numpy(), None, self._mpi_operation(operation), root)
        return Done(tensors)

    def broadcast(self, tensors: list[Tensor], opts: Any) -> Done:
        """Copy each tensor of the root to all ranks."""
        for tensor in tensors:
            data = _bytes(tensor)
            self.members.Bcast(data.numpy(), opts.rootRank)
            if self.rank() != opts.rootRank:
                _fill(tensor, data)
        return Done(tensors)

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> Done:
        """Copy each rank's tensor to the list of every rank."""
        for into, tensor in zip(outputs, inputs):
            for target, data in zip(into, self._gathered(_bytes(tensor))):
                _fill(target, data)
        return Done([tensor for into in outputs for tensor in into])

    def allgather_into_tensor_coalesced(
        self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None
    ) -> Done:
        """Copy each rank's tensors, one after another, to the tensors of every rank."""
        for output, tensor in zip(outputs, inputs):
            _fill(output, torch.cat(self._gathered(_bytes(tensor))))
        return Done(outputs)

    def _allgather_base(self, output: Tensor, tensor: Tensor, opts: Any = None) -> Done:
        return self.allgather_into_tensor_coalesced([output], [tensor])

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any) -> Done:
        """Copy each rank's tensor to the root's list."""
        (tensor,) = inputs
        data = _bytes(tensor)
        received = torch.empty(self.size() * data.numel(), dtype=torch.uint8) if outputs else None
        self.members.Gather(data.numpy(), None if received is None else received.numpy(), opts.rootRank)
        if received is not None:
            for target, piece in zip(outputs[0], received.chunk(self.size())):
                _fill(target, piece)
        return Done(inputs)

    def scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any) -> Done:
        """Copy the tensors of the root's list, one to each rank."""
        (output,) = outputs
        data = torch.empty(_bytes(output).numel(), dtype=torch.uint8)
        given = torch.cat([_bytes(each) for each in inputs[0]]).numpy() if inputs else None
        self.members.Scatter(given, data.numpy(), opts.rootRank)
        _fill(output, data)
        return Done(outputs)

    def reduce_scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any = None) -> Done:
        """Reduce the lists of all ranks, and give each rank the tensor at its place."""
        operation = _operation(opts)
        for output, tensors in zip(outputs, inputs):
            given, result = torch.stack([_numbers(each).flatten() for each in tensors]), _numbers(output)
            self.members.Reduce_scatter_block(given.numpy(), result.numpy(), self._mpi_operation(operation))
            self._keep(output, result, operation)
        return Done(outputs)

    def reduce_scatter_tensor_coalesced(
        self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None
    ) -> Done:
        """Reduce the tensors of all ranks, and give each rank the part at its place."""
        parts = [list(each.flatten().chunk(self.size())) for each in inputs]
        return self.reduce_scatter(outputs, parts, opts)

    def _reduce_scatter_base(self, output: Tensor, tensor: Tensor, opts: Any = None) -> Done:
        return self.reduce_scatter_tensor_coalesced([output], [tensor], opts)

    def alltoall(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Done:
        """Give each rank the tensor at its place in every rank's list."""
        given, sizes = [_bytes(each) for each in inputs], [_bytes(each).numel() for each in outputs]
        received = torch.empty(sum(sizes), dtype=torch.uint8)
        counts = [each.numel() for each in given]
        self.members.Alltoallv((torch.cat(given).numpy(), counts), (received.numpy(), sizes))
        for output, piece in zip(outputs, torch.split(received, sizes)):
            _fill(output, piece)
        return Done(outputs)

    def alltoall_base(
        self,
        output: Tensor,
        tensor: Tensor,
        output_sizes: Sequence[int],
        input_sizes: Sequence[int],
        opts: Any = None,
    ) -> Done:
        """Give each rank the rows at its place in every rank's tensor."""
        size = self.size()
        into = torch.split(output, list(output_sizes) or len(output) // size)
        given = torch.split(tensor, list(input_sizes) or len(tensor) // size)
        self.alltoall(list(into), list(given))
        return Done([output])

    # Names of newer versions of torch.
    all_gather_single, all_gather_single_coalesced = _allgather_base, allgather_into_tensor_coalesced
    reduce_scatter_single, reduce_scatter_single_coalesced = _reduce_scatter_base, reduce_scatter_tensor_coalesced
    all_to_all_single = alltoall_base

    def barrier(self, opts: Any = None) -> Done:
        """Wait for all ranks."""
        self.members.Barrier()
        return Done([])

    def send(self, tensors: list[Tensor], to: int, tag: int) -> Pending:
        """Send a tensor to a rank."""
        data = _bytes(tensors[0])
        return Pending(self.members.Isend(data.numpy(), to, tag), tensors, lambda: data)

    def recv(self, tensors: list[Tensor], source: int, tag: int) -> Pending:
        """Receive a tensor from a rank."""
        data = torch.empty(_bytes(tensors[0]).numel(), dtype=torch.uint8)
        request = self.members.Irecv(data.numpy(), source, tag)
        return Pending(request, tensors, lambda: _fill(tensors[0], data))

    def _gathered(self, data: Tensor) -> list[Tensor]:
        """Return the bytes of every rank, in rank order."""
        received = torch.empty(self.size() * data.numel(), dtype=torch.uint8)
        self.members.Allgather(data.numpy(), received.numpy())
        return list(received.view(self.size(), -1)) if data.numel() else [data] * self.size()

    def _mpi_operation(self, operation: Any) -> Any:
        if operation not in self.operations:
            raise RuntimeError(f"{operation} has no counterpart in MPI")
        return self.operations[operation]

    def _keep(self, tensor: Tensor, numbers: Tensor, operation: Any) -> None:
        """Write reduced numbers into the tensor that they belong to."""
        if operation == dist.ReduceOp.AVG:
            numbers /= self.size()
        if numbers.data_ptr() != tensor.data_ptr():
            tensor.copy_(numbers.view(tensor.shape))


def _operation(opts: Any) -> Any:
    """Return the operation of a reduction: ``ReduceOp.op`` is its kind."""
    return dist.ReduceOp.SUM if opts is None else getattr(opts.reduceOp, "op", opts.reduceOp)


def _in_place() -> Any:
    return _mpi().IN_PLACE


def _numbers(tensor: Tensor) -> Tensor:
    """Return the tensor on the CPU, contiguous, in a type that MPI can reduce: itself if it is all that."""
    return tensor.detach().to("cpu", WIDER.get(tensor.dtype, tensor.dtype)).contiguous()


def _bytes(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor, for exchanges that only copy: of itself if it is contiguous and on the CPU."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)


def _fill(tensor: Tensor, data: Tensor) -> None:
    """Write bytes into the tensor that they belong to."""
    if data.data_ptr() != tensor.data_ptr():
        # A view of other bytes needs to begin where its type may.
        tensor.copy_(data.clone().view(tensor.dtype).view(tensor.shape))
