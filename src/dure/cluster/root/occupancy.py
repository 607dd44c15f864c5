"""Who uses the cluster's machines beside one job, and what they leave to it. Pure.

Knows what the root's registry says of jobs, and what nodes report of ranks. Refuses to decide whether a
machine is shared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from dure.cluster.job_identity import JobIdentity
from dure.cluster.node_api import NodeJob
from dure.cluster.root.job_registry import Registration
from dure.hardware.machine import Machine

__all__ = ["Occupancy"]


@dataclass(frozen=True)
class Occupancy:
    """What other jobs take of machines.

    own: the job that asks. claimed: machines that it has claimed itself. others: jobs of this root that
    live. running: ranks on each machine, by name.
    """

    own: JobIdentity
    claimed: Collection[str]
    others: Sequence[Registration]
    running: Mapping[str, Sequence[NodeJob]]

    @property
    def known(self) -> set[str]:
        """The ids of all other jobs that live."""
        return {other.job.id for other in self.others}

    def holders(self, machine: str) -> list[JobIdentity]:
        """Return the other jobs that use a machine, or will as soon as they have their weights there."""
        found = [other.job for other in self.others if machine in other.machines]
        ids = {job.id for job in found}
        over = {*self.ended(machine), self.own.id}
        return found + [
            one.job
            for one in self.running.get(machine, ())
            if one.job.id not in over and one.job.id not in ids
        ]

    def ended(self, machine: str) -> list[str]:
        """Return jobs of this root that are over, though a node has not noticed: it lost the network."""
        return [
            one.job.id
            for one in self.running.get(machine, ())
            if one.job.root == self.own.root and one.job.id not in {*self.known, self.own.id}
        ]

    def is_free(self, machine: str) -> bool:
        """Return whether nobody else uses a machine, or came to it after this job."""
        return machine in self.claimed or not self.holders(machine)

    def left(self, name: str, machine: Machine) -> Machine:
        """Return a machine with the memory and the cores that others leave to this job.

        Memory that they have claimed and not taken yet is theirs. Cores: what they leave, and at least an
        equal part.
        """
        holders = self.holders(name)
        used = {one.job.id: one.used_bytes for one in self.running.get(name, ())}
        uses = {other.job.id: other.machines.get(name) for other in self.others}
        over = {*self.ended(name), self.own.id}
        free = machine.available_bytes + sum(n for job_id, n in used.items() if job_id in over)
        free -= sum(
            max(0, use.n_bytes - used.get(job_id, 0)) for job_id, use in uses.items() if use
        )
        threads = {one.job.id: one.threads for one in self.running.get(name, ())}
        threads |= {job_id: use.threads for job_id, use in uses.items() if use}
        cores = machine.cores - sum(threads[job.id] for job in holders)
        equal = machine.cores // (len(holders) + 1)
        return replace(machine, available_bytes=max(0, free), cores=max(1, cores, equal))
