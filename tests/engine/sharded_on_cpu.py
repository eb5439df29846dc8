"""Runs ``reason-rl`` in a process of an FSDP2 job on CPU.

accelerate shards on accelerators only: on CPU it would train unsharded without a word. Here its processes are declared as
those of GPUs once they have found each other through gloo; everything after that is accelerate's own path.
"""

import sys

from accelerate import PartialState
from accelerate.utils import DistributedType

from reason_rl.cli import main

found_each_other = PartialState.__init__


def declared_as_gpus(state, *args, **kwargs):
    found_each_other(state, *args, **kwargs)
    if state.distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState.__init__ = declared_as_gpus
    sys.exit(main())
