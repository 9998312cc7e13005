"""Every key in the state Redis: one function each, with its Redis type and how long it lives.

All keys share the hash tag `{namespace}`: one slot, so that a script may touch any of them (Cluster-safe).
`keys.lua` mirrors this module for scripts whose keys depend on what they find; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of one namespace."""

    prefix: str

    @classmethod
    def of(cls, namespace: str) -> Keys:
        return cls("{" + namespace + "}:")

    def job(self, job_id: str) -> str:
        """Hash: the record. Until `retain_jobs_s` after the end."""
        return f"{self.prefix}j:{job_id}"

    def spec(self, job_id: str) -> str:
        """String: JSON of request, metadata, webhook; written once. As the record."""
        return f"{self.prefix}r:{job_id}"

    def detail(self, job_id: str) -> str:
        """Hash: what is long (provider URLs, artifacts, error text). As the record."""
        return f"{self.prefix}x:{job_id}"

    def timeline(self, job_id: str) -> str:
        """List of `at_ms|state|note`. As the record."""
        return f"{self.prefix}t:{job_id}"

    def idempotency(self, tenant: str, digest: str) -> str:
        """String: `job_id:fingerprint` of the job that has the key. As the record."""
        return f"{self.prefix}i:{tenant}:{digest}"

    def answer(self, job_id: str) -> str:
        """String: JSON of what the door said of a task that became no job of its own. `retain_jobs_s`."""
        return f"{self.prefix}a:{job_id}"

    def generation(self, generation_id: str) -> str:
        """String: the job that owns the generation, so that no two jobs share one. 30 days."""
        return f"{self.prefix}g:{generation_id}"

    def delivery(self, event_id: str) -> str:
        """Hash: the delivery of one event. `retain_jobs_s` after its end."""
        return f"{self.prefix}d:{event_id}"

    def batch(self, tenant: str, name: str) -> str:
        """Hash: counts by state, total, sealed, cost. `retain_batches_s` after completion, not while money is held."""
        return f"{self.prefix}b:{tenant}:{name}"

    def batch_jobs(self, tenant: str, name: str) -> str:
        """List of job ids in order of enqueue. As the batch."""
        return f"{self.prefix}bj:{tenant}:{name}"

    def queue(self, model: str, tenant: str) -> str:
        """Sorted set: queued jobs of one tenant by rank (priority, then order). Lives while not empty."""
        return f"{self.prefix}q:{model}:{tenant}"

    def aside(self, model: str, tenant: str, batch: str) -> str:
        """Sorted set: queued jobs of a paused batch, by rank, out of their queue. Until the batch is resumed."""
        return f"{self.prefix}aside:{model}:{tenant}:{batch}"

    def ready(self, model: str) -> str:
        """Sorted set: tenants with a queue, by virtual time (weighted fair queueing)."""
        return f"{self.prefix}ready:{model}"

    def lane(self, lane: str) -> str:
        """Hash: permits, closure, block and breaker of a lane. Permanent, one per lane."""
        return f"{self.prefix}lane:{lane}"

    def index(self, name: str) -> str:
        """Sorted set of due times (ms): `later:MODEL`, `submit:LANE`, `poll:LANE`, `store`, `notify`, ...

        `paused` is one of jobs that wait for a person: by the time somebody paused them.
        """
        return f"{self.prefix}z:{name}"

    def slots(self, lane: str) -> str:
        """Sorted set: jobs that hold a slot of the lane, by the time it frees itself (ms)."""
        return f"{self.prefix}slots:{lane}"

    def waiting(self, host: str) -> str:
        """Sorted set: deliveries that wait for another try at an endpoint, by creation (ms). Lives while not empty."""
        return f"{self.prefix}ew:{host}"

    def failing(self, host: str) -> str:
        """Sorted set: those of them that were tried and failed, by creation (ms). Lives while not empty."""
        return f"{self.prefix}ef:{host}"

    def hint(self, stage: str, lane: str) -> str:
        """String with a TTL of 200-300 ms: hints outstanding for (stage, lane)."""
        return f"{self.prefix}hint:{stage}:{lane}"

    def worker(self, name: str) -> str:
        """Hash with a TTL of a few leases: a living worker process."""
        return f"{self.prefix}w:{name}"

    @property
    def counts(self) -> str:
        """Hash `tenant|state` -> jobs. Permanent."""
        return f"{self.prefix}counts"

    @property
    def control(self) -> str:
        """Hash: sequence, freeze, mark of the installation, schema version, the clock as last seen, trouble of the object store. Permanent."""
        return f"{self.prefix}control"

    @property
    def ledger(self) -> str:
        """Stream: one entry per movement of money. Until its day is closed and exported."""
        return f"{self.prefix}ledger"

    @property
    def balances(self) -> str:
        """Hash `currency|account` -> micros, the running sums of the ledger. Permanent."""
        return f"{self.prefix}balances"

    @property
    def usage(self) -> str:
        """Hash `currency|scope|period` -> micros spent and held (period q: committed by queued jobs). Swept by age."""
        return f"{self.prefix}usage"

    @property
    def parked(self) -> str:
        """Hash `model|tenant` -> why the tenant's queue is not looked at. Lives while it waits."""
        return f"{self.prefix}parked"

    @property
    def paused(self) -> str:
        """Hash `t|tenant` or `b|tenant|batch` -> JSON {at, by, why}: paused by hand. Lives while paused."""
        return f"{self.prefix}paused"

    @property
    def opening(self) -> str:
        """Hash `currency|account` -> micros: what closed days of the ledger add up to. Permanent."""
        return f"{self.prefix}opening"

    @property
    def closed(self) -> str:
        """Hash `YYYY-MM-DD-PART` -> JSON of a closed day of the ledger: what its export holds. Permanent."""
        return f"{self.prefix}closed"

    @property
    def orphans(self) -> str:
        """Hash: generation ids that no living intent claims. Until an operator clears them."""
        return f"{self.prefix}orphans"

    @property
    def workers(self) -> str:
        """Sorted set: worker names by last sign of life (ms). Pruned by every tick."""
        return f"{self.prefix}workers"

    @property
    def endpoints(self) -> str:
        """Sorted set: hosts of endpoints where deliveries wait, by how many. Lives while not empty."""
        return f"{self.prefix}endpoints"

    @property
    def ended(self) -> str:
        """Pub/sub channel: ids of jobs that reached a terminal state."""
        return f"{self.prefix}ended"

    @property
    def losses(self) -> str:
        """Hash: marks of stores that workers knew and found gone -> open | accepted. Permanent, one per loss."""
        return f"{self.prefix}losses"

    @property
    def lanes(self) -> str:
        """Set: the lanes that workers serve, or served once. Permanent."""
        return f"{self.prefix}lanes"

    @property
    def audit(self) -> str:
        """Stream: what operators did to the whole, who and why. The last 10,000 or so."""
        return f"{self.prefix}audit"
