"""The names of the states. The arrows between them stand in `schema.sql` and nowhere else."""

from enum import StrEnum


class JobStatus(StrEnum):
    """What has become of one run for a process; the last four are final."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job will never change again."""
        return self not in (JobStatus.PENDING, JobStatus.PROCESSING)


class Priority(StrEnum):
    """Which jobs are taken first; within a priority the clients take turns."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @staticmethod
    def first(one: "Priority", other: "Priority") -> "Priority":
        """Return the one of two that is taken first."""
        return min(one, other, key=list(Priority).index)


class DocumentStatus(StrEnum):
    """What has become of one document."""

    SKIPPED = "skipped"
    PENDING = "pending"
    PROCESSING = "processing"
    AVAILABLE = "available"
    FAILED = "failed"


class DeliveryStatus(StrEnum):
    """What has become of one event on its way to one URL."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
