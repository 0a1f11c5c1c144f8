"""A script on borrowed GPU memory: ``python script.py photo.jpg``."""

import os
import sys

from broker import get_broker, this_host

with get_broker().lease("4GiB", wait=600, host=this_host()) as lease:
    os.environ.update(lease.env())  # before a framework is imported
    print(f"{sys.argv[1]} enhanced on {lease.gpu_uuids[0]}")
