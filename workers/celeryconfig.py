"""How Celery runs our workers: `shared.broker.make_app` says how messages travel, this says how they are consumed.

Each line is read back from the app by a test. `--without-gossip --without-mingle` have no setting: workers.app
turns both off. REMAP_SIGTERM stays unset: the threads pool has no cold shutdown.
"""

from __future__ import annotations

# The threads only wait for drains on the process's event loop; the default would be one per core.
worker_pool = "threads"
worker_concurrency = 16
worker_prefetch_multiplier = 1
worker_enable_prefetch_count_reduction = False  # a reconnect changes nothing: hints hold no work

# Hints are disposable. Late acknowledgement made a lost broker kill the worker (kombu's restore_unacked).
task_acks_late = False
task_reject_on_worker_lost = False
task_ignore_result = True
task_store_errors_even_if_ignored = False
worker_disable_rate_limits = True  # permits are ours, in the claim scripts

# A broker that is away, read-only or full must not end the worker: stages then run without hints.
broker_connection_retry = True
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_channel_error_retry = True

# Flower cancels jobs through remote control, and sees jobs (workers.flower), not stage tasks.
worker_enable_remote_control = True
worker_send_task_events = False
task_send_sent_event = False
task_track_started = False
control_queue_expires = 10.0
event_queue_expires = 60.0
event_queue_ttl = 5.0

# Logging is configured by workers.app: JSON on stderr.
worker_hijack_root_logger = False
worker_redirect_stdouts = False
worker_log_color = False
