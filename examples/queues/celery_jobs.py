"""A Celery task on borrowed GPU memory: ``celery -A celery_jobs worker``."""

import os

from celery import Celery

from broker import get_broker, this_host

app = Celery("studio", broker=os.environ["GPUBROKER_REDIS_URL"], backend=os.environ["GPUBROKER_REDIS_URL"])


@app.task
def enhance(path: str) -> str:
    with get_broker().lease("4GiB", wait=600, host=this_host()) as lease:
        os.environ.update(lease.env())  # before a framework is imported
        return f"{path} enhanced on {lease.gpu_uuids[0]}"
